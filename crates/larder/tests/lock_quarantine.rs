//! Quarantine: a server that may have lost locks grants none until all lost ones have expired.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use larder::{ErrorKind, Larder, Result};

use larder::lock::ReleaseOutcome;
use larder_testkit::{Sentinel, Server};
use support::lossy;
use support::{connect, patient, until};
use tokio::task::spawn_blocking;

/// What is renewed outlives a stall of a busy machine.
const LEASE: Duration = Duration::from_secs(3);
const LONG: Duration = Duration::from_secs(20);
/// Survives a failover, even on a busy machine.
const LOSSY: Duration = Duration::from_secs(12);

/// One attempt at each kind of lock.
async fn attempts(larder: &Larder, lease: Duration) -> Vec<(&'static str, Result<()>)> {
    attempts_with(larder, lease, lease).await
}

async fn attempts_with(
    larder: &Larder,
    lease: Duration,
    quarantine: Duration,
) -> Vec<(&'static str, Result<()>)> {
    let lock = larder.lock("a").ttl(lease).quarantine(quarantine);
    let several = larder.locks(["b", "c"]).ttl(lease).quarantine(quarantine);
    let group = larder.lock_group("g").locks(["a", "b"]).ttl(lease).quarantine(quarantine);
    let election = larder.election("e").ttl(lease).quarantine(quarantine);
    let semaphore = larder.semaphore("s", 2).ttl(lease).quarantine(quarantine);
    let catalogue = larder.rw_lock("r").ttl(lease).quarantine(quarantine);
    let job = larder.job("j").ttl(lease).quarantine(quarantine);
    vec![
        ("lock", lock.try_acquire().await.map(drop)),
        ("waiting lock", lock.acquire_within(LONG).await.map(drop)),
        ("locks", several.acquire().await.map(drop)),
        ("group", group.try_acquire().await.map(drop)),
        ("waiting group", group.acquire_within(LONG).await.map(drop)),
        ("election", election.campaign().await.map(drop)),
        ("semaphore", semaphore.try_acquire().await.map(drop)),
        ("reader", catalogue.read().await.map(drop)),
        ("writer", catalogue.write_within(LONG).await.map(drop)),
        ("job", job.run_slot("1", async |_| Ok::<_, ()>(())).await.map(drop)),
    ]
}

#[tokio::test]
async fn each_kind_of_lock_is_refused_at_first_and_granted_when_the_longest_lease_is_over() {
    for url in [support::server().url(), support::cluster().url()] {
        let larder = connect(&url).await;
        let began = SystemTime::now();
        for (kind, refused) in attempts(&larder, LEASE).await {
            let error = refused.expect_err(kind);
            let ErrorKind::Quarantined { until } = error.kind() else { panic!("{kind}: {error:?}") };
            assert!(error.is_retryable(), "{kind}");
            // The server's clock is this machine's, and counts in whole milliseconds.
            assert!(until + Duration::from_millis(1) >= began + LEASE, "{kind}: too early");
            assert!(until <= SystemTime::now() + LEASE, "{kind}: too late");
        }
        until("quarantine is over", async || {
            attempts(&larder, LEASE).await.iter().all(|(_, granted)| granted.is_ok())
        })
        .await;
    }
}

#[tokio::test]
async fn the_embedded_store_has_no_failover_and_no_quarantine() {
    let larder = connect("memory:").await;
    for (kind, granted) in attempts(&larder, LEASE).await {
        granted.expect(kind);
    }
}

#[tokio::test]
async fn a_lease_that_is_longer_than_the_quarantine_is_refused() {
    for url in ["memory:".to_owned(), support::server().url()] {
        let larder = connect(&url).await;
        let lock = larder.lock("a").quarantine(LEASE);
        let longer = lock.clone().ttl(2 * LEASE).try_acquire().await.unwrap_err();
        assert_eq!(longer.kind(), ErrorKind::InvalidSetting, "{longer:?}");
        let guard = lossy::take(&lock.ttl(LEASE)).await;
        assert_eq!(guard.extend(2 * LEASE).await.unwrap_err().kind(), ErrorKind::InvalidSetting);
        guard.extend(LEASE).await.unwrap();
        // No lease is longer than a day, and the longest quarantine that was asked for counts.
        let day = Duration::from_secs(24 * 3600);
        larder.lock("b").quarantine(day).holder().await.unwrap();
        for quarantine in [day + Duration::from_millis(1), Duration::MAX] {
            for (kind, granted) in attempts_with(&larder, LEASE, quarantine).await {
                let error = granted.expect_err(kind);
                assert_eq!(error.kind(), ErrorKind::InvalidSetting, "{kind}: {error:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_server_with_another_replication_id_renews_and_frees_what_it_knows_and_grants_nothing() {
    let server = Server::start();
    let (here, there) =
        (support::connect_as(&server.url(), "q").await, support::connect_as(&server.url(), "q").await);
    let lock = |larder: &Larder, name: &str| larder.lock(name).ttl(LEASE).quarantine(LEASE);
    let kept = lossy::take(&lock(&here, "kept").keep_alive()).await;
    lossy::take(&lock(&here, "free")).await.release().await.unwrap();
    // As a promotion does.
    server.command(&["DEBUG", "CHANGE-REPL-ID"]);
    let free = lock(&there, "free");
    let error = free.try_acquire().await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Quarantined { .. }), "{error:?}");
    kept.extend(LEASE).await.unwrap();
    assert!(matches!(
        lock(&there, "kept").acquire_within(LONG).await.unwrap_err().kind(),
        ErrorKind::Quarantined { .. }
    ));
    until("quarantine is over", async || free.try_acquire().await.is_ok()).await;
    assert!(kept.is_valid(), "it was not renewed");
    assert_eq!(kept.release().await.unwrap(), ReleaseOutcome::Released);
    // Once more: another id each time, even if this server had been the master before.
    server.command(&["DEBUG", "CHANGE-REPL-ID"]);
    assert!(free.try_acquire().await.is_err());
}

#[tokio::test]
async fn a_waiter_whose_turn_begins_in_quarantine_is_refused_and_leaves_its_place() {
    let server = Server::start();
    let larder = support::connect_as(&server.url(), "q").await;
    let lock = larder.lock("a").ttl(LONG).quarantine(LONG);
    // Its quarantine would last too long for a test, so the marker names this server from the beginning.
    let id = server.info("replication")["master_replid"].clone();
    server.command(&["SET", "~lock.2:{q/a}:origin", &format!("{id} {}", LONG.as_millis())]);
    let held = lock.acquire().await.unwrap();
    let waiter = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire().await.map(drop) }
    });
    until("it waits", async || server.query::<u64>(&["ZCARD", "~lock.2:{q/a}:line"]) == 1).await;
    server.command(&["DEBUG", "CHANGE-REPL-ID"]);
    held.release().await.unwrap();
    let refused = tokio::time::timeout(LONG, waiter).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::Quarantined { .. }), "{refused:?}");
    until("it left its place", async || server.query::<u64>(&["EXISTS", "~lock.2:{q/a}:line"]) == 0).await;
}

