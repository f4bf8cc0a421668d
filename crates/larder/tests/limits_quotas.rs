//! What limiters decide: several quotas together, costs, changes while running, refunds, and invalid arguments.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::time::Duration;

use larder::{ErrorKind, Quota};

use larder::limit::{DecidedBy, Decision, RateLimiter, Reserve};
use support::{each_store, until};

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn several_quotas_are_decided_together_and_the_one_that_bound_is_named() {
    for (store, larder) in each_store().await {
        let quotas = [Quota::per_hour(30), Quota::new(3, Duration::from_secs(600)), Quota::per_day(100)];
        let limiter = larder.rate_limiter("api", quotas).unwrap();
        for left in [2, 1, 0] {
            let decision = limiter.check("a").await.unwrap();
            assert!(decision.is_allowed() && decision.decided_by() == DecidedBy::Store, "{store}");
            assert_eq!((decision.quota(), decision.limit(), decision.remaining()), (quotas[1], 3, left));
        }
        let refused = limiter.check("a").await.unwrap();
        assert_eq!((refused.is_allowed(), refused.quota()), (false, quotas[1]), "{store}");
        assert!(refused.retry_after().unwrap() <= Duration::from_secs(600));
        // What the other quotas have left shows that the refusal charged none of them.
        let wider = larder.rate_limiter("api", [quotas[0], quotas[2]]).unwrap();
        assert_eq!(wider.remaining("a").await.unwrap(), 27, "{store}");
    }
}

/// A small limit keeps the time of each permit, and no more of them than it allows. A debt under it must not replace
/// what a larger limit has counted.
#[tokio::test]
async fn a_debt_under_a_smaller_limit_forgets_nothing_that_was_charged() {
    for (store, larder) in each_store().await {
        let small = larder.rate_limiter("api", Quota::per_hour(10)).unwrap();
        let large = larder.rate_limiter("api", Quota::per_hour(100)).unwrap();
        let reservation = small.reserve("ann", 1).await.unwrap().granted().unwrap();
        assert!(large.check_n("ann", 99).await.unwrap().is_allowed(), "{store}");
        let settled = reservation.settle_with_debt(6).await.unwrap();
        assert_eq!((settled.charged, settled.uncovered), (0, 5), "{store}");
        assert!(!large.check("ann").await.unwrap().is_allowed(), "{store}");
    }
}

#[tokio::test]
async fn a_cost_is_charged_whole_or_not_at_all() {
    for (store, larder) in each_store().await {
        for quota in [
            Quota::per_hour(10),
            Quota::per_hour(100),
            Quota::per_hour(100_000),
            Quota::per_hour(10).gcra(10),
        ] {
            let limiter = larder.rate_limiter(format!("api{}", quota.limit()), quota).unwrap();
            let (most, key) = (quota.limit(), format!("{quota:?}"));
            assert_eq!(limiter.check_n(&key, most - 3).await.unwrap().remaining(), 3, "{store} {quota:?}");
            assert!(!limiter.check_n(&key, 4).await.unwrap().is_allowed(), "{store} {quota:?}");
            assert_eq!(limiter.remaining(&key).await.unwrap(), 3);
            assert!(limiter.check_n(&key, 3).await.unwrap().is_allowed());
            assert_eq!(limiter.remaining(&key).await.unwrap(), 0);
        }
    }
}

#[tokio::test]
async fn a_refusal_is_known_for_its_cost_and_says_nothing_of_another() {
    for (store, larder) in each_store().await {
        let limiter = larder.rate_limiter("api", Quota::per_hour(50)).unwrap();
        assert!(limiter.check_n("a", 48).await.unwrap().is_allowed());
        for decided_by in [DecidedBy::Store, DecidedBy::Refusal] {
            for cost in [5, 6, 50] {
                let refused = limiter.check_n("a", cost).await.unwrap();
                assert_eq!(
                    (refused.is_allowed(), refused.decided_by()),
                    (false, decided_by),
                    "{store} {cost}"
                );
            }
        }
        assert!(limiter.check_n("a", 2).await.unwrap().is_allowed(), "{store}");
    }
}

