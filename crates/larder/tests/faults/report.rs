//! The report that is printed.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use larder_testkit::{Version, resolve};

use crate::check::{Judged, Verdict};
use crate::soak;
use crate::what::{Bar, On, Turns, What};

pub(crate) struct Report {
    seed: u64,
    what: What,
    turns: Turns,
    span: Duration,
    began: Instant,
    faults: BTreeMap<&'static str, u64>,
    rounds: BTreeMap<String, u64>,
    total: Verdict,
    skewed: bool,
    /// Whether the bars of a long run have to be reached.
    strict: bool,
}

/// Prints a line past libtest's capture, so that it is visible while the test runs.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

impl Report {
    pub(crate) fn start(seed: u64, what: What, turns: &Turns, span: Duration, strict: bool) -> Self {
        let seconds = span.as_secs();
        say(&format!(
            "LARDER_FAULTS_SEED={seed} LARDER_FAULTS_SECONDS={seconds} LARDER_FAULTS_WHAT={what} \
             LARDER_FAULTS_ON={turns}"
        ));
        Self {
            seed,
            what,
            turns: turns.clone(),
            span,
            began: Instant::now(),
            faults: BTreeMap::new(),
            rounds: BTreeMap::new(),
            total: Verdict::default(),
            skewed: true,
            strict,
        }
    }

    /// Adds a round and prints its result. Returns whether it had a violation.
    pub(crate) fn add(
        &mut self,
        number: usize,
        on: On,
        faults: &BTreeMap<&'static str, u64>,
        verdict: Verdict,
    ) -> bool {
        let before = self.violations();
        *self.rounds.entry(on.to_string()).or_default() += 1;
        self.add_faults(faults);
        for (operation, count) in verdict.operations {
            *self.total.operations.entry(operation).or_default() += count;
        }
        self.total.queued += verdict.queued;
        for (promise, Judged { judged, violations }) in verdict.promises {
            for violation in violations.iter().take(3) {
                say(&format!("VIOLATED {promise} (round {number}, {on}): {violation}"));
            }
            let all = self.total.promises.entry(promise).or_default();
            all.judged += judged;
            all.violations.extend(violations);
        }
        for (name, mut times) in verdict.times {
            self.total.times.entry(name).or_default().append(&mut times);
        }
        say(&format!(
            "round {number} ({on}), {:.0?} of {:.0?}: {} operations, {} faults, {} violations so far",
            self.began.elapsed(),
            self.span,
            grouped(sum(&self.total.operations)),
            sum(&self.faults),
            self.violations(),
        ));
        self.violations() > before
    }

    /// Prints the folder of a round's notes.
    pub(crate) fn kept(&self, folder: &Path) {
        say(&format!("  its notes: {}", folder.display()));
    }

    pub(crate) fn add_faults(&mut self, faults: &BTreeMap<&'static str, u64>) {
        for (kind, count) in faults {
            *self.faults.entry(kind).or_default() += count;
        }
    }

    /// Reports keys on a server that never expire.
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

    fn head(&self) -> String {
        let version = Version::of(&resolve().unwrap()).unwrap();
        let clocks = if self.skewed { "three in five with clocks that are wrong" } else { "NO CLOCK WRONG" };
        let workers = self.what.plan().workers;
        let rounds: Vec<String> = self.rounds.iter().map(|(on, count)| format!("{count} {on}")).collect();
        let Self { what, turns, seed, .. } = self;
        format!(
            "\n`--what {what} --on {turns}`, seed {seed}, {version}, {workers} processes, {clocks}; \
             rounds: {}; {:.0?}\n",
            rounds.join(", "),
            self.began.elapsed()
        )
    }

