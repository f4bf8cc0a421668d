//! The response fields about limits.
//!
//! The fields of draft-ietf-httpapi-ratelimit-headers-11 (May 2026): `RateLimit-Policy` names every quota,
//! `RateLimit` what the binding one has left and for how long. They have whole seconds, rounded up; a window that
//! is no whole number of seconds is left out. These fields are lists: each layer adds its own to what inner layers
//! and services behind it have written. The older `X-RateLimit-*` fields follow no standard and hold one limit, the
//! one that binds most. Their reset is in seconds from now.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Response, StatusCode};

use crate::limit::{Decision, Quota, Settled};

/// The response fields that report the limit to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum RateLimitFields {
    /// `RateLimit-Policy` and `RateLimit`, as of draft-ietf-httpapi-ratelimit-headers-11. The default.
    #[default]
    Ietf,
    /// `X-RateLimit-Limit`, `X-RateLimit-Remaining` and `X-RateLimit-Reset`, the last in seconds from now.
    Legacy,
    /// Both.
    Both,
    /// None. A refusal still has `Retry-After`.
    Off,
}

/// The constant part of a layer's fields.
#[derive(Debug, Clone)]
pub(super) struct Policies {
    name: String,
    quotas: Vec<Quota>,
    field: Option<HeaderValue>,
}

/// The figures of a decision for a response. The decision itself has gone on with its request by then.
#[derive(Debug, Clone, Copy)]
pub(super) struct LimitFields {
    quota: Quota,
    remaining: u64,
    /// The time of `Retry-After` must not be before the end of this span (section 6 of the draft).
    span: Duration,
    refused: bool,
}

impl LimitFields {
    pub(super) fn of(decision: &Decision) -> Self {
        let quota = decision.quota();
        let span = decision.retry_after().unwrap_or(decision.reset_after().min(quota.window()));
        Self {
            quota,
            remaining: decision.remaining(),
            span,
            refused: decision.retry_after().is_some_and(|wait| !wait.is_zero()),
        }
    }

    /// Adds permits that were given back, or subtracts those that were charged in addition.
    pub(super) fn settled(self, settled: &Settled) -> Self {
        let remaining = self.remaining.saturating_add(settled.returned).saturating_sub(settled.charged);
        Self { remaining, ..self }
    }
}

impl Policies {
    pub(super) fn new(name: &str, quotas: Vec<Quota>) -> Self {
        let mut policies = Self { name: name.to_owned(), quotas, field: None };
        let items: Vec<String> = policies
            .quotas
            .iter()
            .map(|quota| {
                let whole = (quota.window().subsec_nanos() == 0).then_some(quota.window().as_secs());
                let window = whole.map(|seconds| format!(";w={seconds}")).unwrap_or_default();
                format!("\"{}\";q={}{window}", policies.of(*quota), quota.limit())
            })
            .collect();
        policies.field = HeaderValue::try_from(items.join(",")).ok();
        policies
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn quotas(&self) -> &[Quota] {
        &self.quotas
    }

    /// Returns a quota's name: the limiter's, with the window if there are several quotas.
    pub(super) fn of(&self, quota: Quota) -> String {
        if self.quotas.len() > 1 { format!("{}-{:?}", self.name, quota.window()) } else { self.name.clone() }
    }

    /// Adds the fields to a response.
    pub(super) fn write<B>(&self, fields: RateLimitFields, limit: LimitFields, response: &mut Response<B>) {
        let LimitFields { quota, remaining, span, refused } = limit;
        let legacy = matches!(fields, RateLimitFields::Legacy | RateLimitFields::Both)
            && (refused || binds_more(limit, response));
        let (seconds, headers) = (whole_seconds(span), response.headers_mut());
        if matches!(fields, RateLimitFields::Ietf | RateLimitFields::Both) {
            if let Some(policy) = &self.field {
                headers.append(HeaderName::from_static("ratelimit-policy"), policy.clone());
            }
            let item = format!("\"{}\";r={remaining};t={seconds}", self.of(quota));
            if let Ok(item) = HeaderValue::try_from(item) {
                headers.append(HeaderName::from_static("ratelimit"), item);
            }
        }
        if legacy {
            headers.insert(HeaderName::from_static("x-ratelimit-limit"), quota.limit().into());
            headers.insert(LEGACY_REMAINING, remaining.into());
            headers.insert(HeaderName::from_static("x-ratelimit-reset"), seconds.into());
        }
    }
}

const LEGACY_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");

/// Whether a limit that allowed the request binds more than the limit that the response already reports. A refusal
/// by an inner layer, with or without such fields, binds most.
fn binds_more<B>(limit: LimitFields, response: &Response<B>) -> bool {
    if response.status() == StatusCode::TOO_MANY_REQUESTS {
        return false;
    }
    let Some(inner) = response.headers().get(LEGACY_REMAINING) else { return true };
    let inner = inner.to_str().ok().and_then(|text| text.trim().parse::<u64>().ok());
    inner.is_some_and(|inner| limit.remaining < inner)
}

/// Rounds up, so that no client retries too early.
pub(super) fn whole_seconds(span: Duration) -> u64 {
    span.as_secs() + u64::from(span.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_named_as_the_draft_writes_them() {
        let one = Policies::new("api", vec![Quota::per_minute(100)]);
        assert_eq!(one.field.unwrap(), "\"api\";q=100;w=60");
        let two =
            Policies::new("api", vec![Quota::per_second(10), Quota::new(5, Duration::from_millis(1500))]);
        assert_eq!(two.field.unwrap(), "\"api-1s\";q=10;w=1,\"api-1.5s\";q=5");
    }

    #[test]
    fn seconds_are_rounded_up_and_never_to_nothing() {
        for (millis, seconds) in [(0, 0), (1, 1), (1000, 1), (1001, 2)] {
            assert_eq!(whole_seconds(Duration::from_millis(millis)), seconds);
        }
    }
}
