//! *tracking*: whether changes are reported, and how fast.

use std::time::{Duration, Instant};

use super::connection::{Connection, Failure};
use super::exam::Exam;
use super::link::{millis, percentile};
use super::report::Report;
use super::resp::Reply;

const ROUNDS: usize = 50;
/// How long a report is waited for: after this time near copies are invalid anyway.
const PUSH_TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) async fn examine(exam: &mut Exam, report: &mut Report) -> Result<(), Failure> {
    if report.wants(&[51]) {
        end_to_end(exam, report).await?;
    }
    table(exam, report);
    Ok(())
}

/// Reads a name on one connection, writes it on another, and waits for the report, again and again.
async fn end_to_end(exam: &Exam, report: &mut Report) -> Result<(), Failure> {
    let Some(node) = exam.first() else { return Ok(()) };
    if exam.options.read_only {
        report.unmeasured(51, "invalidations: --read-only forbids the write that would be reported");
        return Ok(());
    }
    if !node.is_master {
        report.unmeasured(51, "invalidations: a replica takes no writes, so nothing can be changed");
        return Ok(());
    }
    // Two connections: the server reports no change to the connection that made it.
    let mut reader = Connection::open(&node.address, &exam.options.login).await?;
    let mut writer = Connection::open(&node.address, &exam.options.login).await?;
    if let Err(why) = &reader.protocol {
        report.unmeasured(51, format!("invalidations: no RESP3 ({why})"));
        return Ok(());
    }
    let fix = "ACL SETUSER the user +client|tracking, and connect without a proxy that does not pass it on";
    let reply = reader.call(&["CLIENT", "TRACKING", "ON"]).await?;
    if let Some(error) = reply.error() {
        report.warning(51, format!("CLIENT TRACKING is refused ({error})"), fix);
        return Ok(());
    }
    // Read, change, and time the report, ROUNDS times. The server reports a change once after each read.
    let Some(key) = own_key(exam, &mut writer).await? else {
        report.unmeasured(51, "invalidations: no name of its own could be written");
        return Ok(());
    };
    let mut times = Vec::with_capacity(ROUNDS);
    for round in 0..ROUNDS {
        reader.call(&["GET", &key]).await?;
        let written = Instant::now();
        writer.call(&["SET", &key, &round.to_string(), "PX", "5000"]).await?;
        if let Some(arrived) = reported(&mut reader, &key, written + PUSH_TIMEOUT).await? {
            times.push(arrived - written);
        } else {
            break;
        }
    }
    writer.call(&["UNLINK", &key]).await?;
    // A report that is missing is a problem, a slow one a warning.
    times.sort_unstable();
    let (half, most) = (percentile(&times, 50), percentile(&times, 99));
    let measured = format!("a change is reported within {} (p50), {} (p99)", millis(half), millis(most));
    if times.len() < ROUNDS {
        let before = times.len();
        let measured = format!(
            "a change was not reported within {} s, after {before} that were",
            PUSH_TIMEOUT.as_secs()
        );
        report.problem(51, measured, fix);
    } else if most.as_secs_f64() * 1_000.0 > exam.options.limit(51, 500.0) {
        report.warning(51, measured, "look for a busy server (L25, L26) or network (L06)");
    } else {
        report.good(51, measured);
    }
    Ok(())
}

/// Waits for the report of this name. Reports of other names, and of a flush, may come between.
async fn reported(reader: &mut Connection, key: &str, deadline: Instant) -> Result<Option<Instant>, Failure> {
    loop {
        match reader.push(deadline).await {
            Ok(push) => {
                let names = push.get(1).map(Reply::items).unwrap_or_default();
                if names.iter().any(|name| name.bytes() == Some(key.as_bytes())) {
                    return Ok(Some(Instant::now()));
                }
            }
            Err(Failure::Silent) => return Ok(None),
            Err(failure) => return Err(failure),
        }
    }
}

/// Finds a name that this node of a cluster serves. `None` if nothing can be written.
async fn own_key(exam: &Exam, writer: &mut Connection) -> Result<Option<String>, Failure> {
    for number in 0..200 {
        let key = exam.options.entry(&format!("push-{}-{number}", std::process::id()));
        let reply = writer.call(&["SET", &key, "0", "PX", "5000"]).await?;
        match reply.error() {
            None => return Ok(Some(key)),
            Some(error) if error.starts_with("MOVED") || error.starts_with("ASK") => {}
            Some(_) => return Ok(None),
        }
    }
    Ok(None)
}

fn table(exam: &Exam, report: &mut Report) {
    for node in &exam.nodes {
        let most = node.setting("tracking-table-max-keys").and_then(|most| most.parse::<f64>().ok());
        let (Some(most), Some(used)) = (most, node.number("tracking_total_keys")) else {
            report.unmeasured(52, "the tracking table: the user may not read INFO and CONFIG GET");
            continue;
        };
        let at = exam.at(node);
        if most == 0.0 {
            report.good(52, format!("{used:.0} names are tracked, without a limit"));
        } else if used >= most * exam.options.limit(52, 0.9) {
            report.warning(
                52,
                format!("{used:.0} of {most:.0} names are tracked{at}"),
                "CONFIG SET tracking-table-max-keys to a higher number (0: no limit), or keep fewer caches near",
            );
        } else {
            report.good(52, format!("{used:.0} of {most:.0} names are tracked{at}"));
        }
    }
}
