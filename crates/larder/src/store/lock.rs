//! The part of the seam that is about locks.
//!
//! A lock has a holder, a line of attempts that wait, and a last fence. An attempt is a random token, good for one
//! [`acquire`](LockStore::acquire): it takes the lock or stands in line. Who frees the lock hands it to the first in line that
//! was heard of lately, under a short claim, and the store tells the [`InvalidationSink`](super::InvalidationSink) of that one
//! attempt's wake-up name. Being told is a hint: only [`confirm`](LockStore::confirm) makes a holder. A claim that nobody comes
//! for runs out, and the next [`heartbeat`](LockStore::heartbeat) of anybody in line hands the lock on.

use std::future::Future;
use std::sync::LazyLock;
use std::time::Duration;

use arrayvec::ArrayString;

use super::AnyStore;
use crate::error::Result;
use crate::name::Name;

/// The spans of time of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueueTiming {
    /// How long a lock that was handed over waits to be come for.
    pub(crate) claim: Duration,
    /// How long a waiting attempt counts as alive after it was heard of. It keeps its place for [`KEPT`](Self::KEPT) times that.
    pub(crate) live: Duration,
}

impl QueueTiming {
    /// How often a process is heard of: fewer than five times a second.
    pub(crate) const BEAT: Duration = Duration::from_millis(220);
    /// Here and in line.lua.
    pub(crate) const KEPT: u32 = 8;
    /// How long it is remembered that an attempt was given up while its request was under way: longer than a connection
    /// that does not answer is kept.
    pub(crate) const REMEMBERED: Duration = Duration::from_secs(30);
}

impl Default for QueueTiming {
    /// A dead waiter at the head costs a claim and a beat: less than half a second.
    fn default() -> Self {
        Self { claim: Duration::from_millis(250), live: Duration::from_millis(660) }
    }
}

/// Whether an attempt that does not get the lock waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhenHeld {
    StandInLine,
    GoAway,
}

/// What an attempt at a lock asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LockRequest<'a> {
    pub(crate) ttl: Duration,
    /// The holder as others see it, behind a space.
    pub(crate) by: &'a str,
    /// The longest lease of this lock, where a server that may have lost some grants nothing for so long. The embedded
    /// store has no failover, and ignores it.
    pub(crate) quarantine: Option<Duration>,
}

#[cfg(test)]
impl LockRequest<'_> {
    /// Of this process.
    pub(crate) fn of(ttl: Duration) -> Self {
        Self { ttl, by: process_suffix(), quarantine: None }
    }
}

/// The answer to an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempted {
    /// The lock is held, for the whole time asked for.
    Granted { fence: u64 },
    /// Others hold it, or wait for it.
    Held,
    /// It stands in line. `told` says whether its wake-up name is listened to.
    Waiting { told: bool },
    /// It does not stand in line: it was given up before, or its place was lost.
    Gone,
    /// Nothing is granted until then, in milliseconds of the server's time: locks that are held may have been lost.
    #[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "the embedded store loses nothing"))]
    Quarantined { until: u64 },
}

/// What a waiting attempt is told when it is heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QueueStatus {
    Waits,
    /// It was given the lock, if only for a while: it should confirm.
    Come,
    /// It does not stand in line.
    Gone,
}

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeldBy {
    pub(crate) process: String,
    pub(crate) fence: u64,
    pub(crate) remaining: Duration,
    pub(crate) waiting: u64,
}

/// The longest name of a process that is stored.
const LONGEST_PROCESS: usize = 64;

/// This process as others see it, `<host>:<pid>`, after a space, as it is stored behind a lock's fence.
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

/// A lock and a token: of its holder, or of an attempt that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LockToken {
    pub(crate) lock: String,
    pub(crate) token: u64,
}

/// The name that is told of when the lock is handed to this attempt.
pub(crate) fn wake_name(lock: &str, token: u64) -> Name {
    let mut name = Name::from(lock);
    name.push_str(WAKE);
    name.push_str(&token_text(token));
    name
}

/// The attempt that a wake-up name belongs to.
pub(crate) fn woken(name: &str) -> Option<u64> {
    let (_, token) = name.rsplit_once(WAKE)?;
    u64::from_str_radix(token, 16).ok()
}

const WAKE: &str = ":wake:";

/// Sixteen hexadecimal digits, as on the wire.
pub(crate) fn token_text(token: u64) -> ArrayString<16> {
    let mut text = ArrayString::new();
    for place in (0..16).rev() {
        let digit = u32::try_from(token >> (4 * place) & 15).unwrap_or_default();
        text.push(char::from_digit(digit, 16).unwrap_or_default());
    }
    text
}

