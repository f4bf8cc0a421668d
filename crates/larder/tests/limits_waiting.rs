//! Waiting for a turn.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use larder::{ErrorKind, Larder, Quota};

use larder::limit::DecidedBy;
use larder_testkit::Server;
use support::{each_store, until};

const LONG: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn all_waiters_are_served_and_at_the_limits_rate() {
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
        // Each five callers are admitted a window later than the five before. The notification may take any time, but
        // no caller is admitted sooner, unless the store's clock is adjusted meanwhile, as happens by a little.
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
    // Long enough that callers on a busy machine do not wake up too late for their turns; a late caller would ask
    // again.
    let window = Duration::from_secs(3);
    for quota in [Quota::new(2, window), Quota::new(30, window)] {
        let limiter = larder.rate_limiter(format!("api{}", quota.limit()), quota).unwrap();
        // A caller that polls asks more often in every attempt.
        let mut fewest = u64::MAX;
        for key in ["a", "b", "c"] {
            limiter.take_up_to(key, quota.limit()).await.unwrap();
            server.reset_stats();
            assert!(limiter.acquire(key, LONG).await.unwrap().is_allowed());
            fewest = fewest.min(server.calls("evalsha") + server.calls("eval"));
            if fewest == 1 {
                break;
            }
        }
        assert_eq!(fewest, 1, "{quota:?}");
        // A caller that only checks comes after the callers that wait: they get everything that becomes free.
        let taken = Instant::now();
        limiter.take_up_to("z", quota.limit()).await.unwrap();
        let waiting: Vec<_> = (0..quota.limit())
            .map(|_| {
                let limiter = limiter.clone();
                tokio::spawn(async move { limiter.acquire("z", LONG).await.unwrap() })
            })
            .collect();
        until("all have booked a turn", async || {
            let refused = limiter.acquire("z", Duration::ZERO).await.unwrap();
            refused.retry_after().is_some_and(|wait| taken.elapsed() + wait > 2 * window)
        })
        .await;
        let behind = limiter.check("z").await.unwrap();
        assert!(!behind.is_allowed(), "{quota:?}");
        let after = taken.elapsed() + behind.retry_after().unwrap();
        assert!(after + Duration::from_millis(5) > 2 * window, "{quota:?}: {after:?}");
        for one in waiting {
            assert!(one.await.unwrap().is_allowed());
        }
    }
}

