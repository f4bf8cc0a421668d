//! The Grafana dashboard: its queries, and what would be wrong with it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

/// The dashboard's `$__rate_interval`: eight scrapes of the test's Prometheus.
const RATE: &str = "4s";
/// Grafana's grid.
const COLUMNS: u64 = 24;

pub(crate) struct Dashboard(Value);

pub(crate) fn read(ops: &Path) -> Dashboard {
    Dashboard(serde_json::from_str(&fs::read_to_string(ops.join("grafana/larder.json")).unwrap()).unwrap())
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The names after a mark, as of `$job` or `by (job, cache)`, up to what belongs to no name.
fn names_after<'t>(text: &'t str, mark: &'t str) -> impl Iterator<Item = &'t str> {
    text.split(mark).skip(1).map(|rest| {
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | ':')));
        &rest[..end.unwrap_or(rest.len())]
    })
}

impl Dashboard {
    fn variables(&self) -> &[Value] {
        list(&self.0["templating"]["list"])
    }

    fn annotations(&self) -> &[Value] {
        list(&self.0["annotations"]["list"])
    }

    fn panels(&self) -> &[Value] {
        list(&self.0["panels"])
    }

    /// Every query, with the title of what it is for: panels, variables, annotations. The variables have their widest
    /// values.
    pub(crate) fn queries(&self) -> Vec<(String, String)> {
        let mut queries = Vec::new();
        for panel in self.panels() {
            for target in list(&panel["targets"]) {
                queries.push((text(&panel["title"]).to_owned(), text(&target["expr"]).to_owned()));
            }
        }
        for variable in self.variables().iter().filter(|variable| variable["type"] == "query") {
            let definition = text(&variable["definition"]);
            let asked = definition.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
            let (series, label) = asked.and_then(|asked| asked.rsplit_once(", ")).unwrap();
            let values = format!("group by ({label}) ({series}) unless group by ({label}) (vector(1))");
            queries.push((format!("variable {}", text(&variable["name"])), values));
        }
        for annotation in self.annotations() {
            queries.push((text(&annotation["name"]).to_owned(), text(&annotation["expr"]).to_owned()));
        }
        for (_, query) in &mut queries {
            *query = query.replace("$__rate_interval", RATE);
            for variable in self.variables() {
                *query = query.replace(&format!("${}", text(&variable["name"])), ".*");
            }
            assert!(!query.contains('$'), "{query}");
        }
        queries
    }

    /// What Grafana would show as an error, or would not show at all.
    pub(crate) fn mistakes(&self, rules: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        for name in ["uid", "title"] {
            if text(&self.0[name]).is_empty() {
                wrong.push(format!("it has no {name}"));
            }
        }
        self.check_places(&mut wrong);
        self.check_sources(&mut wrong);
        self.check_names(rules, &mut wrong);
        wrong
    }

