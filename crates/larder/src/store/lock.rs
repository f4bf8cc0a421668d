//! The operations of a store on locks.
//!
//! A lock has a holder, a queue of waiting attempts, and a last fence. An attempt is a random token, used for
//! one [`acquire`](LockStore::acquire), which takes the lock or enqueues the token. A client that frees the
//! lock hands it to the first live waiter, under a short claim, and the store notifies the
//! [`InvalidationSink`](super::InvalidationSink) of that waiter's wake-up name. The notification is only a
//! hint: [`confirm`](LockStore::confirm) makes the holder. A claim that is not confirmed expires, and the
//! next [`heartbeat`](LockStore::heartbeat) of any waiter hands the lock on.

use std::future::Future;
use std::sync::LazyLock;
use std::time::Duration;

use arrayvec::ArrayString;

use crate::error::Result;
use crate::name::Name;

/// The timing of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueueTiming {
    /// How long a lock that was handed over waits for its confirmation.
    pub(crate) claim: Duration,
    /// How long a waiting attempt counts as live after a heartbeat. It keeps its place for
    /// [`KEPT`](Self::KEPT) times as long.
    pub(crate) live: Duration,
}

impl QueueTiming {
    /// How often a process sends heartbeats: fewer than five times a second.
    pub(crate) const BEAT: Duration = Duration::from_millis(220);
    /// Also in the scripts.
    pub(crate) const KEPT: u32 = 8;
    /// How long the store remembers a cancelled attempt whose request was under way: longer than a connection
    /// that does not answer is kept open.
    pub(crate) const REMEMBERED: Duration = Duration::from_secs(30);
}

impl Default for QueueTiming {
    /// A dead waiter at the head of the queue costs a claim and a heartbeat: less than half a second.
    fn default() -> Self {
        Self { claim: Duration::from_millis(250), live: Duration::from_millis(660) }
    }
}

/// Whether an attempt that does not get the lock waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhenHeld {
    Enqueue,
    Return,
}

/// What an attempt to lock asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LockRequest<'a> {
    pub(crate) ttl: Duration,
    /// The holder as others see it, after a space.
    pub(crate) by: &'a str,
    /// The longest lease of this lock: a server that may have lost locks grants none for that long. The
    /// embedded store has no failover and ignores it.
    pub(crate) quarantine: Option<Duration>,
}

#[cfg(test)]
impl LockRequest<'_> {
    /// A request of this process.
    pub(crate) fn of(ttl: Duration) -> Self {
        Self { ttl, by: process_suffix(), quarantine: None }
    }
}

/// The reply to an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempted {
    /// The lock is acquired, for the full time that was asked for.
    Granted { fence: u64 },
    /// Others hold the lock or wait for it.
    Held,
    /// The attempt is queued. `notified` tells whether the store will report a change of its wake-up name.
    Waiting { notified: bool },
    /// The attempt is not queued: it was cancelled before, or it lost its place.
    Gone,
    /// The server grants nothing until then, in milliseconds of its time, because locks may have been lost.
    #[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "the embedded store loses nothing"))]
    Quarantined { until: u64 },
}

/// The reply to a heartbeat, for one waiting attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QueueStatus {
    Waits,
    /// The attempt was handed the lock, for a short time: it should confirm.
    YourTurn,
    /// The attempt is not queued.
    Gone,
}

/// The holder of a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeldBy {
    pub(crate) token: u64,
    pub(crate) process: String,
    pub(crate) fence: u64,
    pub(crate) remaining: Duration,
    pub(crate) waiting: u64,
}

/// The reply to a renewal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Renewal {
    Held,
    /// The token no longer holds. If it is a lock's, and the store knows who holds the lock now, that holder.
    Lost(Option<HeldBy>),
}

impl Renewal {
    /// A renewal of something that has no single holder.
    pub(crate) fn of(held: bool) -> Self {
        if held { Self::Held } else { Self::Lost(None) }
    }
}

/// The longest name of a process that is stored.
const LONGEST_PROCESS: usize = 64;

/// Returns the name of this process for others, `<host>:<pid>`, after a space, as it is stored after a lock's
/// fence.
pub(crate) fn process_suffix() -> &'static str {
    static NAME: LazyLock<String> = LazyLock::new(|| {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let host =
            host.or_else(|| std::env::var("HOSTNAME").ok()).or_else(|| std::env::var("COMPUTERNAME").ok());
        let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let host: String =
            host.unwrap_or_default().chars().filter(plain).take(LONGEST_PROCESS - 11).collect();
        format!(" {host}:{}", std::process::id())
    });
    &NAME
}

/// A lock and a token, of its holder or of a waiting attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LockToken {
    pub(crate) lock: String,
    pub(crate) token: u64,
}

