//! `cargo xtask mutants`: builds larder with one mistake after the other, and checks that a test finds each.
//!
//! The problem: a test that has never failed may be unable to fail. The mechanism: the sources are copied to
//! `target/mutants`, and each mistake is made in the copy by replacing a piece of text, which must occur exactly once.
//! The tests that should find the mistake run, and must fail. Before that, the same tests pass on the copy without a
//! mistake.
//!
//! A build takes longer than a test. So if a mistake replaces one expression by another, both are built into the copy,
//! and the program chooses between them when it runs. All those mistakes share one build, and so do all mistakes in
//! scripts. The other mistakes are built one by one.
//!
//! The code itself contains none of this. The copy has its own target folder; otherwise cargo would confuse its
//! programs with those of the sources.

mod cache;
mod connection;
mod elections;
mod failovers;
mod formats;
mod groups;
mod invalidation;
mod jobs;
mod limits;
mod locks;
mod mutant;
mod near;
mod rw_locks;
mod semaphores;
mod several;
mod testing;
mod tree;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use crate::run::{Failure, beside_each_other};
use mutant::{Mutant, Test};
use tree::{Programs, Tree};

const USAGE: &str = "usage: cargo xtask mutants [AREA|WORD…]";

const AREAS: &[(&str, &[Mutant])] = &[
    ("locks", locks::MUTANTS),
    ("semaphores", semaphores::MUTANTS),
    ("jobs", jobs::MUTANTS),
    ("elections", elections::MUTANTS),
    ("rw_locks", rw_locks::MUTANTS),
    ("several", several::MUTANTS),
    ("groups", groups::MUTANTS),
    ("failovers", failovers::MUTANTS),
    ("cache", cache::MUTANTS),
    ("near", near::MUTANTS),
    ("invalidation", invalidation::MUTANTS),
    ("connection", connection::MUTANTS),
    ("formats", formats::MUTANTS),
    ("limits", limits::MUTANTS),
    ("testing", testing::MUTANTS),
];

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    if arguments.iter().any(|word| word.starts_with('-')) {
        return Err(Failure::usage(USAGE));
    }
    let mutants = chosen(arguments);
    if mutants.is_empty() {
        return Err(Failure::new(format!("no area or mutant has such a name; there are:\n{}", names())));
    }
    let mut run =
        Run { tree: Tree::copy().map_err(Failure::new)?, limits: BTreeMap::new(), missed: Vec::new() };
    let (switched, rebuilt): (Vec<_>, Vec<_>) =
        mutants.iter().copied().enumerate().partition(|(_, mutant)| mutant.is_switched());
    run.without_a_mistake(&switched, &mutants)?;
    run.switched(switched)?;
    for (_, mutant) in rebuilt {
        run.rebuilt(mutant)?;
    }
    println!("{} mistakes, {} complaints", mutants.len(), run.missed.len());
    if run.missed.is_empty() {
        Ok(())
    } else {
        Err(Failure::new(format!("not found:\n  {}", run.missed.join("\n  "))))
    }
}

/// The mutants of a named area, and those whose names contain one of the words; without words, all.
fn chosen(words: &[String]) -> Vec<&'static Mutant> {
    let mut chosen = Vec::new();
    for (area, mutants) in AREAS {
        let whole = words.is_empty() || words.iter().any(|word| word == area);
        let asked = |mutant: &Mutant| words.iter().any(|word| mutant.name.contains(word.as_str()));
        chosen.extend(mutants.iter().filter(|mutant| whole || asked(mutant)));
    }
    chosen
}

fn names() -> String {
    let mut names = String::new();
    for (area, mutants) in AREAS {
        for mutant in *mutants {
            names += &format!("  {area}: {}\n", mutant.name);
        }
    }
    names
}

fn tests<'a>(mutants: impl IntoIterator<Item = &'a &'static Mutant>) -> Vec<Test> {
    let mut tests: Vec<Test> =
        mutants.into_iter().flat_map(|mutant: &&'static Mutant| mutant.found_by).copied().collect();
    tests.sort_unstable();
    tests.dedup();
    tests
}

struct Run {
    tree: Tree,
    /// How long a test may take before it counts as hanging, derived from how long it takes without a mistake.
    limits: BTreeMap<Test, Duration>,
    missed: Vec<String>,
}

