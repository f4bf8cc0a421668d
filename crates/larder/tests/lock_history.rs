//! Locks under faults: worker processes, each behind a proxy of its own, on one server with persistence; what they believed, and
//! in which order they were served.
//!
//! Only who is live is promised its turn. Whatever may have kept a waiter from answering in time is noted as a fault: what is done
//! to it or to the server, with what comes after; that a process, the proxies or the server stood still for longer than
//! [`STALL`], which a machine with too much to do does by itself; and that a process does not reach the server.
//!
//! LARDER_FAULTS_SEED replays a schedule, LARDER_FAULTS_SECONDS makes it longer: `cargo xtask faults --minutes N`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeMap;
use std::env;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use larder::{ErrorKind, Guard, Larder, Lock};
use larder_testkit::history::{
    Fault, LineRecorder, LockRecorder, first_come_first_served, now, one_holder, read_line_notes, read_locks,
};
use larder_testkit::worker::{self, Worker};
use larder_testkit::{Direction, Proxy, Server};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

const TEST: &str = "held_intervals_never_overlap_whatever_fails";
const WORKERS: usize = 5;
const TTL: Duration = Duration::from_millis(300);
const LIMIT: Duration = Duration::from_secs(30);
/// Whoever stands still for longer may miss its turn: from a release to its confirmation, which must come within 250 ms, two
/// processes, the proxies and the server are asked six times.
const STALL: Duration = Duration::from_millis(40);
/// Until a process that stood still is heard of again.
const HEARD: Duration = Duration::from_millis(250);
/// Until a server that came back has all its clients back.
const RESTARTED: Duration = Duration::from_millis(1500);
/// Until a connection that broke unnoticed is found out and replaced.
const REPLACED: Duration = Duration::from_millis(2500);

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap()
}

/// What is noted when somebody was last seen at `last` and then now.
fn stall(process: Option<u32>, last: u64) -> Option<Fault> {
    let at = now();
    (at - last > nanos(STALL)).then(|| Fault { process, from: last, until: at + nanos(HEARD) })
}

/// Notes when the runtime that this runs in stands still.
async fn watch(line: Arc<LineRecorder>, process: Option<u32>) {
    loop {
        let last = now();
        tokio::time::sleep(Duration::from_millis(5)).await;
        if let Some(fault) = stall(process, last) {
            line.fault(fault).unwrap();
        }
    }
}

// ---- In a worker ----------------------------------------------------------------------------------------------------

fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    env::var(name).ok()?.parse().ok()
}

/// Notes when this process does not reach the server at once over the connection that keeps its places in line. After a fault of its
/// link that may last for seconds, while the other connection, on which attempts are made, is up again.
async fn watch_link(larder: Larder, line: Arc<LineRecorder>, process: u32) {
    loop {
        let last = now();
        tokio::time::sleep(Duration::from_millis(5)).await;
        let asked = tokio::time::timeout(STALL, larder.ping()).await;
        if !matches!(asked, Ok(Ok(()))) {
            line.fault(Fault { process: Some(process), from: last, until: now() + nanos(HEARD) }).unwrap();
        }
    }
}

tokio::task_local! {
    /// The attempt that is being polled.
    static ATTEMPT: u64;
}

/// Hears that an attempt stands in line.
struct Ear(Arc<LineRecorder>);

impl tracing::Subscriber for Ear {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::TRACE && metadata.target() == "larder::lock::attempt"
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        ATTEMPT.with(|number| self.0.in_line(*number).unwrap());
    }
}

fn work() {
    let folder: PathBuf = setting("FOLDER").unwrap();
    let (url, process, seed): (String, u32, u64) =
        (setting("SERVER").unwrap(), setting("PROCESS").unwrap(), setting("SEED").unwrap());
    let recorder = Arc::new(LockRecorder::create(&folder, process).unwrap());
    let line = Arc::new(LineRecorder::create(&folder, process).unwrap());
    tracing::subscriber::set_global_default(Ear(line.clone())).unwrap();
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
        tokio::spawn(watch(line.clone(), Some(process)));
        tokio::spawn(watch_link(larder.clone(), line.clone(), process));
        let next = Arc::new(AtomicU64::new(0));
        let tasks: Vec<_> = (0..3u64)
            .map(|task| {
                let rng = StdRng::seed_from_u64(seed ^ (task << 32));
                let attempts = Attempts { line: line.clone(), next: next.clone() };
                tokio::spawn(contend(larder.clone(), recorder.clone(), attempts, stop.clone(), rng))
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        larder.close().await.unwrap();
    });
    worker::send_line("done");
}

struct Attempts {
    line: Arc<LineRecorder>,
    next: Arc<AtomicU64>,
}

impl Attempts {
    /// Makes one, for `limit` at the most, and notes what becomes of it.
    async fn make(&self, lock: &Lock, patience: Duration, limit: Duration) -> Option<Guard> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.line.asked(number).unwrap();
        let asked = now();
        // Dropped when its end was noted.
        let mut call = pin!(ATTEMPT.scope(number, lock.acquire_within(patience)));
        let outcome = tokio::select! {
            outcome = &mut call => Some(outcome),
            () = tokio::time::sleep(limit) => None,
        };
        match outcome {
            Some(Ok(guard)) => {
                self.line.granted(number, guard.fence().get()).unwrap();
                return Some(guard);
            }
            // Its time began after that was noted; the two clocks may differ a little.
            Some(Err(error)) if error.kind() == ErrorKind::LockHeld => {
                let until = asked + nanos(patience.saturating_sub(Duration::from_millis(5)));
                self.line.gave_up(number, until).unwrap();
            }
            // When it found out is not known.
            Some(Err(_)) => self.line.gave_up(number, asked).unwrap(),
            None => self.line.gave_up(number, now()).unwrap(),
        }
        None
    }
}

