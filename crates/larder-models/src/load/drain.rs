//! Whether every process finishes, once nothing interferes any more.

use super::rules::Rules;
use super::state::State;
use super::{Action, Process, Reply};
use crate::store::Entry;

/// Far more steps than two or three processes can need.
const MOST_STEPS: usize = 40;

/// Lets the processes go on, one after another. If all that are left wait, the placeholder may expire, but
/// only one that no live process will remove.
pub(super) fn ends(rules: &Rules, state: &State) -> bool {
    let mut state = state.clone();
    state.late = None;
    for _ in 0..MOST_STEPS {
        if state.processes.iter().all(|process| *process == Process::Idle) {
            return true;
        }
        let next = state.processes.iter().enumerate().find_map(|(p, process)| own_step(p, *process, &state));
        match (next, state.store.entry) {
            (Some(action), _) => state.apply(rules, action),
            (None, Entry::Placeholder(_)) => state.apply(rules, Action::EntryVanishes),
            (None, Entry::Empty | Entry::Value { .. }) => return false,
        }
        state.normalise(rules);
    }
    false
}

fn own_step(p: usize, process: Process, state: &State) -> Option<Action> {
    match process {
        Process::Idle => None,
        Process::Missed { .. } | Process::Holding { .. } => Some(Action::Begin(p, Reply::Arrived)),
        Process::Waiting { placeholder } => {
            (state.store.entry != Entry::Placeholder(placeholder)).then_some(Action::Wake(p))
        }
        Process::Loading { .. } => Some(Action::ReadRow(p)),
        Process::Loaded { .. } => Some(Action::Commit(p, Reply::Arrived)),
        Process::Leaving { .. } => Some(Action::Leave(p, Reply::Arrived)),
        Process::Marking { .. } => Some(Action::MarkStale(p)),
    }
}
