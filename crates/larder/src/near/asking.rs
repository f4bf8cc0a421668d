//! Versions that readers are asking the server for, so that many readers ask once.
//!
//! After a reconnect no version is known, and every reader needs the one of its cache's `clear`. The first asks; those that
//! come meanwhile wait for that answer. They may use it only if the table of versions has kept it, which it has not if a change
//! was notified while the request was under way; then they ask, each for itself. So a waiting reader trusts exactly what a
//! reader that comes a moment later would trust.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::name::Name;

#[derive(Default)]
pub(crate) struct Asking {
    /// Closed when the request has ended, however it did.
    under_way: Mutex<HashMap<Name, watch::Receiver<()>>>,
    /// Answers are not kept, so waiting for one is in vain: the server does not tell of changes.
    in_vain: AtomicBool,
}

/// Requests for some versions; ended when it is dropped.
pub(crate) struct VersionRequests<'a> {
    asking: &'a Asking,
    names: Vec<Name>,
    _ended: watch::Sender<()>,
}

impl Asking {
    /// Waits for the requests of others for any of `names`. Returns false if there are none.
    pub(crate) async fn others(&self, names: &[Name]) -> bool {
        if self.in_vain.load(Ordering::Relaxed) {
            return false;
        }
        let others: Vec<watch::Receiver<()>> = {
            let under_way = self.under_way();
            if under_way.is_empty() {
                return false;
            }
            names.iter().filter_map(|name| under_way.get(name).cloned()).collect()
        };
        let any = !others.is_empty();
        for mut other in others {
            while other.changed().await.is_ok() {}
        }
        any
    }

    /// From now on until it is dropped, others wait for what this reader asks for.
    pub(crate) fn begin(&self, names: &[Name]) -> VersionRequests<'_> {
        let (ended, request) = watch::channel(());
        let mut under_way = self.under_way();
        let vacant: Vec<Name> = names.iter().filter(|name| !under_way.contains_key(*name)).cloned().collect();
        under_way.extend(vacant.iter().map(|name| (name.clone(), request.clone())));
        VersionRequests { asking: self, names: vacant, _ended: ended }
    }

    /// Whether an answer can be kept.
    pub(crate) fn note(&self, kept: bool) {
        self.in_vain.store(!kept, Ordering::Relaxed);
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<Name, watch::Receiver<()>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for VersionRequests<'_> {
    fn drop(&mut self) {
        let mut under_way = self.asking.under_way();
        for name in &self.names {
            under_way.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_reader_waits_for_the_request_of_another_and_for_no_other() {
        let (asking, names) = (Asking::default(), ["~clear", "~tag"].map(Name::from));
        assert!(!asking.others(&names).await);
        let asked = asking.begin(&names[..1]);
        assert!(!asking.others(&names[1..]).await);
        let mut waits = std::pin::pin!(asking.others(&names));
        assert!(waits.as_mut().now_or_never().is_none());
        // A request that fails or is dropped holds up nothing.
        drop(asked);
        assert!(waits.await);
        assert!(asking.under_way().is_empty());
        let _asked = asking.begin(&names);
        asking.note(false);
        assert!(!asking.others(&names).await, "waited in vain");
    }
}