#[tokio::test]
async fn a_refusal_of_a_small_cost_does_not_answer_a_large_one() {
    for (store, larder) in each_store().await {
        // Two permits, 300 ms apart: one comes back so much before the other.
        let limiter = larder.rate_limiter("api", Quota::new(2, HOUR)).unwrap();
        assert!(limiter.allow("a").await.unwrap());
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(limiter.allow("a").await.unwrap());
        let one = limiter.check("a").await.unwrap().retry_after().unwrap();
        let two = limiter.check_n("a", 2).await.unwrap().retry_after().unwrap();
        assert!(two >= one + Duration::from_millis(200), "{store}: {one:?} for one, {two:?} for two");
    }
}

#[tokio::test]
async fn what_another_process_gives_back_is_seen_within_a_second_however_long_the_window() {
    for (store, larder, other) in support::each_pair().await {
        let limiter = |larder: &larder::Larder| larder.rate_limiter("daily", Quota::per_day(3)).unwrap();
        let (here, there) = (limiter(&larder), limiter(&other));
        let mut decisions = Vec::new();
        for _ in 0..3 {
            decisions.push(there.check("a").await.unwrap());
        }
        assert!(!here.allow("a").await.unwrap());
        assert_eq!(here.check("a").await.unwrap().decided_by(), DecidedBy::Refusal, "{store}");
        there.refund("a", decisions.pop().unwrap(), 1).await.unwrap();
        until("the refund is seen", async || here.allow("a").await.unwrap()).await;
        assert!(!here.allow("a").await.unwrap());
        there.reset("a").await.unwrap();
        until("the reset is seen", async || here.allow("a").await.unwrap()).await;
    }
}

#[tokio::test]
async fn handles_with_other_quotas_keep_what_they_know() {
    let server = larder_testkit::Server::start();
    let larder = support::connect(&server.url()).await;
    let handle = |limit| larder.rate_limiter("tiers", Quota::per_day(limit)).unwrap();
    for (key, limit) in [("free", 5), ("paid", 10)] {
        assert!(handle(limit).check_n(key, limit).await.unwrap().is_allowed());
        assert!(!handle(limit).allow(key).await.unwrap());
    }
    for _ in 0..10 {
        // A handle for each request, as programs create them.
        for (key, limit) in [("free", 5), ("paid", 10)] {
            assert_eq!(handle(limit).check(key).await.unwrap().decided_by(), DecidedBy::Refusal, "{key}");
        }
    }
}

#[tokio::test]
async fn as_many_as_there_are_can_be_taken() {
    for (store, larder) in each_store().await {
        let limiter = larder.rate_limiter("mails", [Quota::per_hour(50), Quota::per_day(60)]).unwrap();
        assert_eq!(limiter.take_up_to("a", 30).await.unwrap().granted(), 30);
        let rest = limiter.take_up_to("a", 30).await.unwrap();
        assert_eq!((rest.granted(), rest.remaining(), rest.retry_after()), (20, 0, None), "{store}");
        let none = limiter.take_up_to("a", 1).await.unwrap();
        assert!(!none.is_allowed() && none.retry_after().is_some(), "{store}");
        // A cost that is refused as a whole may pass in part.
        limiter.take_up_to("c", 48).await.unwrap();
        assert!(!limiter.check_n("c", 5).await.unwrap().is_allowed());
        assert_eq!(limiter.take_up_to("c", 10).await.unwrap().granted(), 2, "{store}");
        // Here a cost above the limit is allowed.
        assert_eq!(limiter.take_up_to("b", 1000).await.unwrap().granted(), 50);
        assert_eq!(limiter.take_up_to("b", 0).await.unwrap_err().kind(), ErrorKind::InvalidSetting);
    }
}

