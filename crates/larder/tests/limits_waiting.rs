//! Waiting for a turn, and limits on how many run at once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use larder::{DecidedBy, ErrorKind, Larder, Quota};
use larder_testkit::Server;
use support::{each_store, until};

const LONG: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn those_who_wait_are_served_at_the_limits_pace_and_all_of_them() {
    for (store, larder) in each_store().await {
        let window = Duration::from_millis(200);
        let limiter = larder.rate_limiter("api", Quota::new(5, window)).unwrap();
        let started = Instant::now();
        let waiting: Vec<_> = (0..20)
            .map(|_| {
                let limiter = limiter.clone();
                tokio::spawn(async move {
                    let decision = limiter.acquire("a", LONG).await.unwrap();
                    assert!(decision.is_allowed());
                    Instant::now()
                })
            })
            .collect();
        let mut served = Vec::new();
        for one in waiting {
            served.push(one.await.unwrap());
        }
        served.sort();
        // Each five are a window later than the five before. To be told may take any time, but nobody is told sooner,
        // unless the store's clock is set meanwhile, as it is by a little.
        let slack = Duration::from_millis(5);
        for (place, served) in served.iter().enumerate() {
            let windows = u32::try_from(place / 5).unwrap();
            let waited = served.duration_since(started);
            assert!(waited + slack >= windows * window, "{store}: the {place}th after {waited:?}");
        }
        assert!(started.elapsed() < 50 * window, "{store}");
    }
}

#[tokio::test]
async fn a_turn_is_one_round_trip_and_not_a_poll() {
    let server = Server::start();
    let larder = Larder::connect(&server.url()).await.unwrap();
    let window = Duration::from_secs(1);
    for quota in [Quota::new(2, window), Quota::new(30, window)] {
        let limiter = larder.rate_limiter(&format!("api{}", quota.limit()), quota).unwrap();
        limiter.take_up_to("a", quota.limit()).await.unwrap();
        server.reset_stats();
        let calls = || server.calls("evalsha") + server.calls("eval");
        assert!(limiter.acquire("a", LONG).await.unwrap().is_allowed());
        assert_eq!(calls(), 1);
        // Whoever only checks is behind those who wait: all that comes free is theirs.
        let taken = Instant::now();
        limiter.take_up_to("b", quota.limit()).await.unwrap();
        server.reset_stats();
        let waiting: Vec<_> = (0..quota.limit())
            .map(|_| {
                let limiter = limiter.clone();
                tokio::spawn(async move { limiter.acquire("b", LONG).await.unwrap() })
            })
            .collect();
        until("all have booked a turn", async || calls() >= quota.limit()).await;
        let behind = limiter.check("b").await.unwrap();
        assert!(!behind.is_allowed(), "{quota:?}");
        let after = taken.elapsed() + behind.retry_after().unwrap();
        assert!(after + Duration::from_millis(5) > 2 * window, "{quota:?}: {after:?}");
        for one in waiting {
            assert!(one.await.unwrap().is_allowed());
        }
    }
}

#[tokio::test]
async fn who_would_wait_too_long_is_told_at_once() {
    for (store, larder) in each_store().await {
        for quota in [Quota::per_hour(1), Quota::per_hour(30)] {
            let limiter = larder.rate_limiter(&format!("api{}", quota.limit()), quota).unwrap();
            limiter.take_up_to("a", quota.limit()).await.unwrap();
            let started = Instant::now();
            let refused = limiter.acquire("a", Duration::from_secs(60)).await.unwrap();
            assert!(
                !refused.is_allowed() && refused.retry_after().unwrap() > Duration::from_secs(60),
                "{store}"
            );
            assert!(started.elapsed() < Duration::from_secs(10), "{store}");
            assert!(!limiter.acquire("a", Duration::ZERO).await.unwrap().is_allowed());
        }
    }
}

