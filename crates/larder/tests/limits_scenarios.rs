//! Scenarios that break other limiters, one test each.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::time::{Duration, Instant};

use larder::{ErrorKind, Larder, Quota};

use larder::limit::DecidedBy;
use larder_testkit::Server;
use support::{each_store, until};

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_one_microsecond_are_each_counted() {
    for (store, larder) in each_store().await {
        for quota in [Quota::per_hour(15), Quota::per_hour(500), Quota::per_hour(500).exact()] {
            let limiter = larder.rate_limiter("api", quota).unwrap();
            let (most, key) = (quota.limit(), format!("{quota:?}"));
            let asked: Vec<_> = (0..most * 2)
                .map(|_| {
                    let (limiter, key) = (limiter.clone(), key.clone());
                    tokio::spawn(async move { limiter.allow(&key).await.unwrap() })
                })
                .collect();
            let mut allowed = 0;
            for one in asked {
                allowed += u64::from(one.await.unwrap());
            }
            assert_eq!(allowed, most, "{store} {quota:?}");
        }
    }
}

#[tokio::test]
async fn refusals_charge_nothing_so_that_a_persistent_client_recovers() {
    for (store, larder) in each_store().await {
        let window = Duration::from_millis(400);
        let limiter = larder.rate_limiter("api", Quota::new(30, window)).unwrap();
        let (started, mut allowed) = (Instant::now(), 0u64);
        // On a busy machine the requests themselves may take longer than four windows. If refusals were charged, the
        // requests after the first 30 would be refused without end.
        while started.elapsed() < 4 * window || allowed < 3 * 30 {
            allowed += u64::from(limiter.allow("a").await.unwrap());
            assert!(started.elapsed() < Duration::from_secs(20), "{store}: {allowed}");
        }
        // At most the windows that have begun, and one more.
        let windows = started.elapsed().as_millis() / window.as_millis() + 1;
        assert!(u128::from(allowed) <= 30 * windows, "{store}: {allowed} in {windows} windows");
    }
}

#[tokio::test]
async fn windows_below_a_second_end_and_their_records_too() {
    let server = Server::start();
    let larder = Larder::connect(&server.url()).await.unwrap();
    for quota in [Quota::new(2, Duration::from_millis(30)), Quota::new(40, Duration::from_millis(30))] {
        let limiter = larder.rate_limiter("api", quota).unwrap();
        limiter.check_n("a", quota.limit()).await.unwrap();
        let left: i64 = server.query(&["PTTL", "~limit.1:{/api:a}"]);
        assert!((0..=37).contains(&left), "{left}");
        until("it passes again", async || limiter.allow("a").await.unwrap()).await;
        until("nothing is left", async || server.query::<u64>(&["DBSIZE"]) == 0).await;
    }
}

#[tokio::test]
async fn every_record_expires_and_is_no_larger_than_promised() {
    let server = Server::start();
    let larder = Larder::connect(&server.url()).await.unwrap();
    let length = |name: &str| server.query::<u64>(&["STRLEN", &format!("~limit.1:{{/{name}:10.0.0.1}}")]);
    // Sixty buckets and the current one, with a charge in each.
    let window = Duration::from_millis(1200);
    for (name, limit, most) in [("buckets", 65_535, 149), ("wide", 65_536, 271)] {
        let limiter = larder.rate_limiter(name, Quota::new(limit, window)).unwrap();
        until("all buckets are in use", async || {
            limiter.check("10.0.0.1").await.unwrap();
            assert!(length(name) <= most, "{name}: {}", length(name));
            length(name) >= most - 8
        })
        .await;
    }
    let four = [Quota::per_second(50), Quota::per_minute(500), Quota::per_hour(5000), Quota::per_day(50_000)];
    let four = larder.rate_limiter("four", four).unwrap();
    four.check("10.0.0.1").await.unwrap();
    assert_eq!(length("four"), 15 + 4 * 14);
    let month = Duration::from_secs(30 * 24 * 3600);
    for (name, quota, bytes) in [
        ("minute", Quota::per_minute(20), 29 + 4 * 20),
        ("hour", Quota::per_hour(20), 29 + 4 * 20),
        ("day", Quota::per_day(20), 29 + 5 * 20),
        ("month", Quota::new(20, month), 29 + 6 * 20),
        ("exact", Quota::per_hour(1000).exact(), 29 + 4 * 1000),
    ] {
        let limiter = larder.rate_limiter(name, quota).unwrap();
        for _ in 0..20 {
            limiter.check_n("10.0.0.1", quota.limit() / 20).await.unwrap();
        }
        assert_eq!(length(name), bytes);
        assert!(2 * bytes <= 13 * quota.limit() || name == "month");
    }
    for name in server.query::<Vec<String>>(&["KEYS", "*"]) {
        let left: i64 = server.query(&["PTTL", &name]);
        assert!(left > 0 && left <= 30 * 24 * 3_600_000 * 7 / 6 + 1, "{name} {left}");
    }
}

