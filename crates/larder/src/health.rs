//! The state of a `Larder`'s connections, for probes and status pages.

use serde::Serialize;

/// The state of a [`Larder`](crate::Larder), as this process knows it now. Returned by
/// [`Larder::health`](crate::Larder::health).
///
/// Implements `Serialize`, for the body of a probe. It names the servers' addresses, so show it only to operators.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Health {
    /// Whether the `Larder` was closed.
    pub closed: bool,
    /// The connections, those of each server together. Empty on `memory:`.
    pub connections: Vec<ConnectionHealth>,
    /// How many invalidations wait until the server is back.
    pub queued_invalidations: u64,
    /// Whether every server of the caches reports changes now, so that near copies are kept and served.
    pub tracking: bool,
}

impl Health {
    /// Returns whether requests can be sent: the `Larder` is open, and a connection for requests is up, both to the
    /// caches' servers and to those of [`coordination`](crate::LarderBuilder::coordination). In a cluster one node
    /// that answers is enough.
    ///
    /// Answer a readiness probe with it only if the service is useless without its cache; see docs/operations.md.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let is_up = |purpose| {
            let mut requests = self
                .connections
                .iter()
                .filter(|connection| {
                    connection.purpose == purpose && connection.role == ConnectionRole::Commands
                })
                .peekable();
            requests.peek().is_none() || requests.any(|connection| connection.state == ConnectionState::Up)
        };
        !self.closed && is_up(Purpose::Caches) && is_up(Purpose::Coordination)
    }
}

/// One connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ConnectionHealth {
    /// The server's address, or the name of Sentinel's service.
    pub server: String,
    /// What the server is for.
    pub purpose: Purpose,
    /// Which of the server's connections it is.
    pub role: ConnectionRole,
    /// Whether it is up.
    pub state: ConnectionState,
    /// The kind of the last failure, if it is down: [`ErrorKind::as_str`](crate::ErrorKind::as_str).
    pub error: Option<&'static str>,
}

#[cfg(feature = "redis")]
impl ConnectionHealth {
    /// Stands for a cluster whose map was not fetched yet.
    pub(crate) fn to_unknown_cluster(purpose: Purpose) -> Self {
        let (role, state) = (ConnectionRole::Commands, ConnectionState::Dialling);
        Self { server: "the cluster".to_owned(), purpose, role, state, error: None }
    }
}

/// What a server is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Purpose {
    /// Caches, and locks and limits too unless they have a server of their own.
    Caches,
    /// Locks and limits: the server of [`coordination`](crate::LarderBuilder::coordination).
    Coordination,
}

/// What a connection is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ConnectionRole {
    /// Requests of callers.
    Commands,
    /// Reads whose changes the server reports.
    Tracking,
    /// Work that no caller waits for.
    Background,
}

/// Whether a connection can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ConnectionState {
    /// Requests are sent at once.
    Up,
    /// Being opened for the first time, or again: requests wait for this attempt.
    Dialling,
    /// The last attempt failed: requests fail at once, and the next attempt follows.
    Down,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(purpose: Purpose, role: ConnectionRole, state: ConnectionState) -> ConnectionHealth {
        ConnectionHealth { server: "s".to_owned(), purpose, role, state, error: None }
    }

    #[test]
    fn ready_means_open_with_a_connection_for_requests_to_each_purpose() {
        use ConnectionRole::{Commands, Tracking};
        use ConnectionState::{Down, Up};
        use Purpose::{Caches, Coordination};

        let health = |connections: &[(Purpose, ConnectionRole, ConnectionState)]| Health {
            connections: connections.iter().map(|(p, r, s)| connection(*p, *r, *s)).collect(),
            ..Health::default()
        };
        assert!(health(&[]).is_ready(), "memory: is always there");
        assert!(!Health { closed: true, ..Health::default() }.is_ready());
        assert!(health(&[(Caches, Commands, Down), (Caches, Commands, Up)]).is_ready());
        assert!(!health(&[(Caches, Commands, Down), (Caches, Tracking, Up)]).is_ready());
        assert!(!health(&[(Caches, Commands, Up), (Coordination, Commands, Down)]).is_ready());
    }
}
