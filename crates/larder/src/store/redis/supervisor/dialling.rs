//! The dials of a supervisor: on which runtime, how often, and what has to be true before callers get the connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::super::agreement::{Admission, ConnectionUse};
use super::super::delete_if::OfferedDeleteIf;
use super::super::dial::{describe, dial};
use super::super::error::translate;
use super::super::hosts::run_on;
use super::super::identity::Identity;
use super::super::link::{LinkState, LinkStatus, Live, OF_CLUSTER};
use super::super::login::Learned;
use super::super::open::Dialled;
use super::super::tracking::{SessionHandle, is_armed, tracking_on};
use super::super::wire::{Event, Reply, WireError};
use super::{LinkKind, Supervisor, ask_masters, masters};
use crate::backoff::Backoff;
use crate::credentials::CurrentCredentials;
use crate::error::{Error, ErrorKind, Result};
use crate::random::Random;
use crate::telemetry::target;

const FIRST_DELAY: Duration = Duration::from_millis(20);
const LONGEST_DELAY: Duration = Duration::from_secs(2);
/// The shortest pause after the server said that it has no room for another connection.
const BUSY_DELAY: Duration = Duration::from_millis(500);

impl Supervisor {
    /// Dials until a connection is up. Meanwhile the link is down.
    pub(super) async fn dial_until_up(
        &self,
        shared: &LinkState,
        delays: &mut Backoff,
        number: u64,
    ) -> Opened {
        loop {
            let mut least = Duration::ZERO;
            match self.dial_once(number).await {
                Ok(Some(opened)) => return opened,
                Ok(None) => continue,
                Err(error) => {
                    tracing::debug!(
                        target: target::CONNECTION,
                        server = %describe(&self.destination),
                        role = self.role(),
                        %error,
                        "dialling failed"
                    );
                    if error.kind() == ErrorKind::Busy {
                        // A server without room for another connection pays for each attempt, so dial it less often.
                        least = BUSY_DELAY;
                    }
                    shared.put(LinkStatus::Down(error.unsent()));
                }
            }
            sleep(jittered(delays).max(least)).await;
        }
    }

    /// Opens a connection on the first runtime that responds. Returns `None` if the links moved meanwhile.
    async fn dial_once(&self, number: u64) -> Result<Option<Opened>> {
        let hosts = &self.login.hosts;
        for runtime in hosts.candidates() {
            match self.dial_on(&runtime, number).await {
                Some(opened) => return opened,
                None => hosts.forget(&runtime),
            }
        }
        Err(Error::closed())
    }

