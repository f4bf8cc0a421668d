//! Several keys in one decision: all are charged, or none.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::time::Duration;

use larder::{ErrorKind, Quota};

use larder::limit::{DecidedBy, OutagePolicy};
use larder_testkit::Server;
use support::{each_pair, each_store};

#[tokio::test]
async fn all_keys_are_charged_or_none_and_the_one_that_refuses_is_named() {
    for (store, larder) in each_store().await {
        let quotas = [Quota::per_hour(2), Quota::per_hour(100)];
        let by_user = larder.rate_limiter("user", quotas[0]).unwrap().in_group("acme").unwrap();
        let by_tenant = larder.rate_limiter("tenant", quotas[1]).unwrap().in_group("acme").unwrap();
        let both = || [by_tenant.key("acme").cost(10), by_user.key("ann")];
        for left in [1, 0] {
            let passed = larder.check_together(both()).await.unwrap();
            assert!(passed.is_allowed() && passed.retry_after().is_none() && passed.refused_by().is_none());
            assert_eq!(passed.decisions()[1].remaining(), left, "{store}");
            assert_eq!(passed.quota(), Some(quotas[0]));
        }
        for decided_by in [DecidedBy::Store, DecidedBy::Refusal] {
            let refused = larder.check_together(both()).await.unwrap();
            assert!(!refused.is_allowed() && refused.refused_by() == Some(1), "{store}: {refused:?}");
            assert_eq!(refused.decisions()[1].decided_by(), decided_by, "{store}");
            assert_eq!(refused.retry_after(), refused.decisions()[1].retry_after());
            assert!(refused.retry_after().unwrap() > Duration::from_secs(3500));
            assert_eq!(refused.quota(), Some(quotas[0]));
        }
        assert_eq!(
            by_tenant.remaining("acme").await.unwrap(),
            80,
            "{store}: the refusal has charged nothing"
        );
        // A key that was refused only because of another key is not remembered as refused.
        assert_eq!(by_tenant.check("acme").await.unwrap().remaining(), 79, "{store}");
        // A charge of several keys is refunded key by key.
        by_user.reset("ann").await.unwrap();
        let mut decisions = larder.check_together(both()).await.unwrap().into_decisions();
        assert_eq!(by_user.refund("ann", decisions.pop().unwrap(), 1).await.unwrap(), 1);
        assert_eq!(by_tenant.refund("acme", decisions.pop().unwrap(), 10).await.unwrap(), 10);
        assert_eq!(by_tenant.remaining("acme").await.unwrap(), 79, "{store}");
        // Groups are independent of each other, and of limiters without a group.
        let others = [by_user.in_group("umbrella").unwrap(), larder.rate_limiter("user", quotas[0]).unwrap()];
        assert!(by_user.allow("ann").await.unwrap());
        for other in others {
            assert_eq!(other.remaining("ann").await.unwrap(), 2, "{store}");
        }
    }
}

#[tokio::test]
async fn a_refusal_of_one_key_or_of_other_costs_does_not_say_how_long_several_keys_wait() {
    for (store, larder, other) in each_pair().await {
        let limiters = |larder: &larder::Larder| {
            let quotas = [("user", Quota::per_minute(2)), ("tenant", Quota::per_hour(9))];
            quotas.map(|(name, quota)| larder.rate_limiter(name, quota).unwrap().in_group("acme").unwrap())
        };
        let [user, tenant] = limiters(&larder);
        let ask = async |cost: u64| {
            larder.check_together([user.key("ann"), tenant.key("acme").cost(cost)]).await.unwrap()
        };
        // Another program uses up everything that the tenant has; this program remembers only the user's refusal.
        let [_, there] = limiters(&other);
        there.check_n("acme", 8).await.unwrap();
        user.check_n("ann", 2).await.unwrap();
        assert!(!user.allow("ann").await.unwrap());
        let [minute, hour] = [60, 3600].map(Duration::from_secs);
        for decided_by in [DecidedBy::Store, DecidedBy::Refusal] {
            let refused = ask(5).await;
            assert_eq!(refused.decisions()[1].decided_by(), decided_by, "{store}");
            assert!(refused.retry_after().unwrap() > hour - minute, "{store}: {refused:?}");
            assert_eq!(refused.refused_by(), Some(1), "{store}");
            // One of the two fits, and the caller waits for the other.
            let refused = ask(1).await;
            assert_eq!(refused.decisions()[1].decided_by(), decided_by, "{store}");
            assert!(
                refused.retry_after().unwrap() <= minute + Duration::from_secs(1),
                "{store}: {refused:?}"
            );
            let [first, second] = refused.decisions() else { panic!("{refused:?}") };
            assert_eq!((first.remaining(), second.remaining()), (0, 1), "{store}");
            assert_eq!(second.retry_after(), Some(Duration::ZERO), "{store}");
        }
    }
}

