//! The spans of loads.
//!
//! A load runs in a task of its own. Without a span there, each query of a loader would begin a new trace. So the task
//! runs in the span of the call that leads the load. With the feature `trace` it runs in a span of its own,
//! `cache.load`, inside that one. A call that waits for another call's load records that it follows from the load's
//! span.
//!
//! A load that no call waits for, an early refresh, must not keep the span of the request that noticed it open. With
//! `trace` it is the root of its own trace and follows from that request.
//!
//! Without a subscriber none of this allocates: all spans are disabled.

use std::sync::OnceLock;

use tracing::Span;

use super::Cache;
use super::fill::Reason;

/// The span of a load under way, for those that wait for it.
#[derive(Debug, Default)]
pub(super) struct LoadSpan(OnceLock<(Span, Spanned)>);

/// How many keys a span is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spanned {
    One,
    /// The flights share the span, so none of them records its own outcome.
    Many,
}

impl LoadSpan {
    /// Records the span that the load runs in. The leader does this once, after it has started the flight.
    pub(super) fn begin(&self, span: &Span, spanned: Spanned) {
        let _ = self.0.set((span.clone(), spanned));
    }

    /// Makes the current span follow from the load's. Returns false if the leader has not recorded its span yet.
    pub(super) fn follow(&self) -> bool {
        let Some((span, _)) = self.0.get() else { return false };
        let current = Span::current();
        // Calls of one span may lead and wait: a span does not follow from itself.
        if current.id() != span.id() {
            current.follows_from(span);
        }
        true
    }

    /// Records how the load of one key ended, and how many calls waited for that.
    #[cfg(feature = "trace")]
    pub(super) fn end(&self, outcome: &'static str, waiters: usize) {
        if let Some((span, Spanned::One)) = self.0.get() {
            record(span, outcome, waiters);
        }
    }
}

#[cfg(feature = "trace")]
fn record(span: &Span, outcome: &'static str, waiters: usize) {
    span.record("outcome", outcome);
    span.record("waiters", u64::try_from(waiters).unwrap_or(u64::MAX));
}

/// Records how a load of many keys ended that runs in the current span.
#[cfg(feature = "trace")]
pub(super) fn end_many(outcome: &'static str, waiters: usize) {
    record(&Span::current(), outcome, waiters);
}

#[cfg(feature = "trace")]
impl<V> Cache<V> {
    /// Makes the span of a load of one key.
    pub(super) fn load_span(&self, entry: &str, reason: Reason) -> Span {
        let span = if reason == Reason::Early {
            let span = new_span(&self.shared.name, Parent::None);
            span.follows_from(Span::current());
            span
        } else {
            new_span(&self.shared.name, Parent::Current)
        };
        if self.policy.trace_keys {
            span.record("key", entry.get(self.policy.prefix.len()..).unwrap_or_default());
        }
        span
    }

    /// Makes the span of one call of a loader of many keys.
    pub(super) fn load_many_span(&self, keys: usize) -> Span {
        let span = new_span(&self.shared.name, Parent::Current);
        span.record("keys", u64::try_from(keys).unwrap_or(u64::MAX));
        span
    }
}

#[cfg(feature = "trace")]
enum Parent {
    Current,
    None,
}

#[cfg(feature = "trace")]
fn new_span(cache: &str, parent: Parent) -> Span {
    use tracing::field::Empty;

    use crate::telemetry::target::CACHE;

    macro_rules! load_span {
        ($($parent:tt)*) => {
            tracing::info_span!(
                target: CACHE,
                $($parent)*
                "cache.load",
                cache,
                key = Empty,
                keys = Empty,
                outcome = Empty,
                waiters = Empty,
            )
        };
    }
    match parent {
        Parent::Current => load_span!(),
        Parent::None => load_span!(parent: None,),
    }
}

#[cfg(not(feature = "trace"))]
impl<V> Cache<V> {
    /// Returns the span that a load of one key runs in: the caller's, or none for an early refresh.
    pub(super) fn load_span(&self, _: &str, reason: Reason) -> Span {
        if reason == Reason::Early { Span::none() } else { Span::current() }
    }

    /// Returns the span that a load of many keys runs in: the caller's.
    pub(super) fn load_many_span(&self, _: usize) -> Span {
        Span::current()
    }
}
