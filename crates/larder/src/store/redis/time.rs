//! The server's time, as estimated here.
//!
//! Freshness is compared in the server's time, because clients' clocks differ by minutes. Each heartbeat asks for it; in
//! between, the local suspend-aware clock carries the estimate on, so that setting a client's wall clock changes
//! nothing. The answer lies somewhere within the round trip; its middle is taken (Cristian 1989).

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, cmd};

use crate::clock::{Clock, Tick};

#[derive(Debug)]
pub(super) struct ServerTime {
    clock: Clock,
    /// The server's time in milliseconds since 1970 at a local tick.
    known: Mutex<Option<(Tick, u64)>>,
}

impl ServerTime {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, known: Mutex::new(None) }
    }

    /// Asks the server: one round trip.
    pub(super) async fn ask(&self, connection: &MultiplexedConnection) -> RedisResult<()> {
        let sent = self.clock.now();
        let (seconds, micros): (u64, u64) = cmd("TIME").query_async(&mut connection.clone()).await?;
        let received = self.clock.now();
        let middle = sent.after(received.since(sent) / 2);
        let millis = seconds.saturating_mul(1000).saturating_add(micros / 1000);
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some((middle, millis));
        Ok(())
    }

    /// Milliseconds since 1970; `None` while the server has never told.
    pub(super) fn now(&self) -> Option<u64> {
        let (tick, millis) = (*self.known.lock().unwrap_or_else(PoisonError::into_inner))?;
        let since: Duration = self.clock.now().since(tick);
        Some(millis.saturating_add(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// Where the server does not tell its time, the local wall clock is the next best.
pub(super) fn wall_clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
