//! *coordination*: what locks and limits need that a cache does not.

use larder::admin::Deployment;

use super::connection::Failure;
use super::exam::{Exam, Node};
use super::report::Report;

/// The longest that a replica may be silent, in seconds.
const LAG: f64 = 3.0;
/// How far a replica may be behind, in bytes.
const BEHIND: f64 = 1_048_576.0;

pub(crate) async fn examine(exam: &mut Exam, report: &mut Report) -> Result<(), Failure> {
    if !exam.first().is_some_and(Node::has_info) {
        for number in [11, 12, 13, 14, 15] {
            report.unmeasured(number, "the user may not read INFO: run doctor as an administrator");
        }
        return Ok(());
    }
    let lives = match &exam.names {
        Some(names) => names.described(),
        None => "an unknown number of locks".to_owned(),
    };
    for node in exam.masters() {
        eviction(exam, node, &lives, report);
        persistence(exam, node, &lives, report);
        lag(exam, node, report);
        min_replicas(exam, node, report);
    }
    for node in &exam.nodes {
        saves(exam, node, report);
        link_to_master(exam, node, report);
    }
    Ok(())
}

fn eviction(exam: &Exam, node: &Node, lives: &str, report: &mut Report) {
    let at = exam.at(node);
    let fix = "use a second server for locks and limits (LarderBuilder::coordination, and .strict() to be sure), or \
               CONFIG SET maxmemory-policy noeviction";
    match node.evicts() {
        None => report.unmeasured(11, "the server does not say whether it evicts"),
        Some((false, "noeviction")) => report.good(11, "maxmemory-policy is noeviction"),
        Some((false, policy)) => {
            report.good(11, format!("nothing is evicted: maxmemory-policy is {policy}, without maxmemory"));
        }
        Some((true, policy)) if exam.has_locks() => {
            report.problem(11, format!("maxmemory-policy{at} is {policy} and {lives} live here"), fix);
        }
        Some((true, policy)) if exam.coordination().is_none() => {
            report.warning(11, format!("maxmemory-policy{at} is {policy}, and names cannot be listed"), fix);
        }
        Some((true, policy)) => {
            report.good(11, format!("maxmemory-policy is {policy}, and no locks or limits live here"));
        }
    }
}

fn persistence(exam: &Exam, node: &Node, lives: &str, report: &mut Report) {
    if !exam.has_locks() {
        return report.inapplicable(12, "no locks or limits live here");
    }
    let at = exam.at(node);
    let fix = "CONFIG SET appendonly yes, CONFIG SET appendfsync always, CONFIG REWRITE";
    match (node.info("aof_enabled"), node.setting("appendfsync")) {
        (Some("1"), Some("always")) => report.good(12, "appendonly yes, appendfsync always"),
        (Some("1"), Some(sync)) => {
            let measured = format!(
                "appendfsync{at} is {sync}: a power cut loses the last second, and {lives} live here"
            );
            report.warning(12, measured, fix);
        }
        (Some("1"), None) => report.good(12, "appendonly yes (appendfsync cannot be read)"),
        _ => report.problem(12, format!("appendonly{at} is off, and {lives} live here"), fix),
    }
}

fn saves(exam: &Exam, node: &Node, report: &mut Report) {
    let failed: Vec<&str> = ["rdb_last_bgsave_status", "aof_last_write_status", "aof_last_bgrewrite_status"]
        .into_iter()
        .filter(|field| node.info(field).is_some_and(|status| status != "ok"))
        .collect();
    if failed.is_empty() {
        return report.good(13, "the last saves succeeded");
    }
    report.problem(
        13,
        format!("{}{} is not ok", failed.join(", "), exam.at(node)),
        "look into the server's log; often the disk is full or the folder (CONFIG GET dir) cannot be written to",
    );
}

fn lag(exam: &Exam, node: &Node, report: &mut Report) {
    let replicas = node.replicas();
    if replicas.is_empty() {
        return report.good(14, "there are no replicas");
    }
    let offset = node.number("master_repl_offset").unwrap_or(0.0);
    let limit = exam.options.limit(14, LAG);
    for replica in &replicas {
        let number = |field: &str| replica.get(field).and_then(|value| value.parse::<f64>().ok());
        let name = format!(
            "{}:{}",
            replica.get("ip").copied().unwrap_or("?"),
            replica.get("port").copied().unwrap_or("?")
        );
        let state = replica.get("state").copied().unwrap_or("unknown");
        let (silent, behind) = (number("lag").unwrap_or(0.0), offset - number("offset").unwrap_or(offset));
        let fix = "look at the replica and at the network to it";
        if state != "online" {
            report.problem(14, format!("the replica {name} is in state {state}"), fix);
        } else if silent >= limit || behind > BEHIND {
            let measured = format!("the replica {name} is {silent:.0} s silent and {behind:.0} bytes behind");
            report.warning(14, measured, fix);
        }
    }
    report.good(14, format!("{} replicas are online and keep up", replicas.len()));
}

/// A replica that has lost its master shows it itself, also where the master does not answer.
fn link_to_master(exam: &Exam, node: &Node, report: &mut Report) {
    match node.info("master_link_status") {
        None => {}
        Some("up") => report.good(14, "the replica is linked to its master"),
        Some(_) => {
            let measured = format!("the replica{} has no link to its master", exam.at(node));
            report.problem(
                14,
                measured,
                "look at the network between them, and at masteruser and masterauth",
            );
        }
    }
}

fn min_replicas(exam: &Exam, node: &Node, report: &mut Report) {
    let Some(least) = node.setting("min-replicas-to-write").and_then(|least| least.parse::<i64>().ok())
    else {
        return report.unmeasured(15, "min-replicas-to-write: the user may not CONFIG GET");
    };
    let at = exam.at(node);
    let good = node.number("min_slaves_good_slaves").unwrap_or(0.0);
    if least > 0 && good < least as f64 {
        return report.problem(
            15,
            format!(
                "min-replicas-to-write{at} is {least} and {good:.0} replicas are good: every write is refused"
            ),
            "bring the replicas back, or lower min-replicas-to-write",
        );
    }
    let watched = matches!(exam.options.target.deployment, Deployment::Sentinel { .. });
    if least > 0 {
        report.good(15, format!("min-replicas-to-write is {least}"));
    } else if exam.options.target.deployment == Deployment::Cluster {
        report.inapplicable(15, "a cluster's masters stop after cluster-node-timeout: see L63");
    } else if (watched || !node.replicas().is_empty()) && exam.has_locks() {
        report.warning(
            15,
            format!("min-replicas-to-write{at} is 0: a master that is cut off grants locks on"),
            "CONFIG SET min-replicas-to-write 1, and min-replicas-max-lag not above down-after-milliseconds",
        );
    } else {
        report.inapplicable(15, "no locks live here, or nothing takes over from this master");
    }
}