    /// Does the same on one runtime; the outer `None` means that the runtime has ended or is blocked.
    async fn dial_on(&self, runtime: &Handle, number: u64) -> Option<Result<Option<Opened>>> {
        // Open a generation of the session before the dial: what was read through the last connection ends here.
        let begun = self.login.learned.agreement.generation();
        let broken = Arc::new(Notify::new());
        let on_break = broken.clone();
        let stamp = self.session.as_ref().and_then(SessionHandle::open);
        let on_event = self.session.as_ref().map(|session| session.events(stamp));
        let stranded: Arc<AtomicBool> = Arc::default();
        let on_strand = stranded.clone();
        let events = move |event: &Event<'_>| {
            if let Some(on_event) = &on_event {
                on_event(event);
            }
            if let Event::Ended { stranded } = event {
                if *stranded {
                    on_strand.store(true, Ordering::Release);
                }
                on_break.notify_one();
            }
        };
        // Dial on the runtime, and let the links decide whether they use the server.
        let (destination, login) = (self.destination.clone(), self.login.clone());
        let dialling = async move { dial(&destination, &login, events).await };
        let Dialled { connection, resp3, address, identity, time, credentials } =
            match run_on(runtime, self.login.connect_timeout, dialling).await? {
                Ok(dialled) => dialled,
                Err(error) => return Some(Err(error)),
            };
        let (generation, by) = if self.kind == LinkKind::OfCluster {
            (OF_CLUSTER, ConnectionUse::Trusted)
        } else {
            match self.login.learned.agreement.admit(&identity, begun, &describe(&self.destination)) {
                Admission::Used { generation, by } => (generation, by),
                Admission::Again => return Some(Ok(None)),
                Admission::Refused(error) => return Some(Err(error)),
            }
        };
        // The server is used. Callers get the connection only after its time is known: without it, freshness cannot be
        // compared.
        self.time.note(time, || self.whose());
        // Count the connection among the node's links, and switch tracking on.
        let member = Member { learned: self.login.learned.clone(), generation, by };
        let (mut tracked, mut slots) = (None, None);
        // Over RESP2 no invalidation can arrive, even if the server accepts CLIENT TRACKING.
        if let Some(session) = self.session.as_ref().filter(|_| resp3) {
            // The answer is also that to the first heartbeat. Nothing was read through the connection before `sent`.
            let sent = session.moment();
            let mut requests = vec![tracking_on()];
            // Fetch the map before the first read, so that a slot which moves away later is noticed.
            requests.extend(session.of_cluster().then(ask_masters));
            let asked = self.time.ask(&connection, requests, || self.whose());
            let mut answers = match timeout(self.login.connect_timeout, asked).await {
                Ok(Ok(answers)) => answers.into_iter(),
                Ok(Err(failure)) => {
                    return Some(Err(translate(&WireError::from(failure), &address.to_string())));
                }
                Err(_) => return Some(Err(Error::timed_out(self.login.connect_timeout))),
            };
            let armed = is_armed(answers.next().unwrap_or(Reply::Nil), &address.to_string(), self.role());
            tracked = stamp.filter(|_| armed && by == ConnectionUse::Trusted);
            if let Some(stamp) = tracked {
                slots = answers.next().and_then(|map| masters(&map));
                if generation != OF_CLUSTER {
                    self.login.learned.agreement.keep(generation, session.sessions(), stamp);
                }
                session.renew(stamp, sent);
            }
        }
        let live = Arc::new(Live {
            connection,
            number,
            broken,
            stranded,
            since: Instant::now(),
            stamp: tracked,
            sessions: self.session.as_ref().map(|session| session.sessions().clone()),
            role: identity.role,
            generation,
            tracks_reads: self.session.is_none() || identity.major.is_some_and(|major| major >= 7),
            delete_if: OfferedDeleteIf::new(identity.delete_if),
        });
        let about = About { identity, credentials, slots, _member: member };
        Some(Ok(Some(Opened { live, about, runtime: runtime.clone() })))
    }
}

/// The part of a connection's state that only the supervisor uses.
pub(super) struct About {
    pub(super) identity: Identity,
    /// The credentials of the login, if they come from a provider and may change.
    pub(super) credentials: Option<CurrentCredentials>,
    /// The map of slots when it was last fetched, on a tracked connection to a cluster node.
    pub(super) slots: Option<Vec<Vec<Reply>>>,
    _member: Member,
}

/// Counts a connection among the links of its node until dropped.
struct Member {
    learned: Arc<Learned>,
    generation: u64,
    by: ConnectionUse,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.learned.agreement.leave(self.generation, self.by);
    }
}

/// A connection that is up, and the runtime that drives it.
pub(super) struct Opened {
    pub(super) live: Arc<Live>,
    pub(super) about: About,
    pub(super) runtime: Handle,
}

pub(super) fn delays() -> Backoff {
    Backoff::new(FIRST_DELAY, LONGEST_DELAY)
}

/// Returns the next pause, and up to as much again, so that links that lost the same server do not dial it in step.
pub(super) fn jittered(delays: &mut Backoff) -> Duration {
    delays.pause().mul_f64(1.0 + Random::System.fraction())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_between_dials_grow_to_two_seconds_and_differ_from_link_to_link() {
        let pauses = || {
            let mut delays = delays();
            (0..20).map(|_| jittered(&mut delays)).collect::<Vec<_>>()
        };
        let (one, other) = (pauses(), pauses());
        assert_ne!(one, other, "links that lost the same server would dial it in step");
        for pauses in [one, other] {
            assert!(pauses[0] >= FIRST_DELAY && pauses[19] >= LONGEST_DELAY, "{pauses:?}");
            // Jitter adds up to the same time again.
            assert!(pauses[0] <= FIRST_DELAY * 2, "{pauses:?}");
            assert!(pauses.iter().all(|pause| *pause <= LONGEST_DELAY * 2), "{pauses:?}");
        }
    }
}
