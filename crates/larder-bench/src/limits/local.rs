//! Decisions without a round trip: their time, their allocations, and how often a round trip is needed all the same.

use std::time::Instant;

use larder::{Larder, Quota};

use larder::limit::{DecidedBy, PermitBatch, RateLimiter};
use larder_testkit::Server;

use crate::allocations;
use crate::figures::Findings;
use crate::lane::Outcome;
use crate::rounds::Flavour;
use crate::table::Table;

const SAMPLES: usize = 10_000;
/// Decisions between two readings of the clock: few enough that most samples need no new batch.
const EACH: u32 = 20;

pub(crate) fn run() -> Outcome<Findings> {
    eprintln!("limits: decisions without a round trip");
    let server = Server::builder().tcp().start();
    let runtime = Flavour::CurrentThread.build()?;
    let larder = runtime.block_on(Larder::connect(&server.url()))?;
    let mut table =
        Table::new(&["decision", "ns, median", "ns, 99 %", "allocations", "round trips a decision"]);

    let refusing = larder.rate_limiter("refusing", Quota::per_day(30))?;
    runtime.block_on(async { refusing.check_n("10.0.0.7", 30).await })?;
    measure(&runtime, &server, &mut table, "a known refusal", &refusing, false)?;

    let batch = PermitBatch::batch(50);
    let batched = larder.rate_limiter("batched", Quota::per_minute(1_000_000_000))?.batched(batch)?;
    measure(&runtime, &server, &mut table, "batched, 50 a batch", &batched, true)?;
    let large = larder.rate_limiter("large", Quota::per_minute(1_000_000_000))?.batched(1_000_000)?;
    measure(&runtime, &server, &mut table, "batched, as long as a batch lasts", &large, true)?;

    let mut findings = Findings::default();
    findings.add("limit-local", table.finish());
    Ok(findings)
}

fn measure(
    runtime: &tokio::runtime::Runtime,
    server: &Server,
    table: &mut Table,
    name: &str,
    limiter: &RateLimiter,
    allowed: bool,
) -> Outcome<()> {
    let decide = async || limiter.check("10.0.0.7").await;
    let (mut nanos, mut taken, mut alone) = (Vec::new(), 0, 0u32);
    let calls = |server: &Server| server.calls("evalsha") + server.calls("eval");
    let before = calls(server);
    // First the time, of EACH decisions at once; then the allocations, of one decision at a time.
    runtime.block_on(async {
        decide().await?;
        for _ in 0..SAMPLES {
            let began = Instant::now();
            for _ in 0..EACH {
                if decide().await?.is_allowed() != allowed {
                    return Err("decided otherwise than it should".into());
                }
            }
            nanos.push(began.elapsed().as_nanos() / u128::from(EACH));
        }
        for _ in 0..SAMPLES {
            allocations::start();
            let decision = decide().await;
            let count = allocations::stop().count;
            if decision?.decided_by() != DecidedBy::Store {
                (taken, alone) = (taken + count, alone + 1);
            }
        }
        Outcome::Ok(())
    })?;
    // One row of the table.
    let decisions = 1 + SAMPLES as u64 * (u64::from(EACH) + 1);
    nanos.sort_unstable();
    let at = |share: usize| nanos.get(nanos.len() * share / 100).copied().unwrap_or_default().to_string();
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^53")]
    let trips = (calls(server) - before) as f64 / decisions as f64;
    let each = if alone == 0 { "–".to_owned() } else { format!("{:.2}", taken as f64 / f64::from(alone)) };
    table.row(&[name, &at(50), &at(99), &each, &format!("{trips:.4}")]);
    Ok(())
}