impl Run {
    /// Runs all tests on the copy without a mistake: they must pass. A test that fails is left out of the rest of the
    /// run.
    fn without_a_mistake(
        &mut self,
        switched: &[(usize, &'static Mutant)],
        all: &[&'static Mutant],
    ) -> Result<(), Failure> {
        println!("── without a mistake");
        self.tree.make_switched(switched)?;
        let tests = tests(all);
        let programs = self.tree.build(&tests)?;
        let folder = self.tree.crate_folder();
        let verdicts = beside_each_other(&tests, processors(), |test| {
            let began = Instant::now();
            let verdict = run_test(&programs, test, &folder, None, Duration::from_secs(300))?;
            Ok((verdict, began.elapsed()))
        })?;
        for (test, (verdict, took)) in tests.iter().zip(verdicts) {
            let passed = verdict == Verdict::Passed;
            println!("   {test}: {}, {:.1} s", if passed { "passed" } else { "FAILED" }, took.as_secs_f64());
            if passed {
                self.limits.insert(*test, Duration::from_secs(30) + 5 * took);
            } else {
                self.missed.push(format!("{test} fails without a mistake"));
            }
        }
        Ok(())
    }

    /// Runs the mistakes that share builds.
    fn switched(&mut self, mut left: Vec<(usize, &'static Mutant)>) -> Result<(), Failure> {
        while !left.is_empty() {
            let deferred = self.tree.make_switched(&left)?;
            let (later, now): (Vec<_>, Vec<_>) =
                left.iter().copied().partition(|(number, _)| deferred.contains(number));
            let programs = self.tree.build(&tests(now.iter().map(|(_, mutant)| mutant)))?;
            let pairs: Vec<(usize, &Mutant, Test)> = now
                .iter()
                .flat_map(|(number, mutant)| mutant.found_by.iter().map(|test| (*number, *mutant, *test)))
                .filter(|(_, _, test)| self.limits.contains_key(test))
                .collect();
            let folder = self.tree.crate_folder();
            let limits = &self.limits;
            let verdicts = beside_each_other(&pairs, processors(), |(number, mutant, test)| {
                let verdict = run_test(&programs, test, &folder, Some(*number), limit(limits, test))?;
                println!("── {}\n   {test}: {}", mutant.name, verdict.says());
                Ok(verdict)
            })?;
            for ((_, mutant, test), verdict) in pairs.iter().zip(verdicts) {
                self.note(mutant, test, verdict);
            }
            left = later;
        }
        Ok(())
    }

    /// Runs a mistake that needs its own build.
    fn rebuilt(&mut self, mutant: &'static Mutant) -> Result<(), Failure> {
        println!("── {}", mutant.name);
        self.tree.make(mutant)?;
        let programs = self.tree.build(mutant.found_by)?;
        let folder = self.tree.crate_folder();
        for test in mutant.found_by {
            if !self.limits.contains_key(test) {
                continue;
            }
            let verdict = run_test(&programs, test, &folder, None, limit(&self.limits, test))?;
            println!("   {test}: {}", verdict.says());
            self.note(mutant, test, verdict);
        }
        Ok(())
    }

    fn note(&mut self, mutant: &Mutant, test: &Test, verdict: Verdict) {
        if verdict == Verdict::Passed {
            self.missed.push(format!("{} by {test}", mutant.name));
        }
    }
}

fn limit(limits: &BTreeMap<Test, Duration>, test: &Test) -> Duration {
    limits.get(test).copied().unwrap_or(Duration::from_secs(150))
}

fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Passed,
    Failed,
    Hung,
}

impl Verdict {
    fn says(self) -> &'static str {
        match self {
            Self::Passed => "PASSED, and so finds nothing",
            Self::Failed => "found",
            Self::Hung => "found, it hangs",
        }
    }
}

fn run_test(
    programs: &Programs,
    test: &Test,
    folder: &Path,
    number: Option<usize>,
    limit: Duration,
) -> Result<Verdict, Failure> {
    let program = programs.get(test.target).ok_or_else(|| Failure::new(test))?;
    let mut run = Command::new(program);
    run.args(["--exact", test.name]).current_dir(folder);
    run.env("RUST_BACKTRACE", "0").env_remove("LARDER_MUTANT").stdout(Stdio::null()).stderr(Stdio::null());
    if let Some(number) = number {
        run.env("LARDER_MUTANT", number.to_string());
    }
    let mut child = run.spawn().map_err(Failure::new)?;
    await_end(&mut child, limit).map_err(Failure::new)
}

fn await_end(child: &mut Child, limit: Duration) -> io::Result<Verdict> {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(if status.success() { Verdict::Passed } else { Verdict::Failed });
        }
        if began.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            return Ok(Verdict::Hung);
        }
        sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::run::root;

    #[test]
    fn every_mistake_can_be_made_and_names_a_test_that_is_there() {
        let mut wrong = Vec::new();
        for Mutant { name: mutant, edits, found_by } in AREAS.iter().flat_map(|(_, mutants)| *mutants) {
            for edit in *edits {
                let text = fs::read_to_string(root().join(edit.file)).unwrap_or_default();
                let original = edit.original();
                let found = text.matches(&original).count();
                if found != 1 || original == edit.mistaken() {
                    wrong.push(format!("{mutant}: {} has {found} times: {original}", edit.file));
                }
            }
            for test in *found_by {
                // A macro may generate the test from its name.
                let name = test.name.rsplit("::").next().unwrap_or_default();
                let (function, made) = (format!("fn {name}("), format!("{name}: "));
                let holds = |file: &String| {
                    fs::read_to_string(root().join(file))
                        .is_ok_and(|text| text.contains(&function) || text.contains(&made))
                };
                if !test.files().iter().any(holds) {
                    wrong.push(format!("{mutant}: there is no test {test}"));
                }
            }
            if edits.is_empty() || found_by.is_empty() {
                wrong.push(format!("{mutant}: no edit or no test"));
            }
        }
        assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    }

    #[test]
    fn no_two_mistakes_have_the_same_name() {
        let mut names: Vec<&str> = AREAS.iter().flat_map(|(_, mutants)| *mutants).map(|it| it.name).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all, "two mistakes have one name");
    }
}