    /// Prints the tables.
    ///
    /// # Panics
    ///
    /// If there was a violation, if too little was judged to prove anything, or if a long run did not reach its bars.
    pub(crate) fn finish(&self) {
        let counts = |all: &BTreeMap<&'static str, u64>| {
            let rows = all.iter().map(|(name, count)| format!("| {name} | {} |\n", grouped(*count)));
            rows.chain([format!("| all | {} |\n", grouped(sum(all)))]).collect::<String>()
        };
        let mut text = self.head();
        text += &format!("\n| operations | number |\n|---|---|\n{}", counts(&self.total.operations));
        text += &format!("\n| faults | number |\n|---|---|\n{}", counts(&self.faults));
        text += "\n| promise | judged | violations |\n|---|---|---|\n";
        for (promise, it) in &self.total.promises {
            text += &format!("| {promise} | {} | {} |\n", grouped(it.judged), it.violations.len());
        }
        text += &self.times();
        let missed = self.bars(&mut text);
        say(&text);
        assert_eq!(self.violations(), 0, "seed {}: see above", self.seed);
        let queues = ["locks", "semaphores", "rw"].into_iter().any(|part| self.what.has(part));
        assert!(self.total.queued > 0 || !queues, "seed {}: no order could be judged", self.seed);
        assert!(sum(&self.total.operations) > 500, "seed {}: too little was done", self.seed);
        assert!(!self.strict || missed == 0, "seed {}: {missed} bars not reached", self.seed);
    }

    /// The times that were measured: median and worst.
    fn times(&self) -> String {
        let mut text = String::new();
        if self.total.times.is_empty() {
            return text;
        }
        text += "\n| time | number | median (ms) | worst (ms) |\n|---|---|---|---|\n";
        let mut medians = BTreeMap::new();
        for (name, times) in &self.total.times {
            let mut times = times.clone();
            times.sort_unstable();
            let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
            medians.insert(*name, median);
            text += &format!("| {name} | {} | {} | {} |\n", times.len(), millis(median), millis(worst));
        }
        let of = |name| medians.get(name).map(|median: &u64| *median as f64);
        if let (Some(handover), Some(trip)) = (of("elections: handover after resign"), of("round trip")) {
            text += &format!(
                "\nA handover after `resign` took {:.2} round trips in the median.\n",
                handover / trip
            );
        }
        text
    }

    /// Adds the bars of a long run to `text`, and returns how many it did not reach.
    fn bars(&self, text: &mut String) -> usize {
        let bars = self.what.plan().bars;
        let mut missed = 0;
        if !bars.is_empty() {
            *text += "\n| a long run has to reach | of | reached |\n|---|---|---|\n";
        }
        for bar in bars {
            let (name, bar, reached) = match bar {
                Bar::Operations(bar) => ("operations", *bar, sum(&self.total.operations)),
                Bar::Faults(bar) => ("faults", *bar, sum(&self.faults)),
                Bar::Judged(name, bar) => (*name, *bar, self.judged(name)),
            };
            missed += usize::from(reached < bar);
            *text += &format!("| {name} | {} | {} |\n", grouped(bar), grouped(reached));
        }
        missed
    }

    fn judged(&self, name: &str) -> u64 {
        let judged = self.total.promises.get(name).map(|promise| promise.judged);
        let timed = self.total.times.get(name).map(|times| times.len() as u64);
        judged.or(timed).unwrap_or(0)
    }

    /// Prints what a soak recorded.
    ///
    /// # Panics
    ///
    /// If a measure grew that must not.
    pub(crate) fn finish_soak(&self, rows: &[soak::Row], notes: u64) {
        let mut text = self.head();
        text += &format!("\n{} events of the processes that lived to the end\n", grouped(notes));
        text += "\n| faults | number |\n|---|---|\n";
        for (kind, count) in &self.faults {
            text += &format!("| {kind} | {count} |\n");
        }
        text += &format!("| all | {} |\n\n{}\n", sum(&self.faults), soak::TITLE);
        for row in rows {
            text += &format!("{row}\n");
        }
        let grown = rows.iter().filter(|row| !row.flat).count();
        if self.span < soak::SHORTEST {
            text += &format!("\nNot judged: shorter than {:?}.\n", soak::SHORTEST);
            return say(&text);
        }
        say(&text);
        assert_eq!(grown, 0, "seed {}: see above", self.seed);
    }
}

fn millis(nanos: u64) -> String {
    format!("{:.1}", nanos as f64 / 1e6)
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
