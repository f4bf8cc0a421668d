//! Finds loads that wait for each other and would never end. The same holds for runs of `run_once`.
//!
//! The problem: a loader asks for a key whose own load waits for this loader, so neither ends. The mechanism: while a
//! loader runs, its task knows which load it belongs to ([`scope`]). Before a call of that loader waits for
//! another load, it records the wait in a graph. If the other load already waits for the first one, directly or through
//! others, the call fails at once, and its error names the cycle. Calls that no loader makes record nothing.
//!
//! Not detected: waits in tasks that a loader spawns without [`LoadContext::scope`](super::LoadContext::scope), and
//! loads of other processes. Timeouts bound those waits.

use std::sync::Arc;

use super::trace::LoadSpan;
use crate::sync::Mutex;

/// A load under way, as a node in the graph of waiting loads.
#[derive(Debug)]
pub(crate) struct LoadNode {
    name: Box<str>,
    /// Changed only while [`GRAPH`] is locked.
    waits_for: Mutex<Vec<Arc<LoadNode>>>,
    pub(super) span: LoadSpan,
}

impl LoadNode {
    pub(super) fn new(name: &str) -> Arc<Self> {
        Arc::new(Self { name: name.into(), waits_for: Mutex::default(), span: LoadSpan::default() })
    }

    fn next(&self) -> Vec<Arc<LoadNode>> {
        self.waits_for.lock().clone()
    }
}

/// The loads that one call of a loader is for: one, except in `get_or_load_many`.
pub(super) type Loads = Arc<[Arc<LoadNode>]>;

tokio::task_local! {
    /// The loads that the running loader is for.
    static CURRENT: Loads;
}

/// Runs a loader's future, or a task that it spawned, as part of these loads.
pub(super) async fn scope<T>(loads: Loads, run: impl Future<Output = T>) -> T {
    CURRENT.scope(loads, run).await
}

/// Whether the caller is a loader.
pub(super) fn is_nested() -> bool {
    CURRENT.try_with(|_| ()).is_ok()
}

/// Records that the calling loader waits for `target`, until the result is dropped. `None` if the caller is no loader:
/// then the wait cannot close a cycle.
pub(super) fn wait_for(target: &Arc<LoadNode>) -> Result<Option<LoadWait>, Cycle> {
    CURRENT.try_with(Clone::clone).ok().map(|loads| LoadWait::begin(loads, target)).transpose()
}

/// Makes "look for a cycle, then record the wait" one step. If two loads begin to wait for each other at the same
/// time, one of them takes this lock second and sees the wait of the other.
static GRAPH: Mutex<()> = Mutex::new(());

/// Records that loads wait for another one, until it is dropped.
pub(super) struct LoadWait {
    from: Loads,
    target: Arc<LoadNode>,
}

/// A cycle of waiting loads, by their names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cycle(pub(super) Arc<str>);

impl LoadWait {
    /// Records that the loads `from` wait for `target`, unless that would close a cycle.
    pub(super) fn begin(from: Loads, target: &Arc<LoadNode>) -> Result<Self, Cycle> {
        let graph = GRAPH.lock();
        if let Some(path) = path(target, &from) {
            let names: Vec<&str> = path.iter().map(|node| &*node.name).collect();
            let last = names.last().copied().unwrap_or_default();
            return Err(Cycle(format!("{last} waits for {}", names.join(", which waits for ")).into()));
        }
        for node in from.iter() {
            node.waits_for.lock().push(target.clone());
        }
        drop(graph);
        Ok(Self { from, target: target.clone() })
    }
}

/// Finds a path from a load to one of `ends`, along the recorded waits.
fn path(start: &Arc<LoadNode>, ends: &[Arc<LoadNode>]) -> Option<Vec<Arc<LoadNode>>> {
    let mut seen: Vec<*const LoadNode> = Vec::new();
    let mut open = vec![vec![start.clone()]];
    while let Some(way) = open.pop() {
        let Some(last) = way.last() else { continue };
        if ends.iter().any(|end| Arc::ptr_eq(end, last)) {
            return Some(way);
        }
        if seen.contains(&Arc::as_ptr(last)) {
            continue;
        }
        seen.push(Arc::as_ptr(last));
        for next in last.next() {
            let mut way = way.clone();
            way.push(next);
            open.push(way);
        }
    }
    None
}

impl Drop for LoadWait {
    fn drop(&mut self) {
        let _graph = GRAPH.lock();
        for node in self.from.iter() {
            let mut waits_for = node.waits_for.lock();
            // Remove only one: the same loader may wait for the same load twice.
            if let Some(place) = waits_for.iter().position(|target| Arc::ptr_eq(target, &self.target)) {
                waits_for.swap_remove(place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(node: &Arc<LoadNode>) -> Loads {
        Arc::from([node.clone()])
    }

    fn waits(from: &Loads, target: &Arc<LoadNode>) -> Result<LoadWait, Cycle> {
        LoadWait::begin(from.clone(), target)
    }

    #[test]
    fn a_cycle_is_refused_and_named_and_a_chain_is_not() {
        let [a, b, c] = ["a", "b", "c"].map(LoadNode::new);
        assert!(waits(&one(&a), &a).is_err());
        let first = waits(&one(&a), &b).ok();
        let second = waits(&one(&b), &c).ok();
        assert!(first.is_some() && second.is_some());
        let cycle = waits(&one(&c), &a).err().unwrap();
        assert_eq!(&*cycle.0, "c waits for a, which waits for b, which waits for c");
        drop(second);
        assert!(waits(&one(&c), &a).is_ok(), "b no longer waits");
    }

    #[test]
    fn a_call_for_many_keys_waits_with_all_of_them() {
        let [a, b, c] = ["a", "b", "c"].map(LoadNode::new);
        let many: Loads = Arc::from([a.clone(), b.clone()]);
        let _wait = waits(&many, &c).ok();
        assert!(waits(&one(&c), &b).is_err() && waits(&one(&c), &a).is_err());
    }

    #[tokio::test]
    async fn only_a_loader_records_that_it_waits() {
        let [a, b] = ["a", "b"].map(LoadNode::new);
        assert!(!is_nested() && wait_for(&a).is_ok_and(|wait| wait.is_none()));
        scope(one(&a), async {
            assert!(is_nested() && wait_for(&b).is_ok_and(|wait| wait.is_some()));
        })
        .await;
    }
}