/// What every store can do with locks. Each operation is atomic, and safe to drop at any point: the store may then still
/// carry it out.
pub(crate) trait LockStore: Send + Sync + 'static {
    /// Takes a lock that nobody holds and nobody waits for; else stands in line, if told to. Once for each token.
    fn acquire_as(
        &self,
        lock: &str,
        token: u64,
        request: LockRequest<'_>,
        queue: WhenHeld,
    ) -> impl Future<Output = Result<Attempted>> + Send;

    /// The same as this process.
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

    /// Takes a lock that was handed over, or that is free and this attempt's turn. May be sent again.
    fn confirm_as(
        &self,
        lock: &str,
        token: u64,
        request: LockRequest<'_>,
    ) -> impl Future<Output = Result<Attempted>> + Send;

    /// The same as this process.
    #[cfg(test)]
    fn confirm(
        &self,
        lock: &str,
        token: u64,
        ttl: Duration,
    ) -> impl Future<Output = Result<Attempted>> + Send {
        self.confirm_as(lock, token, LockRequest::of(ttl))
    }

    /// Listens to the wake-up name anew; whether the attempt was given the lock meanwhile.
    fn listen(&self, lock: &str, token: u64) -> impl Future<Output = Result<bool>> + Send;

    /// Keeps the places of waiting attempts, and hands on what is free; the answers in the order of `waiting`, which is
    /// ordered by lock. `None` where its server did not answer within `max_wait`; an error where none did.
    fn heartbeat(
        &self,
        waiting: &[LockToken],
        max_wait: Duration,
    ) -> impl Future<Output = Result<Vec<Option<QueueStatus>>>> + Send;

    /// Ends an attempt, whatever has become of it, and remembers for `remembered` that it was given up.
    fn give_up(
        &self,
        lock: &str,
        token: u64,
        remembered: Duration,
    ) -> impl Future<Output = Result<bool>> + Send;

    /// Gives holders at least so much time from now; whether their tokens still held. In the order of `held`. `None` where
    /// its server did not answer within `max_wait`; an error where none did.
    fn extend(
        &self,
        held: &[(LockToken, Duration)],
        max_wait: Duration,
    ) -> impl Future<Output = Result<Vec<Option<bool>>>> + Send;

    /// Whether tokens still hold their locks or permits and so many replicas have all that was written to their servers
    /// before. In the order of `held`; `None` where its server did not answer within `max_wait` and some more. The embedded
    /// store has no replicas, and needs none.
    fn acknowledged(
        &self,
        held: &[LockToken],
        replicas: u32,
        max_wait: Duration,
    ) -> impl Future<Output = Result<Vec<Option<bool>>>> + Send;

    /// Frees the lock, or hands it on; whether `token` still held it.
    fn release(&self, lock: &str, token: u64) -> impl Future<Output = Result<bool>> + Send;

    /// Who holds the lock. A lock that was handed over and not confirmed yet has no holder.
    fn holder(&self, lock: &str) -> impl Future<Output = Result<Option<HeldBy>>> + Send;

    /// Frees the lock, or hands it on, if its holder has this fence; whether it had.
    fn break_if(&self, lock: &str, fence: u64) -> impl Future<Output = Result<bool>> + Send;
}

impl LockStore for AnyStore {
    async fn acquire_as(
        &self,
        lock: &str,
        token: u64,
        request: LockRequest<'_>,
        queue: WhenHeld,
    ) -> Result<Attempted> {
        on_either!(self.acquire_as(lock, token, request, queue))
    }

    async fn confirm_as(&self, lock: &str, token: u64, request: LockRequest<'_>) -> Result<Attempted> {
        on_either!(self.confirm_as(lock, token, request))
    }

    async fn listen(&self, lock: &str, token: u64) -> Result<bool> {
        on_either!(self.listen(lock, token))
    }

    async fn heartbeat(&self, waiting: &[LockToken], max_wait: Duration) -> Result<Vec<Option<QueueStatus>>> {
        on_either!(self.heartbeat(waiting, max_wait))
    }

    async fn give_up(&self, lock: &str, token: u64, remembered: Duration) -> Result<bool> {
        on_either!(self.give_up(lock, token, remembered))
    }

    async fn extend(&self, held: &[(LockToken, Duration)], max_wait: Duration) -> Result<Vec<Option<bool>>> {
        on_either!(self.extend(held, max_wait))
    }

    async fn acknowledged(
        &self,
        held: &[LockToken],
        replicas: u32,
        max_wait: Duration,
    ) -> Result<Vec<Option<bool>>> {
        on_either!(self.acknowledged(held, replicas, max_wait))
    }

    async fn release(&self, lock: &str, token: u64) -> Result<bool> {
        on_either!(self.release(lock, token))
    }

    async fn holder(&self, lock: &str) -> Result<Option<HeldBy>> {
        on_either!(self.holder(lock))
    }

    async fn break_if(&self, lock: &str, fence: u64) -> Result<bool> {
        on_either!(self.break_if(lock, fence))
    }
}
