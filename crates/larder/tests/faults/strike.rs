//! The faults that the parent injects.

use std::ops::Range;
use std::thread::sleep;
use std::time::Duration;

use larder_testkit::history::now;
use larder_testkit::{Cluster, Direction, Proxy, Sentinel, Server};
use rand::RngExt;

use crate::fleet::{Fleet, LIMIT, nanos};
use crate::ground::Ground;
use crate::what::On;

/// The faults of one server behind a proxy for each process.
const KEPT: [&str; 12] = [
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
];
/// The faults of a server that loses its data, which may also be flushed.
const LOSSY: [&str; 13] = {
    let mut all = ["data flushed"; 13];
    let mut place = 0;
    while place < KEPT.len() {
        all[place] = KEPT[place];
        place += 1;
    }
    all
};
/// The faults of a Cluster.
const CLUSTER: [&str; 12] = [
    "worker stopped",
    "worker killed",
    "server stopped",
    "master killed, replaced",
    "slots handed over",
    "slot moved",
    "slot moved",
    "slot moved",
    "scripts flushed",
    "links dropped",
    "links dropped",
    "server paused",
];
/// The faults of a deployment under Sentinel.
const SENTINEL: [&str; 10] = [
    "worker stopped",
    "worker stopped",
    "worker killed",
    "server stopped",
    "failover, replica in step",
    "failover, replica cut off",
    "scripts flushed",
    "links dropped",
    "links dropped",
    "server paused",
];
/// The time until all clients have connected again to a server that was restarted.
const RESTARTED: Duration = Duration::from_millis(1500);
/// The time until the client notices a silently broken connection and replaces it.
const REPLACED: Duration = Duration::from_millis(2500);
/// The time until all processes have found the new masters. A client of a Cluster fetches its map every two seconds.
const FOUND: Duration = Duration::from_millis(4000);
/// Longer than any run.
const DAY: Duration = Duration::from_secs(24 * 3600);

