//! A mistake: a name, the edits that make it, and the tests that must find it.

use std::fmt;

/// Where the scripts are.
const SCRIPTS: &str = "crates/larder/src/store/redis/lua/";

/// A mistake in the code.
pub(super) struct Mutant {
    pub(super) name: &'static str,
    pub(super) edits: &'static [Edit],
    /// Every one of these tests must fail.
    pub(super) found_by: &'static [Test],
}

/// A piece of text to replace. Create one with [`switched`], [`within`] or [`rebuilt`].
pub(super) struct Edit {
    pub(super) file: &'static str,
    /// The text before it, which stays.
    before: &'static str,
    from: &'static str,
    to: &'static str,
    /// The text after it, which stays. All three together occur in the file exactly once.
    after: &'static str,
    pub(super) is_switched: bool,
}

/// A test of the crate larder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Test {
    /// A file in tests/; empty for a unit test.
    pub(super) target: &'static str,
    /// Its whole name.
    pub(super) name: &'static str,
}

pub(super) const fn mutant(name: &'static str, edits: &'static [Edit], found_by: &'static [Test]) -> Mutant {
    Mutant { name, edits, found_by }
}

/// Replaces one complete Rust expression (or statements that end in `;` or `}`) by another of the same type.
///
/// Both are compiled, and the program chooses between them when it runs. All such mistakes share one build, so prefer
/// this. It does not work for `const` items, patterns or attributes.
pub(super) const fn switched(file: &'static str, from: &'static str, to: &'static str) -> Edit {
    Edit { file, before: "", from, to, after: "", is_switched: true }
}

/// The same for an expression that occurs in the file several times: the text before and after it says which is meant.
pub(super) const fn within(
    file: &'static str,
    before: &'static str,
    [from, to]: [&'static str; 2],
    after: &'static str,
) -> Edit {
    Edit { file, before, from, to, after, is_switched: true }
}

/// Replaces any text, at the cost of a build of its own. Scripts are an exception: both versions are built in.
pub(super) const fn rebuilt(file: &'static str, from: &'static str, to: &'static str) -> Edit {
    Edit { file, before: "", from, to, after: "", is_switched: false }
}

/// A unit test: its path in the crate.
pub(super) const fn unit(name: &'static str) -> Test {
    Test { target: "", name }
}

/// A test in a file of tests/.
pub(super) const fn test(target: &'static str, name: &'static str) -> Test {
    Test { target, name }
}

impl Mutant {
    /// Whether the program can choose at run time to make the mistake.
    pub(super) fn is_switched(&self) -> bool {
        self.edits.iter().all(|edit| edit.is_switched || edit.script().is_some())
    }
}

impl Edit {
    /// The script that the edit changes, by the name of its file in `script.rs`, if it changes one.
    pub(super) fn script(&self) -> Option<&'static str> {
        self.file.strip_prefix(SCRIPTS).filter(|file| file.ends_with(".lua"))
    }

    /// The text that must be in the file.
    pub(super) fn original(&self) -> String {
        [self.before, self.from, self.after].concat()
    }

    /// The text that replaces it.
    pub(super) fn mistaken(&self) -> String {
        [self.before, self.to, self.after].concat()
    }

    /// The text that replaces it if the program makes the mistake when it is asked for this number.
    pub(super) fn switch(&self, number: usize) -> String {
        let Self { before, from, to, after, .. } = self;
        let chosen = format!("if crate::mutated({number}) {{ {to} }} else {{ {from} }}");
        if from.ends_with([';', '}']) {
            format!("{before}{chosen}{after}")
        } else {
            format!("{before}({chosen}){after}")
        }
    }
}

impl Test {
    /// The files that may contain the text; one of them does.
    #[cfg(test)]
    pub(super) fn files(&self) -> Vec<String> {
        if !self.target.is_empty() {
            let (target, module) = (self.target, self.name.split("::").next().unwrap_or_default());
            return vec![
                format!("crates/larder/tests/{target}.rs"),
                format!("crates/larder/tests/{target}/main.rs"),
                format!("crates/larder/tests/{target}/{module}.rs"),
                format!("crates/larder/tests/{module}/mod.rs"),
            ];
        }
        let modules: Vec<&str> = self.name.split("::").collect();
        let mut files = Vec::new();
        for end in 1..modules.len() {
            let path = modules.get(..end).unwrap_or_default().join("/");
            files
                .extend([format!("crates/larder/src/{path}.rs"), format!("crates/larder/src/{path}/mod.rs")]);
        }
        files
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.target.is_empty() {
            write!(f, "{}", self.name)
        } else {
            write!(f, "{}::{}", self.target, self.name)
        }
    }
}
