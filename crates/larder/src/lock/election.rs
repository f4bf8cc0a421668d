//! Elections: one process of the fleet leads, the others wait to take its place, and all can see the leader.
//!
//! An election is a lock that is held for a role, so it has all guarantees of locks: one leader, which learns when
//! the leadership is lost; candidates in order of arrival; a handover when the leader resigns. An election adds the
//! leader's value, which is stored next to the fence in the step that grants the lock, so that both are read
//! together.
//!
//! Observers read the lock's key on the tracking connection, and are notified when it changes. While that connection
//! is healthy they send nothing until then, as near reads do. A lease that ends is no change that every server reports
//! in time, so an observer also reads again when the lease that it knows is over. It polls only where the server does
//! not track, or the connection has fallen silent.
//!
//! Not guaranteed: that no two processes act as leader. A leader that was paused acts late: let the resource that
//! it writes to check the fence.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::stream::{self, BoxStream, Stream, StreamExt};

use super::coordinator::Coordinator;
use super::guard::{Guard, LockHandle};
use super::release::ReleaseOutcome;
use super::{Lock, holder::Holder};
use crate::background::{Retry, retry, retry_with};
use crate::backoff::Backoff;
use crate::call::Call;
use crate::clock::Tick;
use crate::error::{Error, ErrorKind, Result};
use crate::fence::Fence;
use crate::near::Watch;
use crate::store::Store;
use crate::store::session::ReadStamp;

const LONGEST_VALUE: usize = 512;
/// How often an observer reads if the server does not report changes. While it does, this is how often the observer
/// checks its connection, without a request.
const POLL: Duration = Duration::from_secs(1);
/// How long after the end of a lease an observer reads: a server counts whole milliseconds.
const LEASE_MARGIN: Duration = Duration::from_millis(2);

