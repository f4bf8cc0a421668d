//! One connection that is kept: dialled, watched, and dialled again when it breaks.
//!
//! A supervisor owns the connection. While it stands, callers share it. When it breaks (the driver says so, or two
//! heartbeats in a row go unanswered, which is how a peer that hangs is noticed), the supervisor dials at once, and
//! callers wait for that one attempt. If it fails, the link is down: callers get the error without waiting, and the
//! supervisor keeps dialling with backoff and jitter. So an outage costs each caller a bounded time once, and then
//! none.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use redis::PushKind;
use redis::RedisResult;
use redis::aio::MultiplexedConnection;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};

use super::dial::{Destination, Login, describe, dial};
use super::error::translate;
use super::slots;
use super::time::ServerTime;
use super::tracking::{Lane, arm};
use crate::error::{Error, ErrorKind, Result};
use crate::store::trust::Seen;
use crate::telemetry;

const HEARTBEAT: Duration = Duration::from_secs(1);
/// A tracked connection's, on whose answers near reads live.
const TRACKED_HEARTBEAT: Duration = Duration::from_millis(500);
/// How many heartbeats of a cluster's tracked connection go by between two looks at who serves which slot.
const SLOTS_EVERY: u32 = 4;
const FIRST_DELAY: Duration = Duration::from_millis(20);
const LONGEST_DELAY: Duration = Duration::from_secs(2);

/// A connection, and which of the link's connections it is.
#[derive(Clone)]
pub(super) struct Live {
    pub(super) connection: MultiplexedConnection,
    number: u64,
    broken: Arc<Notify>,
    since: Instant,
    /// As what it is believed, where changes are told.
    pub(super) seen: Option<Seen>,
    /// Whether a tracked connection may read several keys with one command, or by a script.
    pub(super) reads_many: bool,
}

impl Live {
    /// Gives the connection up, so that the link dials again: the server is no longer the master.
    pub(super) fn give_up(&self) {
        self.broken.notify_one();
    }

    /// Whether it has stood for a while: what one connection was told need not be told to the next at once.
    pub(super) fn has_settled(&self) -> bool {
        self.since.elapsed() > HEARTBEAT
    }
}

#[derive(Clone)]
enum State {
    Dialling,
    Up(Live),
    Down(Error),
    /// For good.
    Closed,
}

/// Drops its connection and stops dialling when dropped.
pub(super) struct Link {
    state: watch::Sender<State>,
    time: Arc<ServerTime>,
    supervisor: AbortHandle,
}

impl Link {
    /// Starts dialling. [`live`](Self::live) waits for the first attempt. With a lane it is a tracked connection.
    pub(super) fn start(destination: Destination, login: Arc<Login>, lane: Option<Lane>) -> Self {
        let (state, _) = watch::channel(State::Dialling);
        let time = Arc::new(ServerTime::new(login.clock.clone()));
        let supervisor = Supervisor { destination, login, time: time.clone(), lane };
        let supervisor = tokio::spawn(supervisor.run(state.clone())).abort_handle();
        Self { state, time, supervisor }
    }

    /// The connection, if it stands.
    pub(super) fn standing(&self) -> Option<Live> {
        match &*self.state.borrow() {
            State::Up(live) => Some(live.clone()),
            _ => None,
        }
    }

    /// The connection; waits while it is being dialled, fails at once while the server is away.
    pub(super) async fn live(&self) -> Result<Live> {
        self.live_after(None).await
    }

    /// As [`live`](Self::live), but not the connection `failed`, which its caller saw break.
    pub(super) async fn live_after(&self, failed: Option<&Live>) -> Result<Live> {
        let usable = |live: &Live| failed.is_none_or(|failed| failed.number != live.number);
        let mut state = self.state.subscribe();
        let settled = state.wait_for(|state| match state {
            State::Dialling => false,
            State::Up(live) => usable(live),
            State::Down(_) | State::Closed => true,
        });
        match settled.await.as_deref() {
            Ok(State::Up(live)) => Ok(live.clone()),
            Ok(State::Down(error)) => Err(error.clone()),
            Ok(State::Dialling | State::Closed) | Err(_) => Err(Error::closed()),
        }
    }

    pub(super) fn is_down(&self) -> bool {
        matches!(&*self.state.borrow(), State::Down(_))
    }

