//! The layer and its service.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, StatusCode, header};
use tower_layer::Layer;
use tower_service::Service;

use super::fields::{Policies, RateLimitFields, Told};
use super::key::{RequestHead, RequestKey, shortened};
use super::refusal::{Problem, Refusal, Refuse, retry_after};
use crate::error::Error;
use crate::limit::{DecidedBy, Decision, RateLimiter};

type Skip = Arc<dyn Fn(&RequestHead<'_>) -> bool + Send + Sync>;

/// Limits the requests of a tower service: axum, hyper, tonic.
///
/// A request that is refused is answered with 429, `Retry-After` in whole seconds rounded up, and a problem document; one
/// that passes goes on with an `Arc` of its [`Decision`] among the request's extensions. Responses say what is left, as
/// [`fields`](Self::fields) chooses. If nobody can decide (the store is away and the limiter's
/// [`Outage`](crate::Outage) does not allow, nor count here), the answer is 503. A key longer than the store takes
/// (`max_key_bytes`, 1,024 by default) is counted under its SHA-1, so no client can cause an error by a long one.
///
/// The request holds the only reference to the decision: a handler that takes it out can give back what it was charged,
/// say where it served from a cache. `request.extensions_mut().remove::<Arc<Decision>>()` and [`Arc::into_inner`] make it
/// what [`refund`](RateLimiter::refund) takes.
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
/// # let _ = layer;
/// # Ok(())
/// # }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run()).unwrap();
/// ```
pub struct RateLimitLayer<R = Problem> {
    shared: Arc<Shared<R>>,
}

struct Shared<R> {
    limiter: RateLimiter,
    key: Arc<dyn RequestKey>,
    fields: RateLimitFields,
    shadow: bool,
    skip: Option<Skip>,
    refuse: Arc<R>,
    policies: Arc<RwLock<Arc<Policies>>>,
}

impl RateLimitLayer {
    /// Limits requests by what `key` says of each.
    pub fn new(limiter: RateLimiter, key: impl RequestKey) -> Self {
        let policies = Arc::new(Policies::new(limiter.name(), limiter.quotas()));
        let shared = Shared {
            limiter,
            key: Arc::new(key),
            fields: RateLimitFields::default(),
            shadow: false,
            skip: None,
            refuse: Arc::new(Problem),
            policies: Arc::new(RwLock::new(policies)),
        };
        Self { shared: Arc::new(shared) }
    }
}

impl<R> RateLimitLayer<R> {
    /// Which fields of responses tell about the limit. Default: [`RateLimitFields::Ietf`].
    #[must_use]
    pub fn fields(self, fields: RateLimitFields) -> Self {
        self.with(|shared| shared.fields = fields)
    }

    /// Decides and counts, but never refuses and tells nobody: to see what a limit would do. Refusals show in
    /// `larder_limiter_decisions_total`.
    #[must_use]
    pub fn shadow(self) -> Self {
        self.with(|shared| shared.shadow = true)
    }

    /// Requests that are not limited at all.
    #[must_use]
    pub fn skip(self, skip: impl Fn(&RequestHead<'_>) -> bool + Send + Sync + 'static) -> Self {
        self.with(|shared| shared.skip = Some(Arc::new(skip)))
    }

    /// What a refusal is answered with. Default: [`Problem`]; [`Grpc`](super::Grpc) for tonic; or a closure from a
    /// [`Refusal`] to a response.
    #[must_use]
    pub fn refuse<N>(self, refuse: N) -> RateLimitLayer<N> {
        let shared = &self.shared;
        RateLimitLayer {
            shared: Arc::new(Shared {
                limiter: shared.limiter.clone(),
                key: shared.key.clone(),
                fields: shared.fields,
                shadow: shared.shadow,
                skip: shared.skip.clone(),
                refuse: Arc::new(refuse),
                policies: shared.policies.clone(),
            }),
        }
    }

    fn with(self, change: impl FnOnce(&mut Shared<R>)) -> Self {
        let shared = &self.shared;
        let mut changed = Shared {
            limiter: shared.limiter.clone(),
            key: shared.key.clone(),
            fields: shared.fields,
            shadow: shared.shadow,
            skip: shared.skip.clone(),
            refuse: shared.refuse.clone(),
            policies: shared.policies.clone(),
        };
        change(&mut changed);
        Self { shared: Arc::new(changed) }
    }
}

impl<R> Shared<R> {
    /// The names of the quotas, made anew when those were changed.
    fn policies(&self) -> Arc<Policies> {
        let quotas = self.limiter.quotas();
        let known = self.policies.read().unwrap_or_else(PoisonError::into_inner).clone();
        if known.quotas() == quotas {
            return known;
        }
        let fresh = Arc::new(Policies::new(self.limiter.name(), quotas));
        *self.policies.write().unwrap_or_else(PoisonError::into_inner) = fresh.clone();
        fresh
    }

    fn refusal<B>(&self, decided: &Result<Decision, Error>, policies: &Policies) -> Response<B>
    where
        R: Refuse<B>,
    {
        let (status, span, names) = match decided {
            Ok(decision) if decision.was_counted() => (
                StatusCode::TOO_MANY_REQUESTS,
                decision.retry_after().unwrap_or_default(),
                vec![policies.of(decision.quota())],
            ),
            _ => (StatusCode::SERVICE_UNAVAILABLE, Duration::from_secs(1), Vec::new()),
        };
        let refusal = Refusal { status, retry_after: span, policies: names };
        let mut response = self.refuse.refuse(&refusal);
        response.headers_mut().insert(header::RETRY_AFTER, retry_after(span));
        response
    }
}

impl<R> Clone for RateLimitLayer<R> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<R> fmt::Debug for RateLimitLayer<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitLayer").field("limiter", &self.shared.limiter).finish_non_exhaustive()
    }
}

