//! The server's time, as estimated here.
//!
//! Freshness is compared in the server's time, because clients' clocks differ by minutes. Each heartbeat asks for it; in
//! between, the local suspend-aware clock carries the estimate on, so that setting a client's wall clock changes
//! nothing. The answer lies somewhere within the round trip; its middle is taken (Cristian 1989).

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, RedisResult, Value, from_redis_value};

use crate::clock::{Clock, Tick};
use crate::telemetry::target;

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

    /// Asks the server, and something else with it: one round trip. The other's refusal is among the answers.
    pub(super) async fn ask(
        &self,
        connection: &MultiplexedConnection,
        other: Option<Cmd>,
        whose: impl Fn() -> (String, &'static str),
    ) -> RedisResult<Option<Value>> {
        let sent = self.clock.now();
        let mut questions = Pipeline::with_capacity(2);
        questions.cmd("TIME");
        if let Some(other) = other {
            questions.add_command(other);
        }
        let count = questions.len();
        let mut answers = connection.clone().send_packed_commands(&questions, 0, count).await?.into_iter();
        match answers
            .next()
            .unwrap_or(Value::Nil)
            .extract_error()
            .and_then(|time| Ok(from_redis_value(time)?))
        {
            Ok(told) => self.learn(sent, told),
            // It may be loading, or the ACL may forbid it.
            Err(error) => {
                let (server, role) = whose();
                tracing::debug!(target: target::CONNECTION, %server, role, %error, "the server does not tell its time");
            }
        }
        Ok(answers.next())
    }

    /// Takes the answer, seconds and microseconds, that has just come to a request sent at that tick.
    fn learn(&self, sent: Tick, (seconds, micros): (u64, u64)) {
        let received = self.clock.now();
        let middle = sent.after(received.since(sent) / 2);
        let millis = seconds.saturating_mul(1000).saturating_add(micros / 1000);
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some((middle, millis));
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn a_servers_time_is_kept_though_it_is_ten_minutes_off_ours() {
        let hand = Arc::new(AtomicU64::new(7_000_000));
        let pass = |millis: u64| hand.fetch_add(millis * 1000, Ordering::AcqRel);
        let time = ServerTime::new(Clock::Manual(hand.clone()));
        assert_eq!(time.now(), None);
        let ours = wall_clock();
        for theirs in [ours - 600_000, ours + 600_000] {
            let sent = time.clock.now();
            pass(40);
            time.learn(sent, (theirs / 1000, theirs % 1000 * 1000 + 999));
            // Told half way through the round trip, by what is known of it.
            assert_eq!(time.now(), Some(theirs + 20));
            pass(90_000);
            assert_eq!(time.now(), Some(theirs + 90_020));
        }
    }
}
