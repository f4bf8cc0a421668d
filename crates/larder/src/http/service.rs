//! Handles a request in the layer: decides, calls the service, settles, and adds the fields.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::join_all;
use http::{Request, Response, StatusCode, header};
use tower_service::Service;

use super::decisions::Decisions;
use super::fields::{LimitFields, Policies};
use super::key::{RequestHead, ResponseHead, shortened};
use super::options::{LayerShared, Options};
use super::refusal::{Problem, Refusal, Refuse, RefusedRequest, retry_after};
use crate::error::{Error, ErrorKind, Result};
use crate::limit::{DecidedBy, Decision, RateLimiter, Reservation, Reserve, Settled};
use crate::telemetry::target;

/// A service whose requests are limited. Made by [`RateLimitLayer`](super::RateLimitLayer).
pub struct RateLimitService<S, R = Problem> {
    inner: S,
    shared: Arc<LayerShared<R>>,
}

impl<S, R> RateLimitService<S, R> {
    pub(super) fn new(inner: S, shared: Arc<LayerShared<R>>) -> Self {
        Self { inner, shared }
    }
}

impl<S: Clone, R> Clone for RateLimitService<S, R> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), shared: self.shared.clone() }
    }
}

impl<S, R> fmt::Debug for RateLimitService<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitService")
            .field("limiter", &self.shared.options.limiter)
            .finish_non_exhaustive()
    }
}

/// The keys and the cost of a request: at least one key.
struct RequestKeys {
    keys: Vec<(RateLimiter, String)>,
    cost: u64,
}

/// The decisions of the limiters: one for each key.
struct Decided {
    decisions: Result<Vec<Decision>>,
    /// Reservations to be settled by the response.
    reservations: Vec<Reservation>,
}

/// Unreachable, because every request has a key.
static NOTHING: LazyLock<Error> = LazyLock::new(|| Error::invalid("a request has no rate-limit key"));

impl Decided {
    /// Returns the decision that counts for the request: that of the key with the longest wait.
    fn binding(&self) -> Result<(usize, &Decision), &Error> {
        let decisions = self.decisions.as_ref()?;
        let mut binding = None;
        for (place, one) in decisions.iter().enumerate() {
            if binding.is_none_or(|(_, other): (usize, &Decision)| one.retry_after() > other.retry_after()) {
                binding = Some((place, one));
            }
        }
        binding.ok_or(&NOTHING)
    }
}

impl Options {
    /// Returns the keys and the cost of a request; `None` if it is not limited.
    fn ask(&self, head: &RequestHead<'_>) -> Option<Result<RequestKeys>> {
        if self.skip.as_ref().is_some_and(|skip| skip(head)) {
            return None;
        }
        let cost = self.cost.as_ref().map_or(1, |cost| cost(head));
        if cost == 0 {
            return None;
        }
        let limiter = match self.quotas.as_ref().and_then(|quotas| quotas(head)) {
            Some(quotas) => self.limiter.with_quotas(quotas),
            None => Ok(self.limiter.clone()),
        };
        Some(limiter.map(|limiter| {
            let and = self.and.iter().map(|(limiter, key)| (limiter.clone(), key));
            let all = std::iter::once((limiter, &self.key)).chain(and);
            let keys = all.map(|(limiter, key)| {
                let key = shortened(key.key(head).unwrap_or_default(), |key| limiter.takes(key));
                (limiter, key)
            });
            RequestKeys { keys: keys.collect(), cost }
        }))
    }

    async fn decide(&self, asked: &RequestKeys) -> Decided {
        match self.decide_all(asked).await {
            Ok((decisions, reservations)) => Decided { decisions: Ok(decisions), reservations },
            Err(error) => {
                tracing::debug!(target: target::HTTP, %error, limiter = self.limiter.name(), "a request's rate limit could not be checked");
                Decided { decisions: Err(error), reservations: Vec::new() }
            }
        }
    }

