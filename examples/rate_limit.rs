//! Rate limits: several quotas at once, waiting for a turn, costs that are known only afterwards, batches for hot keys,
//! a limit on work in progress, and a policy for an outage.
//!
//! ```sh
//! cargo run --example rate_limit
//! LARDER_URL=redis://127.0.0.1:6379 cargo run --example rate_limit
//! ```
//!
//! It prints (times differ by some milliseconds):
//!
//! ```text
//! Three in a second and five in a minute, decided together:
//!   request 1: allowed, 2 left
//!   request 2: allowed, 1 left
//!   request 3: allowed, 0 left
//!   request 4: refused by 1s, wait 1.0s
//! Waiting for a turn, four in 200 ms:
//!   mail 1: sent after 0 ms
//!   mail 2: sent after 0 ms
//!   mail 3: sent after 0 ms
//!   mail 4: sent after 0 ms
//!   mail 5: sent after 203 ms
//!   mail 6: sent after 203 ms
//! A cost that is known only afterwards:
//!   reserved 4000, used 1200, 2800 came back
//!   8800 left
//! Very hot keys, in batches of 50:
//!   10000 decisions in 9.1ms
//! Two at once:
//!   true true false
//! In an outage each of three processes grants a third of the limit; the server is up, so it decides:
//!   decided by store
//! ```

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use larder::limit::{OutagePolicy, Reserve};
use larder::{Larder, Quota};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("LARDER_URL").unwrap_or_else(|_| "memory:".to_owned());
    let larder = Larder::builder().url(&url).namespace("larder-example").connect().await?;
    // Each run uses new keys, so that a second run on the same server starts from zero.
    let run = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();

    println!("Three in a second and five in a minute, decided together:");
    let api = larder.rate_limiter("api", [Quota::per_second(3), Quota::per_minute(5)])?;
    for request in 1..=4 {
        let decision = api.check((run, "ann")).await?;
        match decision.retry_after() {
            None => println!("  request {request}: allowed, {} left", decision.remaining()),
            Some(wait) => {
                println!("  request {request}: refused by {:?}, wait {wait:.1?}", decision.quota().window());
            }
        }
    }

    println!("Waiting for a turn, four in 200 ms:");
    let mails = larder.rate_limiter("mails", Quota::new(4, Duration::from_millis(200)))?;
    let started = Instant::now();
    for mail in 1..=6 {
        let sent = mails.acquire((run, "out"), Duration::from_secs(5)).await?.is_allowed();
        println!(
            "  mail {mail}: {} after {} ms",
            if sent { "sent" } else { "given up" },
            started.elapsed().as_millis()
        );
    }

    println!("A cost that is known only afterwards:");
    let tokens = larder.rate_limiter("tokens", Quota::per_minute(10_000))?;
    if let Reserve::Granted(reservation) = tokens.reserve((run, "ann"), 4_000).await? {
        let settled = reservation.settle(1_200).await?;
        println!("  reserved 4000, used 1200, {} came back", settled.returned);
    }
    println!("  {} left", tokens.remaining((run, "ann")).await?);

    println!("Very hot keys, in batches of 50:");
    let hot = larder.rate_limiter("hot", Quota::per_minute(1_000_000))?.batched(50)?;
    let started = Instant::now();
    for _ in 0..10_000 {
        hot.allow((run, "front page")).await?;
    }
    println!("  10000 decisions in {:.1?}", started.elapsed());

    println!("Two at once:");
    let exports = larder.semaphore("exports", 2).key((run, "ann"));
    let (first, second) = (exports.try_acquire().await?, exports.try_acquire().await?);
    let third = exports.try_acquire().await?;
    println!("  {} {} {}", first.is_some(), second.is_some(), third.is_some());

    println!(
        "In an outage each of three processes grants a third of the limit; the server is up, so it decides:"
    );
    let careful =
        larder.rate_limiter("careful", Quota::per_minute(30))?.outage(OutagePolicy::LocalShare(3))?;
    println!("  decided by {}", careful.check((run, "ann")).await?.decided_by().as_str());

    larder.close().await?;
    Ok(())
}
