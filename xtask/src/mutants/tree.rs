//! The copy of the sources that mistakes are built into, and the test programs that are built from it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::mutant::{Edit, Mutant, Test};
use crate::run::{Failure, cargo, describe, root};

/// The environment variable from which the program learns which mistake to make.
const SWITCH: &str = "
/// Whether the mistake of this number is to be made.
pub(crate) fn mutated(number: u32) -> bool {
    static ASKED: std::sync::OnceLock<Option<u32>> = std::sync::OnceLock::new();
    *ASKED.get_or_init(|| std::env::var(\"LARDER_MUTANT\").ok()?.parse().ok()) == Some(number)
}
";
/// The text of a script's file, with the chosen mistake if that is in this file.
const SCRIPT_SWITCH: &str = "
pub(crate) fn mutated_script(file: &str, text: &str) -> String {
    let found = MUTATED_SCRIPTS.iter().filter(|(number, changed, ..)| *changed == file && mutated(*number));
    found.fold(text.to_owned(), |text, (_, _, from, to)| text.replace(from, to))
}
";
const LIB: &str = "crates/larder/src/lib.rs";
const SCRIPT: &str = "crates/larder/src/store/redis/script.rs";
/// The replacements in the file that creates the scripts, so that it chooses their text at run time.
const CHOSEN: [(&str, &str); 5] = [
    ("    source: &'static str,\n", "    source: LazyLock<&'static str>,\n"),
    (
        "source: concat!($(include_str!(concat!(\"lua/\", $file))),+),",
        "source: LazyLock::new(|| {
            let files = [$(crate::mutated_script($file, include_str!(concat!(\"lua/\", $file)))),+];
            files.concat().leak()
        }),",
    ),
    ("sha1_smol::Sha1::from($name.source)", "sha1_smol::Sha1::from(*$name.source)"),
    ("        self.source\n", "        *self.source\n"),
    (".arg(self.source)", ".arg(*self.source)"),
];

/// Test programs by target.
pub(super) type Programs = BTreeMap<&'static str, PathBuf>;

pub(super) struct Tree {
    /// The sources as they were when the run began.
    pristine: PathBuf,
    folder: PathBuf,
    target: PathBuf,
    /// The files that differ from the sources.
    changed: Vec<String>,
}

impl Tree {
    /// Creates the copy, or updates it. Writes only files that differ, so that cargo builds only what changed.
    pub(super) fn copy() -> io::Result<Self> {
        let target = root().join("target/mutants");
        let (pristine, folder) = (target.join("pristine"), target.join("sources"));
        copy_folder(root(), &pristine)?;
        copy_folder(&pristine, &folder)?;
        Ok(Self { pristine, folder, target, changed: Vec::new() })
    }

    /// The folder in which the test programs run.
    pub(super) fn crate_folder(&self) -> PathBuf {
        self.folder.join("crates/larder")
    }

    /// Applies one mistake.
    pub(super) fn make(&mut self, mutant: &Mutant) -> Result<(), Failure> {
        let mut files = BTreeMap::new();
        for edit in mutant.edits {
            let text = self.source(&mut files, edit.file)?;
            check_applies(mutant, edit, text)?;
            *text = text.replace(&edit.original(), &edit.mistaken());
        }
        self.write(files)
    }

    /// Applies the mistakes that the program chooses from at run time, each with its position in the list as its
    /// number. Returns the numbers of those that must wait for another build, because their text overlaps that of an
    /// earlier one.
    pub(super) fn make_switched(&mut self, mutants: &[(usize, &Mutant)]) -> Result<Vec<usize>, Failure> {
        let mut files = BTreeMap::new();
        self.source(&mut files, LIB)?.push_str(SWITCH);
        let script = self.source(&mut files, SCRIPT)?;
        for (from, to) in CHOSEN {
            if script.matches(from).count() != 1 {
                return Err(Failure::new(format!("{SCRIPT} has not once: {from}")));
            }
            *script = script.replace(from, to);
        }
        let (mut scripts, mut deferred) = (String::new(), Vec::new());
        for (number, mutant) in mutants {
            let mut edited = files.clone();
            let mut fits = true;
            for edit in mutant.edits {
                check_applies(mutant, edit, self.source(&mut BTreeMap::new(), edit.file)?)?;
                if let Some(script) = edit.script() {
                    let (from, to) = (edit.original(), edit.mistaken());
                    scripts += &format!("    ({number}, {script:?}, {from:?}, {to:?}),\n");
                    continue;
                }
                let text = self.source(&mut edited, edit.file)?;
                let original = edit.original();
                fits &= text.matches(&original).count() == 1;
                *text = text.replace(&original, &edit.switch(*number));
            }
            if fits { files = edited } else { deferred.push(*number) }
        }
        let lib = self.source(&mut files, LIB)?;
        lib.push_str(SCRIPT_SWITCH);
        *lib += &format!("\nconst MUTATED_SCRIPTS: &[(u32, &str, &str, &str)] = &[\n{scripts}];\n");
        self.write(files)?;
        Ok(deferred)
    }

    /// A file as it is in the unchanged copy, or as an earlier edit of the same build has left it.
    fn source<'a>(
        &self,
        files: &'a mut BTreeMap<String, String>,
        file: &str,
    ) -> Result<&'a mut String, Failure> {
        match files.entry(file.to_owned()) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(vacant) => {
                let text = fs::read_to_string(self.pristine.join(file));
                Ok(vacant.insert(text.map_err(|error| Failure::new(format!("{file}: {error}")))?))
            }
        }
    }

    fn write(&mut self, files: BTreeMap<String, String>) -> Result<(), Failure> {
        // Restores the files that an earlier mistake changed and this one does not.
        for file in std::mem::take(&mut self.changed) {
            if !files.contains_key(&file) {
                let text = fs::read(self.pristine.join(&file)).map_err(Failure::new)?;
                fs::write(self.folder.join(&file), text).map_err(Failure::new)?;
            }
        }
        for (file, text) in files {
            fs::write(self.folder.join(&file), text).map_err(Failure::new)?;
            self.changed.push(file);
        }
        Ok(())
    }

    /// Builds the programs of these tests, all at once.
    pub(super) fn build(&self, tests: &[Test]) -> Result<Programs, Failure> {
        let mut build = cargo(&["test", "--locked", "--quiet", "--all-features", "-p", "larder", "--no-run"]);
        let mut targets: Vec<&str> = tests.iter().map(|test| test.target).collect();
        targets.sort_unstable();
        targets.dedup();
        for target in &targets {
            match *target {
                "" => build.arg("--lib"),
                target => build.args(["--test", target]),
            };
        }
        build.args(["--message-format", "json-render-diagnostics"]).arg("--target-dir").arg(&self.target);
        // Without line tables the programs link faster.
        build.env("CARGO_PROFILE_DEV_DEBUG", "false");
        build.current_dir(&self.folder).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = build.output().map_err(Failure::new)?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            return Err(Failure::new(format!("`{}` failed:\n{why}", describe(&build))));
        }
        let messages = String::from_utf8_lossy(&output.stdout);
        let built: Vec<(&str, PathBuf)> = messages.lines().filter_map(executable).collect();
        targets
            .into_iter()
            .map(|target| {
                let name = if target.is_empty() { "larder" } else { target };
                let program = built.iter().find(|(built, _)| *built == name);
                let program = program.ok_or_else(|| Failure::new(format!("cargo did not build {name}")))?;
                Ok((target, program.1.clone()))
            })
            .collect()
    }
}

fn check_applies(mutant: &Mutant, edit: &Edit, text: &str) -> Result<(), Failure> {
    let original = edit.original();
    match text.matches(&original).count() {
        1 => Ok(()),
        found => Err(Failure::new(format!(
            "{}: {} has {found} times, not once: {original}",
            mutant.name, edit.file
        ))),
    }
}

/// The target and the test program in a line of cargo's JSON.
fn executable(line: &str) -> Option<(&str, PathBuf)> {
    let (_, rest) = line.split_once("\"executable\":\"")?;
    let program = PathBuf::from(rest.split_once('"')?.0);
    let (_, target) = line.split_once("\"target\":{")?;
    let (_, name) = target.split_once("\"name\":\"")?;
    Some((name.split_once('"')?.0, program))
}

/// Copies everything except build results and git's data, and removes files that the sources no longer have.
fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(to)? {
        let entry = entry?;
        if !from.join(entry.file_name()).exists() {
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        if name == "target" || name == ".git" {
            continue;
        }
        let copy = to.join(name);
        // A link to a folder, such as crates/larder/docs, becomes a folder.
        if path.is_dir() {
            copy_folder(&path, &copy)?;
        } else {
            let text = fs::read(&path)?;
            if fs::read(&copy).ok().as_ref() != Some(&text) {
                fs::write(copy, text)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_in_what_cargo_says() {
        let line = r#"{"reason":"x","target":{"kind":["test"],"name":"near","doc":1},"executable":"/a/b-1"}"#;
        assert_eq!(executable(line), Some(("near", "/a/b-1".into())));
        assert_eq!(executable(r#"{"reason":"compiler-artifact","executable":null}"#), None);
    }
}
