//! The part of the seam that limits stand on: charging quotas.
//!
//! A key has one record, which counts for all its quotas together. What a quota means to the store is a [`QuotaSpec`]; the
//! record keeps what was charged and never a limit, so limits may change with every call. Times are whole microseconds
//! of the store's own clock, below 2^53, and a record's own time never goes back.

use std::future::Future;
use std::time::Duration;

use super::AnyStore;
use crate::error::Result;

/// How a term counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Rule {
    /// Strict buckets of `width` microseconds, sixty a window.
    Buckets,
    /// The time of every permit, in a window of `width` microseconds.
    Log,
    /// GCRA: a permit every `width` microseconds, at most the limit at once.
    Gcra,
}

/// One quota in the store's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct QuotaSpec {
    pub(crate) rule: Rule,
    pub(crate) limit: u64,
    pub(crate) width: u64,
}

/// Buckets a window; one more is kept, for the part of the oldest that the window still covers. One more, too, may lie
/// ahead: there the next turn is booked where all of the limit was used just now.
pub(crate) const BUCKETS: u64 = 60;

/// What a kind is multiplied by where it stands before a width: more than any width.
#[cfg(feature = "redis")]
const KIND: u64 = 1 << 45;

impl QuotaSpec {
    /// The most that one count of buckets can hold: two bytes on the wire, or four where the limit is larger.
    pub(crate) fn most(self) -> u64 {
        if self.limit <= u64::from(u16::MAX) { u64::from(u16::MAX) } else { u64::from(u32::MAX) }
    }

    /// How the term counts and over what width, on the wire: [`KIND`] and the microseconds.
    #[cfg(feature = "redis")]
    pub(crate) fn unit(self) -> u64 {
        let kind = match self.rule {
            Rule::Buckets if self.most() <= u64::from(u16::MAX) => 0,
            Rule::Buckets => 1,
            Rule::Gcra => 3,
            // The bytes that tell the times of one window apart.
            Rule::Log if self.width < 1 << 32 => 4,
            Rule::Log if self.width < 1 << 40 => 5,
            Rule::Log => 6,
        };
        kind * KIND + self.width
    }

    /// How far back the term looks, in microseconds.
    pub(crate) fn window(self) -> u64 {
        match self.rule {
            Rule::Buckets => self.width.saturating_mul(BUCKETS),
            Rule::Log => self.width,
            Rule::Gcra => self.width.saturating_mul(self.limit),
        }
    }
}

/// How much of a cost is to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChargeMode {
    /// All or nothing.
    All,
    /// As much as fits.
    UpTo,
    /// As much as fits into half of what is left, rounded up; but so much at least, or nothing.
    Half { least: u64 },
    /// Nothing: only what [`All`](Self::All) would answer. Writes nothing.
    Look,
    /// As much as fits, but so much at least; where that does not fit now, as much as fits at the earliest time at which
    /// so much does, within the charge's patience.
    Turns { least: u64 },
    /// As much as makes up to twice the limit: what was used already, and is charged although it does not fit.
    Debt,
}

impl ChargeMode {
    /// How much is taken at least, where not nothing.
    #[cfg(feature = "redis")]
    pub(crate) fn least(self) -> u64 {
        match self {
            Self::Half { least } | Self::Turns { least } => least,
            Self::All | Self::UpTo | Self::Look | Self::Debt => 1,
        }
    }

    /// On the wire.
    #[cfg(feature = "redis")]
    pub(crate) fn number(self) -> u64 {
        match self {
            Self::All => 1,
            Self::UpTo => 2,
            Self::Half { .. } => 3,
            Self::Look => 4,
            Self::Turns { .. } => 5,
            Self::Debt => 6,
        }
    }
}

/// What is asked of a key's quotas.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Charge<'a> {
    pub(crate) terms: &'a [QuotaSpec],
    pub(crate) take: ChargeMode,
    pub(crate) cost: u64,
    /// How many microseconds ahead of now it is charged: at the expiry of a lease.
    pub(crate) charge_at: u64,
    /// How many microseconds ahead a turn may be booked where nothing is free now.
    pub(crate) max_wait: u64,
    /// What a refusal for the cost brings: see [`BlockState`].
    pub(crate) penalty: Option<Penalty>,
}

impl Charge<'_> {
    /// The penalty of a request for all of its cost now, or of one for a batch. Waiting for a turn, taking what there is, and
    /// what was used already do not exceed a limit.
    pub(crate) fn penalty_if_refused(&self) -> Option<Penalty> {
        let now = matches!(self.take, ChargeMode::All | ChargeMode::Half { .. }) && self.max_wait == 0;
        self.penalty.filter(|_| now)
    }
}

/// How long a key is blocked that has exceeded its limit, in microseconds: `first`, and each further block `factor` times as
/// long as the one before, up to `most`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Penalty {
    pub(crate) first: u64,
    pub(crate) factor: u64,
    pub(crate) most: u64,
}

/// What a record knows of the blocks of its key. All zero where there was none, or a while ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct BlockState {
    /// Until when every request is refused.
    pub(crate) until: u64,
    /// How many blocks there were, up to 255.
    pub(crate) level: u64,
    /// For how many seconds after its end the next block is a further one.
    pub(crate) quiet: u64,
}