impl<S, R> Layer<S> for RateLimitLayer<R> {
    type Service = RateLimitService<S, R>;

    fn layer(&self, inner: S) -> Self::Service {
        RateLimitService { inner, shared: self.shared.clone() }
    }
}

/// A service whose requests are limited. Made by [`RateLimitLayer`].
pub struct RateLimitService<S, R = Problem> {
    inner: S,
    shared: Arc<Shared<R>>,
}

impl<S: Clone, R> Clone for RateLimitService<S, R> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), shared: self.shared.clone() }
    }
}

impl<S, R> fmt::Debug for RateLimitService<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitService").field("limiter", &self.shared.limiter).finish_non_exhaustive()
    }
}

impl<S, R, A, B> Service<Request<A>> for RateLimitService<S, R>
where
    S: Service<Request<A>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    R: Refuse<B>,
    A: Send + 'static,
    B: Send + 'static,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<A>) -> Self::Future {
        // The service that was found ready goes into the future; its clone need not be.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let shared = self.shared.clone();
        let head = RequestHead::of(&request);
        if shared.skip.as_ref().is_some_and(|skip| skip(&head)) {
            return Box::pin(inner.call(request));
        }
        let key = shortened(shared.key.key(&head).unwrap_or_default(), |key| shared.limiter.takes(key));
        Box::pin(async move {
            let decided = shared.limiter.check(key).await;
            if let Err(error) = &decided {
                tracing::debug!(%error, limiter = shared.limiter.name(), "no decision on a request");
            }
            if shared.shadow {
                return inner.call(request).await;
            }
            let policies = shared.policies();
            let counted = decided.as_ref().ok().filter(|one| one.decided_by() != DecidedBy::Outage);
            let told = counted.map(Told::of);
            let mut response = match decided {
                Ok(decision) if decision.is_allowed() => {
                    request.extensions_mut().insert(Arc::new(decision));
                    inner.call(request).await?
                }
                refused => shared.refusal(&refused, &policies),
            };
            if let Some(told) = told {
                policies.write(shared.fields, told, response.headers_mut());
            }
            Ok(response)
        })
    }
}
