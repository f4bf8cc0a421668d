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
use redis::aio::MultiplexedConnection;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};

use super::dial::{Destination, Login, describe, dial};
use super::error::translate;
use super::time::ServerTime;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry;

const HEARTBEAT: Duration = Duration::from_secs(1);
const FIRST_DELAY: Duration = Duration::from_millis(20);
const LONGEST_DELAY: Duration = Duration::from_secs(2);

/// A connection, and which of the link's connections it is.
#[derive(Clone)]
pub(super) struct Live {
    pub(super) connection: MultiplexedConnection,
    number: u64,
    broken: Arc<Notify>,
}

impl Live {
    /// Gives the connection up, so that the link dials again: the server is no longer the master.
    pub(super) fn give_up(&self) {
        self.broken.notify_one();
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
    /// Starts dialling. [`live`](Self::live) waits for the first attempt.
    pub(super) fn start(destination: Destination, login: Arc<Login>) -> Self {
        let (state, _) = watch::channel(State::Dialling);
        let time = Arc::new(ServerTime::new(login.clock.clone()));
        let supervisor = Supervisor { destination, login, time: time.clone() };
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
}

impl Supervisor {
    async fn run(self, state: watch::Sender<State>) {
        let mut number = 0;
        let mut delays = delays();
        loop {
            let (connection, broken) = self.dial_until_up(&state, &mut delays).await;
            number += 1;
            let connected = telemetry::connected(number > 1);
            let live = Live { connection, number, broken };
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
    ) -> (MultiplexedConnection, Arc<Notify>) {
        loop {
            match self.dial_once().await {
                Ok(dialled) => return dialled,
                Err(error) => {
                    tracing::debug!(server = %describe(&self.destination), %error, "dialling failed");
                    put(state, State::Down(error));
                }
            }
            sleep(delays.next().unwrap_or(LONGEST_DELAY)).await;
        }
    }

    async fn dial_once(&self) -> Result<(MultiplexedConnection, Arc<Notify>)> {
        let broken = Arc::new(Notify::new());
        let on_break = broken.clone();
        let pushes = move |push: redis::PushInfo| {
            if push.kind == PushKind::Disconnection {
                on_break.notify_one();
            }
        };
        let (connection, address) = dial(&self.destination, &self.login, pushes).await?;
        // The first heartbeat belongs to the handshake: without it freshness could not be judged.
        match timeout(self.login.connect_timeout, self.time.ask(&connection)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) if is_connection_lost(&error) => {
                return Err(translate(&error, &address.to_string()));
            }
            // A server that answers otherwise is up: it may be loading, or the ACL may forbid TIME.
            Ok(Err(error)) => tracing::debug!(%error, "the server does not tell its time"),
            Err(_) => return Err(Error::timed_out(self.login.connect_timeout)),
        }
        Ok((connection, broken))
    }

    /// Returns when the connection is at its end.
    async fn watch(&self, live: Live) -> End {
        let mut heartbeat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut missed = 0;
        loop {
            tokio::select! {
                () = live.broken.notified() => return End::Broken,
                _ = heartbeat.tick() => {}
            }
            match timeout(HEARTBEAT, self.time.ask(&live.connection)).await {
                Ok(Err(error)) if is_connection_lost(&error) => return End::Broken,
                Ok(_) => missed = 0,
                Err(_) => missed += 1,
            }
            if missed == 2 {
                return End::Silent;
            }
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
