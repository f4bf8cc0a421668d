//! The decisions about a request, for its handlers.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::Extensions;

use crate::limit::Decision;

/// The decisions of all layers that a request has passed, by the name of their limiter. A layer adds this to the
/// request's extensions, also in shadow mode and for requests that it skips, so that a handler can always extract
/// it.
///
/// ```
/// use larder::http::Decisions;
///
/// // axum: async fn handler(Extension(decisions): Extension<Decisions>) -> String
/// fn handler(decisions: Decisions) -> String {
///     // `None` if the request was skipped, or no decision was possible.
///     match decisions.get("api") {
///         Some(decision) => format!("{} left", decision.remaining()),
///         None => "not limited".to_owned(),
///     }
/// }
/// # handler(Decisions::default());
/// ```
///
/// A handler can give back the charge of its request, for example after it served from a cache:
/// `limiter.refund(key, decisions.take("api")?, 1)`.
#[derive(Clone, Default)]
pub struct Decisions(Arc<Mutex<Vec<NamedDecision>>>);

/// A decision, with the name of its limiter.
type NamedDecision = (String, Arc<Decision>);

impl Decisions {
    /// Returns the decision by the limiter of this name. If two layers have the same limiter, it is that of the
    /// inner layer.
    #[must_use]
    pub fn get(&self, limiter: &str) -> Option<Arc<Decision>> {
        self.all().iter().rev().find(|(name, _)| name == limiter).map(|(_, decision)| decision.clone())
    }

    /// Takes the decision out, so that it can be given back with [`refund`](crate::limit::RateLimiter::refund).
    /// Returns `None` while a result of [`get`](Self::get) is still alive. In a layer that settles costs by the
    /// response ([`count_if`](super::RateLimitLayer::count_if), [`settle`](super::RateLimitLayer::settle)) the
    /// decision has no charge to give back.
    #[must_use]
    pub fn take(&self, limiter: &str) -> Option<Decision> {
        let mut all = self.all();
        let place = all.iter().rposition(|(name, _)| name == limiter)?;
        let (name, decision) = all.remove(place);
        Arc::try_unwrap(decision).map_err(|shared| all.insert(place, (name, shared))).ok()
    }

    /// Returns the names of the limiters, the outermost first.
    #[must_use]
    pub fn limiters(&self) -> Vec<String> {
        self.all().iter().map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn add(&self, limiter: &str, decision: Decision) {
        self.all().push((limiter.to_owned(), Arc::new(decision)));
    }

    /// Returns the decisions of a request, and adds them if there are none.
    pub(super) fn of(extensions: &mut Extensions) -> Self {
        if let Some(there) = extensions.get::<Self>() {
            return there.clone();
        }
        let made = Self::default();
        extensions.insert(made.clone());
        made
    }

    fn all(&self) -> MutexGuard<'_, Vec<(String, Arc<Decision>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Decisions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Decisions").field(&self.limiters()).finish()
    }
}
