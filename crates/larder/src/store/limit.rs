//! The operations of a store on limits: charging quotas.
//!
//! A key has one record, which counts for all its quotas together. A [`QuotaSpec`] is a quota as the store
//! sees it. The record has what was charged but no limit, so limits may change with every call. Times are
//! whole microseconds of the store's own clock, below 2^53, and a record's own time never goes back.

use std::future::Future;
use std::time::Duration;

use crate::clock::Tick;
use crate::error::Result;

/// How a quota counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Rule {
    /// Strict buckets of `width` microseconds, sixty a window.
    Buckets,
    /// The time of every permit, in a window of `width` microseconds.
    Log,
    /// GCRA: a permit every `width` microseconds, at most the limit at once.
    Gcra,
}

/// One quota as the store sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct QuotaSpec {
    pub(crate) rule: Rule,
    pub(crate) limit: u64,
    pub(crate) width: u64,
}

/// Buckets in a window. One more is kept, because the window still covers part of the oldest. One more may
/// lie ahead: the next turn is booked there when all of the limit was used just now.
pub(crate) const BUCKETS: u64 = 60;

/// The largest limit of a quota. Three times as much can count at once: the limit, as much again as debt, and as much
/// again booked ahead. A record holds that sum in four bytes.
pub(crate) const LARGEST_LIMIT: u64 = (u32::MAX / 3) as u64;

/// The factor of the kind in a [`unit`](QuotaSpec::unit): larger than any width.
#[cfg(feature = "redis")]
const KIND: u64 = 1 << 45;

impl QuotaSpec {
    /// The most that one bucket can count: two bytes on the wire, or four if the limit is larger.
    pub(crate) fn most(self) -> u64 {
        if self.limit <= u64::from(u16::MAX) { u64::from(u16::MAX) } else { u64::from(u32::MAX) }
    }

    /// How the quota counts and over which width, on the wire: the kind times [`KIND`] plus the microseconds.
    #[cfg(feature = "redis")]
    pub(crate) fn unit(self) -> u64 {
        let kind = match self.rule {
            Rule::Buckets if self.most() <= u64::from(u16::MAX) => 0,
            Rule::Buckets => 1,
            Rule::Gcra => 3,
            // The bytes that distinguish the times within one window.
            Rule::Log if self.width < 1 << 32 => 4,
            Rule::Log if self.width < 1 << 40 => 5,
            Rule::Log => 6,
        };
        kind * KIND + self.width
    }

    /// How far back the quota looks, in microseconds.
    pub(crate) fn window(self) -> u64 {
        match self.rule {
            Rule::Buckets => self.width.saturating_mul(BUCKETS),
            Rule::Log => self.width,
            Rule::Gcra => self.width.saturating_mul(self.limit),
        }
    }
}

/// How much of a cost is charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChargeMode {
    /// All or nothing.
    All,
    /// As much as fits.
    UpTo,
    /// As much as fits into half of what is left, rounded up; but at least `least`, or nothing.
    Half { least: u64 },
    /// Nothing: replies what [`All`](Self::All) would, and writes nothing.
    Peek,
    /// As much as fits, but at least `least`. If that does not fit now, as much as fits at the earliest time
    /// at which `least` does, within [`Charge::max_wait`].
    Turns { least: u64 },
    /// As much as leads to twice the limit. For permits that were used already, which are charged although
    /// they do not fit.
    Debt,
}

impl ChargeMode {
    /// The least that is charged, if anything is.
    #[cfg(feature = "redis")]
    pub(crate) fn least(self) -> u64 {
        match self {
            Self::Half { least } | Self::Turns { least } => least,
            Self::All | Self::UpTo | Self::Peek | Self::Debt => 1,
        }
    }

    /// The number on the wire.
    #[cfg(feature = "redis")]
    pub(crate) fn number(self) -> u64 {
        match self {
            Self::All => 1,
            Self::UpTo => 2,
            Self::Half { .. } => 3,
            Self::Peek => 4,
            Self::Turns { .. } => 5,
            Self::Debt => 6,
        }
    }
}

/// A request to the quotas of one key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Charge<'a> {
    pub(crate) specs: &'a [QuotaSpec],
    pub(crate) mode: ChargeMode,
    pub(crate) cost: u64,
    /// How many microseconds from now the cost is charged: a batch is charged at its expiry. For [`ChargeMode::Peek`]:
    /// after how many microseconds the request is repeated, which may be after the end of an override.
    pub(crate) charge_at: u64,
    /// For how many microseconds in the future a turn may be booked if nothing is free now.
    pub(crate) max_wait: u64,
    /// What a refusal of the cost leads to: see [`BlockState`].
    pub(crate) penalty: Option<Penalty>,
}

impl Charge<'_> {
    /// The smallest burst of the quotas that pace; 0 if none does.
    pub(crate) fn burst(&self) -> u64 {
        let paced = self.specs.iter().filter(|spec| spec.rule == Rule::Gcra);
        paced.map(|spec| spec.limit).min().unwrap_or(0)
    }

    /// The penalty that a refusal of this request leads to. Only a request for all of its cost now, or for a
    /// batch, exceeds a limit. Waiting for a turn, taking what is left, and charging what was used already do
    /// not.
    pub(crate) fn penalty_if_refused(&self) -> Option<Penalty> {
        let now = matches!(self.mode, ChargeMode::All | ChargeMode::Half { .. }) && self.max_wait == 0;
        self.penalty.filter(|_| now)
    }
}