#[tokio::test]
async fn limits_change_while_running_and_counts_go_on() {
    for (store, larder) in each_store().await {
        let limiter = larder.rate_limiter("api", Quota::per_hour(30)).unwrap();
        assert!(limiter.check_n("a", 30).await.unwrap().is_allowed());
        assert!(!limiter.allow("a").await.unwrap());
        // The new limit holds at once, although this process had remembered the refusal.
        limiter.set_quotas(Quota::per_hour(40)).unwrap();
        assert_eq!(limiter.check("a").await.unwrap().remaining(), 9, "{store}");
        limiter.set_quotas(Quota::per_hour(20)).unwrap();
        let refused = limiter.check("a").await.unwrap();
        assert_eq!((refused.is_allowed(), refused.limit(), refused.remaining()), (false, 20, 0), "{store}");
        // Another kind of counting, another window, more quotas, wider counts: earlier charges still count.
        for quotas in [
            vec![Quota::per_hour(40).exact()],
            vec![Quota::per_day(40)],
            vec![Quota::per_hour(100_000), Quota::per_day(40)],
            vec![Quota::per_day(40).exact(), Quota::new(35, 2 * HOUR)],
        ] {
            limiter.set_quotas(quotas.clone()).unwrap();
            let looked = limiter.remaining("a").await.unwrap();
            assert!(looked <= 9, "{store}: {looked} left by {quotas:?}");
            // A charge stores the translated record.
            limiter.take_up_to("a", looked.max(1)).await.unwrap();
            assert_eq!(limiter.remaining("a").await.unwrap(), 0, "{store}: {quotas:?}");
        }
    }
}

#[tokio::test]
async fn what_was_refused_after_a_change_of_windows_stays_refused_as_long_as_was_said() {
    for (store, larder) in each_store().await {
        let short = Duration::from_millis(300);
        for quotas in
            [[Quota::new(3, short), Quota::per_hour(3)], [Quota::new(30, short), Quota::per_hour(30)]]
        {
            let limiter = larder.rate_limiter("api", quotas[0]).unwrap();
            let (limit, mut tries) = (quotas[0].limit(), 0);
            let mut key = String::new();
            // On a slow machine the short window may be over meanwhile; then use another key.
            until("it is refused by what the other quota has charged", async || {
                tries += 1;
                key = format!("{limit}-{tries}");
                limiter.set_quotas(quotas[0]).unwrap();
                assert_eq!(limiter.take_up_to(&key, limit).await.unwrap().granted(), limit);
                limiter.set_quotas(quotas[1]).unwrap();
                !limiter.check(&key).await.unwrap().is_allowed()
            })
            .await;
            // Well after the time at which the record would have expired by the quota that charged it.
            tokio::time::sleep(2 * short).await;
            let again = limiter.acquire(&key, Duration::ZERO).await.unwrap();
            assert!(again.retry_after() > Some(Duration::from_secs(3500)), "{store}: {again:?}");
            // By the old quota nothing counts any more, and the new quota loses nothing.
            limiter.set_quotas(quotas[0]).unwrap();
            assert_eq!(limiter.remaining(&key).await.unwrap(), limit, "{store}");
            limiter.set_quotas(quotas[1]).unwrap();
            assert_eq!(limiter.remaining(&key).await.unwrap(), 0, "{store}");
            assert!(limiter.reset(&key).await.unwrap(), "{store}: there was something to forget");
        }
    }
}

#[tokio::test]
async fn nonsense_is_an_error_and_never_an_endless_wait() {
    for (store, larder) in each_store().await {
        let limiter = larder.rate_limiter("api", [Quota::per_hour(30), Quota::per_minute(5)]).unwrap();
        for cost in [0, 6, 30, u64::MAX] {
            let error = limiter.check_n("a", cost).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidSetting, "{store}");
            let error = limiter.reserve("a", cost).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidSetting, "{store}");
        }
        assert!(limiter.set_quotas(Quota::per_second(0)).is_err());
        assert!(limiter.set_quotas(Vec::new()).is_err());
        assert!(limiter.set_quotas([Quota::per_hour(1), Quota::per_hour(2)]).is_err());
        assert_eq!(limiter.quotas(), [Quota::per_hour(30), Quota::per_minute(5)]);
        assert!(limiter.clone().batched(0).is_err());
        assert!(limiter.clone().outage(larder::limit::OutagePolicy::LocalShare(0)).is_err());
        let paced = larder.rate_limiter("paced", Quota::per_second(10).gcra(2)).unwrap();
        assert!(paced.batched(5).is_err());
    }
}

