//! Holding locks: notification of a lost lock, renewal, and running under a lock; semaphores, fenced values, and
//! servers that evict.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use larder::{Cache, ErrorKind, Larder, Quota};

use larder::lock::ReleaseOutcome;
use larder_testkit::Server;
use larder_testkit::{Direction, Proxy};
use support::waiting::{Lateness, ends_no_later_than, permit_ends_no_later_than};
use support::{each_store, namespace, until};

const TTL: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);
/// A renewed lock survives a stall of a busy machine.
const KEPT: Duration = Duration::from_secs(3);

#[tokio::test]
async fn lost_fires_when_the_time_is_over_and_not_before() {
    for (store, larder) in each_store().await {
        let began = Instant::now();
        let guard = larder.lock("gate").ttl(SHORT).acquire().await.unwrap();
        guard.lost().await;
        assert!(!guard.is_valid(), "{store}");
        let took = began.elapsed();
        assert!(took > SHORT * 9 / 10 && took < SHORT * 4, "{store}: {took:?}");
        assert_eq!(guard.extend(TTL).await.unwrap_err().kind(), ErrorKind::LockLost);
    }
}

#[tokio::test]
async fn a_lock_that_is_kept_alive_outlives_its_time_and_ends_with_its_guard_or_max_hold() {
    for (store, larder) in each_store().await {
        let lock = larder.lock("gate").ttl(KEPT).keep_alive();
        let guard = lock.acquire().await.unwrap();
        let lost = tokio::time::timeout(2 * KEPT, guard.lost()).await;
        assert!(lost.is_err() && guard.is_valid(), "{store}");
        assert!(larder.lock("gate").try_acquire().await.unwrap().is_none());
        drop(guard);
        until("it is free", async || larder.lock("gate").try_acquire().await.unwrap().is_some()).await;

        let began = Instant::now();
        let guard = larder.lock("hung").ttl(SHORT).max_hold(3 * SHORT).keep_alive().acquire().await.unwrap();
        let granted = Instant::now();
        let lateness = Lateness::watch();
        guard.lost().await;
        let took = began.elapsed();
        let longest = 3 * SHORT + (granted - began) + lateness.of(1);
        assert!(took > SHORT && took <= longest, "{store}: held for {took:?}, more than {longest:?}");
    }
}

#[tokio::test]
async fn renewals_of_many_locks_share_round_trips() {
    let server = Server::start();
    let larder = support::connect_as(&server.url(), "s").await;
    let mut guards = Vec::new();
    for number in 0..200 {
        guards.push(
            larder
                .lock(format!("l{number}"))
                .ttl(Duration::from_secs(3))
                .keep_alive()
                .acquire()
                .await
                .unwrap(),
        );
    }
    server.reset_stats();
    until("all were renewed", async || server.calls("pexpire") >= 200).await;
    let scripts = server.calls("evalsha") + server.calls("eval");
    assert!(scripts <= 20, "{scripts} requests for 200 renewals");
    assert!(guards.iter().all(larder::lock::Guard::is_valid));
}

#[tokio::test]
async fn a_guard_that_is_cut_off_is_lost_in_time_and_before_another_holds_the_lock() {
    let server = Server::builder().tcp().start();
    let space = namespace();
    let proxy = Proxy::start(server.addr().unwrap()).await;
    let cut = support::connect_as(&proxy.url(), &space).await;
    let other = support::connect_as(&server.url(), &space).await;
    let guard = cut.lock("gate").ttl(SHORT).keep_alive().acquire().await.unwrap();
    proxy.silence(Direction::Both);
    let next = other.lock("gate").ttl(TTL).acquire().await.unwrap();
    assert!(!guard.is_valid(), "two valid guards");
    guard.lost().await;
    next.release().await.unwrap();
}

