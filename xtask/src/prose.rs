//! `cargo xtask prose`: the words that this project does not use, and the width of comments and pages.
//!
//! The words read as if translated, or have a private meaning; see CONTRIBUTING.md for what to write instead.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::run::{Failure, root};

/// Words and phrases, in lower case, matched as whole words.
const RULED_OUT: &[&str] = &[
    "anew",
    "whoever",
    "dear to",
    "stand in the way",
    "stands in the way",
    "believe",
    "believes",
    "believed",
    "told of",
    "heard of",
    "nobody",
];
const WIDTH: usize = 120;
/// Where the words are looked for.
const PLACES: &[&str] = &[
    "crates",
    "docs",
    "examples",
    "ops",
    "xtask",
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "compose.yaml",
    "redis-management.sh",
];
/// Exceptions, one a line: a path, a tab, a part of the line, a tab, and the reason.
const ALLOWED: &str = "xtask/prose-allowed.tsv";

pub(crate) fn run() -> Result<(), Failure> {
    let allowed = fs::read_to_string(root().join(ALLOWED)).map_err(Failure::new)?;
    let allowed = read_allowed(&allowed)?;
    let listed = Command::new("git")
        .current_dir(root())
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "--"])
        .args(PLACES)
        .output()
        .map_err(Failure::new)?;
    let mut found = Vec::new();
    for path in String::from_utf8_lossy(&listed.stdout).lines().filter(|path| *path != ALLOWED) {
        let Some(kind) = Kind::of(path) else { continue };
        // A deleted file is still listed until the deletion is committed.
        let Ok(text) = fs::read_to_string(root().join(path)) else { continue };
        for (number, complaint) in complaints_of(kind, &text, |line| {
            allowed.iter().any(|(allowed, part)| *allowed == path && line.contains(part.as_str()))
        }) {
            found.push(format!("{path}:{number}: {complaint}"));
        }
    }
    if found.is_empty() {
        return Ok(());
    }
    for line in &found {
        println!("{line}");
    }
    Err(Failure::new(format!("{} lines to reword or to break", found.len())))
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Every line is prose, or a table, or an example.
    Page,
    /// Comments start with these characters.
    Source(&'static str),
}

impl Kind {
    fn of(path: &str) -> Option<Self> {
        match Path::new(path).extension()?.to_str()? {
            "md" => Some(Self::Page),
            "rs" => Some(Self::Source("//")),
            "lua" => Some(Self::Source("--")),
            "sh" | "yaml" | "yml" | "toml" => Some(Self::Source("#")),
            _ => None,
        }
    }
}

/// The path and the part of the line of each exception.
fn read_allowed(text: &str) -> Result<Vec<(&str, String)>, Failure> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| match line.split('\t').collect::<Vec<_>>().as_slice() {
            [path, part, reason] if !part.is_empty() && !reason.is_empty() => Ok((*path, (*part).to_owned())),
            _ => Err(Failure::new(format!("{ALLOWED}: not a path, a part and a reason: `{line}`"))),
        })
        .collect()
}

/// The complaints about a file, with the number of the line. A table that a program writes may be wide: it is
/// between `<!-- figures:NAME -->` and `<!-- /figures -->`.
fn complaints_of(kind: Kind, text: &str, pardoned: impl Fn(&str) -> bool) -> Vec<(usize, String)> {
    let (mut found, mut generated) = (Vec::new(), false);
    for (number, line) in text.lines().enumerate() {
        generated = line.starts_with("<!-- figures:") || generated && line != "<!-- /figures -->";
        let is_table = generated && line.starts_with("| ");
        let width = if is_table { usize::MAX } else { WIDTH };
        if !pardoned(line) {
            found.extend(complaints(kind, line, width).into_iter().map(|complaint| (number + 1, complaint)));
        }
    }
    found
}

fn complaints(kind: Kind, line: &str, most: usize) -> Vec<String> {
    let mut complaints = Vec::new();
    let lower = line.to_lowercase();
    for words in RULED_OUT {
        if holds_words(&lower, words) {
            complaints.push(format!("`{words}`"));
        }
    }
    let is_prose = match kind {
        Kind::Page => true,
        Kind::Source(comment) => line.trim_start().starts_with(comment),
    };
    let width = line.chars().count();
    if is_prose && width > most {
        complaints.push(format!("{width} columns, {most} at most"));
    }
    complaints
}

/// Whether `words` occurs in `line` with no letter or digit next to it. As for `\b` of a regular expression, `_` is a
/// letter.
fn holds_words(line: &str, words: &str) -> bool {
    let is_letter = |character: char| character.is_alphanumeric() || character == '_';
    line.match_indices(words).any(|(start, found)| {
        let before = line.get(..start).and_then(|text| text.chars().next_back());
        let after = line.get(start + found.len()..).and_then(|text| text.chars().next());
        !before.is_some_and(is_letter) && !after.is_some_and(is_letter)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_found_whole_and_in_any_case() {
        assert!(holds_words("who is told of it", "told of"));
        assert!(!holds_words("renewed, newanew_", "anew"));
        assert_eq!(complaints(Kind::Source("//"), "let x = 1; // Whoever comes", WIDTH).len(), 1);
    }

    #[test]
    fn the_width_of_comments_and_pages_is_bounded_and_that_of_code_is_not() {
        let wide = "x".repeat(WIDTH);
        assert_eq!(complaints(Kind::Page, &format!("{wide}x"), WIDTH).len(), 1);
        assert_eq!(complaints(Kind::Source("//"), &format!("    // {wide}"), WIDTH).len(), 1);
        assert_eq!(complaints(Kind::Source("//"), &format!("let x = \"{wide}\";"), WIDTH).len(), 0);
        assert_eq!(complaints(Kind::Page, &"ü".repeat(WIDTH), WIDTH).len(), 0);
    }

    #[test]
    fn only_a_generated_table_may_be_wide_and_its_words_are_checked() {
        let wide = format!("| {} |", "x".repeat(WIDTH));
        let at = |text: &str| -> Vec<usize> {
            complaints_of(Kind::Page, text, |_| false).into_iter().map(|(number, _)| number).collect()
        };
        let page =
            format!("{wide}\n<!-- figures:x -->\n{wide}\n| anew |\nx{wide}\n<!-- /figures -->\n{wide}");
        assert_eq!(at(&page), [1, 4, 5, 7]);
    }

    #[test]
    fn a_pardon_has_a_reason() {
        assert!(read_allowed("a.md\tanew\tquoted").is_ok());
        assert!(read_allowed("a.md\tanew").is_err());
    }
}
