//! A claim in the store: the sign that a load is under way, which is kept while it runs and taken away when it ends.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::context::Context;
use crate::error::Result;
use crate::name::Name;
use crate::store::{Claim, Expiry, Store};

/// How long a claim outlives its loader's process.
pub(super) const LIVENESS: Duration = Duration::from_secs(3);

/// A claim in the store. Dropped, it is taken away in the background: also where the store never answered whether it stands.
pub(super) struct ClaimGuard {
    context: Arc<Context>,
    entry: Name,
    claim: Option<Claim>,
}

impl ClaimGuard {
    pub(super) fn new(context: &Arc<Context>, entry: &Name, claim: Claim) -> Self {
        Self { context: context.clone(), entry: entry.clone(), claim: Some(claim) }
    }

    /// The store has said that the claim does not stand.
    pub(super) fn disarm(mut self) {
        self.claim = None;
    }

    /// Renews the claim, for as long as this is polled.
    pub(super) async fn keep(&self, patience: Duration) {
        let Some(claim) = &self.claim else { return std::future::pending().await };
        loop {
            tokio::time::sleep(LIVENESS / 3).await;
            if let Ok(store) = self.context.store() {
                // Lost or not, the load goes on: whoever waits for it wants its value.
                let renewal = store.renew_load(&self.entry, claim.clone(), LIVENESS);
                let _ = tokio::time::timeout(patience, renewal).await;
            }
        }
    }

    /// Stores a value if the claim still holds; whether it did. Without a value, what was to be replaced is deleted: of
    /// a placeholder nothing is left either.
    pub(super) async fn commit(mut self, value: Option<Bytes>, expiry: Expiry) -> Result<bool> {
        let store = self.context.store()?;
        let stored = match (&self.claim, value) {
            (Some(Claim::Placeholder(placeholder)), Some(value)) => {
                store.commit_fill(&self.entry, placeholder.clone(), value, expiry).await?
            }
            (Some(Claim::Refresh(claim)), value) => {
                store.commit_refresh(&self.entry, *claim, value, expiry).await?
            }
            // Dropped, the claim is taken away.
            (Some(Claim::Placeholder(_)), None) => return Ok(true),
            (None, _) => false,
        };
        self.claim = None;
        Ok(stored)
    }
}

impl Drop for ClaimGuard {
    fn drop(&mut self) {
        if let Some(claim) = self.claim.take() {
            self.context.abandon_in_background(self.entry.clone(), claim);
        }
    }
}
