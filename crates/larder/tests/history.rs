//! C1 and C2 with everything at once: several processes read, load, set and delete the same keys, and record what each
//! saw and when. The history is checked afterwards: a process that has written a key reads nothing older (C1), and no
//! process reads a value that was replaced more than `Near::STALENESS` ago (C2).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use larder::{Cache, Error, Format, Larder, Near};
use larder_testkit::history::{
    Event, Kind, Recorder, Summary, bounded_staleness, now, read_files, read_your_writes,
};
use larder_testkit::worker::{self, Worker};
use larder_testkit::{Proxy, Server};
use tokio::task::spawn_blocking;

const HOUR: Duration = Duration::from_secs(3600);
const PROCESSES: u32 = 4;
const READERS: u32 = 4;
/// Each process writes its own keys; all processes read all of them.
const OWN_KEYS: u32 = 6;
const KEYS: u32 = PROCESSES * OWN_KEYS;
/// The least duration: a read within the bound of the start cannot violate it.
const SPAN: Duration = Duration::from_secs(6);

/// What a process works with.
struct Process {
    number: u32,
    cache: Cache<u64>,
    /// The database: a row for each key, without any caching.
    rows: Cache<u64>,
    recorder: Recorder,
    /// The least number of reads of each reading task.
    least: u32,
    done: AtomicBool,
    loads: AtomicU64,
    failed: AtomicU64,
}

impl Process {
    async fn start(number: u32) -> (Larder, Arc<Self>) {
        let variable = |name: &str| std::env::var(name).unwrap();
        let larder = Larder::builder().url(variable("URL")).namespace("n").connect().await.unwrap();
        let database = Larder::builder().url(variable("DATABASE")).namespace("db").connect().await.unwrap();
        let process = Self {
            number,
            cache: larder.cache("v").ttl(HOUR).near(Near::bytes(1 << 20)).build().unwrap(),
            rows: database.cache("row").no_expiry().format(Format::Plain).build().unwrap(),
            recorder: Recorder::create(Path::new(&variable("FOLDER")), number).unwrap(),
            least: variable("READS").parse().unwrap(),
            done: AtomicBool::new(false),
            loads: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        };
        (larder, Arc::new(process))
    }

    fn record(&self, task: u32, key: u32, start: u64, kind: Kind) {
        let event = Event { process: self.number, task, key, start, end: now(), kind };
        self.recorder.record(&event).unwrap();
    }