/// How long a key that exceeded its limit is blocked, in microseconds: `first`, then each block `factor`
/// times as long as the one before, up to `most`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Penalty {
    pub(crate) first: u64,
    pub(crate) factor: u64,
    pub(crate) most: u64,
}

/// The blocks of a key, as its record has them. All zero if there was none, or none lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct BlockState {
    /// Every request is refused until then.
    pub(crate) until: u64,
    /// How many blocks there were, up to 255.
    pub(crate) level: u64,
    /// For how many seconds after its end the next block counts as a further one.
    pub(crate) quiet: u64,
}

impl BlockState {
    /// Until when this state matters.
    pub(crate) fn remembered(self) -> u64 {
        self.until.saturating_add(self.quiet.saturating_mul(1_000_000))
    }

    /// The state at a later time: empty if it no longer matters.
    pub(crate) fn at(self, clock: u64) -> Self {
        if clock < self.remembered() { self } else { Self::default() }
    }

    /// The state when a block begins now.
    pub(crate) fn next(self, penalty: Penalty, now: u64) -> Self {
        let longer = |span: u64, _| span.saturating_mul(penalty.factor).min(penalty.most);
        let span = (0..self.level).fold(penalty.first.min(penalty.most), longer);
        let level = (self.level + 1).min(255);
        Self { until: now.saturating_add(span), level, quiet: penalty.most.div_ceil(1_000_000) }
    }
}

/// The reply to [`LimitStore::charge`]. Spans are in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Charged {
    /// How much was charged, or with [`ChargeMode::Peek`] would be.
    pub(crate) granted: u64,
    /// The quota that refused, or the one with the least left.
    pub(crate) binding: usize,
    /// What is left of that quota.
    pub(crate) remaining: u64,
    /// Refused: the time until the cost would fit. Granted: the time until the turn that was booked, 0 if it
    /// is now.
    pub(crate) wait: u64,
    /// The time until the whole limit is available again.
    pub(crate) reset: u64,
    /// What a refund must name.
    pub(crate) stamp: ChargeStamp,
    /// The program's label of the deciding quota, if an override decided.
    pub(crate) label: Option<Label>,
}

/// What a program calls a quota of an override. The store only keeps it.
pub(crate) type Label = [u8; 15];

/// Other quotas for one key, for a limited time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Override {
    pub(crate) specs: Vec<(QuotaSpec, Label)>,
    /// The program's own quotas, which hold after it. They decide how long the record is kept then.
    pub(crate) own: Vec<QuotaSpec>,
    pub(crate) lasts: Duration,
}

/// Where something was charged: the store's time, and the creation time of the record. A record that was
/// created later, for example after a reset, does not hold the charge. `burst` is [`Charge::burst`]: by it a refund
/// sees whether turns are booked. All zero if nothing was charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ChargeStamp {
    pub(crate) when: u64,
    pub(crate) created_at: u64,
    pub(crate) burst: u64,
}

store_operations! {
    /// The operations of every store on limits. Each is atomic, one round trip, and safe to drop at any point;
    /// the store may still carry out an operation that was dropped.
    pub(crate) trait LimitStore {
        /// Charges all quotas or none. A refusal charges nothing; it can only change how long the record is kept,
        /// and begin a block.
        async fn charge(&self, name: &str, charge: Charge<'_>) -> Result<Charged>;

        /// Charges several records, all or none. If one refuses, each answer is the one that its key would have given
        /// by itself, with one exception: a key whose override ends before the longest wait is over is refused for as
        /// long as the request's own specs refuse it.
        async fn charge_together(&self, charges: &[(&str, Charge<'_>)]) -> Result<Vec<Charged>>;

        /// Gives permits back at the time at which they were charged, and returns how many were given back. None are if
        /// the record was converted to other quotas since.
        async fn refund(&self, name: &str, permits: u64, stamp: ChargeStamp) -> Result<u64>;

        /// Gives a key other quotas for a limited time, which replace those of each request; without quotas, ends
        /// that.
        async fn set_override(&self, name: &str, specs: &Override) -> Result<()>;

        /// Reads the labels of a key's override, and how long it still lasts.
        async fn override_of(&self, name: &str) -> Result<Option<(Vec<Label>, Duration)>>;

        /// Forgets what was charged to a key, and returns whether anything was. An override stays.
        async fn forget(&self, name: &str) -> Result<bool>;

        /// Returns the latest local time at which the store's clock shows `time` (microseconds). Returns `None` if
        /// that is not known, or if the store never answers late. The error is at most the time of the fastest request
        /// to the store, and the drift between the two clocks.
        fn local_time(&self, name: &str, time: u64) -> Option<Tick>;

        /// Returns which of 16 domains of failure the name belongs to. As far as is known, the names of one domain can
        /// be reached together or not at all.
        fn domain(&self, name: &str) -> usize;
    }
}
