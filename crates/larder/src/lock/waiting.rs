//! Who waits in line for locks in this process, and the heartbeat that keeps their places.
//!
//! The problem: the server cannot know whether who stands in line still lives, and a lock that is handed to the dead stands
//! still. The mechanism: while anybody waits here, one task tells the store so, 4.5 times a second, all places of all
//! locks in one request (one a slot on a cluster). That request also hands on what is free, and its answer says whose turn it is:
//! so a wake-up that was lost costs one beat.
//!
//! Invariants: one task, none while nobody waits. A waiter that is told to come is told once more with each beat until it does.
//!
//! Not guaranteed: that a waiter whose future nobody polls comes. It is passed over, and keeps its place while its process
//! lives.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};

use super::locks::Locks;
use crate::clock::Tick;
use crate::store::lock::{LockStore, Pace, Ticket, Turn};

/// How long a beat is waited for: if its answer is lost, the next is sent while the waiters still count as alive.
const PATIENCE: Duration = Duration::from_millis(400);

#[derive(Default)]
pub(super) struct Waiting {
    table: Mutex<Table>,
    left: Notify,
}

#[derive(Default)]
struct Table {
    /// By lock, then by token, as the store wants them.
    places: BTreeMap<(String, u64), Known>,
    beats: bool,
}

struct Known {
    told: Arc<Notify>,
    /// When the last heartbeat for it was sent that was answered.
    answered: Option<Tick>,
}

/// A place in line: kept until it is dropped.
pub(super) struct Place {
    locks: Arc<Locks>,
    key: (String, u64),
    pub(super) told: Arc<Notify>,
}

impl Waiting {
    /// Keeps the place of an attempt that stands in line.
    pub(super) fn join(locks: &Arc<Locks>, lock: &str, token: u64) -> Place {
        let (key, told) = ((lock.to_owned(), token), Arc::new(Notify::new()));
        let mut table = locks.waiting.table();
        table.places.insert(key.clone(), Known { told: told.clone(), answered: None });
        if !table.beats {
            table.beats = true;
            locks.context.background.spawn_until_close(beat(locks.clone()));
        }
        drop(table);
        Place { locks: locks.clone(), key, told }
    }

    /// When a heartbeat for this place was last answered.
    pub(super) fn answered(&self, lock: &str, token: u64) -> Option<Tick> {
        self.table().places.get(&(lock.to_owned(), token))?.answered
    }

    pub(super) fn wake_all(&self) {
        self.table().places.values().for_each(|known| known.told.notify_one());
    }

    #[cfg(test)]
    pub(super) fn anybody(&self) -> bool {
        !self.table().places.is_empty()
    }

    /// Completes when nobody waits.
    pub(super) async fn emptied(&self) {
        loop {
            let left = self.left.notified();
            if self.table().places.is_empty() {
                return;
            }
            left.await;
        }
    }

    fn tickets(&self) -> Vec<Ticket> {
        let mut table = self.table();
        table.beats = !table.places.is_empty();
        table.places.keys().map(|(lock, token)| Ticket { lock: lock.clone(), token: *token }).collect()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.locks.waiting.table().places.remove(&self.key);
        self.locks.waiting.left.notify_waiters();
    }
}

/// Says that the heartbeat has ended, also where its runtime has, so that the next who waits starts another.
struct Beating {
    locks: Arc<Locks>,
    /// It came to its own end, and another may beat by now.
    ended: bool,
}

impl Drop for Beating {
    fn drop(&mut self) {
        if !self.ended {
            self.locks.waiting.table().beats = false;
        }
    }
}

async fn beat(locks: Arc<Locks>) {
    let mut beating = Beating { locks: locks.clone(), ended: false };
    let mut ticks = interval(Pace::BEAT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick is now, and whoever has just come to stand in line was heard of.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let tickets = locks.waiting.tickets();
        if tickets.is_empty() {
            beating.ended = true;
            return;
        }
        let Ok(store) = locks.context.background_coordination() else { return locks.waiting.wake_all() };
        let sent = locks.context.clock.now();
        locks.meter.beat();
        let answer = store.stand_by(&tickets, PATIENCE.min(locks.timeout())).await;
        let mut table = locks.waiting.table();
        match answer {
            Ok(turns) => {
                for (ticket, turn) in tickets.into_iter().zip(turns) {
                    let Some(known) = table.places.get_mut(&(ticket.lock, ticket.token)) else { continue };
                    if turn.is_some() {
                        known.answered = Some(sent);
                    }
                    // Where nothing was answered it asks for itself, and learns what is the matter.
                    if turn != Some(Turn::Waits) {
                        known.told.notify_one();
                    }
                }
            }
            Err(_) => table.places.values().for_each(|known| known.told.notify_one()),
        }
    }
}