/// Returns the name that the store reports when the lock is handed to this attempt.
pub(crate) fn wake_name(lock: &str, token: u64) -> Name {
    let mut name = Name::from(lock);
    name.push_str(WAKE);
    name.push_str(&token_text(token));
    name
}

/// Returns the token of a wake-up name.
pub(crate) fn woken(name: &str) -> Option<u64> {
    let (_, token) = name.rsplit_once(WAKE)?;
    u64::from_str_radix(token, 16).ok()
}

const WAKE: &str = ":wake:";

/// Returns the stored form: sixteen hexadecimal digits.
pub(crate) fn token_text(token: u64) -> ArrayString<16> {
    let mut digits = token.to_be_bytes().map(|byte| [byte >> 4, byte & 15]);
    for digit in digits.as_flattened_mut() {
        *digit += if *digit < 10 { b'0' } else { b'a' - 10 };
    }
    let mut text = [0; 16];
    text.copy_from_slice(digits.as_flattened());
    ArrayString::from_byte_string(&text).unwrap_or_default()
}

store_operations! {
    /// The operations of every store on locks. Each is atomic and safe to drop at any point; the store may still
    /// carry out an operation that was dropped.
    pub(crate) trait LockStore {
        /// Acquires a lock that has no holder and no waiter; otherwise enqueues the attempt, if it asks for that.
        /// Must be sent once for each token.
        async fn acquire_as(
            &self,
            lock: &str,
            token: u64,
            request: LockRequest<'_>,
            queue: WhenHeld,
        ) -> Result<Attempted>;

        /// Confirms a lock that was handed over, or takes one that is free if it is this attempt's turn. May be
        /// sent again.
        async fn confirm_as(
            &self,
            lock: &str,
            token: u64,
            request: LockRequest<'_>,
        ) -> Result<Attempted>;

        /// Asks the store again to report the wake-up name. Returns whether the attempt has been handed the lock
        /// in the meantime.
        async fn subscribe(&self, lock: &str, token: u64) -> Result<bool>;

        /// Keeps the places of waiting attempts, and hands on locks that are free. The replies are in the order
        /// of `waiting`, which is ordered by lock; `None` if that server did not answer within `max_wait`. An
        /// error if no server answered.
        async fn heartbeat(
            &self,
            waiting: &[LockToken],
            max_wait: Duration,
        ) -> Result<Vec<Option<QueueStatus>>>;

        /// Ends an attempt in whatever state it is, and remembers for `remembered` that it was cancelled.
        async fn give_up(
            &self,
            lock: &str,
            token: u64,
            remembered: Duration,
        ) -> Result<bool>;

        /// Extends holders to at least the given time from now. Returns whether their tokens still hold, in the
        /// order of `held`; `None` if that server did not answer within `max_wait`. An error if no server
        /// answered.
        async fn extend(
            &self,
            held: &[(LockToken, Duration)],
            max_wait: Duration,
        ) -> Result<Vec<Option<Renewal>>>;

        /// Checks whether tokens still hold their locks or permits, and whether so many replicas have everything
        /// that was written to their servers before. In the order of `held`; `None` if that server did not answer
        /// within a little more than `max_wait`. The embedded store needs no replicas.
        async fn acknowledged(
            &self,
            held: &[LockToken],
            replicas: u32,
            max_wait: Duration,
        ) -> Result<Vec<Option<bool>>>;

        /// Frees the lock or hands it on, and returns whether `token` still held it.
        async fn release(&self, lock: &str, token: u64) -> Result<bool>;

        /// Does the same for a lock that no attempt waited for when it was granted: in one command, if the server can
        /// do that and none waits now. A later request of the same task may overtake it while attempts wait.
        async fn release_unwaited(&self, lock: &str, token: u64) -> Result<bool>;

        /// Reads the holder of the lock. A lock that was handed over and not confirmed yet has none.
        async fn holder(&self, lock: &str) -> Result<Option<HeldBy>>;

        /// Frees the lock or hands it on if its holder has this fence, and returns whether it had.
        async fn break_if(&self, lock: &str, fence: u64) -> Result<bool>;

        provided {
            /// The same for this process.
            #[cfg(test)]
            fn acquire(
                &self,
                lock: &str,
                token: u64,
                ttl: Duration,
                queue: WhenHeld,
            ) -> impl Future<Output = Result<Attempted>> + Send {
                self.acquire_as(lock, token, LockRequest::of(ttl), queue)
            }
            /// The same for this process.
            #[cfg(test)]
            fn confirm(
                &self,
                lock: &str,
                token: u64,
                ttl: Duration,
            ) -> impl Future<Output = Result<Attempted>> + Send {
                self.confirm_as(lock, token, LockRequest::of(ttl))
            }
        }
    }
}
