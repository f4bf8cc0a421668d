//! A claim in the store: the sign that a load is under way, which is renewed while it runs and taken away when it ends.
//!
//! The renewals are background work ([`Claims`]), so a loader that blocks its thread keeps its claim.

use std::sync::Arc;

use bytes::Bytes;

use crate::background::Claims;
use crate::context::Context;
use crate::error::Result;
use crate::name::Name;
use crate::store::{Claim, Expiry, Store};

/// A claim in the store. Dropped, it is taken away in the background: also where the store never answered whether it stands.
pub(super) struct ClaimGuard {
    context: Arc<Context>,
    entry: Name,
    claim: Option<Claim>,
    /// Its number among those that are renewed.
    number: u64,
}

impl ClaimGuard {
    pub(super) fn new(context: &Arc<Context>, entry: &Name, claim: Claim) -> Self {
        let number = Claims::keep(context, entry, &claim);
        Self { context: context.clone(), entry: entry.clone(), claim: Some(claim), number }
    }

    /// The store has said that the claim does not stand.
    pub(super) fn disarm(mut self) {
        self.claim = None;
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
        self.context.claims.let_go(self.number);
        if let Some(claim) = self.claim.take() {
            self.context.abandon_in_background(self.entry.clone(), claim);
        }
    }
}
