//! Keeps one connection open: dials it, watches it, and dials again when it breaks.
//!
//! A supervisor task owns the connection, and callers share it while it is up. The supervisor replaces it in three
//! cases:
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

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures_util::future::OptionFuture;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use tracing::instrument::WithSubscriber;

use super::agreement::{Admission, ConnectionUse};
use super::dial::{Destination, describe, dial, look_up};
use super::error::translate;
use super::hosts::{Driver, run_on};
use super::identity::{AskRole, Identity, Role};
use super::login::{Learned, Login};
use super::open::Dialled;
use super::slots;
use super::time::ServerTime;
use super::tracking::{SessionHandle, arm};
use super::wire::{Connection, Event, Reply, Request, RequestFailure, WireError};
use crate::credentials::{CredentialSource, CurrentCredentials};
use crate::error::{Error, ErrorKind, Result};
use crate::store::session::{ReadStamp, Sessions};
use crate::telemetry::target;

const HEARTBEAT: Duration = Duration::from_secs(1);
/// The heartbeat of a tracked connection. Its answers keep near reads valid.
const TRACKED_HEARTBEAT: Duration = Duration::from_millis(500);
/// How many heartbeats a tracked connection to a cluster node waits between two requests for the map of slots.
const SLOTS_EVERY: u32 = 4;
const FIRST_DELAY: Duration = Duration::from_millis(20);
const LONGEST_DELAY: Duration = Duration::from_secs(2);
/// The longest pause that callers wait for, as if it were part of a dial.
const WAITED_FOR: Duration = Duration::from_millis(400);
/// The shortest pause after the server said that it has no room for another connection.
const BUSY_DELAY: Duration = Duration::from_millis(500);
/// The first and the longest pause between two lookups of a name that leads to a replica. The pause doubles with each
/// lookup; after a refused request the next lookup follows within the first pause.
const FIRST_LOOK: Duration = Duration::from_secs(1);
const LONGEST_LOOK: Duration = Duration::from_secs(30);
/// The pause after an attempt to renew the credentials failed.
const RENEW_AGAIN: Duration = Duration::from_secs(1);

/// An open connection, and its number among all that the link has opened.
pub(super) struct Live {
    pub(super) connection: Connection,
    number: u64,
    broken: Arc<Notify>,
    /// Set when the runtime that drove the connection has ended.
    stranded: Arc<AtomicBool>,
    since: Instant,
    /// The stamp for reads through it, if the connection is tracked.
    pub(super) seen: Option<ReadStamp>,
    lanes: Option<Arc<Sessions>>,
    /// The role that the server reported. In a cluster the map of slots decides who is a master.
    pub(super) role: Option<Role>,
    /// The generation of the node's links; see [`Agreement`](super::agreement::Agreement).
    pub(super) generation: u64,
    /// Whether the server tracks what a script reads even if the script also writes.
    pub(super) tracks_reads: bool,
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
        let lanes = self.lanes.as_ref()?;
        self.seen.filter(|seen| lanes.is_current(*seen))
    }

    fn end(&self) -> End {
        if self.stranded.load(Ordering::Acquire) { End::Stranded } else { End::Broken }
    }

    /// Returns whether the connection has been up for longer than a heartbeat. A younger one does not react to a
    /// read-only answer: otherwise every new connection would make the links dial again at once.
    pub(super) fn has_settled(&self) -> bool {
        self.since.elapsed() > HEARTBEAT
    }
}

#[derive(Clone)]
enum LinkStatus {
    Dialling,
    Up(Arc<Live>),
    Down(Error),
    /// Closed for good.
    Closed,
}

/// The state that the supervisor and the callers of a link share.
struct LinkState {
    state: watch::Sender<LinkStatus>,
    /// The connection of [`LinkStatus::Up`], which requests read without a lock.
    up: ArcSwapOption<Live>,
}

