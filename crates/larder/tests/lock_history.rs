//! Locks under faults: worker processes, each behind a proxy of its own, on one server with persistence; and what they believed.
//!
//! LARDER_FAULTS_SEED replays a schedule, LARDER_FAULTS_SECONDS makes it longer: `cargo xtask faults --minutes N`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use larder::Larder;
use larder_testkit::history::{LockRecorder, one_holder, read_locks};
use larder_testkit::worker::{self, Worker};
use larder_testkit::{Direction, Proxy, Server};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

const TEST: &str = "held_intervals_never_overlap_whatever_fails";
const WORKERS: usize = 5;
const TTL: Duration = Duration::from_millis(300);
const LIMIT: Duration = Duration::from_secs(30);

// ---- In a worker ----------------------------------------------------------------------------------------------------

fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    env::var(name).ok()?.parse().ok()
}

fn work() {
    let folder: PathBuf = setting("FOLDER").unwrap();
    let (url, process, seed): (String, u32, u64) =
        (setting("SERVER").unwrap(), setting("PROCESS").unwrap(), setting("SEED").unwrap());
    let recorder = Arc::new(LockRecorder::create(&folder, process).unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    std::thread::spawn({
        let stop = stop.clone();
        move || {
            drop(worker::read_line());
            stop.store(true, Ordering::SeqCst);
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let larder = loop {
            let builder = Larder::builder().url(&url).response_timeout(Duration::from_millis(400));
            match builder.connect().await {
                Ok(larder) => break larder,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        worker::send_line("ready");
        let tasks: Vec<_> = (0..3u64)
            .map(|task| {
                let rng = StdRng::seed_from_u64(seed ^ (task << 32));
                tokio::spawn(contend(larder.clone(), recorder.clone(), stop.clone(), rng))
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        larder.close().await.unwrap();
    });
    worker::send_line("done");
}

async fn contend(larder: Larder, recorder: Arc<LockRecorder>, stop: Arc<AtomicBool>, mut rng: StdRng) {
    let fixed = larder.lock("gate").ttl(TTL);
    let kept = fixed.clone().keep_alive();
    while !stop.load(Ordering::SeqCst) {
        let lock = if rng.random_bool(0.5) { &fixed } else { &kept };
        let patience = Duration::from_millis(rng.random_range(1..2000));
        let cancelled = Duration::from_micros(rng.random_range(100..200_000));
        let limit = if rng.random_bool(0.2) { cancelled } else { LIMIT };
        let Ok(Ok(guard)) = tokio::time::timeout(limit, lock.acquire_within(patience)).await else {
            continue;
        };
        let fence = guard.fence().get();
        // Now and then for longer than the lock's time.
        let hold =
            Duration::from_micros(if rng.random_bool(0.01) { 500_000 } else { rng.random_range(0..4000) });
        let end = Instant::now() + hold;
        loop {
            let at = LockRecorder::now();
            if !guard.is_valid() {
                break;
            }
            recorder.believed(fence, at).unwrap();
            if Instant::now() >= end {
                break;
            }
            if rng.random_bool(0.02) {
                let _ = guard.extend(TTL).await;
            }
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        if rng.random_bool(0.7) {
            let _ = guard.release().await;
        }
    }
}

// ---- In the parent --------------------------------------------------------------------------------------------------

struct Contender {
    worker: Worker,
    proxy: Proxy,
}

/// Starts workers, each with a number and draws of its own.
struct Starter {
    folder: PathBuf,
    next: u32,
}

impl Starter {
    fn start(&mut self, url: &str, seed: u64) -> Worker {
        self.next += 1;
        let (number, seed) = (self.next.to_string(), seed.to_string());
        let folder = self.folder.to_str().unwrap();
        let envs = [("FOLDER", folder), ("SERVER", url), ("PROCESS", &number), ("SEED", &seed)];
        Worker::spawn(TEST, "contender", &envs)
    }
}

const FAULTS: [&str; 12] = [
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

fn pause(rng: &mut StdRng, from: u64, to: u64) {
    std::thread::sleep(Duration::from_millis(rng.random_range(from..to)));
}

/// Brings about one fault, and ends it.
fn strike(fault: &str, contender: &mut Contender, server: &Server, starter: &mut Starter, rng: &mut StdRng) {
    let Contender { worker, proxy } = contender;
    match fault {
        "worker stopped" => {
            worker.stop();
            pause(rng, 100, 700);
            worker.resume();
        }
        "worker killed" => {
            worker.kill();
            *worker = starter.start(&proxy.url(), rng.next_u64());
        }
        "server stopped" => {
            server.pause();
            pause(rng, 100, 700);
            server.resume();
        }
        "server killed" => {
            server.kill();
            pause(rng, 1, 300);
            server.restart();
        }
        "scripts flushed" => drop(server.try_query::<String>(&["SCRIPT", "FLUSH"])),
        "link cut" => drop(proxy.cut()),
        "links dropped" => drop(proxy.drop_connections()),
        "half open" => drop(proxy.silence(Direction::Both)),
        "replies lost" => drop(proxy.only_untracked().swallow(Direction::ToClient)),
        "pushes lost" => drop(proxy.only_tracked().swallow(Direction::ToClient)),
        "pushes late" => drop(
            proxy.only_tracked().delay(Direction::ToClient, Duration::from_millis(rng.random_range(50..600))),
        ),
        _ => drop(proxy.delay(Direction::ToServer, Duration::from_millis(rng.random_range(50..400)))),
    }
    pause(rng, 50, 600);
    proxy.restore();
}

#[test]
fn held_intervals_never_overlap_whatever_fails() {
    if worker::role().is_some() {
        return work();
    }
    let seed = setting("LARDER_FAULTS_SEED").unwrap_or_else(|| rand::rng().next_u64());
    let seconds: u64 = setting("LARDER_FAULTS_SECONDS").unwrap_or(15);
    println!("LARDER_FAULTS_SEED={seed} LARDER_FAULTS_SECONDS={seconds}");
    let mut rng = StdRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let server = Server::builder().tcp().persist().start();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut starter = Starter { folder: folder.path().to_owned(), next: 0 };
    let mut contenders: Vec<Contender> = (0..WORKERS)
        .map(|_| {
            let proxy = runtime.block_on(Proxy::start(server.addr().unwrap()));
            let worker = starter.start(&proxy.url(), rng.next_u64());
            Contender { worker, proxy }
        })
        .collect();
    for contender in &contenders {
        assert_eq!(contender.worker.read_line(LIMIT).unwrap(), "ready");
    }

    let mut faults: BTreeMap<&str, u32> = BTreeMap::new();
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        let fault = FAULTS[rng.random_range(0..FAULTS.len())];
        *faults.entry(fault).or_default() += 1;
        let struck = rng.random_range(0..contenders.len());
        strike(fault, &mut contenders[struck], &server, &mut starter, &mut rng);
    }
    for contender in &contenders {
        contender.worker.send_line("stop").unwrap();
    }
    for Contender { worker, .. } in &contenders {
        while worker.read_line(LIMIT).unwrap() != "done" {}
        assert!(worker.wait(LIMIT).unwrap().success(), "{}", worker.log());
    }

    let grants = read_locks(folder.path()).unwrap();
    let verdict = one_holder(&grants);
    let violations = verdict.as_ref().map_or_else(Vec::len, |_| 0);
    let struck: u32 = faults.values().sum();
    println!("{} acquisitions, {struck} faults {faults:?}, {violations} violations", grants.len());
    assert!(verdict.is_ok(), "seed {seed}: {}", verdict.unwrap_err()[0]);
    assert!(grants.len() > 50, "seed {seed}: {} acquisitions prove little", grants.len());
    nothing_stays(&server);
}

/// The lock is free, and what is left is only remembered, for a while.
fn nothing_stays(server: &Server) {
    larder_testkit::eventually("the lock, its line and its claims are gone", LIMIT, || {
        let left: Vec<String> = server.query(&["KEYS", "~lock*"]);
        left.iter().all(|name| name.ends_with(":fence") || name.contains(":wake:")).then_some(())
    });
    for name in server.query::<Vec<String>>(&["KEYS", "~lock*"]) {
        assert_ne!(server.query::<i64>(&["PTTL", &name]), -1, "{name} has no end");
    }
}