/// An election with a name. Made by [`Larder::election`](crate::Larder::election).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> larder::Result<()> {
/// # let larder = larder::Larder::connect("memory:").await?;
/// let election = larder.election("scheduler").value("10.0.0.7:8080");
/// let leadership = election.campaign().await?;                       // waits until this process leads
/// let leader = election.leader().await?.expect("there is one");
/// assert_eq!((leader.value.as_str(), leader.fence), ("10.0.0.7:8080", leadership.fence()));
/// leadership.resign().await?;
/// # Ok(())
/// # }
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

    /// Sets the value that others see while this process leads, such as its address: 1 to 512 bytes. Default:
    /// `<host>:<process id>`.
    pub fn value(mut self, value: impl AsRef<str>) -> Self {
        self.lock.by = Some(format!(" {}", value.as_ref()).into());
        self
    }

    /// Sets the time to live of a leadership: how long the fleet has no leader after one died. It is renewed.
    /// Default: 30 s.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.lock = self.lock.ttl(ttl);
        self
    }

    /// Allows no leader after a failover until every lease of the old master has expired: see [`Lock::quarantine`].
    /// [`run`](Self::run) waits for that.
    pub fn quarantine(mut self, max_lease: Duration) -> Self {
        self.lock = self.lock.quarantine(max_lease);
        self
    }

    /// Leads only when this many replicas have acknowledged the leadership: see [`Lock::replicated`].
    pub fn replicated(mut self, replicas: u32) -> Self {
        self.lock = self.lock.replicated(replicas);
        self
    }

    /// Waits until this process leads. Candidates lead in order of arrival.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    #[doc = include_str!("../doc/lock_errors.md")]
    ///
    /// # Cancel safety
    ///
    /// A dropped call leaves the queue, and resigns if it was granted the leadership.
    pub async fn campaign(&self) -> Result<Leadership> {
        self.check()?;
        Ok(Leadership { guard: self.lock.acquire().await? })
    }

    /// Leads whenever it is this process's turn: campaigns and runs the body. If the leadership is lost, drops the
    /// body at its next await and campaigns again. When a body ends, resigns and returns its result.
    ///
    /// # Errors
    ///
    /// An error that a retry may cure is not returned: the call campaigns again.
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    #[doc = include_str!("../doc/lock_errors.md")]
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the body, and resigns in the background.
    pub async fn run<T, F>(&self, mut body: impl FnMut(LockHandle) -> F) -> Result<T>
    where
        F: Future<Output = T>,
    {
        loop {
            // Short pauses, also after many failures: a candidate that pauses is not in the queue.
            let pauses = Backoff::new(Duration::from_millis(20), Duration::from_millis(200));
            let leadership = retry_with(pauses, async |_| match self.campaign().await {
                Err(error) if error.is_retryable() || error.kind() == ErrorKind::LockLost => Retry::Again,
                answer => Retry::Done(answer),
            })
            .await?;
            if let Ok(result) = Lock::hold_for(&leadership.guard, &mut body).await {
                // A release that fails is retried in the background.
                let _ = leadership.resign().await;
                return Ok(result);
            }
        }
    }

    /// Returns the leader's value and fence, read in one step. `None` if there is no leader, or the leadership is
    /// being handed over.
    ///
    /// One round trip.
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    pub fn leader(&self) -> Call<'_, impl Future<Output = Result<Option<Leader>>> + Send> {
        let locks = &self.lock.locks;
        Call::new(locks.context.limits.response_timeout, &locks.meter.holder, self.read_leader())
    }

    /// Observes the leader through notifications of the server. Returns a stream of the leader, or `None` if there
    /// is no leader; the first item is the current state.
    ///
    /// Two round trips, and two after each change of the lock, which includes each renewal by the leader; none while
    /// nothing changes. Changes in quick succession may be seen as one. If the server does not report changes, or the
    /// connection that it reports them on has fallen silent, the leader is read once a second.
    ///
    /// # Errors
    ///
    /// The first read can fail. Later the stream waits through outages, and ends if a retry would not help, for
    /// example because the server refuses the request or the `Larder` is closed.
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    ///
    /// # Cancel safety
    ///
    /// The call changes nothing.
    pub async fn observe(&self) -> Result<Leaders> {
        let watch = self.lock.locks.context.coordination_invalidations().watch(&self.lock.name);
        let mut follow = Follow { election: self.clone(), watch, last: None, observation: None };
        let (first, observation) = follow.read_leader().await?;
        (follow.last, follow.observation) = (first.clone(), Some(observation));
        let later = stream::unfold(follow, async |mut follow| {
            let leader = follow.next().await.ok()?;
            Some((leader, follow))
        });
        Ok(Leaders { changes: stream::iter([first]).chain(later).boxed() })
    }

    async fn read_leader(&self) -> Result<Option<Leader>> {
        self.check()?;
        Ok(self.lock.read_holder().await?.map(Holder::of).map(Leader::of))
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

/// The leader of an election. Made by [`Election::leader`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leader {
    /// The leader's own value: see [`Election::value`].
    pub value: String,
    /// The fence of its grant.
    pub fence: Fence,
    /// When it became the leader, by the server's clock; later than that if the clock has stepped back.
    pub since: SystemTime,
}

impl Leader {
    fn of(holder: Holder) -> Self {
        let since = UNIX_EPOCH + Duration::from_micros(holder.fence.get());
        Self { value: holder.process, fence: holder.fence, since }
    }
}

/// The leadership of this process, until it is resigned, dropped or lost. Made by [`Election::campaign`].
#[must_use = "a leadership that is dropped at once is resigned"]
#[derive(Debug)]
pub struct Leadership {
    guard: Guard,
}

