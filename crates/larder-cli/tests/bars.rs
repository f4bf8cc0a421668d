//! What the command line costs: `ls` and `get`, and what other clients notice of `ls CACHE --all`.
//!
//! The small form is a test of this program. `cargo xtask bench cli` runs the long one with a release build and a
//! million keys, and prints its figures; with `--write PAGE` it puts them into that page, between
//! `<!-- figures:cli -->` and `<!-- /figures -->`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![cfg(unix)]

#[path = "bars/client.rs"]
mod client;
mod support;

use std::fs;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use larder_testkit::{Direction, Proxy, Server, eventually};
use serde_json::Value;

use client::Client;
use support::{larder, on, run};

/// The caches of the server: a name, its share of the keys, and the size of a value.
const CACHES: [(&str, f64, u32); 3] = [("user", 0.61, 100), ("page@2", 0.35, 300), ("session", 0.04, 60)];

/// A server with so many keys.
fn filled(keys: u64) -> Server {
    let server = Server::builder().tcp().start();
    for (cache, share, size) in CACHES {
        let count = (keys as f64 * share).round().to_string();
        server.command(&["DEBUG", "POPULATE", &count, &format!("shop/{cache}"), &size.to_string()]);
    }
    assert_eq!(server.query::<u64>(&["DBSIZE"]), keys);
    server
}

fn shop(url: &str) -> Command {
    let mut command = on(url);
    command.env("LARDER_NAMESPACE", "shop");
    command
}

/// The processor time that the server has used.
fn processor_time(server: &Server) -> Duration {
    let info = server.info("cpu");
    let seconds = |field: &str| info[field].parse::<f64>().unwrap();
    Duration::from_secs_f64(seconds("used_cpu_user") + seconds("used_cpu_sys"))
}

/// What one `larder ls` cost.
struct Listed {
    wall: Duration,
    processor: Duration,
    /// By how many points the worst share of keys, and of bytes, was wrong.
    wrong_keys: f64,
    wrong_bytes: f64,
}

fn list(server: &Server, bytes: &[f64; 3]) -> Listed {
    let before = processor_time(server);
    let begin = Instant::now();
    let ran = run(shop(&server.url()), ["ls", "--format", "json"]);
    let wall = begin.elapsed();
    let processor = processor_time(server).saturating_sub(before);
    let listed: Value = serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
    let total = listed["total"].as_f64().unwrap();
    assert_eq!((&listed["exact"], &listed["sampled"]), (&Value::from(false), &Value::from(2000)), "{listed}");
    let all: f64 = bytes.iter().zip(CACHES).map(|(bytes, (_, share, _))| bytes * share).sum();
    let (mut wrong_keys, mut wrong_bytes) = (0.0_f64, 0.0_f64);
    for ((name, share, _), size) in CACHES.into_iter().zip(bytes) {
        let groups = listed["groups"].as_array().unwrap();
        let group = groups.iter().find(|group| group["cache"] == name).unwrap_or_else(|| panic!("{listed}"));
        let keys = group["entries"].as_f64().unwrap() / total;
        wrong_keys = wrong_keys.max((keys - share).abs() * 100.0);
        wrong_bytes = wrong_bytes.max((group["share"].as_f64().unwrap() - share * size / all).abs() * 100.0);
    }
    Listed { wall, processor, wrong_keys, wrong_bytes }
}

/// The mean size of the keys of each cache, by MEMORY USAGE of a hundred of each.
fn sizes(server: &Server, keys: u64) -> [f64; 3] {
    CACHES.map(|(cache, share, _)| {
        let count = (keys as f64 * share) as u64;
        let size = |place: u64| -> u64 {
            server.query(&["MEMORY", "USAGE", &format!("shop/{cache}:{}", place * count / 100)])
        };
        (0..100).map(size).sum::<u64>() as f64 / 100.0
    })
}

