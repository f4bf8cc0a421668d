//! Keeps one connection open: dials it, watches it, and dials again when it breaks.
//!
//! A supervisor task owns the connection of a [link](super::link), and callers share it while it is up. The supervisor
//! replaces it in three cases:
//!
//! - It broke, or the links of the node [move](super::agreement) to another server. The supervisor dials at once, and
//!   callers wait for that one attempt.
//! - Two heartbeats in a row went unanswered: the server hangs. The link is down while the supervisor dials, because
//!   the next dial will probably hang, too.
//! - The runtime that drives it has ended or is blocked. The server is not at fault, and the supervisor dials on
//!   another runtime at once.
//!
//! If an attempt fails, the link is down: callers get the error without waiting, and the supervisor keeps dialling
//! with backoff and jitter. So an outage delays each caller at most once, for a bounded time. A connection that broke
//! right after it came up is dialled again after a pause. Callers wait for a pause of at most [`WAITED_FOR`]; during
//! a longer one the link is down.
//!
//! The supervisor runs on the `Larder`'s own thread, the connection on the runtime of a caller: see
//! [`hosts`](super::hosts).

mod dialling;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::OptionFuture;
use tokio::runtime::Handle;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use tracing::instrument::WithSubscriber;

use super::dial::{Destination, describe, look_up};
use super::error::translate;
use super::hosts::Driver;
use super::identity::{AskRole, Identity, Role};
use super::link::{HEARTBEAT, Link, LinkState, LinkStatus, Live};
use super::login::Login;
use super::slots;
use super::time::ServerTime;
use super::tracking::SessionHandle;
use super::wire::{Connection, Reply, Request, RequestFailure, WireError};
use crate::credentials::{CredentialSource, CurrentCredentials};
use crate::error::{Error, ErrorKind, Result};
use crate::health::ConnectionRole;
use crate::store::session::ReadStamp;
use crate::telemetry::target;
use dialling::{About, Opened, delays, jittered};

/// The heartbeat of a tracked connection. Its answers keep near reads valid.
const TRACKED_HEARTBEAT: Duration = Duration::from_millis(500);
/// How many heartbeats a tracked connection to a cluster node waits between two requests for the map of slots.
const SLOTS_EVERY: u32 = 4;
/// The longest pause that callers wait for, as if it were part of a dial.
const WAITED_FOR: Duration = Duration::from_millis(400);
/// The first and the longest pause between two lookups of a name that leads to a replica. The pause doubles with each
/// lookup; after a refused request the next lookup follows within the first pause.
const FIRST_LOOKUP: Duration = Duration::from_secs(1);
const LONGEST_LOOKUP: Duration = Duration::from_secs(30);
/// The pause after an attempt to renew the credentials failed.
const RENEW_AGAIN: Duration = Duration::from_secs(1);

/// The place of a link in its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkKind {
    /// The first link to a server that is not in a cluster. While it leads to a replica, it looks the name up.
    First,
    Further,
    /// A link to a node of a cluster. The cluster's map says where to connect.
    OfCluster,
}

struct Supervisor {
    destination: Destination,
    kind: LinkKind,
    login: Arc<Login>,
    time: Arc<ServerTime>,
    session: Option<SessionHandle>,
}

/// Starts to dial for a new link; [`Link::live`] waits for the first attempt. With a session the connection is tracked.
pub(super) fn start(
    destination: Destination,
    kind: LinkKind,
    login: Arc<Login>,
    session: Option<SessionHandle>,
) -> Link {
    let role = match session {
        Some(_) => ConnectionRole::Tracking,
        None if login.hosts.is_background() => ConnectionRole::Background,
        None => ConnectionRole::Commands,
    };
    Link::new(login.clone(), role, |shared, time| {
        let home = login.hosts.home().clone();
        let supervisor = Supervisor { destination, kind, login, time, session };
        home.spawn(supervisor.run(shared).with_current_subscriber()).abort_handle()
    })
}

