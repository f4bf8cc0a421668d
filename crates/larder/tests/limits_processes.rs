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

use larder::limit::RateLimiter;
use larder_testkit::history::now;
use larder_testkit::worker::{self, Worker};
use larder_testkit::{Direction, Proxy, Server};
use support::{cluster, connect_as, server, until};

const PROCESSES: usize = 4;
const TASKS: usize = 9;
const WINDOW: Duration = Duration::from_millis(900);
const SPAN: Duration = Duration::from_secs(5);
/// With and without batches.
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
            let (limit, batched) = LIMITS[task % LIMITS.len()];
            let limiter = larder.rate_limiter(format!("limit-{limit}"), Quota::new(limit, WINDOW)).unwrap();
            let limiter = if batched { limiter.batched(10).unwrap() } else { limiter };
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
    for (limit, batched) in LIMITS {
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
        // Some batches end unspent, and spent permits count from the end of their batch.
        let least = if batched { limit * windows / 3 } else { limit * (windows - 1) };
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

/// How far apart two uses must be where one is admitted in each of these.
const TURN: Duration = Duration::from_secs(4);
const LONG: Duration = Duration::from_secs(60);

/// A worker that waits for one turn and tells when it has used it.
fn wait_for_a_turn(url: &str) {
    let timeout = Duration::from_millis(std::env::var("LIMITED_TIMEOUT").unwrap().parse().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let builder = Larder::builder().url(url).namespace("stopped").response_timeout(timeout);
        let larder = builder.connect_timeout(LONG).connect().await.unwrap();
        let limiter = larder.rate_limiter("turns", Quota::new(1, TURN)).unwrap();
        worker::send_line("ready");
        tokio::task::spawn_blocking(worker::read_line).await.unwrap();
        // A request whose answer does not come in time is sent again.
        while !limiter.acquire("key", LONG).await.is_ok_and(|decision| decision.is_allowed()) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        worker::send_line(&server_time().to_string());
    });
}

/// How long a caller that asks now would wait.
async fn wait_now(limiter: &RateLimiter) -> Duration {
    // It asks the store, whatever is known here.
    let refused = limiter.acquire("key", Duration::ZERO).await.unwrap();
    refused.retry_after().unwrap_or_default()
}

/// A worker books a turn and is stopped until the turn is over, before or after the reply has arrived. Meanwhile the
/// next turn is booked here.
async fn stopped_beyond_its_turn(test: &'static str, answered: bool, timeout: &str) {
    let server = Server::builder().tcp().start();
    let proxy = Proxy::start(server.addr().unwrap()).await;
    let (here, eye) =
        (connect_as(&server.url(), "stopped").await, connect_as(&server.url(), "stopped").await);
    let limiter = |larder: &Larder| larder.rate_limiter("turns", Quota::new(1, TURN)).unwrap();
    let (here, eye) = (limiter(&here), limiter(&eye));
    let url = proxy.url();
    let worker = Worker::spawn(test, "wait", &[("LIMITED_URL", &*url), ("LIMITED_TIMEOUT", timeout)]);
    assert_eq!(worker.read_line(LONG).unwrap(), "ready");
    let mut uses = Vec::new();
    assert!(here.acquire("key", LONG).await.unwrap().is_allowed());
    uses.push(server_time());
    let first = Instant::now();
    if !answered {
        proxy.silence(Direction::ToClient);
    }
    worker.send_line("go").unwrap();
    until("the worker has booked a turn", async || first.elapsed() + wait_now(&eye).await > TURN + TURN / 2)
        .await;
    worker.stop();
    // What it was answered is there as soon as it goes on.
    proxy.restore();
    tokio::time::sleep((TURN + TURN / 50).saturating_sub(first.elapsed())).await;
    let second = tokio::spawn(async move { here.acquire("key", LONG).await.map(|_| server_time()) });
    until("the next turn is booked", async || wait_now(&eye).await > TURN + TURN / 4).await;
    tokio::time::sleep((TURN + TURN / 4).saturating_sub(first.elapsed())).await;
    worker.resume();
    uses.push(second.await.unwrap().unwrap());
    uses.push(worker.read_line(LONG).unwrap().parse().unwrap());
    uses.sort_unstable();
    // Each use is noted a moment after it: by far less than half a window, as a rule.
    let apart = uses.windows(2).map(|two| Duration::from_micros(two[1] - two[0])).min().unwrap();
    assert!(apart > TURN / 2, "two turns of a limit of one in {TURN:?} were used {apart:?} apart");
    assert!(worker.wait(LONG).unwrap().success(), "{}", worker.log());
}

/// Runs the worker's part, or the test's.
fn stops(test: &'static str, answered: bool, timeout: &str) {
    if worker::role().is_some() {
        return wait_for_a_turn(&std::env::var("LIMITED_URL").unwrap());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(stopped_beyond_its_turn(test, answered, timeout));
}

#[test]
fn a_process_that_is_stopped_while_it_waits_does_not_use_its_turn_late() {
    stops("a_process_that_is_stopped_while_it_waits_does_not_use_its_turn_late", true, "30000");
}

#[test]
fn a_turn_whose_answer_arrives_late_is_not_used_late() {
    stops("a_turn_whose_answer_arrives_late_is_not_used_late", false, "30000");
}

#[test]
fn a_turn_whose_answer_arrives_after_the_response_timeout_is_not_used() {
    stops("a_turn_whose_answer_arrives_after_the_response_timeout_is_not_used", false, "1000");
}
