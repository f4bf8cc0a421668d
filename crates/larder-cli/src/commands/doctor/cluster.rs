//! *cluster*: clusters and sentinels.

use std::collections::BTreeMap;

use larder::admin::Deployment;

use super::connection::Failure;
use super::exam::{Exam, Node, SentinelAnswer};
use super::report::Report;

const SLOTS: i64 = 16_384;
/// The default time to live of a lock, in milliseconds.
const LEASE: f64 = 30_000.0;

pub(crate) async fn examine(exam: &mut Exam, report: &mut Report) -> Result<(), Failure> {
    match &exam.options.target.deployment {
        Deployment::Single => {
            single(exam, report);
            for number in [62, 63, 64, 65] {
                report.inapplicable(number, "one server, neither a cluster nor watched by sentinels");
            }
        }
        Deployment::Cluster => {
            for number in [64, 65] {
                report.inapplicable(number, "no sentinels");
            }
            slots(exam, report).await?;
            nodes(exam, report);
            node_timeout(exam, report);
        }
        Deployment::Sentinel { service } => {
            for number in [61, 63] {
                report.inapplicable(number, "not a cluster");
            }
            let service = service.clone();
            nodes(exam, report);
            agreement(exam, &service, report);
            times(exam, report);
        }
    }
    Ok(())
}

fn single(exam: &Exam, report: &mut Report) {
    if exam.first().is_some_and(|node| node.info("cluster_enabled") == Some("1")) {
        report.problem(
            61,
            "the server is a node of a cluster, and the URL names it alone",
            "use redis-cluster://",
        );
    } else {
        report.inapplicable(61, "not a cluster");
    }
}

async fn slots(exam: &mut Exam, report: &mut Report) -> Result<(), Failure> {
    let served: i64 = exam.slots.iter().map(|(first, last, ..)| last - first + 1).sum();
    // The state that the nodes see; a user with larder's rights alone may not ask for it.
    let mut failed = Vec::new();
    for node in &mut exam.nodes {
        let state = node.connection.call(&["CLUSTER", "INFO"]).await?.text().unwrap_or_default();
        let field = |name: &str| state.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        if field("cluster_state:").is_some_and(|state| state != "ok") {
            failed.push(node.address.to_string());
        }
    }
    let fix = "redis-cli --cluster check shows what is wrong, and --cluster fix assigns slots without a node";
    if served < SLOTS {
        report.problem(61, format!("{} of {SLOTS} slots are served by no node", SLOTS - served), fix);
    } else if !failed.is_empty() {
        report.problem(61, format!("cluster_state is not ok at {}", failed.join(", ")), fix);
    } else {
        report.good(61, format!("all {SLOTS} slots are served"));
    }
    Ok(())
}

fn nodes(exam: &Exam, report: &mut Report) {
    if let Some((address, failure)) = exam.unreachable.first() {
        let others = exam.unreachable.len() - 1;
        let more = if others > 0 { format!(" and {others} more") } else { String::new() };
        return report.problem(
            62,
            format!("{address}{more} cannot be reached from here as this user: {failure}"),
            "give each node the address that clients use (cluster-announce-ip, replica-announce-ip), the same ACL and \
             a certificate for it",
        );
    }
    let lonely: Vec<String> = match exam.options.target.deployment {
        Deployment::Cluster => {
            let mut masters = BTreeMap::new();
            for (.., master, replicas) in &exam.slots {
                masters.insert(master.to_string(), *replicas);
            }
            masters.into_iter().filter(|(_, replicas)| *replicas == 0).map(|(master, _)| master).collect()
        }
        _ => exam.masters().filter(|_| exam.nodes.len() == 1).map(|node| node.address.to_string()).collect(),
    };
    if lonely.is_empty() {
        report.good(
            62,
            format!("all {} nodes can be reached, and each master has a replica", exam.nodes.len()),
        );
    } else {
        report.warning(62, format!("{} has no replica", lonely.join(", ")), "add a replica for each master");
    }
}

