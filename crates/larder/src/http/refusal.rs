//! The response to a refused request, and what a program can observe about it.

use std::fmt::Write;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Response, StatusCode, header};

use super::fields::whole_seconds;
use super::key::RequestHead;
use crate::limit::Decision;

/// A request that was refused, for [`RateLimitLayer::on_refusal`](super::RateLimitLayer::on_refusal) and
/// [`InFlightLayer::on_refusal`](super::InFlightLayer::on_refusal).
#[derive(Debug, Clone, Copy)]
pub struct RefusedRequest<'a> {
    pub(super) key: &'a str,
    pub(super) request: RequestHead<'a>,
    pub(super) status: StatusCode,
    pub(super) decision: Option<&'a Decision>,
    pub(super) shadow: bool,
}

impl<'a> RefusedRequest<'a> {
    /// Returns the key that it counts against. It may contain an address or a token: be careful when you log it.
    #[must_use]
    pub fn key(&self) -> &'a str {
        self.key
    }

    /// Returns the request without its body.
    #[must_use]
    pub fn request(&self) -> RequestHead<'a> {
        self.request
    }

    /// Returns the status of the refusal: 429, or 503 if no decision was possible.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns the decision of a rate limit; `None` if the store is down and the limiter's policy is `Error`, and for a
    /// limit of requests in flight.
    #[must_use]
    pub fn decision(&self) -> Option<&'a Decision> {
        self.decision
    }

    /// Returns whether the layer is in [`shadow`](super::RateLimitLayer::shadow) mode, so that the request was not
    /// refused.
    #[must_use]
    pub fn is_shadow(&self) -> bool {
        self.shadow
    }
}

/// A refusal, to be turned into a response.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// 429, or 503 if the store is down.
    pub(super) status: StatusCode,
    pub(super) retry_after: Duration,
    /// The names of the quotas that refused, as in `RateLimit-Policy`.
    pub(super) policies: Vec<String>,
}

impl Refusal {
    /// Returns 429 Too Many Requests, or 503 Service Unavailable if no decision was possible.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns how long the client should wait before it retries.
    #[must_use]
    pub fn retry_after(&self) -> Duration {
        self.retry_after
    }

    /// Returns the policies that refused, with their names from the response's `RateLimit-Policy`.
    #[must_use]
    pub fn policies(&self) -> &[String] {
        &self.policies
    }
}

/// Makes the response of a refusal. The layer adds `Retry-After` and the fields about limits.
pub trait Refuse<B>: Send + Sync + 'static {
    /// Returns the response.
    fn refuse(&self, refusal: &Refusal) -> Response<B>;
}

impl<B, F> Refuse<B> for F
where
    F: Fn(&Refusal) -> Response<B> + Send + Sync + 'static,
{
    fn refuse(&self, refusal: &Refusal) -> Response<B> {
        self(refusal)
    }
}

/// A problem document (RFC 9457) with the types of draft-ietf-httpapi-ratelimit-headers-11: `quota-exceeded` with
/// 429, `temporary-reduced-capacity` with 503. For bodies that can be made from a `String`, as those of axum and
/// hyper.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct Problem;

impl<B: From<String>> Refuse<B> for Problem {
    fn refuse(&self, refusal: &Refusal) -> Response<B> {
        let exceeded = refusal.status == StatusCode::TOO_MANY_REQUESTS;
        let (kind, title) = if exceeded {
            ("quota-exceeded", "Request cannot be satisfied as assigned quota has been exceeded")
        } else {
            (
                "temporary-reduced-capacity",
                "Request cannot be satisfied due to temporary server capacity constraints",
            )
        };
        let mut body = format!(
            "{{\"type\":\"https://iana.org/assignments/http-problem-types#{kind}\",\"title\":\"{title}\",\"status\":{}",
            refusal.status.as_u16()
        );
        // Names of limiters need no escaping, and writing to a `String` cannot fail.
        let names: Vec<String> = refusal.policies.iter().map(|name| format!("\"{name}\"")).collect();
        let _ = write!(body, ",\"violated-policies\":[{}]}}", names.join(","));
        let mut response = Response::new(B::from(body));
        *response.status_mut() = refusal.status;
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}

/// A gRPC response, as tonic makes it: status 200 and `grpc-status` 8 (RESOURCE_EXHAUSTED) or 14 (UNAVAILABLE).
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct Grpc;

impl<B: Default> Refuse<B> for Grpc {
    fn refuse(&self, refusal: &Refusal) -> Response<B> {
        let exceeded = refusal.status == StatusCode::TOO_MANY_REQUESTS;
        let (code, message) =
            if exceeded { ("8", "rate limit exceeded") } else { ("14", "rate limits cannot be checked") };
        let mut response = Response::new(B::default());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(HeaderName::from_static("grpc-status"), HeaderValue::from_static(code));
        headers.insert(HeaderName::from_static("grpc-message"), HeaderValue::from_static(message));
        response
    }
}

pub(super) fn retry_after(span: Duration) -> HeaderValue {
    HeaderValue::from(whole_seconds(span).max(1))
}
