//! Tables in Markdown, which are readable enough in a terminal too.

use std::fmt::Write;

use crate::statistics::Spread;

/// The cell of a figure that was not measured.
const NOT_MEASURED: &str = "–";

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

    /// Adds a row that is already formatted.
    pub(crate) fn line(&mut self, row: &str) {
        self.text.push_str(row);
        self.text.push('\n');
    }

    /// The text, without the columns that were not measured: those with [`NOT_MEASURED`] in every row.
    pub(crate) fn finish(self) -> String {
        let lines: Vec<Vec<&str>> = self.text.lines().map(|line| line.split('|').collect()).collect();
        let rows = lines.get(2..).unwrap_or_default();
        let measured = |column: usize| {
            rows.is_empty()
                || rows.iter().any(|row| row.get(column).is_none_or(|cell| cell.trim() != NOT_MEASURED))
        };
        let mut text = String::new();
        for line in &lines {
            let kept = line.iter().enumerate().filter(|(column, _)| measured(*column)).map(|(_, cell)| *cell);
            text.push_str(&kept.collect::<Vec<_>>().join("|"));
            text.push('\n');
        }
        text
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_without_any_figure_is_left_out() {
        let mut table = Table::new(&["what", "time", "instructions", "bytes"]);
        table.row(&["a", "1", NOT_MEASURED, NOT_MEASURED]);
        table.row(&["b", "2", NOT_MEASURED, "3"]);
        let expected = "| what | time | bytes |\n|---|---:|---:|\n| a | 1 | – |\n| b | 2 | 3 |\n";
        assert_eq!(table.finish(), expected);
    }
}
