//! The names of metrics are the same in the code, in docs/, in the dashboard and in the rules.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All text of the sources.
fn sources(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|end| end == "rs") {
            text.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

/// The names of metrics in a text: `larder_…`, without the endings of a histogram's series.
fn metrics(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | ':')));
    words
        .filter(|word| word.starts_with("larder_"))
        .map(|word| {
            let ends = ["_bucket", "_sum", "_count"];
            ends.iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word).to_owned()
        })
        .filter(|name| name.ends_with("_total") || name.ends_with("_seconds") || name == "larder_connections")
        .collect()
}

/// What follows a word at the beginning of a line, as `- alert: Name`.
fn named(text: &str, word: &str) -> BTreeSet<String> {
    let lines = text.lines().filter_map(|line| line.trim_start().strip_prefix(word));
    lines.map(|name| name.trim().to_owned()).collect()
}

#[test]
fn the_code_the_page_the_dashboard_and_the_rules_name_the_same_metrics() {
    let mut code = String::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut code);
    let in_code = metrics(&code);
    let table: BTreeSet<String> = super::table("| metric |").iter().flat_map(|row| metrics(row[0])).collect();
    assert_eq!(in_code, table);
    let dashboard = metrics(&read("ops/grafana/larder.json"));
    assert_eq!(dashboard, table, "the dashboard shows every metric");
    for path in [
        "ops/prometheus/larder.rules.yml",
        "ops/prometheus/larder.tests.yml",
        "docs/runbook.md",
        "docs/observability.md",
        "docs/operations.md",
        "docs/opentelemetry.md",
    ] {
        let named = metrics(&read(path));
        let unknown: Vec<_> = named.difference(&table).collect();
        assert!(unknown.is_empty(), "{path}: {unknown:?}");
    }
}

#[test]
fn every_alert_has_a_section_in_the_runbook_and_a_test_in_which_it_fires_and_clears() {
    let rules = read("ops/prometheus/larder.rules.yml");
    let alerts = named(&rules, "- alert:");
    assert!(alerts.len() > 8, "{alerts:?}");
    let sections: BTreeSet<String> = named(&read("docs/runbook.md"), "## ")
        .into_iter()
        .filter(|section| section.starts_with("Larder"))
        .collect();
    assert_eq!(alerts, sections);
    for alert in &alerts {
        let heading = alert.to_lowercase();
        assert!(rules.contains(&format!("runbook.md#{heading}\"")), "{alert} does not name its section");
    }
    // `promtool test rules` checks what the tests expect; this checks that each alert is among them twice.
    let tests = read("ops/prometheus/larder.tests.yml");
    for alert in &alerts {
        let cases: Vec<&str> = tests.split("- eval_time:").skip(1).collect();
        let of_alert = cases.iter().copied().filter(|case| named(case, "alertname:").contains(alert));
        let (clear, firing): (Vec<&str>, Vec<&str>) =
            of_alert.partition(|case| case.contains("exp_alerts: []"));
        assert!(!clear.is_empty() && !firing.is_empty(), "{alert} must fire and clear in larder.tests.yml");
    }
}

#[test]
fn the_rules_that_are_recorded_are_those_that_are_used() {
    let (rules, dashboard) = (read("ops/prometheus/larder.rules.yml"), read("ops/grafana/larder.json"));
    for rule in named(&rules, "- record:") {
        assert!(rules.matches(&rule).count() + dashboard.matches(&rule).count() > 1, "{rule} is not used");
    }
}
