//! A claim in the store: it shows that a load is under way, is renewed while the load runs, and removed when it ends.
//!
//! Other processes recognise a load by its claim, which must not expire while the loader runs, even if the loader
//! blocks its thread. So a background loop renews the claims, and not the load's task.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::background::{HEDGE, Schedule, Visit, begun};
use crate::context::Context;
use crate::error::Result;
use crate::name::Name;
use crate::store::{AnyStore, Claim, Expiry, Store};

/// How long a claim lasts after its loader's process has died.
pub(super) const LIVENESS: Duration = Duration::from_secs(3);
/// How long a claim in the embedded store lasts without renewal. A process that dies takes that store with it, and a
/// load that is dropped ends its claim at once. So only a loader that blocks the one thread that could renew its claim
/// needs this time.
const EMBEDDED_LIVENESS: Duration = Duration::from_secs(600);
const PERIOD: Duration = Duration::from_secs(1);

/// Returns how long a claim in this context's store lasts without renewal.
pub(super) fn liveness(context: &Context) -> Duration {
    if context.is_embedded() { EMBEDDED_LIVENESS } else { LIVENESS }
}

/// A claim in the store. Dropping it removes the claim in the background, also if the store never said whether it was
/// made.
pub(super) struct ClaimGuard {
    context: Arc<Context>,
    entry: Name,
    claim: Option<Claim>,
    /// Its number among the claims that are renewed.
    number: u64,
}

impl ClaimGuard {
    pub(super) fn new(context: &Arc<Context>, entry: &Name, claim: Claim) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let claims = &context.claims;
        claims.schedule.insert(number, context.clock.now().after(PERIOD), (entry.clone(), claim.clone()));
        context.background.ensure(&claims.renewer, || {
            let (weak, schedule) = (Arc::downgrade(context), claims.schedule.clone());
            move || renew_all(weak.clone(), schedule.clone())
        });
        Self { context: context.clone(), entry: entry.clone(), claim: Some(claim), number }
    }

    /// Forgets the claim, because the store has said that it was not made.
    pub(super) fn disarm(mut self) {
        self.claim = None;
    }

    /// Stores a value if the claim still holds, and returns whether it did. Without a value, the value to be replaced
    /// is deleted; a placeholder is removed.
    pub(super) async fn commit(mut self, value: Option<Bytes>, expiry: Expiry) -> Result<bool> {
        let store = self.context.store()?;
        let stored = match (&self.claim, value) {
            (Some(Claim::Placeholder(placeholder)), Some(value)) => {
                store.commit_fill(&self.entry, placeholder.clone(), value, expiry).await?
            }
            (Some(Claim::Refresh(claim)), value) => {
                store.commit_refresh(&self.entry, *claim, value, expiry).await?
            }
            // Dropping `self` removes the placeholder.
            (Some(Claim::Placeholder(_)), None) => return Ok(true),
            (None, _) => false,
        };
        self.claim = None;
        Ok(stored)
    }
}

impl Drop for ClaimGuard {
    fn drop(&mut self) {
        self.context.claims.schedule.remove(self.number);
        if let Some(claim) = self.claim.take() {
            abandon_in_background(&self.context, self.entry.clone(), claim);
        }
    }
}

/// Removes a claim without waiting for the reply. Claims that are handed over before `close` are still removed.
///
/// The request is sent before this function returns, on the connection that the claim was made on. So it cannot arrive
/// before the request that made the claim, and a load that begins afterwards does not find the claim. If that
/// connection does not answer, or if the claim is dropped outside a runtime, the request is sent on the background's
/// connection.
fn abandon_in_background(context: &Arc<Context>, entry: Name, claim: Claim) {
    if context.is_embedded() {
        // Done here and not in a task: the runtime may end with its loads.
        let _ = abandon(context.store_even_closed(), &entry, &claim).now_or_never();
        return;
    }
    let (home, in_order) = (context.clone(), Handle::try_current().is_ok());
    context.background.spawn_begun(async move {
        if in_order {
            let sent = begun(HEDGE, abandon(home.store_even_closed(), &entry, &claim)).await;
            if matches!(sent, Some(Ok(()))) {
                return;
            }
        }
        // If this fails too, the claim expires by itself.
        let again = abandon(home.background_store_even_closed(), &entry, &claim);
        let _ = tokio::time::timeout(home.limits.response_timeout, again).await;
    });
}

async fn abandon(store: &AnyStore, entry: &Name, claim: &Claim) -> Result<()> {
    match claim {
        Claim::Placeholder(placeholder) => store.abandon_fill(entry, placeholder.clone()).await,
        Claim::Refresh(claim) => store.abandon_refresh(entry, *claim).await,
    }
}

async fn renew_all(context: Weak<Context>, schedule: Arc<Schedule<(Name, Claim)>>) {
    let Some(clock) = context.upgrade().map(|context| context.clock.clone()) else { return };
    let mut under_way = JoinSet::new();
    loop {
        schedule.due(&clock).await;
        let Some(context) = context.upgrade() else { return };
        while under_way.try_join_next().is_some() {}
        let now = clock.now();
        for (entry, claim) in schedule.visit(now, |_, claim| Visit::Again(now.after(PERIOD), claim.clone())) {
            under_way.spawn(renew(context.clone(), entry, claim));
        }
    }
}

/// Renews one claim. Even if the claim is lost, the load continues, because its callers want the value.
async fn renew(context: Arc<Context>, entry: Name, claim: Claim) {
    let (Ok(own), Ok(callers)) = (context.background_store(), context.store()) else { return };
    let liveness = liveness(&context);
    let renewal = own.renew_load(&entry, claim.clone(), liveness);
    if !matches!(tokio::time::timeout(HEDGE, renewal).await, Ok(Ok(_))) {
        // Perhaps only the background's connection is down, so try the callers' connection too.
        let renewal = callers.renew_load(&entry, claim, liveness);
        let _ = tokio::time::timeout(context.limits.response_timeout, renewal).await;
    }
}
