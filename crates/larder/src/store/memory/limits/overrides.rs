//! The overrides of keys: other quotas for a while.

use super::records::{Overridden, RecordTable};
use crate::store::limit::{Charge, ChargeMode, Charged};

impl RecordTable {
    /// Returns the override that holds now. One that has ended is kept until the key's record is written, or until it
    /// is removed in the background.
    pub(super) fn overridden(&self, name: &str, clock: u64) -> Option<Overridden> {
        if self.overrides.is_empty() {
            return None;
        }
        self.overrides.get(name).filter(|over| over.until > clock).cloned()
    }

    /// Removes an override that has ended, when the record is written. So a clock that steps back does not
    /// bring it back.
    pub(super) fn end_override(&mut self, name: &str, clock: u64) {
        if !self.overrides.is_empty() && self.overrides.get(name).is_some_and(|over| over.until <= clock) {
            self.overrides.remove(name);
        }
    }

    /// Corrects the answers of keys that were refused together. The request is repeated when the longest wait is over,
    /// so a key whose override has ended by then is judged by the request's own specs. Returns whether one of these
    /// keys needs a longer wait.
    pub(super) fn wait_behind_overrides(
        &mut self,
        charges: &[(&str, Charge<'_>)],
        answers: &mut [Charged],
        clock: u64,
    ) -> bool {
        let waits = answers.iter().filter(|one| one.granted == 0).map(|one| one.wait);
        let (longest, mut longer) = (waits.max().unwrap_or(0), false);
        for ((name, charge), answer) in charges.iter().zip(answers).filter(|(_, one)| one.label.is_some()) {
            let later = Charge { mode: ChargeMode::Peek, charge_at: longest, penalty: None, ..*charge };
            let (again, _) = self.charge(name, later, clock);
            if again.granted == 0 && again.wait > longest {
                (*answer, longer) = (again, true);
            }
        }
        longer
    }
}