/// Waits until the server has nothing to do: after so many writes it still enlarges its table.
fn until_idle(server: &Server) {
    eventually("the server is idle", Duration::from_secs(120), || {
        let before = processor_time(server);
        thread::sleep(Duration::from_millis(500));
        (processor_time(server).saturating_sub(before) < Duration::from_millis(10)).then_some(())
    });
}

fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() * percent / 100).min(times.len() - 1)]
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

#[test]
fn ls_samples_cheaply_and_well() {
    let server = filled(100_000);
    let bytes = sizes(&server, 100_000);
    until_idle(&server);
    server.reset_stats();
    for _ in 0..3 {
        let listed = list(&server, &bytes);
        // Shares are off by less than 4.6 standard deviations. The time is three times the bar, for a busy machine.
        assert!(listed.wrong_keys < 5.0 && listed.wrong_bytes < 5.0, "{}", listed.wrong_keys);
        assert!(listed.processor < Duration::from_millis(45), "{:?}", listed.processor);
    }
    assert_eq!((server.calls("keys"), server.calls("scan")), (0, 0));
    assert_eq!(server.calls("randomkey"), 6000);

    // Every key, and no page of them holds up other clients.
    server.reset_stats();
    let all = run(shop(&server.url()), ["ls", "session", "--all"]);
    assert_eq!((all.code, all.out.lines().count()), (0, 4001), "{}", all.err);
    let stats = server.info("commandstats");
    let scan = stats["cmdstat_scan"].split(',').find_map(|part| part.strip_prefix("usec_per_call=")).unwrap();
    assert!(scan.parse::<f64>().unwrap() < 1000.0, "{}", stats["cmdstat_scan"]);
    assert!((400..3000).contains(&server.calls("scan")), "{}", stats["cmdstat_scan"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn get_takes_one_round_trip_to_connect_one_to_read_and_one_more_for_tags() {
    let server = Server::builder().tcp().start();
    let set = |key: &str, options: &[&str]| {
        let ran = run(shop(&server.url()), [&["set", "user", key, "1", "--ttl", "1h"], options].concat());
        assert_eq!(ran.code, 0, "{ran:?}");
    };
    set("1", &[]);
    set("2", &["--tag", "team"]);
    // The server knows the script from now on.
    run(shop(&server.url()), ["get", "user", "1"]);
    let proxy = Proxy::start(server.addr().unwrap()).await;
    let round_trip = Duration::from_millis(400);
    proxy.delay(Direction::Both, round_trip / 2);
    for (key, trips) in [("1", 2), ("2", 3)] {
        // The fastest of some runs: a busy machine may add to any of them, and nothing makes one faster.
        let mut times = (0..5).map(|_| {
            let begin = Instant::now();
            let ran = run(shop(&proxy.url()), ["--timeout", "20s", "get", "user", key]);
            let took = begin.elapsed();
            assert_eq!((ran.code, ran.out.as_str()), (0, "1\n"), "{ran:?}");
            assert!(took >= round_trip * trips, "{key}: {took:?}");
            took
        });
        let fastest = times.find(|took| *took < round_trip * (trips + 1));
        assert!(fastest.is_some(), "{key} takes more than {trips} round trips");
    }
}

/// A figure with its bar.
struct Row {
    what: String,
    bar: &'static str,
    measured: String,
    met: bool,
}

/// `cargo xtask bench cli` runs it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes, on a machine with nothing else to do: cargo xtask bench cli"]
async fn the_bars_of_the_command_line() {
    let keys = std::env::var("LARDER_BARS_KEYS").map_or(1_000_000, |keys| keys.parse().unwrap());
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let server = filled(keys);
    let bytes = sizes(&server, keys);
    until_idle(&server);

    let mut rows = listing(&server, &bytes, keys);
    rows.extend(getting(&server).await);
    rows.extend(noticing(&server, keys));
    rows.extend(program());

    let mut text = String::from("| what | bar | measured | met |\n|---|---:|---:|---:|\n");
    for Row { what, bar, measured, met } in &rows {
        text += &format!("| {what} | {bar} | {measured} | {} |\n", if *met { "yes" } else { "**no**" });
    }
    let now = humantime::format_rfc3339_seconds(SystemTime::now());
    let load = load.split_whitespace().next().unwrap_or("?").to_owned();
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let build = if cfg!(debug_assertions) { "a debug build" } else { "a release build" };
    text += &format!(
        "\n{now}, {}, {keys} keys, {cores} cores for server and client,\nload average before it {load}, {build}.\n",
        server.version()
    );
    println!("{text}");
    if let Some(page) = std::env::var_os("LARDER_BARS_WRITE") {
        let old = fs::read_to_string(&page).unwrap();
        let (before, rest) = old.split_once("<!-- figures:cli -->").expect("the page has the section");
        let (_, after) = rest.split_once("<!-- /figures -->").unwrap();
        fs::write(&page, format!("{before}<!-- figures:cli -->\n{text}<!-- /figures -->{after}")).unwrap();
    }
}

fn listing(server: &Server, bytes: &[f64; 3], keys: u64) -> Vec<Row> {
    list(server, bytes);
    let runs: Vec<Listed> = (0..20).map(|_| list(server, bytes)).collect();
    let mut walls: Vec<Duration> = runs.iter().map(|run| run.wall).collect();
    let mut processor: Vec<Duration> = runs.iter().map(|run| run.processor).collect();
    let good = runs.iter().filter(|run| run.wrong_keys <= 3.0 && run.wrong_bytes <= 3.0).count();
    let worst = runs.iter().map(|run| run.wrong_keys.max(run.wrong_bytes)).fold(0.0, f64::max);
    let (wall, most) = (percentile(&mut walls, 50), percentile(&mut walls, 100));
    let (cpu, cpu_most) = (percentile(&mut processor, 50), percentile(&mut processor, 100));
    vec![
        Row {
            what: format!("`larder ls` at {keys} keys, 20 runs: median (longest)"),
            bar: "≤ 500 ms",
            measured: format!("{:.0} ms ({:.0} ms)", millis(wall), millis(most)),
            met: most <= Duration::from_millis(500),
        },
        Row {
            what: "… the server's processor time: median (most)".to_owned(),
            bar: "≤ 15 ms",
            measured: format!("{:.1} ms ({:.1} ms)", millis(cpu), millis(cpu_most)),
            met: cpu <= Duration::from_millis(15),
        },
        Row {
            what: "… shares of keys and of bytes within 3 points".to_owned(),
            bar: "≥ 19 of 20",
            measured: format!("{good} of 20, worst {worst:.1}"),
            met: good >= 19,
        },
    ]
}

async fn getting(server: &Server) -> Vec<Row> {
    let stored = format!("{{\"name\":\"{}\"}}", "x".repeat(1000));
    assert_eq!(run(shop(&server.url()), ["set", "user", "one", &stored, "--ttl", "1h"]).code, 0);
    let proxy = Proxy::start(server.addr().unwrap()).await;
    proxy.delay(Direction::Both, Duration::from_millis(10));
    let mut rows = Vec::new();
    for (place, address, runs) in
        [("on this machine", server.addr().unwrap().to_string(), 100), ("over 20 ms", proxy.address(), 30)]
    {
        let mut client = Client::connect(&address);
        let mut trips: Vec<Duration> = (0..runs).map(|_| client.ping()).collect();
        let trip = percentile(&mut trips, 50);
        let mut times = Vec::new();
        for _ in 0..runs {
            let begin = Instant::now();
            let ran = run(shop(&format!("redis://{address}")), ["get", "user", "one"]);
            times.push(begin.elapsed());
            assert_eq!(ran.code, 0, "{ran:?}");
        }
        let (half, most) = (percentile(&mut times, 50), percentile(&mut times, 95));
        let rest = |time: Duration| millis(time) - 2.0 * millis(trip);
        rows.push(Row {
            what: format!("`larder get` of 1 KiB {place}, without two round trips: median (p95)"),
            bar: "≤ 15 ms",
            measured: format!("{:.1} ms ({:.1} ms)", rest(half), rest(most)),
            met: rest(half) <= 15.0,
        });
    }
    rows
}

/// Another client's GET, while `ls CACHE --all` runs and while it does not, in turn.
fn noticing(server: &Server, keys: u64) -> Vec<Row> {
    let address = server.addr().unwrap().to_string();
    let probe = |stop: &AtomicBool| {
        let mut client = Client::connect(&address);
        let mut times = Vec::new();
        let mut place = 0_u64;
        while !stop.load(Ordering::Relaxed) {
            place = (place + 7919) % (keys / 2);
            times.push(client.get(&format!("shop/user:{place}")));
            thread::sleep(Duration::from_micros(200));
        }
        times
    };
    let while_it = |work: &dyn Fn()| {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let times = scope.spawn(|| probe(&stop));
            work();
            stop.store(true, Ordering::Relaxed);
            times.join().unwrap()
        })
    };
    let (mut ratios, mut idle_p99, mut busy_p99, mut took) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..5 {
        let mut idle = while_it(&|| thread::sleep(Duration::from_secs(4)));
        let begin = Instant::now();
        let mut busy = while_it(&|| {
            let mut list = shop(&server.url());
            let status = list.args(["ls", "page@2", "--all"]).stdout(Stdio::null()).status().unwrap();
            assert!(status.success());
        });
        took.push(begin.elapsed());
        let (idle, busy) = (percentile(&mut idle, 99), percentile(&mut busy, 99));
        ratios.push(busy.as_secs_f64() / idle.as_secs_f64());
        idle_p99.push(idle);
        busy_p99.push(busy);
    }
    ratios.sort_by(f64::total_cmp);
    vec![Row {
        what: format!(
            "`larder ls CACHE --all` at {keys} keys ({:.1} s): p99 of another client's GET / idle, median of 5",
            percentile(&mut took, 50).as_secs_f64()
        ),
        bar: "≤ 1.5",
        measured: format!(
            "{:.2} ({:.0} µs / {:.0} µs)",
            ratios[2],
            millis(percentile(&mut busy_p99, 50)) * 1000.0,
            millis(percentile(&mut idle_p99, 50)) * 1000.0
        ),
        met: ratios[2] <= 1.5,
    }]
}

/// The program itself: how soon it has started, and its size.
fn program() -> Vec<Row> {
    let mut times: Vec<Duration> = (0..100)
        .map(|_| {
            let begin = Instant::now();
            assert_eq!(run(larder(), ["help", "exit-codes"]).code, 0);
            begin.elapsed()
        })
        .collect();
    let (half, most) = (percentile(&mut times, 50), percentile(&mut times, 95));
    let mut rows = vec![Row {
        what: "start and end of the program (`larder help exit-codes`): median (p95)".to_owned(),
        bar: "≤ 15 ms",
        measured: format!("{:.1} ms ({:.1} ms)", millis(half), millis(most)),
        met: half <= Duration::from_millis(15),
    }];
    let folder = tempfile::tempdir().unwrap();
    let stripped = folder.path().join("larder");
    let strip = Command::new("strip").arg("-o").arg(&stripped).arg(env!("CARGO_BIN_EXE_larder")).status();
    if strip.is_ok_and(|status| status.success()) {
        let size = fs::metadata(&stripped).unwrap().len() as f64 / f64::from(1 << 20);
        rows.push(Row {
            what: "the program, stripped".to_owned(),
            bar: "≤ 12 MiB",
            measured: format!("{size:.1} MiB"),
            met: size <= 12.0,
        });
    }
    rows
}
