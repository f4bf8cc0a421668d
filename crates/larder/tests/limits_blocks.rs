//! Keys that have exceeded their limit are blocked for a while, and longer each time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::time::Duration;

use larder::{ErrorKind, Quota};

use larder::limit::Block;
use support::{each_pair, each_store, until};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_exceeds_its_limit_is_blocked_in_all_programs_though_permits_are_free() {
    for (store, larder, other) in each_pair().await {
        for quota in [Quota::new(3, ms(5)), Quota::new(30, ms(60)), Quota::new(10, ms(100)).gcra(3)] {
            let name = format!("logins{}", quota.limit());
            let limiter = larder.rate_limiter(&name, quota).unwrap().block_for(MINUTE).unwrap();
            let plain = other.rate_limiter(&name, quota).unwrap();
            // `take_up_to` takes as much as fits, so it does not exceed the limit.
            while limiter.take_up_to("ann", 100).await.unwrap().is_allowed() {}
            until("no block has begun", async || plain.allow("ann").await.unwrap()).await;
            let refused = loop {
                let decision = limiter.check("ann").await.unwrap();
                if !decision.is_allowed() {
                    break decision;
                }
            };
            let wait = refused.retry_after().unwrap();
            assert!(wait > MINUTE - SECOND && wait <= MINUTE + ms(200), "{store} {quota:?}: {wait:?}");
            assert_eq!((refused.remaining(), refused.quota()), (0, quota), "{store}");
            assert!(refused.reset_after() >= wait - ms(20), "{store}: {refused:?}");
            // The short window is over soon, and another program has no such setting: the key is blocked all the same.
            tokio::time::sleep(2 * quota.window()).await;
            let there = plain.check("ann").await.unwrap();
            assert!(there.retry_after().unwrap() > MINUTE - 5 * SECOND, "{store} {quota:?}: {there:?}");
            assert_eq!(plain.remaining("ann").await.unwrap(), 0, "{store}");
            assert_eq!(plain.take_up_to("ann", 5).await.unwrap().granted(), 0, "{store}");
            assert!(!plain.acquire("ann", ms(50)).await.unwrap().is_allowed(), "{store}");
            // Refusals during a block do not prolong it, and other keys have their own blocks.
            assert!(limiter.check("ann").await.unwrap().retry_after().unwrap() < wait, "{store}");
            assert!(limiter.allow("bob").await.unwrap(), "{store}");
            // A reset ends the block.
            assert!(limiter.reset("ann").await.unwrap(), "{store}");
            assert!(limiter.allow("ann").await.unwrap(), "{store} {quota:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_escalate_and_a_reset_or_a_quiet_time_forgets_them() {
    for (store, larder) in each_store().await {
        let block = Block::lasting(ms(100)).escalating(3, ms(700));
        let limiter = larder.rate_limiter("logins", Quota::new(2, ms(20))).unwrap().block_for(block).unwrap();
        let exceed = async || loop {
            let decision = limiter.check("ann").await.unwrap();
            if let Some(wait) = decision.retry_after() {
                break wait;
            }
        };
        let lasts = |wait: Duration, span: u64| wait > ms(span - 60) && wait <= ms(span + 30);
        for span in [100, 300, 700, 700] {
            let wait = exceed().await;
            assert!(lasts(wait, span), "{store}: {wait:?} of {span} ms");
            // A caller that waits for that long, alone, is admitted.
            tokio::time::sleep(wait).await;
            assert!(limiter.allow("ann").await.unwrap(), "{store}: after {span} ms");
        }
        limiter.reset("ann").await.unwrap();
        assert!(lasts(exceed().await, 100), "{store}: a reset forgets");
        // The length of the block, which must pass.
        tokio::time::sleep(ms(100)).await;
        assert!(lasts(exceed().await, 300), "{store}: and then it escalates again");
        // The quiet time is as long as the longest block, in whole seconds.
        tokio::time::sleep(ms(300 + 1000)).await;
        let again = exceed().await;
        assert!(lasts(again, 100), "{store}: {again:?} after a quiet time");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_gets_its_turn_after_the_block_and_overrides_and_refunds_leave_it() {
    for (store, larder) in each_store().await {
        let own = Quota::per_minute(4);
        let limiter = larder.rate_limiter("api", own).unwrap().block_for(ms(400)).unwrap();
        let all = limiter.check_n("ann", 4).await.unwrap();
        assert!(!limiter.allow("ann").await.unwrap());
        limiter.override_key("ann", Quota::per_minute(1000), MINUTE).await.unwrap();
        assert_eq!(limiter.refund("ann", all, 1).await.unwrap(), 1, "{store}: nothing was charged since");
        let blocked = limiter.check("ann").await.unwrap();
        assert!(blocked.retry_after().unwrap() <= ms(410), "{store}: {blocked:?}");
        let started = std::time::Instant::now();
        let turn = limiter.acquire("ann", MINUTE).await.unwrap();
        assert!(turn.is_allowed() && started.elapsed() >= blocked.retry_after().unwrap() / 2, "{store}");
        limiter.end_override("ann").await.unwrap();
        // A reset ends the block of a key with an override, and keeps the override.
        limiter.override_key("bob", Quota::per_minute(2), MINUTE).await.unwrap();
        limiter.check_n("bob", 2).await.unwrap();
        assert!(!limiter.allow("bob").await.unwrap(), "{store}");
        limiter.reset("bob").await.unwrap();
        assert_eq!(limiter.check("bob").await.unwrap().limit(), 2, "{store}");
        assert!(limiter.allow("bob").await.unwrap() && !limiter.allow("bob").await.unwrap(), "{store}");
    }
}

#[tokio::test]
async fn keys_that_are_decided_together_are_blocked_each_for_itself() {
    for (store, larder) in each_store().await {
        let users = larder.rate_limiter("users", Quota::per_hour(2)).unwrap().block_for(2 * MINUTE).unwrap();
        let all = larder.rate_limiter("all", Quota::per_hour(100)).unwrap().block_for(MINUTE).unwrap();
        let (users, all) = (users.in_group("g").unwrap(), all.in_group("g").unwrap());
        let ask = async || larder.check_together([users.key("ann"), all.key("everybody")]).await.unwrap();
        assert!(ask().await.is_allowed() && ask().await.is_allowed());
        let refused = ask().await;
        assert_eq!(refused.refused_by(), Some(0), "{store}");
        assert!(refused.retry_after().unwrap() > 2 * MINUTE, "{store}");
        // The other key was not charged, and it is not blocked.
        assert_eq!(all.remaining("everybody").await.unwrap(), 98, "{store}");
    }
}

#[tokio::test]
async fn a_block_that_makes_no_sense_is_refused() {
    let larder = support::connect("memory:").await;
    let limiter = larder.rate_limiter("api", Quota::per_hour(3)).unwrap();
    for block in [
        Block::lasting(Duration::ZERO),
        Block::lasting(Duration::MAX),
        Block::lasting(MINUTE).escalating(2, SECOND),
        Block::lasting(MINUTE).escalating(0, MINUTE),
        Block::lasting(MINUTE).escalating(256, MINUTE),
    ] {
        let error = limiter.clone().block_for(block).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSetting, "{block:?}");
    }
}
