//! A round's servers, proxies and workers.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use larder_testkit::history::{Notebook, Notes, now};
use larder_testkit::worker::Worker;
use larder_testkit::{Proxy, Server, eventually};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::TEST;
use crate::ground::Ground;
use crate::report::say;
use crate::what::{On, Plan, What};
use crate::work::cache::ROWS;

pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// A process that stalls for longer may miss its turn. A turn must be confirmed within 250 ms of the release, and in
/// that time six steps need the CPU, in two processes, the proxies and the server.
pub(crate) const STALL: Duration = Duration::from_millis(40);
/// The time until the server has a heartbeat again from a process that stalled.
pub(crate) const NOTICED_WITHIN: Duration = Duration::from_millis(250);
/// By how many seconds the clocks of each worker, except its wall clock, are ahead, if a time namespace can be created.
const AHEAD: [i64; 5] = [0, 600, 0, 86_400, 600];
/// How often a round prints its progress.
const PROGRESS: Duration = Duration::from_secs(15);

pub(crate) fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap()
}

pub(crate) struct Fleet {
    pub(crate) ground: Ground,
    pub(crate) on: On,
    pub(crate) plan: Plan,
    pub(crate) members: Vec<Member>,
    pub(crate) book: Arc<Notebook>,
    pub(crate) rng: StdRng,
    pub(crate) skewed: bool,
    /// Whether no fault has been drawn yet.
    pub(crate) first: bool,
    /// The masters at the last check, and its time.
    pub(crate) masters: (Vec<SocketAddr>, u64),
    pub(crate) what: What,
    next: u32,
    folder: TempDir,
    /// The database. It has no faults.
    rows: TempDir,
    runtime: Runtime,
}

pub(crate) struct Member {
    pub(crate) worker: Worker,
    pub(crate) process: u32,
    /// None for a Cluster and under Sentinel: clients find these servers by the servers' own addresses.
    pub(crate) proxy: Option<Proxy>,
}

impl Fleet {
    pub(crate) fn start(what: What, on: On, seed: u64) -> Self {
        let (ground, plan) = (Ground::start(on), what.plan());
        let (folder, rows) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(rows.path().join("rows"), vec![0; ROWS * 8]).unwrap();
        let book = Arc::new(Notebook::create(folder.path(), 0, 0).unwrap());
        let (mono, wall) = (now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap());
        book.note("clock", &[mono, nanos(wall)]).unwrap();
        if on == On::Cluster {
            book.note("cluster", &[]).unwrap();
        }
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        // The proxies run in this process, so a stall of this process is a stall of the proxies.
        runtime.spawn(watch(book.clone(), 0));
        let rng = StdRng::seed_from_u64(seed);
        let masters = (ground.master_addresses(), now());
        let (members, next, skewed) = (Vec::new(), 0, true);
        let mut fleet = Self {
            ground,
            on,
            plan,
            members,
            book,
            rng,
            skewed,
            first: true,
            masters,
            what,
            next,
            folder,
            rows,
            runtime,
        };
        for slot in 0..fleet.plan.workers {
            let proxy = match &fleet.ground {
                Ground::One(server) => Some(fleet.runtime.block_on(Proxy::start(server.addr().unwrap()))),
                _ => None,
            };
            let (worker, process) = fleet.spawn(slot, proxy.as_ref(), true);
            fleet.members.push(Member { worker, process, proxy });
        }
        for member in &fleet.members {
            assert_eq!(member.worker.read_line(LIMIT).unwrap(), "ready");
        }
        fleet
    }

    /// Starts the worker of a slot, with a number of its own.
    fn spawn(&mut self, slot: usize, proxy: Option<&Proxy>, first: bool) -> (Worker, u32) {
        self.next += 1;
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let envs = [
            ("FOLDER", text(self.folder.path())),
            ("DATABASE", text(&self.rows.path().join("rows"))),
            ("SERVER", proxy.map_or_else(|| self.ground.url(), Proxy::url)),
            ("PROCESS", self.next.to_string()),
            ("SLOT", slot.to_string()),
            ("FIRST", u8::from(first).to_string()),
            ("SEED", self.rng.next_u64().to_string()),
            ("WHAT", self.what.to_string()),
        ];
        let envs: Vec<(&str, &str)> = envs.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let by = AHEAD[slot % AHEAD.len()];
        let ahead = by.to_string();
        let with = |ahead| [&envs[..], &[("AHEAD", ahead)]].concat();
        let skewed = (by != 0).then(|| Worker::spawn_ahead(TEST, "worker", &with(&ahead), by)).flatten();
        self.skewed &= by == 0 || skewed.is_some();
        (skewed.unwrap_or_else(|| Worker::spawn(TEST, "worker", &with("0"))), self.next)
    }

    /// Starts another process in the place of one that was killed.
    pub(crate) fn respawn(&mut self, slot: usize) {
        let proxy = self.members[slot].proxy.take();
        let (worker, process) = self.spawn(slot, proxy.as_ref(), false);
        self.members[slot] = Member { worker, process, proxy };
    }

