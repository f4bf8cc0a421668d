//! Renews the locks and permits whose guards asked for it.
//!
//! One background loop renews everything that a `Larder` keeps alive, each lease when a third of its time to live
//! has passed. Leases that are due soon go along, and leases with similar times to live share a request (one per
//! slot on a cluster). A failed renewal is retried until the lease expires. If the reply is late, the renewal is
//! also sent on the callers' connection. When the background connection is up again after an outage, everything is
//! renewed at once: a server that lost its data reports the loss then, not a third of a time to live later.
//!
//! Nothing here depends on a caller's runtime: a program that blocks its threads, or ends a runtime, keeps its
//! locks.
//!
//! Invariants: no renewal for a lease whose guard is gone, that is lost, or that was held for `max_hold`.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::hedge::hedged;
use super::lease::{Lease, LeaseKind};
use super::meter::LockMeter;
use super::release::end_in_background;
use crate::background::{Renewals, Schedule, Visit};
use crate::clock::{Clock, Tick};
use crate::context::Context;
use crate::store::group::GroupStore;
use crate::store::lock::{LockStore, LockToken, Renewal};
use crate::store::permit::PermitStore;

pub(super) struct Renewer {
    context: Arc<Context>,
    meter: Arc<LockMeter>,
    leases: Renewals<RenewedLease>,
}

struct RenewedLease {
    lease: Weak<Lease>,
    ttl: Duration,
    end: Tick,
    /// When a renewal was last sent, whether it succeeded or not.
    asked: Tick,
}

impl RenewedLease {
    /// Returns the lease to renew at `now`, if it needs renewal.
    fn visit(&mut self, now: Tick) -> Visit<(Arc<Lease>, Duration)> {
        let left = self.end.since(now);
        match self.lease.upgrade().filter(|lease| left > self.ttl / 3 && lease.is_valid()) {
            None => Visit::Remove,
            Some(lease) => {
                self.asked = now;
                // Not due again before the request has timed out: see `max_wait` in `renew`.
                Visit::Again(now.after(self.ttl / 3), (lease, self.ttl.min(left)))
            }
        }
    }
}

impl Renewer {
    pub(super) fn new(context: Arc<Context>, meter: Arc<LockMeter>) -> Self {
        Self { context, meter, leases: Renewals::default() }
    }

    /// Renews the lease for `ttl` repeatedly, until it is dropped or lost, or `max_hold` is nearly over.
    pub(super) fn keep(self: &Arc<Self>, lease: &Arc<Lease>, ttl: Duration, max_hold: Duration) {
        let granted = lease.granted;
        let kept =
            RenewedLease { lease: Arc::downgrade(lease), ttl, end: granted.after(max_hold), asked: granted };
        let Renewals { schedule, renewer } = &self.leases;
        schedule.insert(lease.token, granted.after(ttl / 3), kept);
        self.context.background.ensure(renewer, || {
            let (weak, schedule) = (Arc::downgrade(self), schedule.clone());
            let (clock, reconnects) = (self.context.clock.clone(), self.context.background_reconnects());
            move || run(weak.clone(), schedule.clone(), clock.clone(), reconnects.clone())
        });
    }

    /// Releases a lease that too few replicas have. Its guard is lost at once.
    pub(super) fn release(&self, lease: &Arc<Lease>) {
        let Lease { name, token, kind, .. } = &**lease;
        let left = lease.may_last();
        self.forget(*token);
        if lease.end() {
            self.meter.lost();
            end_in_background(&self.context, name.clone(), *token, left, kind.ending());
        }
    }

    pub(super) fn forget(&self, token: u64) {
        self.leases.schedule.remove(token);
    }

    /// Returns the leases to renew at `now`, each with its time to live.
    fn due(&self, now: Tick) -> Vec<(Arc<Lease>, Duration)> {
        let mut due = self.leases.schedule.visit(now, |_, kept| kept.visit(now));
        // Leases that are due within a twelfth of the longest time to live go along.
        if let Some(longest) = due.iter().map(|(_, ttl)| *ttl).max() {
            due.extend(self.leases.schedule.visit(now.after(longest / 12), |_, kept| {
                if now.since(kept.asked) < kept.ttl / 4 { Visit::Skip } else { kept.visit(now) }
            }));
        }
        due
    }

    fn failed(&self, token: u64, ttl: Duration, now: Tick) {
        self.leases.schedule.postpone(token, now.after((ttl / 20).max(Duration::from_millis(5))));
    }
}

/// Holds no strong reference to the renewer, and so none to the `Larder`, while it waits.
async fn run(
    renewer: Weak<Renewer>,
    schedule: Arc<Schedule<RenewedLease>>,
    clock: Clock,
    mut reconnects: Option<watch::Receiver<u64>>,
) {
    let mut under_way = JoinSet::new();
    loop {
        tokio::select! {
            () = schedule.due(&clock) => {}
            () = reconnected(&mut reconnects) => schedule.hurry(clock.now()),
        }
        let Some(renewer) = renewer.upgrade() else { return };
        while under_way.try_join_next().is_some() {}
        let mut due = renewer.due(clock.now());
        due.sort_by_key(|(lease, ttl)| class(lease, *ttl));
        for alike in due.chunk_by(|(a, x), (b, y)| class(a, *x) == class(b, *y)) {
            under_way.spawn(renew(renewer.clone(), alike.to_vec()));
        }
    }
}