#[tokio::test]
async fn a_refund_gives_back_what_was_charged_and_no_more() {
    for (store, larder) in each_store().await {
        for quotas in [vec![Quota::per_hour(10)], vec![Quota::per_hour(100), Quota::per_day(1000)]] {
            let limiter = larder.rate_limiter("api", quotas.clone()).unwrap();
            let (key, whole) = (format!("{}", quotas.len()), quotas[0].limit());
            let first = limiter.check_n(&key, 4).await.unwrap();
            let second = limiter.check_n(&key, whole - 4).await.unwrap();
            assert!(!limiter.allow(&key).await.unwrap());
            assert_eq!(limiter.refund(&key, first, 3).await.unwrap(), 3, "{store}");
            // The remembered refusal is forgotten.
            assert_eq!(limiter.check_n(&key, 3).await.unwrap().remaining(), 0, "{store}");
            assert_eq!(limiter.refund(&key, second, 2).await.unwrap(), 2);
            let (third, fourth) = (limiter.check(&key).await.unwrap(), limiter.check(&key).await.unwrap());
            assert!(limiter.reset(&key).await.unwrap(), "{store}");
            assert_eq!(limiter.refund(&key, third, 1).await.unwrap(), 0, "after a reset: {store}");
            assert!(!limiter.reset(&key).await.unwrap());
            assert_eq!(limiter.remaining(&key).await.unwrap(), whole);
            // The charges that others made since are not refunded in its place.
            assert!(limiter.check_n(&key, whole).await.unwrap().is_allowed());
            assert_eq!(limiter.refund(&key, fourth, 1).await.unwrap(), 0, "after a reset: {store}");
            assert_eq!(limiter.remaining(&key).await.unwrap(), 0);
        }
    }
}

#[tokio::test]
async fn a_decision_is_given_back_only_where_it_was_charged() {
    for (store, larder) in each_store().await {
        let limiter = larder.rate_limiter("api", Quota::per_hour(100)).unwrap();
        let other = larder.rate_limiter("api2", Quota::per_hour(100)).unwrap();
        let batched = larder.rate_limiter("batched", Quota::per_hour(1000)).unwrap().batched(50).unwrap();
        let wrong = async |limiter: &RateLimiter, key: &str, decision| {
            let error = limiter.refund(key, decision, 1).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidSetting, "{store}");
        };
        for key in ["b", ""] {
            assert!(limiter.check_n(key, 10).await.unwrap().is_allowed());
            wrong(&limiter, key, limiter.check("a").await.unwrap()).await;
            wrong(&limiter, key, limiter.take_up_to("a", 3).await.unwrap()).await;
            wrong(&limiter, key, limiter.acquire("a", HOUR).await.unwrap()).await;
            assert_eq!(limiter.remaining(key).await.unwrap(), 90, "{store}");
            // A permit of a batch, whether the call took the batch or spent from it.
            for decided_by in [DecidedBy::Store, DecidedBy::Batch] {
                let decision = batched.check(format!("hot{key}")).await.unwrap();
                assert_eq!(decision.decided_by(), decided_by, "{store}");
                wrong(&batched, key, decision).await;
            }
        }
        assert!(other.check_n("a", 10).await.unwrap().is_allowed());
        wrong(&other, "a", limiter.check("a").await.unwrap()).await;
        assert_eq!(other.remaining("a").await.unwrap(), 90, "{store}");
        // Another handle of the same limiter can refund it, once: it cannot be copied.
        let again = larder.rate_limiter("api", Quota::per_hour(100)).unwrap();
        let before = again.remaining("a").await.unwrap();
        let decision = limiter.check_n("a", 5).await.unwrap();
        assert!(again.refund("a", limiter.check_n("a", 2).await.unwrap(), 3).await.is_err(), "{store}");
        assert_eq!(again.refund("a", decision, 5).await.unwrap(), 5, "{store}");
        assert_eq!(again.remaining("a").await.unwrap(), before - 2, "{store}");
        // A refusal has nothing to refund.
        limiter.take_up_to("c", 100).await.unwrap();
        let refused = limiter.check("c").await.unwrap();
        assert_eq!(limiter.refund("a", refused, 0).await.unwrap(), 0, "{store}");
    }
}

