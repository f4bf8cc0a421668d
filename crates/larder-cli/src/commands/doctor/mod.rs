//! `larder doctor`: examines servers for what the documentation warns of.
//!
//! `table` has the checks, one module for each group makes them. `exam` connects to every server of the deployment and
//! reads what all checks need; it uses connections of its own, because an examination also looks at what the library
//! refuses: a server without RESP3, a wrong password, a certificate that ends.

mod cache;
mod certificate;
mod cluster;
mod connection;
mod coordination;
mod exam;
mod link;
mod names;
mod report;
mod resp;
mod rights;
mod server;
mod table;
mod tracking;

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use larder::admin::ServerUrl;
use serde_json::{Value, json};

use crate::app::App;
use crate::args::duration;
use crate::commands::interrupt::Interrupt;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::settings::Secret;
use connection::Login;
use exam::{Exam, Options};
use link::Clocks;
use names::Names;
use report::{Report, Verdict};
use table::{CHECKS, Group};

/// Check the servers: link, rights, memory, tracking, and what locks need
///
/// Each check has a permanent number and a group. A warning is something to know, a problem something to fix. The exit
/// code is 2 if there is a problem, 1 with --strict if there is a warning, and 0 otherwise.
///
/// doctor changes nothing but names of its own (larder-doctor), which expire. As an administrator it sees most; the
/// rights of a program's user are examined with --as-user.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Make these checks only: numbers (L11) or groups (link, coordination, server, rights, cache, tracking, cluster)
    #[arg(long, value_name = "CHECK", value_delimiter = ',')]
    only: Vec<String>,
    /// Leave these checks out: numbers or groups
    #[arg(long, value_name = "CHECK", value_delimiter = ',')]
    skip: Vec<String>,
    /// Print one JSON document (the same as --format json)
    #[arg(long)]
    json: bool,
    /// Examine again and again, with this pause
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "10s", value_parser = duration)]
    watch: Option<Duration>,
    /// Exit with 1 if there are warnings
    #[arg(long)]
    strict: bool,
    /// Judge the server as one of locks and limits, even if there are none yet
    #[arg(long)]
    locks: bool,
    /// Examine the rights of this user, by ACL DRYRUN (Redis 7, as an administrator)
    #[arg(long, value_name = "NAME")]
    as_user: Option<String>,
    /// Replace the limit of a check: L06=20 (docs/cli.md has the units)
    #[arg(long, value_name = "CHECK=NUMBER", value_delimiter = ',', value_parser = limit)]
    limit: Vec<(u8, f64)>,
    /// Show what does not concern this server, too
    #[arg(long, short)]
    verbose: bool,
    /// List the checks, and do nothing else
    #[arg(long)]
    list: bool,
}

/// The signal of Ctrl-C, which is the exit status of a watch that it ends before the first report.
const SIGINT: i32 = 2;
/// The longest line of a report.
const WIDEST: usize = 100;

/// One server to examine, or one deployment of several.
struct Part {
    /// What it is used for, if there are two.
    name: &'static str,
    shown: String,
    options: Options,
    clocks: Clocks,
}

pub(crate) async fn run(arguments: Arguments, app: &App) -> Result<Exit, Failure> {
    if arguments.list {
        app.out.text(&list())?;
        return Ok(Exit::OK);
    }
    let wanted = wanted(&arguments.only, &arguments.skip)?;
    let mut parts = parts(&arguments, app)?;
    let Some(pause) = arguments.watch else { return once(&arguments, app, &mut parts, &wanted).await };
    // Also Ctrl-C during an examination ends the watch.
    let mut interrupt = Interrupt::listen();
    let mut exit = Exit::signal(SIGINT);
    loop {
        tokio::select! {
            examined = once(&arguments, app, &mut parts, &wanted) => exit = examined?,
            () = interrupt.pressed() => return Ok(exit),
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = interrupt.pressed() => return Ok(exit),
        }
    }
}

/// Examines all servers once, and prints the reports.
async fn once(arguments: &Arguments, app: &App, parts: &mut [Part], wanted: &[u8]) -> Result<Exit, Failure> {
    let mut reports = Vec::with_capacity(parts.len());
    for part in parts {
        let report = examine(part, wanted.to_vec()).await;
        reports.push((part.name, part.shown.clone(), report));
    }
    print(arguments, app, &reports)?;
    let count = |verdict| reports.iter().map(|(.., report)| report.count(verdict)).sum::<usize>();
    Ok(if count(Verdict::Problem) > 0 {
        Exit::PROBLEM
    } else if arguments.strict && count(Verdict::Warning) > 0 {
        Exit::NO
    } else {
        Exit::OK
    })
}

