//! Elections: one process of the fleet leads, the others wait to take its place, and all can see who leads.
//!
//! An election is a lock that is held for a role, so everything that is proved of locks is true of it: one leader, who
//! knows when it is lost; candidates in the order in which they came; a handover when the leader resigns. What is new
//! is the leader's value, which is stored behind the fence by the same step that grants the lock, so that both are read
//! together.
//!
//! Observers read the lock's key on the tracked connection, and are notified when it changes.
//!
//! Not guaranteed: that no two processes act as leaders. A leader that was stopped acts late: what it writes to checks
//! the fence.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::stream::{self, BoxStream, Stream, StreamExt};

use super::fence::{Fence, ReleaseOutcome};
use super::guard::{Guard, LockHandle};
use super::locks::Coordinator;
use super::{Lock, holder::Holder};
use crate::call::Call;
use crate::error::{Error, Result};
use crate::near::Watch;
use crate::store::Store;

const LONGEST_VALUE: usize = 512;
/// The longest an observer waits for a notification before it looks for itself.
const LONGEST_SILENCE: Duration = Duration::from_secs(1);
/// Between two looks while the server is away.
const PAUSE: Duration = Duration::from_millis(200);

/// An election by its name. Made by [`Larder::election`](crate::Larder::election).
///
/// ```
/// # async fn run() -> larder::Result<()> {
/// # let larder = larder::Larder::connect("memory:").await?;
/// let election = larder.election("scheduler").value("10.0.0.7:8080");
/// let leadership = election.campaign().await?;                       // waits until this process leads
/// let leader = election.leader().await?.expect("there is one");
/// assert_eq!((leader.value.as_str(), leader.fence), ("10.0.0.7:8080", leadership.fence()));
/// leadership.resign().await?;
/// # Ok(())
/// # }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run()).unwrap();
/// ```
#[derive(Clone)]
#[must_use = "an election is entered by campaign() or run()"]
pub struct Election {
    lock: Lock,
}

impl Election {
    pub(crate) fn new(locks: Arc<Coordinator>, name: &str) -> Self {
        let name = locks.context.keyspace.election(name).into();
        Self { lock: Lock::named(locks, name).max_hold(Duration::MAX).keep_alive() }
    }

    /// What others are told of this process while it leads, such as its address: 1 to 512 bytes. Default:
    /// `<host>:<process id>`.
    pub fn value(mut self, value: impl AsRef<str>) -> Self {
        self.lock.by = Some(format!(" {}", value.as_ref()).into());
        self
    }

    /// The lease of a leader, which is renewed: how long the fleet is without a leader after one died. Default: 30 s.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.lock = self.lock.ttl(ttl);
        self
    }

    /// Has no leader after a failover until every lease of the old master is over: see [`Lock::quarantine`]. [`run`](Self::run)
    /// waits for that.
    pub fn quarantine(mut self, max_lease: Duration) -> Self {
        self.lock = self.lock.quarantine(max_lease);
        self
    }

    /// Leads only when so many replicas have acknowledged it: see [`Lock::replicated`].
    pub fn replicated(mut self, replicas: u32) -> Self {
        self.lock = self.lock.replicated(replicas);
        self
    }

    /// Waits until this process leads. Candidates take turns in the order in which they came.
    ///
    /// # Errors
    ///
    /// As [`Lock::acquire`]; `InvalidSetting` for a value out of bounds.
    ///
    /// # Cancel safety
    ///
    /// A dropped call leaves the queue, and gives up what it was given.
    pub async fn campaign(&self) -> Result<Leadership> {
        self.check()?;
        Ok(Leadership { guard: self.lock.acquire().await? })
    }

    /// Leads whenever it is this process's turn: campaigns, runs the body, drops it at its next await when the
    /// leadership is lost, and campaigns again. Returns when a body ends, after resigning.
    ///
    /// # Errors
    ///
    /// As [`campaign`](Self::campaign), except those that another try may cure: it campaigns again.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the body, and resigns in the background.
    pub async fn run<T, F>(&self, mut body: impl FnMut(LockHandle) -> F) -> Result<T>
    where
        F: Future<Output = T>,
    {
        loop {
            let leadership = match self.campaign().await {
                Ok(leadership) => leadership,
                Err(error) if error.is_retryable() || error.kind() == crate::ErrorKind::LockLost => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            if let Ok(result) = Lock::hold_for(&leadership.guard, &mut body).await {
                // Where this fails it is freed in the background.
                let _ = leadership.resign().await;
                return Ok(result);
            }
        }
    }

    /// Returns who leads: value and fence, read in one step. `None` while nobody does, or leadership is being handed
    /// over.
    ///
    /// One round trip.
    ///
    /// # Errors
    ///
    /// Those of any request.
    pub fn leader(&self) -> Call<'_, impl Future<Output = Result<Option<Leader>>> + Send> {
        let locks = &self.lock.locks;
        Call::new(locks.timeout(), &locks.meter.holder, self.look())
    }

    /// Follows who leads, by notifications of the server: a stream of the leader, or none, which begins with the present one.
    ///
    /// Two round trips, and two after each change. Changes that follow each other quickly may be seen as one. Where the
    /// server notifies nobody, it is asked once a second.
    ///
    /// # Errors
    ///
    /// Those of any request. Later the stream waits through outages; it ends where another try would not help, such as when
    /// the server refuses the request, or the `Larder` is closed.
    ///
    /// # Cancel safety
    ///
    /// Nothing is changed.
    pub async fn observe(&self) -> Result<Leaders> {
        let watch = self.lock.locks.changes().watch(&self.lock.name);
        let mut follow = Follow { election: self.clone(), watch, last: None };
        let first = follow.look().await?;
        follow.last = first.clone();
        let later = stream::unfold(follow, async |mut follow| {
            let leader = follow.next().await.ok()?;
            Some((leader, follow))
        });
        Ok(Leaders { changes: stream::iter([first]).chain(later).boxed() })
    }

    async fn look(&self) -> Result<Option<Leader>> {
        self.check()?;
        Ok(self.lock.look().await?.map(Leader::of))
    }

    fn check(&self) -> Result<()> {
        let length = self.lock.by.as_ref().map_or(1, |value| value.len() - 1);
        if !(1..=LONGEST_VALUE).contains(&length) {
            return Err(Error::invalid(format!(
                "a leader's value has 1 to {LONGEST_VALUE} bytes, not {length}"
            )));
        }
        self.lock.check()
    }
}

