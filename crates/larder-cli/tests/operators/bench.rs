//! `larder bench`.

use larder_testkit::Server;
use serde_json::Value;

use super::{larder, run};

#[test]
fn a_bench_shows_percentiles_and_leaves_no_key_behind() {
    let server = Server::start();
    server.command(&["SET", "other", "1"]);
    let arguments =
        ["bench", "--seconds", "0.4", "--size", "100", "--tasks", "8", "--keys", "50", "--format", "json"];
    let output = run(&server.url(), &arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    for (place, operation) in ["set", "get"].into_iter().enumerate() {
        let row = &document["operations"][place];
        assert_eq!(row["operation"], operation, "{document:#}");
        let number = |field: &str| row[field].as_f64().unwrap_or_else(|| panic!("{field}: {document:#}"));
        assert!(number("per_second") > 0.0 && number("count") > 0.0, "{document:#}");
        assert!(number("p50_us") <= number("p99_us") && number("p99_us") <= number("max_us"), "{document:#}");
        assert_eq!(number("errors"), 0.0);
    }
    assert_eq!(server.query::<Vec<String>>(&["KEYS", "*"]), ["other"]);
}

#[test]
fn a_bench_is_refused_where_nothing_may_be_written() {
    let output =
        larder(&[("LARDER_URL", "memory:"), ("LARDER_READ_ONLY", "1")]).arg("bench").output().unwrap();
    assert_eq!(output.status.code(), Some(77), "{}", String::from_utf8_lossy(&output.stderr));
    let table = run("memory:", &["bench", "--seconds", "0.2", "--tasks", "2", "--format", "table"]);
    let text = String::from_utf8_lossy(&table.stdout);
    assert!(text.contains("OPERATION") && text.contains("2 tasks"), "{text}");
}