impl Fleet {
    /// Injects one fault, ends it, and notes which processes it concerned, and until when.
    pub(crate) fn strike_once(&mut self) -> &'static str {
        let kinds = match self.on {
            On::Kept => &KEPT[..],
            On::Lossy => &LOSSY,
            On::Cluster => &CLUSTER,
            On::Sentinel => &SENTINEL,
        };
        // Even a short round changes the masters of a deployment that has several.
        let first = std::mem::take(&mut self.first);
        let draws =
            |kind: &&&str| !first || ["slot", "failover", "replaced"].iter().any(|it| kind.contains(it));
        let kinds: Vec<&&str> = match self.on {
            On::Cluster | On::Sentinel => kinds.iter().filter(draws).collect(),
            On::Kept | On::Lossy => kinds.iter().collect(),
        };
        let kind: &'static str = kinds[self.rng.random_range(0..kinds.len())];
        let slot = self.rng.random_range(0..self.members.len());
        // In a soak only the last process is killed; the others live through the whole run.
        let last = self.members.len() - 1;
        let slot = if self.what.is_soak() && kind == "worker killed" { last } else { slot };
        self.strike_with(kind, slot)
    }

    pub(crate) fn strike_with(&mut self, kind: &'static str, slot: usize) -> &'static str {
        let process = self.members[slot].process;
        let from = now();
        let concerned = match self.ground {
            Ground::One(_) => self.disturb(kind, slot),
            Ground::Cluster(_) | Ground::Sentinel(_) => self.change(kind, slot),
        };
        let (process, after) = match concerned {
            Concerned::Process(after) => (process, after),
            Concerned::All(after) => (0, after),
            Concerned::Nothing => return kind,
        };
        self.book.note_of("struck", process, &[from, now() + nanos(after)]).unwrap();
        kind
    }

    /// Injects a fault of a worker, which is possible with all kinds of servers.
    fn strike_worker(&mut self, kind: &str, slot: usize) -> Concerned {
        if kind == "worker killed" {
            let process = self.members[slot].process;
            self.book.note_of("killed", process, &[now()]).unwrap();
            self.members[slot].worker.kill();
            self.respawn(slot);
            return Concerned::Process(DAY);
        }
        let from = now();
        self.members[slot].worker.stop();
        self.pause_around_lease();
        self.members[slot].worker.resume();
        // The worker's own watch notes the stall, too, unless the worker is killed first.
        let (process, until) = (self.members[slot].process, now() + nanos(Duration::from_millis(300)));
        self.book.note_of("stall", process, &[from, until]).unwrap();
        Concerned::Process(REPLACED)
    }

    /// Injects a fault of a server behind proxies.
    fn disturb(&mut self, kind: &str, slot: usize) -> Concerned {
        let late = Duration::from_millis(self.rng.random_range(self.plan.hold.clone()));
        let Ground::One(server) = &self.ground else { return Concerned::Nothing };
        match kind {
            "worker stopped" | "worker killed" => return self.strike_worker(kind, slot),
            "server stopped" => {
                server.pause();
                self.pause_around_lease();
                self.one().resume();
                return Concerned::All(RESTARTED);
            }
            "server killed" => {
                let from = now();
                server.kill();
                self.pause(1..300);
                self.one().restart();
                self.note_loss(from);
                return Concerned::All(RESTARTED);
            }
            // This costs a process one more round trip, but not its turn.
            "scripts flushed" => {
                drop(server.try_query::<String>(&["SCRIPT", "FLUSH"]));
                return Concerned::Nothing;
            }
            "data flushed" => {
                let from = now();
                drop(server.try_query::<String>(&["FLUSHALL"]));
                self.note_loss(from);
                return Concerned::All(RESTARTED);
            }
            _ => {}
        }
        disturb_link(self.proxy(slot), kind, late);
        self.pause(self.plan.hold.clone());
        let proxy = self.proxy(slot);
        if kind.ends_with("lost") {
            // Close a stream that lost bytes: the client would take the next reply for the one that was lost.
            proxy.all().cut().drop_connections();
        }
        proxy.restore();
        Concerned::Process(REPLACED)
    }

    /// Injects a fault of a Cluster or under Sentinel. Checks afterwards whether other masters changed, too: on an
    /// overloaded machine a master may be silent for long enough.
    fn change(&mut self, kind: &str, slot: usize) -> Concerned {
        let concerned = self.change_servers(kind, slot);
        let planned = ["failover", "replaced", "handed over"].iter().any(|word| kind.contains(word));
        self.note_changes(usize::from(planned));
        concerned
    }

    /// Notes if more masters changed than `planned`. The old ones may have continued until now.
    pub(crate) fn note_changes(&mut self, planned: usize) {
        self.ground.settle();
        let at = now();
        let masters = self.ground.master_addresses();
        let (before, since) = &self.masters;
        let changed = before.iter().filter(|master| !masters.contains(master)).count();
        if changed != planned || masters.len() != before.len() {
            self.book.note_of("failover", 0, &[*since, now(), 1]).unwrap();
            self.book.note_of("struck", 0, &[*since, now() + nanos(FOUND)]).unwrap();
        }
        self.masters = (masters, at);
    }

    fn change_servers(&mut self, kind: &str, slot: usize) -> Concerned {
        let draw = self.rng.random_range(0..1_000_000_usize);
        match kind {
            "worker stopped" | "worker killed" => return self.strike_worker(kind, slot),
            "server stopped" => {
                // Too short for a replica to become master.
                let span = Duration::from_millis(self.rng.random_range(50..600));
                let masters = self.ground.masters();
                let master = masters[draw % masters.len()];
                master.pause();
                sleep(span);
                master.resume();
                return Concerned::All(RESTARTED);
            }
            "server paused" => {
                let span = self.rng.random_range(self.plan.hold.clone());
                let masters = self.ground.masters();
                // A paused server does not read its clients' requests.
                let pause = ["CLIENT", "PAUSE", &span.to_string()];
                drop(masters[draw % masters.len()].try_query::<String>(&pause));
                sleep(Duration::from_millis(span));
                return Concerned::All(RESTARTED);
            }
            "scripts flushed" => {
                for master in self.ground.masters() {
                    drop(master.try_query::<String>(&["SCRIPT", "FLUSH"]));
                }
                return Concerned::Nothing;
            }
            "links dropped" => {
                let masters = self.ground.masters();
                drop_links(masters[draw % masters.len()]);
                return Concerned::All(REPLACED);
            }
            _ => {}
        }
        let pause = Duration::from_millis(self.rng.random_range(self.plan.hold.clone()));
        let lost = match &self.ground {
            Ground::Cluster(cluster) => change_cluster(cluster, kind, draw, pause / 20),
            Ground::Sentinel(sentinel) => Some(fail_over(sentinel, kind, pause)),
            Ground::One(_) => None,
        };
        if let Some((from, until)) = lost {
            self.book.note_of("failover", 0, &[from, until, 0]).unwrap();
        }
        Concerned::All(FOUND)
    }

    /// Notes that earlier data are lost, if the server does not keep them.
    fn note_loss(&self, from: u64) {
        if self.on == On::Lossy {
            self.book.note_of("loss", 0, &[from, now()]).unwrap();
        }
    }

    fn one(&self) -> &Server {
        self.ground.nodes()[0]
    }

    pub(crate) fn proxy(&self, slot: usize) -> &Proxy {
        self.members[slot].proxy.as_ref().unwrap()
    }

    pub(crate) fn pause(&mut self, span: Range<u64>) {
        sleep(Duration::from_millis(self.rng.random_range(span)));
    }

    /// Pauses for less or more than a lease; in one case of four for longer than near copies and load claims live.
    fn pause_around_lease(&mut self) {
        if self.rng.random_bool(0.25) { self.pause(2000..4000) } else { self.pause(100..900) }
    }
}

