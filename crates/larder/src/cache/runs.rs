//! Runs of work under way in this process, by their entries.
//!
//! A call that waits for a run records that in the graph of [`nesting`](super::nesting), as loads do, so work that
//! would wait for its own result fails at once. A run is listed after the store has let it begin and before its work
//! starts; work that is not listed yet waits for nothing.

use std::collections::HashMap;
use std::sync::Arc;

use super::nesting::LoadNode;
use crate::name::Name;
use crate::sync::Mutex;

type RunTable = Arc<Mutex<HashMap<Name, Arc<LoadNode>>>>;

#[derive(Default)]
pub(super) struct Runs(RunTable);

/// Keeps a run in the list until it is dropped.
pub(super) struct Listed {
    entry: Name,
    node: Arc<LoadNode>,
    table: RunTable,
}

impl Runs {
    /// Lists a run. An older run of the same entry that is still listed was interrupted and is replaced.
    pub(super) fn list(&self, entry: &Name) -> Listed {
        let node = LoadNode::new(entry);
        self.0.lock().insert(entry.clone(), node.clone());
        Listed { entry: entry.clone(), node, table: self.0.clone() }
    }

    pub(super) fn get(&self, entry: &Name) -> Option<Arc<LoadNode>> {
        self.0.lock().get(entry).cloned()
    }
}

impl Listed {
    pub(super) fn node(&self) -> &Arc<LoadNode> {
        &self.node
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut table = self.table.lock();
        if table.get(&self.entry).is_some_and(|node| Arc::ptr_eq(node, &self.node)) {
            table.remove(&self.entry);
        }
    }
}
