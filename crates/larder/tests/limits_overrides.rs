//! Limits of single keys, changed while programs run and stored on the server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::time::Duration;

use larder::limit::Block;
use larder::{ErrorKind, Quota};
use larder_testkit::Server;
use support::{each_pair, each_store, until};

const DAY: Duration = Duration::from_secs(24 * 3600);

#[tokio::test]
async fn a_key_with_an_override_has_its_limits_and_the_others_keep_theirs() {
    for (store, larder) in each_store().await {
        for own in [Quota::per_hour(10), Quota::per_hour(100)] {
            let limiter = larder.rate_limiter(format!("api{}", own.limit()), own).unwrap();
            assert_eq!(limiter.check_n("ann", 4).await.unwrap().remaining(), own.limit() - 4);
            for over in [
                Quota::per_hour(50),
                Quota::per_hour(6).exact(),
                Quota::per_day(70_000),
                Quota::per_hour(60).gcra(9),
            ] {
                limiter.override_key("ann", over, DAY).await.unwrap();
                // Earlier charges still count.
                let most = if over == Quota::per_hour(60).gcra(9) { 9 } else { over.limit() };
                assert_eq!(limiter.remaining("ann").await.unwrap(), most - 4, "{store} {over:?}");
                let told = limiter.override_of("ann").await.unwrap().unwrap();
                assert_eq!(told.quotas, [over], "{store}");
                assert!(told.expires_in > DAY - Duration::from_secs(60) && told.expires_in <= DAY, "{store}");
                assert_eq!(limiter.remaining("bob").await.unwrap(), own.limit(), "{store}");
            }
            limiter.override_key("ann", Quota::per_hour(6), DAY).await.unwrap();
            let decision = limiter.check("ann").await.unwrap();
            assert_eq!((decision.remaining(), decision.quota()), (1, Quota::per_hour(6)), "{store}");
            assert_eq!(limiter.refund("ann", decision, 1).await.unwrap(), 1, "{store}");
            assert!(limiter.check_n("ann", 2).await.unwrap().is_allowed());
            let refused = limiter.check("ann").await.unwrap();
            assert_eq!((refused.is_allowed(), refused.limit()), (false, 6), "{store}");
            // A cost above the override's limit waits until the override ends.
            let never = limiter.check_n("ann", 7).await.unwrap();
            assert!(never.retry_after().unwrap() > DAY - Duration::from_secs(60), "{store}: {never:?}");
            // A reset erases the charges, and keeps the override.
            assert!(limiter.reset("ann").await.unwrap() && !limiter.reset("ann").await.unwrap(), "{store}");
            assert_eq!(limiter.remaining("ann").await.unwrap(), 6, "{store}");
            assert_eq!(limiter.check("ann").await.unwrap().remaining(), 5, "{store}");
            limiter.end_override("ann").await.unwrap();
            assert_eq!(limiter.override_of("ann").await.unwrap(), None, "{store}");
            assert_eq!(limiter.remaining("ann").await.unwrap(), own.limit() - 1, "{store}");
        }
    }
}

#[tokio::test]
async fn a_cost_above_the_limiters_own_limit_passes_where_an_override_allows_it() {
    for (store, larder) in each_store().await {
        for own in [Quota::per_hour(10), Quota::per_hour(100), Quota::per_hour(60).gcra(5)] {
            let limiter = larder.rate_limiter(format!("own{}", own.limit()), own).unwrap();
            let error = limiter.check_n("ann", 101).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidSetting, "{store} {own:?}");
            let error = limiter.acquire_n("ann", 101, DAY).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidSetting, "{store} {own:?}");
            assert!(limiter.reserve("ann", 101).await.is_err(), "{store}");
            limiter.override_key("ann", Quota::per_hour(450), DAY).await.unwrap();
            assert_eq!(limiter.check_n("ann", 101).await.unwrap().remaining(), 349, "{store} {own:?}");
            assert!(limiter.acquire_n("ann", 101, Duration::ZERO).await.unwrap().is_allowed(), "{store}");
            assert!(limiter.reserve("ann", 101).await.unwrap().granted().is_some(), "{store}");
            let together = larder.check_together([limiter.key("ann").cost(101)]).await.unwrap();
            assert!(together.is_allowed(), "{store}");
            let refused = limiter.check_n("ann", 101).await.unwrap();
            assert!(refused.retry_after().is_some() && refused.limit() == 450, "{store}");
            // The cost of another key is as before.
            let error = larder.check_together([limiter.key("bob").cost(101)]).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidSetting, "{store}");
        }
    }
}

#[tokio::test]
async fn an_override_ends_by_itself_and_other_programs_see_it() {
    for (store, larder, other) in each_pair().await {
        let limiter = |larder: &larder::Larder| larder.rate_limiter("api", Quota::per_hour(2)).unwrap();
        let (here, there) = (limiter(&larder), limiter(&other));
        here.check_n("ann", 2).await.unwrap();
        assert!(!there.allow("ann").await.unwrap());
        here.override_key("ann", Quota::per_hour(30), Duration::from_secs(4)).await.unwrap();
        until("the other program sees it", async || there.allow("ann").await.unwrap()).await;
        until("it has ended", async || here.override_of("ann").await.unwrap().is_none()).await;
        assert_eq!(there.remaining("ann").await.unwrap(), 0, "{store}");
        // The charges are still there.
        assert_eq!(
            here.with_quotas(Quota::per_hour(30)).unwrap().remaining("ann").await.unwrap(),
            27,
            "{store}"
        );
    }
}

