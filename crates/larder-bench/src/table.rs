//! Tables in Markdown, which a terminal shows well enough too.

use std::fmt::Write;

use crate::statistics::Spread;

pub(crate) struct Table {
    text: String,
}

impl Table {
    /// The first column holds words, the others figures.
    pub(crate) fn new(columns: &[&str]) -> Self {
        let mut text = format!("| {} |\n|---|", columns.join(" | "));
        for _ in columns.iter().skip(1) {
            text.push_str("---:|");
        }
        text.push('\n');
        Self { text }
    }

    pub(crate) fn row(&mut self, cells: &[&str]) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "| {} |", cells.join(" | "));
    }

    /// A row that is one already.
    pub(crate) fn line(&mut self, row: &str) {
        self.text.push_str(row);
        self.text.push('\n');
    }

    pub(crate) fn finish(self) -> String {
        self.text
    }
}

/// `0.98`.
pub(crate) fn ratio(number: f64) -> String {
    format!("{number:.2}")
}

/// `0.96–1.01`.
pub(crate) fn interval(spread: Spread) -> String {
    format!("{:.2}–{:.2}", spread.low, spread.high)
}

/// `43.1 (41.0–46.2)`.
pub(crate) fn spread(spread: Spread) -> String {
    format!("{:.1} ({:.1}–{:.1})", spread.median, spread.low, spread.high)
}

/// `71.3k (68.0–74.9k)`.
pub(crate) fn rate(spread: Spread) -> String {
    let thousands = |number: f64| format!("{:.1}", number / 1000.0);
    format!("{}k ({}–{}k)", thousands(spread.median), thousands(spread.low), thousands(spread.high))
}
