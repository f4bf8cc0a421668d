//! The part of the seam that is about semaphores.
//!
//! Permits are tokens with an end each. Who finds none waits at the door, a lock of its own with a line: only the door's
//! holder is let in next, so permits are given first come, first served. Who gives one back rings the bell, whose name the
//! [`Listener`](super::Listener) is told of.

use std::future::Future;
use std::time::Duration;

use super::AnyStore;
use super::lock::Ticket;
use crate::error::Result;

/// The answer to [`PermitStore::take_permit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    Permit,
    /// All are taken, and the first ends after so long; zero where others wait at the door.
    Full {
        first_ends: Duration,
    },
    /// The attempt had been given up.
    Gone,
}

/// The name of the lock that those hold who are let in next.
pub(crate) fn door_name(semaphore: &str) -> String {
    format!("{semaphore}:door")
}

/// The name that is told of when a permit is given back while somebody waits.
pub(crate) fn bell_name(semaphore: &str) -> String {
    format!("{semaphore}:bell")
}

/// What every store can do with semaphores. `Ticket::lock` is the semaphore's name.
pub(crate) trait PermitStore: Send + Sync + 'static {
    /// Takes one of `permits`, for `door`, the token that holds the door, or where nobody waits. Once for each token.
    fn take_permit(
        &self,
        semaphore: &str,
        token: u64,
        permits: u64,
        ttl: Duration,
        door: Option<u64>,
    ) -> impl Future<Output = Result<Taken>> + Send;

    /// Gives holders at least so much time from now; whether their tokens still held. In the order of `held`. `None` where
    /// its server did not answer within `patience`; an error where none did.
    fn renew_permits(
        &self,
        held: &[(Ticket, Duration)],
        patience: Duration,
    ) -> impl Future<Output = Result<Vec<Option<bool>>>> + Send;

    /// Gives a permit back; whether it was still held. An attempt that was given up is remembered for so long.
    fn give_permit(
        &self,
        semaphore: &str,
        token: u64,
        remembered: Option<Duration>,
    ) -> impl Future<Output = Result<bool>> + Send;
}

impl PermitStore for AnyStore {
    async fn take_permit(
        &self,
        semaphore: &str,
        token: u64,
        permits: u64,
        ttl: Duration,
        door: Option<u64>,
    ) -> Result<Taken> {
        on_either!(self.take_permit(semaphore, token, permits, ttl, door))
    }

    async fn renew_permits(
        &self,
        held: &[(Ticket, Duration)],
        patience: Duration,
    ) -> Result<Vec<Option<bool>>> {
        on_either!(self.renew_permits(held, patience))
    }

    async fn give_permit(&self, semaphore: &str, token: u64, remembered: Option<Duration>) -> Result<bool> {
        on_either!(self.give_permit(semaphore, token, remembered))
    }
}
