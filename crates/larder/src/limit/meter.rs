//! What one limiter counts.

use super::decision::DecidedBy;
use crate::telemetry::Instrument;

pub(super) struct LimitMeter {
    /// By where it was decided: allowed, refused.
    #[cfg(feature = "metrics")]
    decisions: [(metrics::Counter, metrics::Counter); 4],
    pub(super) check: Instrument,
    pub(super) check_many: Instrument,
    pub(super) take_up_to: Instrument,
    pub(super) acquire: Instrument,
    pub(super) remaining: Instrument,
    pub(super) reset: Instrument,
    pub(super) refund: Instrument,
    pub(super) reserve: Instrument,
    pub(super) settle: Instrument,
    pub(super) overrides: Instrument,
}

impl LimitMeter {
    pub(super) fn new(name: &str) -> Self {
        #[cfg(feature = "metrics")]
        let counter = |decision: &'static str, by: DecidedBy| metrics::counter!("larder_limiter_decisions_total", "limiter" => name.to_owned(), "decision" => decision, "by" => by.as_str());
        let instrument = |operation| Instrument::new("limiter", name, operation);
        Self {
            #[cfg(feature = "metrics")]
            decisions: DecidedBy::ALL.map(|by| (counter("allowed", by), counter("refused", by))),
            check: instrument("check"),
            check_many: instrument("check_many"),
            take_up_to: instrument("take_up_to"),
            acquire: instrument("acquire"),
            remaining: instrument("remaining"),
            reset: instrument("reset"),
            refund: instrument("refund"),
            reserve: instrument("reserve"),
            settle: instrument("settle"),
            overrides: instrument("override"),
        }
    }

    #[cfg(feature = "metrics")]
    pub(super) fn decided(&self, allowed: bool, by: DecidedBy) {
        let place = DecidedBy::ALL.iter().position(|other| *other == by);
        if let Some((yes, no)) = place.and_then(|place| self.decisions.get(place)) {
            if allowed { yes.increment(1) } else { no.increment(1) }
        }
    }

    #[cfg(not(feature = "metrics"))]
    pub(super) fn decided(&self, _: bool, _: DecidedBy) {}
}
