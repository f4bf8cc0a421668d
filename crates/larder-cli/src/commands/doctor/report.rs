//! What the checks found, and how it is printed.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::table::{CHECKS, Check, check};

/// The result of a check, from harmless to severe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// It does not concern this server.
    Inapplicable,
    Good,
    /// The server did not say: a right is missing, or the connection broke.
    Unmeasured,
    Warning,
    Problem,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Self::Inapplicable => "inapplicable",
            Self::Good => "good",
            Self::Unmeasured => "unmeasured",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }

    /// The sign at the beginning of a line, and its colour.
    fn sign(self) -> (&'static str, &'static str) {
        match self {
            Self::Inapplicable => ("-", "2"),
            Self::Good => ("✓", "32"),
            Self::Unmeasured => ("?", "36"),
            Self::Warning => ("!", "33"),
            Self::Problem => ("✗", "31"),
        }
    }
}

/// One check's result.
#[derive(Debug, Clone)]
pub(crate) struct Finding {
    pub(crate) check: &'static Check,
    pub(crate) verdict: Verdict,
    pub(crate) measured: String,
    pub(crate) fix: Option<String>,
}

/// The results so far. A check that was not asked for is left out.
#[derive(Debug)]
pub(crate) struct Report {
    wanted: Vec<u8>,
    findings: Vec<Finding>,
}

impl Report {
    pub(crate) fn new(wanted: Vec<u8>) -> Self {
        Self { wanted, findings: Vec::new() }
    }

    /// Whether any of these checks was asked for.
    pub(crate) fn wants(&self, numbers: &[u8]) -> bool {
        numbers.iter().any(|number| self.wanted.contains(number))
    }

    pub(crate) fn good(&mut self, number: u8, measured: impl Into<String>) {
        self.record(number, Verdict::Good, measured.into(), None);
    }

    pub(crate) fn warning(&mut self, number: u8, measured: impl Into<String>, fix: impl Into<String>) {
        self.record(number, Verdict::Warning, measured.into(), Some(fix.into()));
    }

    pub(crate) fn problem(&mut self, number: u8, measured: impl Into<String>, fix: impl Into<String>) {
        self.record(number, Verdict::Problem, measured.into(), Some(fix.into()));
    }

    /// The check has no result, for this reason.
    pub(crate) fn unmeasured(&mut self, number: u8, why: impl Into<String>) {
        self.record(number, Verdict::Unmeasured, why.into(), None);
    }

    /// The check does not concern this server, for this reason.
    pub(crate) fn inapplicable(&mut self, number: u8, why: impl Into<String>) {
        self.record(number, Verdict::Inapplicable, why.into(), None);
    }

    /// Keeps the most severe result of a check: several nodes may have one each.
    fn record(&mut self, number: u8, verdict: Verdict, measured: String, fix: Option<String>) {
        let Some(check) = check(number).filter(|check| self.wanted.contains(&check.number)) else { return };
        let finding = Finding { check, verdict, measured, fix };
        match self.findings.iter_mut().find(|earlier| earlier.check.number == number) {
            Some(earlier) if earlier.verdict < verdict => *earlier = finding,
            Some(_) => {}
            None => self.findings.push(finding),
        }
    }

    /// Gives every check without a result this reason, and sorts by number.
    pub(crate) fn finish(&mut self, reason: &str) {
        for check in CHECKS {
            if !self.findings.iter().any(|finding| finding.check.number == check.number) {
                self.unmeasured(check.number, format!("{}: not measured ({reason})", check.title));
            }
        }
        self.findings.sort_by_key(|finding| finding.check.number);
    }

    #[cfg(test)]
    fn findings(&self) -> &[Finding] {
        &self.findings
    }

    pub(crate) fn count(&self, verdict: Verdict) -> usize {
        self.findings.iter().filter(|finding| finding.verdict == verdict).count()
    }

    /// Renders the findings for people, at most `width` columns wide; `verbose` shows what does not apply, too.
    pub(crate) fn text(&self, width: usize, colour: bool, verbose: bool) -> String {
        let mut out = String::new();
        for finding in &self.findings {
            if finding.verdict > Verdict::Inapplicable || verbose {
                write_finding(&mut out, finding, width, colour);
            }
        }
        let shown = self.findings.len() - self.count(Verdict::Inapplicable);
        let plural = |count: usize, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
        let mut parts = vec![format!("{} good", self.count(Verdict::Good))];
        for (verdict, word) in [(Verdict::Warning, "warning"), (Verdict::Problem, "problem")] {
            if self.count(verdict) > 0 {
                parts.push(plural(self.count(verdict), word));
            }
        }
        if self.count(Verdict::Unmeasured) > 0 {
            parts.push(format!("{} not measured", self.count(Verdict::Unmeasured)));
        }
        let _ = writeln!(out, " {}: {}", plural(shown, "check"), parts.join(", "));
        out
    }

