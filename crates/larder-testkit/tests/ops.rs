//! ops/: that the dashboard and the compose file are whole, and, against a real Prometheus, the rules' own tests, and
//! the dashboard and the alerts through an outage, a failover and an eviction storm.
//!
//! What needs a tool is ignored unless asked for. `cargo xtask test` fetches the tools from Debian's packages if it
//! can, and runs it. By hand:
//!
//! ```sh
//! xtask/prometheus.sh target/tools && xtask/compose.sh target/tools
//! export LARDER_TEST_PROMETHEUS=$PWD/target/tools LARDER_TEST_COMPOSE=$PWD/target/tools/docker-compose
//! cargo test --all-features --workspace --exclude larder-bench --test ops -- --ignored
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

// In a folder, so that they are no test programs of their own.
#[path = "support/compose.rs"]
mod compose;
#[path = "support/dashboard.rs"]
mod dashboard;
#[path = "support/prometheus.rs"]
mod prometheus;
#[path = "support/running.rs"]
mod running;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use larder_testkit::{Sentinel, Server, eventually};
use prometheus::{Prometheus, program};
use running::Service;
use serde_json::Value;

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

#[test]
fn the_dashboard_is_whole_and_all_that_it_names_is_there() {
    let rules = fs::read_to_string(ops().join("prometheus/larder.rules.yml")).unwrap();
    let wrong = dashboard::read(&ops()).mistakes(&rules);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The scalar values of a YAML file, each with its last key: enough for the small files of ops/.
fn scalars(path: &str) -> Vec<(String, String)> {
    let text = fs::read_to_string(ops().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let lines = text.lines().map(|line| line.trim().trim_start_matches("- "));
    let pairs = lines.filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(':'));
    pairs.map(|(key, value)| (key.to_owned(), value.trim().trim_matches(['"', '\'']).to_owned())).collect()
}

fn scalar(path: &str, key: &str) -> String {
    let found = scalars(path).into_iter().find(|(found, _)| found == key);
    found.unwrap_or_else(|| panic!("{path} has no {key}")).1
}

#[test]
fn prometheus_and_grafana_find_each_other_and_their_files_as_the_compose_file_starts_them() {
    let compose = fs::read_to_string(ops().join("compose.yaml")).unwrap();
    // What is mounted is there, and is what the mounted files name.
    let mounts = compose.lines().filter_map(|line| line.trim().strip_prefix("- ./")?.strip_suffix(":ro"));
    let mounts: Vec<(&str, &str)> = mounts.map(|mount| mount.split_once(':').unwrap()).collect();
    assert_eq!(mounts.len(), 4, "{mounts:?}");
    for (file, _) in &mounts {
        assert!(ops().join(file).exists(), "{file} is mounted and missing");
    }
    let inside = |file: &str| mounts.iter().find(|(ours, _)| *ours == file).unwrap().1;
    let prometheus = fs::read_to_string(ops().join("prometheus/prometheus.yml")).unwrap();
    assert!(prometheus.contains(&format!("rule_files: [{}]", inside("prometheus/larder.rules.yml"))));
    let provider = fs::read_to_string(ops().join("grafana/provisioning/dashboards/larder.yaml")).unwrap();
    let folder = Path::new(inside("grafana/larder.json")).parent().unwrap().to_str().unwrap();
    assert!(provider.contains(&format!("path: {folder} ")), "{provider}");
    // The services that they ask are there, with these ports.
    let source = "grafana/provisioning/datasources/prometheus.yaml";
    assert_eq!(
        (scalar(source, "type"), scalar(source, "url")),
        ("prometheus".into(), "http://prometheus:9090".into())
    );
    let targets = scalar("prometheus/prometheus.yml", "targets");
    assert_eq!(targets, "[\"service:3000\"]");
    for service in ["prometheus", "service", "cache", "coordination", "grafana"] {
        assert!(compose.contains(&format!("\n  {service}:\n")), "{service} is no service");
    }
    for ports in ["\"127.0.0.1:9090:9090\"", "\"127.0.0.1:3000:3000\"", "\"127.0.0.1:3001:3000\""] {
        assert!(compose.contains(ports), "{ports} is not published");
    }
}

#[test]
#[ignore = "needs Docker Compose: cargo xtask test runs it"]
fn docker_compose_accepts_the_compose_file_of_ops() {
    let read =
        compose::command(&["config", "--format", "json"], &ops().join("compose.yaml")).output().unwrap();
    assert!(read.status.success() && read.stderr.is_empty(), "{read:?}");
    let read: Value = serde_json::from_slice(&read.stdout).unwrap();
    let services = read["services"].as_object().unwrap();
    assert_eq!(services.len(), 5, "{services:?}");
    for (name, service) in services {
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let source = volume["source"].as_str().unwrap();
            let there = if volume["type"] == "bind" {
                Path::new(source).exists()
            } else {
                read["volumes"][source].is_object()
            };
            assert!(there, "{name}: {volume}");
        }
        for needed in service["depends_on"].as_object().into_iter().flat_map(|needed| needed.keys()) {
            assert!(services.contains_key(needed), "{name} depends on {needed}");
        }
    }
    // The service that is run is an example, and reads each setting that it is given.
    let service = &services["service"];
    let command: Vec<&str> =
        service["command"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(command.ends_with(&["--features", "service", "--example", "service"]), "{command:?}");
    let program = fs::read_to_string(ops().join("../examples/service.rs")).unwrap();
    for (setting, url) in service["environment"].as_object().unwrap() {
        assert!(setting.starts_with("CARGO_") || program.contains(&format!("\"{setting}\"")), "{setting}");
        if let Some(server) = url.as_str().unwrap().strip_prefix("redis://") {
            assert!(services.contains_key(server.split(':').next().unwrap()), "{setting}: {url}");
        }
    }
}

/// Asks the service for products and reports until `done`: four clients at a time, none of them above its limit.
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
        // Two that want the report again and again, so that one of them waits.
        for thread in 4..6 {
            scope.spawn(move || {
                for request in 0_u64.. {
                    if done.load(Ordering::Relaxed) {
                        return;
                    }
                    let _ = service.get("/report", &format!("192.0.{thread}.{}", request % 250));
                    thread::sleep(Duration::from_millis(5));
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
#[ignore = "needs prometheus: cargo xtask test runs it"]
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
    // The job's calls fail; reads and limits go on without the server.
    const OUTAGE: [&str; 4] =
        ["LarderConnectionsMissing", "LarderStoreBypassed", "LarderLimitsLocal", "LarderCallsFail"];
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

    // Every panel had data, and so had the variables that it is filtered by, and the alerts that are drawn into it.
    let queries = dashboard::read(&ops()).queries();
    assert!(queries.len() >= 30, "{queries:?}");
    let empty: Vec<_> = queries.iter().filter(|(_, query)| !prometheus.had_data(query)).collect();
    assert!(empty.is_empty(), "without data: {empty:#?}");
    // Nothing fired that was not provoked.
    for job in ["single", "sentinel"] {
        let fired = prometheus.fired(job);
        for alert in ["LarderNeedsRepair", "LarderLoadsFail", "LarderFillsInvalidated"] {
            assert!(!fired.contains(alert), "{job}: {alert} fired, of {fired:?}");
        }
    }
}
