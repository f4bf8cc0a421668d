//! No check of `larder doctor` without a test.

use super::run;

/// The tests name the checks as words: `expect("good", &["L01", …])`, `says("L01", "problem", …)`, and
/// `verdict("L01") == "warning"` where something is waited for.
#[test]
fn every_check_has_a_server_where_it_is_good_and_one_where_it_is_bad() {
    let sources: String = [include_str!("doctor.rs"), include_str!("deployments.rs")].concat();
    let code: String = sources.split_whitespace().collect();
    let is_tested = |id: &str, verdict: &str| {
        let quoted = format!("\"{id}\"");
        let listed = code
            .split(&format!(".expect(\"{verdict}\",&["))
            .skip(1)
            .any(|rest| rest.split_once(']').is_some_and(|(ids, _)| ids.contains(&quoted)));
        listed
            || code.contains(&format!(".says({quoted},\"{verdict}\","))
            || code.contains(&format!(".verdict({quoted})==\"{verdict}\""))
            || (verdict != "good" && code.contains(&format!(".verdict({quoted})!=\"good\"")))
    };
    let list = String::from_utf8(run("redis://127.0.0.1", &["doctor", "--list"]).stdout).unwrap();
    let ids: Vec<&str> = list.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert!(ids.len() > 40, "{list}");
    let untested: Vec<String> = ids
        .iter()
        .flat_map(|id| {
            let good = is_tested(id, "good");
            let bad = is_tested(id, "warning") || is_tested(id, "problem");
            [(!good).then(|| format!("{id} is never good")), (!bad).then(|| format!("{id} is never bad"))]
        })
        .flatten()
        .collect();
    assert!(untested.is_empty(), "{untested:?}");
    assert!(!is_tested("L99", "good"));
}
