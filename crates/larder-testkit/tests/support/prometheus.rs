//! A real Prometheus with the rules of ops/, whose times are shortened: what takes minutes there takes seconds here.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tempfile::TempDir;

/// How much shorter the times of the rules are. Five minutes become four seconds: eight scrapes.
const SHORTER: u64 = 75;
const SCRAPE: &str = "500ms";

/// Runs it when dropped, also in a test that fails.
pub(crate) struct OnDrop<F: FnMut()>(pub F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// The path of one of Prometheus' programs.
pub(crate) fn program(name: &str) -> PathBuf {
    std::env::var_os("LARDER_TEST_PROMETHEUS")
        .map_or_else(|| name.into(), |folder| Path::new(&folder).join(name))
}

/// A running Prometheus; killed when it is dropped.
pub(crate) struct Prometheus {
    running: Running,
    began: f64,
    // Removed after the process has ended.
    _folder: TempDir,
}

struct Running {
    process: Child,
    address: SocketAddr,
}

impl Prometheus {
    /// Starts one that scrapes each target under the name of its job. Returns once it is ready.
    pub(crate) fn start(ops: &Path, targets: &[(&str, SocketAddr)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let rules = fs::read_to_string(ops.join("prometheus/larder.rules.yml")).unwrap();
        fs::write(folder.path().join("rules.yml"), shortened(&rules)).unwrap();
        let mut config = format!(
            "global: {{ scrape_interval: {SCRAPE}, scrape_timeout: {SCRAPE}, evaluation_interval: {SCRAPE} }}\n\
             rule_files: [rules.yml]\nscrape_configs:\n"
        );
        for (job, target) in targets {
            config.push_str(&format!(
                "  - {{ job_name: {job}, static_configs: [{{ targets: ['{target}'] }}] }}\n"
            ));
        }
        fs::write(folder.path().join("prometheus.yml"), config).unwrap();
        // Another program may take the port before Prometheus does: then it ends, and tries another.
        for _ in 0..5 {
            let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let process = Command::new(program("prometheus"))
                .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=error"])
                .arg(format!("--web.listen-address={address}"))
                .current_dir(folder.path())
                .stdin(Stdio::null())
                .spawn()
                .unwrap_or_else(|error| panic!("no prometheus: {error}; set LARDER_TEST_PROMETHEUS"));
            let mut started = Running { process, address };
            if started.is_ready() {
                return Self { running: started, began: now(), _folder: folder };
            }
        }
        panic!("prometheus did not become ready five times");
    }

    fn ask(&self, path: &str) -> Vec<Value> {
        let body = self.running.get(path).unwrap_or_else(|| panic!("prometheus does not answer {path}"));
        let mut answer: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
        assert_eq!(answer["status"], "success", "{path}: {body}");
        let data = &mut answer["data"];
        let list = if data["alerts"].is_array() { &mut data["alerts"] } else { &mut data["result"] };
        list.as_array_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The value of an expression with one series, if there is one.
    pub(crate) fn value(&self, expression: &str) -> Option<f64> {
        let found = self.ask(&format!("/api/v1/query?query={}", encoded(expression)));
        found.first()?["value"][1].as_str()?.parse().ok()
    }

    /// The alerts of a job that fire now.
    pub(crate) fn firing(&self, job: &str) -> BTreeSet<String> {
        let alerts = self.ask("/api/v1/alerts");
        let firing =
            alerts.iter().filter(|alert| alert["state"] == "firing" && alert["labels"]["job"] == job);
        firing.map(|alert| alert["labels"]["alertname"].as_str().unwrap().to_owned()).collect()
    }

    /// The alerts of a job that have fired since the start.
    pub(crate) fn fired(&self, job: &str) -> BTreeSet<String> {
        let fired = self.since_start(&format!("ALERTS{{job=\"{job}\", alertstate=\"firing\"}}"));
        fired.iter().map(|series| series["metric"]["alertname"].as_str().unwrap().to_owned()).collect()
    }

    /// Whether a query of the dashboard has had a value since the start.
    pub(crate) fn had_data(&self, query: &str) -> bool {
        self.since_start(query).iter().any(|series| {
            let values = series["values"].as_array().unwrap();
            values.iter().any(|value| value[1] != "NaN")
        })
    }

    fn since_start(&self, expression: &str) -> Vec<Value> {
        let (from, to) = (self.began, now());
        self.ask(&format!(
            "/api/v1/query_range?query={}&start={from}&end={to}&step=500ms",
            encoded(expression)
        ))
    }
}

impl Running {
    /// Waits until it answers queries. Returns false if it has ended.
    fn is_ready(&mut self) -> bool {
        let limit = Instant::now() + Duration::from_secs(60);
        while Instant::now() < limit {
            if !matches!(self.process.try_wait(), Ok(None)) {
                return false;
            }
            if self.get("/-/ready").is_some_and(|answer| answer.contains("is Ready")) {
                return true;
            }
            thread::sleep(Duration::from_millis(50));
        }
        false
    }

    fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
        // By HTTP/1.0, so that the answer is not in chunks.
        write!(stream, "GET {path} HTTP/1.0\r\nhost: test\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer.split_once("\r\n\r\n")?.1.to_owned())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

fn encoded(text: &str) -> String {
    let encoded = text.bytes().map(|byte| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    });
    encoded.collect()
}

/// Shortens the times of rules: after `[`, `for:` and `offset`.
fn shortened(rules: &str) -> String {
    let mut text = String::new();
    let mut rest = rules;
    while let Some(place) =
        ["[", "for: ", "offset "].iter().filter_map(|mark| Some(rest.find(mark)? + mark.len())).min()
    {
        let (before, after) = rest.split_at(place);
        text.push_str(before);
        let digits = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
        let seconds = match after[digits..].chars().next() {
            Some('m') => 60,
            Some('h') => 3600,
            _ => 0,
        };
        rest = after;
        if let (Ok(count), 1..) = (after[..digits].parse::<u64>(), seconds) {
            text.push_str(&format!("{}ms", count * seconds * 1000 / SHORTER));
            rest = &after[digits + 1..];
        }
    }
    text + rest
}
