//! Costs that are known only afterwards: charge an estimate, then settle.

use std::fmt;

use super::RateLimiter;
use super::decision::Decision;
use crate::call::Call;
use crate::error::Result;
use crate::key::CacheKey;
use crate::name::Name;
use crate::store::limit::{ChargeMode, ChargeStamp};

/// The result of [`RateLimiter::reserve`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Reserve {
    /// The estimate is charged.
    Granted(Reservation),
    /// The estimate did not fit, and nothing is charged.
    Refused(Decision),
}

impl Reserve {
    /// Returns the reservation, if it was granted.
    #[must_use]
    pub fn granted(self) -> Option<Reservation> {
        match self {
            Self::Granted(reservation) => Some(reservation),
            Self::Refused(_) => None,
        }
    }
}

/// An estimate that was charged, to be settled or cancelled.
///
/// Dropped without either, for example because its holder dies, it stays charged in full, because the used part is
/// unknown.
#[must_use = "an estimate stays charged in full until it is settled or cancelled"]
pub struct Reservation {
    limiter: RateLimiter,
    name: Name,
    decision: Decision,
}

/// The result of settling a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settled {
    /// Permits of the estimate that were given back.
    pub returned: u64,
    /// Permits that were charged in addition, because the estimate was too low.
    pub charged: u64,
    /// Permits that were used beyond the estimate and no longer fit: they are not counted.
    pub uncovered: u64,
}

impl RateLimiter {
    /// Charges an estimate of a cost, to be settled when the cost is known. One round trip.
    ///
    /// Estimate high: unused permits return to where they were charged, while use beyond the estimate can only be
    /// charged as far as it fits.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> larder::Result<()> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// use larder::Quota;
    /// use larder::limit::Reserve;
    ///
    /// let tokens = larder.rate_limiter("tokens", Quota::per_minute(10_000))?;
    /// match tokens.reserve("ann", 4_000).await? {
    ///     Reserve::Granted(reservation) => {
    ///         let used = 1_200; // the work is done here
    ///         assert_eq!(reservation.settle(used).await?.returned, 2_800);
    ///     }
    ///     Reserve::Refused(decision) => println!("in {:?}", decision.retry_after()),
    ///     _ => {}
    /// }
    /// assert_eq!(tokens.remaining("ann").await?, 8_800);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    #[doc = include_str!("../doc/limit_errors.md")]
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    /// - [`InvalidSetting`](crate::ErrorKind::InvalidSetting): no permits, or more than the limit, which could never be
    ///   allowed.
    ///
    /// # Cancel safety
    ///
    /// A dropped call may have charged the estimate.
    pub fn reserve(
        &self,
        key: impl CacheKey,
        estimate: u64,
    ) -> Call<'_, impl Future<Output = Result<Reserve>> + Send> {
        let name = self.record(key);
        Call::new(self.timeout(), &self.inner.local.meter.reserve, async move {
            let decision = self.decide_here_or_there(name?, estimate).await?;
            Ok(match decision {
                (decision, name) if decision.is_allowed() => {
                    Reserve::Granted(Reservation { limiter: self.clone(), name, decision })
                }
                (decision, _) => Reserve::Refused(decision),
            })
        })
    }

    async fn decide_here_or_there(&self, name: Name, cost: u64) -> Result<(Decision, Name)> {
        let kept = name.clone();
        Ok((self.decide(name, cost).await?, kept))
    }
}

impl Reservation {
    #[cfg(feature = "tower")]
    pub(super) fn new(limiter: RateLimiter, name: Name, decision: Decision) -> Self {
        Self { limiter, name, decision }
    }

    /// Returns the number of permits that were charged.
    #[must_use]
    pub fn estimate(&self) -> u64 {
        self.decision.granted
    }

    /// Returns the decision that granted the reservation.
    #[must_use]
    pub fn decision(&self) -> &Decision {
        &self.decision
    }

    /// Settles the reservation with the permits that were used. The rest of the estimate is given back; use beyond
    /// it is charged as far as it fits. One round trip; none if the estimate was right.
    /// [`settle_with_debt`](Self::settle_with_debt) charges it even if it does not fit.
    ///
    /// # Errors
    ///
    /// After an error the estimate stays charged.
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    ///
    /// # Cancel safety
    ///
    /// A dropped call may have settled the reservation.
    pub async fn settle(self, used: u64) -> Result<Settled> {
        self.settle_by(used, ChargeMode::UpTo).await
    }

    /// As [`settle`](Self::settle), but charges use beyond the estimate even if it does not fit: a key that used
    /// more than its limit is refused until the use has left the window. At most twice the limit counts at any
    /// time; the rest is [uncovered](Settled::uncovered).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> larder::Result<()> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// let tokens = larder.rate_limiter("tokens", larder::Quota::per_minute(1_000))?;
    /// let reservation = tokens.reserve("ann", 100).await?.granted().expect("nothing was used before");
    /// let settled = reservation.settle_with_debt(1_500).await?;
    /// assert_eq!((settled.charged, settled.uncovered), (1_400, 0));
    /// assert!(!tokens.allow("ann").await?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// After an error the estimate stays charged.
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    ///
    /// # Cancel safety
    ///
    /// As [`settle`](Self::settle).
    pub async fn settle_with_debt(self, used: u64) -> Result<Settled> {
        self.settle_by(used, ChargeMode::Debt).await
    }

    async fn settle_by(self, used: u64, beyond: ChargeMode) -> Result<Settled> {
        let Self { limiter, name, decision } = self;
        let estimate = decision.granted;
        let work = async {
            if used == estimate {
                return Ok(Settled { returned: 0, charged: 0, uncovered: 0 });
            }
            if used < estimate {
                let returned = limiter.give_back(&name, decision.stamp, estimate - used).await?;
                return Ok(Settled { returned, charged: 0, uncovered: 0 });
            }
            let more = used - estimate;
            let decision = limiter.ask_store(&name, &limiter.plan_for(&name)?, beyond, more).await?;
            // An allowance by the outage policy is not a charge.
            let charged = if decision.stamp == ChargeStamp::default() { 0 } else { decision.granted };
            Ok(Settled { returned: 0, charged, uncovered: more - charged })
        };
        Call::new(limiter.timeout(), &limiter.inner.local.meter.settle, work).await
    }

    /// Gives the whole estimate back, because nothing was used.
    ///
    /// # Errors
    ///
    /// After an error the estimate stays charged.
    ///
    #[doc = include_str!("../doc/request_errors.md")]
    ///
    /// # Cancel safety
    ///
    /// A dropped call may have given it back.
    pub async fn cancel(self) -> Result<Settled> {
        self.settle(0).await
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation").field("estimate", &self.decision.granted).finish_non_exhaustive()
    }
}
