//! Runs of work under way in this process, by their entries.
//!
//! A call that waits for one of them says so in the graph of [`nesting`](super::nesting), as loads do. So work that
//! would wait for its own result fails at once. A run is listed once the store has said that it begins, and before its
//! work starts: work that is not listed waits for nothing yet.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::nesting::Node;
use crate::name::Name;

type Table = Arc<Mutex<HashMap<Name, Arc<Node>>>>;

#[derive(Default)]
pub(super) struct Runs(Table);

/// A run under way, until this is dropped.
pub(super) struct Listed {
    entry: Name,
    node: Arc<Node>,
    table: Table,
}

impl Runs {
    /// Lists a run. One of the same entry that is still listed was interrupted, and gives way.
    pub(super) fn list(&self, entry: &Name) -> Listed {
        let node = Node::new(entry);
        lock(&self.0).insert(entry.clone(), node.clone());
        Listed { entry: entry.clone(), node, table: self.0.clone() }
    }

    pub(super) fn get(&self, entry: &Name) -> Option<Arc<Node>> {
        lock(&self.0).get(entry).cloned()
    }
}

impl Listed {
    pub(super) fn node(&self) -> &Arc<Node> {
        &self.node
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut table = lock(&self.table);
        if table.get(&self.entry).is_some_and(|node| Arc::ptr_eq(node, &self.node)) {
            table.remove(&self.entry);
        }
    }
}

fn lock(table: &Table) -> MutexGuard<'_, HashMap<Name, Arc<Node>>> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}