#[tokio::test]
async fn a_limit_of_100_000_counts_as_any_other() {
    for (store, larder) in each_store().await {
        let limiter = larder.rate_limiter("api", Quota::per_hour(100_000)).unwrap();
        for _ in 0..10 {
            assert!(limiter.check_n("a", 9_999).await.unwrap().is_allowed(), "{store}");
        }
        assert_eq!(limiter.remaining("a").await.unwrap(), 10, "{store}");
        assert!(!limiter.check_n("a", 11).await.unwrap().is_allowed());
        assert!(limiter.check_n("a", 10).await.unwrap().is_allowed());
    }
}

#[tokio::test]
async fn on_a_cluster_every_key_works_whatever_its_slot() {
    let larder = support::connect(&support::cluster().url()).await;
    let limiter = larder.rate_limiter("api", [Quota::per_hour(2), Quota::per_day(100)]).unwrap();
    for key in 0..200u32 {
        assert!(limiter.allow((key, "{odd}")).await.unwrap());
        assert_eq!(limiter.remaining((key, "{odd}")).await.unwrap(), 1);
    }
    let decisions = limiter.check_many((0..200u32).map(|key| (key, "{odd}"))).await.unwrap();
    assert!(decisions.iter().all(|decision| decision.is_allowed() && decision.remaining() == 0));
}

#[tokio::test]
async fn a_server_that_forgot_the_scripts_gets_them_again_and_charges_once() {
    let server = Server::start();
    let larder = Larder::connect(&server.url()).await.unwrap();
    let limiter = larder.rate_limiter("api", Quota::per_hour(100)).unwrap();
    for left in (90..100).rev() {
        server.command(&["SCRIPT", "FLUSH"]);
        assert_eq!(limiter.check("a").await.unwrap().remaining(), left);
    }
    server.command(&["SCRIPT", "FLUSH"]);
    let decision = limiter.check_n("a", 5).await.unwrap();
    server.command(&["SCRIPT", "FLUSH"]);
    assert_eq!(limiter.refund("a", decision, 5).await.unwrap(), 5);
    assert_eq!(limiter.remaining("a").await.unwrap(), 90);
}

#[tokio::test]
async fn a_call_without_an_answer_says_that_it_may_have_charged() {
    let server = Server::start();
    let larder = Larder::connect(&server.url()).await.unwrap();
    let limiter = larder.rate_limiter("api", Quota::per_hour(100)).unwrap();
    limiter.check("a").await.unwrap();
    server.pause();
    let error = limiter.check("a").timeout(Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.is_indeterminate());
    server.resume();
    // It was charged once: nothing is sent again.
    until("the server answers", async || larder.ping().await.is_ok()).await;
    until("it was charged", async || limiter.remaining("a").await.unwrap() == 98).await;
    let invalid = limiter.check_n("a", 0).await.unwrap_err();
    assert!(!invalid.is_indeterminate());
}

