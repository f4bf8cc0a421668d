//! Renewing the locks whose guards asked for it.
//!
//! One task renews all of a `Larder`'s locks that are kept alive, each when a third of its time is over; those that come due
//! soon after go along, in one request for like times to live (one a slot on a cluster). It ends when there is nothing to renew, and with the `Larder`. A
//! renewal that fails is tried again while the lock's time lasts.
//!
//! Invariants: nothing is renewed whose guard is gone, that was lost, or that was held for `max_hold`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::holding::{Holding, Kind};
use super::locks::Locks;
use crate::clock::Tick;
use crate::store::lock::{LockStore, Ticket};
use crate::store::permit::PermitStore;

/// The longest sleep: timers stand still while the machine sleeps.
const SLICE: Duration = Duration::from_millis(250);

#[derive(Default)]
pub(super) struct Keeping {
    table: Mutex<Table>,
    changed: Notify,
}

#[derive(Default)]
struct Table {
    kept: HashMap<u64, Kept>,
    runs: bool,
}

struct Kept {
    holding: Weak<Holding>,
    ttl: Duration,
    end: Tick,
    /// When it was last asked for, in vain or not.
    asked: Tick,
    due: Tick,
}

enum Due {
    /// Each for so long.
    Renew(Vec<(Arc<Holding>, Duration)>),
    NothingFor(Duration),
}

impl Keeping {
    /// Renews it for `ttl` again and again, until it is dropped or lost, or `end` is near.
    pub(super) fn keep(holding: &Arc<Holding>, ttl: Duration, max_hold: Duration) {
        let (locks, renewed) = (&holding.locks, holding.granted);
        let kept = Kept {
            holding: Arc::downgrade(holding),
            ttl,
            end: renewed.after(max_hold),
            asked: renewed,
            due: renewed.after(ttl / 3),
        };
        let mut table = locks.keeping.table();
        table.kept.insert(holding.token, kept);
        if !table.runs {
            table.runs = true;
            locks.context.background.spawn_until_close(run(locks.clone()));
        }
        drop(table);
        locks.keeping.changed.notify_one();
    }

    pub(super) fn forget(&self, token: u64) {
        if self.table().kept.remove(&token).is_some() {
            self.changed.notify_one();
        }
    }

    /// What there is to do; none, if nothing is left to be renewed.
    fn due(&self, now: Tick) -> Option<Due> {
        let mut table = self.table();
        table.kept.retain(|_, kept| {
            let ends = kept.end.since(now) <= kept.ttl / 3;
            !ends && kept.holding.upgrade().is_some_and(|holding| holding.is_valid())
        });
        let Some(next) = table.kept.values().map(|kept| kept.due).min() else {
            table.runs = false;
            return None;
        };
        if next > now {
            return Some(Due::NothingFor(next.since(now)));
        }
        let due =
            table.kept.values_mut().filter(|kept| kept.due <= now || now.since(kept.asked) >= kept.ttl / 4);
        let with_ttl = |kept: &mut Kept| {
            // Not again until the answer is given up: see `patience`.
            (kept.asked, kept.due) = (now, now.after(kept.ttl / 3));
            Some((kept.holding.upgrade()?, kept.ttl.min(kept.end.since(now))))
        };
        Some(Due::Renew(due.filter_map(with_ttl).collect()))
    }

    fn renewed(&self, token: u64, sent: Tick) {
        if let Some(kept) = self.table().kept.get_mut(&token) {
            (kept.asked, kept.due) = (sent, sent.after(kept.ttl / 3));
        }
    }

    fn failed(&self, token: u64, now: Tick) {
        if let Some(kept) = self.table().kept.get_mut(&token) {
            kept.due = now.after((kept.ttl / 20).max(Duration::from_millis(5)));
            self.changed.notify_one();
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says that the renewals have ended, also where their runtime has, so that the next lock starts them anew.
struct Running {
    locks: Arc<Locks>,
    /// They came to their own end, and others may run by now.
    ended: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            self.locks.keeping.table().runs = false;
        }
    }
}

async fn run(locks: Arc<Locks>) {
    let mut running = Running { locks: locks.clone(), ended: false };
    let mut under_way = JoinSet::new();
    while let Some(due) = locks.keeping.due(locks.context.clock.now()) {
        match due {
            Due::NothingFor(span) => {
                let _ = timeout(span.min(SLICE), locks.keeping.changed.notified()).await;
            }
            Due::Renew(mut due) => {
                while under_way.try_join_next().is_some() {}
                due.sort_by_key(|(holding, ttl)| class(holding.kind, *ttl));
                for alike in due.chunk_by(|(a, x), (b, y)| class(a.kind, *x) == class(b.kind, *y)) {
                    under_way.spawn(renew(locks.clone(), alike.to_vec()));
                }
            }
        }
    }
    running.ended = true;
    while under_way.join_next().await.is_some() {}
}

/// What goes in one request: times to live that differ by less than half, so that who is in a hurry gives up for nobody else.
fn class(kind: Kind, ttl: Duration) -> (bool, u32) {
    (kind == Kind::Lock, ttl.as_millis().max(1).ilog2())
}

async fn renew(locks: Arc<Locks>, mut due: Vec<(Arc<Holding>, Duration)>) {
    let sent = locks.context.clock.now();
    due.retain(|(holding, ttl)| holding.asks(sent, *ttl));
    let Some(kind) = due.first().map(|(holding, _)| holding.kind) else { return };
    let Ok(store) = locks.context.background_coordination() else {
        // Closed: this task is about to be ended.
        return due.iter().for_each(|(holding, _)| locks.keeping.forget(holding.token));
    };
    // Over before any of them is due again.
    let patience = due.iter().map(|(_, ttl)| *ttl / 4).min().unwrap_or_default().min(locks.timeout());
    let tickets: Vec<_> = due
        .iter()
        .map(|(holding, ttl)| (Ticket { lock: holding.name.to_string(), token: holding.token }, *ttl))
        .collect();
    let answer = match kind {
        Kind::Lock => store.extend(&tickets, patience).await,
        Kind::Permit => store.renew_permits(&tickets, patience).await,
    };
    let now = locks.context.clock.now();
    let held = answer.unwrap_or_else(|_| vec![None; due.len()]);
    for ((holding, ttl), held) in due.into_iter().zip(held) {
        match held {
            Some(held) if held && holding.renewed(sent, ttl) => locks.keeping.renewed(holding.token, sent),
            Some(held) => {
                locks.keeping.forget(holding.token);
                if !held && holding.end() {
                    locks.meter.lost();
                }
            }
            // What comes of it shows at the guards' deadlines.
            None => locks.keeping.failed(holding.token, now),
        }
    }
}
