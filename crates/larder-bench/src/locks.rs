//! Locks compared with the least that a lock could be, `SET NX PX` and a script that compares and deletes; and how long
//! a lock takes from one holder to the next.
//!
//! In the uncontended measurement every task has its own lock, so that none waits. A handover lasts from before the
//! release is sent until the next holder has its guard. It is stated in round trips of a `PING`, measured in the same
//! minute on the same connections.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use larder::Larder;
use larder_testkit::Server;
use redis::{Script, cmd};
use tokio::task::JoinSet;

use crate::bare::Bare;
use crate::driver::row;
use crate::figures::{Bar, Findings, Limit};
use crate::lane::{Lane, Outcome};
use crate::lock_cost;
use crate::rounds::{Flavour, compare};
use crate::statistics::quantile;
use crate::table::{Table, ratio};

const ONE: Limit = Limit::AtLeast(0.95);
const MANY: Limit = Limit::AtLeast(0.75);
const MEDIAN: Limit = Limit::AtMost(2.5);
const P99: Limit = Limit::AtMost(6.0);
const TASKS: [u64; 2] = [1, 64];
const WAITERS: [usize; 2] = [1, 64];
const HANDOVERS: usize = 600;
const PINGS: usize = 300;
/// How long a lock is held, and how long its last holder pauses: longer than a handover takes.
const HELD: Duration = Duration::from_millis(4);
const AWAY: Duration = Duration::from_millis(1);
const TTL: Duration = Duration::from_secs(30);
const RELEASE: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";

pub(crate) fn run(rounds: usize, instructions: bool) -> Outcome<Findings> {
    let mut findings = Findings::default();
    // Pairs of locks differ little from round to round, and all of this should end within a minute.
    findings.add("lock-cost", lock_cost::run(rounds.div_ceil(4), instructions)?);
    uncontended(rounds.div_ceil(2), &mut findings)?;
    handovers(&mut findings)?;
    Ok(findings)
}

fn uncontended(rounds: usize, findings: &mut Findings) -> Outcome<()> {
    let mut table = Table::new(&[
        "operation",
        "tasks",
        "runtime",
        "larder / bare",
        "95 % interval",
        "bare, pairs/s",
        "larder, pairs/s",
    ]);
    let (mut one, mut many) = (Vec::new(), Vec::new());
    for (flavour, tasks) in Flavour::BOTH.into_iter().flat_map(|flavour| TASKS.map(|tasks| (flavour, tasks)))
    {
        eprintln!("locks: {tasks} tasks, {}", flavour.name());
        let standings = compare(flavour, rounds, async |url| {
            let (bare, larder) = (Bare::connect(url).await?, Larder::connect(url).await?);
            Ok(vec![of_bare(&bare, tasks), of_larder(&larder, tasks)])
        })?;
        let [bare, larder] = standings.as_slice() else { return Err("two lanes were expected".into()) };
        let bounds = if tasks == 1 { &mut one } else { &mut many };
        bounds.push((larder.ratio.low, flavour.name().to_owned()));
        row(&mut table, "acquire and release", tasks, flavour, bare, larder);
    }
    findings.add("locks", table.finish());
    findings.bars.push(Bar::over("rate of a free lock's pair / `SET NX PX` + script, 1 task", ONE, one));
    findings.bars.push(Bar::over("rate of a free lock's pair / `SET NX PX` + script, 64 tasks", MANY, many));
    Ok(())
}

pub(crate) fn of_bare(bare: &Bare, tasks: u64) -> Lane {
    let connection = bare.connection();
    Lane::new("bare", tasks, move |ids| {
        let mut connection = connection.clone();
        Box::pin(async move {
            let (script, (task, pairs)) = (Script::new(RELEASE), ids.start_and_count());
            let name = format!("bare:{task}");
            for pair in 0..pairs {
                let mut set = cmd("SET");
                set.arg(&name).arg(pair).arg("NX").arg("PX").arg(30_000);
                let taken: Option<String> = set.query_async(&mut connection).await?;
                taken.ok_or("a free lock is taken")?;
                let freed: u64 = script.key(&name).arg(pair).invoke_async(&mut connection).await?;
                if freed != 1 {
                    return Err("a held lock is lost".into());
                }
            }
            Ok(())
        })
    })
}

