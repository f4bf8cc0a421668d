//! A link to a server: one connection, as callers see it. It is up, being dialled, or down.
//!
//! A [supervisor](super::supervisor) keeps the connection open, and callers share it while it is up. While it is
//! dialled after a break, callers wait for that one attempt. While the link is down, they get the error without
//! waiting.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::delete_if::OfferedDeleteIf;
use super::identity::Role;
use super::login::Login;
use super::time::ServerTime;
use super::wire::Connection;
use crate::error::{Error, ErrorKind, Result};
use crate::health::{ConnectionRole, ConnectionState};
use crate::store::session::{ReadStamp, Sessions};

pub(super) const HEARTBEAT: Duration = Duration::from_secs(1);

/// An open connection, and its number among all that the link has opened.
pub(super) struct Live {
    pub(super) connection: Connection,
    pub(super) number: u64,
    pub(super) broken: Arc<Notify>,
    /// Set when the runtime that drove the connection has ended.
    pub(super) stranded: Arc<AtomicBool>,
    pub(super) since: Instant,
    /// The stamp for reads through it, if the connection is tracked.
    pub(super) stamp: Option<ReadStamp>,
    pub(super) sessions: Option<Arc<Sessions>>,
    /// The role that the server reported. In a cluster the map of slots decides who is a master.
    pub(super) role: Option<Role>,
    /// The generation of the node's links; see [`Agreement`](super::agreement::Agreement).
    pub(super) generation: u64,
    /// Whether the server tracks what a script reads even if the script also writes.
    pub(super) tracks_reads: bool,
    pub(super) delete_if: OfferedDeleteIf,
}

impl Live {
    /// Gives the connection up, so that the link dials again: the connection broke, or the server is no longer the
    /// master. Requests still in the queue are never written: an old write must not arrive after a write on the next
    /// connection.
    pub(super) fn give_up(&self) {
        self.connection.give_up();
        self.broken.notify_one();
    }

    /// Returns the stamp for reads through this connection, while its session's generation is current. The generation
    /// may end before the connection does: when the links are divided, this connection may lead to a server that
    /// takes no writes.
    pub(super) fn read_stamp(&self) -> Option<ReadStamp> {
        let sessions = self.sessions.as_ref()?;
        self.stamp.filter(|stamp| sessions.is_current(*stamp))
    }

    /// Returns whether the connection has been up for longer than a heartbeat. A younger one does not react to a
    /// read-only answer: otherwise every new connection would make the links dial again at once.
    pub(super) fn has_settled(&self) -> bool {
        self.since.elapsed() > HEARTBEAT
    }
}

/// Whether a link has a connection.
#[derive(Clone)]
pub(super) enum LinkStatus {
    Dialling,
    Up(Arc<Live>),
    Down(Error),
    /// Closed for good.
    Closed,
}

/// The state that the supervisor and the callers of a link share.
pub(super) struct LinkState {
    pub(super) state: watch::Sender<LinkStatus>,
    /// The connection of [`LinkStatus::Up`], which requests read without a lock.
    up: ArcSwapOption<Live>,
}

impl LinkState {
    /// Replaces the state if `change` returns a new one.
    pub(super) fn update(&self, change: impl FnOnce(&LinkStatus) -> Option<LinkStatus>) {
        // Keep the previous state until after the lock: dropping it may drop the last handle of a connection.
        let mut before = None;
        self.state.send_if_modified(|state| {
            let Some(next) = change(state) else { return false };
            let live = match &next {
                LinkStatus::Up(live) => Some(live.clone()),
                _ => None,
            };
            before = Some((self.up.swap(live), std::mem::replace(state, next)));
            true
        });
    }

    /// Replaces the state, unless the link is closed. The supervisor may still run for a moment after `close` has
    /// aborted it, and must not reopen the link.
    pub(super) fn put(&self, next: LinkStatus) {
        self.update(|state| if matches!(state, LinkStatus::Closed) { None } else { Some(next) });
    }
}

/// A link. Dropping it closes the connection and stops dialling.
pub(super) struct Link {
    shared: Arc<LinkState>,
    login: Arc<Login>,
    time: Arc<ServerTime>,
    role: ConnectionRole,
    supervisor: AbortHandle,
}