impl LinkState {
    /// Replaces the state if `change` returns a new one.
    fn update(&self, change: impl FnOnce(&LinkStatus) -> Option<LinkStatus>) {
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
    fn put(&self, next: LinkStatus) {
        self.update(|state| if matches!(state, LinkStatus::Closed) { None } else { Some(next) });
    }
}

/// A link. Dropping it closes the connection and stops dialling.
pub(super) struct Link {
    shared: Arc<LinkState>,
    login: Arc<Login>,
    time: Arc<ServerTime>,
    supervisor: AbortHandle,
}

impl Link {
    /// Starts dialling; [`live`](Self::live) waits for the first attempt. With a session the connection is tracked.
    pub(super) fn start(
        destination: Destination,
        kind: LinkKind,
        login: Arc<Login>,
        lane: Option<SessionHandle>,
    ) -> Self {
        let state = watch::Sender::new(LinkStatus::Dialling);
        let shared = Arc::new(LinkState { state, up: ArcSwapOption::empty() });
        let time = Arc::new(ServerTime::new(login.clock.clone()));
        let supervisor = Supervisor { destination, kind, login: login.clone(), time: time.clone(), lane };
        let supervisor = supervisor.run(shared.clone()).with_current_subscriber();
        let supervisor = login.hosts.home().spawn(supervisor).abort_handle();
        Self { shared, login, time, supervisor }
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

/// The place of a link in its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkKind {
    /// The first link to a server that is not in a cluster. While it leads to a replica, it looks the name up.
    First,
    Further,
    /// A link to a node of a cluster. The cluster's map says where to connect.
    OfCluster,
}

/// The generation of a cluster's connections, which never move.
const OF_CLUSTER: u64 = u64::MAX;

struct Supervisor {
    destination: Destination,
    kind: LinkKind,
    login: Arc<Login>,
    time: Arc<ServerTime>,
    lane: Option<SessionHandle>,
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
            let seen = live.seen;
            let end = self.watch(&live, about, &driver).await;
            // Requests that were queued and not written fail here as unsent, so they may go to the next connection.
            live.connection.give_up();
            drop(live);
            drop(connected);
            if let (Some(lane), Some(seen)) = (&self.lane, seen) {
                // The connection may still be open on the server, but nothing renews its session any more. End the
                // session's generation, so that earlier reads are invalid.
                lane.end(seen);
            }
            // Decide whether callers wait for the next dial, and how long the supervisor pauses before it.
            let server = describe(&self.destination);
            let down =
                |kind, what: &str| LinkStatus::Down(Error::new(kind, format!("{server} {what}")).unsent());
            // Without this pause a server that accepts connections and drops them at once would be dialled in a tight
            // loop.
            let brief = since.elapsed() <= HEARTBEAT && end != End::Moved;
            let pause = brief.then(|| delays.next().unwrap_or(LONGEST_DELAY));
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
            tracing::warn!(target: target::CONNECTION, %server, role = self.role(), "connection lost, dialling again");
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
        match self.lane {
            Some(_) => "tracking",
            None if self.login.hosts.is_background() => "background",
            None => "commands",
        }
    }

