//! Programs whose clocks are wrong and run at other rates, on one real server: no window of the server's clock
//! holds more than the limit.
//!
//! Each program is a `Larder` with its own clock ([`Clock::skewed`]): days ahead, fast by any rate, slow by at most
//! the thousandth that is allowed for. Some use plain checks, some permit batches and some wait for turns, all on
//! the same records, and each knows its refusals. The server's clock is this machine's wall clock. So a permit that
//! a program spends from a batch is known to be used between two readings of that clock, and a charge by the server
//! is known to the microsecond.

use std::time::{Duration, Instant, SystemTime};

use larder_testkit::Server;

use super::{DecidedBy, Decision, PermitBatch, Quota, RateLimiter};
use crate::Larder;
use crate::clock::Clock;
use crate::store::limit::ChargeStamp;

const WINDOW: Duration = Duration::from_millis(400);
const SPAN: Duration = Duration::from_millis(100);
const LASTS: Duration = Duration::from_secs(3);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// How far each clock is ahead, and by how many parts in a million it is fast.
const CLOCKS: [(Duration, i32); 5] = [
    (Duration::ZERO, 0),
    (Duration::from_secs(600), -900),
    (DAY, -900),
    (DAY, 1_000_000),
    (Duration::from_secs(1), 50_000),
];

/// The two server times between which a permit was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Use {
    from: u64,
    to: u64,
}

fn server_time() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    u64::try_from(since.as_micros()).unwrap()
}

/// A charge by the server has an exact time; a permit from a batch was spent between two readings.
fn used(decision: &Decision, from: u64, batched: bool) -> Use {
    assert_ne!(decision.stamp, ChargeStamp::default());
    let charged = decision.stamp.when;
    if batched { Use { from, to: server_time() } } else { Use { from: charged, to: charged } }
}

#[derive(Debug, Clone, Copy)]
enum Asks {
    Plainly,
    InBatches,
    InTurns,
}

async fn ask(limiter: RateLimiter, asks: Asks, end: Instant) -> (Vec<Use>, u64) {
    let limiter = match asks {
        Asks::InBatches => limiter.batched(PermitBatch::batch(20).span(SPAN)).unwrap(),
        Asks::Plainly | Asks::InTurns => limiter,
    };
    let (mut uses, mut refused_here) = (Vec::new(), 0);
    while Instant::now() < end {
        let from = server_time();
        let decision = match asks {
            Asks::InTurns => limiter.acquire("key", WINDOW).await.unwrap(),
            Asks::InBatches | Asks::Plainly => limiter.check("key").await.unwrap(),
        };
        refused_here += u64::from(decision.decided_by() == DecidedBy::Refusal);
        if decision.is_allowed() {
            uses.push(used(&decision, from, matches!(asks, Asks::InBatches)));
        } else {
            tokio::task::yield_now().await;
        }
    }
    (uses, refused_here)
}

/// The largest number of permits that were certainly used within one window.
fn most(uses: &mut [Use]) -> usize {
    let window = u64::try_from(WINDOW.as_micros()).unwrap();
    uses.sort_unstable();
    let within = |first: usize| {
        let (start, rest) = (uses[first].from, &uses[first..]);
        let begun = rest.iter().take_while(move |one| one.from < start + window);
        begun.filter(move |one| one.to < start + window).count()
    };
    (0..uses.len()).map(within).max().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_the_clocks_of_programs_say_no_window_holds_more_than_the_limit() {
    let server = Server::start();
    let mut programs = Vec::new();
    for (charge_at, parts) in CLOCKS {
        let builder = Larder::builder().url(server.url()).response_timeout(Duration::from_secs(10));
        programs.push(builder.clock(Clock::skewed(charge_at, parts)).connect().await.unwrap());
    }
    // Counted by the time of each permit, and in buckets.
    let quotas = [Quota::new(8, WINDOW), Quota::new(100, WINDOW)];
    let end = Instant::now() + LASTS;
    let mut asking = Vec::new();
    for (place, quota) in quotas.iter().enumerate() {
        for larder in &programs {
            let limiter = larder.rate_limiter(format!("of{}", quota.limit()), *quota).unwrap();
            for asks in [Asks::Plainly, Asks::InBatches, Asks::InTurns] {
                let task = tokio::spawn(ask(limiter.clone(), asks, end));
                asking.push(async move { (place, asks, task.await.unwrap()) });
            }
        }
    }
    let mut all = [Vec::new(), Vec::new()];
    let (mut refused_here, mut got) = (0, [0; 3]);
    for one in asking {
        let (place, asks, (mut uses, refused)) = one.await;
        got[asks as usize] += uses.len();
        refused_here += refused;
        all[place].append(&mut uses);
    }
    for (quota, uses) in quotas.iter().zip(&mut all) {
        let (count, most) = (uses.len(), most(uses));
        println!("limit {}: {count} in {LASTS:?}, {most} at most within {WINDOW:?}", quota.limit());
        assert!(most as u64 <= quota.limit(), "{most} in one window, of {quota:?}");
        // The limit can be used, although batches return what they do not spend only later.
        assert!(count as u64 >= 3 * quota.limit(), "only {count} of {quota:?}");
    }
    assert!(got.iter().all(|uses| *uses > 0), "plainly, in batches and in turns: {got:?}");
    assert!(refused_here > 0, "no refusal was known here");
}