/// Makes all checks that are wanted. Each has a result at the end, whatever happens meanwhile.
async fn examine(part: &mut Part, wanted: Vec<u8>) -> Report {
    let mut report = Report::new(wanted);
    let mut exam = match Exam::open(part.options.clone()).await {
        Ok(exam) => exam,
        Err(failure) => {
            link::unreachable(&failure, &mut report);
            report.finish("no server was reached");
            return report;
        }
    };
    let reason = match groups(&mut exam, &mut part.clocks, &mut report).await {
        Ok(()) => "the server did not say".to_owned(),
        Err(failure) => {
            report.problem(1, format!("the connection broke: {failure}"), "examine the server again");
            failure.to_string()
        }
    };
    report.finish(&reason);
    report
}

async fn groups(
    exam: &mut Exam,
    clocks: &mut Clocks,
    report: &mut Report,
) -> Result<(), connection::Failure> {
    let wants_group = |report: &Report, group: Group| {
        CHECKS.iter().any(|check| check.group == group && report.wants(&[check.number]))
    };
    let clock = report.wants(&[7]);
    if clock {
        link::clocks(exam, clocks, report).await?;
    }
    if report.wants(&[11, 12, 15, 27, 33, 40, 42, 45, 46, 47, 48]) {
        walk(exam).await?;
    }
    if wants_group(report, Group::Link) {
        link::examine(exam, report).await?;
    }
    if wants_group(report, Group::Coordination) {
        coordination::examine(exam, report).await?;
    }
    if wants_group(report, Group::Server) {
        server::examine(exam, report).await?;
    }
    if wants_group(report, Group::Rights) {
        rights::examine(exam, report).await?;
    }
    if wants_group(report, Group::Tracking) {
        tracking::examine(exam, report).await?;
    }
    if wants_group(report, Group::Cache) {
        cache::examine(exam, report).await?;
    }
    if wants_group(report, Group::Cluster) {
        cluster::examine(exam, report).await?;
    }
    // A second look, which finds a clock that was set meanwhile.
    if clock {
        link::clocks(exam, clocks, report).await?;
    }
    Ok(())
}

/// Lists the names of all masters, if the user may.
async fn walk(exam: &mut Exam) -> Result<(), connection::Failure> {
    let mut names = Names::default();
    for node in exam.nodes.iter_mut().filter(|node| node.is_master) {
        if names.walk(&mut node.connection).await?.is_err() {
            return Ok(());
        }
    }
    exam.names = Some(names);
    Ok(())
}

fn parts(arguments: &Arguments, app: &App) -> Result<Vec<Part>, Failure> {
    let settings = &app.settings;
    let part = |url: &str, name, locks| -> Result<Part, Failure> {
        let target = ServerUrl::parse(url)?.ok_or_else(|| {
            Failure::usage("there is no server to examine behind this URL")
                .fix("give a URL such as redis://10.0.0.1; memory: is inside of a program, and has no server")
        })?;
        let tls = if target.tls { Some(tls(app)?) } else { None };
        let login = Login {
            username: settings.user.clone().or_else(|| target.username.clone()),
            password: settings
                .password
                .clone()
                .or_else(|| target.password().map(|password| Secret(password.to_owned()))),
            database: target.database,
            tls: tls.clone(),
        };
        let addresses: Vec<String> = target.addresses.iter().map(ToString::to_string).collect();
        let options = Options {
            sentinel_login: Login { tls, ..Login::default() },
            login,
            namespace: settings.namespace.clone(),
            read_only: settings.read_only,
            as_user: arguments.as_user.clone(),
            locks,
            limits: arguments.limit.iter().copied().collect::<HashMap<_, _>>(),
            target,
        };
        Ok(Part { name, shown: addresses.join(","), options, clocks: Clocks::new() })
    };
    let url = &settings.url()?.0;
    match &settings.coordination {
        None => Ok(vec![part(url, "all", arguments.locks)?]),
        Some(second) => Ok(vec![part(url, "caches", arguments.locks)?, part(&second.0, "locks", true)?]),
    }
}

fn tls(app: &App) -> Result<std::sync::Arc<rustls::ClientConfig>, Failure> {
    let settings = &app.settings;
    let read = |path: &Path| {
        fs::read(path).map_err(|error| Failure::new(Exit::IO, format!("{}: {error}", path.display())))
    };
    let roots = settings.tls_ca.as_deref().map(read).transpose()?;
    let client = match (&settings.tls_cert, &settings.tls_key) {
        (Some(chain), Some(key)) => Some((read(chain)?, read(key)?)),
        (None, None) => None,
        _ => return Err(Failure::usage("--tls-cert and --tls-key belong together")),
    };
    let client = client.as_ref().map(|(chain, key)| (chain.as_slice(), key.as_slice()));
    connection::tls_config(roots.as_deref(), client).map_err(Failure::usage)
}

