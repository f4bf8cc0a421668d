//! A job in eight processes that are killed, stopped and replaced: each period is completed, and none twice.
//!
//! Each period has faults only once, so that the condition of the guarantee holds in every period: for half of it a
//! process is connected and no dead holder's lease is in force. `cargo xtask faults` injects faults of all kinds at
//! once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use larder::lock::JobRun;
use larder_testkit::Server;
use larder_testkit::worker::{self, Worker};

const PROCESSES: usize = 8;
const EVERY: Duration = Duration::from_secs(2);
const TTL: Duration = Duration::from_millis(500);
const LONG: Duration = Duration::from_secs(20);
const TEST: &str = "each_period_is_completed_and_none_twice_while_processes_are_killed_and_stopped";

/// A random number generator: the same numbers from the same seed.
struct Draw(u64);

impl Draw {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// A worker: calls the job over and over, and prints the periods that it completed.
async fn work(url: &str, seed: u64) {
    let mut draw = Draw(seed);
    let larder = support::connect_as(url, "jobs").await;
    let job = larder.job("tick").every(EVERY).tolerance(Duration::ZERO).ttl(TTL);
    let job = job.attempts(1_000).backoff(Duration::from_millis(20));
    loop {
        let (lasts, fails) = (Duration::from_millis(draw.below(200)), draw.below(8) == 0);
        let run = job.run(async |lease| {
            tokio::time::sleep(lasts).await;
            let granted = Duration::from_micros(lease.fence().get());
            if fails { Err(()) } else { Ok(granted.as_millis() / EVERY.as_millis()) }
        });
        if let Ok(JobRun::Ran(Ok(period))) = run.await {
            worker::send_line(&period.to_string());
        }
        tokio::time::sleep(Duration::from_millis(10 + draw.below(20))).await;
    }
}

/// The periods that the server's record reported as completed.
struct Completed {
    periods: Arc<Mutex<BTreeSet<u64>>>,
    stop: Arc<AtomicBool>,
}

impl Completed {
    fn watch(server: &Arc<Server>) -> Self {
        let (periods, stop) = (Arc::<Mutex<BTreeSet<u64>>>::default(), Arc::<AtomicBool>::default());
        let (server, seen, stopped) = (server.clone(), periods.clone(), stop.clone());
        std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                let done: Option<u64> = server.query(&["HGET", "~job.1:{jobs/tick}:run", "done"]);
                seen.lock().unwrap().extend(done);
                std::thread::sleep(EVERY / 100);
            }
        });
        Self { periods, stop }
    }

    fn so_far(&self) -> BTreeSet<u64> {
        self.periods.lock().unwrap().clone()
    }
}

impl Drop for Completed {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// Sleeps until the next period of the server's clock, which is this machine's clock, and `part` longer.
async fn next_period_and(part: Duration) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let into = Duration::from_millis(u64::try_from(now.as_millis() % EVERY.as_millis()).unwrap());
    tokio::time::sleep(EVERY - into + part).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_period_is_completed_and_none_twice_while_processes_are_killed_and_stopped() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(role) = worker::role() {
        return work(&std::env::var("JOBS_URL").unwrap(), role.parse().unwrap()).await;
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = number("LARDER_FAULTS_SEED").unwrap_or(u64::from(since.subsec_nanos()));
    let periods = number("LARDER_TEST_PERIODS").unwrap_or(8);
    let mut draw = Draw(seed);
    let server = Arc::new(Server::builder().tcp().start());
    let url = server.url();
    let mut spawned = 0;
    let mut spawn = || {
        spawned += 1;
        Worker::spawn(TEST, &(seed + spawned).to_string(), &[("JOBS_URL", &url)])
    };
    let mut workers: Vec<Worker> = (0..PROCESSES).map(|_| spawn()).collect();
    let mut told: BTreeMap<u64, usize> = BTreeMap::new();
    let mut hear = |worker: &Worker| {
        while let Ok(line) = worker.read_line(Duration::ZERO) {
            *told.entry(line.parse().unwrap()).or_default() += 1;
        }
    };
    let completed = Completed::watch(&server);
    support::until("the first period is completed", async || !completed.so_far().is_empty()).await;
    let (mut kills, mut stops) = (0, 0);
    for _ in 0..periods {
        next_period_and(Duration::from_millis(draw.below(400))).await;
        // Half of the processes, one of which may hold the run. The others have the rest of the period once its lease
        // has expired.
        let struck: BTreeSet<usize> = (0..4).map(|_| usize::try_from(draw.below(8)).unwrap()).collect();
        for at in struck {
            hear(&workers[at]);
            if draw.below(2) == 0 {
                kills += 1;
                workers[at].kill();
                hear(&workers[at]);
                workers[at] = spawn();
            } else {
                stops += 1;
                workers[at].stop();
            }
        }
        // Longer than a lease, so that a process that resumes then has lost its run.
        tokio::time::sleep(TTL + Duration::from_millis(200 + draw.below(400))).await;
        workers.iter().for_each(Worker::resume);
    }
    next_period_and(EVERY).await;
    workers.iter().for_each(Worker::kill);
    for worker in &workers {
        let _ = worker.wait(LONG);
        hear(worker);
    }
    let mut done = completed.so_far();
    // A period that a worker reported is completed, even if the watcher did not read the record in time.
    done.extend(told.keys());
    let (first, last) = (*done.first().unwrap(), *done.last().unwrap());
    let skipped: Vec<u64> = (first..last).filter(|period| !done.contains(period)).collect();
    let twice: Vec<_> = told.iter().filter(|(_, times)| **times > 1).collect();
    println!(
        "seed {seed}: {} periods, {kills} kills, {stops} stops: {} completed twice, {} skipped",
        last - first,
        twice.len(),
        skipped.len()
    );
    assert!(twice.is_empty(), "seed {seed}: completed twice: {twice:?}");
    assert!(skipped.is_empty(), "seed {seed}: skipped: {skipped:?} of {first} to {last}");
    assert!(last - first >= periods, "seed {seed}: {first} to {last}");
}