#[tokio::test]
async fn what_is_charged_or_given_back_to_any_key_ends_a_refusal_of_several_keys() {
    for (store, larder) in each_store().await {
        let quotas = [("user", Quota::per_hour(10)), ("tenant", Quota::new(20, Duration::from_secs(86_400)))];
        let [user, tenant] =
            quotas.map(|(name, quota)| larder.rate_limiter(name, quota).unwrap().in_group("acme").unwrap());
        let both = async || {
            larder.check_together([user.key("ann").cost(6), tenant.key("acme").cost(3)]).await.unwrap()
        };
        user.check_n("ann", 5).await.unwrap();
        let hour = Duration::from_secs(3600);
        // Each time, the request is repeated while its refusal is known.
        let refused = async |by| {
            both().await;
            let refused = both().await;
            assert_eq!(refused.refused_by(), Some(by), "{store}: {refused:?}");
            assert_eq!(refused.decisions()[0].decided_by(), DecidedBy::Refusal, "{store}");
            refused
        };
        assert!(refused(0).await.retry_after().unwrap() <= hour + Duration::from_secs(1), "{store}");
        // The key without a wait is charged by itself: now it has the longest wait.
        assert_eq!(tenant.check_n("acme", 19).await.unwrap().granted(), 19);
        let charged = refused(1).await;
        assert!(charged.retry_after().unwrap() > 20 * hour, "{store}: {charged:?}");
        assert_eq!(charged.decisions()[1].remaining(), 1, "{store}");
        // The key with the shorter wait is free again.
        user.reset("ann").await.unwrap();
        let free = refused(1).await;
        assert_eq!(free.decisions()[0].retry_after(), Some(Duration::ZERO), "{store}: {free:?}");
        assert_eq!(free.decisions()[0].remaining(), 10, "{store}");
        tenant.reset("acme").await.unwrap();
        assert!(both().await.is_allowed(), "{store}");
    }
}

#[tokio::test]
async fn several_keys_are_one_round_trip() {
    let server = Server::start();
    let larder = support::connect(&server.url()).await;
    let limiter = |name: &str| larder.rate_limiter(name, Quota::per_hour(2)).unwrap();
    let (a, b, c) = (limiter("a"), limiter("b"), limiter("c"));
    let all = || [a.key("x"), b.key(7), c.key(("y", 3))];
    assert!(larder.check_together(all()).await.unwrap().is_allowed());
    server.reset_stats();
    let calls = || server.calls("evalsha") + server.calls("eval");
    assert!(larder.check_together(all()).await.unwrap().is_allowed());
    assert_eq!(calls(), 1);
    assert!(!larder.check_together(all()).await.unwrap().is_allowed());
    assert_eq!(calls(), 2);
    // One key that is remembered as refused decides for all.
    assert!(!larder.check_together(all()).await.unwrap().is_allowed());
    assert_eq!(calls(), 2);
    assert!(larder.check_together([]).await.unwrap().is_allowed());
}

#[tokio::test]
async fn what_cannot_be_decided_in_one_step_is_refused_with_a_reason() {
    let larder = support::connect(&support::cluster().url()).await;
    let limiter = |name: &str| larder.rate_limiter(name, Quota::per_hour(20)).unwrap();
    let (a, b) = (limiter("a"), limiter("b"));
    let error = larder.check_together([a.key("x"), b.key("y")]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidSetting);
    assert!(error.to_string().contains("in_group"), "{error}");
    let grouped = [a.in_group("g").unwrap(), b.in_group("g").unwrap()];
    assert!(larder.check_together(grouped.iter().map(|one| one.key("x"))).await.unwrap().is_allowed());
    for (store, larder) in each_store().await {
        let a = larder.rate_limiter("a", Quota::per_hour(20)).unwrap();
        let twice = larder.check_together([a.key("x"), a.key("x")]).await.unwrap_err();
        assert_eq!(twice.kind(), ErrorKind::InvalidSetting, "{store}");
        let other = support::connect("memory:").await;
        let strange = other.rate_limiter("b", Quota::per_hour(20)).unwrap();
        assert!(larder.check_together([a.key("x"), strange.key("x")]).await.is_err(), "{store}");
        assert!(larder.check_together([a.key("x").cost(21)]).await.is_err(), "{store}");
        assert!(larder.check_together([a.key("x").cost(0)]).await.is_err(), "{store}");
        let one_slot = a.in_group("many").unwrap();
        let many = |keys: usize| larder.check_together((0..keys).map(|key| one_slot.key(key)));
        let error = many(65).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSetting, "{store}");
        assert!(error.to_string().contains("64"), "{store}: {error}");
        assert!(many(64).await.unwrap().is_allowed(), "{store}");
        assert_eq!(a.remaining("x").await.unwrap(), 20, "{store}");
        assert!(a.in_group("x".repeat(129)).is_err());
    }
}

#[tokio::test]
async fn while_the_store_is_away_each_key_is_decided_by_its_limiters_policy() {
    let server = Server::start();
    let larder = support::connect(&server.url()).await;
    let limiter =
        |name: &str, outage| larder.rate_limiter(name, Quota::per_hour(2)).unwrap().outage(outage).unwrap();
    let (allows, denies) = (limiter("a", OutagePolicy::Allow), limiter("b", OutagePolicy::Deny));
    let errors = limiter("c", OutagePolicy::Error);
    server.kill();
    let check = async |other: &larder::limit::RateLimiter| {
        larder.check_together([allows.key("x"), other.key("y")]).await
    };
    assert!(check(&allows).await.unwrap().is_allowed());
    assert!(!check(&denies).await.unwrap().is_allowed());
    assert!(check(&errors).await.is_err());
    // A share does not count a request that the share of another key refuses.
    let (few, many) = (limiter("d", OutagePolicy::LocalShare(2)), limiter("e", OutagePolicy::LocalShare(1)));
    let both = async || larder.check_together([many.key("x"), few.key("y")]).await.unwrap();
    assert!(both().await.is_allowed());
    for _ in 0..3 {
        let refused = both().await;
        assert_eq!(refused.refused_by(), Some(1), "{refused:?}");
        assert_eq!(refused.decisions()[0].remaining(), 1, "{refused:?}");
    }
    assert!(many.allow("x").await.unwrap() && !many.allow("x").await.unwrap());
    // A cost above the share never fits into it, so there is no time to retry.
    let never = few.check_n("z", 2).await.unwrap();
    assert_eq!(never.retry_after(), Some(Duration::from_secs(1)));
}
