//! When nothing fails, and when data was lost.

use std::collections::BTreeMap;

/// A time in which nothing is promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The process that it concerns; `None` means all processes.
    pub process: Option<u32>,
    /// When it began.
    pub from: u64,
    /// When its last effect was over.
    pub until: u64,
}

/// The times without faults. It holds the faults of each process and of all, in order and without overlaps.
#[derive(Debug)]
pub struct Calm {
    own: BTreeMap<u32, Vec<Fault>>,
    everybody: Vec<Fault>,
}

impl Calm {
    /// From all faults, in any order.
    #[must_use]
    pub fn of(faults: &[Fault]) -> Self {
        let concerns_all = |fault: &&Fault| fault.process.is_none();
        let everybody = apart(faults.iter().filter(concerns_all).copied());
        let processes = faults.iter().filter_map(|fault| fault.process);
        let mut own: BTreeMap<u32, Vec<Fault>> = processes.map(|process| (process, Vec::new())).collect();
        for (process, struck) in &mut own {
            let its = faults.iter().filter(|fault| fault.process == Some(*process)).copied();
            *struck = apart(its.chain(everybody.iter().copied()));
        }
        Self { own, everybody }
    }

    /// When the first fault of a process begins that is not over at `since`; `u64::MAX` if there is none.
    #[must_use]
    pub fn until(&self, process: u32, since: u64) -> u64 {
        let faults = self.of_process(process);
        let next = faults.partition_point(|fault| fault.until < since);
        faults.get(next).map_or(u64::MAX, |fault| fault.from)
    }

    /// Whether no fault touches the process in this time.
    #[must_use]
    pub fn holds(&self, process: u32, from: u64, until: u64) -> bool {
        self.until(process, from) > until
    }

    /// The calm stretches of a process within a time.
    #[must_use]
    pub fn stretches(&self, process: u32, from: u64, until: u64) -> Vec<(u64, u64)> {
        let (mut stretches, mut since) = (Vec::new(), from);
        for fault in self.of_process(process) {
            if fault.from > since && since < until {
                stretches.push((since, fault.from.min(until)));
            }
            since = since.max(fault.until);
        }
        if since < until {
            stretches.push((since, until));
        }
        stretches
    }

    fn of_process(&self, process: u32) -> &[Fault] {
        self.own.get(&process).map_or(self.everybody.as_slice(), Vec::as_slice)
    }
}

/// In order, with those that touch made one.
fn apart(faults: impl Iterator<Item = Fault>) -> Vec<Fault> {
    let mut all: Vec<Fault> = faults.collect();
    all.sort_by_key(|fault| fault.from);
    let mut merged: Vec<Fault> = Vec::new();
    for fault in all {
        match merged.last_mut().filter(|last| fault.from <= last.until) {
            Some(last) => last.until = last.until.max(fault.until),
            None => merged.push(fault),
        }
    }
    merged
}

/// When the server lost what it had acknowledged: what was promised before the loss does not bind after it.
#[derive(Debug, Clone, Default)]
pub struct Losses(Vec<(u64, u64)>);

impl Losses {
    /// From the begin and the end of each.
    #[must_use]
    pub fn of(losses: impl IntoIterator<Item = (u64, u64)>) -> Self {
        Self(losses.into_iter().collect())
    }

    /// Whether one lies in this time, or in part of it.
    #[must_use]
    pub fn touch(&self, from: u64, until: u64) -> bool {
        self.0.iter().any(|(begin, end)| *begin <= until && *end >= from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(process: Option<u32>, from: u64, until: u64) -> Fault {
        Fault { process, from, until }
    }

    #[test]
    fn calm_lies_between_the_faults_of_a_process_and_of_all_processes() {
        let calm = Calm::of(&[
            fault(Some(1), 10, 20),
            fault(None, 15, 30),
            fault(Some(2), 50, 60),
            fault(None, 80, 90),
        ]);
        assert_eq!((calm.until(1, 0), calm.until(1, 30), calm.until(1, 31)), (10, 10, 80));
        assert_eq!((calm.until(2, 31), calm.until(3, 31), calm.until(3, 91)), (50, 80, u64::MAX));
        assert!(calm.holds(1, 31, 79) && !calm.holds(1, 31, 80) && !calm.holds(2, 40, 50));
        assert_eq!(calm.stretches(2, 5, 100), [(5, 15), (30, 50), (60, 80), (90, 100)]);
        assert_eq!(calm.stretches(3, 20, 70), [(30, 70)]);
        assert_eq!(calm.stretches(1, 12, 18), []);
    }

    #[test]
    fn a_loss_touches_what_it_lies_in() {
        let losses = Losses::of([(10, 20)]);
        assert!(losses.touch(0, 10) && losses.touch(15, 16) && losses.touch(20, 30));
        assert!(!losses.touch(0, 9) && !losses.touch(21, 30));
    }
}
