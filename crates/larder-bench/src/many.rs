//! larder's `get_many`, compared with the bare driver's MGET with the same serde_json work.

use crate::bare::Bare;
use crate::driver::{plural, row};
use crate::figures::{Bar, Findings, Limit};
use crate::lane::{Lane, Outcome, fill};
use crate::ours::Ours;
use crate::rounds::{Flavour, compare};
use crate::table::Table;

const TASKS: [u64; 2] = [1, 16];
const BAR: Limit = Limit::AtLeast(1.0);

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
    let mut bounds = Vec::new();
    for (flavour, tasks) in Flavour::BOTH.into_iter().flat_map(|flavour| TASKS.map(|tasks| (flavour, tasks)))
    {
        eprintln!("many: get_many of 100 with {tasks} tasks, {}", flavour.name());
        let standings = compare(flavour, rounds, async |url| {
            let (bare, ours) = (Bare::connect(url).await?, Ours::connect(url).await?);
            fill(&bare).await?;
            fill(&ours).await?;
            Ok(vec![Lane::get_many("bare", &bare, tasks), Lane::get_many("larder", &ours, tasks)])
        })?;
        let [bare, larder] = standings.as_slice() else { return Err("two lanes were expected".into()) };
        bounds.push((larder.ratio.low, format!("{}, {}", plural("get_many", tasks), flavour.name())));
        row(&mut table, "get_many of 100", tasks, flavour, bare, larder);
    }
    let mut findings = Findings::default();
    findings.add("many", table.finish());
    findings.bars.push(Bar::over("rate of `get_many` of 100 / bare `MGET`", BAR, bounds));
    Ok(findings)
}
