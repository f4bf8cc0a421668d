//! A claim in the store: it shows that a load is under way, is renewed while the load runs, and removed when it ends.
//!
//! The renewals are background work ([`Claims`]), so a loader that blocks its thread keeps its claim.

use std::sync::Arc;

use bytes::Bytes;

use crate::background::Claims;
use crate::context::Context;
use crate::error::Result;
use crate::name::Name;
use crate::store::{Claim, Expiry, Store};

/// A claim in the store. Dropping it removes the claim in the background, also if the store never said whether it was
/// made.
pub(super) struct ClaimGuard {
    context: Arc<Context>,
    entry: Name,
    claim: Option<Claim>,
    /// Its number in the list of claims that are renewed.
    number: u64,
}

impl ClaimGuard {
    pub(super) fn new(context: &Arc<Context>, entry: &Name, claim: Claim) -> Self {
        let number = Claims::keep(context, entry, &claim);
        Self { context: context.clone(), entry: entry.clone(), claim: Some(claim), number }
    }

    /// Forgets the claim, because the store has said that it was not made.
    pub(super) fn disarm(mut self) {
        self.claim = None;
    }

    /// Stores a value if the claim still holds, and returns whether it did. Without a value, the value to be replaced
    /// is deleted; a placeholder is removed.
    pub(super) async fn commit(mut self, value: Option<Bytes>, expiry: Expiry) -> Result<bool> {
        let store = self.context.store()?;
        let stored = match (&self.claim, value) {
            (Some(Claim::Placeholder(placeholder)), Some(value)) => {
                store.commit_fill(&self.entry, placeholder.clone(), value, expiry).await?
            }
            (Some(Claim::Refresh(claim)), value) => {
                store.commit_refresh(&self.entry, *claim, value, expiry).await?
            }
            // Dropping `self` removes the placeholder.
            (Some(Claim::Placeholder(_)), None) => return Ok(true),
            (None, _) => false,
        };
        self.claim = None;
        Ok(stored)
    }
}

impl Drop for ClaimGuard {
    fn drop(&mut self) {
        self.context.claims.let_go(self.number);
        if let Some(claim) = self.claim.take() {
            self.context.abandon_in_background(self.entry.clone(), claim);
        }
    }
}
