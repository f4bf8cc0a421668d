//! Loads, and runs of `run_once`, that wait for each other, and would wait for ever. What is said here of loads is true
//! of runs.
//!
//! The problem: a loader asks for a key whose load is under way further up. Each of the two waits for the other. The
//! mechanism: while a loader runs, its task knows which load it belongs to; a call of it notes that this load waits for
//! another before it waits. If that other load already waits, directly or through others, for the first, the call fails
//! at once, and its error names the circle.
//!
//! Not seen: a wait of a task that a loader spawns without [`LoadContext::scope`](super::LoadContext::scope), and the loads of
//! other processes. Those waits are bounded by time.

use std::sync::{Arc, Mutex, PoisonError};

/// A load under way, as far as others wait for it.
#[derive(Debug)]
pub(crate) struct LoadNode {
    name: Box<str>,
    /// Changed only under [`GRAPH`].
    waits_for: Mutex<Vec<Arc<LoadNode>>>,
}

impl LoadNode {
    pub(super) fn new(name: &str) -> Arc<Self> {
        Arc::new(Self { name: name.into(), waits_for: Mutex::default() })
    }

    fn next(&self) -> Vec<Arc<LoadNode>> {
        self.waits_for.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The loads that one call of a loader is for: one, but for `get_or_load_many`.
pub(super) type Loads = Arc<[Arc<LoadNode>]>;

/// Makes "look for a circle, then wait" one step: of two loads that begin to wait for each other, the second sees the
/// first.
static GRAPH: Mutex<()> = Mutex::new(());

tokio::task_local! {
    static CURRENT: Loads;
}

/// Runs what a loader is made of, or has spawned, as part of these loads.
pub(super) async fn scope<T>(loads: Loads, run: impl Future<Output = T>) -> T {
    CURRENT.scope(loads, run).await
}

/// Whether this is called by a loader.
pub(super) fn is_nested() -> bool {
    CURRENT.try_with(|_| ()).is_ok()
}

/// The current loads wait for another, until this is dropped.
pub(super) struct LoadWait {
    from: Option<Loads>,
    target: Arc<LoadNode>,
}

/// A circle of waiting loads, by their names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cycle(pub(super) Arc<str>);

/// Notes that the loads that this is called by, if any, wait for `target`.
pub(super) fn wait_for(target: &Arc<LoadNode>) -> Result<LoadWait, Cycle> {
    let from = CURRENT.try_with(Clone::clone).ok();
    if let Some(from) = &from {
        let _graph = GRAPH.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = path(target, from) {
            let names: Vec<&str> = path.iter().map(|node| &*node.name).collect();
            let last = names.last().copied().unwrap_or_default();
            return Err(Cycle(format!("{last} waits for {}", names.join(", which waits for ")).into()));
        }
        for node in from.iter() {
            node.waits_for.lock().unwrap_or_else(PoisonError::into_inner).push(target.clone());
        }
    }
    Ok(LoadWait { from, target: target.clone() })
}

/// The way from a load to one of `ends` along what each waits for.
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
        let Some(from) = &self.from else { return };
        let _graph = GRAPH.lock().unwrap_or_else(PoisonError::into_inner);
        for node in from.iter() {
            let mut waits_for = node.waits_for.lock().unwrap_or_else(PoisonError::into_inner);
            // One of them: the same loader may wait for the same load twice.
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

    async fn waits(from: &Loads, target: &Arc<LoadNode>) -> Result<LoadWait, Cycle> {
        scope(from.clone(), async { wait_for(target) }).await
    }

    #[tokio::test]
    async fn a_circle_is_refused_and_named_and_a_chain_is_not() {
        let [a, b, c] = ["a", "b", "c"].map(LoadNode::new);
        assert!(waits(&one(&a), &a).await.is_err());
        let first = waits(&one(&a), &b).await.ok();
        let second = waits(&one(&b), &c).await.ok();
        assert!(first.is_some() && second.is_some());
        let cycle = waits(&one(&c), &a).await.err().unwrap();
        assert_eq!(&*cycle.0, "c waits for a, which waits for b, which waits for c");
        drop(second);
        assert!(waits(&one(&c), &a).await.is_ok(), "b no longer waits");
    }

    #[tokio::test]
    async fn a_call_for_many_keys_waits_with_all_of_them() {
        let [a, b, c] = ["a", "b", "c"].map(LoadNode::new);
        let many: Loads = Arc::from([a.clone(), b.clone()]);
        let _wait = waits(&many, &c).await.ok();
        assert!(waits(&one(&c), &b).await.is_err() && waits(&one(&c), &a).await.is_err());
    }

    #[tokio::test]
    async fn what_no_loader_calls_waits_for_anything() {
        let a = LoadNode::new("a");
        assert!(!is_nested() && wait_for(&a).is_ok());
    }
}