    /// Panels have numbers of their own, are in the grid, and do not lie above each other.
    fn check_places(&self, wrong: &mut Vec<String>) {
        let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
        for panel in self.panels() {
            let title = text(&panel["title"]);
            if title.is_empty() || !ids.insert(panel["id"].as_u64()) {
                wrong.push(format!("{title:?} has no title or the number of another"));
            }
            let place = |name: &str| panel["gridPos"][name].as_u64().unwrap_or_default();
            let (x, y, w, h) = (place("x"), place("y"), place("w"), place("h"));
            if w == 0 || h == 0 || x + w > COLUMNS {
                wrong.push(format!("{title} is outside the grid"));
            }
            for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
                if !taken.insert(cell) {
                    wrong.push(format!("{title} covers another panel at {cell:?}"));
                    break;
                }
            }
            let targets = list(&panel["targets"]);
            let known = match text(&panel["type"]) {
                "row" => targets.is_empty(),
                "timeseries" => !targets.is_empty() && !text(&panel["description"]).is_empty(),
                _ => false,
            };
            let references: BTreeSet<&str> = targets.iter().map(|target| text(&target["refId"])).collect();
            if !known || references.len() != targets.len() {
                wrong.push(format!("{title}: its type, its description or its queries"));
            }
        }
    }

    /// All that asks asks the data source that the reader chooses.
    fn check_sources(&self, wrong: &mut Vec<String>) {
        let source = serde_json::json!({ "type": "prometheus", "uid": "${datasource}" });
        let panels = self.panels().iter().filter(|panel| panel["type"] != "row");
        let targets = panels.clone().flat_map(|panel| list(&panel["targets"]));
        let variables = self.variables().iter().filter(|variable| variable["type"] == "query");
        for asking in panels.chain(targets).chain(variables).chain(self.annotations()) {
            if asking["datasource"] != source {
                wrong.push(format!("another data source: {asking}"));
            }
        }
        let offered = self.variables().iter().find(|variable| variable["name"] == "datasource");
        if offered.is_none_or(|offered| offered["type"] != "datasource" || offered["query"] != "prometheus") {
            wrong.push("the reader cannot choose a Prometheus".to_owned());
        }
    }

    /// Variables, recorded rules, alerts and labels exist where they are used, and every variable is used.
    fn check_names(&self, rules: &str, wrong: &mut Vec<String>) {
        let whole = self.0.to_string();
        let variables: BTreeSet<&str> =
            self.variables().iter().map(|variable| text(&variable["name"])).collect();
        let mut used: BTreeSet<&str> = names_after(&whole, "$").collect();
        // In `${datasource}` the name is in braces.
        used.remove("");
        used.extend(names_after(&whole, "${"));
        used.remove("__rate_interval");
        used.remove("__all");
        if used != variables {
            wrong.push(format!("variables {variables:?}, but {used:?} are used"));
        }
        for recorded in names_after(&whole, "larder:") {
            if !rules.contains(&format!("- record: larder:{recorded}\n")) {
                wrong.push(format!("larder:{recorded} is not recorded"));
            }
        }
        for alert in names_after(&whole, "Alert: ") {
            if !rules.contains(&format!("- alert: {alert}\n")) {
                wrong.push(format!("there is no alert {alert}"));
            }
        }
        for target in self.panels().iter().flat_map(|panel| list(&panel["targets"])) {
            let expression = text(&target["expr"]);
            let Some((_, by)) = expression.split_once("by (") else { continue };
            let kept: BTreeSet<&str> = by.split(')').next().unwrap_or_default().split(", ").collect();
            for label in names_after(text(&target["legendFormat"]), "{{") {
                if !kept.contains(label) {
                    wrong.push(format!("the legend names {label}, which is not kept: {expression}"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wrong after a part of the dashboard, at this path, was replaced.
    fn mistakes_with(path: &str, value: Value) -> Vec<String> {
        let ops = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ops");
        let rules = fs::read_to_string(ops.join("prometheus/larder.rules.yml")).unwrap();
        let mut dashboard = read(&ops);
        *dashboard.0.pointer_mut(path).unwrap() = value;
        dashboard.mistakes(&rules)
    }

    #[test]
    fn each_kind_of_mistake_is_found() {
        for (path, value, found) in [
            ("/uid", "".into(), "no uid"),
            ("/panels/1/id", 1.into(), "the number of another"),
            ("/panels/1/gridPos/x", 17.into(), "outside the grid"),
            ("/panels/2/gridPos/x", 0.into(), "covers another"),
            ("/panels/1/type", "graph".into(), "its type"),
            ("/panels/1/targets/1/refId", "A".into(), "its queries"),
            ("/panels/1/targets/1/datasource/uid", "prometheus".into(), "another data source"),
            ("/templating/list/0/query", "loki".into(), "cannot choose"),
            ("/templating/list/1/name", "service".into(), "are used"),
            ("/panels/2/targets/0/expr", "larder:gone:rate5m".into(), "is not recorded"),
            ("/panels/2/description", "Alert: LarderGone.".into(), "no alert LarderGone"),
            ("/panels/1/targets/0/legendFormat", "{{instance}}".into(), "the legend names instance"),
        ] {
            let wrong = mistakes_with(path, value);
            assert!(wrong.iter().any(|wrong| wrong.contains(found)), "{path}: {wrong:#?}");
        }
    }
}