/// Compiles only while the call is unambiguous, which it is not for a type that implements `Clone`.
#[test]
fn a_decision_and_a_reservation_cannot_be_cloned() {
    trait OnlyWithoutClone<Which> {
        fn holds() {}
    }
    impl<T> OnlyWithoutClone<()> for T {}
    impl<T: Clone> OnlyWithoutClone<u8> for T {}
    <Decision as OnlyWithoutClone<_>>::holds();
    <larder::limit::Reservation as OnlyWithoutClone<_>>::holds();
}

#[tokio::test]
async fn an_estimate_is_settled_by_what_was_used() {
    for (store, larder) in each_store().await {
        let limiter = larder.rate_limiter("tokens", Quota::per_hour(1000)).unwrap();
        let reserve = async |estimate| limiter.reserve("a", estimate).await.unwrap().granted();
        let settled = reserve(400).await.unwrap().settle(150).await.unwrap();
        assert_eq!((settled.returned, settled.charged, settled.uncovered), (250, 0, 0), "{store}");
        assert_eq!(limiter.remaining("a").await.unwrap(), 850);

        let low = reserve(100).await.unwrap().settle(160).await.unwrap();
        assert_eq!((low.returned, low.charged, low.uncovered), (0, 60, 0), "{store}");
        assert_eq!(reserve(500).await.unwrap().cancel().await.unwrap().returned, 500);
        assert_eq!(limiter.remaining("a").await.unwrap(), 690);

        // Beyond the limit nothing is charged: the result says how much was not covered.
        let over = reserve(600).await.unwrap().settle(700).await.unwrap();
        assert_eq!((over.charged, over.uncovered), (90, 10), "{store}");
        match limiter.reserve("a", 1).await.unwrap() {
            Reserve::Refused(decision) => assert!(decision.retry_after().is_some()),
            other => panic!("{other:?}"),
        }
        // Dropped: the actual use is unknown.
        drop(limiter.reserve("b", 300).await.unwrap());
        assert_eq!(limiter.remaining("b").await.unwrap(), 700, "{store}");
    }
}

#[tokio::test]
async fn many_keys_are_decided_each_by_itself() {
    for (store, larder) in each_store().await {
        let limiter = larder.rate_limiter("api", Quota::per_hour(2)).unwrap();
        limiter.check_n("b", 2).await.unwrap();
        let decisions = limiter.check_many(["a", "b", "c", "a", "a"]).await.unwrap();
        let allowed: Vec<bool> = decisions.iter().map(Decision::is_allowed).collect();
        assert_eq!(allowed, [true, false, true, true, false], "{store}");
        assert!(limiter.check_many(Vec::<u64>::new()).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn gcra_lets_its_burst_pass_and_then_its_pace() {
    for (store, larder) in each_store().await {
        let limiter = larder.rate_limiter("api", Quota::per_hour(60).gcra(3)).unwrap();
        for left in [2, 1, 0] {
            assert_eq!(limiter.check("a").await.unwrap().remaining(), left, "{store}");
        }
        let wait = limiter.check("a").await.unwrap().retry_after().unwrap();
        assert!(wait > Duration::from_secs(50) && wait <= Duration::from_secs(60), "{store}: {wait:?}");
    }
}