#[tokio::test]
async fn a_body_runs_under_a_lock_that_is_renewed_and_is_stopped_when_that_is_lost() {
    for (store, larder) in each_store().await {
        let lock = larder.lock("gate").ttl(KEPT);
        let held = lock.run(|lease| async move {
            tokio::time::sleep(2 * KEPT).await;
            (lease.is_valid(), lease.fence())
        });
        let (valid, _) = held.await.unwrap();
        assert!(valid, "{store}");
        let guard = lock.try_acquire().await.unwrap().expect("freed after the body");
        guard.release().await.unwrap();

        let dropped = Arc::new(AtomicU64::new(0));
        struct Notes(Arc<AtomicU64>);
        impl Drop for Notes {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let notes = Notes(dropped.clone());
        let brief = larder.lock("brief").ttl(SHORT).max_hold(2 * SHORT);
        let hung = brief.run(|_| async move {
            let _notes = notes;
            std::future::pending::<()>().await;
        });
        assert_eq!(hung.await.unwrap_err().kind(), ErrorKind::LockLost, "{store}");
        assert_eq!(dropped.load(Ordering::SeqCst), 1, "the body goes on without the lock");
    }
}

#[tokio::test]
async fn busy_unreachable_timed_out_lost_and_unknown_are_different_results() {
    let server = Server::builder().tcp().start();
    let proxy = Proxy::start(server.addr().unwrap()).await;
    let connect = |timeout| Larder::builder().url(proxy.url()).response_timeout(timeout).connect();
    let larder = connect(Duration::from_millis(300)).await.unwrap();
    let lock = larder.lock("gate").ttl(TTL);
    let guard = lock.acquire().await.unwrap();
    let kind = |error: larder::Error| error.kind();
    assert_eq!(kind(lock.acquire_within(Duration::from_millis(20)).await.unwrap_err()), ErrorKind::LockHeld);
    proxy.swallow(Direction::ToClient);
    assert_eq!(kind(larder.lock("other").try_acquire().await.unwrap_err()), ErrorKind::TimedOut);
    assert_eq!(guard.release().await.unwrap(), ReleaseOutcome::Unknown);
    // A stream that has lost bytes must not be used again: its replies would be matched with other requests.
    proxy.drop_connections().restore();
    // The release took effect, and the attempt whose reply was lost leaves nothing behind.
    let direct = Larder::connect(&server.url()).await.unwrap();
    for name in ["gate", "other"] {
        until("it is free", async || direct.lock(name).try_acquire().await.unwrap().is_some()).await;
    }
    proxy.cut();
    until("the server is known to be away", async || {
        lock.try_acquire()
            .await
            .is_err_and(|error| error.kind() == ErrorKind::Refused || error.kind() == ErrorKind::Disconnected)
    })
    .await;
}

#[tokio::test]
async fn a_deadline_counts_from_before_each_request_left() {
    let server = Server::builder().tcp().start();
    let proxy = Proxy::start(server.addr().unwrap()).await;
    let space = namespace();
    let (holder, larder) =
        (support::connect_as(&server.url(), &space).await, support::connect_as(&proxy.url(), &space).await);
    let key = format!("~lock.2:{{{space}/gate}}");
    let lock = larder.lock("gate").ttl(KEPT);
    // Every reply, and every push, is late by that much.
    proxy.delay(Direction::ToClient, Duration::from_millis(150));
    let guard = lock.acquire().await.unwrap();
    ends_no_later_than(&server, &key, &guard);
    guard.extend(2 * KEPT).await.unwrap();
    ends_no_later_than(&server, &key, &guard);
    guard.release().await.unwrap();

    let first = holder.lock("gate").ttl(TTL).acquire().await.unwrap();
    let waiter = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire().await.unwrap() }
    });
    until("it is queued", async || server.query::<u64>(&["ZCARD", &format!("{key}:line")]) == 1).await;
    first.release().await.unwrap();
    let guard = waiter.await.unwrap();
    ends_no_later_than(&server, &key, &guard);
    guard.release().await.unwrap();

    // Long enough for renewals that a busy machine delays.
    let ttl = Duration::from_secs(3);
    let kept = lock.ttl(ttl).keep_alive().acquire().await.unwrap();
    let permit = larder.semaphore("pool", 1).ttl(ttl).acquire().await.unwrap();
    let pool = format!("~semaphore.1:{{{space}/pool}}");
    let (mut renewals, mut last) = ([0, 0], [Duration::MAX; 2]);
    until("both were renewed twice", async || {
        ends_no_later_than(&server, &key, &kept);
        permit_ends_no_later_than(&server, &pool, &permit);
        for (place, left) in [kept.remaining(), permit.remaining()].into_iter().enumerate() {
            renewals[place] += u32::from(left > last[place]);
            last[place] = left;
        }
        renewals.iter().all(|renewals| *renewals >= 2)
    })
    .await;
}

