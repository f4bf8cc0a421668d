//! The exact commands that the server counts for each of larder's operations (INFO commandstats).

use std::time::Duration;

use larder::{Cache, Larder};
use larder_testkit::Server;

use crate::figures::Findings;
use crate::item::Item;
use crate::lane::{BATCH, Outcome};
use crate::ours::TTL;
use crate::rounds::Flavour;
use crate::table::Table;

/// Calls of each operation.
pub(crate) const TIMES: u64 = 100;
/// The heartbeat (one TIME a second and connection) and the commands of this program itself.
const NOT_OURS: [&str; 4] = ["time", "info", "config|resetstat", "config"];

pub(crate) fn run() -> Outcome<Findings> {
    eprintln!("commands: counting");
    let server = Server::builder().tcp().start();
    let runtime = Flavour::CurrentThread.build()?;
    let cache = runtime.block_on(async {
        let larder = Larder::connect(&server.url()).await?;
        larder.cache::<Item>("item").ttl(TTL).build()
    })?;
    let items = Item::all();
    let item = items.first().ok_or("no item")?;
    let batch = 0..BATCH;

    let mut table = Table::new(&["operation", "commands that the server ran for one call"]);
    let mut count = |name: &str, calls: &mut dyn FnMut(&Cache<Item>, u64) -> larder::Result<()>| {
        server.reset_stats();
        for id in 0..TIMES {
            calls(&cache, id)?;
        }
        table.row(&[name, &commands_a_call(&server)]);
        Outcome::Ok(())
    };
    count("`set`", &mut |cache, id| runtime.block_on(async { cache.set(id, item).await }))?;
    count("`get`", &mut |cache, id| runtime.block_on(cache.get(id)).map(drop))?;
    count("`exists`", &mut |cache, id| runtime.block_on(cache.exists(id)).map(drop))?;
    count("`touch`", &mut |cache, id| runtime.block_on(cache.touch(id, Duration::from_secs(60))).map(drop))?;
    count("`ttl`", &mut |cache, id| runtime.block_on(cache.ttl(id)).map(drop))?;
    count("`delete`", &mut |cache, id| runtime.block_on(cache.delete(id)).map(drop))?;
    count("`set_many` of 100", &mut |cache, _| {
        runtime.block_on(async { cache.set_many((0u64..).zip(items.iter().take(100))).await })
    })?;
    count("`get_many` of 100", &mut |cache, _| runtime.block_on(cache.get_many(batch.clone())).map(drop))?;
    count("`delete_many` of 100", &mut |cache, _| {
        runtime.block_on(cache.delete_many(batch.clone())).map(drop)
    })?;

    let mut findings = Findings::default();
    findings.add("commands", table.finish());
    Ok(findings)
}

/// `1 GET`.
pub(crate) fn commands_a_call(server: &Server) -> String {
    let stats = server.info("commandstats");
    let calls = |stats: &str| stats.strip_prefix("calls=")?.split(',').next()?.parse::<u64>().ok();
    let mut commands = Vec::new();
    for (name, stats) in &stats {
        let name = name.trim_start_matches("cmdstat_");
        if NOT_OURS.contains(&name) {
            continue;
        }
        let calls = calls(stats).unwrap_or_default();
        let each = if calls % TIMES == 0 { (calls / TIMES).to_string() } else { format!("{calls}/{TIMES}") };
        commands.push(format!("{each} {}", name.to_uppercase()));
    }
    commands.join(" + ")
}