    async fn decide_all(&self, asked: &RequestKeys) -> Result<(Vec<Decision>, Vec<Reservation>)> {
        let exceeds = |(limiter, key): &(RateLimiter, String)| asked.cost > limiter.largest_cost(key);
        if asked.cost == 1 || !asked.keys.iter().any(exceeds) {
            return self.decide_by(asked, |_, _| asked.cost).await;
        }
        // An override may allow the cost. Otherwise a cost that could never be allowed is reduced to the whole
        // limit. Of several keys, only those without an override: see `LimitKey::reduced`. While the store is away, no
        // override applies.
        match self.decide_by(asked, |_, _| asked.cost).await {
            Err(error) if error.kind() == ErrorKind::InvalidSetting => {
                self.decide_by(asked, |limiter, key| asked.cost.min(limiter.largest_cost(key))).await
            }
            decided => decided,
        }
    }

    async fn decide_by(
        &self,
        asked: &RequestKeys,
        cost: impl Fn(&RateLimiter, &str) -> u64,
    ) -> Result<(Vec<Decision>, Vec<Reservation>)> {
        if let [(limiter, key)] = asked.keys.as_slice() {
            let cost = cost(limiter, key);
            if self.settle.is_none() {
                return Ok((vec![limiter.check_n(key.as_str(), cost).await?], Vec::new()));
            }
            return Ok(match limiter.reserve(key.as_str(), cost).await? {
                Reserve::Granted(reservation) => {
                    (vec![reservation.decision().without_charge()], vec![reservation])
                }
                Reserve::Refused(decision) => (vec![decision], Vec::new()),
            });
        }
        let keys = asked.keys.iter();
        let keys = keys.map(|(limiter, key)| limiter.key(key.as_str()).cost(cost(limiter, key)).reduced());
        if self.settle.is_none() {
            return Ok((self.limiter.check_keys(keys.collect()).await?, Vec::new()));
        }
        self.limiter.reserve_keys(keys.collect()).await
    }

    /// Returns the final cost of a request, computed from its response.
    fn used<B>(&self, reservation: &Reservation, response: &Response<B>) -> Option<u64> {
        let settle = self.settle.as_ref()?;
        Some(settle(&ResponseHead::of(response), reservation.estimate()))
    }

    /// Gives back or charges the difference. Returns `None` if that failed.
    async fn settle(&self, reservation: Reservation, used: u64) -> Option<Settled> {
        let settled = reservation.settle_with_debt(used).await;
        if let Err(error) = &settled {
            tracing::debug!(target: target::HTTP, %error, limiter = self.limiter.name(), "a request's cost was not corrected");
        }
        settled.ok()
    }

    fn refused<B>(&self, asked: &RequestKeys, request: &Request<B>, decided: &Decided) {
        let Some(hook) = &self.on_refusal else { return };
        let (place, decision) = match decided.binding() {
            Ok((_, decision)) if decision.is_allowed() => return,
            Ok((place, decision)) => (place, Some(decision)),
            Err(_) => (0, None),
        };
        let key = asked.keys.get(place).map_or("", |(_, key)| key.as_str());
        let (request, status) = (RequestHead::of(request), status(decision));
        hook(&RefusedRequest { key, request, status, decision, shadow: self.shadow });
    }
}

