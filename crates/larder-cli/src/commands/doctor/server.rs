//! *server*: its version, its role, and what slows it down.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::certificate::days_since_1970;
use super::connection::Failure;
use super::exam::{Exam, Node};
use super::report::Report;
use super::resp::Reply;

const DAY: i64 = 86_400;

/// Product, major, minor, and the last day of support as year, month, day.
type EndOfSupport = (&'static str, u32, u32, (i64, i64, i64));

/// The versions whose end is known.
const ENDS: &[EndOfSupport] = &[
    ("Redis", 6, 0, (2022, 5, 31)),
    ("Redis", 6, 2, (2025, 2, 28)),
    ("Redis", 7, 0, (2024, 7, 29)),
    ("Redis", 7, 2, (2026, 2, 28)),
    ("Redis", 7, 4, (2026, 11, 30)),
    ("Valkey", 7, 2, (2027, 4, 16)),
    ("Valkey", 8, 0, (2027, 9, 15)),
    ("Valkey", 8, 1, (2028, 3, 31)),
];

/// Whether a version is supported on a day, counted from 1970.
#[derive(Debug, PartialEq, Eq)]
enum Support {
    /// Older than larder works with.
    TooOld,
    Ended(String),
    Supported,
}

fn support(product: &str, major: u32, minor: u32, today: i64) -> Support {
    if product == "Redis" && major < 6 {
        return Support::TooOld;
    }
    let end = ENDS.iter().find(|end| (end.0, end.1, end.2) == (product, major, minor));
    match end {
        Some((.., (year, month, day))) if days_since_1970(*year, *month, *day) < today => {
            Support::Ended(format!("{year}-{month:02}-{day:02}"))
        }
        _ => Support::Supported,
    }
}

pub(crate) async fn examine(exam: &mut Exam, report: &mut Report) -> Result<(), Failure> {
    if exam.first().is_some_and(Node::has_info) {
        for node in &exam.nodes {
            version(exam, node, report);
            connections(exam, node, report);
            forks(exam, node, report);
            changes(exam, node, report);
        }
        role(exam, report);
    } else {
        for number in [21, 22, 23, 24, 27] {
            report.unmeasured(number, "the user may not read INFO: run doctor as an administrator");
        }
    }
    let several = exam.nodes.len() > 1;
    let limit = exam.options.limit(25, 100.0);
    for node in &mut exam.nodes {
        let at = if several { format!(" at {}", node.address) } else { String::new() };
        if report.wants(&[25]) {
            latency(node, &at, limit, report).await?;
        }
        if report.wants(&[26]) {
            slow_log(node, &at, report).await?;
        }
    }
    Ok(())
}

fn version(exam: &Exam, node: &Node, report: &mut Report) {
    let Some((product, major, minor)) = node.version() else {
        return report.unmeasured(21, "the server does not say its version");
    };
    let at = exam.at(node);
    let exact = node.info("valkey_version").or(node.info("redis_version")).unwrap_or_default();
    let today = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let today = i64::try_from(today.as_secs()).unwrap_or(0) / DAY;
    let fix = "upgrade to Valkey 8.1 or newer, or a supported Redis";
    match support(product, major, minor, today) {
        Support::TooOld => {
            report.problem(21, format!("{product} {exact}{at}: larder needs 6.0 or newer"), fix)
        }
        Support::Ended(day) => {
            report.warning(21, format!("{product} {exact}{at}, whose support ended on {day}"), fix);
        }
        Support::Supported => report.good(21, format!("{product} {exact}")),
    }
}

fn role(exam: &Exam, report: &mut Report) {
    let Some(node) = exam.first() else { return };
    if node.is_master {
        let replicas = exam.nodes.iter().filter(|node| !node.is_master).count();
        let masters = exam.masters().count();
        let measured = if exam.nodes.len() > 1 {
            format!("{masters} masters, {replicas} replicas")
        } else {
            "a master".to_owned()
        };
        report.good(22, measured);
    } else {
        let master = node.info("master_host").unwrap_or("another server");
        report.warning(
            22,
            format!("{} is a replica of {master}", node.address),
            "name the master, or let redis-sentinel:// find it; keep the address only for a program that only reads",
        );
    }
}

fn connections(exam: &Exam, node: &Node, report: &mut Report) {
    let most = node.setting("maxclients").and_then(|most| most.parse().ok()).or(node.number("maxclients"));
    let (Some(used), Some(most)) = (node.number("connected_clients"), most) else {
        return report.unmeasured(23, "the number of connections cannot be read");
    };
    let measured = format!("{used:.0} of {most:.0} connections are in use{}", exam.at(node));
    let fix = "CONFIG SET maxclients to a higher number (and raise ulimit -n), or find who opens so many: CLIENT LIST";
    let share = used / f64::max(most, 1.0);
    if share > 0.95 {
        report.problem(23, measured, fix);
    } else if share > exam.options.limit(23, 0.8) {
        report.warning(23, measured, fix);
    } else {
        report.good(23, measured);
    }
}

fn forks(exam: &Exam, node: &Node, report: &mut Report) {
    let Some(micros) = node.number("latest_fork_usec") else {
        return report.unmeasured(24, "the time of the last fork cannot be read");
    };
    let millis = micros / 1_000.0;
    let measured = format!("the last fork took {millis:.1} ms{}", exam.at(node));
    let fix = "turn transparent huge pages off (echo never >/sys/kernel/mm/transparent_hugepage/enabled), keep less \
               data on one server, or save on a replica";
    if millis > 1_000.0 {
        report.problem(24, measured, fix);
    } else if millis > exam.options.limit(24, 200.0) {
        report.warning(24, measured, fix);
    } else {
        report.good(24, measured);
    }
}

async fn latency(node: &mut Node, at: &str, limit: f64, report: &mut Report) -> Result<(), Failure> {
    let reply = node.connection.call(&["LATENCY", "LATEST"]).await?;
    if let Some(error) = reply.error() {
        report.unmeasured(25, format!("LATENCY LATEST: {error}"));
        return Ok(());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let hour_ago = i64::try_from(now.saturating_sub(Duration::from_secs(3_600)).as_secs()).unwrap_or(0);
    let worst = reply
        .items()
        .iter()
        .filter(|event| event.at(1).and_then(Reply::int).is_some_and(|time| time > hour_ago))
        .filter_map(|event| Some((event.at(2)?.int()?, event.at(0)?.text()?)))
        .max();
    match worst {
        Some((millis, event)) if millis as f64 >= limit => report.warning(
            25,
            format!("{event} took {millis} ms{at} within the last hour"),
            format!("LATENCY HISTORY {event} shows when; LATENCY RESET forgets it"),
        ),
        Some((millis, event)) => {
            report.good(25, format!("the slowest event of the hour: {event}, {millis} ms"))
        }
        None if node.setting("latency-monitor-threshold") == Some("0") => {
            report.good(25, "no events: latency-monitor-threshold is 0, so none are recorded");
        }
        None => report.good(25, "no slow events within the hour"),
    }
    Ok(())
}

async fn slow_log(node: &mut Node, at: &str, report: &mut Report) -> Result<(), Failure> {
    let reply = node.connection.call(&["SLOWLOG", "GET", "128"]).await?;
    if let Some(error) = reply.error() {
        report.unmeasured(26, format!("SLOWLOG GET: {error}"));
        return Ok(());
    }
    let command = |entry: &Reply| entry.at(3)?.at(0)?.text().map(|command| command.to_ascii_uppercase());
    let found: Vec<&Reply> =
        reply.items().iter().filter(|entry| command(entry).as_deref() == Some("KEYS")).collect();
    let Some(entry) = found.first() else {
        report.good(26, format!("{} slow commands, and no KEYS among them", reply.items().len()));
        return Ok(());
    };
    let millis = entry.at(2).and_then(Reply::int).unwrap_or(0) as f64 / 1_000.0;
    let client = entry.at(4).and_then(Reply::text).filter(|client| !client.is_empty());
    let client = client.map(|client| format!(" from {client}")).unwrap_or_default();
    report.warning(
        26,
        format!("{} of KEYS in the slow log{at}, the last one{client} took {millis:.1} ms", found.len()),
        "use SCAN, or `larder ls`, instead, and ACL SETUSER that user -keys",
    );
    Ok(())
}

fn changes(exam: &Exam, node: &Node, report: &mut Report) {
    let at = exam.at(node);
    let swaps = node.calls("swapdb");
    let flushes = node.calls("flushall") + node.calls("flushdb");
    if swaps > 0 {
        report.warning(
            27,
            format!("SWAPDB ran {swaps} times{at} since the server's start"),
            "CLIENT KILL TYPE normal makes every process drop what it kept; then ACL SETUSER that user -swapdb",
        );
    } else if flushes > 0 && exam.has_locks() {
        report.warning(
            27,
            format!(
                "FLUSHALL or FLUSHDB ran {flushes} times{at} since the server's start, and locks live here"
            ),
            "use `larder clear` for a cache; ACL SETUSER that user -flushall -flushdb",
        );
    } else {
        report.good(27, "no SWAPDB, and no flush under locks");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_supported_until_its_last_day() {
        let last = days_since_1970(2026, 11, 30);
        assert_eq!(support("Redis", 7, 4, last), Support::Supported);
        assert_eq!(support("Redis", 7, 4, last + 1), Support::Ended("2026-11-30".to_owned()));
        assert_eq!(support("Redis", 5, 0, last), Support::TooOld);
        assert_eq!(support("Redis", 8, 2, last), Support::Supported);
        assert_eq!(support("Valkey", 8, 1, last), Support::Supported);
    }
}
