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

/// Makes the span of a load of one key. `on_its_own`: no call waits for it.
#[cfg(feature = "trace")]
pub(super) fn load_span(cache: &str, key: Option<&str>, on_its_own: bool) -> Span {
    let span = if on_its_own {
        let span = new_span(cache, Parent::None);
        span.follows_from(Span::current());
        span
    } else {
        new_span(cache, Parent::Current)
    };
    if let Some(key) = key {
        span.record("key", key);
    }
    span
}

/// Makes the span of one call of a loader of many keys.
#[cfg(feature = "trace")]
pub(super) fn load_many_span(cache: &str, keys: usize) -> Span {
    let span = new_span(cache, Parent::Current);
    span.record("keys", u64::try_from(keys).unwrap_or(u64::MAX));
    span
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

/// Returns the span that a load of one key runs in: the caller's, or none if no call waits for the load.
#[cfg(not(feature = "trace"))]
pub(super) fn load_span(_: &str, _: Option<&str>, on_its_own: bool) -> Span {
    if on_its_own { Span::none() } else { Span::current() }
}

/// Returns the span that a load of many keys runs in: the caller's.
#[cfg(not(feature = "trace"))]
pub(super) fn load_many_span(_: &str, _: usize) -> Span {
    Span::current()
}