#[tokio::test]
async fn a_caller_that_would_wait_too_long_is_refused_at_once() {
    for (store, larder) in each_store().await {
        for quota in [Quota::per_hour(1), Quota::per_hour(30)] {
            let limiter = larder.rate_limiter(format!("api{}", quota.limit()), quota).unwrap();
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
        // Long enough that nothing becomes free by itself.
        let window = Duration::from_secs(3600);
        let limiter = larder.rate_limiter("api", Quota::new(1, window)).unwrap();
        assert!(limiter.allow("a").await.unwrap());
        let ready = |limit: Duration, limiter: larder::limit::RateLimiter| async move {
            // Asks the store, whatever this process remembers.
            let refused = limiter.acquire("a", Duration::ZERO).await.unwrap();
            refused.retry_after().is_some_and(|wait| wait > limit)
        };
        let waiting = tokio::spawn({
            let limiter = limiter.clone();
            async move { limiter.acquire("a", 2 * window).await }
        });
        // A booked turn counts: the next one is a window later.
        let (limit, other) = (window + Duration::from_millis(1), limiter.clone());
        until("a turn is booked", async || ready(limit, other.clone()).await).await;
        waiting.abort();
        let _ = waiting.await;
        until("the turn is free", async || !ready(window, limiter.clone()).await).await;
        // And the remembered refusal is forgotten.
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

/// The largest number of uses within less than a window.
fn most_in(window: Duration, uses: &mut [Instant]) -> usize {
    uses.sort();
    let within = |first: usize| uses[first..].iter().take_while(|use_| **use_ - uses[first] < window).count();
    (0..uses.len()).map(within).max().unwrap_or(0)
}

#[tokio::test]
async fn turns_that_a_blocked_runtime_sleeps_through_are_asked_for_again() {
    for (store, larder) in each_store().await {
        let window = Duration::from_millis(600);
        for limit in [20, 30] {
            let limiter = larder.rate_limiter(format!("late{limit}"), Quota::new(limit, window)).unwrap();
            let waiting: Vec<_> = (0..4 * limit)
                .map(|_| {
                    let limiter = limiter.clone();
                    tokio::spawn(async move {
                        assert!(limiter.acquire("a", LONG).await.unwrap().is_allowed());
                        Instant::now()
                    })
                })
                .collect();
            until("the first are served", async || {
                waiting.iter().filter(|one| one.is_finished()).count() as u64 >= limit
            })
            .await;
            // All turns are booked, and the replies have arrived. This call comes after them, and would have to wait
            // for longer.
            until("all turns are booked", async || {
                let behind = limiter.acquire("a", Duration::ZERO).await.unwrap();
                behind.retry_after().is_some_and(|wait| wait > window)
            })
            .await;
            // As with a handler that computes, or SIGSTOP: the turns of two windows pass meanwhile.
            std::thread::sleep(2 * window + window / 2);
            let mut uses = Vec::new();
            for one in waiting {
                uses.push(one.await.unwrap());
            }
            // A use is late by a little: the tolerance at the two ends of a window.
            let most = most_in(window - Duration::from_millis(60), &mut uses);
            assert!(most as u64 <= limit, "{store}: {most} of {limit} in one window");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_wait_at_the_same_time_share_a_request() {
    let server = Server::start();
    let larder = support::connect(&server.url()).await;
    let limiter = larder.rate_limiter("api", Quota::per_second(100_000)).unwrap();
    limiter.take_up_to("warm", 1).await.unwrap();
    limiter.acquire("warm", LONG).await.unwrap();
    server.reset_stats();
    let calls = || server.calls("evalsha") + server.calls("eval");
    server.pause();
    let polled = Arc::new(AtomicUsize::new(0));
    let waiting: Vec<_> = (0..1000)
        .map(|_| {
            let (limiter, polled) = (limiter.clone(), polled.clone());
            tokio::spawn(async move {
                polled.fetch_add(1, Ordering::Relaxed);
                limiter.acquire("a", LONG).await.unwrap()
            })
        })
        .collect();
    // A caller that is polled only after the answer asks by itself.
    until("all callers have been polled", async || polled.load(Ordering::Relaxed) == 1000).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.resume();
    for one in waiting {
        assert!(one.await.unwrap().is_allowed());
    }
    assert!(calls() <= 10, "{} requests for 1,000 callers", calls());
}

#[tokio::test]
async fn a_caller_that_waits_for_long_is_woken_by_a_reset_a_refund_and_a_raised_limit() {
    let hour = Duration::from_secs(3600);
    for (store, larder) in each_store().await {
        // The first turn is booked; this one is too far ahead to be booked.
        for (booked, quotas) in [
            (true, vec![Quota::new(2, hour)]),
            (false, vec![Quota::new(2, hour), Quota::new(5, Duration::from_secs(1))]),
        ] {
            for what in ["reset", "refund", "raise"] {
                if booked && what == "refund" {
                    continue;
                }
                let name = format!("{what}{booked}");
                let limiter = larder.rate_limiter(&name, quotas.clone()).unwrap();
                let mut decisions = Vec::new();
                for _ in 0..2 {
                    decisions.push(limiter.check("a").await.unwrap());
                }
                // A refund gives back one permit.
                let cost = if what == "refund" { 1 } else { 2 };
                let waiting = tokio::spawn({
                    let limiter = limiter.clone();
                    async move { limiter.acquire_n("a", cost, 10 * hour).await.unwrap() }
                });
                if booked {
                    until("its turn is booked", async || {
                        let behind = limiter.acquire("a", Duration::ZERO).await.unwrap();
                        behind.retry_after().is_some_and(|wait| wait > hour)
                    })
                    .await;
                }
                // A caller that cannot wait gets its answer meanwhile, after the caller that can.
                let refused = limiter.acquire("a", Duration::from_millis(1)).await.unwrap();
                assert!(!refused.is_allowed() && !waiting.is_finished(), "{store} {what}");
                match what {
                    "reset" => assert!(limiter.reset("a").await.unwrap()),
                    "refund" => {
                        let decision = decisions.pop().unwrap();
                        assert_eq!(limiter.refund("a", decision, 1).await.unwrap(), 1);
                    }
                    _ => limiter.set_quotas([Quota::new(200, hour), Quota::per_second(50)]).unwrap(),
                }
                let served = support::held::within(what, LONG, waiting).await.unwrap();
                assert!(served.is_allowed(), "{store} {what} {booked}");
            }
        }
    }
}

#[tokio::test]
async fn several_permits_are_waited_for_together_and_in_order() {
    for (store, larder) in each_store().await {
        let window = Duration::from_millis(400);
        let limiter = larder.rate_limiter("api", Quota::new(5, window)).unwrap();
        assert_eq!(limiter.acquire_n("a", 6, LONG).await.unwrap_err().kind(), ErrorKind::InvalidSetting);
        // A caller that wakes up too late on a busy machine gives its turn back, and the next caller in the queue is
        // admitted first. So the test tries a few times; a caller that overtakes would do so each time.
        let mut tries = Vec::new();
        until("they are served in order", async || {
            let (started, key) = (Instant::now(), format!("a{}", tries.len()));
            let order = Arc::new(std::sync::Mutex::new(Vec::new()));
            let mut waiting = Vec::new();
            // The first two fit together; the third waits for a window, and the small one behind it does not overtake
            // it.
            for (place, cost) in [(0, 2), (1, 3), (2, 5), (3, 1)] {
                let (limiter, order, key) = (limiter.clone(), order.clone(), key.clone());
                waiting.push(tokio::spawn(async move {
                    let decision = limiter.acquire_n(&key, cost, LONG).await.unwrap();
                    order.lock().unwrap().push((place, started.elapsed()));
                    decision.granted()
                }));
                tokio::task::yield_now().await;
            }
            let mut granted = Vec::new();
            for one in waiting {
                granted.push(one.await.unwrap());
            }
            assert_eq!(granted, [2, 3, 5, 1], "{store}");
            let order = order.lock().unwrap().clone();
            let slack = Duration::from_millis(5);
            assert!(order[2].1 + slack >= window && order[3].1 + slack >= 2 * window, "{store}: {order:?}");
            let in_order = order[2].0 == 2 && order[3].0 == 3;
            tries.push(order);
            assert!(tries.len() < 8, "{store}: {tries:?}");
            in_order
        })
        .await;
    }
}

#[tokio::test]
async fn callers_with_other_costs_than_the_first_share_requests_and_wait_for_turns_of_their_own() {
    let server = Server::start();
    let larder = support::connect(&server.url()).await;
    let hour = Duration::from_secs(3600);
    let limiter = larder.rate_limiter("api", Quota::per_hour(20)).unwrap();
    let acquire = |cost, within| {
        let limiter = limiter.clone();
        tokio::spawn(async move { limiter.acquire_n("a", cost, within).await.unwrap() })
    };
    limiter.check_n("a", 10).await.unwrap();
    server.reset_stats();
    let calls = || server.calls("evalsha") + server.calls("eval");
    server.pause();
    // The first caller waits for too long; behind it are three costs of impatient callers, in any order.
    let mut waiting = vec![(15, acquire(15, hour / 2))];
    for cost in [13, 12, 1].into_iter().cycle().take(60) {
        waiting.push((cost, acquire(cost, hour / 3)));
    }
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    server.resume();
    let mut granted = 0;
    for (cost, one) in waiting {
        let decision = one.await.unwrap();
        granted += decision.granted();
        assert!(decision.is_allowed() || decision.retry_after().unwrap() > hour / 2, "{cost}: {decision:?}");
        assert!(cost == 1 || !decision.is_allowed(), "{cost}");
    }
    assert_eq!(granted, 10, "those that fit");
    assert!(calls() <= 8, "{} requests for 61 callers of 4 costs", calls());
}

#[tokio::test]
async fn a_smaller_cost_than_the_first_gets_a_turn_of_its_own_within_its_time() {
    for (store, larder) in each_store().await {
        // Permits come back one by one: a small cost fits before a large one does.
        let window = Duration::from_millis(1600);
        let limiter = larder.rate_limiter("api", Quota::new(4, window).gcra(4)).unwrap();
        assert!(limiter.check_n("a", 4).await.unwrap().is_allowed());
        let large = limiter.acquire_n("a", 4, window * 3 / 4);
        let small = limiter.acquire_n("a", 1, window * 7 / 8);
        let (large, small) = tokio::join!(large, small);
        assert!(large.is_ok() && small.unwrap().is_allowed(), "{store}");
    }
}

#[tokio::test]
async fn no_turn_is_granted_after_the_callers_time() {
    let server = Server::start();
    let larder = support::connect(&server.url()).await;
    let hour = Duration::from_secs(3600);
    let limiter = larder.rate_limiter("api", Quota::new(20, hour)).unwrap();
    limiter.acquire("warm", LONG).await.unwrap();
    server.pause();
    let waiting: Vec<_> = [Duration::from_millis(50), Duration::from_millis(60), LONG, Duration::ZERO]
        .into_iter()
        .map(|within| {
            let limiter = limiter.clone();
            tokio::spawn(async move { limiter.acquire("a", within).await.unwrap() })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(150)).await;
    server.resume();
    let mut granted = Vec::new();
    for one in waiting {
        let decision = one.await.unwrap();
        granted.push(decision.granted());
        assert!(decision.is_allowed() || decision.retry_after() == Some(Duration::ZERO), "{decision:?}");
    }
    // No time at all means one request, whose answer takes as long as it takes.
    assert_eq!(granted, [0, 0, 1, 1]);
    until("what came too late was given back", async || limiter.remaining("a").await.unwrap() == 18).await;
}

#[tokio::test]
async fn a_callers_place_outlives_the_runtime_that_books() {
    let larder = support::connect(&support::server().url()).await;
    let limiter = larder.rate_limiter("runtimes", Quota::new(1, Duration::from_millis(700))).unwrap();
    assert!(limiter.allow("a").await.unwrap());
    let other = limiter.clone();
    // Another runtime asks first, so the task that books belongs to that runtime; then the runtime ends.
    let first = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            tokio::time::timeout(Duration::from_millis(50), other.acquire("a", LONG)).await.is_err()
        })
    });
    let acquired = support::held::within("a turn", LONG, limiter.acquire("a", LONG)).await.unwrap();
    assert!(acquired.is_allowed() && first.join().unwrap());
}