fn print(
    arguments: &Arguments,
    app: &App,
    reports: &[(&'static str, String, Report)],
) -> Result<(), Failure> {
    if arguments.json || app.out.is_json() {
        return app.out.json(&document(reports));
    }
    let terminal = app.out.is_terminal();
    // Longer lines are hard to read.
    let width =
        if terminal { crossterm::terminal::size().map_or(WIDEST, |(width, _)| width.into()) } else { WIDEST };
    let width = width.min(WIDEST);
    let mut text = String::new();
    if terminal && arguments.watch.is_some() {
        // Home, and clear what is there.
        text.push_str("\x1b[H\x1b[J");
    }
    for (name, shown, report) in reports {
        if reports.len() > 1 {
            text.push_str(&format!(" {name}: {shown}\n"));
        }
        text.push_str(&report.text(width, app.out.colour(), arguments.verbose));
    }
    app.out.text(&text)
}

fn document(reports: &[(&'static str, String, Report)]) -> Value {
    let count = |verdict| reports.iter().map(|(.., report)| report.count(verdict)).sum::<usize>();
    let servers: Vec<Value> = reports.iter().map(|(name, shown, report)| report.json(name, shown)).collect();
    json!({
        "good": count(Verdict::Good),
        "warnings": count(Verdict::Warning),
        "problems": count(Verdict::Problem),
        "unmeasured": count(Verdict::Unmeasured),
        "servers": servers,
    })
}

fn list() -> String {
    CHECKS
        .iter()
        .map(|check| format!(" {} {:<12} {}\n", check.id(), check.group.name(), check.title))
        .collect()
}

/// Parses `L11` or `11`.
fn number(text: &str) -> Option<u8> {
    let digits = text.strip_prefix(['L', 'l']).unwrap_or(text);
    digits.parse().ok().filter(|&number| table::check(number).is_some())
}

/// Parses `L06=20`.
fn limit(text: &str) -> Result<(u8, f64), String> {
    let (check, value) = text.split_once('=').ok_or("write it as L06=20")?;
    let check = number(check).ok_or_else(|| format!("there is no check {check}"))?;
    let value = value.parse().map_err(|_| format!("{value} is not a number"))?;
    Ok((check, value))
}

fn wanted(only: &[String], skip: &[String]) -> Result<Vec<u8>, Failure> {
    let numbers = |names: &[String]| -> Result<Vec<u8>, Failure> {
        let mut numbers = Vec::new();
        for name in names {
            match (Group::ALL.iter().find(|group| group.name() == name), number(name)) {
                (Some(group), _) => {
                    let members = CHECKS.iter().filter(|check| check.group == *group);
                    numbers.extend(members.map(|check| check.number));
                }
                (None, Some(number)) => numbers.push(number),
                (None, None) => {
                    return Err(Failure::usage(format!("there is no check {name:?}"))
                        .fix("larder doctor --list shows the checks and their groups"));
                }
            }
        }
        Ok(numbers)
    };
    let mut wanted =
        if only.is_empty() { CHECKS.iter().map(|check| check.number).collect() } else { numbers(only)? };
    let skipped = numbers(skip)?;
    wanted.retain(|number| !skipped.contains(number));
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_chosen_by_number_and_by_group() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(wanted(&words(&["L11", "6"]), &[]).unwrap(), [11, 6]);
        assert_eq!(wanted(&words(&["coordination"]), &words(&["L14"])).unwrap(), [11, 12, 13, 15]);
        assert_eq!(wanted(&[], &[]).unwrap().len(), CHECKS.len());
        assert_eq!(wanted(&words(&["L99"]), &[]).unwrap_err().exit(), Exit::USAGE);
        assert_eq!(limit("L06=0.5"), Ok((6, 0.5)));
        assert!(limit("L99=1").is_err() && limit("L06").is_err());
    }

    #[test]
    fn numbers_are_unique_and_sorted() {
        let numbers: Vec<u8> = CHECKS.iter().map(|check| check.number).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    }

    /// The anchors are made from headings as GitHub does it.
    #[test]
    fn every_link_leads_to_a_heading_of_the_documentation() {
        for check in CHECKS {
            let (file, anchor) = check.link.split_once('#').unwrap();
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(file);
            let page =
                fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let mut code = false;
            let headings = page.lines().filter(|line| {
                code ^= line.starts_with("```");
                !code && line.starts_with('#')
            });
            let mut anchors = headings.map(|line| {
                let title = line.trim_start_matches('#').trim().to_lowercase();
                let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
                kept.collect::<String>().replace(' ', "-")
            });
            assert!(
                anchors.any(|found| found == anchor),
                "{}: {} has no such heading",
                check.id(),
                check.link
            );
        }
    }
}
