//! Commands under `lock run` while their server and their links fail: two are never alive at once.
//!
//! Each command takes an exclusive `flock` of a file, which the kernel frees only when the process is gone, and writes
//! a line if another has it. In each lane two holders contend for a lock of one server, each behind a proxy of its own,
//! so that one can be cut off while the other is not. Lanes run side by side: most of a fault is waiting.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use larder_testkit::{Direction, Proxy, Server, eventually};
use nix::fcntl::{Flock, FlockArg};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use crate::support::{LONG, on};

const FOLDER: &str = "WATCHED_FOLDER";
/// The shortest lease that these settings allow, so that a fault takes little time.
const SETTINGS: [&str; 9] = ["--timeout", "200ms", "lock", "run", "job", "--ttl", "3600ms", "--grace", "0s"];
/// Longer than the lease: a lock that was not renewed for so long has expired.
const BEYOND: Duration = Duration::from_millis(4800);

/// A command that notes when it begins, and when another is alive.
pub(crate) struct Watched(PathBuf);

impl Watched {
    pub(crate) fn new(folder: &Path) -> Self {
        for file in ["runs", "twos", "lock"] {
            File::create(folder.join(file)).unwrap();
        }
        Self(folder.to_owned())
    }

    fn words() -> [std::ffi::OsString; 4] {
        let this = std::env::current_exe().unwrap();
        [this.into(), "--exact".into(), "--nocapture".into(), "the_watched_command".into()]
    }

    /// The command under a `lock run` whose arguments end in `--`.
    pub(crate) fn under(&self, mut larder: Command) -> Command {
        larder.args(Self::words()).env(FOLDER, &self.0);
        larder
    }

    /// The command without a lock.
    pub(crate) fn alone(&self) -> Command {
        let [program, rest @ ..] = Self::words();
        let mut command = Command::new(program);
        command.args(rest).env(FOLDER, &self.0);
        command
    }

    pub(crate) fn runs(&self) -> PathBuf {
        self.0.join("runs")
    }

    pub(crate) fn begun(&self) -> usize {
        fs::read_to_string(self.runs()).unwrap().lines().count()
    }

    pub(crate) fn until_runs(&self, count: usize) {
        eventually("the command to begin", LONG, || (self.begun() >= count).then_some(()));
    }

    /// How often two were alive at once.
    pub(crate) fn twos(&self) -> usize {
        fs::read_to_string(self.0.join("twos")).unwrap().lines().count()
    }

    pub(crate) fn assert_never_two(&self) {
        assert_eq!(self.twos(), 0, "two commands were alive at once: {}", self.0.display());
    }
}

/// The command itself. Does nothing in a run of all tests.
pub(crate) fn watched() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let append = |file: &str| {
        let mut file = OpenOptions::new().append(true).open(folder.join(file)).unwrap();
        writeln!(file, "{}", std::process::id()).unwrap();
    };
    let file = File::open(folder.join("lock")).unwrap();
    let alone = Flock::lock(file, FlockArg::LockExclusiveNonblock);
    if alone.is_err() {
        append("twos");
    }
    append("runs");
    std::thread::sleep(Duration::from_secs(3600));
    drop(alone);
}

/// What fails, and for how long.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// SIGSTOP of the server beyond the lease, and SIGCONT.
    Stop,
    /// The same for a time that the lease outlives.
    Pause,
    /// The holder's link is cut beyond the lease: connections break, and new ones are refused.
    Cut,
    /// The holder's link is silent beyond the lease: its connections stay open, and nothing arrives.
    HalfOpen(Direction),
    /// All connections of the holder break once.
    Drop,
    /// `kill -9` of the server, which keeps its data, and a restart.
    Kill,
}

impl Fault {
    fn drawn(rng: &mut StdRng) -> Self {
        match rng.random_range(0..10) {
            0 | 1 => Self::Stop,
            2 => Self::Pause,
            3 | 4 => Self::Cut,
            5 => Self::HalfOpen(Direction::Both),
            6 => Self::HalfOpen(Direction::ToClient),
            7 => Self::Drop,
            _ => Self::Kill,
        }
    }
}

/// One of the two that contend for the lock.
struct Contender {
    proxy: Proxy,
    process: Option<std::process::Child>,
}

