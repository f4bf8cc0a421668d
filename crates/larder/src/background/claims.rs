//! Renews the claims of loads that are under way.
//!
//! Other processes recognise a load by its claim, which must not expire while the loader runs, even if the
//! loader blocks its thread. So claims are renewed by a background loop and not by the load's task.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::task::JoinSet;

use super::{HEDGE, Resident, Schedule, Visit};
use crate::context::Context;
use crate::name::Name;
use crate::store::{Claim, Store};

/// How long a claim lasts after its loader's process has died.
pub(crate) const LIVENESS: Duration = Duration::from_secs(3);
/// How long a claim in the embedded store lasts without renewal. A process that dies takes that store with
/// it, and a load that is dropped ends its claim at once. So only a loader that blocks the one thread that
/// could renew its claim needs this time.
const EMBEDDED_LIVENESS: Duration = Duration::from_secs(600);
const PERIOD: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(crate) struct Claims {
    schedule: Arc<Schedule<ClaimInForce>>,
    renewer: Resident,
    next: AtomicU64,
}

#[derive(Clone)]
struct ClaimInForce {
    entry: Name,
    claim: Claim,
}

/// Returns how long a claim in this context's store lasts without renewal.
pub(crate) fn liveness(context: &Context) -> Duration {
    if context.is_embedded() { EMBEDDED_LIVENESS } else { LIVENESS }
}

impl Claims {
    /// Renews a claim until it is [let go](Self::let_go). Returns its number.
    pub(crate) fn keep(context: &Arc<Context>, entry: &Name, claim: &Claim) -> u64 {
        let claims = &context.claims;
        let number = claims.next.fetch_add(1, Ordering::Relaxed);
        let held = ClaimInForce { entry: entry.clone(), claim: claim.clone() };
        claims.schedule.insert(number, context.clock.now().after(PERIOD), held);
        context.background.ensure(&claims.renewer, || {
            let (weak, schedule) = (Arc::downgrade(context), claims.schedule.clone());
            move || renew_all(weak.clone(), schedule.clone())
        });
        number
    }

    pub(crate) fn let_go(&self, number: u64) {
        self.schedule.remove(number);
    }
}

async fn renew_all(context: Weak<Context>, schedule: Arc<Schedule<ClaimInForce>>) {
    let Some(clock) = context.upgrade().map(|context| context.clock.clone()) else { return };
    let mut under_way = JoinSet::new();
    loop {
        schedule.due(&clock).await;
        let Some(context) = context.upgrade() else { return };
        while under_way.try_join_next().is_some() {}
        let now = clock.now();
        for held in schedule.visit(now, |_, held| Visit::Again(now.after(PERIOD), held.clone())) {
            under_way.spawn(renew(context.clone(), held));
        }
    }
}

/// Renews one claim. Even if the claim is lost, the load continues, because its callers want the value.
async fn renew(context: Arc<Context>, ClaimInForce { entry, claim }: ClaimInForce) {
    let (Ok(own), Ok(callers)) = (context.background_store(), context.store()) else { return };
    let liveness = liveness(&context);
    let renewal = own.renew_load(&entry, claim.clone(), liveness);
    if !matches!(tokio::time::timeout(HEDGE, renewal).await, Ok(Ok(_))) {
        // Perhaps only the background's connection is down, so try the callers' connection too.
        let renewal = callers.renew_load(&entry, claim, liveness);
        let _ = tokio::time::timeout(context.limits.response_timeout, renewal).await;
    }
}
