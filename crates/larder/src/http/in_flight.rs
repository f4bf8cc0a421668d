//! Limits how many requests of a key are served at the same time, over all processes.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::key::{RequestHead, RequestKey, shortened};
use super::options::Hook;
use super::refusal::{Problem, Refusal, Refuse, RefusedRequest, retry_after};
use crate::error::ErrorKind;
use crate::lock::{Semaphore, SemaphorePermit};
use crate::telemetry::target;

type Skip = Arc<dyn Fn(&RequestHead<'_>) -> bool + Send + Sync>;

/// Limits how many requests of a key are served at the same time, with a [`Semaphore`].
///
/// A request acquires a permit of its key and holds it until the response's body has been sent or the client has
/// disconnected. A request without a permit is answered with 429 and `Retry-After: 1`, or with 503 while the store
/// is down. With [`wait`](Self::wait) it first waits for a permit; [`Semaphore::max_waiting`] limits how many wait.
///
/// ```
/// use larder::Larder;
/// use larder::http::{HeaderKey, InFlightLayer};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> larder::Result<()> {
/// let larder = Larder::connect("memory:").await?;
/// let exports = InFlightLayer::new(larder.semaphore("exports", 2), HeaderKey::new("x-user")?);
/// // axum: Router::new().route("/export", get(export)).layer(exports)
/// # let _ = exports;
/// # Ok(())
/// # }
/// ```
///
/// The permits of a process that dies expire ([`Semaphore::ttl`]). A body that is neither read to its end nor
/// dropped holds its permit: set a timeout for slow clients.
pub struct InFlightLayer<R = Problem> {
    semaphore: Semaphore,
    key: Arc<dyn RequestKey>,
    waits: Duration,
    skip: Option<Skip>,
    allow_in_outage: bool,
    on_refusal: Option<Hook>,
    jitter: Duration,
    refuse: Arc<R>,
}

impl InFlightLayer {
    /// Limits requests by the key that `key` finds for each of them. Requests without a key share the empty key.
    pub fn new(semaphore: Semaphore, key: impl RequestKey) -> Self {
        Self {
            semaphore,
            key: Arc::new(key),
            waits: Duration::ZERO,
            skip: None,
            allow_in_outage: false,
            on_refusal: None,
            jitter: Duration::ZERO,
            refuse: Arc::new(Problem),
        }
    }
}

impl<R> InFlightLayer<R> {
    /// Sets how long a request waits for a permit, in order of arrival. Default: it does not wait.
    #[must_use]
    pub fn wait(self, longest: Duration) -> Self {
        Self { waits: longest, ..self }
    }

    /// Sets which requests are not limited.
    #[must_use]
    pub fn skip(self, skip: impl Fn(&RequestHead<'_>) -> bool + Send + Sync + 'static) -> Self {
        Self { skip: Some(Arc::new(skip)), ..self }
    }

    /// Lets requests pass while the store is down. Default: they are answered with 503.
    #[must_use]
    pub fn allow_in_outage(self) -> Self {
        Self { allow_in_outage: true, ..self }
    }

    /// Sets the response of a refusal, as [`RateLimitLayer::refuse`](super::RateLimitLayer::refuse).
    #[must_use]
    pub fn refuse<N>(self, refuse: N) -> InFlightLayer<N> {
        let Self { semaphore, key, waits, skip, allow_in_outage, on_refusal, jitter, .. } = self;
        let refuse = Arc::new(refuse);
        InFlightLayer { semaphore, key, waits, skip, allow_in_outage, on_refusal, jitter, refuse }
    }

    /// Sets a hook that is called for each refused request, as
    /// [`RateLimitLayer::on_refusal`](super::RateLimitLayer::on_refusal). There is no decision.
    #[must_use]
    pub fn on_refusal(self, hook: impl Fn(&RefusedRequest<'_>) + Send + Sync + 'static) -> Self {
        Self { on_refusal: Some(Arc::new(hook)), ..self }
    }

    /// Adds a random time of up to `most`, and at most a day, to `Retry-After`, as
    /// [`RateLimitLayer::retry_jitter`](super::RateLimitLayer::retry_jitter).
    #[must_use]
    pub fn retry_jitter(self, most: Duration) -> Self {
        Self { jitter: most, ..self }
    }

    /// Returns the permit, or the status of the refusal. `None` lets the request pass without a permit.
    async fn enter(&self, key: &str) -> Result<Option<SemaphorePermit>, StatusCode> {
        let semaphore = self.semaphore.key(key);
        let taken = if self.waits.is_zero() {
            semaphore.try_acquire().await
        } else {
            semaphore.acquire_within(self.waits).await.map(Some)
        };
        match taken {
            Ok(Some(permit)) => Ok(Some(permit)),
            Ok(None) => Err(StatusCode::TOO_MANY_REQUESTS),
            Err(error) if matches!(error.kind(), ErrorKind::LockHeld | ErrorKind::QueueFull) => {
                Err(StatusCode::TOO_MANY_REQUESTS)
            }
            Err(error) => {
                tracing::debug!(target: target::HTTP, %error, "the requests in flight could not be counted");
                let passes = self.allow_in_outage && error.is_retryable();
                if passes { Ok(None) } else { Err(StatusCode::SERVICE_UNAVAILABLE) }
            }
        }
    }
}

impl<R> InFlightLayer<R> {
    /// Reports a refusal, and makes its response.
    fn refused<A, B>(&self, key: &str, request: &Request<A>, status: StatusCode) -> Response<B>
    where
        R: Refuse<B>,
    {
        if let Some(hook) = &self.on_refusal {
            let request = RequestHead::of(request);
            hook(&RefusedRequest { key, request, status, decision: None, shadow: false });
        }
        let span = Duration::from_secs(1) + self.semaphore.jitter(self.jitter);
        let refusal = Refusal { status, retry_after: span, policies: Vec::new() };
        let mut response = self.refuse.refuse(&refusal);
        response.headers_mut().insert(header::RETRY_AFTER, retry_after(span));
        response
    }
}

impl<R> Clone for InFlightLayer<R> {
    fn clone(&self) -> Self {
        let Self { semaphore, key, waits, skip, allow_in_outage, on_refusal, jitter, refuse } = self;
        Self {
            semaphore: semaphore.clone(),
            key: key.clone(),
            waits: *waits,
            skip: skip.clone(),
            allow_in_outage: *allow_in_outage,
            on_refusal: on_refusal.clone(),
            jitter: *jitter,
            refuse: refuse.clone(),
        }
    }
}

impl<R> fmt::Debug for InFlightLayer<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InFlightLayer").field("wait", &self.waits).finish_non_exhaustive()
    }
}

impl<S, R> Layer<S> for InFlightLayer<R> {
    type Service = InFlightService<S, R>;

    fn layer(&self, inner: S) -> Self::Service {
        InFlightService { inner, layer: self.clone() }
    }
}

/// A service with a limited number of requests in flight. Made by [`InFlightLayer`].
pub struct InFlightService<S, R = Problem> {
    inner: S,
    layer: InFlightLayer<R>,
}

impl<S: Clone, R> Clone for InFlightService<S, R> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), layer: self.layer.clone() }
    }
}