impl Contender {
    /// Starts `lock run` again if it has ended.
    fn keep_running(&mut self, watched: &Watched) {
        let ended = self.process.as_mut().is_none_or(|process| process.try_wait().unwrap().is_some());
        if ended {
            let mut command = on(&self.proxy.url());
            command.args(SETTINGS).arg("--");
            let mut command = watched.under(command);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            self.process = Some(command.spawn().unwrap());
        }
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Runs faults in one lane until `left` is used up.
async fn lane(seed: u64, left: &AtomicU64, counts: &Mutex<Vec<Fault>>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let watched = Watched::new(folder.path());
    // A restart must not lose the lock: that would be the hole which the help names.
    let server = Server::builder().tcp().persist().arg("appendfsync", "always").start();
    let mut contenders = Vec::new();
    for _ in 0..2 {
        let proxy = Proxy::start(server.addr().unwrap()).await;
        contenders.push(Contender { proxy, process: None });
    }
    while left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
        until_one_runs(&mut contenders, &watched).await;
        let fault = Fault::drawn(&mut rng);
        // Either the holder's link or that of the waiter: the harness does not know which is which, and does not care.
        let hit = rng.random_range(0..2);
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..1500))).await;
        match fault {
            Fault::Stop | Fault::Pause => {
                server.pause();
                let short = Duration::from_millis(rng.random_range(100..2000));
                let time = if matches!(fault, Fault::Stop) { BEYOND } else { short };
                stay(time, &mut contenders, &watched).await;
                server.resume();
            }
            Fault::Cut | Fault::HalfOpen(_) => {
                let proxy = &contenders[hit].proxy;
                match fault {
                    Fault::HalfOpen(direction) => proxy.silence(direction),
                    _ => proxy.cut(),
                };
                stay(BEYOND, &mut contenders, &watched).await;
                contenders[hit].proxy.restore();
            }
            Fault::Drop => {
                contenders[hit].proxy.drop_connections();
            }
            Fault::Kill => {
                server.kill();
                let time = Duration::from_millis(rng.random_range(0..5000));
                stay(time, &mut contenders, &watched).await;
                server.restart();
            }
        }
        assert_eq!(watched.twos(), 0, "seed {seed}, {fault:?}: two were alive at once");
        counts.lock().unwrap().push(fault);
    }
}

/// Waits while a fault lasts. A `lock run` that ends meanwhile is started again.
async fn stay(time: Duration, contenders: &mut [Contender], watched: &Watched) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        contenders.iter_mut().for_each(|contender| contender.keep_running(watched));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until a command holds the lock.
async fn until_one_runs(contenders: &mut [Contender], watched: &Watched) {
    let until = Instant::now() + LONG;
    loop {
        contenders.iter_mut().for_each(|contender| contender.keep_running(watched));
        let file = File::open(watched.0.join("lock")).unwrap();
        if Flock::lock(file, FlockArg::LockSharedNonblock).is_err() {
            return;
        }
        assert!(Instant::now() < until, "no command has the lock after {LONG:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// `cargo xtask faults --what lock-run` runs it.
#[test]
#[ignore = "minutes: cargo xtask faults --what lock-run"]
fn two_commands_are_never_alive_at_once_whatever_fails() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("LARDER_FAULTS_SEED").unwrap_or_else(|| rand::rng().next_u64());
    let faults = number("LARDER_TEST_FAULTS").unwrap_or(200);
    let lanes = number("LARDER_TEST_LANES").unwrap_or(6);
    println!("seed {seed}: {faults} faults in {lanes} lanes");
    let (left, counts) = (AtomicU64::new(faults), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..lanes)
            .map(|number| {
                let (left, counts) = (&left, &counts);
                scope.spawn(move || {
                    let runtime =
                        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
                    runtime.unwrap().block_on(lane(seed.wrapping_add(number), left, counts));
                })
            })
            .collect();
        lanes.into_iter().for_each(|lane| lane.join().unwrap());
    });
    let counts = counts.into_inner().unwrap();
    let mut kinds: Vec<String> = counts.iter().map(|fault| format!("{fault:?}")).collect();
    kinds.sort();
    for kind in kinds.chunk_by(|a, b| a == b) {
        println!("{:>5} {}", kind.len(), kind[0]);
    }
    println!("{:>5} faults, 0 times two commands alive at once", counts.len());
    assert_eq!(counts.len(), usize::try_from(faults).unwrap());
}
