//! What a layer and the services behind it share: the limits, the hooks, and the fields that are kept ready.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use super::fields::{Policies, RateLimitFields};
use super::key::{RequestHead, RequestKey, ResponseHead};
use super::refusal::RefusedRequest;
use crate::limit::{Quota, Quotas, RateLimiter};

/// A function of a request, and one of a response and the charge of its request.
type RequestFn<T> = Arc<dyn Fn(&RequestHead<'_>) -> T + Send + Sync>;
type Settle = Arc<dyn Fn(&ResponseHead<'_>, u64) -> u64 + Send + Sync>;
pub(super) type Hook = Arc<dyn Fn(&RefusedRequest<'_>) + Send + Sync>;

/// The number of sets of quotas whose fields are kept ready.
const POLICIES: usize = 16;

pub(super) struct LayerShared<R> {
    pub(super) options: Options,
    pub(super) refuse: Arc<R>,
    pub(super) policies: Arc<RwLock<Vec<Arc<Policies>>>>,
}

#[derive(Clone)]
pub(super) struct Options {
    pub(super) limiter: RateLimiter,
    pub(super) key: Arc<dyn RequestKey>,
    /// Further limits, decided together with the first.
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

impl<R> LayerShared<R> {
    /// Returns the fields for these quotas of a limiter, from a small cache.
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
