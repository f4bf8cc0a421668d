//! Shares requests for versions: while one reader asks the server for a version, others wait for that answer.
//!
//! After a reconnect no version is known, and every reader needs the version that `clear` replaces in its
//! cache. The first reader asks; readers that arrive during the request wait for its answer. They may use it
//! only if the table of versions has kept it. It has not if a change was reported while the request was under
//! way; then each of the waiting readers asks for itself. So a waiting reader uses exactly what a reader that
//! arrives a moment later would use.

use std::collections::HashMap;

use tokio::sync::watch;

use crate::name::Name;
use crate::sync::{AtomicBool, Mutex, MutexGuard, Ordering};

#[derive(Default)]
pub(crate) struct Asking {
    /// Closed when the request has ended, in whatever way.
    under_way: Mutex<HashMap<Name, watch::Receiver<()>>>,
    /// Answers are not kept, so waiting for one is useless: the server does not report changes.
    not_kept: AtomicBool,
}

/// A reader's requests for some versions. Dropping it ends them.
pub(crate) struct VersionRequests<'a> {
    asking: &'a Asking,
    names: Vec<Name>,
    _ended: watch::Sender<()>,
}

impl Asking {
    /// Waits for the requests of other readers for any of `names`. Returns false if there are none.
    pub(crate) async fn others(&self, names: &[Name]) -> bool {
        if self.not_kept.load(Ordering::Relaxed) {
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

    /// Lets other readers wait for what this reader asks for, until the returned value is dropped.
    pub(crate) fn begin(&self, names: &[Name]) -> VersionRequests<'_> {
        let (ended, request) = watch::channel(());
        let mut under_way = self.under_way();
        let vacant: Vec<Name> = names.iter().filter(|name| !under_way.contains_key(*name)).cloned().collect();
        under_way.extend(vacant.iter().map(|name| (name.clone(), request.clone())));
        VersionRequests { asking: self, names: vacant, _ended: ended }
    }

    /// Records whether answers can be kept.
    pub(crate) fn note(&self, kept: bool) {
        self.not_kept.store(!kept, Ordering::Relaxed);
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<Name, watch::Receiver<()>>> {
        self.under_way.lock()
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
        // A request that fails or is dropped blocks no other reader.
        drop(asked);
        assert!(waits.await);
        assert!(asking.under_way().is_empty());
        let _asked = asking.begin(&names);
        asking.note(false);
        assert!(!asking.others(&names).await, "waited for an answer that is not kept");
    }
}
