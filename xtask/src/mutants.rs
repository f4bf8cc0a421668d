//! `cargo xtask mutants`: each mistake that a lock could be built with, built, and a test that finds it.
//!
//! The problem: a test that has never failed may not be able to. The mechanism: the sources are copied to `target/mutants`, one
//! mistake after the other is put in by replacing a piece of text, which must be there exactly once, and the tests that are to
//! find it are built and must fail. The same tests pass on the copy without any mistake, which is looked at first.
//!
//! Nothing of it stands in the code itself. It is built in a folder of its own, as cargo would take the copy's programs for ours.

mod list;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::run::{Failure, cargo, describe, root};
use list::{MUTANTS, Mutant, Test};

const USAGE: &str = "usage: cargo xtask mutants [WORD…]";
/// A test that hangs has found the mistake, too.
const LIMIT: Duration = Duration::from_secs(150);

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    if arguments.iter().any(|word| word.starts_with('-')) {
        return Err(Failure::usage(USAGE));
    }
    let asked = |mutant: &&Mutant| {
        arguments.is_empty() || arguments.iter().any(|word| mutant.name.contains(word.as_str()))
    };
    let mutants: Vec<&Mutant> = MUTANTS.iter().filter(asked).collect();
    if mutants.is_empty() {
        return Err(Failure::new(format!("no mutant has such a name; there are:\n{}", names())));
    }
    let tree = Tree::copy().map_err(Failure::new)?;
    let mut tests: Vec<Test> = mutants.iter().flat_map(|mutant| mutant.found_by).copied().collect();
    tests.sort_unstable();
    tests.dedup();
    println!("── without a mistake");
    for test in &tests {
        if tree.run(test)? != Verdict::Passed {
            return Err(Failure::new(format!("{test} fails without a mistake")));
        }
        println!("   {test}: passed");
    }
    let mut missed = Vec::new();
    for mutant in &mutants {
        println!("── {}", mutant.name);
        tree.change(mutant)?;
        for test in mutant.found_by {
            let verdict = tree.run(test)?;
            println!("   {test}: {}", verdict.says());
            if verdict == Verdict::Passed {
                missed.push(format!("{} by {test}", mutant.name));
            }
        }
        tree.restore(mutant)?;
    }
    println!("{} mistakes, {} not found", mutants.len(), missed.len());
    if missed.is_empty() { Ok(()) } else { Err(Failure::new(format!("not found: {}", missed.join("; ")))) }
}

fn names() -> String {
    MUTANTS.iter().map(|mutant| format!("  {}\n", mutant.name)).collect()
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

/// A copy of the sources.
struct Tree {
    folder: PathBuf,
    target: PathBuf,
}

impl Tree {
    fn copy() -> io::Result<Self> {
        let target = root().join("target/mutants");
        let folder = target.join("sources");
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        copy_folder(root(), &folder)?;
        Ok(Self { folder, target })
    }

    fn change(&self, mutant: &Mutant) -> Result<(), Failure> {
        for edit in mutant.edits {
            let path = self.folder.join(edit.file);
            let text = fs::read_to_string(&path).map_err(Failure::new)?;
            let found = text.matches(edit.from).count();
            if found != 1 {
                let Mutant { name, .. } = mutant;
                return Err(Failure::new(format!(
                    "{name}: {} has {found} times, not once: {}",
                    edit.file, edit.from
                )));
            }
            fs::write(path, text.replace(edit.from, edit.to)).map_err(Failure::new)?;
        }
        Ok(())
    }

    fn restore(&self, mutant: &Mutant) -> Result<(), Failure> {
        for edit in mutant.edits {
            // Written anew, not copied with its time: cargo must see that it changed.
            let text = fs::read(root().join(edit.file)).map_err(Failure::new)?;
            fs::write(self.folder.join(edit.file), text).map_err(Failure::new)?;
        }
        Ok(())
    }

    /// Builds the test, which must succeed, and runs it.
    fn run(&self, test: &Test) -> Result<Verdict, Failure> {
        let mut build = cargo(&["test", "--locked", "--quiet", "--all-features", "-p", "larder", "--no-run"]);
        match test.target {
            "" => build.arg("--lib"),
            target => build.args(["--test", target]),
        };
        build.args(["--message-format", "json"]).arg("--target-dir").arg(&self.target);
        // The warnings are those of a mistake.
        build.current_dir(&self.folder).stdout(Stdio::piped()).stderr(Stdio::null());
        let output = build.output().map_err(Failure::new)?;
        if !output.status.success() {
            return Err(Failure::new(format!("`{}` failed: build it by hand", describe(&build))));
        }
        let messages = String::from_utf8_lossy(&output.stdout);
        let program = messages.lines().filter_map(executable).next_back();
        let program = program.ok_or_else(|| Failure::new("cargo did not say what it had built"))?;
        let mut run = Command::new(program);
        run.args(["--exact", test.name]).current_dir(self.folder.join("crates/larder"));
        run.env("RUST_BACKTRACE", "0").stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = run.spawn().map_err(Failure::new)?;
        await_end(&mut child).map_err(Failure::new)
    }
}

fn await_end(child: &mut Child) -> io::Result<Verdict> {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(if status.success() { Verdict::Passed } else { Verdict::Failed });
        }
        if began.elapsed() > LIMIT {
            child.kill()?;
            child.wait()?;
            return Ok(Verdict::Hung);
        }
        sleep(Duration::from_millis(20));
    }
}

/// The program of a test that a line of cargo's JSON tells of.
fn executable(line: &str) -> Option<PathBuf> {
    let (_, rest) = line.split_once("\"executable\":\"")?;
    Some(PathBuf::from(rest.split_once('"')?.0))
}

/// All but what is built and what git keeps.
fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        if name == "target" || name == ".git" {
            continue;
        }
        if entry.file_type()?.is_dir() {
            copy_folder(&path, &to.join(name))?;
        } else {
            fs::copy(&path, to.join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_can_be_made_and_names_a_test_that_is_there() {
        for Mutant { name, edits, found_by } in MUTANTS {
            for edit in *edits {
                let text = fs::read_to_string(root().join(edit.file)).unwrap_or_default();
                assert_eq!(text.matches(edit.from).count(), 1, "{name}: {}", edit.from);
                assert_ne!(edit.from, edit.to);
            }
            assert!(!found_by.is_empty(), "{name}");
            for test in *found_by {
                let file = test.file();
                let text = fs::read_to_string(root().join(&file)).unwrap_or_default();
                let function = test.name.rsplit("::").next().unwrap_or_default();
                assert!(text.contains(&format!("fn {function}(")), "{name}: {function} is not in {file}");
            }
        }
    }

    #[test]
    fn the_program_is_found_in_what_cargo_says() {
        let line = r#"{"reason":"compiler-artifact","executable":"/a/b-1","fresh":true}"#;
        assert_eq!(executable(line), Some("/a/b-1".into()));
        assert_eq!(executable(r#"{"reason":"compiler-artifact","executable":null}"#), None);
    }
}