impl BlockState {
    /// Until when it makes a difference.
    pub(crate) fn remembered(self) -> u64 {
        self.until.saturating_add(self.quiet.saturating_mul(1_000_000))
    }

    /// What is left of it at a time.
    pub(crate) fn at(self, clock: u64) -> Self {
        if clock < self.remembered() { self } else { Self::default() }
    }

    /// The block that begins now.
    pub(crate) fn next(self, penalty: Penalty, now: u64) -> Self {
        let longer = |span: u64, _| span.saturating_mul(penalty.factor).min(penalty.most);
        let span = (0..self.level).fold(penalty.first.min(penalty.most), longer);
        let level = (self.level + 1).min(255);
        Self { until: now.saturating_add(span), level, quiet: penalty.most.div_ceil(1_000_000) }
    }
}

/// The answer to [`LimitStore::charge`]. Spans in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Charged {
    /// How much was taken, or with [`ChargeMode::Look`] would be.
    pub(crate) granted: u64,
    /// The term that refused, or that has least left.
    pub(crate) binding: usize,
    /// What that term has left.
    pub(crate) remaining: u64,
    /// Refused: until the cost would fit. Granted: until the turn that was booked; 0 where it is now.
    pub(crate) wait: u64,
    /// Until the whole limit is there again.
    pub(crate) reset: u64,
    /// What a refund names.
    pub(crate) stamp: ChargeStamp,
    /// What the program calls the term that bound, where an override decided.
    pub(crate) label: Option<Label>,
}

/// What a program calls a term of an override. The store only keeps it.
pub(crate) type Label = [u8; 15];

/// Other terms for one key, for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Override {
    pub(crate) terms: Vec<(QuotaSpec, Label)>,
    pub(crate) lasts: Duration,
}

/// Where something was charged: the store's time, and that of the first charge of the record that holds it. A record that
/// came later, after a reset say, holds none of it. All zero where nothing was charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ChargeStamp {
    pub(crate) when: u64,
    pub(crate) created_at: u64,
}

/// What every store can do about limits. Each operation is atomic and one round trip, and safe to drop at any point: the
/// store may then still carry it out.
pub(crate) trait LimitStore: Send + Sync + 'static {
    /// Charges all terms or none. A refusal charges nothing; all that it may change is how long the record is kept.
    fn charge(&self, name: &str, charge: Charge<'_>) -> impl Future<Output = Result<Charged>> + Send;

    /// Charges several records, all or none. Where one refuses, the answers are what each would have been by itself.
    fn charge_together(
        &self,
        charges: &[(&str, Charge<'_>)],
    ) -> impl Future<Output = Result<Vec<Charged>>> + Send;

    /// Gives permits back to the time that was charged for them; how many were.
    fn refund(
        &self,
        name: &str,
        terms: &[QuotaSpec],
        permits: u64,
        stamp: ChargeStamp,
    ) -> impl Future<Output = Result<u64>> + Send;

    /// Gives a key other terms for a while, in place of those of each request; without terms, ends that.
    fn set_override(&self, name: &str, terms: &Override) -> impl Future<Output = Result<()>> + Send;

    /// What a key's override is called, and how long it still lasts.
    fn override_of(&self, name: &str) -> impl Future<Output = Result<Option<(Vec<Label>, Duration)>>> + Send;

    /// Forgets all that was charged; whether anything was. An override stays.
    fn forget(&self, name: &str) -> impl Future<Output = Result<bool>> + Send;

    /// Which of 16 domains of failure the name belongs to: names that share one live or fail together, as nearly as is
    /// known.
    fn domain(&self, name: &str) -> usize;
}

macro_rules! on_either {
    ($self:ident.$operation:ident($($argument:expr),*)) => {
        match $self {
            Self::Memory(store) => store.$operation($($argument),*).await,
            #[cfg(feature = "redis")]
            Self::Redis(store) => store.$operation($($argument),*).await,
        }
    };
}

impl LimitStore for AnyStore {
    async fn charge(&self, name: &str, charge: Charge<'_>) -> Result<Charged> {
        on_either!(self.charge(name, charge))
    }

    async fn charge_together(&self, charges: &[(&str, Charge<'_>)]) -> Result<Vec<Charged>> {
        on_either!(self.charge_together(charges))
    }

    async fn refund(&self, name: &str, terms: &[QuotaSpec], permits: u64, stamp: ChargeStamp) -> Result<u64> {
        on_either!(self.refund(name, terms, permits, stamp))
    }

    async fn set_override(&self, name: &str, terms: &Override) -> Result<()> {
        on_either!(self.set_override(name, terms))
    }

    async fn override_of(&self, name: &str) -> Result<Option<(Vec<Label>, Duration)>> {
        on_either!(self.override_of(name))
    }

    async fn forget(&self, name: &str) -> Result<bool> {
        on_either!(self.forget(name))
    }

    fn domain(&self, name: &str) -> usize {
        match self {
            Self::Memory(store) => store.domain(name),
            #[cfg(feature = "redis")]
            Self::Redis(store) => store.domain(name),
        }
    }
}
