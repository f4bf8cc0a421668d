//! Puts figures into a page, between markers: `<!-- figures:driver -->` … `<!-- /figures -->`.

use std::fs;
use std::path::Path;

use crate::figures::{Bar, Figures, Findings};
use crate::lane::Outcome;
use crate::table::Table;

const END: &str = "<!-- /figures -->";

/// The targets, and below them those of single features.
const SUMMARIES: [&str; 2] = ["summary", "summary-features"];
const COLUMNS: [&str; 6] = ["what", "bar", "measured", "where it was worst", "when, UTC", "met"];

/// Writes the results, and the bars into the tables at the top of the page: each replaces the row of the same promise,
/// so that a part can be measured again by itself. A bar that is in neither table is added to the first.
pub(crate) fn write(path: &Path, findings: &Findings, when: &str) -> Outcome<()> {
    let mut page = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let figures = &findings.figures;
    for one in figures {
        page = replaced(&page, &dated(one, when)).ok_or_else(|| {
            format!("{} has no section between <!-- figures:{} --> and {END}", path.display(), one.name)
        })?;
    }
    if !findings.bars.is_empty() {
        for (name, text) in summaries(&page, &findings.bars, when) {
            page = replaced(&page, &Figures { name, text })
                .ok_or_else(|| format!("{} has no section {name}", path.display()))?;
        }
    }
    fs::write(path, page)?;
    eprintln!("wrote {}", path.display());
    Ok(())
}

/// The figures with their date, if they do not say it.
fn dated(figures: &Figures, when: &str) -> Figures {
    let mut text = figures.text.clone();
    if !text.contains("\nMeasured ") && figures.name != "machine" {
        text.push_str(&format!("\nMeasured {when} UTC.\n"));
    }
    Figures { name: figures.name, text }
}

/// Both tables of targets with the rows of these bars replaced or added.
fn summaries(page: &str, bars: &[Bar], when: &str) -> [(&'static str, String); 2] {
    let [first, second] = SUMMARIES;
    let old = |name| section(page, name).unwrap_or_default();
    let (in_second, in_first): (Vec<&Bar>, Vec<&Bar>) =
        bars.iter().partition(|bar| rows(old(second)).any(|row| what(row) == bar.what));
    [(first, summary(old(first), &in_first, when)), (second, summary(old(second), &in_second, when))]
}

fn rows(table: &str) -> impl Iterator<Item = &str> {
    table.lines().filter(|line| line.starts_with('|')).skip(2)
}

/// The first cell of a row.
fn what(row: &str) -> &str {
    row.split('|').nth(1).unwrap_or_default().trim()
}

/// A table of targets: `old` with the rows of these bars replaced or added.
pub(crate) fn summary(old: &str, bars: &[&Bar], when: &str) -> String {
    let mut table = Table::new(&COLUMNS);
    let mut left: Vec<&Bar> = bars.to_vec();
    for row in rows(old) {
        match left.iter().position(|bar| bar.what == what(row)) {
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
        let first = summary("", &[&bar("a", 0.5), &bar("b", 1.0)], "then");
        let again = summary(&first, &[&bar("a", 0.95), &bar("c", 1.0)], "now");
        let rows: Vec<&str> = again.lines().skip(2).collect();
        let expected = [
            "| a | ≥ 0.9 | 0.950 | here | now | yes |",
            "| b | ≥ 0.9 | 1.000 | here | then | yes |",
            "| c | ≥ 0.9 | 1.000 | here | now | yes |",
        ];
        assert_eq!(rows, expected);
    }

    #[test]
    fn a_bar_stays_in_the_table_that_has_its_row_and_every_section_has_a_date() {
        let bar = |what: &str| Bar::over(what, Limit::AtLeast(0.9), [(1.0, "here".to_owned())]);
        let old = summary("", &[&bar("a")], "then");
        let page = format!(
            "<!-- figures:summary -->\n<!-- /figures -->\n<!-- figures:summary-features -->\n{old}<!-- /figures -->\n"
        );
        let [(_, first), (_, second)] = summaries(&page, &[bar("a"), bar("b")], "now");
        assert_eq!(rows(&first).map(what).collect::<Vec<_>>(), ["b"]);
        assert_eq!(rows(&second).collect::<Vec<_>>(), ["| a | ≥ 0.9 | 1.000 | here | now | yes |"]);

        let plain = Figures { name: "x", text: "| a |\n".into() };
        let noted = Figures { name: "x", text: "| a |\n\nMeasured then UTC, 20 rounds.\n".into() };
        assert_eq!(dated(&plain, "now").text, "| a |\n\nMeasured now UTC.\n");
        assert_eq!(dated(&noted, "now").text, noted.text);
    }

    #[test]
    fn only_what_is_between_its_own_markers_is_replaced() {
        let page =
            "a\n<!-- figures:x -->\nold\n<!-- /figures -->\nb\n<!-- figures:y -->\nkept\n<!-- /figures -->\n";
        let figures = Figures { name: "x", text: "new\n".into() };
        let expected = page.replace("old", "new");
        assert_eq!(replaced(page, &figures), Some(expected));
        assert_eq!(replaced("no marker", &figures), None);
    }
}