pub(crate) fn of_larder(larder: &Larder, tasks: u64) -> Lane {
    let larder = larder.clone();
    Lane::new("larder", tasks, move |ids| {
        let larder = larder.clone();
        Box::pin(async move {
            let (task, pairs) = ids.start_and_count();
            let lock = larder.lock(format!("larder:{task}")).ttl(TTL);
            for _ in 0..pairs {
                lock.acquire().await?.release().await?;
            }
            Ok(())
        })
    })
}

fn handovers(findings: &mut Findings) -> Outcome<()> {
    let mut table = Table::new(&[
        "waiters",
        "runtime",
        "`PING`, µs",
        "99 %",
        "median, µs",
        "99 %, µs",
        "median in round trips",
        "99 % in round trips",
    ]);
    let (mut medians, mut tails) = (Vec::new(), Vec::new());
    for (flavour, waiters) in
        Flavour::BOTH.into_iter().flat_map(|flavour| WAITERS.map(|waiters| (flavour, waiters)))
    {
        eprintln!("locks: handover among {waiters} waiters, {}", flavour.name());
        let server = Server::builder().tcp().start();
        let (pings, times) = flavour.build()?.block_on(handover(&server.url(), waiters))?;
        let (ping, slow_ping) = (quantile(&pings, 0.5), quantile(&pings, 0.99));
        let (median, tail) = (quantile(&times, 0.5), quantile(&times, 0.99));
        let place = format!("{waiters} waiters, {}", flavour.name());
        medians.push((median / ping, place.clone()));
        tails.push((tail / ping, place));
        let micros = |time: f64| format!("{time:.0}");
        table.row(&[
            &waiters.to_string(),
            flavour.name(),
            &micros(ping),
            &micros(slow_ping),
            &micros(median),
            &micros(tail),
            &ratio(median / ping),
            &ratio(tail / ping),
        ]);
    }
    findings.add("handover", table.finish());
    findings.bars.push(Bar::over("handover of a lock, median, in round trips", MEDIAN, medians));
    findings.bars.push(Bar::over("handover of a lock, 99 %, in round trips", P99, tails));
    Ok(())
}

/// The round trips of a PING, and the time of each handover, in microseconds.
async fn handover(url: &str, waiters: usize) -> Outcome<(Vec<f64>, Vec<f64>)> {
    let (here, there) = (Larder::connect(url).await?, Larder::connect(url).await?);
    let mut pings = Vec::new();
    for _ in 0..PINGS {
        // The PINGs pause too, so that they find the machine as idle as a handover does.
        tokio::time::sleep(HELD).await;
        let sent = Instant::now();
        here.ping().await?;
        pings.push(sent.elapsed().as_secs_f64() * 1e6);
    }
    let times = Arc::new(Mutex::new((None::<Instant>, Vec::new())));
    let mut tasks = JoinSet::new();
    // One task holds the lock while the others wait.
    for task in 0..=waiters {
        let larder = if task.is_multiple_of(2) { &here } else { &there };
        let lock = larder.lock("gate").ttl(TTL);
        let times = times.clone();
        tasks.spawn(async move {
            loop {
                let guard = lock.acquire().await?;
                let granted = Instant::now();
                {
                    let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some(sent) = times.0 {
                        times.1.push(granted.duration_since(sent).as_secs_f64() * 1e6);
                    }
                    if times.1.len() >= HANDOVERS {
                        return Outcome::Ok(());
                    }
                }
                // Until the previous holder is in the queue again.
                tokio::time::sleep(HELD).await;
                times.lock().unwrap_or_else(PoisonError::into_inner).0 = Some(Instant::now());
                guard.release().await?;
                // What this task does next is not part of the handover, and would use the same thread and server.
                tokio::time::sleep(AWAY).await;
            }
        });
    }
    tasks.join_next().await.ok_or("no task")???;
    tasks.abort_all();
    let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
    Ok((pings, std::mem::take(&mut times.1)))
}
