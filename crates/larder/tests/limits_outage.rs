//! What limiters decide while the server is away.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::time::{Duration, Instant};

use larder::{ErrorKind, Larder, Quota};

use larder::limit::{DecidedBy, OutagePolicy, RateLimiter};
use larder_testkit::Server;
use support::until;

const WINDOW: Duration = Duration::from_millis(500);

async fn limiter(server: &Server, outage: OutagePolicy) -> (Larder, RateLimiter) {
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
    let (_larder, limiter) = limiter(&server, OutagePolicy::Allow).await;
    server.pause();
    let started = Instant::now();
    let first = limiter.check("a").await.unwrap();
    assert!(first.is_allowed() && first.decided_by() == DecidedBy::Outage);
    let first_took = started.elapsed();
    assert!(first_took >= Duration::from_millis(99) && first_took < Duration::from_secs(5), "{first_took:?}");
    // Many calls, one after the other: only a call that tries the server again waits, one after each pause.
    let (started, mut decided) = (Instant::now(), 0);
    let mut quick = 0;
    while started.elapsed() < Duration::from_millis(600) {
        let before = Instant::now();
        assert_eq!(limiter.check("b").await.unwrap().decided_by(), DecidedBy::Outage);
        decided += 1;
        quick += u64::from(before.elapsed() < Duration::from_millis(50));
    }
    // A busy machine delays some of the other calls, too.
    assert!(decided > 100 && decided - quick <= 5 + decided / 20, "{quick} of {decided}");
    server.resume();
    until("the store decides again", async || {
        limiter.check("c").await.unwrap().decided_by() == DecidedBy::Store
    })
    .await;
}

#[tokio::test]
async fn a_calls_own_timeout_is_kept_and_decided_by_the_policy() {
    let server = Server::start();
    let (_larder, limiter) = limiter(&server, OutagePolicy::Deny).await;
    server.pause();
    let started = Instant::now();
    let denied = limiter.check("a").timeout(Duration::from_millis(20)).await.unwrap();
    assert!(!denied.is_allowed() && denied.decided_by() == DecidedBy::Outage);
    assert!(denied.retry_after().is_some() && started.elapsed() < Duration::from_millis(90));
    // One caller's short timeout does not decide for the other callers.
    server.resume();
    assert_eq!(limiter.check("a").await.unwrap().decided_by(), DecidedBy::Store);
}

#[tokio::test]
async fn a_call_that_was_not_sent_is_not_in_doubt() {
    let server = Server::start();
    let (_larder, limiter) = limiter(&server, OutagePolicy::Error).await;
    server.pause();
    assert!(limiter.check("a").await.unwrap_err().is_indeterminate());
    let error = limiter.check("a").await.unwrap_err();
    assert!(error.is_retryable() && !error.is_indeterminate(), "{error:?}");
}

#[tokio::test]
async fn many_keys_at_once_are_decided_by_the_policy_however_many() {
    let server = Server::start();
    let (_larder, limiter) = limiter(&server, OutagePolicy::Allow).await;
    server.pause();
    let decisions = limiter.check_many(0..100).await.unwrap();
    assert!(decisions.len() == 100 && decisions.iter().all(|one| one.decided_by() == DecidedBy::Outage));
}

#[tokio::test]
async fn tens_of_thousands_of_keys_at_once_are_all_decided_and_the_store_is_not_taken_for_away() {
    let server = Server::start();
    let larder = support::connect(&server.url()).await;
    let limiter =
        larder.rate_limiter("many", Quota::per_hour(30)).unwrap().outage(OutagePolicy::Deny).unwrap();
    let decisions = limiter.check_many(0..30_000).await.unwrap();
    assert_eq!(decisions.len(), 30_000);
    assert!(decisions.iter().all(|one| one.is_allowed() && one.decided_by() == DecidedBy::Store));
    assert_eq!(limiter.check("a").await.unwrap().decided_by(), DecidedBy::Store);
}