    /// Reads all keys in its own order, every second time with a loader.
    async fn read(self: Arc<Self>, task: u32) {
        let begin = Instant::now();
        for i in 0.. {
            if i >= self.least && begin.elapsed() > SPAN {
                break;
            }
            // Strides that are coprime with the number of keys.
            let key = (self.number * 5 + i * [1, 5, 7, 11][(task % 4) as usize]) % KEYS;
            let start = now();
            let seen = if (i / KEYS + task).is_multiple_of(2) {
                self.cache.get(key).await.map_err(drop)
            } else {
                let process = self.clone();
                let load = move || async move {
                    process.loads.fetch_add(1, Ordering::Relaxed);
                    process.rows.get(key).await.map(Option::unwrap_or_default)
                };
                self.cache.get_or_load(key, load).await.map(Some).map_err(drop)
            };
            match seen {
                Ok(seen) => self.record(task, key, start, Kind::Read(seen)),
                Err(()) => drop(self.failed.fetch_add(1, Ordering::Relaxed)),
            }
            if i % 8 == 0 {
                // Near reads alone would leave the writers no time.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    /// Writes its own keys until the readers are done: first the row, then the cache.
    async fn write(self: Arc<Self>) {
        for version in 1.. {
            for key in (0..OWN_KEYS).map(|own| self.number * OWN_KEYS + own) {
                if self.done.load(Ordering::Acquire) {
                    return;
                }
                let start = now();
                self.rows.set(key, &version).await.unwrap();
                let told: Result<(), Error> = if (version + u64::from(key)).is_multiple_of(2) {
                    self.cache.set(key, &version).await
                } else {
                    self.cache.delete(key).await.map(drop)
                };
                if told.is_ok() {
                    self.record(READERS, key, start, Kind::Write(version));
                }
                // The writer reads its own write at once, which is what C1 is about.
                for load in [false, true] {
                    let start = now();
                    let seen = if load {
                        let process = self.clone();
                        let loader =
                            move || async move { process.rows.get(key).await.map(Option::unwrap_or_default) };
                        self.cache.get_or_load(key, loader).await.map(Some).map_err(drop)
                    } else {
                        self.cache.get(key).await.map_err(drop)
                    };
                    if let Ok(seen) = seen {
                        self.record(READERS, key, start, Kind::Read(seen));
                    }
                }
                // A pace at which most reads of a key are near.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    async fn work(number: u32) {
        let (larder, process) = Self::start(number).await;
        worker::send_line("ready");
        spawn_blocking(worker::read_line).await.unwrap().unwrap();
        let writer = tokio::spawn(process.clone().write());
        let readers: Vec<_> = (0..READERS).map(|task| tokio::spawn(process.clone().read(task))).collect();
        for reader in readers {
            reader.await.unwrap();
        }
        process.done.store(true, Ordering::Release);
        writer.await.unwrap();
        let near = larder.stats().caches["v"].near_hits;
        let (loads, failed) = (process.loads.load(Ordering::Relaxed), process.failed.load(Ordering::Relaxed));
        worker::send_line(&format!("{near} {loads} {failed}"));
    }
}

/// Runs all processes, calls `disturb` meanwhile, and checks what they recorded.
async fn history(what: &str, test: &str, least: u32, url: &str, database: &Server, disturb: impl AsyncFn()) {
    let folder = tempfile::tempdir().unwrap();
    let workers: Vec<Worker> = (0..PROCESSES)
        .map(|number| {
            let (folder, database) = (folder.path().to_str().unwrap(), database.url());
            let reads = least.div_ceil(PROCESSES * READERS).to_string();
            let envs = [("URL", url), ("DATABASE", &database), ("FOLDER", folder), ("READS", &reads)];
            Worker::spawn(test, &number.to_string(), &envs)
        })
        .collect();
    for worker in &workers {
        assert_eq!(worker.read_line(Duration::from_secs(20)).unwrap(), "ready");
    }
    let start = Instant::now();
    workers.iter().for_each(|worker| worker.send_line("go").unwrap());
    let end = spawn_blocking(move || {
        let counts: Vec<Vec<u64>> = workers
            .iter()
            .map(|worker| {
                let line = worker.read_line(Duration::from_secs(100)).unwrap();
                line.split(' ').map(|count| count.parse().unwrap()).collect()
            })
            .collect();
        for worker in &workers {
            assert!(worker.wait(Duration::from_secs(10)).unwrap().success(), "{}", worker.log());
        }
        counts
    });
    tokio::pin!(end);
    let counts = loop {
        tokio::select! {
            counts = &mut end => break counts.unwrap(),
            () = disturb() => {}
        }
    };
    let took = start.elapsed();
    let count = |place: usize| counts.iter().map(|counts| counts[place]).sum::<u64>();
    let (near, loads, failed) = (count(0), count(1), count(2));

    let events = read_files(folder.path()).unwrap();
    let show = |violations: Vec<larder_testkit::history::Violation>| {
        let first: Vec<String> = violations.iter().take(5).map(ToString::to_string).collect();
        format!("{} violations, the first: {first:#?}", violations.len())
    };
    let own =
        read_your_writes(&events).unwrap_or_else(|violations| panic!("{what}, C1: {}", show(violations)));
    let all = bounded_staleness(&events, Near::STALENESS)
        .unwrap_or_else(|violations| panic!("{what}, C2: {}", show(violations)));
    let Summary { reads, misses, writes, keys, largest_staleness, .. } = all;
    eprintln!(
        "{what}: {} operations in {took:.1?} by {PROCESSES} processes: {writes} writes and {reads} reads of {keys} keys, {near} \
         near, {misses} misses, {loads} loads, {failed} failed; C1 judged {}, C2 judged {}; bound {:?}, observed at most \
         {largest_staleness:?}",
        events.len(),
        own.judged,
        all.judged,
        Near::STALENESS,
    );
    assert!(
        events.len() >= least as usize && own.judged > 1000 && all.judged > 1000,
        "{what}: too little was judged"
    );
    assert!(near > 1000 && loads > 100, "{what}: {near} near, {loads} loads");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_read_their_own_writes_and_nothing_older_than_the_bound() {
    if let Some(number) = worker::role() {
        return Process::work(number.parse().unwrap()).await;
    }
    let (server, database) = (Server::builder().tcp().start(), Server::start());
    let name = "processes_read_their_own_writes_and_nothing_older_than_the_bound";
    history("undisturbed", name, 100_000, &server.url(), &database, std::future::pending).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_do_so_while_their_tracked_connections_are_lost_again_and_again() {
    if let Some(number) = worker::role() {
        return Process::work(number.parse().unwrap()).await;
    }
    let (server, database) = (Server::builder().tcp().start(), Server::start());
    let proxy = Proxy::start(server.addr().unwrap()).await;
    let name = "they_do_so_while_their_tracked_connections_are_lost_again_and_again";
    let disturb = async || {
        tokio::time::sleep(Duration::from_millis(300)).await;
        proxy.only_tracked().drop_connections();
    };
    history("reconnecting", name, 50_000, &proxy.url(), &database, disturb).await;
}
