//! Distributed semaphores: so many permits, leased and renewed, given first come, first served.
//!
//! A permit is a token with an end in the store. While its guard lives it is renewed with the locks that are kept alive; a
//! holder that dies gives it back when its lease ends. Who finds all taken waits at the door, a lock with a line like any
//! other: its holder alone is let in next, and is told when a permit comes back. So nobody who comes later overtakes, and a
//! permit that comes back wakes one process.
//!
//! Invariants: never more permits than the number given, where all give the same; a permit that was lost stays lost.
//!
//! Not guaranteed: a fence. Several hold at once, so no order of theirs could be checked.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::attempt::{Attempt, Outcome};
use super::fence::Release;
use super::guard::Guard;
use super::holding::{Holding, Parting, lost};
use super::keeping::Keeping;
use super::locks::{Ending, Locks};
use super::{DEFAULT_MAX_HOLD, DEFAULT_TTL, Keep, check_ttl};
use crate::call::Call;
use crate::clock::Tick;
use crate::error::{Error, ErrorKind, Result};
use crate::store::Store;
use crate::store::lock::Pace;
use crate::store::permit::{PermitStore, Taken, bell_name, door_name};

/// The door's, which is kept alive: how long others wait where its holder dies.
const DOOR_TTL: Duration = Duration::from_secs(2);
/// The longest wait for the bell before a look.
const LONGEST_SILENCE: Duration = Duration::from_millis(500);
/// Where nothing says when a look may help.
const PAUSE: Duration = Duration::from_millis(50);

/// A semaphore by its name. Made by [`Larder::semaphore`](crate::Larder::semaphore); taking a permit gives a [`SemaphorePermit`].
#[derive(Clone)]
#[must_use = "a permit is taken by acquire(), acquire_within() or try_acquire()"]
pub struct Semaphore {
    locks: Arc<Locks>,
    name: Arc<str>,
    permits: u64,
    ttl: Duration,
    max_hold: Duration,
}

impl Semaphore {
    pub(crate) fn new(locks: Arc<Locks>, name: &str, permits: u64) -> Self {
        let name = locks.context.keyspace.semaphore(name).into();
        Self { name, locks, permits, ttl: DEFAULT_TTL, max_hold: DEFAULT_MAX_HOLD }
    }

    /// The lease of a permit, which is renewed while its guard lives: how long others wait for a holder that died. 10 ms to
    /// 24 hours. Default: 30 s.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// The longest that a permit is renewed, counted from when it was taken. Default: 1 hour.
    pub fn max_hold(mut self, max_hold: Duration) -> Self {
        self.max_hold = max_hold;
        self
    }