    /// Injects faults for `span`, and returns how many of each kind.
    pub(crate) fn strike(&mut self, span: Duration) -> BTreeMap<&'static str, u64> {
        let (began, mut told) = (Instant::now(), Instant::now());
        let mut faults = BTreeMap::new();
        let watch = Watch::start(&self.ground.addresses(), &self.book);
        if self.plan.measures {
            self.measure(&mut faults);
        }
        while began.elapsed() < span {
            let struck = Instant::now();
            let kind = self.strike_once();
            *faults.entry(kind).or_default() += 1;
            if struck.elapsed() > PROGRESS / 2 {
                say(&format!("  {}: {kind:?} took {:.0?}", self.on, struck.elapsed()));
            }
            self.pause(self.plan.pause.clone());
            if self.what.is_soak() {
                self.sample_server();
            }
            if told.elapsed() > PROGRESS {
                told = Instant::now();
                let count: u64 = faults.values().sum();
                say(&format!("  {}: {count} faults in {:.0?}", self.on, began.elapsed()));
            }
        }
        watch.end();
        faults
    }

    /// Ends the workers, and returns the notes of all processes.
    pub(crate) fn stop(&mut self) -> Notes {
        for Member { worker, .. } in &self.members {
            // A worker that has failed is noticed below.
            let _ = worker.send_line("stop");
        }
        for Member { worker, .. } in &self.members {
            while worker.read_line(LIMIT).unwrap() != "done" {}
            assert!(worker.wait(LIMIT).unwrap().success(), "{}", worker.log());
        }
        self.note_changes(0);
        self.book.note("end", &[now()]).unwrap();
        Notes::read(self.folder.path()).unwrap()
    }

    /// Keeps the notes and the servers' logs, so that a violation can be explained, and returns their folder.
    pub(crate) fn keep(self) -> PathBuf {
        let Self { ground, folder, .. } = self;
        let kept = folder.keep();
        for node in ground.nodes() {
            // The logs only help people: an error here must not hide the run's violations.
            let _ = std::fs::write(kept.join(format!("log-{}", node.addr().unwrap().port())), node.log());
        }
        kept
    }

    /// Checks L5 and R5: locks become free and queues empty within a moment, and all other keys expire. Returns the
    /// names of the keys that do not.
    pub(crate) fn left_for_ever(&self) -> Vec<String> {
        let lasting = |name: &String| {
            let of_lock = ["~lock", "~election"].iter().any(|kind| name.starts_with(kind));
            let has_end = [":fence", ":origin"].iter().any(|end| name.ends_with(end));
            of_lock && !has_end && !name.contains(":wake:")
        };
        let masters = self.ground.masters();
        let names = |server: &Server| server.query::<Vec<String>>(&["KEYS", "~*"]);
        eventually("the locks, their queues and their claims are gone", LIMIT, || {
            masters.iter().all(|server| !names(server).iter().any(lasting)).then_some(())
        });
        masters.into_iter().flat_map(without_end).collect()
    }
}

/// Returns the names of larder's own keys that have no time to live.
fn without_end(server: &Server) -> Vec<String> {
    let mut names: Vec<String> = server.query(&["KEYS", "~*"]);
    names.retain(|name| server.query::<i64>(&["PTTL", name]) == -1);
    names
}

/// Threads that ping each server repeatedly until they are ended.
pub(crate) struct Watch {
    done: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    pub(crate) fn start(addresses: &[SocketAddr], book: &Arc<Notebook>) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let start = |address: &SocketAddr| {
            let (address, book, done) = (*address, book.clone(), done.clone());
            std::thread::spawn(move || watch_server(address, &book, &done))
        };
        let threads = addresses.iter().map(start).collect();
        Self { done, threads }
    }

    pub(crate) fn end(self) {
        self.done.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

/// Notes stalls of this runtime: a timer that fires too late.
pub(crate) async fn watch(book: Arc<Notebook>, process: u32) {
    loop {
        let last = book.now();
        tokio::time::sleep(Duration::from_millis(5)).await;
        note_stall(&book, process, last);
    }
}

fn note_stall(book: &Notebook, process: u32, last: u64) {
    let at = book.now();
    if at - last > nanos(STALL) {
        book.note_of("stall", process, &[last, at + nanos(NOTICED_WITHIN)]).unwrap();
    }
}

/// Pings the server repeatedly, and notes when it does not answer at once.
fn watch_server(address: SocketAddr, book: &Notebook, done: &AtomicBool) {
    let mut connection = None;
    while !done.load(Ordering::SeqCst) {
        let last = now();
        std::thread::sleep(Duration::from_millis(10));
        let stream = connection.get_or_insert_with(|| {
            let stream = TcpStream::connect(address).ok()?;
            stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
            Some(stream)
        });
        let pong = stream.as_mut().map(|stream| {
            let mut answer = [0; 7];
            stream.write_all(b"PING\r\n").and_then(|()| stream.read_exact(&mut answer))
        });
        if !matches!(pong, Some(Ok(()))) {
            connection = None;
        }
        let at = now();
        if at - last > nanos(STALL) {
            book.note_of("fault", 0, &[last, at + nanos(NOTICED_WITHIN)]).unwrap();
        }
    }
}

#[test]
fn a_planted_key_without_an_end_is_found() {
    let server = Server::start();
    server.command(&["SET", "~lock.2:{a}", "1", "EX", "60"]);
    server.command(&["SET", "of a program", "1"]);
    assert_eq!(without_end(&server), [""; 0]);
    server.command(&["SET", "~sem.1:{b}", "1"]);
    assert_eq!(without_end(&server), ["~sem.1:{b}"]);
}