    /// The findings as one document. docs/cli.md describes its shape.
    pub(crate) fn json(&self, used_for: &str, server: &str) -> Value {
        let findings: Vec<Value> = self
            .findings
            .iter()
            .map(|finding| {
                json!({
                    "id": finding.check.id(),
                    "group": finding.check.group.name(),
                    "title": finding.check.title,
                    "verdict": finding.verdict.name(),
                    "measured": finding.measured,
                    "why": finding.check.why,
                    "fix": finding.fix,
                    "docs": finding.check.link,
                })
            })
            .collect();
        json!({
            "use": used_for,
            "server": server,
            "good": self.count(Verdict::Good),
            "warnings": self.count(Verdict::Warning),
            "problems": self.count(Verdict::Problem),
            "unmeasured": self.count(Verdict::Unmeasured),
            "findings": findings,
        })
    }
}

const INDENT: usize = 7;

fn write_finding(out: &mut String, finding: &Finding, width: usize, colour: bool) {
    let (sign, code) = finding.verdict.sign();
    let sign = if colour { format!("\x1b[{code}m{sign}\x1b[0m") } else { sign.to_owned() };
    let bad = finding.verdict >= Verdict::Warning;
    let measured = crate::output::escape::text(&finding.measured);
    let line = if bad { format!("{measured}: {}.", finding.check.why) } else { measured.into_owned() };
    let _ = write!(out, " {sign} {} ", finding.check.id());
    let _ = writeln!(out, "{}", wrap(&line, width));
    if let Some(fix) = &finding.fix {
        let fix = format!("Fix: {}.", crate::output::escape::text(fix));
        let _ = writeln!(out, "{:INDENT$}{}", "", wrap(&fix, width));
    }
    if bad {
        let link = finding.check.link;
        let link = if colour { format!("\x1b[2m{link}\x1b[0m") } else { link.to_owned() };
        let _ = writeln!(out, "{:INDENT$}{link}", "");
    }
}

/// Breaks lines between words, and indents all but the first one.
fn wrap(text: &str, width: usize) -> String {
    let room = width.saturating_sub(INDENT).max(30);
    let (mut out, mut column) = (String::new(), 0);
    for word in text.split(' ') {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > room {
            let _ = write!(out, "\n{:INDENT$}", "");
            column = 0;
        } else if column > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_severe_result_of_a_check_is_kept_and_others_are_filled_in() {
        let mut report = Report::new(vec![1, 11, 12]);
        report.warning(11, "a", "b");
        report.good(11, "c");
        report.problem(11, "d", "e");
        report.good(41, "not asked for");
        report.good(1, "f");
        report.finish("the connection broke");
        let verdicts: Vec<_> = report.findings().iter().map(|f| (f.check.number, f.verdict)).collect();
        assert_eq!(verdicts, [(1, Verdict::Good), (11, Verdict::Problem), (12, Verdict::Unmeasured)]);
    }

    #[test]
    fn lines_are_wrapped_between_words_and_end_with_a_summary() {
        let mut report = Report::new(vec![1, 11]);
        report.good(1, "127.0.0.1:6379 answers");
        report.problem(11, "maxmemory-policy is allkeys-lfu and 12 locks live here", "use a second server");
        report.finish("");
        let text = report.text(60, false, false);
        assert_eq!(
            text,
            " ✓ L01 127.0.0.1:6379 answers\n \
             ✗ L11 maxmemory-policy is allkeys-lfu and 12 locks live\n       \
             here: an evicted lock is free, and an evicted limit\n       \
             starts at zero.\n       \
             Fix: use a second server.\n       \
             docs/locks.md#choosing-a-server\n 2 checks: 1 good, 1 problem\n"
        );
        assert!(report.text(60, true, false).contains("\x1b[31m✗\x1b[0m"));
        assert_eq!(report.json("all", "s").pointer("/findings/1/id"), Some(&json!("L11")));
    }
}
