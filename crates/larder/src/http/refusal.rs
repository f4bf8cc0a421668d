//! What a refused request is answered with, and what a program learns about it.

use std::fmt::Write;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Response, StatusCode, header};

use super::fields::whole_seconds;
use super::key::RequestHead;
use crate::limit::Decision;

/// A request that was refused, for [`RateLimitLayer::on_refusal`](super::RateLimitLayer::on_refusal).
#[derive(Debug, Clone, Copy)]
pub struct RefusedRequest<'a> {
    pub(super) key: &'a str,
    pub(super) request: RequestHead<'a>,
    pub(super) decision: Option<&'a Decision>,
    pub(super) shadow: bool,
}

impl<'a> RefusedRequest<'a> {
    /// The key that it counts against. It may hold an address or a token: take care where it is logged.
    #[must_use]
    pub fn key(&self) -> &'a str {
        self.key
    }

    /// The request without its body.
    #[must_use]
    pub fn request(&self) -> RequestHead<'a> {
        self.request
    }

    /// The decision; nothing where the store is away and the limiter's policy is an error.
    #[must_use]
    pub fn decision(&self) -> Option<&'a Decision> {
        self.decision
    }

    /// Whether the layer is in [`shadow`](super::RateLimitLayer::shadow) mode, so that the request went on.
    #[must_use]
    pub fn is_shadow(&self) -> bool {
        self.shadow
    }
}

/// A refusal that is to become a response.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// 429, or 503 where it is the store that is away.
    pub(super) status: StatusCode,
    pub(super) retry_after: Duration,
    /// The names of the quotas that refused, as `RateLimit-Policy` has them.
    pub(super) policies: Vec<String>,
}

impl Refusal {
    /// 429 Too Many Requests; 503 Service Unavailable where nobody could decide.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// When to come back.
    #[must_use]
    pub fn retry_after(&self) -> Duration {
        self.retry_after
    }

    /// The policies that refused, as the response's `RateLimit-Policy` names them.
    #[must_use]
    pub fn policies(&self) -> &[String] {
        &self.policies
    }
}

/// Makes the response of a refusal. The layer adds `Retry-After` and the fields about limits.
pub trait Refuse<B>: Send + Sync + 'static {
    /// The response.
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

/// A problem document (RFC 9457) with the types of draft-ietf-httpapi-ratelimit-headers-11: `quota-exceeded` with 429,
/// `temporary-reduced-capacity` with 503. For bodies that can be made of a `String`, as axum's and hyper's.
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
        // Names of limiters need no escaping, and writing to a String cannot fail.
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

/// What gRPC clients understand, as tonic's: status 200 and `grpc-status` 8, RESOURCE_EXHAUSTED, or 14, UNAVAILABLE.
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
