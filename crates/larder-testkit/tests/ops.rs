//! ops/ against a real Prometheus: the rules' own tests, and the dashboard and the alerts through an outage, a failover
//! and an eviction storm.
//!
//! Ignored unless asked for, because few machines have Prometheus. `cargo xtask test` fetches Debian's package if it
//! can, and runs the rules' own tests. By hand:
//!
//! ```sh
//! xtask/prometheus.sh target/tools
//! export LARDER_TEST_PROMETHEUS=$PWD/target/tools
//! cargo test --all-features --workspace --exclude larder-bench --test ops -- --ignored
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

// In a folder, so that they are no test programs of their own.
#[path = "support/prometheus.rs"]
mod prometheus;
#[path = "support/running.rs"]
mod running;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use larder_testkit::{Sentinel, Server, eventually};
use prometheus::{Prometheus, program};
use running::Service;

const LIMIT: Duration = Duration::from_secs(60);

fn ops() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ops")
}

#[test]
#[ignore = "needs promtool: cargo xtask test runs it"]
fn promtool_accepts_the_rules_and_each_alert_fires_and_clears() {
    for arguments in [["check", "rules", "larder.rules.yml"], ["test", "rules", "larder.tests.yml"]] {
        let mut promtool = Command::new(program("promtool"));
        let output = promtool.args(arguments).current_dir(ops().join("prometheus")).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

/// Asks the service for products until `done`: four clients at a time, none of them above its limit.
fn drive(service: &Service, done: &AtomicBool) {
    thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                let mut request = 0;
                while !done.load(Ordering::Relaxed) {
                    request += 1;
                    let client = format!("192.0.{thread}.{}", request % 250);
                    let id = (request * 7 + thread) % 200;
                    let _ = service.get(&format!("/products/{id}"), &client);
                    if request % 10 == 0 {
                        let _ = service.send("POST", "/products/7?cents=650", &client);
                    }
                    thread::sleep(Duration::from_millis(40));
                }
            });
        }
    });
}

/// Writes large values under other names, so that a server at its `maxmemory` evicts, until `done`.
fn crowd_out(server: &Server, done: &AtomicBool) {
    let value = "x".repeat(100_000);
    for number in 0_u64.. {
        if done.load(Ordering::Relaxed) {
            return;
        }
        let _ = server.try_query::<()>(&["SET", &format!("crowd:{number}"), &value]);
        thread::sleep(Duration::from_millis(2));
    }
}

fn start(url: &str) -> Service {
    Service::start(&[
        ("LARDER_URL", url),
        ("TRUSTED_PROXIES", "127.0.0.0/8"),
        ("PER_MINUTE", "100000"),
        ("JOB_EVERY_MS", "250"),
        ("NEAR_BYTES", "1048576"),
    ])
}

#[test]
#[ignore = "needs prometheus and a minute: run it by hand"]
fn every_panel_has_data_and_the_right_alerts_fire_and_clear() {
    let server = Server::builder().tcp().start();
    // A limit that is never reached makes it a server that evicts.
    server.command(&["CONFIG", "SET", "maxmemory", "1gb"]);
    server.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-random"]);
    let group = Sentinel::start();
    let (single, failing_over) = (start(&server.url()), start(&group.url()));
    let prometheus =
        Prometheus::start(&ops(), &[("single", single.address), ("sentinel", failing_over.address)]);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let stop = prometheus::OnDrop(|| done.store(true, Ordering::Relaxed));
        scope.spawn(|| drive(&single, &done));
        scope.spawn(|| drive(&failing_over, &done));
        watch(&prometheus, &server, &group, &single);
        drop(stop);
    });
}

/// Waits until exactly these alerts of the job are among those that fire, of those that are named at all.
fn wait_for(prometheus: &Prometheus, job: &str, firing: &[&str], quiet: &[&str]) {
    let what = format!("{job}: {firing:?} fire and {quiet:?} do not");
    let mut last = BTreeSet::new();
    let limit = std::time::Instant::now() + LIMIT;
    loop {
        let now = prometheus.firing(job);
        if firing.iter().all(|alert| now.contains(*alert)) && !quiet.iter().any(|alert| now.contains(*alert))
        {
            return;
        }
        assert!(std::time::Instant::now() < limit, "waited {LIMIT:?} in vain: {what}; it was {last:?}");
        last = now;
        thread::sleep(Duration::from_millis(100));
    }
}

fn watch(prometheus: &Prometheus, server: &Server, group: &Sentinel, single: &Service) {
    const OUTAGE: [&str; 3] = ["LarderConnectionsMissing", "LarderStoreBypassed", "LarderLimitsLocal"];
    for job in ["single", "sentinel"] {
        eventually("near hits are scraped", LIMIT, || {
            let rate =
                prometheus.value(&format!("sum(rate(larder_cache_near_hits_total{{job=\"{job}\"}}[2s]))"));
            rate.filter(|rate| *rate > 0.0)
        });
    }
    // Made on a server that evicts; the others are quiet.
    wait_for(prometheus, "single", &["LarderEvictingServer"], &OUTAGE);
    wait_for(prometheus, "sentinel", &[], &["LarderEvictingServer", "LarderConnectionsMissing"]);

    // An outage of the one, a failover of the other.
    server.kill();
    group.kill_master();
    wait_for(prometheus, "single", &OUTAGE, &[]);
    group.wait_for_new_master();
    eventually("the failover shows", LIMIT, || {
        prometheus.value("larder_reconnects_total{job=\"sentinel\"}").filter(|count| *count > 0.0)
    });
    server.restart();
    server.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-random"]);
    wait_for(prometheus, "single", &[], &OUTAGE);
    wait_for(prometheus, "sentinel", &[], &OUTAGE);

    // Damage, and then an eviction storm.
    server.command(&["SET", "service/product:1000", "garbage"]);
    single.get("/products/1000", "192.0.2.1");
    wait_for(prometheus, "single", &["LarderValuesUnreadable"], &["LarderMissRatioHigh"]);
    let used: u64 = server.info("memory")["used_memory"].parse().unwrap();
    server.command(&["CONFIG", "SET", "maxmemory", &(used + 1_000_000).to_string()]);
    let enough = AtomicBool::new(false);
    thread::scope(|scope| {
        let stop = prometheus::OnDrop(|| enough.store(true, Ordering::Relaxed));
        scope.spawn(|| crowd_out(server, &enough));
        wait_for(prometheus, "single", &["LarderMissRatioHigh"], &OUTAGE[..1]);
        drop(stop);
    });
    assert!(server.info("stats")["evicted_keys"] != "0");
    server.command(&["CONFIG", "SET", "maxmemory", "1gb"]);
    wait_for(prometheus, "single", &[], &["LarderMissRatioHigh", "LarderValuesUnreadable"]);

    // Every panel had data, and nothing fired that was not provoked.
    let panels = prometheus::panels(&ops());
    assert!(panels.len() > 20, "{panels:?}");
    let empty: Vec<_> = panels.iter().filter(|(_, query)| !prometheus.had_data(query)).collect();
    assert!(empty.is_empty(), "panels without data: {empty:#?}");
    for job in ["single", "sentinel"] {
        let fired = prometheus.fired(job);
        for alert in ["LarderNeedsRepair", "LarderLoadsFail", "LarderFillsInvalidated"] {
            assert!(!fired.contains(alert), "{job}: {alert} fired, of {fired:?}");
        }
    }
}
