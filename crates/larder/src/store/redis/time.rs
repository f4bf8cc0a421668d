//! Estimates the server's time.
//!
//! Freshness is compared in the server's time, because the clocks of clients may differ by minutes. Each heartbeat
//! asks for it. Between heartbeats the local suspend-aware clock advances the estimate, so setting a client's wall
//! clock changes nothing. The server read its clock at some moment of the round trip; the middle is taken (Cristian
//! 1989).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::wire::{Connection, Reply, Request, RequestFailure, ServerError};
use crate::clock::{Clock, Tick};
use crate::telemetry::target;

#[derive(Debug)]
pub(super) struct ServerTime {
    clock: Clock,
    /// The server's time minus the local one, in microseconds and wrapping; 0 while it is unknown. Local time counts
    /// from the start of the machine and the server's from 1970, so they are never equal.
    offset: AtomicU64,
    /// The reply that bounds the server's clock most closely.
    fastest: Mutex<Option<TimeReply>>,
}

/// What a server answered to `TIME`, before it is known whether it is used.
pub(super) struct TimeAnswer {
    /// When the request was sent, and when the reply had arrived.
    pub(super) sent: Tick,
    pub(super) received: Tick,
    pub(super) reply: Reply,
}

/// A reply to `TIME`: the server's clock showed `micros` between the two local ticks.
#[derive(Debug, Clone, Copy)]
struct TimeReply {
    sent: Tick,
    received: Tick,
    micros: u64,
}

/// Two clocks may drift apart by one part in this many of a span.
const DRIFT: u32 = 1000;

impl TimeReply {
    /// Returns the earliest and the latest local tick at which the server's clock shows `micros`.
    fn bounds(&self, micros: u64) -> (Tick, Tick) {
        if let Some(since) = micros.checked_sub(self.micros).map(Duration::from_micros) {
            return (self.sent.after(since - since / DRIFT), self.received.after(since + since / DRIFT));
        }
        let until = Duration::from_micros(self.micros - micros);
        (self.sent.before(until + until / DRIFT), self.received.before(until - until / DRIFT))
    }

    /// Returns whether a later reply replaces this one: because it bounds the clock at least as closely as this one
    /// does after the drift since, or because the two contradict each other, so that the server's clock was set.
    fn is_outdone_by(&self, later: &Self) -> bool {
        let (first, last) = self.bounds(later.micros);
        let within = later.received.since(later.sent);
        within <= last.since(first) || later.received < first || later.sent > last
    }
}