/// Returns the status of a refusal: 429 if the request was counted.
fn status(decision: Option<&Decision>) -> StatusCode {
    match decision {
        Some(decision) if decision.was_counted() => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

impl<R> LayerShared<R> {
    fn refusal<B>(&self, decided: Result<&Decision, &Error>, names: Vec<String>) -> Response<B>
    where
        R: Refuse<B>,
    {
        let status = status(decided.ok());
        let (span, names) = match decided {
            Ok(decision) if status == StatusCode::TOO_MANY_REQUESTS => {
                (decision.retry_after().unwrap_or_default(), names)
            }
            _ => (Duration::from_secs(1), Vec::new()),
        };
        let span = span + self.options.limiter.jitter(self.options.jitter);
        let refusal = Refusal { status, retry_after: span, policies: names };
        let mut response = self.refuse.refuse(&refusal);
        response.headers_mut().insert(header::RETRY_AFTER, retry_after(span));
        response
    }

    /// Returns the fields of each key's limiter, with the figures of its decision.
    fn limit_fields(&self, asked: &RequestKeys, decided: &Decided) -> Vec<(Arc<Policies>, LimitFields)> {
        let Ok(decisions) = &decided.decisions else { return Vec::new() };
        let each = asked.keys.iter().zip(decisions);
        let counted = each.filter(|(_, decision)| decision.decided_by() != DecidedBy::Outage);
        counted
            .map(|((limiter, key), decision)| {
                let quotas = limiter.quotas_of(key, Some(decision.quota()));
                (self.policies(limiter.name(), quotas), LimitFields::of(decision))
            })
            .collect()
    }

    /// Makes the response of a request that is refused.
    fn refuse_by<B>(&self, asked: &RequestKeys, decided: &Decided) -> Response<B>
    where
        R: Refuse<B>,
    {
        match decided.binding() {
            Ok((place, decision)) => {
                let name = asked.keys.get(place).map(|(limiter, key)| {
                    let quotas = limiter.quotas_of(key, Some(decision.quota()));
                    self.policies(limiter.name(), quotas).of(decision.quota())
                });
                self.refusal(Ok(decision), name.into_iter().collect())
            }
            Err(error) => self.refusal(Err(error), Vec::new()),
        }
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
        // Only `self.inner` was polled ready, so it goes into the future; the clone need not be ready.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let shared = self.shared.clone();
        // Added to every request, so that handlers can rely on it.
        let decisions = Decisions::of(request.extensions_mut());
        let asked = match shared.options.ask(&RequestHead::of(&request)) {
            None => return Box::pin(inner.call(request)),
            Some(asked) => asked,
        };
        Box::pin(async move {
            let options = &shared.options;
            let asked = match asked {
                Ok(asked) => asked,
                Err(error) => {
                    tracing::warn!(target: target::HTTP, %error, limiter = options.limiter.name(), "the quotas that the program chose for a request are invalid");
                    return if options.shadow {
                        inner.call(request).await
                    } else {
                        Ok(shared.refusal(Err(&error), Vec::new()))
                    };
                }
            };
            // Decide, and prepare the fields and the refusal while the decisions are here.
            let mut decided = options.decide(&asked).await;
            options.refused(&asked, &request, &decided);
            let limit_fields =
                if options.shadow { Vec::new() } else { shared.limit_fields(&asked, &decided) };
            let passes = options.shadow || decided.binding().is_ok_and(|(_, decision)| decision.is_allowed());
            let refusal = (!passes).then(|| shared.refuse_by(&asked, &decided));
            // The decisions go on with the request, where handlers can take them.
            let reservations = std::mem::take(&mut decided.reservations);
            for ((limiter, _), decision) in asked.keys.iter().zip(decided.decisions.into_iter().flatten()) {
                decisions.add(limiter.name(), decision);
            }
            // Call the service, then settle its reservations by the response.
            let mut settled = Vec::new();
            let mut response = match refusal {
                Some(response) => response,
                None => {
                    let response = inner.call(request).await?;
                    let used: Vec<_> = reservations.iter().map(|one| options.used(one, &response)).collect();
                    let settles = reservations.into_iter().zip(used).map(|(reservation, used)| {
                        let used = used.unwrap_or(reservation.estimate());
                        options.settle(reservation, used)
                    });
                    settled = join_all(settles).await;
                    response
                }
            };
            // Add the fields of each limiter to the response.
            for (place, (policies, limit_fields)) in limit_fields.into_iter().enumerate() {
                let limit_fields = match settled.get(place) {
                    Some(Some(settled)) => limit_fields.settled(settled),
                    _ => limit_fields,
                };
                policies.write(options.fields, limit_fields, &mut response);
            }
            Ok(response)
        })
    }
}
