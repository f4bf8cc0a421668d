//! A semaphore's queue and its grants in batches, and the read-write lock that is built on them.
//!
//! The problem: any number of callers wait in one queue, each for several permits. What is free is granted to
//! the first of them by scripts that other callers send, and it is known only later whether those confirm.
//! The mechanism is that of `lua/semaphore/*.lua`: each script that may free permits grants all that are free
//! to the first live waiters, up to a batch of them. Each grant is a claim, which expires soon unless its
//! waiter confirms it. [`Pool`] is a semaphore. With weights of one (readers) and of all permits (writers),
//! with fences and downgrades, it is a read-write lock, as in `lock/rw_lock.rs`.
//!
//! Time passes in ticks, as in [`lock`](crate::lock): deadlines are counted from before the request that was
//! answered, a caller's clock may miss one tick of a lease, requests may be carried out after their sender
//! gave up, and answers may be lost. A process may die, or be silent for so long that it does not count as
//! live. The server notices this only by the time that passes. What has ended stays in the server's set until
//! a script removes it, as on a real server.
//!
//! Not modelled: places that are lost after a longer silence, `max_waiting`, more than 512 leases that end at
//! once, the wake-up (a waiter may confirm at any time), the keyed name. Readers have no fence.

mod callers;
mod model;
mod server;

pub use callers::{Caller, Left, Phase, Reply, Request, State};
pub use model::Action;
pub use server::{Answer, Faults, Heartbeat, Held, Server, Token, Waiter};

/// Ticks of a lease.
pub const TTL: u8 = 2;
/// Ticks of a claim.
pub const CLAIM: u8 = 1;
/// The most claims of one script. larder's are 64.
pub const MOST_GRANTS: usize = 2;

/// The mistakes that the protocol can be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mistake {
    /// A grant asks whether anything is free, not whether it suffices.
    GrantsPastNumber,
    /// A lease is not shortened by what two clocks may miss.
    NoMargin,
    /// A deadline counts from the answer.
    DeadlineFromAnswer,
    /// A claim that has ended is confirmed as well.
    ConfirmsEndedClaim,
    /// A claim is held for as long as a lease.
    ClaimForTtl,
    /// A waiter whose claim ended is granted another before it asks.
    LapsedIsLive,
    /// While a large request is first in the queue, small ones behind it are granted.
    SmallOvertakes,
    /// A caller takes what is free although others wait.
    TakesPastQueue,
    /// A release frees permits and grants none.
    ReleaseGrantsNothing,
    /// A lower number revokes what is held beyond it.
    LoweringRevokes,
    /// An attempt that was cancelled is not remembered.
    NoTombstone,
    /// The cancellation of an exchange is not remembered: a late exchange finds the reader's token unused.
    ExchangeNotRemembered,
    /// A downgrade frees the writer, grants what is free, and then enters as a reader.
    DowngradeFreesFirst,
    /// A downgrade does not ask whether the writer still holds the lock.
    ExchangesWhatIsLost,
    /// A fence is the server's time.
    FenceIsClock,
}

/// The participants, and their parameters.
#[derive(Clone, Copy, Debug)]
pub struct Pool {
    /// How many permits there are. In a read-write lock, the weight of a writer.
    pub permits: u8,
    /// How many permits each caller wants.
    pub weights: &'static [u8],
    /// How often each tries.
    pub attempts: u8,
    /// The number that is set at some time.
    pub lowered_to: Option<u8>,
    /// Whether processes may be silent, beside those that die.
    pub silence: bool,
    /// The most requests and answers under way.
    pub under_way: usize,
    /// Whether it is a read-write lock.
    pub rw: bool,
    /// The mistake.
    pub mistake: Option<Mistake>,
}

/// Never more permits than the stored number, unless it was lowered.
pub const NUMBER: &str = "no more permits are valid than there are, or were when the number was lowered";
/// No permit is granted beyond the stored number.
pub const GRANTED: &str = "no permit is granted beyond the number";
/// L3, of permits.
pub const HELD: &str = "a permit that is valid is held for its caller by the server";
/// L4.
pub const ORDER: &str = "no live waiter is overtaken";
/// Permits do not stay free while a live waiter wants them.
pub const BUSY: &str = "no script leaves permits free that suffice for the first live waiter";
/// A waiter that does not confirm costs one claim.
pub const ONE_CLAIM: &str = "a waiter that does not confirm gets one claim, for the time of a claim";
/// L5.
pub const NO_GHOST: &str = "an attempt that was ended holds nothing";
/// L1, of writers.
pub const ALONE: &str = "a writer that is valid is alone";
/// L2.
pub const FENCE: &str = "the fence of a writer is higher than all before";
/// The model is not safe only because nothing happens.
pub const TOGETHER: &str = "two that waited can hold permits at once";
/// A downgrade is possible.
pub const DOWNGRADED: &str = "a writer can become a reader, beside one that waited";