    /// Takes a permit, waiting in line as long as it takes.
    ///
    /// One round trip where one is free and nobody waits; else four and one for each look.
    ///
    /// # Errors
    ///
    /// What stands in the way of any request; `InvalidSetting` for no permits, a lease out of bounds, or
    /// a `max_hold` below it.
    ///
    /// # Cancel safety
    ///
    /// A dropped call leaves no permit and no place in line behind.
    pub fn acquire(&self) -> Call<'_, impl Future<Output = Result<SemaphorePermit>> + Send> {
        self.acquire_within(Duration::MAX)
    }

    /// Takes a permit, waiting in line no longer than `patience`.
    ///
    /// # Errors
    ///
    /// `LockHeld` where all were taken all the time; else as [`acquire`](Self::acquire).
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Self::acquire).
    pub fn acquire_within(
        &self,
        patience: Duration,
    ) -> Call<'_, impl Future<Output = Result<SemaphorePermit>> + Send> {
        let longest = patience.saturating_add(2 * self.locks.timeout());
        Call::new(longest, &self.locks.meter.acquire, async move {
            if let Some(permit) = self.try_once().await? {
                return Ok(permit);
            }
            let end = (patience != Duration::MAX).then(|| self.locks.context.clock.now().after(patience));
            let held = || Error::new(ErrorKind::LockHeld, format!("all permits were taken for {patience:?}"));
            Box::pin(self.at_the_door(end)).await?.ok_or_else(held)
        })
    }

    /// Takes a permit if one is free at this moment and nobody waits.
    ///
    /// One round trip.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire). That all are taken is no error, but `None`.
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Self::acquire).
    pub fn try_acquire(&self) -> Call<'_, impl Future<Output = Result<Option<SemaphorePermit>>> + Send> {
        Call::new(self.locks.timeout(), &self.locks.meter.acquire, self.try_once())
    }

    async fn try_once(&self) -> Result<Option<SemaphorePermit>> {
        check_ttl(self.ttl)?;
        if self.permits == 0 {
            return Err(Error::invalid("a semaphore has at least one permit"));
        }
        if self.max_hold < self.ttl {
            return Err(Error::invalid("max_hold is at least the time to live"));
        }
        self.locks.context.limits.check_key(&self.name)?;
        self.locks.context.check_coordination()?;
        Ok(self.take(None).await?.ok())
    }

    /// Waits until it is this call's turn, and then until a permit is free. `None` at `end`.
    async fn at_the_door(&self, end: Option<Tick>) -> Result<Option<SemaphorePermit>> {
        let began = self.locks.context.clock.now();
        loop {
            let door = match Attempt::within(&self.locks, &door_name(&self.name).into(), DOOR_TTL, end).await
            {
                Ok(Outcome::Granted(holding)) => {
                    Guard::uncounted(holding, DOOR_TTL, Some(Keep { max_hold: Duration::MAX }))
                }
                Ok(Outcome::Held) => return Ok(None),
                // It was not the door that was asked for: to the end of the line.
                Err(error) if error.kind() == ErrorKind::LockLost => continue,
                Err(error) => return Err(error),
            };
            match self.first_in_line(door, began, end).await? {
                Looked::Permit(permit) => return Ok(Some(permit)),
                Looked::TooLate => return Ok(None),
                Looked::LostTheDoor => {}
            }
        }
    }

    /// Waits until a permit is free, as the one that holds the door.
    async fn first_in_line(&self, door: Guard, began: Tick, end: Option<Tick>) -> Result<Looked> {
        let clock = &self.locks.context.clock;
        let bell_name = bell_name(&self.name);
        let mut bell = self.locks.changes().watch(&bell_name);
        loop {
            // Listened to before the look, so that what comes back in between rings.
            let store = self.locks.store()?;
            let listening = store.get_tracked(&bell_name);
            timeout(self.locks.timeout(), listening)
                .await
                .unwrap_or_else(|_| Err(Error::timed_out(self.locks.timeout())))?;
            let first_ends = match self.take(Some(door.token())).await? {
                Ok(permit) => {
                    self.locks.meter.waited(clock.now().since(began));
                    // Others come to the door now; nobody waits for that here.
                    drop(door);
                    return Ok(Looked::Permit(permit));
                }
                Err(first_ends) => first_ends,
            };
            if !door.is_valid() {
                return Ok(Looked::LostTheDoor);
            }
            let left = end.map_or(LONGEST_SILENCE, |end| end.since(clock.now()));
            if left.is_zero() {
                return Ok(Looked::TooLate);
            }
            let soonest = if first_ends.is_zero() { PAUSE } else { first_ends.min(LONGEST_SILENCE) };
            bell.changed(left.min(soonest)).await;
        }
    }

    /// A permit, or how long until the first that is taken ends.
    async fn take(&self, door: Option<u64>) -> Result<Result<SemaphorePermit, Duration>> {
        let store = self.locks.store()?;
        let mut attempt =
            Taking { semaphore: self, token: self.locks.context.random.nonce(), settled: false };
        let sent = self.locks.context.clock.now();
        let asked = store.take_permit(&self.name, attempt.token, self.permits, self.ttl, door);
        let answer = timeout(self.locks.timeout(), asked)
            .await
            .unwrap_or_else(|_| Err(Error::timed_out(self.locks.timeout())))?;
        Ok(match answer {
            Taken::Permit => {
                let (locks, name) = (self.locks.clone(), self.name.clone());
                let holding = Holding::of_permit(locks, name, attempt.token, sent, self.ttl);
                if !holding.is_valid() {
                    return Err(lost());
                }
                attempt.settled = true;
                Ok(SemaphorePermit::new(holding, self))
            }
            Taken::Full { first_ends } => {
                attempt.settled = true;
                Err(first_ends)
            }
            Taken::Gone => Err(Duration::ZERO),
        })
    }
}

