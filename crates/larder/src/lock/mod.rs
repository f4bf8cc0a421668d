//! Distributed locks with fences.
//!
//! A lock is a name that one attempt's random token stands under, with a time to live. Taking it, extending it and
//! freeing it are each one atomic step on the server, and each compares the token, so nobody frees what is another's.
//! Every grant carries a fence, a number higher than any before it: a resource that remembers the highest fence it has
//! seen can refuse a holder that was paused past its time, which no lock alone can (Kleppmann, "How to do distributed
//! locking", 2016).
//!
//! Not promised yet: an order among those who wait. They ask again after short random pauses.

mod guard;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::call::Call;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Acquired, Store};
pub use guard::{Fence, Guard, Release};

const DEFAULT_TTL: Duration = Duration::from_secs(30);
const SHORTEST_TTL: Duration = Duration::from_millis(10);
const LONGEST_TTL: Duration = Duration::from_secs(24 * 3600);

/// The pauses between asking for a lock that is taken, before jitter.
const SHORTEST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// A lock by its name. Made by [`Larder::lock`](crate::Larder::lock); taking it gives a [`Guard`].
///
/// Locks belong to the guard, not to a task or a process, and are not reentrant: a second `acquire` by the same task
/// waits for the first guard like anybody's. Those who wait ask again after short random pauses; there is no order
/// among them. A server that evicts can evict a lock: give locks one that does not.
///
/// ```
/// # use std::time::Duration;
/// # async fn run() -> larder::Result<()> {
/// # let larder = larder::Larder::connect("memory:").await?;
/// let reports = larder.lock("reports").ttl(Duration::from_secs(10));
/// let guard = reports.acquire().await?;
/// assert!(reports.try_acquire().await?.is_none());
/// guard.extend(Duration::from_secs(10)).await?;
/// guard.release().await?;
/// # Ok(())
/// # }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run()).unwrap();
/// ```
#[derive(Clone)]
#[must_use = "a lock is taken by acquire(), acquire_within() or try_acquire()"]
pub struct Lock {
    context: Arc<Context>,
    name: String,
    ttl: Duration,
}

impl Lock {
    pub(crate) fn new(context: Arc<Context>, name: &str) -> Self {
        Self { name: context.keyspace.lock(name), context, ttl: DEFAULT_TTL }
    }

    /// How long the lock is held unless it is extended or released before: 10 ms to 24 hours. Default: 30 s.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Takes the lock, waiting as long as it takes. [`acquire_within`](Self::acquire_within) waits for a bounded time and
    /// tells a lock that others hold from a server that does not answer, which `.timeout()` does not.
    ///
    /// One round trip where the lock is free.
    ///
    /// # Errors
    ///
    /// What stands in the way of any request; `InvalidSetting` for a time to live out of bounds.
    ///
    /// # Cancel safety
    ///
    /// A dropped call leaves no lock behind: if the server granted it all the same, it is freed in the background.
    pub fn acquire(&self) -> Call<'_, impl Future<Output = Result<Guard>> + Send> {
        self.acquire_within(Duration::MAX)
    }

    /// Takes the lock, waiting no longer than `patience`.
    ///
    /// # Errors
    ///
    /// `LockHeld` where others held it all the time; else as [`acquire`](Self::acquire).
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Self::acquire).
    pub fn acquire_within(&self, patience: Duration) -> Call<'_, impl Future<Output = Result<Guard>> + Send> {
        let answer_within = self.context.limits.response_timeout;
        // The call's own deadline lies behind, so that contention and an outage are told apart.
        Call::new(patience.saturating_add(answer_within), &self.context.lock_meter.acquire, async move {
            let end = self.context.clock.now().after(patience);
            let mut pause = SHORTEST_PAUSE;
            loop {
                let attempt = tokio::time::timeout(answer_within, self.attempt()).await;
                let remaining = match attempt.unwrap_or_else(|_| Err(Error::timed_out(answer_within)))? {
                    Ok(guard) => return Ok(guard),
                    Err(remaining) => remaining,
                };
                let left = end.since(self.context.clock.now());
                if left.is_zero() {
                    return Err(Error::new(
                        ErrorKind::LockHeld,
                        format!("the lock was held for {patience:?}"),
                    ));
                }
                let jittered = pause.mul_f64(0.5 + self.context.random.fraction() / 2.0);
                tokio::time::sleep(jittered.min(remaining.max(SHORTEST_PAUSE)).min(left)).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        })
    }

    /// Takes the lock if it is free at this moment.
    ///
    /// One round trip.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire). That somebody else holds it is no error, but `None`.
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Self::acquire).
    pub fn try_acquire(&self) -> Call<'_, impl Future<Output = Result<Option<Guard>>> + Send> {
        Call::new(self.context.limits.response_timeout, &self.context.lock_meter.acquire, async move {
            Ok(self.attempt().await?.ok())
        })
    }

    /// One attempt: a guard, or how long the lock may still be held.
    async fn attempt(&self) -> Result<Result<Guard, Duration>> {
        check_ttl(self.ttl)?;
        self.context.limits.check_key(&self.name)?;
        let store = self.context.store()?;
        let attempt = Attempt {
            context: &self.context,
            name: &self.name,
            token: self.context.random.nonce(),
            ttl: self.ttl,
            settled: false,
        };
        // Counted from before the request leaves: the server cannot have started the time to live earlier.
        let sent = self.context.clock.now();
        match store.acquire(&self.name, attempt.token, self.ttl).await? {
            Acquired::Granted { fence } => {
                let token = attempt.settle();
                let deadline = sent.after(self.ttl);
                Ok(Ok(Guard::new(
                    self.context.clone(),
                    self.name.clone(),
                    token,
                    Fence::new(fence),
                    deadline,
                )))
            }
            Acquired::Held { remaining } => {
                attempt.settle();
                Ok(Err(remaining))
            }
        }
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock").field("name", &self.name).field("ttl", &self.ttl).finish_non_exhaustive()
    }
}

fn check_ttl(ttl: Duration) -> Result<()> {
    if !(SHORTEST_TTL..=LONGEST_TTL).contains(&ttl) {
        return Err(Error::invalid(format!(
            "a lock is held for {SHORTEST_TTL:?} to {LONGEST_TTL:?}, not for {ttl:?}"
        )));
    }
    Ok(())
}

/// A request for a lock whose answer is not known. If it never will be, because the caller left or the connection
/// broke, the server may have granted the lock: it is freed.
struct Attempt<'a> {
    context: &'a Arc<Context>,
    name: &'a str,
    token: u64,
    ttl: Duration,
    settled: bool,
}

impl Attempt<'_> {
    fn settle(mut self) -> u64 {
        self.settled = true;
        self.token
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.settled {
            self.context.release_in_background(self.name.to_owned(), self.token, self.ttl);
        }
    }
}