    async fn dial_until_up(
        &self,
        shared: &LinkState,
        delays: &mut ExponentialBackoff,
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
            sleep(delays.next().unwrap_or(LONGEST_DELAY).max(least)).await;
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
        let seen = self.lane.as_ref().and_then(SessionHandle::open);
        let tell = self.lane.as_ref().map(|lane| lane.events(seen));
        let stranded: Arc<AtomicBool> = Arc::default();
        let on_strand = stranded.clone();
        let events = move |event: &Event<'_>| {
            if let Some(tell) = &tell {
                tell(event);
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
        let Dialled { connection, resp3, address, identity, credentials } =
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
        // Count the connection among the node's links, switch tracking on, and wait for the first heartbeat.
        let member = Member { learned: self.login.learned.clone(), generation, by };
        let (mut tracked, mut slots) = (None, None);
        let handshake = async {
            if let Some(lane) = &self.lane {
                // Over RESP2 no invalidation can arrive, even if the server accepts CLIENT TRACKING.
                let armed = resp3 && arm(&connection, &address.to_string(), self.role()).await?;
                tracked = seen.filter(|_| armed && by == ConnectionUse::Trusted);
                if let Some(seen) = tracked.filter(|_| generation != OF_CLUSTER) {
                    self.login.learned.agreement.keep(generation, lane.lanes(), seen);
                }
            }
            if self.lane.as_ref().is_some_and(SessionHandle::of_cluster) && tracked.is_some() {
                // Fetch the map before the first read, so that a slot which moves away later is noticed.
                slots = masters(&connection).await;
            }
            self.beat(&connection, tracked, AskRole::No).await.map(drop)
        };
        // The handshake includes the first heartbeat: without the server's time, freshness cannot be compared.
        match timeout(self.login.connect_timeout, handshake).await {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => {
                return Some(Err(translate(&WireError::from(failure), &address.to_string())));
            }
            Err(_) => return Some(Err(Error::timed_out(self.login.connect_timeout))),
        }
        let live = Arc::new(Live {
            connection,
            number,
            broken,
            stranded,
            since: Instant::now(),
            seen: tracked,
            lanes: self.lane.as_ref().map(|lane| lane.lanes().clone()),
            role: identity.role,
            generation,
            tracks_reads: self.lane.is_none() || identity.major.is_some_and(|major| major >= 7),
        });
        let about = About { identity, credentials, slots, _member: member };
        Some(Ok(Some(Opened { live, about, runtime: runtime.clone() })))
    }

    /// Asks for the server's time, and for its role if possible, in one round trip. Unless the server says that it is
    /// a replica, the answer extends the validity of what was read through a tracked connection. An error means that
    /// the connection is lost.
    async fn beat(
        &self,
        connection: &Connection,
        seen: Option<ReadStamp>,
        ask_role: AskRole,
    ) -> Result<Option<Role>, RequestFailure> {
        let sent = self.lane.as_ref().map(SessionHandle::moment);
        let asks = self.kind != LinkKind::OfCluster && ask_role != AskRole::No;
        let answer = self.time.ask(connection, asks.then(|| ask_role.command()), || self.whose()).await?;
        let role = answer.and_then(|answer| ask_role.read(&answer));
        if let (Some(lane), Some(sent), Some(seen)) = (&self.lane, sent, seen)
            && role != Some(Role::Replica)
        {
            lane.renew(seen, sent);
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
        let looks = self.kind == LinkKind::First && self.destination.moves() && about.identity.is_replica();
        let (mut look, mut look_pause) = (Instant::now() + FIRST_LOOK, FIRST_LOOK);
        let mut looking = OptionFuture::default();
        let mut renewing = OptionFuture::default();
        let mut renew_after = Instant::now();
        let period = if self.lane.is_some() { TRACKED_HEARTBEAT } else { HEARTBEAT };
        let mut heartbeat = interval_at(Instant::now() + period, period);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut missed, mut beats) = (0, 0);
        loop {
            tokio::select! {
                () = live.broken.notified() => return live.end(),
                _ = moves.wait_for(|generation| *generation != live.generation), if !of_cluster => {
                    return End::Moved;
                }
                Some(found) = &mut looking => {
                    looking = OptionFuture::default();
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
                            tracing::warn!(target: target::CONNECTION, %server, role = self.role(), %error, "a connection could not authenticate with new credentials");
                            renew_after = Instant::now() + RENEW_AGAIN;
                        }
                    }
                    continue;
                }
                () = agreement.refused(), if looks => {
                    look = look.min(Instant::now() + FIRST_LOOK);
                    continue;
                }
                _ = heartbeat.tick() => {}
            }
            // Send the heartbeat, and react to a changed role or to silence.
            let progress = live.connection.progress();
            match timeout(HEARTBEAT, self.beat(&live.connection, live.seen, about.identity.ask_role)).await {
                Ok(Err(_)) => return live.end(),
                Ok(Ok(role)) => {
                    missed = 0;
                    if role.is_some() && role != live.role {
                        agreement.move_from(live.generation, &server, "its role changed");
                    }
                }
                Err(_) if !self.login.hosts.runs(&driver.runtime).await => return End::Stranded,
                // The server answers, or reads, something large before the heartbeat.
                Err(_) if live.connection.progress() != progress => missed = 0,
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
            if looks && Instant::now() >= look {
                look_pause = (look_pause * 2).min(LONGEST_LOOK);
                look = Instant::now() + look_pause;
                looking = Some(Box::pin(look_up(&self.destination, &self.login))).into();
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
        self.lane.as_ref().zip(live.seen).is_some_and(|(lane, seen)| !lane.lanes().is_current(seen))
    }

    /// Returns whether the server still serves the same slots. A cluster node that has given slots away may go on
    /// answering, but it no longer gets the writes to them, and so sends no invalidations. Costs one round trip every
    /// few heartbeats.
    async fn still_serves(&self, live: &Live, beats: u32, slots: &mut Option<Vec<Vec<Reply>>>) -> bool {
        let Some(lane) = self.lane.as_ref().filter(|_| live.seen.is_some()) else { return true };
        if !lane.of_cluster() || !beats.is_multiple_of(SLOTS_EVERY) {
            return true;
        }
        // If the map cannot be fetched, the heartbeat decides about the connection.
        let Some(masters) = masters(&live.connection).await else { return true };
        slots.replace(masters.clone()).is_none_or(|before| before == masters)
    }
}

/// Asks the server for the master of each range of slots. Returns `None` if it does not answer with a map.
async fn masters(connection: &Connection) -> Option<Vec<Vec<Reply>>> {
    let request = Request::new("CLUSTER").arg("SLOTS");
    let answer = timeout(HEARTBEAT, connection.send(&request)).await.ok()?.ok()?;
    matches!(answer, Reply::Array(_)).then(|| slots::masters(&answer))
}

/// The part of a connection's state that only the supervisor uses.
struct About {
    identity: Identity,
    /// The credentials of the login, if they come from a provider and may change.
    credentials: Option<CurrentCredentials>,
    /// The map of slots when it was last fetched, on a tracked connection to a cluster node.
    slots: Option<Vec<Vec<Reply>>>,
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

/// A connection that is up, and the runtime that drives it.
struct Opened {
    live: Arc<Live>,
    about: About,
    runtime: Handle,
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

fn delays() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(FIRST_DELAY)
        .with_max_delay(LONGEST_DELAY)
        .with_jitter()
        .without_max_times()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_between_dials_grow_to_two_seconds_and_differ_from_link_to_link() {
        let pauses = || delays().take(20).collect::<Vec<_>>();
        let (one, other) = (pauses(), pauses());
        assert_ne!(one, other, "links that lost the same server would dial it in step");
        for pauses in [one, other] {
            assert_eq!(pauses.len(), 20);
            assert!(pauses[0] >= FIRST_DELAY && pauses[19] >= LONGEST_DELAY, "{pauses:?}");
            // Jitter adds up to the same time again.
            assert!(pauses[0] <= FIRST_DELAY * 2, "{pauses:?}");
            assert!(pauses.iter().all(|pause| *pause <= LONGEST_DELAY * 2), "{pauses:?}");
        }
    }
}