impl Link {
    /// Makes a link that `supervise` keeps open.
    pub(super) fn new(
        login: Arc<Login>,
        role: ConnectionRole,
        supervise: impl FnOnce(Arc<LinkState>, Arc<ServerTime>) -> AbortHandle,
    ) -> Self {
        let state = watch::Sender::new(LinkStatus::Dialling);
        let shared = Arc::new(LinkState { state, up: ArcSwapOption::empty() });
        let time = Arc::new(ServerTime::new(login.clock.clone()));
        let supervisor = supervise(shared.clone(), time.clone());
        Self { shared, login, time, role, supervisor }
    }

    /// Returns the connection if it is up and leads to the current server. Does not wait.
    pub(super) fn standing(&self) -> Option<Arc<Live>> {
        self.shared.up.load_full().filter(|live| self.is_current(live))
    }

    /// Returns whether the connection leads to the server that the links of the node use.
    fn is_current(&self, live: &Live) -> bool {
        live.generation == OF_CLUSTER || live.generation == self.login.learned.agreement.generation()
    }

    /// Returns the connection. Waits while it is being dialled; fails at once while the link is down.
    pub(super) async fn live(&self) -> Result<Arc<Live>> {
        self.live_after(None).await
    }

    /// Does the same as [`live`](Self::live), but never returns `failed`, a connection that the caller saw break.
    pub(super) async fn live_after(&self, failed: Option<&Live>) -> Result<Arc<Live>> {
        let usable =
            |live: &Live| self.is_current(live) && failed.is_none_or(|failed| failed.number != live.number);
        if !matches!(&*self.shared.state.borrow(), LinkStatus::Up(live) if usable(live)) {
            self.login.hosts.remember_caller();
        }
        let mut state = self.shared.state.subscribe();
        let settled = state.wait_for(|state| match state {
            LinkStatus::Dialling => false,
            LinkStatus::Up(live) => usable(live),
            LinkStatus::Down(_) | LinkStatus::Closed => true,
        });
        match settled.await.as_deref() {
            Ok(LinkStatus::Up(live)) => Ok(live.clone()),
            Ok(LinkStatus::Down(error)) => Err(error.clone()),
            Ok(LinkStatus::Dialling | LinkStatus::Closed) | Err(_) => Err(Error::closed()),
        }
    }

    /// Returns what it is used for, whether it is up, and if it is down why.
    pub(super) fn health(&self) -> (ConnectionRole, ConnectionState, Option<&'static str>) {
        let (state, error) = match &*self.shared.state.borrow() {
            LinkStatus::Up(live) if self.is_current(live) => (ConnectionState::Up, None),
            LinkStatus::Up(_) | LinkStatus::Dialling => (ConnectionState::Dialling, None),
            LinkStatus::Down(error) => (ConnectionState::Down, Some(error.kind().as_str())),
            LinkStatus::Closed => (ConnectionState::Down, Some(ErrorKind::Closed.as_str())),
        };
        (self.role, state, error)
    }

    /// Returns whether what is read through the connection is valid now: the server reports changes, and it has
    /// answered a heartbeat lately.
    pub(super) fn is_tracking(&self) -> bool {
        self.standing().is_some_and(|live| {
            let stamp = live.read_stamp().zip(live.sessions.as_ref());
            stamp.is_some_and(|(stamp, sessions)| sessions.is_valid(stamp, self.login.clock.moment()))
        })
    }

    pub(super) fn is_down(&self) -> bool {
        matches!(&*self.shared.state.borrow(), LinkStatus::Down(_))
    }

    /// Closes the link for good. Requests that are under way keep their connection until they are answered.
    pub(super) fn close(&self) {
        self.supervisor.abort();
        self.shared.update(|_| Some(LinkStatus::Closed));
    }

    pub(super) fn time(&self) -> &ServerTime {
        &self.time
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.supervisor.abort();
    }
}

/// The generation of a cluster's connections, which never move.
pub(super) const OF_CLUSTER: u64 = u64::MAX;