#[tokio::test]
async fn a_request_that_arrives_after_it_was_given_up_takes_nothing() {
    let server = Server::builder().tcp().start();
    if !server.version().at_least(7, 0) {
        return eprintln!("{} gets both requests over one connection, in their order", server.version());
    }
    let proxy = Proxy::start(server.addr().unwrap()).await;
    let space = namespace();
    let larder = support::connect_as(&proxy.url(), &space).await;
    // Run once, so that the server knows the script; otherwise the request would be sent twice.
    larder.lock("warm").acquire().await.unwrap().release().await.unwrap();
    let given_up =
        async |lock: &str| server.query::<Vec<String>>(&["KEYS", &format!("~lock.2:{{{space}/{lock}}}*")]);
    // A waiter's requests use one connection, and the requests that end an attempt use the other.
    proxy.only_tracked().delay(Direction::ToServer, Duration::from_millis(400));
    // Each request first checks whether its attempt was cancelled.
    let before = server.calls("pexpire");
    for name in ["one", "two"] {
        let lock = larder.lock(name).ttl(TTL);
        let error = lock.acquire().timeout(Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        until("it was given up", async || given_up(name).await.iter().any(|key| key.contains(":wake:")))
            .await;
    }
    until("both requests have arrived", async || server.calls("pexpire") >= before + 2).await;
    for name in ["one", "two"] {
        let left = given_up(name).await;
        assert!(left.iter().all(|key| key.contains(":wake:")), "{left:?}");
    }
}

#[tokio::test]
async fn a_wait_that_ends_in_an_outage_gets_its_error_and_after_it_that_the_lock_is_held() {
    let server = Server::builder().tcp().start();
    let space = namespace();
    let holder = support::connect_as(&server.url(), &space).await;
    let guard = holder.lock("gate").ttl(TTL).acquire().await.unwrap();
    let proxy = Proxy::start(server.addr().unwrap()).await;
    let line = format!("~lock.2:{{{space}/gate}}:line");
    for (comes_back, max_wait) in [(false, 1), (true, 4)] {
        let larder = support::connect_as(&proxy.url(), &space).await;
        let waiter = tokio::spawn({
            let lock = larder.lock("gate").ttl(TTL);
            async move { lock.acquire_within(Duration::from_secs(max_wait)).await.map(drop).unwrap_err() }
        });
        until("it is queued", async || server.query::<u64>(&["ZCARD", &line]) == 1).await;
        proxy.cut();
        if comes_back {
            until("it is known to be away", async || larder.ping().await.is_err()).await;
            proxy.restore();
        }
        let kind = waiter.await.unwrap().kind();
        if comes_back {
            assert_eq!(kind, ErrorKind::LockHeld);
        } else {
            assert!(matches!(kind, ErrorKind::Refused | ErrorKind::Disconnected), "{kind:?}");
        }
        proxy.restore();
        until("its place is gone", async || server.query::<u64>(&["ZCARD", &line]) == 0).await;
    }
    guard.release().await.unwrap();
}

#[tokio::test]
async fn a_queued_attempt_outlives_a_restart_of_the_server() {
    let server = Server::builder().tcp().persist().start();
    let space = namespace();
    let larder = support::connect_as(&server.url(), &space).await;
    let guard = larder.lock("gate").ttl(TTL).acquire().await.unwrap();
    let lock = larder.lock("gate").ttl(TTL);
    let waiter = tokio::spawn(async move { lock.acquire().await });
    let line = format!("~lock.2:{{{space}/gate}}:line");
    until("it is queued", async || server.query::<u64>(&["ZCARD", &line]) == 1).await;
    server.restart();
    until("it can be freed", async || larder.ping().await.is_ok()).await;
    let fence = guard.fence();
    guard.release().await.unwrap();
    let second =
        tokio::time::timeout(Duration::from_secs(5), waiter).await.expect("a stall").unwrap().unwrap();
    assert!(second.fence() > fence);
}

#[tokio::test]
async fn a_value_that_a_newer_holder_wrote_is_not_overwritten_by_an_older_one() {
    for (store, larder) in each_store().await {
        let totals: Cache<u64> = larder.cache("total").ttl(TTL).build().unwrap();
        let lock = larder.lock("totals").ttl(TTL);
        let first = lock.acquire().await.unwrap();
        let old = first.fence();
        assert!(totals.set_fenced("a", &1, old).await.unwrap());
        first.release().await.unwrap();
        let second = lock.acquire().await.unwrap();
        assert!(totals.set_fenced("a", &2, second.fence()).await.unwrap());
        assert!(totals.set_fenced("a", &3, second.fence()).await.unwrap(), "{store}: the same holder again");
        totals.delete("a").await.unwrap();
        assert!(!totals.set_fenced("a", &9, old).await.unwrap(), "{store}");
        assert_eq!(totals.get("a").await.unwrap(), None);
    }
}

#[tokio::test]
async fn locks_and_limits_are_on_the_second_server_and_an_evicting_one_is_reported() {
    let cache = Server::builder().arg("maxmemory", "100mb").arg("maxmemory-policy", "allkeys-lru").start();
    let firm = Server::start();
    let builder = || Larder::builder().url(cache.url());
    let apart = builder().coordination(firm.url()).strict().connect().await.unwrap();
    let guard = apart.lock("gate").ttl(TTL).acquire().await.unwrap();
    let waiter = tokio::spawn({
        let lock = apart.lock("gate").ttl(TTL);
        async move { lock.acquire().await.unwrap() }
    });
    assert!(apart.rate_limiter("api", Quota::per_hour(10)).unwrap().allow("a").await.unwrap());
    until("it is queued", async || firm.query::<u64>(&["ZCARD", "~lock.2:{/gate}:line"]) == 1).await;
    guard.release().await.unwrap();
    waiter.await.unwrap().release().await.unwrap();
    assert_eq!(cache.query::<u64>(&["DBSIZE"]), 0);
    assert_eq!(apart.stats().on_evicting_server, 0);

    let beside = builder().connect().await.unwrap();
    beside.lock("gate").acquire().await.unwrap().release().await.unwrap();
    beside.rate_limiter("api", Quota::per_hour(10)).unwrap();
    assert_eq!(beside.stats().on_evicting_server, 2);

    let strict = builder().strict().connect().await.unwrap();
    let error = strict.lock("gate").acquire().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidSetting);
    assert!(error.to_string().contains("allkeys-lru"), "{error}");
    assert!(strict.rate_limiter("api", Quota::per_hour(10)).is_err());
    assert!(strict.semaphore("pool", 1).try_acquire().await.is_err());
    assert!(builder().coordination("memory:").connect().await.is_err());
}
