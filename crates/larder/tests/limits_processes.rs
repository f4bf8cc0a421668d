//! Several processes with wrong clocks, one limit, and the server's clock: no window admits more than the limit.
//!
//! The server's clock is this machine's wall clock, which all processes share. The clocks that larder reads itself
//! differ between the processes if a time namespace can be created. Clocks that run at different *rates* are in
//! src/limit/skewed.rs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::io::Write;
use std::time::{Duration, Instant, SystemTime};

use larder::{Larder, Quota};
use larder_testkit::history::now;
use larder_testkit::worker::{self, Worker};
use support::{cluster, server};

const PROCESSES: usize = 4;
const TASKS: usize = 9;
const WINDOW: Duration = Duration::from_millis(900);
const SPAN: Duration = Duration::from_secs(5);
/// With and without leases.
const LIMITS: [(u64, bool); 3] = [(7, false), (100, false), (60, true)];
/// How many seconds the clocks of the processes are ahead. This machine may not have run for long, so none goes back by
/// more.
const AHEAD: [i64; PROCESSES] = [0, 600, 86_400, -20];

/// Reads the server's clock, in microseconds.
fn server_time() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    u64::try_from(since.as_micros()).unwrap()
}

/// A worker: sends calls as fast as it can, and prints when each admitted call was sent and answered.
fn work(url: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let larder = Larder::builder()
            .url(url)
            .namespace("processes")
            .response_timeout(Duration::from_secs(10))
            .connect()
            .await
            .unwrap();
        worker::send_line(&now().to_string());
        let mut tasks = Vec::new();
        for task in 0..TASKS {
            let (limit, leased) = LIMITS[task % LIMITS.len()];
            let limiter = larder.rate_limiter(&format!("limit-{limit}"), Quota::new(limit, WINDOW)).unwrap();
            let limiter = if leased { limiter.leased(10).unwrap() } else { limiter };
            tasks.push(tokio::spawn(async move {
                let end = Instant::now() + SPAN;
                let mut admitted = Vec::new();
                while Instant::now() < end {
                    let sent = server_time();
                    if limiter.allow("key").await.unwrap() {
                        admitted.push((limit, sent, server_time()));
                    } else {
                        tokio::task::yield_now().await;
                    }
                }
                admitted
            }));
        }
        for task in tasks {
            for (limit, sent, answered) in task.await.unwrap() {
                worker::send_line(&format!("{limit} {sent} {answered}"));
            }
        }
        worker::send_line("done");
    });
}

/// All calls that the processes were admitted, as (limit, sent, answered).
fn admitted(test: &str, url: &str) -> Vec<(u64, u64, u64)> {
    let envs = [("LIMITED_URL", url)];
    let spawn = |ahead: i64| match Worker::spawn_ahead(test, "ask", &envs, ahead) {
        Some(worker) => (ahead, worker),
        None => {
            // Printed past the capture of test output.
            let told = format!("{test}: NOT SKEWED by {ahead} s: no time namespace may be made here\n");
            std::io::stderr().write_all(told.as_bytes()).unwrap();
            (0, Worker::spawn(test, "ask", &envs))
        }
    };
    let workers: Vec<(i64, Worker)> = AHEAD.into_iter().map(spawn).collect();
    let mut all = Vec::new();
    for (ahead, worker) in &workers {
        // The clocks do differ: both processes read their clocks within the time waited here.
        let theirs: u64 = worker.read_line(Duration::from_secs(60)).unwrap().parse().unwrap();
        let found = (i128::from(theirs) - i128::from(now())) / 1_000_000_000;
        assert!((i128::from(*ahead) - 60..=i128::from(*ahead)).contains(&found), "{found} s, not {ahead}");
        loop {
            let line = worker.read_line(Duration::from_secs(60)).unwrap();
            if line == "done" {
                break;
            }
            let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().unwrap()).collect();
            all.push((numbers[0], numbers[1], numbers[2]));
        }
        assert!(worker.wait(Duration::from_secs(20)).unwrap().success(), "{}", worker.log());
    }
    all
}

/// The server decided between the two moments that the caller recorded. So the calls that were sent and answered within
/// a window's length were decided within one window, and there must be no more of them than the limit.
fn check(all: &[(u64, u64, u64)]) {
    let window = u64::try_from(WINDOW.as_micros()).unwrap();
    for (limit, leased) in LIMITS {
        let mut own: Vec<(u64, u64)> = all
            .iter()
            .filter(|(of, ..)| *of == limit)
            .map(|(_, sent, answered)| (*sent, *answered))
            .collect();
        own.sort_unstable();
        let most = (0..own.len())
            .map(|first| {
                let end = own[first].0 + window;
                let within = own[first..].iter().take_while(|(sent, _)| *sent < end);
                within.filter(|(_, answered)| *answered < end).count()
            })
            .max()
            .unwrap_or_default();
        println!("limit {limit}: {} admitted in {SPAN:?}, {most} at most within {WINDOW:?}", own.len());
        assert!(most as u64 <= limit, "{most} admitted within one window of a limit of {limit}");
        // And the whole limit can be used.
        let windows = SPAN.as_micros() as u64 / window;
        // Some leases end unspent, and spent permits count from the end of their lease.
        let least = if leased { limit * windows / 3 } else { limit * (windows - 1) };
        assert!(own.len() as u64 >= least, "only {} of {limit} a window", own.len());
    }
}

#[test]
fn several_processes_on_one_server_never_pass_the_limit_in_any_window() {
    if worker::role().is_some() {
        return work(&std::env::var("LIMITED_URL").unwrap());
    }
    let test = "several_processes_on_one_server_never_pass_the_limit_in_any_window";
    check(&admitted(test, &server().url()));
}

#[test]
fn several_processes_on_a_cluster_never_pass_the_limit_in_any_window() {
    if worker::role().is_some() {
        return work(&std::env::var("LIMITED_URL").unwrap());
    }
    let test = "several_processes_on_a_cluster_never_pass_the_limit_in_any_window";
    check(&admitted(test, &cluster().url()));
}