#[tokio::test]
async fn the_longest_quarantine_that_was_asked_for_counts_and_the_marker_is_kept_for_30_days() {
    let server = Server::start();
    let larder = support::connect_as(&server.url(), "q").await;
    let marker = "~lock.2:{q/a}:origin";
    let id = server.info("replication")["master_replid"].clone();
    server.command(&["SET", marker, &format!("{id} 30000")]);
    let brief = larder.lock("a").ttl(LEASE).quarantine(LEASE);
    brief.try_acquire().await.unwrap().unwrap().release().await.unwrap();
    let days = Duration::from_secs(30 * 24 * 3600).as_millis();
    let left: u128 = server.query::<u64>(&["PTTL", marker]).into();
    assert!(left > days - 60_000 && left <= days, "{left}");
    server.command(&["DEBUG", "CHANGE-REPL-ID"]);
    let error = brief.try_acquire().await.unwrap_err();
    let ErrorKind::Quarantined { until } = error.kind() else { panic!("{error:?}") };
    let wait = until.duration_since(SystemTime::now()).unwrap();
    assert!(wait > Duration::from_secs(20), "a lease of 30 s may be out, and it waits {wait:?}");
}

/// The result of a number of lossy failovers.
#[derive(Debug, Clone, Copy, Default)]
struct Failovers {
    /// Failovers without quarantine, and how many of them led to two valid guards.
    controls: u32,
    overlapping_controls: u32,
    /// Failovers with quarantine, and how many of them led to two valid guards.
    quarantined: u32,
    overlapping: u32,
    /// Attempts that quarantine refused.
    refused: u32,
}

/// Runs this many failovers with quarantine, one after another, each set on its own sentinels. Before every fourth, it
/// runs one without quarantine.
async fn fail_over_again_and_again(count: u32) -> Failovers {
    let sentinel = Arc::new(spawn_blocking(Sentinel::start).await.unwrap());
    let connect = async || patient().url(sentinel.url()).namespace("q").connect().await.unwrap();
    let (here, there) = (connect().await, connect().await);
    let heal = async || {
        let set = sentinel.clone();
        spawn_blocking(move || set.heal()).await.unwrap();
    };
    let mut all = Failovers::default();
    for number in 0..count {
        if number > 0 {
            heal().await;
        }
        if number.is_multiple_of(4) {
            let seen = lossy::fail_over(&sentinel, &here, &there, "control", LOSSY, false).await;
            assert_eq!(seen.refused, 0);
            all.controls += 1;
            all.overlapping_controls += u32::from(seen.overlap);
            heal().await;
        }
        let seen = lossy::fail_over(&sentinel, &here, &there, "a", LOSSY, true).await;
        all.quarantined += 1;
        all.overlapping += u32::from(seen.overlap);
        all.refused += seen.refused;
        assert!(seen.refused > 0, "{seen:?}");
    }
    let lock = lossy::lock(&there, "a", LOSSY, true);
    drop(tokio::time::timeout(2 * LOSSY, lossy::take(&lock)).await.expect("quarantine without an end"));
    all
}

/// LARDER_TEST_FAILOVERS sets how many: `cargo xtask faults --what failover`.
#[tokio::test(flavor = "multi_thread")]
async fn a_failover_that_loses_a_lock_makes_two_holders_without_quarantine_and_none_with_it() {
    let count: u32 = std::env::var("LARDER_TEST_FAILOVERS").map_or(1, |count| count.parse().unwrap());
    let sets = count.min(8);
    let shares = (0..sets).map(|set| tokio::spawn(fail_over_again_and_again((count + set) / sets)));
    let mut all = Failovers::default();
    for share in shares.collect::<Vec<_>>() {
        let share = share.await.unwrap();
        all.controls += share.controls;
        all.overlapping_controls += share.overlapping_controls;
        all.quarantined += share.quarantined;
        all.overlapping += share.overlapping;
        all.refused += share.refused;
    }
    let Failovers { controls, overlapping_controls, quarantined, overlapping, refused } = all;
    println!(
        "| lossy failovers | number | two valid guards |\n|---|---|---|\n\
         | with quarantine ({refused} attempts refused) | {quarantined} | {overlapping} |\n\
         | without, as a control | {controls} | {overlapping_controls} |"
    );
    assert_eq!(overlapping, 0);
    assert!(overlapping_controls > 0, "the failovers lost nothing: they prove nothing");
}
