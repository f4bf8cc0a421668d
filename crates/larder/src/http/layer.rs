//! The layer: which requests are limited, by which limits, and what clients see of it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tower_layer::Layer;

use super::fields::RateLimitFields;
use super::key::{RequestHead, RequestKey, ResponseHead};
use super::options::{LayerShared, Options};
use super::refusal::{Problem, RefusedRequest};
use super::service::RateLimitService;
use crate::limit::{Quotas, RateLimiter};

/// Limits the requests of a tower service: axum, hyper, tonic.
///
/// A refused request is answered with 429, `Retry-After` in whole seconds rounded up, and a problem document. An
/// allowed request goes on with its decision in the [`Decisions`](super::Decisions) among its extensions. Responses
/// say what is left, as chosen with [`fields`](Self::fields).
///
/// If no decision can be made, the answer is 503: the store is down and the limiter's
/// [`OutagePolicy`](crate::limit::OutagePolicy) neither allows the request nor counts it in this process. A key
/// that is longer than the store accepts (`max_key_bytes`, 1,024 by default) is counted under its SHA-1, so that a
/// client cannot cause an error with a long key.
///
/// Layers compose: each adds its `RateLimit` fields to those of inner layers and of services behind it.
///
/// ```
/// use larder::http::{PathKey, RateLimitLayer};
/// use larder::{Larder, Quota};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> larder::Result<()> {
/// let larder = Larder::connect("memory:").await?;
/// let limiter = larder.rate_limiter("api", Quota::per_minute(100))?;
/// let layer = RateLimitLayer::new(limiter, PathKey::new()).skip(|request| request.uri().path() == "/health");
/// // axum: Router::new().route("/", get(index)).layer(layer)
///
/// // Failed logins only, by the status of the response.
/// let logins = larder.rate_limiter("login", Quota::per_hour(10))?;
/// let logins = RateLimitLayer::new(logins, PathKey::new()).count_if(|response| response.status() == 401);
/// # let _ = (layer, logins);
/// # Ok(())
/// # }
/// ```
pub struct RateLimitLayer<R = Problem> {
    shared: Arc<LayerShared<R>>,
}

impl RateLimitLayer {
    /// Limits requests by the key that `key` finds for each of them.
    pub fn new(limiter: RateLimiter, key: impl RequestKey) -> Self {
        let options = Options {
            limiter,
            key: Arc::new(key),
            and: Vec::new(),
            fields: RateLimitFields::default(),
            shadow: false,
            skip: None,
            quotas: None,
            cost: None,
            settle: None,
            on_refusal: None,
            jitter: Duration::ZERO,
        };
        Self {
            shared: Arc::new(LayerShared { options, refuse: Arc::new(Problem), policies: Arc::default() }),
        }
    }
}

impl<R> RateLimitLayer<R> {
    /// Sets the response fields that report the limit. Default: [`RateLimitFields::Ietf`].
    #[must_use]
    pub fn fields(self, fields: RateLimitFields) -> Self {
        self.with(|options| options.fields = fields)
    }

    /// Decides and counts, but neither refuses nor adds fields: use it to see what a limit would do. Refusals are
    /// visible in `larder_limiter_decisions_total` and in [`on_refusal`](Self::on_refusal). Handlers see the
    /// decision, even if it is a refusal.
    #[must_use]
    pub fn shadow(self) -> Self {
        self.with(|options| options.shadow = true)
    }