#[tokio::test]
async fn an_override_costs_a_decision_no_round_trip_and_its_record_expires() {
    let server = Server::start();
    let larder = support::connect(&server.url()).await;
    let limiter = larder.rate_limiter("api", Quota::per_hour(30)).unwrap();
    limiter.override_key("ann", Quota::per_hour(50), DAY).await.unwrap();
    limiter.check("warm").await.unwrap();
    server.reset_stats();
    assert_eq!(limiter.check("ann").await.unwrap().remaining(), 49);
    assert_eq!(server.calls("evalsha") + server.calls("eval"), 1);
    let keys: Vec<String> = server.query(&["KEYS", "*api:ann*"]);
    let left: i64 = server.query(&["PTTL", &keys[0]]);
    assert!(left > 86_000_000 && left < 86_500_000, "{left}");
    for (quotas, lasts) in
        [(vec![], DAY), (vec![Quota::per_hour(1)], Duration::ZERO), (vec![Quota::per_hour(1)], Duration::MAX)]
    {
        let error = limiter.override_key("ann", quotas, lasts).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSetting);
    }
}

#[tokio::test]
async fn a_record_lives_no_longer_than_its_quotas_need_after_an_override_has_ended() {
    let server = Server::start();
    let larder = support::connect(&server.url()).await;
    let limiter = larder.rate_limiter("api", Quota::per_minute(30)).unwrap();
    let left = |key: &str| {
        let keys: Vec<String> = server.query(&["KEYS", &format!("*:{key}}}*")]);
        keys.first().map(|name| server.query::<u64>(&["PTTL", name]))
    };
    // A record of buckets lives for the window and a bucket, and a sixth of the window more.
    // What the override's buckets counted lives until the last of it is back, a day and a bucket after it was charged:
    // another program may have charged by the same quotas.
    let (minute, converted) = (66_000..=71_002, 86_000_000..=87_840_002);
    for key in ["charged", "charged by the override", "replaced", "reset"] {
        if key == "charged" {
            limiter.check(key).await.unwrap();
        }
        limiter.override_key(key, Quota::per_day(50), 300 * DAY).await.unwrap();
        if key != "charged" {
            limiter.check(key).await.unwrap();
        }
        assert!(left(key).unwrap() > 299 * 86_400_000, "{key}");
        match key {
            "replaced" => {
                limiter.override_key(key, Quota::per_minute(50), Duration::from_secs(65)).await.unwrap();
            }
            "reset" => {
                limiter.override_key(key, Quota::per_day(50), Duration::from_secs(70)).await.unwrap();
                assert!(left(key).unwrap() > 86_400_000, "a charge of the override counts for a day");
                limiter.reset(key).await.unwrap();
            }
            _ => limiter.end_override(key).await.unwrap(),
        }
        let left = left(key).unwrap();
        let needed = if matches!(key, "charged" | "reset") { &minute } else { &converted };
        assert!(needed.contains(&left), "{key}: {left}");
    }
    // Nothing was charged: nothing is left.
    limiter.override_key("unused", Quota::per_day(50), 300 * DAY).await.unwrap();
    limiter.end_override("unused").await.unwrap();
    assert_eq!(left("unused"), None);
    // A block is remembered.
    let blocking = limiter.clone().block_for(Block::from(60 * Duration::from_secs(60))).unwrap();
    blocking.check_n("blocked", 30).await.unwrap();
    assert!(!blocking.allow("blocked").await.unwrap());
    blocking.override_key("blocked", Quota::per_day(50), 300 * DAY).await.unwrap();
    blocking.end_override("blocked").await.unwrap();
    let left = left("blocked").unwrap();
    assert!((7_100_000..=7_201_001).contains(&left), "{left}");
    assert!(!limiter.allow("blocked").await.unwrap());
}

#[tokio::test]
async fn what_was_charged_before_an_override_is_given_back_under_it() {
    for (store, larder) in each_store().await {
        let limiter = larder.rate_limiter("api", Quota::per_hour(100)).unwrap();
        let before = limiter.check_n("ann", 10).await.unwrap();
        limiter.override_key("ann", Quota::per_day(300), DAY).await.unwrap();
        assert_eq!(limiter.refund("ann", before, 10).await.unwrap(), 10, "{store}");
        assert_eq!(limiter.remaining("ann").await.unwrap(), 300, "{store}");
        let under = limiter.check_n("ann", 5).await.unwrap();
        assert_eq!(limiter.refund("ann", under, 5).await.unwrap(), 5, "{store}");
        assert_eq!(limiter.remaining("ann").await.unwrap(), 300, "{store}");
    }
}