#[tokio::test]
async fn a_key_known_to_be_refused_costs_no_round_trip() {
    let server = Server::start();
    let larder = Larder::connect(&server.url()).await.unwrap();
    let limiter = larder.rate_limiter("api", Quota::per_hour(30)).unwrap();
    limiter.check_n("a", 30).await.unwrap();
    let first = limiter.check("a").await.unwrap();
    assert_eq!(first.decided_by(), DecidedBy::Store);
    server.reset_stats();
    let again = larder.rate_limiter("api", Quota::per_hour(30)).unwrap();
    for limiter in [&limiter, &again] {
        for _ in 0..100 {
            let known = limiter.check("a").await.unwrap();
            assert_eq!(known.decided_by(), DecidedBy::Refusal);
            assert!(!known.is_allowed() && known.quota() == first.quota());
            // Counted by a clock that lags by a tick.
            let lag = Duration::from_millis(15);
            assert!(known.retry_after().unwrap() <= first.retry_after().unwrap() + lag);
        }
    }
    assert_eq!(server.calls("evalsha"), 0);
    // A request for another key.
    assert!(limiter.allow("b").await.unwrap());
    assert_eq!(server.calls("evalsha"), 1);
    limiter.reset("a").await.unwrap();
    assert!(limiter.allow("a").await.unwrap());
}