#[tokio::test]
async fn a_waiter_that_goes_away_gives_its_turn_back() {
    for (store, larder) in each_store().await {
        // So long that nothing comes free by itself.
        let window = Duration::from_secs(3600);
        let limiter = larder.rate_limiter("api", Quota::new(1, window)).unwrap();
        assert!(limiter.allow("a").await.unwrap());
        let ready = |limit: Duration, limiter: larder::RateLimiter| async move {
            // Asks the store, whatever is known here.
            let refused = limiter.acquire("a", Duration::ZERO).await.unwrap();
            refused.retry_after().is_some_and(|wait| wait > limit)
        };
        let waiting = tokio::spawn({
            let limiter = limiter.clone();
            async move { limiter.acquire("a", 2 * window).await }
        });
        // A booked turn is counted: the next is another window away.
        let (limit, other) = (window + Duration::from_millis(1), limiter.clone());
        until("a turn is booked", async || ready(limit, other.clone()).await).await;
        waiting.abort();
        let _ = waiting.await;
        until("the turn is free", async || !ready(window, limiter.clone()).await).await;
        // And the refusal that was known here is forgotten.
        assert!(limiter.check("a").await.unwrap().retry_after().unwrap() <= window, "{store}");
    }
}

#[tokio::test]
async fn what_was_refused_is_known_until_the_turn_is_given_back() {
    let server = Server::start();
    let larder = Larder::connect(&server.url()).await.unwrap();
    let hour = Duration::from_secs(3600);
    let limiter = larder.rate_limiter("api", Quota::per_hour(1)).unwrap();
    assert!(limiter.allow("a").await.unwrap());
    let waiting = tokio::spawn({
        let limiter = limiter.clone();
        async move { limiter.acquire("a", 2 * hour).await }
    });
    until("a turn is booked", async || {
        let refused = limiter.acquire("a", Duration::ZERO).await.unwrap();
        refused.retry_after().is_some_and(|wait| wait > hour)
    })
    .await;
    server.pause();
    waiting.abort();
    let _ = waiting.await;
    let refused = limiter.check("a").await.unwrap();
    assert_eq!(refused.decided_by(), DecidedBy::Refusal);
    server.resume();
    until("the turn is free", async || {
        limiter.check("a").await.unwrap().retry_after().is_some_and(|wait| wait <= hour)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_run_at_once_than_there_are_permits() {
    for (store, larder) in each_store().await {
        let limiter = larder.concurrency_limiter("exports", 3).unwrap();
        let (inside, most) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let running: Vec<_> = (0..24)
            .map(|_| {
                let (limiter, inside, most) = (limiter.clone(), inside.clone(), most.clone());
                tokio::spawn(async move {
                    let permit = limiter.acquire("a", LONG).await.unwrap().expect("a permit in time");
                    most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                    inside.fetch_sub(1, Ordering::SeqCst);
                    assert!(permit.release().await.unwrap());
                })
            })
            .collect();
        for one in running {
            one.await.unwrap();
        }
        assert!(most.load(Ordering::SeqCst) <= 3, "{store}");
        assert_eq!(limiter.in_use("a").await.unwrap(), 0, "{store}");
    }
}

#[tokio::test]
async fn a_permit_is_free_again_when_it_is_dropped() {
    for (store, larder) in each_store().await {
        let limiter = larder.concurrency_limiter("exports", 1).unwrap();
        let permit = limiter.try_acquire("a").await.unwrap().unwrap();
        assert!(limiter.try_acquire("a").await.unwrap().is_none(), "{store}");
        assert!(limiter.try_acquire("b").await.unwrap().is_some(), "{store}");
        assert!(limiter.acquire("a", Duration::from_millis(30)).await.unwrap().is_none());
        drop(permit);
        until("it is free", async || limiter.try_acquire("a").await.unwrap().is_some()).await;
    }
}

#[tokio::test]
async fn who_waits_for_one_key_is_not_in_the_way_of_another() {
    for (store, larder) in each_store().await {
        let limiter = larder.concurrency_limiter("exports", 1).unwrap();
        let hold = async |key: &str| limiter.try_acquire(key).await.unwrap().expect("a permit is free");
        let (held_a, held_b) = (hold("a").await, hold("b").await);
        let wait = |key: &'static str| {
            let limiter = limiter.clone();
            Box::pin(async move { limiter.acquire(key, LONG).await.unwrap() })
        };
        let (mut for_a, mut for_b) = (wait("a"), wait("b"));
        // Each asks, asks again in its turn, and waits: its answer is here when that to a later request about its key is.
        for _ in 0..3 {
            for (key, waiting) in [("a", &mut for_a), ("b", &mut for_b)] {
                assert!(waiting.now_or_never().is_none(), "{store}");
                assert_eq!(limiter.in_use(key).await.unwrap(), 1);
            }
        }
        let (for_a, for_b) = (tokio::spawn(for_a), tokio::spawn(for_b));
        assert!(held_b.release().await.unwrap());
        let got_b = for_b.await.unwrap();
        assert!(got_b.is_some(), "{store}");
        // Nor is one woken in the other's place.
        drop(got_b);
        until("b is free", async || limiter.in_use("b").await.unwrap() == 0).await;
        assert!(held_a.release().await.unwrap());
        assert!(for_a.await.unwrap().is_some(), "{store}");
    }
}

#[tokio::test]
async fn a_permit_outlives_its_time_while_its_holder_lives() {
    for (store, larder) in each_store().await {
        let limiter =
            larder.concurrency_limiter("exports", 1).unwrap().ttl(Duration::from_millis(400)).unwrap();
        let permit = limiter.try_acquire("a").await.unwrap().unwrap();
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(1200) {
            assert!(limiter.try_acquire("a").await.unwrap().is_none(), "{store}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(!permit.is_lost() && permit.release().await.unwrap(), "{store}");
    }
}

#[tokio::test]
async fn the_permit_of_a_holder_that_died_frees_itself() {
    let server = Server::start();
    let (dies, lives) =
        (Larder::connect(&server.url()).await.unwrap(), Larder::connect(&server.url()).await.unwrap());
    let limiter = |larder: &Larder| {
        larder.concurrency_limiter("exports", 1).unwrap().ttl(Duration::from_millis(300)).unwrap()
    };
    let permit = limiter(&dies).try_acquire("a").await.unwrap().unwrap();
    // Closed: nobody renews it any more, and it was not freed.
    dies.close().await.unwrap();
    assert!(limiter(&lives).try_acquire("a").await.unwrap().is_none());
    let waited = limiter(&lives).acquire("a", LONG).await.unwrap();
    assert!(waited.is_some());
    let left: i64 = server.query(&["PTTL", "~permits.1:{/exports:a}"]);
    assert!(left > 0 && left <= 300);
    // It knows, although nobody told it.
    permit.lost().await;
    assert!(permit.is_lost());
}

#[tokio::test]
async fn a_holder_is_told_that_its_permit_is_lost() {
    let server = Server::start();
    let larder = Larder::connect(&server.url()).await.unwrap();
    let limiter = larder.concurrency_limiter("exports", 1).unwrap().ttl(Duration::from_millis(200)).unwrap();
    let permit = limiter.try_acquire("a").await.unwrap().unwrap();
    assert!(!permit.is_lost());
    server.kill();
    permit.lost().await;
    assert!(permit.is_lost());
}

#[tokio::test]
async fn nonsense_permits_are_refused() {
    let larder = support::connect("memory:").await;
    for permits in [0, 100_001] {
        assert_eq!(larder.concurrency_limiter("a", permits).unwrap_err().kind(), ErrorKind::InvalidSetting);
    }
    assert!(larder.concurrency_limiter("no spaces", 1).is_err());
    for ttl in [Duration::ZERO, Duration::MAX] {
        assert!(larder.concurrency_limiter("a", 1).unwrap().ttl(ttl).is_err());
    }
}