/// Completes when a background connection is up again.
pub(super) async fn reconnected(reconnects: &mut Option<watch::Receiver<u64>>) {
    if let Some(counted) = reconnects
        && counted.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// The batch key of renewals: times to live within the same power of two share a request, so that a short one sets
/// the timeout of its own batch only.
fn class(lease: &Lease, ttl: Duration) -> (LeaseKind, u32, u32) {
    (lease.kind, lease.failover.replicas, ttl.as_millis().max(1).ilog2())
}

async fn renew(renewer: Arc<Renewer>, mut due: Vec<(Arc<Lease>, Duration)>) {
    let Renewer { context, meter, .. } = &*renewer;
    let sent = context.clock.now();
    due.retain(|(lease, ttl)| lease.asks(sent, *ttl));
    let Some(kind) = due.first().map(|(lease, _)| lease.kind) else { return };
    if context.store().is_err() {
        // The `Larder` is closed, and this loop is about to end.
        return due.iter().for_each(|(lease, _)| renewer.forget(lease.token));
    }
    // The request times out before any of the leases is due again.
    let max_wait =
        due.iter().map(|(_, ttl)| *ttl / 4).min().unwrap_or_default().min(context.limits.response_timeout);
    let tickets: Vec<_> = due
        .iter()
        .map(|(lease, ttl)| (LockToken { lock: lease.name.to_string(), token: lease.token }, *ttl))
        .collect();
    // If both connections replied, the lease is lost if either reply says so.
    let both = |one, other| match (one, other) {
        (Renewal::Held, other) => other,
        (Renewal::Lost(one), Renewal::Lost(other)) => Renewal::Lost(one.or(other)),
        (lost, Renewal::Held) => lost,
    };
    let answer = match kind {
        LeaseKind::Lock => {
            hedged(context, max_wait, |store, max_wait| store.extend(&tickets, max_wait), both).await
        }
        LeaseKind::Group => {
            hedged(context, max_wait, |store, max_wait| store.renew_groups(&tickets, max_wait), both).await
        }
        LeaseKind::Permit => {
            hedged(context, max_wait, |store, max_wait| store.renew_permits(&tickets, max_wait), both).await
        }
    };
    let mut held: Vec<Option<Renewal>> = answer.unwrap_or_else(|_| vec![None; due.len()]);
    if due.iter().any(|(lease, _)| lease.failover.replicas > 0) {
        in_replicas(&renewer, &due, &mut held, max_wait).await;
    }
    let now = context.clock.now();
    for ((lease, ttl), held) in due.into_iter().zip(held) {
        match held {
            Some(Renewal::Held) if lease.renewed(sent, ttl) => {}
            Some(Renewal::Held) => renewer.forget(lease.token),
            Some(Renewal::Lost(to)) => {
                renewer.forget(lease.token);
                if lease.end_lost(to) {
                    meter.lost();
                }
            }
            // A failed renewal is retried soon. If all retries fail, the guard is lost at its deadline.
            None => renewer.failed(lease.token, ttl, now),
        }
    }
}

/// Waits for the replicas of renewed leases that need them: a renewal counts only when enough replicas have it. A
/// lease that too few replicas have is released; without a reply the renewal is retried.
async fn in_replicas(
    renewer: &Renewer,
    due: &[(Arc<Lease>, Duration)],
    held: &mut [Option<Renewal>],
    max_wait: Duration,
) {
    let renewed = |at: &usize| matches!(held.get(*at), Some(Some(Renewal::Held)));
    let needs = |at: &usize| due.get(*at).is_some_and(|(lease, _)| lease.failover.replicas > 0);
    let places: Vec<usize> = (0..due.len()).filter(|at| needs(at) && renewed(at)).collect();
    let asked = places.iter().filter_map(|at| due.get(*at)).map(|(lease, _)| lease);
    let replicas = asked.clone().map(|lease| lease.failover.replicas).max().unwrap_or_default();
    let tickets: Vec<_> =
        asked.map(|lease| LockToken { lock: lease.name.to_string(), token: lease.token }).collect();
    // On the background's connections, which are driven on its thread: the callers' connections make no progress while
    // their runtimes compute.
    let answer = match renewer.context.background_coordination() {
        Ok(store) => store.acknowledged(&tickets, replicas, max_wait).await,
        Err(error) => Err(error),
    };
    let answer = answer.unwrap_or_else(|_| vec![None; places.len()]);
    for (at, enough) in places.into_iter().zip(answer) {
        if let (Some((lease, _)), Some(held)) = (due.get(at), held.get_mut(at)) {
            *held = enough.map(Renewal::of);
            if enough == Some(false) {
                renewer.release(lease);
            }
        }
    }
}