#[tokio::test]
async fn each_policy_decides_as_it_says() {
    let server = Server::start();
    let (larder, errors) = limiter(&server, OutagePolicy::Error).await;
    let with = |outage| errors.clone().outage(outage).unwrap();
    let (denies, allows, shares) =
        (with(OutagePolicy::Deny), with(OutagePolicy::Allow), with(OutagePolicy::LocalShare(3)));
    server.kill();
    let error = errors.check("a").await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    assert!(errors.remaining("a").await.is_err() && errors.reset("a").await.is_err());
    assert!(!denies.allow("a").await.unwrap());
    for _ in 0..100 {
        assert!(allows.allow("a").await.unwrap());
    }
    // `take_up_to` takes what there is, so it never exceeds the limit.
    assert_eq!(allows.take_up_to("a", u64::MAX).await.unwrap().granted(), 30);
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
    // A charge that was never made cannot be refunded.
    let decision = shares.check("e").await.unwrap();
    assert_eq!(shares.refund("e", decision, 1).await.unwrap(), 0);
    // Invalid arguments are refused, with or without a server.
    assert_eq!(allows.check_n("a", 31).await.unwrap_err().kind(), ErrorKind::InvalidSetting);
    larder.close().await.unwrap();
    assert_eq!(allows.check("a").await.unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_together_admit_at_most_the_limit_in_any_window_of_an_outage() {
    const PROGRAMS: u32 = 3;
    // Shares of 13 in buckets, of 2 by the time of each permit, and of one for a burst of 3.
    let quotas = [
        Quota::new(40, WINDOW),
        Quota::new(8, WINDOW),
        Quota::new(20, WINDOW).gcra(3),
        Quota::new(2, WINDOW),
    ];
    let server = Server::start();
    let mut programs = Vec::new();
    for _ in 0..PROGRAMS {
        let (larder, _) = limiter(&server, OutagePolicy::Error).await;
        programs.push(larder);
    }
    server.kill();
    let limiters = |larder: &Larder| -> Vec<RateLimiter> {
        let limiter = |quota: &Quota| larder.rate_limiter(format!("of{}", quota.limit()), *quota).unwrap();
        quotas
            .iter()
            .map(|quota| limiter(quota).outage(OutagePolicy::LocalShare(PROGRAMS)).unwrap())
            .collect()
    };
    let end = Instant::now() + 4 * WINDOW;
    let mut asking = Vec::new();
    for larder in &programs {
        // Two handles of each limiter use one share.
        for (place, limiter) in limiters(larder).into_iter().chain(limiters(larder)).enumerate() {
            asking.push(tokio::spawn(async move {
                let mut admitted = Vec::new();
                while Instant::now() < end {
                    let asked = Instant::now();
                    let decision = limiter.check("a").await.unwrap();
                    assert_eq!(decision.decided_by(), DecidedBy::Outage);
                    assert!(decision.remaining() < decision.limit().div_ceil(3) && decision.limit() > 1);
                    if decision.is_allowed() {
                        admitted.push((asked, Instant::now()));
                    } else {
                        assert!(decision.retry_after().is_some());
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
                (place % 4, admitted)
            }));
        }
    }
    let mut admitted = vec![Vec::new(); quotas.len()];
    for one in asking {
        let (place, mut own) = one.await.unwrap();
        admitted[place].append(&mut own);
    }
    for (quota, own) in quotas.iter().zip(&mut admitted) {
        own.sort_unstable();
        // Calls that were sent and answered within a window's length were decided within one window.
        let within = |start: Instant| {
            own.iter().filter(|(asked, answered)| *asked >= start && *answered < start + WINDOW).count()
        };
        let most = own.iter().map(|(asked, _)| within(*asked)).max().unwrap_or(0);
        let shares = quota.limit() / u64::from(PROGRAMS) * u64::from(PROGRAMS);
        let most_possible = if quota.limit() == 20 { 20 + 3 } else { shares };
        assert!(most as u64 <= most_possible, "{quota:?}: {most} in one window");
        // And the whole share can be used.
        assert!(own.len() as u64 >= 2 * shares, "{quota:?}: only {}", own.len());
    }
}

#[tokio::test]
async fn what_the_store_says_about_a_key_is_an_error_whatever_the_policy() {
    let server = Server::start();
    let (_larder, limiter) = limiter(&server, OutagePolicy::Allow).await;
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
    let limiter =
        larder.rate_limiter("api", Quota::per_hour(30)).unwrap().outage(OutagePolicy::Deny).unwrap();
    for key in 0..50 {
        assert!(limiter.allow(key).await.unwrap());
    }
    // The masters that serve some of the 1024 slots that share a circuit breaker with the slot of a key.
    let masters = cluster.masters();
    let stopped = masters[0];
    let slot = |key: u64| stopped.query::<u64>(&["CLUSTER", "KEYSLOT", &format!("~limit.1:{{/api:{key}}}")]);
    let third = 16_384 / 3;
    let served: Vec<(u64, u64, bool)> = (0..50)
        .map(|key| (key, slot(key)))
        .map(|(key, slot)| (key, slot, (slot / 1024 * 1024 / third) == ((slot / 1024 * 1024 + 1023) / third)))
        .collect();
    let first_slot = |key: u64| std::ptr::eq(cluster.master_of(&format!("~limit.1:{{/api:{key}}}")), stopped);
    let (away, there): (Vec<_>, Vec<_>) = served
        .into_iter()
        .filter(|(_, _, whole)| *whole)
        .map(|(key, ..)| key)
        .partition(|key| first_slot(*key));
    assert!(away.len() > 2 && there.len() > 5);
    stopped.pause();
    for _ in 0..2 {
        for key in &away {
            assert_eq!(limiter.check(*key).await.unwrap().decided_by(), DecidedBy::Outage);
        }
        for key in &there {
            assert_eq!(limiter.check(*key).await.unwrap().decided_by(), DecidedBy::Store);
        }
    }
    stopped.resume();
}