impl<S, R> fmt::Debug for InFlightService<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InFlightService").field("layer", &self.layer).finish_non_exhaustive()
    }
}

impl<S, R, A, B> Service<Request<A>> for InFlightService<S, R>
where
    S: Service<Request<A>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    R: Refuse<B>,
    A: Send + 'static,
    B: Send + 'static,
{
    type Response = Response<InFlightBody<B>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        // Only `self.inner` was polled ready, so it goes into the future; the clone need not be ready.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let layer = self.layer.clone();
        let head = RequestHead::of(&request);
        let skipped = layer.skip.as_ref().is_some_and(|skip| skip(&head));
        let key = (!skipped).then(|| layer.key.key(&head).unwrap_or_default());
        let key = key.map(|key| shortened(key, |key| layer.semaphore.takes(key)));
        Box::pin(async move {
            let mut permit = None;
            if let Some(key) = key {
                permit = match layer.enter(&key).await {
                    Ok(permit) => permit,
                    Err(status) => {
                        let response = layer.refused(&key, &request, status);
                        return Ok(response.map(|body| InFlightBody { body, permit: None }));
                    }
                };
            }
            let response = inner.call(request).await?;
            Ok(response.map(|body| InFlightBody { body, permit }))
        })
    }
}

pin_project! {
    /// A body that holds its request's permit until it has been sent or is dropped.
    #[derive(Debug)]
    pub struct InFlightBody<B> {
        #[pin]
        body: B,
        permit: Option<SemaphorePermit>,
    }
}

impl<B: Body> Body for InFlightBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let frame = this.body.poll_frame(cx);
        if matches!(frame, Poll::Ready(None | Some(Err(_)))) {
            // The permit is released in the background.
            drop(this.permit.take());
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B: Default> Default for InFlightBody<B> {
    fn default() -> Self {
        Self { body: B::default(), permit: None }
    }
}

impl<B: From<String>> From<String> for InFlightBody<B> {
    fn from(text: String) -> Self {
        Self { body: text.into(), permit: None }
    }
}