async fn contend(
    larder: Larder,
    recorder: Arc<LockRecorder>,
    attempts: Attempts,
    stop: Arc<AtomicBool>,
    mut rng: StdRng,
) {
    let fixed = larder.lock("gate").ttl(TTL);
    let kept = fixed.clone().keep_alive();
    while !stop.load(Ordering::SeqCst) {
        let lock = if rng.random_bool(0.5) { &fixed } else { &kept };
        let patience = Duration::from_millis(rng.random_range(1..2000));
        let cancelled = Duration::from_micros(rng.random_range(100..200_000));
        let limit = if rng.random_bool(0.2) { cancelled } else { LIMIT };
        let Some(guard) = attempts.make(lock, patience, limit).await else { continue };
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
    process: u32,
    proxy: Proxy,
}

/// Starts workers, each with a number and draws of its own.
struct Starter {
    folder: PathBuf,
    next: u32,
}

impl Starter {
    fn start(&mut self, url: &str, seed: u64) -> (Worker, u32) {
        self.next += 1;
        let (number, seed) = (self.next.to_string(), seed.to_string());
        let folder = self.folder.to_str().unwrap();
        let envs = [("FOLDER", folder), ("SERVER", url), ("PROCESS", &number), ("SEED", &seed)];
        (Worker::spawn(TEST, "contender", &envs), self.next)
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

/// Brings about one fault, and ends it: whom it concerned, and how long after its end.
fn strike(
    fault: &str,
    contender: &mut Contender,
    server: &Server,
    starter: &mut Starter,
    rng: &mut StdRng,
) -> Option<(Option<u32>, Duration)> {
    let Contender { worker, process, proxy } = contender;
    let mut concerned = Some((Some(*process), REPLACED));
    match fault {
        "worker stopped" => {
            worker.stop();
            pause(rng, 100, 700);
            worker.resume();
        }
        "worker killed" => {
            worker.kill();
            (*worker, *process) = starter.start(&proxy.url(), rng.next_u64());
            // For good.
            concerned = concerned.map(|(process, _)| (process, Duration::from_secs(24 * 3600)));
        }
        "server stopped" => {
            concerned = Some((None, RESTARTED));
            server.pause();
            pause(rng, 100, 700);
            server.resume();
        }
        "server killed" => {
            concerned = Some((None, RESTARTED));
            server.kill();
            pause(rng, 1, 300);
            server.restart();
        }
        "scripts flushed" => {
            // Costs a round trip, and nobody its turn.
            concerned = None;
            drop(server.try_query::<String>(&["SCRIPT", "FLUSH"]));
        }
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
    concerned
}

/// Asks the server again and again, and notes when it does not answer at once.
fn watch_server(server: &Server, line: &LineRecorder, done: &AtomicBool) {
    let mut connection = None;
    while !done.load(Ordering::SeqCst) {
        let last = now();
        std::thread::sleep(Duration::from_millis(5));
        let stream = connection.get_or_insert_with(|| TcpStream::connect(server.addr().unwrap()).ok());
        let pong = stream.as_mut().map(|stream| {
            let mut answer = [0; 7];
            stream.write_all(b"PING\r\n").and_then(|()| stream.read_exact(&mut answer))
        });
        if !matches!(pong, Some(Ok(()))) {
            connection = None;
        }
        if let Some(fault) = stall(None, last) {
            line.fault(fault).unwrap();
        }
    }
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
    let line = Arc::new(LineRecorder::create(folder.path(), 0).unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut starter = Starter { folder: folder.path().to_owned(), next: 0 };
    let mut contenders: Vec<Contender> = (0..WORKERS)
        .map(|_| {
            let proxy = runtime.block_on(Proxy::start(server.addr().unwrap()));
            let (worker, process) = starter.start(&proxy.url(), rng.next_u64());
            Contender { worker, process, proxy }
        })
        .collect();
    for contender in &contenders {
        assert_eq!(contender.worker.read_line(LIMIT).unwrap(), "ready");
    }

    let mut faults: BTreeMap<&str, u32> = BTreeMap::new();
    let end = Instant::now() + Duration::from_secs(seconds);
    // The proxies' thread.
    runtime.spawn(watch(line.clone(), None));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| watch_server(&server, &line, &done));
        while Instant::now() < end {
            let fault = FAULTS[rng.random_range(0..FAULTS.len())];
            *faults.entry(fault).or_default() += 1;
            let struck = rng.random_range(0..contenders.len());
            let from = now();
            let concerned = strike(fault, &mut contenders[struck], &server, &mut starter, &mut rng);
            if let Some((process, after)) = concerned {
                line.fault(Fault { process, from, until: now() + nanos(after) }).unwrap();
            }
        }
        done.store(true, Ordering::SeqCst);
    });
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
    let (attempts, struck_at) = read_line_notes(folder.path()).unwrap();
    let order = first_come_first_served(&attempts, &struck_at);
    let overtaken = order.as_ref().map_or_else(Vec::len, |_| 0);
    println!("{} acquisitions, {struck} faults {faults:?}, {violations} violations", grants.len());
    println!(
        "{} pairs of a live waiter and one that came after it, {overtaken} overtaken; {} times somebody stood still",
        order.as_ref().map_or_else(|_| 0, |judged| *judged),
        struck_at.len() - usize::try_from(struck).unwrap().min(struck_at.len())
    );
    assert!(verdict.is_ok(), "seed {seed}: {}", verdict.unwrap_err()[0]);
    assert!(order.is_ok(), "seed {seed}: {}", order.unwrap_err()[0]);
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
