//! Blocks: a key that has exceeded its limit is refused for a while, and longer each time.
//!
//! The block is kept before the key's record and decided by the same script, so a decision still is one round trip. It is
//! written by the refusal that begins it, which charges nothing.

use std::time::Duration;

use super::RateLimiter;
use crate::error::{Error, Result};
use crate::store::limit::Penalty;

const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// For how long a key is refused that has exceeded its limit.
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
    /// Each block lasts so long, from a millisecond to 366 days.
    #[must_use]
    pub const fn lasting(span: Duration) -> Self {
        Self { first: span, factor: 1, longest: span }
    }

    /// Each further block lasts `factor` times as long as the one before, from 1 to 255, and at most `longest`. A block is
    /// a further one unless the key stayed unblocked for `longest` since the one before ended.
    #[must_use]
    pub const fn escalating(self, factor: u32, longest: Duration) -> Self {
        Self { factor, longest, ..self }
    }

    /// In the store's terms, or why it makes no sense.
    fn penalty(self) -> Result<Penalty> {
        if self.first < SHORTEST || self.longest < self.first || self.longest > LONGEST {
            return Err(Error::invalid(format!(
                "a block lasts from {SHORTEST:?} to 366 days, and a further one no less than the first: not {self:?}"
            )));
        }
        if !(1..=255).contains(&self.factor) {
            return Err(Error::invalid(format!(
                "a block is from 1 to 255 times as long as the one before, not {}",
                self.factor
            )));
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
    /// Blocks a key that exceeds its limit: every request about it is refused for so long, whatever is free by then.
    ///
    /// The refusal of a cost that does not fit begins the block; refusals during a block do not prolong it, and
    /// [`retry_after`](super::Decision::retry_after) tells its end. It holds for all programs, and for each way of asking:
    /// [`acquire`](Self::acquire) waits until it has ended. Only requests for all of a cost begin one (`allow`, `check`,
    /// `reserve`, keys that are decided together, the tower layer), of programs that have this setting. `acquire`, which
    /// waits, and [`take_up_to`](Self::take_up_to), which takes what there is, do not.
    ///
    /// [`reset`](Self::reset) ends a block and forgets the ones before. An override does not.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # async fn run() -> larder::Result<()> {
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
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run()).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// `InvalidSetting` for a span of less than a millisecond or more than 366 days, a longest block that is shorter than
    /// the first, and a factor that is not from 1 to 255.
    pub fn block_for(self, block: impl Into<Block>) -> Result<Self> {
        let penalty = block.into().penalty()?;
        Ok(self.with(|inner| inner.penalty = Some(penalty)))
    }
}
