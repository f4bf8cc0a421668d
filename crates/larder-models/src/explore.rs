//! Runs a model to its end, and counts its states.

use std::fmt::Debug;
use std::hash::Hash;
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

/// The longest history that is searched for a fault.
const MOST_STEPS: usize = 24;

/// Visits every state that can be reached. Panics if a property does not hold, or if something that should be
/// possible is not.
pub fn holds<M>(name: &str, model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq + Send + Sync + 'static,
{
    let started = Instant::now();
    let checker = model.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    println!(
        "{name}: {} states, depth {}, {:.1} s",
        checker.unique_state_count(),
        checker.max_depth(),
        started.elapsed().as_secs_f64()
    );
    checker.assert_properties();
}

/// Searches for a history that breaks `property`, and prints one of the shortest. Panics if there is none.
///
/// stateright goes on for a while after a discovery and keeps the last one, so the depth is increased step by
/// step.
pub fn breaks<M>(name: &str, property: &'static str, model: M)
where
    M: Model + Clone + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq + Send + Sync + 'static,
{
    let started = Instant::now();
    let wanted = || HasDiscoveries::AnyOf([property].into());
    let found = (2..=MOST_STEPS).find_map(|depth| {
        let checker =
            model.clone().checker().target_max_depth(depth).finish_when(wanted()).spawn_bfs().join();
        checker.discovery(property).map(|path| (path, checker.unique_state_count()))
    });
    assert!(found.is_some(), "{name}: nothing breaks \"{property}\" within {MOST_STEPS} steps");
    if let Some((path, states)) = found {
        println!("{name}: broken after {states} states, {:.1} s", started.elapsed().as_secs_f64());
        for action in path.into_actions() {
            println!("    {action:?}");
        }
    }
}