/// What came of waiting with the door in hand.
enum Looked {
    Permit(SemaphorePermit),
    TooLate,
    LostTheDoor,
}

/// An attempt at a permit, which leaves nothing behind.
struct Taking<'a> {
    semaphore: &'a Semaphore,
    token: u64,
    settled: bool,
}

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        if !self.settled {
            let Semaphore { locks, name, ttl, .. } = self.semaphore;
            let ending = Ending::GivePermit(Some(Pace::REMEMBERED));
            locks.end_in_background(name.clone(), self.token, (*ttl).max(Pace::REMEMBERED), ending);
        }
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore")
            .field("name", &self.name)
            .field("permits", &self.permits)
            .finish_non_exhaustive()
    }
}

/// A permit of a semaphore: renewed until it is released or dropped. Made by [`Semaphore`].
#[must_use = "a permit that is dropped at once is given back"]
pub struct SemaphorePermit {
    holding: Arc<Holding>,
    parting: Option<Parting>,
    ended: bool,
}

impl SemaphorePermit {
    fn new(holding: Holding, semaphore: &Semaphore) -> Self {
        let holding = Arc::new(holding);
        holding.locks.meter.granted();
        Keeping::keep(&holding, semaphore.ttl, semaphore.max_hold);
        Self { holding, parting: None, ended: false }
    }

    /// As [`Guard::remaining`].
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.holding.remaining()
    }

    /// As [`Guard::is_valid`].
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.holding.is_valid()
    }

    /// As [`Guard::lost`].
    ///
    /// # Cancel safety
    ///
    /// It may be dropped and asked for again.
    pub fn lost(&self) -> impl Future<Output = ()> + Send + use<> {
        self.holding.lost()
    }

    /// Gives the permit back.
    ///
    /// One round trip.
    ///
    /// # Errors
    ///
    /// As [`Guard::release`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives the permit back in the background.
    pub async fn release(mut self) -> Result<Release> {
        let holding = self.holding.clone();
        let locks = &holding.locks;
        self.let_go();
        let answer = Call::new(locks.timeout(), &locks.meter.release, async {
            locks.store()?.give_permit(&holding.name, holding.token, None).await
        })
        .await;
        match answer {
            Ok(held) => {
                self.ended = true;
                Ok(if held { Release::Released } else { Release::AlreadyLost })
            }
            Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::Disconnected) => {
                Ok(Release::Unknown)
            }
            Err(error) => Err(error),
        }
    }

    /// Ends the renewals and what is believed, before the permit is given back.
    fn let_go(&mut self) -> Parting {
        *self.parting.get_or_insert_with(|| {
            self.holding.locks.keeping.forget(self.holding.token);
            self.holding.part()
        })
    }
}

impl Drop for SemaphorePermit {
    fn drop(&mut self) {
        let Parting { may_be_held, .. } = self.let_go();
        let Holding { locks, name, token, granted, .. } = &*self.holding;
        locks.meter.held(locks.context.clock.now().since(*granted));
        if !self.ended && may_be_held {
            let left = self.holding.may_last();
            locks.end_in_background(name.clone(), *token, left, Ending::GivePermit(None));
        }
    }
}

impl fmt::Debug for SemaphorePermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SemaphorePermit").field("remaining", &self.remaining()).finish_non_exhaustive()
    }
}
