//! Several processes, one limit, the server's own clock: no window holds more than the limit.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::time::{Duration, Instant};

use larder::{Larder, Quota};
use larder_testkit::history::now;
use larder_testkit::worker::{self, Worker};
use support::{cluster, server};

const PROCESSES: usize = 4;
const TASKS: usize = 8;
const WINDOW: Duration = Duration::from_millis(900);
const SPAN: Duration = Duration::from_secs(5);
const LIMITS: [u64; 2] = [7, 100];

/// A worker: asks as fast as it can, and tells when each admitted call was sent and answered.
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
        let mut tasks = Vec::new();
        for task in 0..TASKS {
            let limit = LIMITS[task % LIMITS.len()];
            let limiter = larder.rate_limiter(&format!("limit-{limit}"), Quota::new(limit, WINDOW)).unwrap();
            tasks.push(tokio::spawn(async move {
                let end = Instant::now() + SPAN;
                let mut admitted = Vec::new();
                while Instant::now() < end {
                    let sent = now();
                    if limiter.allow("key").await.unwrap() {
                        admitted.push((limit, sent, now()));
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

/// What all processes were admitted, as (limit, sent, answered).
fn admitted(test: &str, url: &str) -> Vec<(u64, u64, u64)> {
    let workers: Vec<Worker> =
        (0..PROCESSES).map(|_| Worker::spawn(test, "ask", &[("LIMITED_URL", url)])).collect();
    let mut all = Vec::new();
    for worker in &workers {
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

/// The server decided between the two moments that its caller saw. So what was sent and answered within a window's length
/// was decided within one, and must not be more than the limit.
fn check(all: &[(u64, u64, u64)]) {
    let window = u64::try_from(WINDOW.as_nanos()).unwrap();
    for limit in LIMITS {
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
        // And the limit is there to be used.
        let windows = SPAN.as_nanos() as u64 / window;
        assert!(own.len() as u64 >= limit * (windows - 1), "only {} of {limit} a window", own.len());
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
