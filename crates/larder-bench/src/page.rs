//! Puts figures into a page, between markers: `<!-- figures:driver -->` … `<!-- /figures -->`.

use std::fs;
use std::path::Path;

use crate::figures::{Bar, Figures, Findings};
use crate::lane::Outcome;
use crate::table::Table;

const END: &str = "<!-- /figures -->";

const SUMMARY: &str = "summary";

/// Writes the results, and the bars into the table at the top of the page: each replaces the row of the same promise,
/// so that a part can be measured again by itself.
pub(crate) fn write(path: &Path, findings: &Findings, when: &str) -> Outcome<()> {
    let mut page = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let figures = &findings.figures;
    for one in figures {
        page = replaced(&page, one).ok_or_else(|| {
            format!("{} has no section between <!-- figures:{} --> and {END}", path.display(), one.name)
        })?;
    }
    if !findings.bars.is_empty() {
        let old = section(&page, SUMMARY).unwrap_or_default();
        let text = summary(old, &findings.bars, when);
        page = replaced(&page, &Figures { name: SUMMARY, text })
            .ok_or_else(|| format!("{} has no section for the {SUMMARY}", path.display()))?;
    }
    fs::write(path, page)?;
    eprintln!("wrote {}", path.display());
    Ok(())
}

/// The table at the top of the page: `old` with the rows of these bars replaced or added.
pub(crate) fn summary(old: &str, bars: &[Bar], when: &str) -> String {
    let mut table = Table::new(&["what", "bar", "worst end of an interval", "where", "measured, UTC", "met"]);
    let first_cell = |row: &str| row.split('|').nth(1).unwrap_or_default().trim().to_owned();
    let rows = old.lines().filter(|line| line.starts_with('|')).skip(2);
    let mut left: Vec<&Bar> = bars.iter().collect();
    for row in rows {
        match left.iter().position(|bar| bar.what == first_cell(row)) {
            Some(place) => add(&mut table, left.remove(place), when),
            None => table.line(row),
        }
    }
    left.into_iter().for_each(|bar| add(&mut table, bar, when));
    table.finish()
}

fn add(table: &mut Table, bar: &Bar, when: &str) {
    let met = if bar.is_met() { "yes" } else { "**no**" };
    table.row(&[&bar.what, &bar.limit.to_string(), &format!("{:.3}", bar.measured), &bar.at, when, met]);
}

fn section<'a>(page: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = page.split_once(&format!("<!-- figures:{name} -->"))?;
    rest.split_once(END).map(|(text, _)| text)
}

fn replaced(page: &str, figures: &Figures) -> Option<String> {
    let marker = format!("<!-- figures:{} -->", figures.name);
    let (before, rest) = page.split_once(&marker)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{marker}\n{}\n{END}{after}", figures.text.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Limit;

    #[test]
    fn a_bar_measured_again_takes_the_place_of_its_old_row_and_leaves_the_others() {
        let bar =
            |what: &str, measured: f64| Bar::over(what, Limit::AtLeast(0.9), [(measured, "here".to_owned())]);
        let first = summary("", &[bar("a", 0.5), bar("b", 1.0)], "then");
        let again = summary(&first, &[bar("a", 0.95), bar("c", 1.0)], "now");
        let rows: Vec<&str> = again.lines().skip(2).collect();
        let expected = [
            "| a | ≥ 0.9 | 0.950 | here | now | yes |",
            "| b | ≥ 0.9 | 1.000 | here | then | yes |",
            "| c | ≥ 0.9 | 1.000 | here | now | yes |",
        ];
        assert_eq!(rows, expected);
    }

    #[test]
    fn only_what_stands_between_its_own_markers_is_replaced() {
        let page =
            "a\n<!-- figures:x -->\nold\n<!-- /figures -->\nb\n<!-- figures:y -->\nkept\n<!-- /figures -->\n";
        let figures = Figures { name: "x", text: "new\n".into() };
        let expected = page.replace("old", "new");
        assert_eq!(replaced(page, &figures), Some(expected));
        assert_eq!(replaced("no marker", &figures), None);
    }
}
