//! The layer: whose requests are limited, by what, and what clients learn of it.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tower_layer::Layer;

use super::fields::{Policies, RateLimitFields};
use super::key::{RequestHead, RequestKey, ResponseHead};
use super::refusal::{Problem, RefusedRequest};
use super::service::RateLimitService;
use crate::limit::{Quota, Quotas, RateLimiter};

/// Answers about a request, or about a response and what its request was charged.
type RequestFn<T> = Arc<dyn Fn(&RequestHead<'_>) -> T + Send + Sync>;
type Settle = Arc<dyn Fn(&ResponseHead<'_>, u64) -> u64 + Send + Sync>;
type Hook = Arc<dyn Fn(&RefusedRequest<'_>) + Send + Sync>;

/// Sets of quotas whose fields are kept ready.
const POLICIES: usize = 16;

/// Limits the requests of a tower service: axum, hyper, tonic.
///
/// A request that is refused is answered with 429, `Retry-After` in whole seconds rounded up, and a problem document. One
/// that passes goes on with its decision in the [`Decisions`](super::Decisions) among the request's extensions. Responses
/// say what is left, as [`fields`](Self::fields) chooses. Where no decision can be made (the store is away and the
/// limiter's [`OutagePolicy`](crate::OutagePolicy) neither allows nor counts in this process), the answer is 503. A key longer than the
/// store takes (`max_key_bytes`, 1,024 by default) is counted under its SHA-1, so no client can cause an error by a long one.
///
/// Layers compose: each adds its `RateLimit` fields to those of layers inside it and of services behind it.
///
/// ```
/// use larder::http::{PathKey, RateLimitLayer};
/// use larder::{Larder, Quota};
///
/// # async fn run() -> larder::Result<()> {
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
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run()).unwrap();
/// ```
pub struct RateLimitLayer<R = Problem> {
    shared: Arc<LayerShared<R>>,
}

pub(super) struct LayerShared<R> {
    pub(super) options: Options,
    pub(super) refuse: Arc<R>,
    policies: Arc<RwLock<Vec<Arc<Policies>>>>,
}

#[derive(Clone)]
pub(super) struct Options {
    pub(super) limiter: RateLimiter,
    pub(super) key: Arc<dyn RequestKey>,
    /// Decided together with the first.
    pub(super) and: Vec<(RateLimiter, Arc<dyn RequestKey>)>,
    pub(super) fields: RateLimitFields,
    pub(super) shadow: bool,
    pub(super) skip: Option<RequestFn<bool>>,
    pub(super) quotas: Option<RequestFn<Option<Quotas>>>,
    pub(super) cost: Option<RequestFn<u64>>,
    pub(super) settle: Option<Settle>,
    pub(super) on_refusal: Option<Hook>,
    pub(super) jitter: Duration,
}

impl RateLimitLayer {
    /// Limits requests by what `key` says of each.
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
    /// Which fields of responses tell about the limit. Default: [`RateLimitFields::Ietf`].
    #[must_use]
    pub fn fields(self, fields: RateLimitFields) -> Self {
        self.with(|options| options.fields = fields)
    }

    /// Decides and counts, but neither refuses nor adds fields: to see what a limit would do. Refusals show in
    /// `larder_limiter_decisions_total` and by [`on_refusal`](Self::on_refusal). Handlers find the decision, refused or not.
    #[must_use]
    pub fn shadow(self) -> Self {
        self.with(|options| options.shadow = true)
    }

    /// Requests that are not limited at all.
    #[must_use]
    pub fn skip(self, skip: impl Fn(&RequestHead<'_>) -> bool + Send + Sync + 'static) -> Self {
        self.with(|options| options.skip = Some(Arc::new(skip)))
    }

    /// A further limit, decided together with the first: a request is charged to all keys or to none, in one round trip. A
    /// layer inside another charges the outer limit for requests that the inner one refuses; this does not.
    ///
    /// On a cluster the limiters must be in one [group](RateLimiter::in_group); else requests are answered with 503.
    #[must_use]
    pub fn and(self, limiter: RateLimiter, key: impl RequestKey) -> Self {
        self.with(|options| options.and.push((limiter, Arc::new(key))))
    }

    /// Other quotas of the first limiter for some requests, say by the plan that a customer pays for: those that this returns, or the limiter's
    /// own for `None`. Where the same key is asked for by other quotas, what was charged to it counts on.
    /// [`RateLimiter::quotas_by`] does the same by the key alone. Quotas that make no sense are answered with 503, and
    /// logged.
    #[must_use]
    pub fn quotas(self, quotas: impl Fn(&RequestHead<'_>) -> Option<Quotas> + Send + Sync + 'static) -> Self {
        self.with(|options| options.quotas = Some(Arc::new(quotas)))
    }

    /// What each request costs. Default: 1. A cost of zero is not counted; one above the limit is charged as the whole limit.
    #[must_use]
    pub fn cost(self, cost: impl Fn(&RequestHead<'_>) -> u64 + Send + Sync + 'static) -> Self {
        self.with(|options| options.cost = Some(Arc::new(cost)))
    }

    /// What a request has cost, by its response and what was charged: the difference is given back, or charged as
    /// [debt](crate::Reservation::settle_with_debt). One more round trip where it differs, before the response goes out.
    /// What a request that is dropped or fails with an error of its service was charged stays charged.
    #[must_use]
    pub fn settle(self, cost: impl Fn(&ResponseHead<'_>, u64) -> u64 + Send + Sync + 'static) -> Self {
        self.with(|options| options.settle = Some(Arc::new(cost)))
    }

    /// Counts only requests with some outcome, say failed logins: the others get back what they were charged, in one more
    /// round trip before the response goes out. A request counts until its outcome is known, so that no more than the
    /// limit can be tried at the same time.
    #[must_use]
    pub fn count_if(self, counts: impl Fn(&ResponseHead<'_>) -> bool + Send + Sync + 'static) -> Self {
        self.settle(move |response, charged| if counts(response) { charged } else { 0 })
    }

    /// Called for each request that is refused, with its key: to log it, or to tell another system. It must not block.
    #[must_use]
    pub fn on_refusal(self, hook: impl Fn(&RefusedRequest<'_>) + Send + Sync + 'static) -> Self {
        self.with(|options| options.on_refusal = Some(Arc::new(hook)))
    }

    /// Adds up to so much to `Retry-After`, at random, so that clients that were refused together do not come back together.
    #[must_use]
    pub fn retry_jitter(self, most: Duration) -> Self {
        self.with(|options| options.jitter = most)
    }

    /// What a refusal is answered with. Default: [`Problem`]; [`Grpc`](super::Grpc) for tonic; or a closure from a
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

impl<R> LayerShared<R> {
    /// The fields about these quotas of a limiter.
    pub(super) fn policies(&self, name: &str, quotas: Vec<Quota>) -> Arc<Policies> {
        let same = |known: &&Arc<Policies>| known.name() == name && known.quotas() == quotas;
        if let Some(known) = self.policies.read().unwrap_or_else(PoisonError::into_inner).iter().find(same) {
            return known.clone();
        }
        let made = Arc::new(Policies::new(name, quotas));
        let mut all = self.policies.write().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= POLICIES {
            all.remove(0);
        }
        all.push(made.clone());
        made
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
