//! Puts figures into a page, between markers: `<!-- figures:driver -->` … `<!-- /figures -->`.

use std::fs;
use std::path::Path;

use crate::figures::{Bar, Figures};
use crate::lane::Outcome;
use crate::table::Table;

const END: &str = "<!-- /figures -->";

pub(crate) fn write(path: &Path, figures: &[Figures]) -> Outcome<()> {
    let mut page = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    for one in figures {
        page = replaced(&page, one).ok_or_else(|| {
            format!("{} has no section between <!-- figures:{} --> and {END}", path.display(), one.name)
        })?;
    }
    fs::write(path, page)?;
    eprintln!("wrote {}", path.display());
    Ok(())
}

/// The table that the page opens with.
pub(crate) fn summary(bars: &[Bar]) -> String {
    let mut table = Table::new(&["what", "bar", "lowest lower bound", "where", "met"]);
    for bar in bars {
        let met = if bar.is_met() { "yes" } else { "**no**" };
        table.row(&[&bar.what, &format!("≥ {}", bar.least), &format!("{:.3}", bar.measured), &bar.at, met]);
    }
    table.finish()
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
