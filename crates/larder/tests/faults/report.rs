//! What is printed.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

use larder_testkit::{Version, resolve};

use crate::check::{Judged, Verdict};
use crate::fleet::WORKERS;
use crate::what::What;

pub(crate) struct Report {
    seed: u64,
    what: What,
    span: Duration,
    began: Instant,
    faults: BTreeMap<&'static str, u64>,
    total: Verdict,
    skewed: bool,
}

/// Past the capture of what tests print, so that it is seen while the test runs.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

impl Report {
    pub(crate) fn new(seed: u64, what: What, span: Duration) -> Self {
        let (faults, total) = (BTreeMap::new(), Verdict::default());
        Self { seed, what, span, began: Instant::now(), faults, total, skewed: true }
    }

    pub(crate) fn start(&self) {
        let seconds = self.span.as_secs();
        let Self { seed, what, .. } = self;
        say(&format!("LARDER_FAULTS_SEED={seed} LARDER_FAULTS_SECONDS={seconds} LARDER_FAULTS_WHAT={what}"));
    }

    /// Adds a round and says what it was.
    pub(crate) fn add(
        &mut self,
        number: u64,
        lossy: bool,
        faults: &BTreeMap<&'static str, u64>,
        verdict: Verdict,
    ) {
        for (kind, count) in faults {
            *self.faults.entry(kind).or_default() += count;
        }
        for (operation, count) in verdict.operations {
            *self.total.operations.entry(operation).or_default() += count;
        }
        self.total.queued += verdict.queued;
        for (promise, Judged { judged, violations }) in verdict.promises {
            for violation in violations.iter().take(3) {
                say(&format!("VIOLATED {promise}: {violation}"));
            }
            let all = self.total.promises.entry(promise).or_default();
            all.judged += judged;
            all.violations.extend(violations);
        }
        let server = if lossy { "loses" } else { "keeps" };
        say(&format!(
            "round {number} ({server} its data), {:.0?}: {} operations, {} faults, {} violations so far",
            self.began.elapsed(),
            sum(&self.total.operations),
            sum(&self.faults),
            self.violations(),
        ));
    }

    /// What was left on a server for ever.
    pub(crate) fn ends(&mut self, for_ever: Vec<String>) {
        let promise = "L5, R5: what is left behind has an end";
        for name in &for_ever {
            say(&format!("VIOLATED {promise}: {name} has none"));
        }
        let all = self.total.promises.entry(promise).or_default();
        all.judged += 1;
        all.violations.extend(for_ever);
    }

    pub(crate) fn skewed(&mut self, skewed: bool) {
        self.skewed &= skewed;
    }

    fn violations(&self) -> usize {
        self.total.promises.values().map(|judged| judged.violations.len()).sum()
    }

    /// Prints the tables.
    ///
    /// # Panics
    ///
    /// Where anything was violated, or too little was judged to prove anything.
    pub(crate) fn finish(&self) {
        let version = Version::of(&resolve().unwrap()).unwrap();
        let clocks = if self.skewed { "three of them with clocks that are wrong" } else { "NO CLOCK WRONG" };
        let mut text = format!(
            "\n`--what {}`, seed {}, {version}, {WORKERS} processes, {clocks}; {:.0?}\n",
            self.what,
            self.seed,
            self.began.elapsed()
        );
        let mut table = |title: &str, rows: Vec<(String, String)>| {
            text.push_str(&format!(
                "\n| {title} |\n|---|---|{}\n",
                if title.matches('|').count() > 1 { "---|" } else { "" }
            ));
            for (name, value) in rows {
                text.push_str(&format!("| {name} | {value} |\n"));
            }
        };
        let counts = |all: &BTreeMap<&'static str, u64>| {
            let mut rows: Vec<(String, String)> =
                all.iter().map(|(name, count)| ((*name).to_owned(), grouped(*count))).collect();
            rows.push(("all".to_owned(), grouped(sum(all))));
            rows
        };
        table("operations | number", counts(&self.total.operations));
        table("faults | number", counts(&self.faults));
        let promises = self.total.promises.iter().map(|(promise, it)| {
            ((*promise).to_owned(), format!("{} | {}", grouped(it.judged), it.violations.len()))
        });
        table("promise | judged | violations", promises.collect());
        say(&text);
        assert_eq!(self.violations(), 0, "seed {}: see above", self.seed);
        let queues = ["locks", "semaphores", "rw"].into_iter().any(|part| self.what.has(part));
        assert!(self.total.queued > 0 || !queues, "seed {}: no order could be judged", self.seed);
        assert!(sum(&self.total.operations) > 500, "seed {}: too little was done", self.seed);
    }
}

fn sum(counts: &BTreeMap<&'static str, u64>) -> u64 {
    counts.values().sum()
}

/// With a comma before each three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
