//! One long round, which checks that memory, tasks, threads and descriptors do not grow under load and faults.
//!
//! Only the last process is killed now and then. The others live through the whole run, and their samples are judged. A
//! sample is taken every second. The median over one part of the run is compared with the median over a later part.
//! Both parts are after the time in which pools and caches fill.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use larder_testkit::history::{Notes, now};

use crate::fleet::Fleet;
use crate::work::Scene;

/// The notes that a soak keeps. Other runs judge the promises: the notes of hours of calls would not fit into memory.
pub(crate) const WORDS: [&str; 5] = ["sample", "ready", "gone", "made", "failure"];
const EVERY: Duration = Duration::from_secs(1);
/// The shortest run in which pools and caches fill.
pub(crate) const SHORTEST: Duration = Duration::from_secs(5 * 60);

/// The measures of a process, in the order of the numbers in its samples.
const OF_PROCESS: [Measure; 4] = [
    Measure { name: "memory (KiB)", share: 10, slack: 4096 },
    Measure { name: "threads", share: 0, slack: 1 },
    Measure { name: "descriptors", share: 0, slack: 4 },
    Measure { name: "tasks", share: 0, slack: 6 },
];
const OF_SERVER: [Measure; 3] = [
    Measure { name: "memory (KiB)", share: 8, slack: 2048 },
    Measure { name: "keys", share: 5, slack: 100 },
    Measure { name: "clients", share: 0, slack: 10 },
];

#[derive(Debug, Clone, Copy)]
struct Measure {
    name: &'static str,
    /// It may grow by a fraction of 1 / `share`; 0 allows no such growth.
    share: u64,
    /// It may grow by this much in addition.
    slack: u64,
}

impl Measure {
    fn most(self, before: u64) -> u64 {
        before + before.checked_div(self.share).unwrap_or(0) + self.slack
    }
}

/// Samples this process every second.
pub(crate) async fn sample(scene: Arc<Scene>) {
    loop {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
        };
        let descriptors = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) as u64;
        let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks() as u64;
        scene.note("sample", &[scene.now(), field("VmRSS:"), field("Threads:"), descriptors, tasks]);
        tokio::time::sleep(EVERY).await;
    }
}

impl Fleet {
    /// Samples the server.
    pub(crate) fn sample_server(&self) {
        let server = self.ground.nodes()[0];
        let (memory, clients) = (server.info("memory"), server.info("clients"));
        let number = |text: Option<&String>| text.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let numbers = [
            now(),
            number(memory.get("used_memory")) / 1024,
            server.query(&["DBSIZE"]),
            number(clients.get("connected_clients")),
        ];
        self.book.note("server", &numbers).unwrap();
    }
}

/// A line of the table.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Row {
    of: String,
    name: &'static str,
    /// The medians of each fifth of the run.
    fifths: [u64; 5],
    most: u64,
    pub(crate) flat: bool,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e] = self.fifths;
        let Self { of, name, most, flat, .. } = self;
        let flat = if *flat { "yes" } else { "NO" };
        write!(f, "| {of} | {name} | {a} | {b} | {c} | {d} | {e} | {most} | {flat} |")
    }
}

pub(crate) const TITLE: &str = "| of | what | first fifth | second | third | fourth | last | most | flat |\n\
     |---|---|---|---|---|---|---|---|---|";

/// Returns the measures of each process that lived through the run, and of the server.
pub(crate) fn rows(notes: &Notes) -> Vec<Row> {
    let end = notes.of("end")[0].numbers[0];
    let begin = notes.of("clock")[0].numbers[0];
    let mut samples: BTreeMap<u32, Vec<&[u64]>> = BTreeMap::new();
    for note in notes.of("sample") {
        samples.entry(note.process).or_default().push(&note.numbers);
    }
    // A process that was killed, or started later, has no samples of the whole run.
    let slack = (end - begin) / 10;
    samples.retain(|_, all| {
        all.first().is_some_and(|it| it[0] < begin + slack)
            && all.last().is_some_and(|it| it[0] + slack > end)
    });
    let mut rows = Vec::new();
    for (process, all) in &samples {
        for (place, measure) in OF_PROCESS.iter().enumerate() {
            rows.push(row(format!("process {process}"), *measure, place + 1, all, begin, end));
        }
    }
    let server: Vec<&[u64]> = notes.of("server").iter().map(|note| &note.numbers[..]).collect();
    for (place, measure) in OF_SERVER.iter().enumerate() {
        rows.push(row("server".to_owned(), *measure, place + 1, &server, begin, end));
    }
    rows
}

fn row(of: String, measure: Measure, place: usize, samples: &[&[u64]], begin: u64, end: u64) -> Row {
    let between = |from: u64, to: u64| {
        let at = |tenth: u64| begin + (end - begin) / 10 * tenth;
        let mut values: Vec<u64> = samples
            .iter()
            .filter(|sample| (at(from)..=at(to)).contains(&sample[0]))
            .map(|sample| sample[place])
            .collect();
        values.sort_unstable();
        values.get(values.len() / 2).copied().unwrap_or(0)
    };
    let fifths = [0, 2, 4, 6, 8].map(|from| between(from, from + 2));
    let most = samples.iter().map(|sample| sample[place]).max().unwrap_or(0);
    // Pools and caches fill in the first three tenths, and processes end in the last tenth: neither is compared.
    let flat = !samples.is_empty() && between(7, 9) <= measure.most(between(3, 5));
    Row { of, name: measure.name, fifths, most, flat }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run of a hundred seconds, whose descriptors are these.
    fn flat_with(descriptors: impl Fn(u64) -> u64) -> Vec<bool> {
        let mut text = "clock 0 0 0\nend 0 100000000000\n".to_owned();
        for second in 0..100_u64 {
            let at = second * 1_000_000_000;
            text.push_str(&format!("sample 1 {at} 50000 3 {} 40\n", descriptors(second)));
            text.push_str(&format!("server 0 {at} 9000 500 20\n"));
        }
        // A process that was killed is left out.
        text.push_str("sample 2 1000000000 1 1 1 1\n");
        rows(&Notes::parse(&text).unwrap()).iter().map(|row| row.flat).collect()
    }

    #[test]
    fn what_stays_as_it_is_or_fills_at_first_is_flat() {
        assert_eq!(flat_with(|_| 20), [true; 7]);
        assert_eq!(flat_with(|second| if second < 30 { second } else { 30 }), [true; 7]);
        assert_eq!(flat_with(|second| if second == 70 { 500 } else { 20 }), [true; 7], "for a moment");
    }

    #[test]
    fn a_leak_is_found() {
        let found = flat_with(|second| 20 + second / 5);
        assert_eq!(found, [true, true, false, true, true, true, true]);
    }
}