fn node_timeout(exam: &Exam, report: &mut Report) {
    let limit = exam.options.limit(63, LEASE);
    let times = exam.nodes.iter().filter_map(|node| Some((node, node.setting("cluster-node-timeout")?)));
    let longest = times.filter_map(|(node, time)| Some((node, time.parse::<f64>().ok()?)));
    match longest.max_by(|a, b| a.1.total_cmp(&b.1)) {
        None => report.unmeasured(63, "cluster-node-timeout: the user may not CONFIG GET"),
        Some((node, millis)) if millis >= limit => report.warning(
            63,
            format!(
                "cluster-node-timeout is {millis:.0} ms at {}, a lease {limit:.0} ms by default",
                node.address
            ),
            "CONFIG SET cluster-node-timeout below the shortest lease (.ttl(…)) of a lock, on every node",
        ),
        Some((_, millis)) => report.good(63, format!("cluster-node-timeout is {millis:.0} ms")),
    }
}

fn agreement(exam: &Exam, service: &str, report: &mut Report) {
    // What the sentinels say: the master's address, the quorum, and how many sentinels there are.
    let answers: Vec<&SentinelAnswer> =
        exam.sentinels.iter().filter_map(|view| view.answer.as_ref().ok()).collect();
    let mut masters: Vec<String> = answers.iter().map(|answer| answer.master.to_string()).collect();
    masters.sort_unstable();
    masters.dedup();
    let number = |answer: &SentinelAnswer, field: &str| answer.fields.get(field)?.parse::<usize>().ok();
    let quorum = answers.iter().filter_map(|answer| number(answer, "quorum")).max().unwrap_or(1);
    let known =
        answers.iter().filter_map(|answer| number(answer, "num-other-sentinels")).max().map_or(0, |n| n + 1);
    let down =
        answers.iter().any(|answer| answer.fields.get("flags").is_some_and(|flags| flags.contains("down")));
    let silent = exam.sentinels.iter().find_map(|view| Some((&view.address, view.answer.as_ref().err()?)));
    let needed = known.max(exam.sentinels.len()) / 2 + 1;

    // The worst finding is reported, and no other.
    if masters.len() > 1 {
        report.problem(
            64,
            format!("the sentinels name different masters of {service}: {}", masters.join(", ")),
            "SENTINEL RESET on the sentinel that was left behind, or take it out of the URL",
        );
    } else if answers.len() < quorum || answers.len() < needed {
        report.problem(
            64,
            format!(
                "{} of {} sentinels answer: too few to replace a master",
                answers.len(),
                exam.sentinels.len()
            ),
            "start the other sentinels",
        );
    } else if down {
        report.problem(64, format!("a sentinel sees the master of {service} as down"), "look at the master");
    } else if let Some((address, why)) = silent {
        report.warning(
            64,
            format!("the sentinel {address} does not answer ({why})"),
            "start it, correct the URL, or give its user",
        );
    } else if known < 3 {
        report.warning(
            64,
            format!("there are {known} sentinels: after the loss of one, no majority is left"),
            "run three sentinels or more, on different machines",
        );
    } else {
        report.good(64, format!("{} sentinels agree, of {known}; the quorum is {quorum}", answers.len()));
    }
}

/// Compares when the old master stops with when a new one may begin.
fn times(exam: &Exam, report: &mut Report) {
    let down = exam
        .sentinels
        .iter()
        .filter_map(|view| {
            view.answer.as_ref().ok()?.fields.get("down-after-milliseconds")?.parse::<f64>().ok()
        })
        .min_by(f64::total_cmp);
    let setting = |node: &Node, name: &str| node.setting(name)?.parse::<f64>().ok();
    for node in exam.masters() {
        let (Some(down), Some(least), Some(lag)) =
            (down, setting(node, "min-replicas-to-write"), setting(node, "min-replicas-max-lag"))
        else {
            report.unmeasured(65, "min-replicas-max-lag: the user may not CONFIG GET");
            continue;
        };
        if least == 0.0 {
            report.inapplicable(65, "min-replicas-to-write is 0: see L15");
        } else if lag * 1_000.0 > down {
            report.warning(
                65,
                format!("min-replicas-max-lag is {lag:.0} s, down-after-milliseconds {down:.0}"),
                "CONFIG SET min-replicas-max-lag lower, or SENTINEL SET the service down-after-milliseconds higher",
            );
        } else {
            report.good(65, format!("min-replicas-max-lag is {lag:.0} s, down-after-milliseconds {down:.0}"));
        }
    }
}