#[tokio::test]
async fn a_known_refusal_ends_when_it_could_pass() {
    for (store, larder) in each_store().await {
        let limiter = larder.rate_limiter("api", Quota::new(1, Duration::from_millis(200))).unwrap();
        for _ in 0..5 {
            until("it passes", async || limiter.allow("a").await.unwrap()).await;
            // On a busy machine the window may end before the next request, which then passes.
            let wait = loop {
                if let Some(wait) = limiter.check("a").await.unwrap().retry_after() {
                    break wait;
                }
            };
            tokio::time::sleep(wait).await;
            let late = limiter.check("a").await.unwrap();
            assert!(late.is_allowed(), "{store}: {late:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_connections_to_one_server_share_one_limit() {
    let server = support::server();
    let (limit, window) = (50u64, Duration::from_millis(250));
    let namespace = support::namespace();
    let started = Instant::now();
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let larder = Larder::builder().url(server.url()).namespace(&namespace).connect().await.unwrap();
        for _ in 0..4 {
            let limiter = larder.rate_limiter("api", Quota::new(limit, window)).unwrap();
            tasks.push(tokio::spawn(async move {
                let mut admitted = Vec::new();
                while started.elapsed() < 4 * window {
                    let sent = started.elapsed();
                    if limiter.allow("a").await.unwrap() {
                        admitted.push((sent, started.elapsed()));
                    }
                }
                admitted
            }));
        }
    }
    let mut admitted = Vec::new();
    for task in tasks {
        admitted.extend(task.await.unwrap());
    }
    assert!(admitted.len() as u64 >= limit * 3, "{}", admitted.len());
    // Each call was admitted between its request and its reply: no more calls than the limit lie within one window.
    for (start, _) in &admitted {
        let inside = admitted.iter().filter(|(sent, answered)| sent >= start && *answered < *start + window);
        assert!(inside.count() as u64 <= limit, "from {start:?}");
    }
}

/// redis/redis#14826, #15113: a cost of the whole burst has a time at which it passes, one above it has none.
#[tokio::test]
async fn a_cost_of_the_whole_burst_passes_when_it_was_said_to_and_one_above_it_is_an_error() {
    for (store, larder) in each_store().await {
        let limiter = larder.rate_limiter("api", Quota::new(20, Duration::from_secs(1)).gcra(4)).unwrap();
        assert!(limiter.check_n("a", 4).await.unwrap().is_allowed(), "{store}");
        let wait = limiter.check_n("a", 4).await.unwrap().retry_after().expect(store);
        assert!(wait <= Duration::from_millis(200), "{store}: {wait:?}");
        tokio::time::sleep(wait + Duration::from_millis(5)).await;
        assert!(limiter.check_n("a", 4).await.unwrap().is_allowed(), "{store}");
        let above = limiter.check_n("a", 5).await.unwrap_err();
        assert_eq!(above.kind(), ErrorKind::InvalidSetting, "{store}");
    }
}

/// animir/node-rate-limiter-flexible#231: spans that no timer holds end at once there.
#[tokio::test]
async fn the_longest_block_and_an_endless_max_wait_are_no_shorter_than_they_say() {
    for (store, larder) in each_store().await {
        let year = Duration::from_secs(366 * 24 * 3600);
        let limiter = larder.rate_limiter("api", Quota::per_second(1)).unwrap();
        let limiter = limiter.block_for(larder::limit::Block::lasting(year).escalating(255, year)).unwrap();
        assert!(limiter.allow("a").await.unwrap());
        assert!(!limiter.allow("a").await.unwrap());
        for _ in 0..3 {
            let refused = limiter.acquire("a", Duration::ZERO).await.unwrap();
            assert!(refused.retry_after().unwrap() > year - Duration::from_secs(60), "{store}");
        }
        let mut waiting = Box::pin(limiter.acquire("a", Duration::MAX));
        let early = tokio::time::timeout(Duration::from_millis(300), &mut waiting).await;
        assert!(early.is_err(), "{store}: {early:?}");
        assert!(limiter.reset("a").await.unwrap());
        let turn = tokio::time::timeout(Duration::from_secs(20), waiting).await.expect(store).unwrap();
        assert!(turn.is_allowed(), "{store}");
    }
}

/// resilience4j#2194, #2336: a caller that cannot wait so long waited all the same, behind others.
#[tokio::test]
async fn a_caller_without_max_wait_does_not_wait_behind_those_that_have_one() {
    for (store, larder) in each_store().await {
        let hour = Duration::from_secs(3600);
        let limiter = larder.rate_limiter("api", Quota::new(1, hour)).unwrap();
        assert!(limiter.allow("a").await.unwrap());
        let patient: Vec<_> = (0..3)
            .map(|_| {
                let limiter = limiter.clone();
                tokio::spawn(async move { limiter.acquire("a", 10 * hour).await })
            })
            .collect();
        until("they wait", async || {
            let refused = limiter.acquire("a", Duration::ZERO).await.unwrap();
            refused.retry_after().is_some_and(|wait| wait > hour)
        })
        .await;
        let began = Instant::now();
        assert!(!limiter.acquire("a", Duration::from_millis(50)).await.unwrap().is_allowed(), "{store}");
        assert!(began.elapsed() < Duration::from_secs(10), "{store}");
        patient.iter().for_each(|one| one.abort());
    }
}

/// upstash/ratelimit-js#157: what is spent from a local copy is one less than the limit.
#[tokio::test]
async fn a_batch_lets_a_lone_caller_use_the_whole_limit_and_no_more() {
    for (store, larder) in each_store().await {
        for limit in [10, 40] {
            let quota = Quota::per_hour(limit);
            let limiter = larder.rate_limiter(format!("api{limit}"), quota).unwrap().batched(4).unwrap();
            for place in 0..limit {
                assert!(limiter.allow("a").await.unwrap(), "{store}: the {place}th of {limit}");
            }
            assert!(!limiter.allow("a").await.unwrap(), "{store}");
        }
    }
}

/// redis/redis#4548 and many like it: a record in a state that it should never be in kept its key refused for ever.
#[tokio::test]
async fn a_key_whose_record_is_not_of_larder_says_so_and_a_reset_repairs_it() {
    let server = Server::start();
    let larder = Larder::connect(&server.url()).await.unwrap();
    let limiter = larder.rate_limiter("api", Quota::per_second(30)).unwrap();
    let record = "~limit.1:{/api:a}";
    for foreign in ["", "1", "17", "\u{1}abc"] {
        server.command(&["SET", record, foreign]);
        let error = limiter.allow("a").await.unwrap_err();
        assert!(!error.is_retryable(), "{foreign:?}: {error:?}");
        limiter.reset("a").await.unwrap_or_else(|error| panic!("{foreign:?}: {error:?}"));
        assert!(limiter.allow("a").await.unwrap(), "{foreign:?}");
        let left: i64 = server.query(&["PTTL", record]);
        assert!(left > 0, "{left}");
    }
}