    /// Gives the connection up for good. Requests under way hold it until they are answered.
    pub(super) fn close(&self) {
        self.supervisor.abort();
        self.state.send_replace(State::Closed);
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

struct Supervisor {
    destination: Destination,
    login: Arc<Login>,
    time: Arc<ServerTime>,
    lane: Option<Lane>,
}

impl Supervisor {
    async fn run(self, state: watch::Sender<State>) {
        let mut number = 0;
        let mut delays = delays();
        loop {
            number += 1;
            let live = self.dial_until_up(&state, &mut delays, number).await;
            let connected = telemetry::connected(number > 1);
            put(&state, State::Up(live.clone()));
            let since = Instant::now();
            let end = self.watch(live).await;
            drop(connected);
            tracing::warn!(server = %describe(&self.destination), "connection lost, dialling again");
            put(
                &state,
                match end {
                    End::Broken => State::Dialling,
                    // Who hangs will hardly answer a dial sooner: callers need not wait for that.
                    End::Silent => State::Down(Error::new(
                        ErrorKind::TimedOut,
                        format!("{} has stopped answering", describe(&self.destination)),
                    )),
                },
            );
            if since.elapsed() > HEARTBEAT {
                delays = self::delays();
            } else {
                // A server that takes connections and drops them at once must not be dialled without a pause.
                sleep(delays.next().unwrap_or(LONGEST_DELAY)).await;
            }
        }
    }

    async fn dial_until_up(
        &self,
        state: &watch::Sender<State>,
        delays: &mut ExponentialBackoff,
        number: u64,
    ) -> Live {
        loop {
            match self.dial_once(number).await {
                Ok(live) => return live,
                Err(error) => {
                    tracing::debug!(server = %describe(&self.destination), %error, "dialling failed");
                    put(state, State::Down(error));
                }
            }
            sleep(delays.next().unwrap_or(LONGEST_DELAY)).await;
        }
    }

    async fn dial_once(&self, number: u64) -> Result<Live> {
        let broken = Arc::new(Notify::new());
        let on_break = broken.clone();
        let seen = self.lane.as_ref().and_then(Lane::open);
        let tell = self.lane.as_ref().map(|lane| lane.pushes(seen));
        let pushes = move |push: redis::PushInfo| {
            if let Some(tell) = &tell {
                tell(&push);
            }
            if push.kind == PushKind::Disconnection {
                on_break.notify_one();
            }
        };
        let (connection, address) = dial(&self.destination, &self.login, pushes).await?;
        let mut live =
            Live { connection, number, broken, since: Instant::now(), seen: None, reads_many: true };
        let handshake = async {
            if self.lane.is_some() {
                let armed = arm(&live.connection, &address.to_string()).await?;
                live.seen = seen.filter(|_| armed.tracked);
                live.reads_many = armed.reads_many;
            }
            self.beat(&live).await
        };
        // The first heartbeat belongs to the handshake: without it freshness could not be judged.
        match timeout(self.login.connect_timeout, handshake).await {
            Ok(Ok(())) => Ok(live),
            Ok(Err(error)) => Err(translate(&error, &address.to_string())),
            Err(_) => Err(Error::timed_out(self.login.connect_timeout)),
        }
    }

    /// Asks for the server's time; what was read through a tracked connection is believed anew. An error is a lost
    /// connection.
    async fn beat(&self, live: &Live) -> RedisResult<()> {
        let sent = self.lane.as_ref().map(Lane::moment);
        match self.time.ask(&live.connection).await {
            Ok(()) => {}
            Err(error) if is_connection_lost(&error) => return Err(error),
            // A server that answers otherwise is up: it may be loading, or the ACL may forbid TIME.
            Err(error) => tracing::debug!(%error, "the server does not tell its time"),
        }
        if let (Some(lane), Some(sent), Some(seen)) = (&self.lane, sent, live.seen) {
            lane.renew(seen, sent);
        }
        Ok(())
    }

    /// Returns when the connection is at its end.
    async fn watch(&self, live: Live) -> End {
        let period = if self.lane.is_some() { TRACKED_HEARTBEAT } else { HEARTBEAT };
        let mut heartbeat = interval_at(Instant::now() + period, period);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut missed, mut beats, mut slots) = (0, 0, None);
        loop {
            tokio::select! {
                () = live.broken.notified() => return End::Broken,
                _ = heartbeat.tick() => {}
            }
            match timeout(HEARTBEAT, self.beat(&live)).await {
                Ok(Err(_)) => return End::Broken,
                Ok(Ok(())) => missed = 0,
                Err(_) => missed += 1,
            }
            if missed == 2 {
                return End::Silent;
            }
            if missed == 0 && !self.still_serves(&live, beats, &mut slots).await {
                return End::Broken;
            }
            beats += 1;
        }
    }

    /// Whether the server is still the one to read from, as far as it says so itself. A master that was replaced, and a
    /// node that gave slots away, may go on answering while nobody tells them of changes any more.
    async fn still_serves(
        &self,
        live: &Live,
        beats: u32,
        slots: &mut Option<Vec<Vec<redis::Value>>>,
    ) -> bool {
        let Some(lane) = self.lane.as_ref().filter(|_| live.seen.is_some()) else { return true };
        let command = if lane.of_cluster() {
            if !beats.is_multiple_of(SLOTS_EVERY) {
                return true;
            }
            redis::cmd("CLUSTER").arg("SLOTS").take()
        } else if matches!(self.destination, Destination::Sentinel { .. }) {
            redis::cmd("ROLE")
        } else {
            return true;
        };
        let mut connection = live.connection.clone();
        let asked = command.query_async::<redis::Value>(&mut connection);
        // What cannot be asked is not held against the server: the heartbeat decides that.
        let Ok(Ok(answer)) = timeout(HEARTBEAT, asked).await else { return true };
        match (lane.of_cluster(), &answer) {
            (true, redis::Value::Array(_)) => {
                let masters = slots::masters(&answer);
                slots.replace(masters.clone()).is_none_or(|before| before == masters)
            }
            (false, redis::Value::Array(parts)) => {
                !matches!(parts.first(), Some(redis::Value::BulkString(role)) if role != b"master")
            }
            _ => true,
        }
    }
}

/// How a connection ended.
enum End {
    Broken,
    /// Two heartbeats went unanswered.
    Silent,
}

fn delays() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(FIRST_DELAY)
        .with_max_delay(LONGEST_DELAY)
        .with_jitter()
        .without_max_times()
        .build()
}

/// Replaces the state, unless the link was closed: a supervisor that is being aborted may still be running.
fn put(state: &watch::Sender<State>, next: State) {
    state.send_if_modified(|state| {
        let open = !matches!(state, State::Closed);
        if open {
            *state = next;
        }
        open
    });
}

/// Whether a request may not have reached the server, or its answer not us.
pub(super) fn is_connection_lost(error: &redis::RedisError) -> bool {
    error.is_io_error() || error.is_unrecoverable_error()
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
            // Jitter adds up to as much again.
            assert!(pauses[0] <= FIRST_DELAY * 2, "{pauses:?}");
            assert!(pauses.iter().all(|pause| *pause <= LONGEST_DELAY * 2), "{pauses:?}");
        }
    }
}