impl ServerTime {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, offset: AtomicU64::new(0), fastest: Mutex::new(None) }
    }

    /// Sends requests, and asks for the server's time after them, in one round trip. Returns one reply for each
    /// request, which may be an error.
    pub(super) async fn ask(
        &self,
        connection: &Connection,
        mut requests: Vec<Request>,
        whose: impl Fn() -> (String, &'static str),
    ) -> Result<Vec<Reply>, RequestFailure> {
        let sent = self.clock.now();
        requests.push(Request::new("TIME"));
        // Overtake callers that wait for room in the queue: a busy connection must not look like a silent server.
        let mut answers = connection.send_urgently(&requests).await?;
        let reply = answers.pop().unwrap_or(Reply::Nil);
        self.note(TimeAnswer { sent, received: self.clock.now(), reply }, whose);
        Ok(answers)
    }

    /// Records an answer of the server that is used.
    pub(super) fn note(&self, answer: TimeAnswer, whose: impl Fn() -> (String, &'static str)) {
        match time_in(answer.reply) {
            Ok(server_time) => self.learn(answer.sent, answer.received, server_time),
            // The server may be loading, or the ACL may forbid `TIME`.
            Err(error) => {
                let (server, role) = whose();
                tracing::debug!(target: target::CONNECTION, %server, role, %error, "the server does not tell its time");
            }
        }
    }

    /// Records a reply of seconds and microseconds that arrived between the two ticks.
    fn learn(&self, sent: Tick, received: Tick, (seconds, micros): (u64, u64)) {
        let middle = sent.after(received.since(sent) / 2);
        let micros = seconds.saturating_mul(1_000_000).saturating_add(micros);
        self.offset.store(micros.wrapping_sub(middle.as_micros()), Ordering::Release);
        let reply = TimeReply { sent, received, micros };
        let mut fastest = self.fastest.lock().unwrap_or_else(PoisonError::into_inner);
        if fastest.is_none_or(|fastest| fastest.is_outdone_by(&reply)) {
            *fastest = Some(reply);
        }
    }

    /// Returns the local time at which the server's clock shows `micros` (microseconds since 1970), at the latest. It
    /// may be too late by up to the round trip of the fastest reply. Returns `None` while the server's time is
    /// unknown.
    pub(super) fn local_time(&self, micros: u64) -> Option<Tick> {
        let fastest = (*self.fastest.lock().unwrap_or_else(PoisonError::into_inner))?;
        Some(fastest.bounds(micros).1)
    }

    /// Returns the server's time in milliseconds since 1970; `None` while it is unknown.
    pub(super) fn now(&self) -> Option<u64> {
        let offset = self.offset.load(Ordering::Acquire);
        (offset != 0).then(|| self.clock.now().as_micros().wrapping_add(offset) / 1000)
    }
}

/// Reads the seconds and microseconds in the reply to `TIME`.
fn time_in(answer: Reply) -> Result<(u64, u64), RequestFailure> {
    match answer.into_result()? {
        Reply::Array(parts) => match parts.as_slice() {
            [seconds, micros] => seconds.as_u64().zip(micros.as_u64()),
            _ => None,
        },
        _ => None,
    }
    .ok_or_else(|| RequestFailure::Refused(ServerError::new("ERR an unexpected reply to TIME")))
}

/// Returns the local wall clock, for use while the server's time is unknown.
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
            time.learn(sent, time.clock.now(), (theirs / 1000, theirs % 1000 * 1000 + 999));
            // The server read its clock in the middle of the round trip.
            assert_eq!(time.now(), Some(theirs + 20));
            pass(90_000);
            assert_eq!(time.now(), Some(theirs + 90_020));
        }
    }

    #[test]
    fn the_fastest_reply_says_when_the_servers_clock_shows_what() {
        const SECOND: u64 = 1_000_000;
        let hand = Arc::new(AtomicU64::new(7_000 * SECOND));
        let pass = |micros: u64| hand.fetch_add(micros, Ordering::AcqRel);
        let time = ServerTime::new(Clock::Manual(hand.clone()));
        assert_eq!(time.local_time(5), None);
        // The server's clock is ahead of the local one by this many microseconds.
        let mut charge_at = 1_780_000_000 * SECOND;
        let ask = |there: u64, back: u64, charge_at: u64| {
            let sent = time.clock.now();
            pass(there);
            let said = hand.load(Ordering::Acquire) + charge_at;
            pass(back);
            time.learn(sent, time.clock.now(), (said / SECOND, said % SECOND));
        };
        let error = |charge_at: u64| {
            let now = hand.load(Ordering::Acquire);
            time.local_time(now + charge_at).unwrap().as_micros().checked_sub(now)
        };
        // A slow reply, perhaps because this process was stopped; then a fast one; then slow ones again.
        ask(20, 300_000, charge_at);
        assert_eq!(error(charge_at), Some(300_300), "and what clocks drift");
        ask(100, 150, charge_at);
        assert_eq!(error(charge_at), Some(150));
        for _ in 0..5 {
            pass(SECOND);
            ask(40_000, 2 * SECOND, charge_at);
        }
        let now = error(charge_at).unwrap();
        assert!(now < 20_000, "{now}: what clocks drift in 15 s, and the fast reply's own");
        // After an hour of possible drift, a slower reply bounds the clock more closely.
        pass(3600 * SECOND);
        ask(1_000, 1_000, charge_at);
        assert_eq!(error(charge_at), Some(1_001));
        // If the server's clock is set, by a failover or by hand, the old reply is replaced.
        for step in [-30_000_000, 3_000_000] {
            charge_at = charge_at.checked_add_signed(step).unwrap();
            pass(SECOND);
            ask(4_000, 6_000, charge_at);
            assert_eq!(error(charge_at), Some(6_006));
        }
    }
}
