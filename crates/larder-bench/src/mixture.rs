//! What a near tier gains: 99 of 100 reads near and one at the server, compared with all reads at the server.
//!
//! Keys are drawn by Zipf's law. Which reads reach the server does not depend on the tier's hit rate: every hundredth
//! read asks for a `fresh()` value, which is what a near miss does.

use std::hint::black_box;
use std::sync::Arc;

use larder::{Cache, Larder, Near};

use crate::figures::{Bar, Findings, Limit};
use crate::item::Item;
use crate::lane::{Lane, Outcome};
use crate::machine::{self, Ticks};
use crate::ours::TTL;
use crate::rounds::{Flavour, compare};
use crate::table::{Table, interval, rate, ratio};
use crate::zipf::{Draws, KEYS};

const BAR: Limit = Limit::AtLeast(50.0);
/// Operations of the mixture for each operation of the other lane, so that both run for some 20 ms.
const TIMES: u64 = 50;
const ONE_IN: u64 = 100;

pub(crate) fn run(rounds: usize) -> Outcome<Findings> {
    let began = Ticks::now();
    let mut table = Table::new(&[
        "tasks",
        "runtime",
        "99 % near / server only",
        "95 % interval",
        "server only, op/s",
        "99 % near, op/s",
    ]);
    let mut bounds = Vec::new();
    let draws = Draws::new();
    for (flavour, tasks) in
        Flavour::BOTH.into_iter().flat_map(|flavour| [1, 64, 256].map(|tasks| (flavour, tasks)))
    {
        eprintln!("zipf: {tasks} tasks, {}", flavour.name());
        let standings = compare(flavour, rounds, async |url| lanes(url, &draws, tasks).await)?;
        let [server, mixed] = standings.as_slice() else { return Err("two lanes were expected".into()) };
        if tasks == 1 {
            bounds.push((mixed.ratio.low, flavour.name().to_owned()));
        }
        table.row(&[
            &tasks.to_string(),
            flavour.name(),
            &ratio(mixed.ratio.median),
            &interval(mixed.ratio),
            &rate(server.rate),
            &rate(mixed.rate),
        ]);
    }
    let mut findings = Findings::default();
    findings.add("zipf", table.finish() + &machine::note(began, &format!("{rounds} rounds")));
    findings.bars.push(Bar::over("99 % near hits / server hits only, 1 task", BAR, bounds));
    Ok(findings)
}

async fn lanes(url: &str, draws: &Draws, tasks: u64) -> Outcome<Vec<Lane>> {
    let larder = Larder::connect(url).await?;
    let plain = larder.cache::<Arc<Item>>("plain").ttl(TTL).build()?;
    let near = larder.cache::<Arc<Item>>("near").ttl(TTL).near(Near::bytes(64 << 20).max_age(TTL)).build()?;
    let items: Vec<Arc<Item>> = (0..KEYS).map(|id| Arc::new(Item::new(id))).collect();
    let ids: Vec<u64> = (0..KEYS).collect();
    for ((first, batch), ids) in (0..).step_by(500).zip(items.chunks(500)).zip(ids.chunks(500)) {
        plain.set_many((first..).zip(batch)).await?;
        near.set_many((first..).zip(batch)).await?;
        near.get_many(ids).await?;
    }
    let server_only = plain.clone();
    Ok(vec![
        lane("server only", &plain, &server_only, draws, tasks),
        lane("99 % near", &near, &near.fresh(), draws, tasks).times(TIMES),
    ])
}

fn lane(
    name: &'static str,
    most: &Cache<Arc<Item>>,
    few: &Cache<Arc<Item>>,
    draws: &Draws,
    tasks: u64,
) -> Lane {
    let (most, few, draws) = (most.clone(), few.clone(), draws.clone());
    Lane::new(name, tasks, move |ids| {
        let (most, few) = (most.clone(), few.clone());
        // The tasks ask the server at different times.
        let (first, _) = ids.start_and_count();
        let walk = draws.walk(&ids);
        Box::pin(async move {
            for (turn, id) in (first..).zip(walk) {
                let cache = if turn % ONE_IN == 0 { &few } else { &most };
                black_box(cache.get(id).await?.ok_or("a stored item is gone")?);
            }
            Ok(())
        })
    })
}
