//! larder compared with the caches of other authors, and with another driver.
//!
//! Each is used in the fastest way that its public interface offers for the job: a typed value by key, with a time to
//! live.

mod cached;
mod multi_tier;
pub(crate) mod near;
mod rustis_cache;
mod rustis_client;

use std::fs;
use std::path::Path;

use self::cached::Cached;
use crate::bare::Bare;
use crate::chart::Chart;
use crate::figures::{Bar, Findings, Limit};
use crate::lane::{Contender, Lane, Outcome, fill};
use crate::ours::Ours;
use crate::rounds::{Flavour, compare};
use crate::table::{Table, interval, rate, ratio};
use multi_tier::{MultiTier, RedisTier};
use rustis_client::RustisClient;

const TASKS: [u64; 2] = [1, 64];
const PLOT: &str = "rivals.svg";
const CODEC_FOR_CODEC: Limit = Limit::AtLeast(1.0);

const LARDER_JSON: &str = "larder";
const LARDER_PACKED: &str = "larder, MessagePack";
const CACHED: &str = "cached (MessagePack)";
const RUSTIS: &str = "rustis + serde_json";
/// A rival beside larder with the rival's codec.
const SAME_CODEC: [(&str, &str); 2] = [(RUSTIS, LARDER_JSON), (CACHED, LARDER_PACKED)];

#[derive(Clone, Copy)]
enum Operation {
    GetHit,
    Set,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::GetHit => "get, hit",
            Self::Set => "set",
        }
    }
}

pub(crate) fn run(rounds: usize, plots: Option<&Path>) -> Outcome<Findings> {
    let mut table =
        Table::new(&["cache", "operation", "tasks", "to the bare driver", "95 % interval", "op/s"]);
    let mut chart = Chart::new(
        "Throughput, as a share of the bare driver's",
        "1 KiB struct on one Redis server; longer is better; the line is the 95 % interval",
    );
    let mut bounds: [Vec<(f64, String)>; 2] = [Vec::new(), Vec::new()];
    for operation in [Operation::GetHit, Operation::Set] {
        for tasks in TASKS {
            let tasks_text = if tasks == 1 { "1 task".to_owned() } else { format!("{tasks} tasks") };
            eprintln!("rivals: {} with {tasks_text}", operation.name());
            let standings =
                compare(Flavour::CurrentThread, rounds, async |url| lanes(url, operation, tasks).await)?;
            let lane = |name: &str| standings.iter().find(|standing| standing.name == name);
            for ((rival, ours), bounds) in SAME_CODEC.iter().zip(&mut bounds) {
                if let Some((rival, ours)) = lane(rival).zip(lane(ours)) {
                    bounds.push((ours.to(rival).low, format!("{}, {tasks_text}", operation.name())));
                }
            }
            chart.group(&format!("{}, {tasks_text}", operation.name()));
            for standing in &standings {
                let class = match standing.name {
                    "bare driver + serde_json" => "base",
                    name if name.starts_with("larder") => "ours",
                    _ => "other",
                };
                chart.bar(standing.name, class, standing.ratio);
                table.row(&[
                    standing.name,
                    operation.name(),
                    &tasks.to_string(),
                    &ratio(standing.ratio.median),
                    &interval(standing.ratio),
                    &rate(standing.rate),
                ]);
            }
        }
    }
    if let Some(folder) = plots {
        fs::create_dir_all(folder)?;
        fs::write(folder.join(PLOT), chart.finish())?;
    }
    let mut findings = Findings::default();
    findings.add("rivals", table.finish());
    for ((rival, _), bounds) in SAME_CODEC.iter().zip(bounds) {
        let what = format!("rate of `get` and `set` / {rival}, the same codec");
        findings.bars.push(Bar::over(&what, CODEC_FOR_CODEC, bounds));
    }
    Ok(findings)
}

async fn lanes(url: &str, operation: Operation, tasks: u64) -> Outcome<Vec<Lane>> {
    Ok(vec![
        lane("bare driver + serde_json", Bare::connect(url).await?, operation, tasks).await?,
        lane(LARDER_JSON, Ours::connect(url).await?, operation, tasks).await?,
        lane(LARDER_PACKED, Ours::with_message_pack(url).await?, operation, tasks).await?,
        lane(CACHED, Cached::connect(url).await?, operation, tasks).await?,
        lane(RUSTIS, RustisClient::connect(url).await?, operation, tasks).await?,
        lane("multi-tier-cache", MultiTier::connect(url).await?, operation, tasks).await?,
        lane("multi-tier-cache, Redis only", RedisTier::connect(url).await?, operation, tasks).await?,
    ])
}

async fn lane<C: Contender>(
    name: &'static str,
    contender: C,
    operation: Operation,
    tasks: u64,
) -> Outcome<Lane> {
    fill(&contender).await?;
    Ok(match operation {
        Operation::GetHit => Lane::get(name, &contender, tasks),
        Operation::Set => Lane::set(name, &contender, tasks),
    })
}