impl fmt::Debug for Election {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Election").field("name", &self.lock.name).finish_non_exhaustive()
    }
}

/// Who leads. Made by [`Election::leader`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leader {
    /// What it says of itself: see [`Election::value`].
    pub value: String,
    /// The number of its grant.
    pub fence: Fence,
    /// Since when, by the server's clock; later where that clock has stepped back.
    pub since: SystemTime,
}

impl Leader {
    fn of(holder: Holder) -> Self {
        let since = UNIX_EPOCH + Duration::from_micros(holder.fence.get());
        Self { value: holder.process, fence: holder.fence, since }
    }
}

/// The leadership of this process, until it resigns, drops it, or loses it. Made by [`Election::campaign`].
#[must_use = "a leadership that is dropped at once is resigned"]
#[derive(Debug)]
pub struct Leadership {
    guard: Guard,
}

impl Leadership {
    /// The number of this grant: what the leader writes to refuses lower ones.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.guard.fence()
    }

    /// Whether this process certainly still leads: see [`Guard::is_valid`].
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.guard.is_valid()
    }

    /// How long it certainly still does: see [`Guard::remaining`].
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.guard.remaining()
    }

    /// Completes when the leadership is lost: see [`Guard::lost`].
    ///
    /// # Cancel safety
    ///
    /// It may be dropped and asked for again.
    pub fn lost(&self) -> impl Future<Output = ()> + Send + use<> {
        self.guard.lost()
    }

    /// Hands the leadership to the next candidate.
    ///
    /// # Errors
    ///
    /// As [`Guard::release`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future resigns in the background.
    pub async fn resign(self) -> Result<ReleaseOutcome> {
        self.guard.release().await
    }
}

/// Who leads, now and whenever that changes: a [`Stream`] of a [`Leader`], or of none. Made by [`Election::observe`].
#[must_use = "a stream does nothing unless it is polled"]
pub struct Leaders {
    changes: BoxStream<'static, Option<Leader>>,
}

impl Leaders {
    /// Returns who leads, or none, at once the first time and then when that changes; `None` at the end of the stream. The
    /// same as `StreamExt::next`.
    ///
    /// # Cancel safety
    ///
    /// A dropped call misses nothing.
    pub async fn next(&mut self) -> Option<Option<Leader>> {
        self.changes.next().await
    }
}

impl Stream for Leaders {
    type Item = Option<Leader>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.changes.poll_next_unpin(cx)
    }
}

impl fmt::Debug for Leaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaders").finish_non_exhaustive()
    }
}

struct Follow {
    election: Election,
    watch: Watch,
    last: Option<Leader>,
}

impl Follow {
    /// The next change. It waits through an outage.
    async fn next(&mut self) -> Result<Option<Leader>> {
        loop {
            match self.look().await {
                Ok(leader) if self.last == leader => self.watch.changed(LONGEST_SILENCE).await,
                Ok(leader) => {
                    self.last = leader.clone();
                    return Ok(leader);
                }
                Err(error) if error.is_retryable() => tokio::time::sleep(PAUSE).await,
                Err(error) => return Err(error),
            }
        }
    }

    async fn look(&self) -> Result<Option<Leader>> {
        let Lock { locks, name, .. } = &self.election.lock;
        let asked = async {
            // Tracked before the look, so that a change in between is notified.
            locks.store()?.get_tracked(name).await?;
            self.election.look().await
        };
        tokio::time::timeout(locks.timeout(), asked)
            .await
            .unwrap_or_else(|_| Err(Error::timed_out(locks.timeout())))
    }
}
