//! Claims of loads under way, renewed while they run.
//!
//! A claim is what others see of a load: it must not run out while the loader runs, even if that blocks its thread. So it is
//! not the load's task that renews it, but a loop of the background.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::task::JoinSet;

use super::{HEDGE, Resident, Schedule, Visit};
use crate::context::Context;
use crate::name::Name;
use crate::store::{Claim, Store};

/// How long a claim outlives its loader's process.
pub(crate) const LIVENESS: Duration = Duration::from_secs(3);
/// How long a claim in the embedded store lasts without a renewal. A process that dies takes that store with it, and a load
/// that is dropped ends its claim at once. So only a loader that blocks the one thread that could renew it needs this time.
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

/// How long a claim lasts in the store of this context without a renewal.
pub(crate) fn liveness(context: &Context) -> Duration {
    if context.is_embedded() { EMBEDDED_LIVENESS } else { LIVENESS }
}

impl Claims {
    /// Renews a claim until it is [let go](Self::let_go); its number.
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

/// Lost or not, the load goes on: its callers want its value.
async fn renew(context: Arc<Context>, ClaimInForce { entry, claim }: ClaimInForce) {
    let (Ok(own), Ok(callers)) = (context.background_store(), context.store()) else { return };
    let liveness = liveness(&context);
    let renewal = own.renew_load(&entry, claim.clone(), liveness);
    if !matches!(tokio::time::timeout(HEDGE, renewal).await, Ok(Ok(_))) {
        // Only the connection of the background may be gone.
        let renewal = callers.renew_load(&entry, claim, liveness);
        let _ = tokio::time::timeout(context.limits.response_timeout, renewal).await;
    }
}
