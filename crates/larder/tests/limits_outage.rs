//! What limiters decide while the server is away.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::time::{Duration, Instant};

use larder::{DecidedBy, ErrorKind, Larder, Outage, Quota, RateLimiter};
use larder_testkit::Server;
use support::until;

async fn limiter(server: &Server, outage: Outage) -> (Larder, RateLimiter) {
    let larder = Larder::builder()
        .url(server.url())
        .response_timeout(Duration::from_millis(100))
        .connect()
        .await
        .unwrap();
    let limiter = larder.rate_limiter("api", Quota::per_hour(30)).unwrap().outage(outage).unwrap();
    assert!(limiter.check("a").await.unwrap().is_allowed());
    (larder, limiter)
}

#[tokio::test]
async fn a_server_that_hangs_costs_its_timeout_once_and_then_nothing() {
    let server = Server::start();
    let (_larder, limiter) = limiter(&server, Outage::Allow).await;
    server.pause();
    let started = Instant::now();
    let first = limiter.check("a").await.unwrap();
    assert!(first.is_allowed() && first.decided_by() == DecidedBy::Outage);
    let first_took = started.elapsed();
    assert!(first_took >= Duration::from_millis(99) && first_took < Duration::from_secs(5), "{first_took:?}");
    // Many at once and one after the other: only those that try anew wait, one after each pause.
    let (started, mut decided) = (Instant::now(), 0);
    let mut quick = 0;
    while started.elapsed() < Duration::from_millis(600) {
        let before = Instant::now();
        assert_eq!(limiter.check("b").await.unwrap().decided_by(), DecidedBy::Outage);
        decided += 1;
        quick += u64::from(before.elapsed() < Duration::from_millis(50));
    }
    assert!(decided > 100 && decided - quick <= 5, "{quick} of {decided}");
    server.resume();
    until("the store decides again", async || {
        limiter.check("c").await.unwrap().decided_by() == DecidedBy::Store
    })
    .await;
}

#[tokio::test]
async fn a_calls_own_timeout_is_kept_and_decided_by_the_policy() {
    let server = Server::start();
    let (_larder, limiter) = limiter(&server, Outage::Deny).await;
    server.pause();
    let started = Instant::now();
    let denied = limiter.check("a").timeout(Duration::from_millis(20)).await.unwrap();
    assert!(!denied.is_allowed() && denied.decided_by() == DecidedBy::Outage);
    assert!(denied.retry_after().is_some() && started.elapsed() < Duration::from_millis(90));
}

#[tokio::test]
async fn each_policy_decides_as_it_says() {
    let server = Server::start();
    let (larder, errors) = limiter(&server, Outage::Error).await;
    let with = |outage| errors.clone().outage(outage).unwrap();
    let (denies, allows, shares) = (with(Outage::Deny), with(Outage::Allow), with(Outage::LocalShare(3)));
    server.kill();
    let error = errors.check("a").await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    assert!(errors.remaining("a").await.is_err() && errors.reset("a").await.is_err());
    assert!(!denies.allow("a").await.unwrap());
    for _ in 0..100 {
        assert!(allows.allow("a").await.unwrap());
    }
    // A third of thirty, for each key.
    for key in ["a", "b"] {
        let mut allowed = 0;
        for _ in 0..50 {
            let decision = shares.check(key).await.unwrap();
            assert_eq!(decision.decided_by(), DecidedBy::Outage);
            allowed += u64::from(decision.is_allowed());
        }
        assert_eq!(allowed, 10, "{key}");
    }
    assert_eq!(shares.take_up_to("c", 100).await.unwrap().granted(), 10);
    assert!(shares.acquire("d", Duration::ZERO).await.unwrap().is_allowed());
    // Nothing can be given back that was never charged.
    let decision = shares.check("e").await.unwrap();
    assert_eq!(shares.refund("e", decision, 1).await.unwrap(), 0);
    // Nonsense is nonsense, server or not.
    assert_eq!(allows.check_n("a", 31).await.unwrap_err().kind(), ErrorKind::InvalidSetting);
    larder.close().await.unwrap();
    assert_eq!(allows.check("a").await.unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn what_the_store_says_about_a_key_is_an_error_whatever_the_policy() {
    let server = Server::start();
    let (_larder, limiter) = limiter(&server, Outage::Allow).await;
    server.command(&["LPUSH", "~limit.1:{/api:list}", "x"]);
    assert_eq!(limiter.check("list").await.unwrap_err().kind(), ErrorKind::WrongType);
    assert_eq!(limiter.check("a").await.unwrap().decided_by(), DecidedBy::Store);
}

#[tokio::test]
async fn an_outage_of_one_node_of_a_cluster_does_not_open_the_others() {
    let cluster = larder_testkit::Cluster::start();
    let larder = Larder::builder()
        .url(cluster.url())
        .response_timeout(Duration::from_millis(200))
        .connect()
        .await
        .unwrap();
    let limiter = larder.rate_limiter("api", Quota::per_hour(30)).unwrap().outage(Outage::Deny).unwrap();
    for key in 0..50 {
        assert!(limiter.allow(key).await.unwrap());
    }
}
