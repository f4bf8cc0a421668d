//! The program that docs/from/governor.md starts from. A test of xtask compares it with the page.
#![allow(clippy::unwrap_used, reason = "as the page has it")]

use std::num::NonZeroU32;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

fn limiter() -> DefaultKeyedRateLimiter<String> {
    RateLimiter::keyed(Quota::per_minute(NonZeroU32::new(100).unwrap()))
}

fn check(limiter: &DefaultKeyedRateLimiter<String>) {
    if let Err(refused) = limiter.check_key(&"ann".to_owned()) {
        println!("retry after {:?}", refused.wait_time_from(DefaultClock::default().now()));
    }
}

// What the page leaves out.
fn main() {
    let limiter = limiter();
    (0..101).for_each(|_| check(&limiter));
}