impl Supervisor {
    async fn run(self, shared: Arc<LinkState>) {
        let mut number = 0;
        let mut delays = delays();
        loop {
            number += 1;
            // Dial until a connection is up, and offer it to callers.
            let Opened { live, about, runtime } = self.dial_until_up(&shared, &mut delays, number).await;
            let connected =
                self.login.hosts.meter.connected(&describe(&self.destination), self.role(), number > 1);
            let driver = drive(&shared, &live, runtime);
            shared.put(LinkStatus::Up(live.clone()));
            if number > 1 {
                self.login.hosts.note_reconnect();
            }
            let since = Instant::now();
            let stamp = live.stamp;
            let end = self.watch(&live, about, &driver).await;
            // Requests that were queued and not written fail here as unsent, so they may go to the next connection.
            live.connection.give_up();
            drop(live);
            drop(connected);
            if let (Some(session), Some(stamp)) = (&self.session, stamp) {
                // The connection may still be open on the server, but nothing renews its session any more. End the
                // session's generation, so that earlier reads are invalid.
                session.end(stamp);
            }
            // Decide whether callers wait for the next dial, and how long the supervisor pauses before it.
            let server = describe(&self.destination);
            let down =
                |kind, what: &str| LinkStatus::Down(Error::new(kind, format!("{server} {what}")).unsent());
            // Without this pause a server that accepts connections and drops them at once would be dialled in a tight
            // loop.
            let brief = since.elapsed() <= HEARTBEAT && end != End::Moved;
            let pause = brief.then(|| jittered(&mut delays));
            let next = match end {
                End::Stranded => {
                    tracing::info!(
                        target: target::CONNECTION,
                        %server,
                        role = self.role(),
                        "the runtime that drove a connection does not run: dialling on another"
                    );
                    self.login.hosts.forget(&driver.runtime);
                    shared.put(LinkStatus::Dialling);
                    continue;
                }
                // A server that hangs will probably not answer the next dial either, so callers do not wait for it.
                End::Silent => down(ErrorKind::TimedOut, "has stopped answering"),
                End::Broken if pause.is_some_and(|pause| pause > WAITED_FOR) => {
                    down(ErrorKind::Disconnected, "drops new connections")
                }
                End::Broken | End::Moved => LinkStatus::Dialling,
            };
            tracing::warn!(target: target::CONNECTION, %server, role = self.role(), "connection lost: dialling again");
            shared.put(next);
            match pause {
                Some(pause) => sleep(pause).await,
                None => delays = self::delays(),
            }
        }
    }

    /// Returns the server and the role for events.
    fn whose(&self) -> (String, &'static str) {
        (describe(&self.destination), self.role())
    }

