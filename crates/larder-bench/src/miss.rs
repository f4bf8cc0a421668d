//! A near miss compared with a plain hit on the server: what a near tier costs when it does not help.
//!
//! A miss is a read through a `fresh()` handle: a tracked GET, whose reply replaces the near copy. The plain hit uses
//! the same cache without a near tier: an untracked GET. A third lane puts the value of a plain hit into a bare
//! `quick_cache`: any program that keeps decoded values pays for that, as each new value takes memory that was not just
//! freed, and frees memory that was not just used.

use std::hint::black_box;
use std::sync::Arc;

use larder::{Cache, Larder, Near};
use larder_testkit::Server;

use crate::allocations;
use crate::driver::row;
use crate::figures::{Bar, Findings, Limit};
use crate::instructions;
use crate::item::{ITEMS, Item};
use crate::lane::{Lane, Outcome};
use crate::machine::{self, Ticks};
use crate::ours::TTL;
use crate::rounds::{Flavour, compare};
use crate::statistics::{bootstrap, quartiles};
use crate::table::{Table, interval, ratio, spread};

const ONE: Limit = Limit::AtLeast(0.95);
const MANY: Limit = Limit::AtLeast(0.9);
/// The number of reads between two readings of the server's processor time.
const OPERATIONS: u64 = 6_400;
/// Reads for the count of allocations, and reads under valgrind.
const COUNTED: u64 = 1_000;
const SPUN: u64 = 1_000;

/// The argument of the hidden subcommand `spin` that runs these reads.
pub(crate) const SPIN: &str = "miss";
const NAMES: [&str; 3] = ["plain", "near miss", "plain, kept in a bare `quick_cache`"];

pub(crate) fn run(rounds: usize, instructions: bool) -> Outcome<Findings> {
    let began = Ticks::now();
    let mut table = Table::new(&[
        "read",
        "tasks",
        "runtime",
        "its rate / a plain read's",
        "95 % interval",
        "plain, op/s",
        "this read, op/s",
    ]);
    let (mut one, mut many) = (Vec::new(), Vec::new());
    for (flavour, tasks) in
        Flavour::BOTH.into_iter().flat_map(|flavour| [1, 64].map(|tasks| (flavour, tasks)))
    {
        eprintln!("near-miss: {tasks} tasks, {}", flavour.name());
        let standings = compare(flavour, rounds, async |url| lanes(url, tasks).await)?;
        let [plain, miss, kept] = standings.as_slice() else {
            return Err("three lanes were expected".into());
        };
        let bounds = if tasks == 1 { &mut one } else { &mut many };
        bounds.push((miss.ratio.low, flavour.name().to_owned()));
        row(&mut table, miss.name, tasks, flavour, plain, miss);
        row(&mut table, kept.name, tasks, flavour, plain, kept);
    }
    let mut findings = Findings::default();
    findings.add("near-miss", table.finish() + &machine::note(began, &format!("{rounds} rounds")));
    findings.bars.push(Bar::over("rate of a near miss / plain server hit, 1 task", ONE, one));
    findings.bars.push(Bar::over("rate of a near miss / plain server hit, 64 tasks", MANY, many));
    findings.add("near-miss-count", count(instructions)?);
    findings.add("near-miss-cpu", server_time(rounds)?);
    Ok(findings)
}

async fn lanes(url: &str, tasks: u64) -> Outcome<Vec<Lane>> {
    let larder = Larder::connect(url).await?;
    let plain = larder.cache::<Arc<Item>>("plain").ttl(TTL).build()?;
    let near = larder.cache::<Arc<Item>>("near").ttl(TTL).near(Near::bytes(64 << 20).max_age(TTL)).build()?;
    let items: Vec<Arc<Item>> = (0..ITEMS).map(|id| Arc::new(Item::new(id))).collect();
    for cache in [&plain, &near] {
        cache.set_many((0u64..).zip(&items)).await?;
    }
    let [of_plain, of_miss, of_kept] = NAMES;
    let copies = Arc::new(quick_cache::sync::Cache::new(2 * items.len()));
    Ok(vec![
        lane(of_plain, &plain, tasks, |_, item| {
            black_box(item);
        }),
        lane(of_miss, &near.fresh(), tasks, |_, item| {
            black_box(item);
        }),
        lane(of_kept, &plain, tasks, move |id, item| copies.insert(id, item)),
    ])
}

fn lane(
    name: &'static str,
    cache: &Cache<Arc<Item>>,
    tasks: u64,
    with: impl Fn(u64, Arc<Item>) + Clone + Send + 'static,
) -> Lane {
    let cache = cache.clone();
    Lane::new(name, tasks, move |ids| {
        let (cache, with) = (cache.clone(), with.clone());
        Box::pin(async move {
            for id in ids {
                let item = cache.get(id).await?.ok_or("a stored item is gone")?;
                with(id, item);
            }
            Ok(())
        })
    })
}

