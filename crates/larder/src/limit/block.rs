//! Blocks: a key that exceeds its limit is refused for a while, and longer each time.
//!
//! The block is stored at the start of the key's record and decided by the same script, so a decision is still one
//! round trip. The refusal that begins a block writes it; that refusal charges nothing.

use std::time::Duration;

use super::RateLimiter;
use crate::error::{Error, Result};
use crate::store::limit::Penalty;

const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// How long a key that exceeded its limit is refused.
///
/// ```
/// use std::time::Duration;
/// use larder::limit::Block;
///
/// let minute = Duration::from_secs(60);
/// let always_a_minute = Block::lasting(minute);
/// // One minute, two, four, and so on up to an hour.
/// let escalating = Block::lasting(minute).escalating(2, 60 * minute);
/// # let _ = (always_a_minute, escalating);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    first: Duration,
    factor: u32,
    longest: Duration,
}

impl Block {
    /// Makes blocks that all last `span`, from a millisecond to 366 days.
    #[must_use]
    pub const fn lasting(span: Duration) -> Self {
        Self { first: span, factor: 1, longest: span }
    }

    /// Makes each further block last `factor` times as long as the previous one (1 to 255), up to `longest`. A
    /// block is a further one unless the key stayed unblocked for `longest` after the previous one ended.
    #[must_use]
    pub const fn escalating(self, factor: u32, longest: Duration) -> Self {
        Self { factor, longest, ..self }
    }

    /// Converts it to the store's `Penalty`, or fails if it is invalid.
    fn penalty(self) -> Result<Penalty> {
        if self.first < SHORTEST || self.longest < self.first || self.longest > LONGEST {
            return Err(Error::invalid(format!(
                "a block lasts {SHORTEST:?} to 366 days, and the longest is no shorter than the first: not {self:?}"
            )));
        }
        if !(1..=255).contains(&self.factor) {
            return Err(Error::invalid(format!("the factor of a block is 1 to 255, not {}", self.factor)));
        }
        let micros = |span: Duration| u64::try_from(span.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX);
        Ok(Penalty { first: micros(self.first), factor: self.factor.into(), most: micros(self.longest) })
    }
}

impl From<Duration> for Block {
    fn from(span: Duration) -> Self {
        Self::lasting(span)
    }
}

impl RateLimiter {
    /// Blocks a key that exceeds its limit: every request for the key is refused for the duration of the block,
    /// even if permits are free by then.
    ///
    /// The refusal of a cost that does not fit begins the block. Refusals during a block do not prolong it, and
    /// their [`retry_after`](super::Decision::retry_after) is the time until its end. A block applies to all
    /// programs and all methods: [`acquire`](Self::acquire) waits until it has ended. Only all-or-nothing requests
    /// of programs that have this setting begin a block (`allow`, `check`, `reserve`, keys that are decided
    /// together, the tower layer). `acquire`, which waits, and [`take_up_to`](Self::take_up_to), which takes what
    /// is free, do not.
    ///
    /// [`reset`](Self::reset) ends a block and forgets the previous ones. An override does not.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> larder::Result<()> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// use larder::Quota;
    /// use larder::limit::Block;
    ///
    /// let minute = Duration::from_secs(60);
    /// let logins = larder
    ///     .rate_limiter("logins", Quota::per_second(5))?
    ///     .block_for(Block::lasting(minute).escalating(2, 60 * minute))?;
    /// logins.check_n("ann", 5).await?;
    /// let refused = logins.check("ann").await?;
    /// assert!(refused.retry_after() > Some(minute / 2));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidSetting`](crate::ErrorKind::InvalidSetting): a span is below a millisecond or above 366 days, the
    /// longest block is shorter than the first, or the factor is not 1 to 255. Correct the block.
    pub fn block_for(self, block: impl Into<Block>) -> Result<Self> {
        let penalty = block.into().penalty()?;
        Ok(self.with(|inner| inner.penalty = Some(penalty)))
    }
}