    /// Returns what the connection is used for, as events name it.
    fn role(&self) -> &'static str {
        match self.session {
            Some(_) => "tracking",
            None if self.login.hosts.is_background() => "background",
            None => "commands",
        }
    }

    /// Asks for the server's time, and for its role if possible, in one round trip. Unless the server says that it is
    /// a replica, the answer extends the validity of what was read through a tracked connection. An error means that
    /// the connection is lost.
    async fn beat(
        &self,
        connection: &Connection,
        stamp: Option<ReadStamp>,
        ask_role: AskRole,
    ) -> Result<Option<Role>, RequestFailure> {
        let sent = self.session.as_ref().map(SessionHandle::moment);
        let asks = self.kind != LinkKind::OfCluster && ask_role != AskRole::No;
        let requests = asks.then(|| ask_role.command()).into_iter().collect();
        let answers = self.time.ask(connection, requests, || self.whose()).await?;
        let role = answers.first().and_then(|answer| ask_role.read(answer));
        if let (Some(session), Some(sent), Some(stamp)) = (&self.session, sent, stamp)
            && role != Some(Role::Replica)
        {
            session.renew(stamp, sent);
        }
        Ok(role)
    }

    /// Watches the connection until it has to be replaced, and returns why.
    async fn watch(&self, live: &Live, mut about: About, driver: &Driver) -> End {
        let agreement = &self.login.learned.agreement;
        let mut moves = agreement.moves();
        let server = describe(&self.destination);
        let of_cluster = self.kind == LinkKind::OfCluster;
        // A replica's first link looks up whether the name leads to a master by now. The lookup runs beside the
        // heartbeats, so that it never delays one.
        let repeats_lookup =
            self.kind == LinkKind::First && self.destination.moves() && about.identity.is_replica();
        let (mut next_lookup, mut lookup_pause) = (Instant::now() + FIRST_LOOKUP, FIRST_LOOKUP);
        // At most one lookup and one authentication are under way; both run beside the heartbeats too.
        let mut lookup = OptionFuture::default();
        let mut renewing = OptionFuture::default();
        let mut renew_after = Instant::now();
        let period = if self.session.is_some() { TRACKED_HEARTBEAT } else { HEARTBEAT };
        let mut heartbeat = interval_at(Instant::now() + period, period);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut missed, mut beats) = (0, 0);
        loop {
            // Wait for the next heartbeat, or for an event that needs none.
            tokio::select! {
                () = live.broken.notified() => return end_of(live),
                _ = moves.wait_for(|generation| *generation != live.generation), if !of_cluster => {
                    return End::Moved;
                }
                Some(found) = &mut lookup => {
                    lookup = OptionFuture::default();
                    if matches!(found, Ok(Identity { role: Some(Role::Master), .. })) {
                        agreement.move_from(live.generation, &server, "its name leads to a master now");
                    }
                    continue;
                }
                Some(renewed) = &mut renewing => {
                    renewing = OptionFuture::default();
                    match renewed {
                        Ok(kept) => about.credentials = Some(kept),
                        Err(error) => {
                            tracing::warn!(target: target::CONNECTION, %server, role = self.role(), %error, "a connection could not authenticate with new credentials: retrying");
                            renew_after = Instant::now() + RENEW_AGAIN;
                        }
                    }
                    continue;
                }
                () = agreement.refused(), if repeats_lookup => {
                    next_lookup = next_lookup.min(Instant::now() + FIRST_LOOKUP);
                    continue;
                }
                _ = heartbeat.tick() => {}
            }
            // Send the heartbeat, and react to a changed role or to silence.
            let progress = live.connection.progress();
            match timeout(HEARTBEAT, self.beat(&live.connection, live.stamp, about.identity.ask_role)).await {
                Ok(Err(_)) => return end_of(live),
                Ok(Ok(role)) => {
                    missed = 0;
                    if role.is_some() && role != live.role {
                        agreement.move_from(live.generation, &server, "its role changed");
                    }
                }
                Err(_) if !self.login.hosts.runs(&driver.runtime).await => return End::Stranded,
                // The server answers, or reads, something large before the heartbeat. A tracked connection is replaced
                // all the same: without heartbeats nothing that is read through it is valid.
                Err(_) if self.session.is_none() && live.connection.progress() != progress => missed = 0,
                Err(_) => missed += 1,
            }
            // Dial again if the links can agree on one master by now, or if reads stayed invalid after a division.
            if !of_cluster && agreement.is_stray(&about.identity) {
                return End::Broken;
            }
            if !of_cluster && !agreement.is_divided() && self.was_divided(live) {
                return End::Moved;
            }
            // Start the lookup of the name and the renewal of credentials when they are due.
            if repeats_lookup && Instant::now() >= next_lookup {
                lookup_pause = (lookup_pause * 2).min(LONGEST_LOOKUP);
                next_lookup = Instant::now() + lookup_pause;
                lookup = Some(Box::pin(look_up(&self.destination, &self.login))).into();
            }
            if let (Some(source), Some(kept)) = (&self.login.credentials, &about.credentials)
                && source.is_due(kept)
                && Instant::now() >= renew_after
            {
                // The next attempt may start only after this one has finished or timed out.
                renew_after = Instant::now() + self.login.connect_timeout;
                renewing =
                    Some(Box::pin(authenticate(&live.connection, source, &self.login, &server))).into();
            }
            if missed == 2 {
                return End::Silent;
            }
            beats += 1;
            if missed == 0 && !self.still_serves(live, beats, &mut about.slots).await {
                return End::Broken;
            }
        }
    }

    /// Returns whether the session's generation has ended although the connection is up, because the links were
    /// divided.
    fn was_divided(&self, live: &Live) -> bool {
        self.session
            .as_ref()
            .zip(live.stamp)
            .is_some_and(|(session, stamp)| !session.sessions().is_current(stamp))
    }

    /// Returns whether the server still serves the same slots. A cluster node that has given slots away may go on
    /// answering, but it no longer gets the writes to them, and so sends no invalidations. Costs one round trip every
    /// few heartbeats.
    async fn still_serves(&self, live: &Live, beats: u32, slots: &mut Option<Vec<Vec<Reply>>>) -> bool {
        let Some(session) = self.session.as_ref().filter(|_| live.stamp.is_some()) else { return true };
        if !session.of_cluster() || !beats.is_multiple_of(SLOTS_EVERY) {
            return true;
        }
        // If the map cannot be fetched, the heartbeat decides about the connection.
        let answer = timeout(HEARTBEAT, live.connection.send(&ask_masters())).await;
        let Some(masters) = answer.ok().and_then(Result::ok).and_then(|map| masters(&map)) else {
            return true;
        };
        slots.replace(masters.clone()).is_none_or(|before| before == masters)
    }
}