/// Injects a fault of a link.
fn disturb_link(proxy: &Proxy, kind: &str, late: Duration) {
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

/// Closes the connections of all processes, but not those of sentinels, which would then report the master as down.
fn drop_links(server: &Server) {
    let list: String = server.try_query(&["CLIENT", "LIST"]).unwrap_or_default();
    for line in list.lines().filter(|line| line.contains(" name=larder")) {
        let id = line.split(' ').find_map(|word| word.strip_prefix("id=")).unwrap_or_default();
        drop(server.try_query::<u64>(&["CLIENT", "KILL", "ID", id]));
    }
}

/// The time whose acknowledged writes a new master may lack.
type Lost = (u64, u64);

fn change_cluster(cluster: &Cluster, kind: &str, draw: usize, pause: Duration) -> Option<Lost> {
    let masters = cluster.masters();
    let number = draw % masters.len();
    match kind {
        "slots handed over" => {
            cluster.failover(number);
            None
        }
        "slot moved" => {
            // Move the slot of a key that is in use, if the node has any key.
            let key: Option<String> = masters[number].query(&["RANDOMKEY"]);
            let slot = masters[number].query(&["CLUSTER", "KEYSLOT", &key.unwrap_or_default()]);
            cluster.move_slot(slot, (number + 1 + draw / 3 % 2) % masters.len(), pause);
            None
        }
        _ => {
            let from = now();
            cluster.wait_until_in_step(number);
            let mut until = now();
            cluster.replace(number, || until = now());
            Some((from, until))
        }
    }
}

fn fail_over(sentinel: &Sentinel, kind: &str, pause: Duration) -> Lost {
    let from = now();
    sentinel.wait_until_in_step();
    if kind == "failover, replica cut off" {
        // Writes that are acknowledged in this time are lost.
        sentinel.cut_replica();
        sleep(pause);
    }
    sentinel.fail_over();
    // The old master returns as a master without data, until a sentinel makes it a replica of the new one.
    sentinel.heal();
    let until = now();
    larder_testkit::eventually("the other server is a replica", LIMIT, || {
        let info = sentinel.replica().info("replication");
        (info.get("role")? == "slave").then_some(())
    });
    (from, until)
}

/// The processes that a fault concerns, and for how long after its end.
enum Concerned {
    Process(Duration),
    All(Duration),
    Nothing,
}