/// What the client spends on one read of either kind.
fn count(instructions: bool) -> Outcome<String> {
    eprintln!("near-miss: counting");
    let server = Server::builder().tcp().start();
    let url = server.url();
    let counted = instructions && instructions::available();
    let mut table = Table::new(&["one read", "allocations", "bytes", "instructions"]);
    for (place, name) in NAMES.iter().enumerate() {
        let taken = reads(place, &url, COUNTED, |work| {
            work()?;
            allocations::start();
            let done = work();
            let taken = allocations::stop();
            done.map(|()| taken)
        })?;
        let executed = if counted {
            instructions::per_turn(&[SPIN, name, &url], SPUN)?.to_string()
        } else {
            "–".to_owned()
        };
        let tenths = (taken.count * 10 + COUNTED / 2) / COUNTED;
        let each = format!("{}.{}", tenths / 10, tenths % 10);
        table.row(&[name, &each, &(taken.bytes / COUNTED).to_string(), &executed]);
    }
    Ok(table.finish())
}

/// What `spin miss` runs under valgrind.
pub(crate) fn spin(which: &str, url: &str, times: u64) -> Outcome<()> {
    let place = NAMES.iter().position(|name| *name == which).ok_or("no such read")?;
    reads(place, url, times, |work| work())
}

/// Calls `measured` around this many reads, by one task on one thread.
fn reads<T>(
    place: usize,
    url: &str,
    times: u64,
    measured: impl FnOnce(&mut dyn FnMut() -> Outcome<()>) -> Outcome<T>,
) -> Outcome<T> {
    let runtime = Flavour::CurrentThread.build()?;
    let lanes = runtime.block_on(lanes(url, 1))?;
    let lane = lanes.get(place).ok_or("no such lane")?;
    let mut work = || runtime.block_on(lane.run(times)).map(drop);
    measured(&mut work)
}

/// The processor time of the server's main thread for one read of either kind. It depends only slightly on how busy the
/// machine is.
#[expect(clippy::cast_precision_loss, reason = "far fewer than 2^53 operations")]
fn server_time(rounds: usize) -> Outcome<String> {
    let began = Ticks::now();
    let mut table =
        Table::new(&["tasks", "plain GET, µs", "tracked GET, µs", "tracked / plain", "95 % interval"]);
    for tasks in [1, 64] {
        eprintln!("near-miss: processor time of the server, {tasks} tasks");
        let server = Server::builder().tcp().start();
        let runtime = Flavour::CurrentThread.build()?;
        let lanes = runtime.block_on(lanes(&server.url(), tasks))?;
        let [plain, tracked, _] = lanes.as_slice() else { return Err("three lanes were expected".into()) };
        let each = OPERATIONS / tasks;
        let spent = |lane: &Lane| {
            let before = main_thread(&server)?;
            runtime.block_on(lane.run(each))?;
            Outcome::Ok((main_thread(&server)? - before) / lane_operations(lane, each) as f64 * 1e6)
        };
        let (mut times, mut ratios) = ((Vec::new(), Vec::new()), Vec::new());
        spent(plain)?;
        spent(tracked)?;
        for _ in 0..rounds {
            let (first, second, third, fourth) =
                (spent(plain)?, spent(tracked)?, spent(tracked)?, spent(plain)?);
            let (of_plain, of_tracked) = ((first + fourth) / 2.0, (second + third) / 2.0);
            times.0.push(of_plain);
            times.1.push(of_tracked);
            ratios.push(of_tracked / of_plain);
        }
        let found = bootstrap(&ratios);
        table.row(&[
            &tasks.to_string(),
            &spread(quartiles(&times.0)),
            &spread(quartiles(&times.1)),
            &ratio(found.median),
            &interval(found),
        ]);
    }
    Ok(table.finish() + &machine::note(began, &format!("{rounds} rounds of four times {OPERATIONS} reads")))
}

fn lane_operations(lane: &Lane, each: u64) -> u64 {
    lane.operations() * each
}

/// Seconds of the server's main thread so far; of the whole process if the server does not count it separately.
pub(crate) fn main_thread(server: &Server) -> Outcome<f64> {
    let cpu = server.info("cpu");
    let seconds = |name: &str| cpu.get(name).and_then(|seconds| seconds.parse::<f64>().ok());
    let user = seconds("used_cpu_user_main_thread").or_else(|| seconds("used_cpu_user"));
    let system = seconds("used_cpu_sys_main_thread").or_else(|| seconds("used_cpu_sys"));
    Ok(user.zip(system).map(|(user, system)| user + system).ok_or("INFO cpu does not say")?)
}