    /// Sets which requests are not limited at all.
    #[must_use]
    pub fn skip(self, skip: impl Fn(&RequestHead<'_>) -> bool + Send + Sync + 'static) -> Self {
        self.with(|options| options.skip = Some(Arc::new(skip)))
    }

    /// Adds a further limit, decided together with the first: a request is charged to all keys or to none, in one
    /// round trip. With two nested layers, the outer limit is charged for requests that the inner one refuses;
    /// `and` avoids that.
    ///
    /// On a cluster the limiters must be in one [group](RateLimiter::in_group); otherwise requests are answered
    /// with 503.
    #[must_use]
    pub fn and(self, limiter: RateLimiter, key: impl RequestKey) -> Self {
        self.with(|options| options.and.push((limiter, Arc::new(key))))
    }

    /// Sets other quotas of the first limiter for some requests, for example by the customer's plan: those that the
    /// closure returns, or the limiter's own for `None`. The closure returns one [`Quota`](crate::Quota), an array or
    /// a `Vec` of several, or [`Quotas`]. Earlier charges to the same key count under all quotas.
    /// [`RateLimiter::quotas_by`] does the same by the key alone. Requests with invalid quotas are answered with
    /// 503 and logged.
    ///
    /// ```
    /// # use larder::http::{HeaderKey, RateLimitLayer};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> larder::Result<()> {
    /// # let larder = larder::Larder::connect("memory:").await?;
    /// use larder::Quota;
    ///
    /// let limiter = larder.rate_limiter("api", Quota::per_minute(10))?;
    /// let layer = RateLimitLayer::new(limiter, HeaderKey::new("x-api-key")?)
    ///     .quotas(|request| request.headers().contains_key("x-paid").then_some(Quota::per_minute(1000)));
    /// # let _ = layer;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn quotas<Q>(self, quotas: impl Fn(&RequestHead<'_>) -> Option<Q> + Send + Sync + 'static) -> Self
    where
        Q: Into<Quotas> + 'static,
    {
        let quotas = move |request: &RequestHead<'_>| quotas(request).map(Into::into);
        self.with(|options| options.quotas = Some(Arc::new(quotas)))
    }

    /// Sets the cost of each request. Default: 1. A cost of zero is not counted; a cost above the limit is charged
    /// as the whole limit. A cost above the limit of the key's [override](RateLimiter::override_key) is refused with
    /// 429 until the override ends.
    #[must_use]
    pub fn cost(self, cost: impl Fn(&RequestHead<'_>) -> u64 + Send + Sync + 'static) -> Self {
        self.with(|options| options.cost = Some(Arc::new(cost)))
    }

    /// Computes the final cost of a request from its response and its charge. The difference is given back, or
    /// charged as [debt](crate::limit::Reservation::settle_with_debt), in one more round trip before the response
    /// is sent. The keys of [several limits](Self::and) are settled at the same time, each by itself: if the request
    /// about one fails, that one keeps its charge. The charge of a request that is dropped, or whose service fails,
    /// stays.
    #[must_use]
    pub fn settle(self, cost: impl Fn(&ResponseHead<'_>, u64) -> u64 + Send + Sync + 'static) -> Self {
        self.with(|options| options.settle = Some(Arc::new(cost)))
    }

    /// Counts only requests with a certain outcome, such as failed logins. The others get their charge back, in one
    /// more round trip before the response is sent. A request counts until its outcome is known, so that no more
    /// requests than the limit can run at the same time.
    #[must_use]
    pub fn count_if(self, counts: impl Fn(&ResponseHead<'_>) -> bool + Send + Sync + 'static) -> Self {
        self.settle(move |response, charged| if counts(response) { charged } else { 0 })
    }

    /// Sets a hook that is called for each refused request, with its key: to log it, or to notify another system.
    /// It must not block.
    #[must_use]
    pub fn on_refusal(self, hook: impl Fn(&RefusedRequest<'_>) + Send + Sync + 'static) -> Self {
        self.with(|options| options.on_refusal = Some(Arc::new(hook)))
    }

    /// Adds a random time of up to `most` to `Retry-After`, so that clients that were refused together do not retry
    /// together. A longer time than a day counts as a day.
    #[must_use]
    pub fn retry_jitter(self, most: Duration) -> Self {
        self.with(|options| options.jitter = most)
    }

    /// Sets the response of a refusal. Default: [`Problem`]; [`Grpc`](super::Grpc) for tonic; or a closure from a
    /// [`Refusal`](super::Refusal) to a response.
    #[must_use]
    pub fn refuse<N>(self, refuse: N) -> RateLimitLayer<N> {
        let LayerShared { options, policies, .. } = &*self.shared;
        let (options, policies) = (options.clone(), policies.clone());
        RateLimitLayer { shared: Arc::new(LayerShared { options, refuse: Arc::new(refuse), policies }) }
    }

    fn with(self, change: impl FnOnce(&mut Options)) -> Self {
        let mut options = self.shared.options.clone();
        change(&mut options);
        let (refuse, policies) = (self.shared.refuse.clone(), self.shared.policies.clone());
        Self { shared: Arc::new(LayerShared { options, refuse, policies }) }
    }
}

impl<R> Clone for RateLimitLayer<R> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<R> fmt::Debug for RateLimitLayer<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitLayer")
            .field("limiter", &self.shared.options.limiter)
            .finish_non_exhaustive()
    }
}

impl<S, R> Layer<S> for RateLimitLayer<R> {
    type Service = RateLimitService<S, R>;

    fn layer(&self, inner: S) -> Self::Service {
        RateLimitService::new(inner, self.shared.clone())
    }
}