/// Returns the request for the master of each range of slots.
fn ask_masters() -> Request {
    Request::new("CLUSTER").arg("SLOTS")
}

/// Reads the answer to [`ask_masters`]. Returns `None` if it is not a map.
fn masters(answer: &Reply) -> Option<Vec<Vec<Reply>>> {
    matches!(answer, Reply::Array(_)).then(|| slots::masters(answer))
}

/// Authenticates an open connection with current credentials.
async fn authenticate(
    connection: &Connection,
    source: &CredentialSource,
    login: &Login,
    server: &str,
) -> Result<CurrentCredentials> {
    let renew = async {
        let kept = source.current().await?;
        let Some(request) = login.greeting(Some(&kept)).auth() else { return Ok(kept) };
        match connection.authenticate(&request).await {
            Ok(_) => Ok(kept),
            Err(failure) => {
                let error = translate(&WireError::from(failure), server);
                if error.kind() == ErrorKind::Authentication {
                    source.refused(kept.number).await;
                }
                Err(error)
            }
        }
    };
    timeout(login.connect_timeout, renew)
        .await
        .unwrap_or_else(|_| Err(Error::timed_out(login.connect_timeout)))
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Broken,
    /// The links use another server from now on.
    Moved,
    /// Two heartbeats went unanswered.
    Silent,
    /// The runtime that drove it has ended or is blocked; the server may be healthy.
    Stranded,
}

/// Starts the task that reports the end of the connection's runtime to callers and to the supervisor at once.
fn drive(shared: &Arc<LinkState>, live: &Live, runtime: Handle) -> Driver {
    let (shared, number) = (shared.clone(), live.number);
    let (stranded, broken) = (live.stranded.clone(), live.broken.clone());
    Driver::new(runtime, move || {
        stranded.store(true, Ordering::Release);
        // This driver may report late. It must not take down a connection that was opened after its own.
        shared.update(|state| match state {
            LinkStatus::Up(live) if live.number == number => Some(LinkStatus::Dialling),
            _ => None,
        });
        broken.notify_one();
    })
}

/// Returns how a connection ended.
fn end_of(live: &Live) -> End {
    if live.stranded.load(Ordering::Acquire) { End::Stranded } else { End::Broken }
}