impl Leadership {
    /// Returns the fence of this grant. Let the resources that the leader writes to refuse lower fences.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.guard.fence()
    }

    /// Returns whether this process certainly still leads: see [`Guard::is_valid`].
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.guard.is_valid()
    }

    /// Returns how long this process certainly still leads: see [`Guard::remaining`].
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.guard.remaining()
    }

    /// Completes when the leadership is lost: see [`Guard::lost`].
    ///
    /// # Cancel safety
    ///
    /// The future can be dropped and requested again.
    pub fn lost(&self) -> impl Future<Output = ()> + Send + use<> {
        self.guard.lost()
    }

    /// Hands the leadership to the next candidate.
    ///
    /// # Errors
    ///
    /// An error means that the release may be incomplete: it is retried in the background until the lease expires.
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    ///
    /// # Cancel safety
    ///
    /// Dropping the future resigns in the background.
    pub async fn resign(self) -> Result<ReleaseOutcome> {
        self.guard.release().await
    }
}

/// The leader now and after each change: a [`Stream`] of `Option<`[`Leader`]`>`. Made by [`Election::observe`].
#[must_use = "a stream does nothing unless it is polled"]
pub struct Leaders {
    changes: BoxStream<'static, Option<Leader>>,
}

impl Leaders {
    /// Waits for the next item: the current leader at once on the first call, then the leader after each change.
    /// The inner `None` means that there is no leader, the outer `None` is the end of the stream. The same as
    /// `StreamExt::next`.
    ///
    /// # Cancel safety
    ///
    /// A dropped call misses no change.
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
    observation: Option<Observation>,
}

/// For how long what was read last can be valid.
struct Observation {
    /// `None` if no change is reported.
    stamp: Option<ReadStamp>,
    /// The end of the lease, if there is one.
    ends: Option<Tick>,
}

impl Follow {
    /// Returns the leader after the next change. Waits through outages.
    async fn next(&mut self) -> Result<Option<Leader>> {
        loop {
            if let Some(observation) = self.observation.take() {
                self.until_it_may_have_changed(&observation).await;
            }
            let (leader, observation) = retry(async |_| match self.read_leader().await {
                Err(error) if error.is_retryable() => Retry::Again,
                answer => Retry::Done(answer),
            })
            .await?;
            self.observation = Some(observation);
            if self.last != leader {
                self.last = leader.clone();
                return Ok(leader);
            }
        }
    }

    /// Waits for a notification, or until the lease is over, or as long as changes are certainly reported.
    async fn until_it_may_have_changed(&mut self, observation: &Observation) {
        let locks = &self.election.lock.locks;
        loop {
            let now = locks.context.clock.now();
            let max_wait = observation.ends.map_or(POLL, |ends| ends.since(now).min(POLL));
            let reported = tokio::time::timeout(max_wait, self.watch.changed(Duration::MAX)).await.is_ok();
            let moment = locks.context.clock.moment();
            let tracked = |stamp| {
                locks.context.coordination().is_ok_and(|store| store.sessions().is_valid(stamp, moment))
            };
            let over = observation.ends.is_some_and(|ends| ends <= locks.context.clock.now());
            if reported || over || !observation.stamp.is_some_and(tracked) {
                return;
            }
        }
    }

    async fn read_leader(&self) -> Result<(Option<Leader>, Observation)> {
        let Lock { locks, name, .. } = &self.election.lock;
        let asked = async {
            self.election.check()?;
            // Start tracking before the read, so that a change after the read is notified.
            let stamp = locks.context.coordination()?.get_tracked(name).await?.stamp;
            Ok((stamp, self.election.lock.read_holder().await?))
        };
        let (stamp, holder) = tokio::time::timeout(locks.context.limits.response_timeout, asked)
            .await
            .unwrap_or_else(|_| Err(Error::timed_out(locks.context.limits.response_timeout)))?;
        // Counted from after the reply, so the server's lease is over by then. An operator can pin a leader by a key
        // that never expires; that is looked at as often as without tracking.
        let ends = holder.as_ref().map(|held| {
            let left = if held.remaining.is_zero() { POLL } else { held.remaining + LEASE_MARGIN };
            locks.context.clock.now().after(left)
        });
        Ok((holder.map(Holder::of).map(Leader::of), Observation { stamp, ends }))
    }
}
