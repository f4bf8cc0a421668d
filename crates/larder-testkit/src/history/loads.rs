//! Checks that no two loaders of one key ran at the same time.
//!
//! Within one process two never do, whatever fails, unless a process writes the key. In different processes two do not
//! unless something fails: a fault of either process or of the server excuses both loads, if it was between a little
//! before the first load began and the begin of the second.

use super::{Calm, Losses};

/// A run of a loader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loaded {
    /// The process that ran it.
    pub process: u32,
    /// Which key.
    pub key: u64,
    /// After it began.
    pub from: u64,
    /// Before it ended.
    pub until: u64,
}

/// Whether one load ran at a time: how many were judged, and all pairs that overlap. `margin` is
/// how long before a load a fault may have begun it.
#[must_use]
pub fn one_load(
    loads: &[Loaded],
    calm: &Calm,
    losses: &Losses,
    margin: u64,
) -> (usize, Vec<(Loaded, Loaded)>) {
    let mut loads = loads.to_vec();
    loads.sort_by_key(|load| (load.key, load.from));
    let mut violations = Vec::new();
    let mut open: Vec<Loaded> = Vec::new();
    for load in &loads {
        open.retain(|other| other.key == load.key && other.until > load.from);
        for other in &open {
            let since = other.from.saturating_sub(margin);
            let calm = || {
                calm.holds(other.process, since, load.from)
                    && calm.holds(load.process, since, load.from)
                    && !losses.touch(since, load.from)
            };
            if other.process == load.process || calm() {
                violations.push((*other, *load));
            }
        }
        open.push(*load);
    }
    (loads.len(), violations)
}

#[cfg(test)]
mod tests {
    use super::super::Fault;
    use super::*;

    fn load(process: u32, key: u64, from: u64, until: u64) -> Loaded {
        Loaded { process, key, from, until }
    }

    fn found(loads: &[Loaded], faults: &[Fault]) -> usize {
        one_load(loads, &Calm::of(faults), &Losses::default(), 5).1.len()
    }

    #[test]
    fn two_loads_of_a_key_at_once_are_found() {
        let loads = [load(1, 7, 10, 50), load(2, 7, 49, 60), load(3, 7, 60, 70), load(3, 8, 20, 30)];
        assert_eq!(found(&loads, &[]), 1);
        assert_eq!(found(loads.get(1..).unwrap_or_default(), &[]), 0);
    }

    #[test]
    fn a_fault_excuses_two_processes_and_never_one() {
        let fault = |process, from, until| [Fault { process, from, until }];
        let two = [load(1, 7, 10, 50), load(2, 7, 30, 60)];
        for excused in [fault(Some(1), 0, 6), fault(Some(2), 29, 31), fault(None, 20, 21)] {
            assert_eq!(found(&two, &excused), 0, "{excused:?}");
        }
        for no_excuse in [fault(Some(1), 0, 4), fault(Some(3), 20, 21), fault(None, 31, 40)] {
            assert_eq!(found(&two, &no_excuse), 1, "{no_excuse:?}");
        }
        assert_eq!(found(&[load(1, 7, 10, 50), load(1, 7, 30, 60)], &fault(None, 0, 99)), 1);
    }
}
