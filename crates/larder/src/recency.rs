//! Reads from the server, from time to time, what this process uses without asking it: see [`near/recency.rs`] for
//! the reason.
//!
//! Each second it reads the versions that clear caches and the epoch, the tags that were used since they were last
//! read, and a sample of the near copies that were hit: at most [`MOST_READS`] keys. Versions are read on the tracked
//! connection and compared with those known here. A version that is gone is never written back: another process may
//! have replaced it in between, and the old one would make invalidated entries valid again.
//!
//! It runs only if the server evicts, or does not say whether it does.
//!
//! [`near/recency.rs`]: crate::near

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};

use crate::context::Context;
use crate::error::Result;
use crate::name::Name;
use crate::store::{Eviction, InvalidationSink, Store};

/// The time between two turns.
const PERIOD: Duration = Duration::from_secs(1);
/// The most keys that are read in one turn.
const MOST_READS: usize = 500;
/// The most of those that are versions of caches.
const MOST_CLEARS: usize = 200;
/// The most requests for near copies under way at once.
const AT_ONCE: usize = 16;

/// Starts the task if there is a server. It ends with the `Larder`.
pub(crate) fn start(context: &Arc<Context>) {
    if context.is_embedded() {
        return;
    }
    context.background.spawn_until_close(run(Arc::downgrade(context)));
}

async fn run(context: Weak<Context>) {
    let mut turn = LoopState::default();
    loop {
        tokio::time::sleep(PERIOD).await;
        let Some(context) = context.upgrade() else { return };
        if context.store().is_err() {
            return;
        }
        // Asked in each turn: a lazy connection learns the policy later, and a failover may change it.
        let evicts = !matches!(context.eviction(), Eviction::Never);
        context.invalidations.versions.recency.want(evicts);
        if !evicts {
            continue;
        }
        // An outage is not reported here; the calls that need the server report it.
        if survives(tokio::time::timeout(PERIOD, turn.take(&context))).await.is_none() {
            turn = LoopState::default();
        }
    }
}

/// Runs a turn; `None` if it panics. A panic, for example in a subscriber to events, must not end this task for the
/// rest of the `Larder`'s life: the server would evict keys that are in use, and nothing would show it.
async fn survives<T>(turn: impl Future<Output = T>) -> Option<T> {
    AssertUnwindSafe(turn).catch_unwind().await.ok()
}

/// What a turn leaves for the next one.
#[derive(Default)]
struct LoopState {
    /// The cache that comes next, if there are more than a turn reads.
    next_clear: usize,
    /// Tags that were used and are still to be read.
    tags: VecDeque<Name>,
}

impl LoopState {
    async fn take(&mut self, context: &Context) -> Result<()> {
        let versions = &context.invalidations.versions;
        let copies = versions.recency.take_copies();
        let mut names = self.clears(context);
        if self.tags.is_empty() {
            self.tags.extend(versions.used_tags());
        }
        let left = MOST_READS.saturating_sub(names.len() + copies.len()).min(self.tags.len());
        names.extend(self.tags.drain(..left));
        let read_versions = async {
            for name in versions.outdated(context.store()?, &names).await? {
                context.invalidations.changed(name);
            }
            Ok(())
        };
        let store = context.background_store()?;
        let read_copies = async {
            let mut under_way = FuturesUnordered::new();
            for name in &copies {
                // Reads only a few bytes: any read counts as a use.
                under_way.push(store.peek(name));
                if under_way.len() >= AT_ONCE {
                    let _ = under_way.next().await;
                }
            }
            while under_way.next().await.is_some() {}
        };
        tokio::join!(read_versions, read_copies).0
    }

    /// Returns the versions of the caches that are in use here, and the epoch.
    fn clears(&mut self, context: &Context) -> Vec<Name> {
        let versions = &context.invalidations.versions;
        let mut names: Vec<Name> =
            context.caches.clear_versions().iter().map(|clear| Name::from(&**clear)).collect();
        names.push(context.keyspace.epoch());
        names.retain(|name| versions.is_kept(name));
        if names.len() > MOST_CLEARS {
            names.sort_unstable();
            self.next_clear %= names.len();
            names.rotate_left(self.next_clear);
            names.truncate(MOST_CLEARS);
            self.next_clear += MOST_CLEARS;
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_turn_that_panics_is_not_the_last() {
        assert_eq!(survives(async { panic!("of a subscriber, say") }).await, None::<()>);
        assert_eq!(survives(async { 7 }).await, Some(7));
    }
}
