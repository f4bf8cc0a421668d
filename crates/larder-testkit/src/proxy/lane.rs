//! One direction of one connection: the bytes that were read and are not yet written.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::settings::{Mode, Transit};

/// The number of bytes that a direction of a connection holds before it stops reading.
pub(super) const HELD: usize = 8 * 1024 * 1024;
/// The same where a rate limits it: a slow path that took in a lot would look like a fast one to the sender.
const HELD_SLOW: usize = 64 * 1024;
/// The most bytes that pass at once where a rate limits them.
const SLICE: usize = 16 * 1024;

#[derive(Debug, Default)]
pub(super) struct Lane {
    queue: VecDeque<Chunk>,
    held: usize,
    /// When the next bytes may pass where a rate limits them.
    free: Option<Instant>,
    end: End,
}

#[derive(Debug)]
struct Chunk {
    arrived: Instant,
    bytes: Vec<u8>,
    written: usize,
}

/// The end of what the sender sends.
#[derive(Debug, Default, PartialEq, Eq)]
enum End {
    #[default]
    Ahead,
    Arrived(Instant),
    Passed,
}

/// What a lane needs to continue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Another chunk from the sender, or another setting.
    Chunk,
    /// The receiver to take more.
    Room,
    /// The time when its first chunk may pass.
    Time(Instant),
}

impl Next {
    pub(super) fn time(self) -> Option<Instant> {
        match self {
            Self::Time(time) => Some(time),
            Self::Chunk | Self::Room => None,
        }
    }
}

/// The receiver is gone.
#[derive(Debug)]
pub(super) struct Broken;

impl Lane {
    pub(super) fn reads(&self, transit: Transit) -> bool {
        let most = if transit.rate.is_some() { HELD_SLOW } else { HELD };
        self.end == End::Ahead && self.held < most
    }

    pub(super) fn has_ended(&self) -> bool {
        self.end == End::Passed
    }

    /// Takes in what the sender has ready, one buffer at most, and returns it.
    pub(super) fn receive<'a>(
        &mut self,
        from: &TcpStream,
        transit: Transit,
        buffer: &'a mut [u8],
        now: Instant,
    ) -> &'a [u8] {
        if !self.reads(transit) {
            return &[];
        }
        match from.try_read(buffer) {
            Err(error) if is_transient(&error) => &[],
            // A reset ends a direction as an orderly end does.
            Ok(0) | Err(_) => {
                self.end = End::Arrived(now);
                &[]
            }
            Ok(count) => {
                let bytes = buffer.get(..count).unwrap_or_default();
                self.held += count;
                self.queue.push_back(Chunk { arrived: now, bytes: bytes.to_vec(), written: 0 });
                bytes
            }
        }
    }

    /// Passes on what may pass now, and counts it.
    pub(super) fn send(
        &mut self,
        to: &mut TcpStream,
        transit: Transit,
        now: Instant,
        passed: &AtomicU64,
    ) -> Result<Next, Broken> {
        match transit.mode {
            Mode::Hold => return Ok(Next::Chunk),
            Mode::Discard => {
                self.queue.clear();
                self.held = 0;
            }
            Mode::Forward => {}
        }
        while let Some(chunk) = self.queue.front_mut() {
            if let Some(next) = transit.keeps(chunk.arrived, now) {
                return Ok(next);
            }
            if let Some(free) = self.free.filter(|free| transit.rate.is_some() && *free > now) {
                return Ok(Next::Time(free));
            }
            let mut rest = chunk.bytes.get(chunk.written..).unwrap_or_default();
            if transit.rate.is_some() {
                rest = rest.get(..SLICE).unwrap_or(rest);
            }
            match to.try_write(rest) {
                Err(error) if is_transient(&error) => return Ok(Next::Room),
                Err(_) => return Err(Broken),
                Ok(count) => {
                    passed.fetch_add(count as u64, Ordering::Relaxed);
                    self.held -= count;
                    if let Some(rate) = transit.rate {
                        self.free = Some(now + Duration::from_secs_f64(count as f64 / f64::from(rate.get())));
                    }
                    chunk.written += count;
                    if chunk.written == chunk.bytes.len() {
                        self.queue.pop_front();
                    }
                }
            }
        }
        if let End::Arrived(arrived) = self.end {
            if let Some(next) = transit.keeps(arrived, now) {
                return Ok(next);
            }
            // On a TCP socket this is a system call that never waits.
            let _ = Pin::new(to).poll_shutdown(&mut Context::from_waker(Waker::noop()));
            self.end = End::Passed;
        }
        Ok(Next::Chunk)
    }
}

impl Transit {
    /// What to wait for if the first chunk, with its time of arrival, may not pass yet.
    fn keeps(self, arrived: Instant, now: Instant) -> Option<Next> {
        match arrived.checked_add(self.delay) {
            Some(due) => (due > now).then_some(Next::Time(due)),
            // A delay without an end.
            None => Some(Next::Chunk),
        }
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
