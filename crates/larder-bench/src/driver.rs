//! larder's `get` and `set`, compared with the bare driver's GET and SET with the same serde_json work.

use crate::bare::Bare;
use crate::figures::{Bar, Findings, Limit};
use crate::lane::{Contender, Lane, Outcome, fill};
use crate::ours::Ours;
use crate::rounds::{Flavour, Standing, compare};
use crate::table::{Table, interval, rate, ratio};

const TASKS: [u64; 3] = [1, 64, 256];
const MANY_ON_ONE_THREAD: Limit = Limit::AtLeast(1.25);
const MANY_ON_TWO_THREADS: Limit = Limit::AtLeast(1.0);
const ONE: Limit = Limit::AtLeast(1.0);

#[derive(Clone, Copy)]
enum Operation {
    Get,
    Set,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Set => "set",
        }
    }

    fn lane<C: Contender>(self, name: &'static str, contender: &C, tasks: u64) -> Lane {
        match self {
            Self::Get => Lane::get(name, contender, tasks),
            Self::Set => Lane::set(name, contender, tasks),
        }
    }
}

pub(crate) fn run(rounds: usize) -> Outcome<Findings> {
    let mut table = Table::new(&[
        "operation",
        "tasks",
        "runtime",
        "larder / bare",
        "95 % interval",
        "bare, op/s",
        "larder, op/s",
    ]);
    let (mut one_thread, mut two_threads, mut one_task) = (Vec::new(), Vec::new(), Vec::new());
    for operation in [Operation::Get, Operation::Set] {
        for flavour in Flavour::BOTH {
            for tasks in TASKS {
                eprintln!("driver: {} with {tasks} tasks, {}", operation.name(), flavour.name());
                let standings = compare(flavour, rounds, async |url| {
                    let (bare, ours) = (Bare::connect(url).await?, Ours::connect(url).await?);
                    fill(&bare).await?;
                    fill(&ours).await?;
                    Ok(vec![operation.lane("bare", &bare, tasks), operation.lane("larder", &ours, tasks)])
                })?;
                let [bare, larder] = standings.as_slice() else {
                    return Err("two lanes were expected".into());
                };
                // Which bar this configuration belongs to.
                let place = format!("{}, {}", plural(operation.name(), tasks), flavour.name());
                match (tasks, flavour) {
                    (1, _) => one_task.push((larder.ratio.median, place)),
                    (_, Flavour::CurrentThread) => one_thread.push((larder.ratio.low, place)),
                    (_, Flavour::MultiThread) => two_threads.push((larder.ratio.low, place)),
                }
                row(&mut table, operation.name(), tasks, flavour, bare, larder);
            }
        }
    }
    let mut findings = Findings::default();
    findings.add("driver", table.finish());
    let what = |which: &str| format!("rate of `get` and `set` of 1 KiB / bare driver, {which}");
    let bars = [
        (what("64 and 256 tasks, current-thread"), MANY_ON_ONE_THREAD, one_thread),
        (what("64 and 256 tasks, multi-thread (2)"), MANY_ON_TWO_THREADS, two_threads),
        (what("1 task, median"), ONE, one_task),
    ];
    findings.bars.extend(bars.into_iter().map(|(what, limit, bounds)| Bar::over(&what, limit, bounds)));
    Ok(findings)
}

/// The driver compared with a second connection of its own: the part of a difference that comes from the machine.
pub(crate) fn control(rounds: usize) -> Outcome<Findings> {
    let mut table = Table::new(&["operation", "tasks", "runtime", "bare / bare", "95 % interval"]);
    for (flavour, tasks) in Flavour::BOTH.into_iter().flat_map(|flavour| TASKS.map(|tasks| (flavour, tasks)))
    {
        eprintln!("control: get with {tasks} tasks, {}", flavour.name());
        let standings = compare(flavour, rounds, async |url| {
            let (one, other) = (Bare::connect(url).await?, Bare::connect(url).await?);
            fill(&one).await?;
            Ok(vec![Lane::get("bare", &one, tasks), Lane::get("bare again", &other, tasks)])
        })?;
        let Some(again) = standings.get(1) else { return Err("two lanes were expected".into()) };
        table.row(&[
            "get",
            &tasks.to_string(),
            flavour.name(),
            &ratio(again.ratio.median),
            &interval(again.ratio),
        ]);
    }
    let mut findings = Findings::default();
    findings.add("control", table.finish());
    Ok(findings)
}

pub(crate) fn row(
    table: &mut Table,
    operation: &str,
    tasks: u64,
    flavour: Flavour,
    bare: &Standing,
    larder: &Standing,
) {
    table.row(&[
        operation,
        &tasks.to_string(),
        flavour.name(),
        &ratio(larder.ratio.median),
        &interval(larder.ratio),
        &rate(bare.rate),
        &rate(larder.rate),
    ]);
}

pub(crate) fn plural(operation: &str, tasks: u64) -> String {
    format!("{operation}, {tasks} {}", if tasks == 1 { "task" } else { "tasks" })
}
