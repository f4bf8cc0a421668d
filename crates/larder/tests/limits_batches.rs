//! Permits of a batch are spent locally, never exceed the limit, and are given back. The bound itself is checked by the
//! oracle in src/store/equivalence_limits/ and by the schedules in src/limit/simulation.rs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::time::{Duration, Instant};

use larder::{Larder, Quota};

use larder::limit::{DecidedBy, PermitBatch};
use larder_testkit::{Direction, Proxy, Server};
use support::{each_store, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_hot_key_costs_one_round_trip_a_batch() {
    let server = Server::start();
    let larder = Larder::connect(&server.url()).await.unwrap();
    let limiter = larder.rate_limiter("api", Quota::per_hour(1_000_000)).unwrap().batched(50).unwrap();
    limiter.check("a").await.unwrap();
    server.reset_stats();
    let (each, tasks) = (500u64, 8);
    let asking: Vec<_> = (0..tasks)
        .map(|_| {
            let limiter = limiter.clone();
            tokio::spawn(async move {
                for _ in 0..each {
                    assert!(limiter.allow("a").await.unwrap());
                }
            })
        })
        .collect();
    for one in asking {
        one.await.unwrap();
    }
    let (asked, decided) = (server.calls("evalsha"), each * tasks);
    // On a slow machine a batch may end before it is spent.
    assert!(asked <= decided / 50 + 40, "{asked} round trips for {decided} decisions");
    assert_eq!(limiter.check("a").await.unwrap().decided_by(), DecidedBy::Batch);
}

#[tokio::test]
async fn batches_never_admit_more_than_the_limit_and_shrink_as_it_is_neared() {
    for (store, larder) in each_store().await {
        for quotas in [vec![Quota::per_hour(20)], vec![Quota::per_hour(500), Quota::per_day(800)]] {
            let limiter = larder.rate_limiter("api", quotas.clone()).unwrap().batched(50).unwrap();
            let key = quotas.len();
            let (mut allowed, mut batched) = (0, 0);
            loop {
                let decision = limiter.check(key).await.unwrap();
                if !decision.is_allowed() {
                    break;
                }
                allowed += 1;
                batched += u64::from(decision.decided_by() == DecidedBy::Batch);
            }
            assert_eq!(allowed, quotas[0].limit(), "{store}");
            assert!(batched * 10 >= allowed * 6, "{store}: {batched} of {allowed}");
        }
    }
}

#[tokio::test]
async fn what_fits_passes_whatever_half_of_it_is() {
    for (store, larder) in each_store().await {
        let limiter = larder.rate_limiter("api", Quota::per_hour(100)).unwrap().batched(10).unwrap();
        assert!(limiter.check_n("a", 80).await.unwrap().is_allowed(), "{store}");
        assert!(limiter.check_n("a", 15).await.unwrap().is_allowed(), "{store}");
        let refused = limiter.check_n("a", 6).await.unwrap();
        assert_eq!((refused.is_allowed(), refused.remaining()), (false, 5), "{store}");
        assert!(limiter.reserve("a", 5).await.unwrap().granted().is_some(), "{store}");
        assert!(limiter.reserve("b", 100).await.unwrap().granted().is_some(), "{store}");
    }
}

#[tokio::test]
async fn what_a_batch_has_left_is_given_back_when_the_larder_is_closed() {
    let server = Server::start();
    let (larder, other) =
        (Larder::connect(&server.url()).await.unwrap(), Larder::connect(&server.url()).await.unwrap());
    let batch = PermitBatch::batch(40).span(Duration::from_secs(600));
    let limiter = larder.rate_limiter("api", Quota::per_hour(100)).unwrap().batched(batch).unwrap();
    assert!(limiter.allow("a").await.unwrap());
    larder.close().await.unwrap();
    let limiter = other.rate_limiter("api", Quota::per_hour(100)).unwrap();
    assert_eq!(limiter.remaining("a").await.unwrap(), 99);
}

#[tokio::test]
async fn what_a_batch_does_not_spend_is_given_back() {
    for (store, larder) in each_store().await {
        let batch = PermitBatch::batch(40).span(Duration::from_millis(100));
        let limiter = larder.rate_limiter("api", Quota::per_hour(100)).unwrap().batched(batch).unwrap();
        assert!(limiter.allow("a").await.unwrap());
        assert!(limiter.remaining("a").await.unwrap() <= 99);
        until("the rest is given back", async || limiter.remaining("a").await.unwrap() == 99).await;
        assert!(limiter.allow("a").await.unwrap(), "{store}");
    }
}

#[tokio::test]
async fn a_batch_is_not_spent_after_its_end() {
    for (store, larder) in each_store().await {
        let batch = PermitBatch::batch(40).span(Duration::from_millis(50));
        let limiter = larder.rate_limiter("api", Quota::per_hour(100)).unwrap().batched(batch).unwrap();
        for _ in 0..3 {
            let first = limiter.check("a").await.unwrap();
            assert_eq!(first.decided_by(), DecidedBy::Store, "{store}");
            let started = Instant::now();
            let mut last = DecidedBy::Batch;
            while started.elapsed() < Duration::from_millis(60) {
                tokio::time::sleep(Duration::from_millis(5)).await;
                last = limiter.check("a").await.unwrap().decided_by();
                if last == DecidedBy::Store {
                    break;
                }
            }
            assert_eq!(last, DecidedBy::Store, "{store}");
            limiter.reset("a").await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_refund_of_a_permit_of_a_batch_goes_back_to_the_batch() {
    for (store, larder) in each_store().await {
        let limiter = larder.rate_limiter("api", Quota::per_hour(1000)).unwrap().batched(10).unwrap();
        limiter.check("a").await.unwrap();
        let spent = limiter.check_n("a", 9).await.unwrap();
        assert_eq!(spent.decided_by(), DecidedBy::Batch, "{store}");
        assert_eq!(limiter.refund("a", spent, 4).await.unwrap(), 4);
        assert_eq!(limiter.check_n("a", 4).await.unwrap().decided_by(), DecidedBy::Batch, "{store}");
    }
}

#[tokio::test]
async fn invalid_batches_are_refused() {
    let larder = support::connect("memory:").await;
    let limiter = || larder.rate_limiter("api", [Quota::per_second(50), Quota::per_hour(500)]).unwrap();
    for batch in [
        PermitBatch::batch(0),
        PermitBatch::batch(5).span(Duration::ZERO),
        PermitBatch::batch(5).span(Duration::from_millis(1001)),
    ] {
        assert!(limiter().batched(batch).is_err(), "{batch:?}");
    }
    let batched = limiter().batched(PermitBatch::batch(5).span(Duration::from_secs(1))).unwrap();
    assert!(batched.set_quotas(Quota::new(50, Duration::from_millis(500))).is_err());
}

#[tokio::test]
async fn take_up_to_spends_from_a_batch_too() {
    for (store, larder) in each_store().await {
        let limiter = larder.rate_limiter("api", Quota::per_hour(1000)).unwrap().batched(10).unwrap();
        limiter.check("a").await.unwrap();
        let some = limiter.take_up_to("a", 100).await.unwrap();
        assert_eq!((some.granted(), some.decided_by()), (9, DecidedBy::Batch), "{store}");
    }
}

#[tokio::test]
async fn a_waiter_does_not_keep_others_from_a_batch() {
    for (store, larder) in each_store().await {
        // The shorter quota is too short to book a turn of the longer one: the waiter sleeps, and keeps its place.
        let quotas = [Quota::new(100, Duration::from_millis(200)), Quota::per_hour(30)];
        let limiter = larder.rate_limiter("api", quotas).unwrap().batched(10).unwrap();
        limiter.take_up_to("a", 30).await.unwrap();
        let waiting = tokio::spawn({
            let limiter = limiter.clone();
            async move { limiter.acquire("a", Duration::from_secs(7200)).await }
        });
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        assert!(!limiter.check("a").await.unwrap().is_allowed(), "{store}");
        waiting.abort();
    }
}

#[tokio::test]
async fn a_batchs_time_counts_from_before_its_request_left() {
    let server = Server::builder().tcp().start();
    let proxy = Proxy::start(server.addr().unwrap()).await;
    let larder = support::connect(&proxy.url()).await;
    let span = Duration::from_millis(500);
    let batch = PermitBatch::batch(1_000_000).span(span);
    let limiter = larder.rate_limiter("api", Quota::per_hour(10_000_000)).unwrap().batched(batch).unwrap();
    limiter.remaining("a").await.unwrap();
    proxy.delay(Direction::ToClient, Duration::from_millis(300));
    let sent = Instant::now();
    assert_eq!(limiter.check("a").await.unwrap().decided_by(), DecidedBy::Store);
    let mut last = sent;
    loop {
        let asked = Instant::now();
        if limiter.check("a").await.unwrap().decided_by() != DecidedBy::Batch {
            break;
        }
        last = asked;
        tokio::task::yield_now().await;
    }
    assert!(last - sent < span + Duration::from_millis(30), "spent {:?} after its request", last - sent);
}

#[tokio::test]
async fn a_batch_that_was_asked_for_before_a_reset_is_not_spent_after_it() {
    for (store, larder) in [("server", support::server().url()), ("cluster", support::cluster().url())] {
        let larder = support::connect(&larder).await;
        let limiter = larder.rate_limiter("api", Quota::per_hour(20)).unwrap().batched(10).unwrap();
        limiter.allow("warm").await.unwrap();
        // The request was sent and answered before the reset; its caller is polled only after the reset has returned.
        let mut asked = Box::pin(limiter.check("a").into_future());
        assert!(futures_util::FutureExt::now_or_never(&mut asked).is_none());
        limiter.reset("a").await.unwrap();
        let mut allowed = u64::from(asked.await.unwrap().is_allowed());
        // Only what the store has charged since the reset, and what is still in a batch, may pass.
        while limiter.allow("a").await.unwrap() {
            allowed += 1;
        }
        assert!(allowed <= 20, "{store}: {allowed}");
    }
}

#[tokio::test]
async fn unspent_permits_of_a_batch_are_given_back_when_an_override_is_set_or_ended() {
    let hour = Duration::from_secs(3600);
    for (store, larder) in each_store().await {
        // The same windows with another limit, and other windows.
        for over in [Quota::per_hour(200), Quota::per_day(300)] {
            let limiter = larder.rate_limiter(format!("over{}", over.limit()), Quota::per_hour(100)).unwrap();
            let batched = limiter.clone().batched(PermitBatch::batch(40).span(hour / 6)).unwrap();
            assert!(batched.allow("a").await.unwrap());
            batched.override_key("a", over, hour).await.unwrap();
            assert_eq!(limiter.remaining("a").await.unwrap(), over.limit() - 1, "{store} {over:?}");
            let decision = batched.check("a").await.unwrap();
            assert_eq!((decision.decided_by(), decision.quota()), (DecidedBy::Store, over), "{store}");
            let decision = batched.check("a").await.unwrap();
            assert_eq!((decision.decided_by(), decision.quota()), (DecidedBy::Batch, over), "{store}");
            batched.end_override("a").await.unwrap();
            assert_eq!(limiter.remaining("a").await.unwrap(), 97, "{store} {over:?}");
        }
    }
}

#[tokio::test]
async fn a_batch_is_kept_when_a_reset_or_an_override_certainly_did_not_happen() {
    let server = Server::start();
    let larder = support::connect(&server.url()).await;
    let limiter = larder.rate_limiter("api", Quota::per_hour(100)).unwrap();
    let limiter = limiter.batched(PermitBatch::batch(40).span(Duration::from_secs(600))).unwrap();
    assert!(limiter.allow("a").await.unwrap());
    let keys: Vec<String> = server.query(&["KEYS", "*api:a*"]);
    // The scripts fail before they change anything.
    server.query::<()>(&["RENAME", &keys[0], "aside"]);
    server.query::<()>(&["RPUSH", &keys[0], "x"]);
    assert!(!limiter.reset("a").await.unwrap_err().is_indeterminate());
    assert!(limiter.override_key("a", Quota::per_hour(50), Duration::from_secs(60)).await.is_err());
    assert!(limiter.end_override("a").await.is_err());
    server.query::<()>(&["RENAME", "aside", &keys[0]]);
    assert_eq!(limiter.check("a").await.unwrap().decided_by(), DecidedBy::Batch);
}

#[tokio::test]
async fn after_a_reset_without_an_answer_no_permit_from_before_it_is_spent() {
    let server = Server::builder().tcp().start();
    let proxy = Proxy::start(server.addr().unwrap()).await;
    let larder = support::connect(&proxy.url()).await;
    let limiter = larder.rate_limiter("api", Quota::per_hour(20)).unwrap();
    let limiter = limiter.batched(PermitBatch::batch(10).span(Duration::from_secs(600))).unwrap();
    // The server knows the script from here on.
    limiter.reset("warm").await.unwrap();
    for how in ["late", "dropped", "under way"] {
        assert!(limiter.allow(how).await.unwrap());
        proxy.delay(Direction::ToClient, Duration::from_millis(400));
        let mut reset = Box::pin(limiter.reset(how).timeout(Duration::from_millis(100)));
        assert!(futures_util::FutureExt::now_or_never(&mut reset).is_none());
        let name = format!("*api:{how}*");
        until("the reset has happened", async || server.query::<Vec<String>>(&["KEYS", &name]).is_empty())
            .await;
        let mut allowed = 0;
        match how {
            "late" => assert!(reset.await.unwrap_err().is_indeterminate()),
            "dropped" => drop(reset),
            _ => {
                let check = limiter.check(how).await.unwrap();
                allowed += check.granted();
                drop(reset);
            }
        }
        proxy.delay(Direction::ToClient, Duration::ZERO);
        while limiter.allow(how).await.unwrap() {
            allowed += 1;
        }
        assert!(allowed <= 20, "{how}: {allowed}");
    }
}
