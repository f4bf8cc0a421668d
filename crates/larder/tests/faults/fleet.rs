//! A round's server, proxies and workers.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use larder_testkit::history::{Notebook, Notes, now};
use larder_testkit::worker::Worker;
use larder_testkit::{Proxy, Server, eventually};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::TEST;
use crate::what::What;
use crate::work::cache::ROWS;

pub(crate) const WORKERS: usize = 5;
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// Whoever stands still for longer may miss its turn: from a release to its confirmation, which must come within 250 ms,
/// two processes, the proxies and the server are asked six times.
pub(crate) const STALL: Duration = Duration::from_millis(40);
/// Until a process that stood still is heard of again.
pub(crate) const HEARD: Duration = Duration::from_millis(250);
/// By how many seconds the clocks of each worker are ahead, its wall clock excepted, where a time namespace may be made.
const AHEAD: [i64; WORKERS] = [0, 600, 0, 86_400, 600];

pub(crate) fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap()
}

pub(crate) struct Fleet {
    pub(crate) server: Server,
    pub(crate) lossy: bool,
    pub(crate) members: Vec<Member>,
    pub(crate) book: Arc<Notebook>,
    pub(crate) rng: StdRng,
    pub(crate) skewed: bool,
    what: What,
    next: u32,
    folder: TempDir,
    /// The database, which no fault touches.
    rows: TempDir,
    runtime: Runtime,
}

pub(crate) struct Member {
    pub(crate) worker: Worker,
    pub(crate) process: u32,
    pub(crate) proxy: Proxy,
}

impl Fleet {
    pub(crate) fn start(what: What, lossy: bool, seed: u64) -> Self {
        let builder = Server::builder().tcp();
        // What was written to the file outlives a killed process; it is written before each answer.
        let kept = builder.clone().persist().arg("appendfsync", "no").arg("auto-aof-rewrite-min-size", "4mb");
        let server = if lossy { builder.start() } else { kept.start() };
        let (folder, rows) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(rows.path().join("rows"), vec![0; ROWS * 8]).unwrap();
        let book = Arc::new(Notebook::create(folder.path(), 0, 0).unwrap());
        let (mono, wall) = (now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap());
        book.note("clock", &[mono, nanos(wall)]).unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        // The proxies' time slices are this process's.
        runtime.spawn(watch(book.clone(), 0));
        let rng = StdRng::seed_from_u64(seed);
        let (members, next, skewed) = (Vec::new(), 0, true);
        let mut fleet = Self { server, lossy, members, book, rng, skewed, what, next, folder, rows, runtime };
        for slot in 0..WORKERS {
            let proxy = fleet.runtime.block_on(Proxy::start(fleet.server.addr().unwrap()));
            let (worker, process) = fleet.spawn(slot, &proxy.url(), true);
            fleet.members.push(Member { worker, process, proxy });
        }
        for member in &fleet.members {
            assert_eq!(member.worker.read_line(LIMIT).unwrap(), "ready");
        }
        fleet
    }

    /// Starts the worker of a slot, with a number of its own.
    pub(crate) fn spawn(&mut self, slot: usize, url: &str, first: bool) -> (Worker, u32) {
        self.next += 1;
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let envs = [
            ("FOLDER", text(self.folder.path())),
            ("DATABASE", text(&self.rows.path().join("rows"))),
            ("SERVER", url.to_owned()),
            ("PROCESS", self.next.to_string()),
            ("SLOT", slot.to_string()),
            ("FIRST", u8::from(first).to_string()),
            ("SEED", self.rng.next_u64().to_string()),
            ("WHAT", self.what.to_string()),
        ];
        let envs: Vec<(&str, &str)> = envs.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let ahead = AHEAD[slot].to_string();
        let with = |ahead| [&envs[..], &[("AHEAD", ahead)]].concat();
        let skewed = (AHEAD[slot] != 0)
            .then(|| Worker::spawn_ahead(TEST, "worker", &with(&ahead), AHEAD[slot]))
            .flatten();
        self.skewed &= AHEAD[slot] == 0 || skewed.is_some();
        (skewed.unwrap_or_else(|| Worker::spawn(TEST, "worker", &with("0"))), self.next)
    }

    /// Brings about faults for so long, and says how many of each kind.
    pub(crate) fn strike(&mut self, span: Duration) -> BTreeMap<&'static str, u64> {
        let end = Instant::now() + span;
        let mut faults = BTreeMap::new();
        let done = Arc::new(AtomicBool::new(false));
        let watched = {
            let (book, done, address) = (self.book.clone(), done.clone(), self.server.addr().unwrap());
            std::thread::spawn(move || watch_server(address, &book, &done))
        };
        while Instant::now() < end {
            *faults.entry(self.strike_once()).or_default() += 1;
            let pause = self.rng.random_range(50..700);
            std::thread::sleep(Duration::from_millis(pause));
        }
        done.store(true, Ordering::SeqCst);
        watched.join().unwrap();
        faults
    }

    /// Ends the workers, and gives what all have noted.
    pub(crate) fn stop(&mut self) -> Notes {
        for Member { worker, .. } in &self.members {
            // One that has failed shows below.
            let _ = worker.send_line("stop");
        }
        for Member { worker, .. } in &self.members {
            while worker.read_line(LIMIT).unwrap() != "done" {}
            assert!(worker.wait(LIMIT).unwrap().success(), "{}", worker.log());
        }
        self.book.note("end", &[now()]).unwrap();
        Notes::read(self.folder.path()).unwrap()
    }

    /// Locks are free and queues empty in a moment, and what is left has an end: L5 and R5.
    /// The names of those that have not.
    pub(crate) fn left_for_ever(&self) -> Vec<String> {
        let lasting = |name: &String| {
            let of_lock = ["~lock", "~election"].iter().any(|kind| name.starts_with(kind));
            of_lock && !name.ends_with(":fence") && !name.contains(":wake:")
        };
        eventually("the locks, their queues and their claims are gone", LIMIT, || {
            let names: Vec<String> = self.server.query(&["KEYS", "~*"]);
            (!names.iter().any(lasting)).then_some(())
        });
        let mut names: Vec<String> = self.server.query(&["KEYS", "~*"]);
        names.retain(|name| self.server.query::<i64>(&["PTTL", name]) == -1);
        names
    }
}

/// Notes that this runtime stood still when it comes back too late.
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
        book.note_of("stall", process, &[last, at + nanos(HEARD)]).unwrap();
    }
}

/// Asks the server again and again, and notes when it does not answer at once.
fn watch_server(address: std::net::SocketAddr, book: &Notebook, done: &AtomicBool) {
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
            book.note_of("fault", 0, &[last, at + nanos(HEARD)]).unwrap();
        }
    }
}
