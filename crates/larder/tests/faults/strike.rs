//! The faults.

use std::thread::sleep;
use std::time::Duration;

use larder_testkit::Direction;
use larder_testkit::history::now;
use rand::RngExt;

use crate::fleet::{Fleet, nanos};

const KINDS: [&str; 13] = [
    "worker stopped",
    "worker killed",
    "server stopped",
    "server killed",
    "scripts flushed",
    "link cut",
    "links dropped",
    "half open",
    "replies lost",
    "pushes lost",
    "pushes late",
    "requests late",
    "data flushed",
];
/// Until a server that came back has all its clients back.
const RESTARTED: Duration = Duration::from_millis(1500);
/// Until a connection that broke unnoticed is found out and replaced.
const REPLACED: Duration = Duration::from_millis(2500);
/// For good.
const DAY: Duration = Duration::from_secs(24 * 3600);

impl Fleet {
    /// Brings about one fault, ends it, and notes whom it concerned until when.
    pub(crate) fn strike_once(&mut self) -> &'static str {
        // Flushed data are lost data.
        let kinds = if self.lossy { KINDS.len() } else { KINDS.len() - 1 };
        let kind = KINDS[self.rng.random_range(0..kinds)];
        let slot = self.rng.random_range(0..self.members.len());
        let process = self.members[slot].process;
        let from = now();
        let concerned = self.carry_out(kind, slot);
        if !matches!(kind, "worker killed" | "scripts flushed" | "data flushed") {
            self.pause(50, 600);
        }
        let proxy = &self.members[slot].proxy;
        if kind.ends_with("lost") {
            // A stream that lacks bytes never goes on: the next reply would be taken for the one that was lost.
            proxy.all().cut().drop_connections();
        }
        proxy.restore();
        let (process, after) = match concerned {
            Concerned::Process(after) => (process, after),
            Concerned::All(after) => (0, after),
            Concerned::Nobody => return kind,
        };
        self.book.note_of("fault", process, &[from, now() + nanos(after)]).unwrap();
        kind
    }

    fn carry_out(&mut self, kind: &str, slot: usize) -> Concerned {
        let late = Duration::from_millis(self.rng.random_range(50..600));
        match kind {
            "worker stopped" => {
                let from = now();
                self.members[slot].worker.stop();
                self.pause_around_lease();
                self.members[slot].worker.resume();
                // Its own watch sees it too, unless it is killed before.
                let process = self.members[slot].process;
                self.book
                    .note_of("stall", process, &[from, now() + nanos(Duration::from_millis(300))])
                    .unwrap();
            }
            "worker killed" => {
                self.members[slot].worker.kill();
                let url = self.members[slot].proxy.url();
                let (worker, process) = self.spawn(slot, &url, false);
                (self.members[slot].worker, self.members[slot].process) = (worker, process);
                return Concerned::Process(DAY);
            }
            "server stopped" => {
                self.server.pause();
                self.pause_around_lease();
                self.server.resume();
                return Concerned::All(RESTARTED);
            }
            "server killed" => {
                let from = now();
                self.server.kill();
                self.pause(1, 300);
                self.server.restart();
                self.note_loss(from);
                return Concerned::All(RESTARTED);
            }
            // Costs a round trip, and nobody its turn.
            "scripts flushed" => {
                drop(self.server.try_query::<String>(&["SCRIPT", "FLUSH"]));
                return Concerned::Nobody;
            }
            "data flushed" => {
                let from = now();
                drop(self.server.try_query::<String>(&["FLUSHALL"]));
                self.note_loss(from);
                return Concerned::All(RESTARTED);
            }
            _ => self.disturb(kind, slot, late),
        }
        Concerned::Process(REPLACED)
    }

    /// What is done to a link.
    fn disturb(&self, kind: &str, slot: usize, late: Duration) {
        let proxy = &self.members[slot].proxy;
        match kind {
            "link cut" => proxy.cut(),
            "links dropped" => proxy.drop_connections(),
            "half open" => proxy.silence(Direction::Both),
            "replies lost" => proxy.only_untracked().swallow(Direction::ToClient),
            "pushes lost" => proxy.only_tracked().swallow(Direction::ToClient),
            "pushes late" => proxy.only_tracked().delay(Direction::ToClient, late),
            _ => proxy.delay(Direction::ToServer, late),
        };
    }

    fn note_loss(&self, from: u64) {
        if self.lossy {
            self.book.note_of("loss", 0, &[from, now()]).unwrap();
        }
    }

    fn pause(&mut self, from: u64, to: u64) {
        sleep(Duration::from_millis(self.rng.random_range(from..to)));
    }

    /// Shorter than the leases or longer, one in four for longer than near copies and claims of loads live.
    fn pause_around_lease(&mut self) {
        if self.rng.random_bool(0.25) { self.pause(2000, 4000) } else { self.pause(100, 900) }
    }
}

/// Whom a fault concerns, and for how long after its end.
enum Concerned {
    Process(Duration),
    All(Duration),
    Nobody,
}
