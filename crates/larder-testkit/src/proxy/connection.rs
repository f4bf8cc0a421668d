//! One client's connection, and the one to the server that goes with it.
//!
//! One task handles both directions in a loop: move what can be moved without waiting, then wait for anything that
//! would allow more. The bytes are moved under the lock of the settings, so that the settings cannot change between
//! being read and being applied.

use std::sync::Arc;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::Gauges;
use super::lane::{Lane, Next};
use super::settings::{Class, Settings};

const BUFFER: usize = 16 * 1024;

/// A client that was accepted.
pub(super) struct Connection {
    client: TcpStream,
    drops: u64,
    settings: watch::Receiver<Settings>,
    gauges: Standing,
}

/// Counts a connection as long as it is open.
struct Standing(Arc<Gauges>);

impl Standing {
    fn new(gauges: Arc<Gauges>) -> Self {
        gauges.standing.send_modify(|standing| *standing += 1);
        Self(gauges)
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.0.standing.send_modify(|standing| *standing -= 1);
    }
}

impl Connection {
    /// `None` if clients are refused.
    pub(super) fn accept(
        client: TcpStream,
        settings: watch::Receiver<Settings>,
        gauges: Arc<Gauges>,
    ) -> Option<Self> {
        let (cut, drops) = {
            let current = settings.borrow();
            let faults = current.of(Class::Untracked);
            (faults.cut, faults.drops)
        };
        (!cut).then(|| Self { client, drops, settings, gauges: Standing::new(gauges) })
    }

    /// Ends with the connection.
    pub(super) async fn run(self, upstream: Arc<str>) {
        let Self { client, drops, mut settings, gauges } = self;
        let server = tokio::select! {
            _ = settings.wait_for(|settings| settings.of(Class::Untracked).ends(drops)) => return,
            server = TcpStream::connect(&*upstream) => server,
        };
        // If the server cannot be reached, the client's connection is closed, as by a real proxy.
        let Ok(server) = server else { return };
        let _ = client.set_nodelay(true);
        let _ = server.set_nodelay(true);
        let mut pair = Pair {
            client,
            server,
            to_server: Lane::default(),
            to_client: Lane::default(),
            class: Class::Untracked,
            word: Word::default(),
            drops,
            buffer: vec![0; BUFFER],
        };
        loop {
            let step = {
                let current = settings.borrow_and_update();
                pair.step(&current, &gauges.0)
            };
            let Some(wait) = step else { return };
            tokio::select! {
                changed = settings.changed() => if changed.is_err() { return },
                () = ready(&pair.client, wait.client) => {}
                () = ready(&pair.server, wait.server) => {}
                () = reached(wait.time) => {}
            }
        }
    }
}

struct Pair {
    client: TcpStream,
    server: TcpStream,
    to_server: Lane,
    to_client: Lane,
    class: Class,
    word: Word,
    /// The number of drops of its class when it joined the class.
    drops: u64,
    buffer: Vec<u8>,
}

/// What a connection waits for.
struct Wait {
    client: Option<Interest>,
    server: Option<Interest>,
    time: Option<Instant>,
}

impl Pair {
    /// Moves what can be moved; `None` when the connection has ended.
    fn step(&mut self, settings: &Settings, gauges: &Gauges) -> Option<Wait> {
        if settings.of(self.class).ends(self.drops) {
            return None;
        }
        let now = Instant::now();
        let faults = settings.of(self.class);
        let sent = self.to_server.receive(&self.client, faults.to_server, &mut self.buffer, now);
        if self.class == Class::Untracked && self.word.ends_in(sent) {
            self.class = Class::Tracked;
            self.drops = settings.of(Class::Tracked).drops;
        }
        let faults = settings.of(self.class);
        self.to_client.receive(&self.server, faults.to_client, &mut self.buffer, now);
        if faults.ends(self.drops) {
            return None;
        }
        let to_server =
            self.to_server.send(&mut self.server, faults.to_server, now, &gauges.to_server).ok()?;
        let to_client =
            self.to_client.send(&mut self.client, faults.to_client, now, &gauges.to_client).ok()?;
        if self.to_server.has_ended() && self.to_client.has_ended() {
            return None;
        }
        Some(Wait {
            client: interest(self.to_server.reads(faults.to_server), to_client),
            server: interest(self.to_client.reads(faults.to_client), to_server),
            time: [to_server, to_client].into_iter().filter_map(Next::time).min(),
        })
    }
}

/// What a socket must become ready for: for the lane that may read from it, and for the one that writes to it.
fn interest(reads: bool, writer: Next) -> Option<Interest> {
    let readable = reads.then_some(Interest::READABLE);
    let writable = (writer == Next::Room).then_some(Interest::WRITABLE);
    match (readable, writable) {
        (Some(readable), Some(writable)) => Some(readable.add(writable)),
        (one, other) => one.or(other),
    }
}

async fn ready(stream: &TcpStream, interest: Option<Interest>) {
    match interest {
        // This fails only if the runtime ends, and this task with it.
        Some(interest) => drop(stream.ready(interest).await),
        None => std::future::pending().await,
    }
}

async fn reached(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Finds the word TRACKING in a stream, wherever the stream is split into chunks.
#[derive(Debug, Default)]
struct Word {
    matched: usize,
}

impl Word {
    const LETTERS: &[u8] = b"TRACKING";

    /// Whether the word ends in this chunk.
    fn ends_in(&mut self, chunk: &[u8]) -> bool {
        chunk.iter().any(|byte| {
            // In capitals only: comments of scripts have the word in small letters.
            let fits = |at: usize| Self::LETTERS.get(at) == Some(byte);
            // Its first letter occurs in it only once, so a mismatch can at most be a new beginning.
            self.matched = if fits(self.matched) { self.matched + 1 } else { usize::from(fits(0)) };
            self.matched == Self::LETTERS.len()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Word;

    fn found(chunks: &[&str]) -> bool {
        let mut word = Word::default();
        chunks.iter().any(|chunk| word.ends_in(chunk.as_bytes()))
    }

    #[test]
    fn the_word_is_found_in_capitals_and_over_any_cut() {
        assert!(found(&["*3\r\n$6\r\nCLIENT\r\n$8\r\nTRACKING\r\n"]));
        assert!(found(&["CLIENT TRACKING ON"]) && !found(&["-- the tracking connection"]));
        assert!(found(&["CLIENT TRA", "", "CK", "ING"]));
        assert!(found(&["TRATRACKING", ""]) && found(&["TTRACKING"]));
        assert!(!found(&["TRACK", "IN", " G"]) && !found(&["CLIENT CACHING YES"]));
    }
}
