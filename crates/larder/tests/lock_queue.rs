//! Waiting for locks: order, cost, and what is left behind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use larder::{ErrorKind, Larder};

use larder::lock::ReleaseOutcome;
use larder_testkit::Server;
use larder_testkit::{Direction, Proxy};
use support::waiting::{Lateness, QueuedAttempts};
use support::{each_pair, each_store, namespace, until};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

const TTL: Duration = Duration::from_secs(20);

/// How many waiters a lock's queue on a server has.
fn waiting(server: &Server, lock: &str) -> u64 {
    server.query(&["ZCARD", &format!("~lock.2:{{{lock}}}:line")])
}

async fn own(server: &Server, namespace: &str) -> Larder {
    support::connect_as(&server.url(), namespace).await
}

/// Starts a waiter, and returns once it is in the queue.
async fn enqueue(
    server: &Server,
    larder: &Larder,
    lock: &str,
    namespace: &str,
) -> JoinHandle<larder::lock::Guard> {
    let name = format!("{namespace}/{lock}");
    let before = waiting(server, &name);
    let waiter = larder.lock(lock).ttl(TTL);
    let waiter = tokio::spawn(async move { waiter.acquire().await.unwrap() });
    until("it is queued", async || waiting(server, &name) > before).await;
    waiter
}

/// Its time of joining is in the future for the server.
#[tokio::test]
async fn a_dead_waiter_from_before_the_servers_clock_was_set_back_is_handed_nothing() {
    let server = Server::start();
    let space = namespace();
    let larder = own(&server, &space).await;
    let lock = larder.lock("gate").ttl(TTL);
    let guard = lock.acquire().await.unwrap();
    let name = format!("~lock.2:{{{space}/gate}}");
    let ahead = (server.query::<(u64, u64)>(&["TIME"]).0 + 60) * 1_000_000;
    server.command(&["ZADD", &format!("{name}:line"), &ahead.to_string(), "00000000000000ff"]);
    // The mark of a lock that others wait for.
    server.command(&["SETRANGE", &name, "16", "+"]);
    assert_eq!(guard.release().await.unwrap(), ReleaseOutcome::Released);
    assert!(!server.query::<bool>(&["EXISTS", &name]), "it was handed to the dead waiter");
    let next = lock.try_acquire().await.unwrap().expect("it is free");
    assert_eq!(next.release().await.unwrap(), ReleaseOutcome::Released);
}

#[tokio::test]
async fn sixty_four_waiters_are_served_in_the_order_in_which_they_queued() {
    let server = Server::start();
    let space = namespace();
    let (here, there) = (own(&server, &space).await, own(&server, &space).await);
    let first = here.lock("gate").ttl(TTL).acquire().await.unwrap();
    let (tell, mut told) = mpsc::unbounded_channel();
    let mut waiters = Vec::new();
    for number in 0..64 {
        let larder = if number % 3 == 0 { &here } else { &there };
        let waiter = enqueue(&server, larder, "gate", &space).await;
        let tell = tell.clone();
        waiters.push(tokio::spawn(async move {
            let guard = waiter.await.unwrap();
            tell.send((number, guard.fence())).unwrap();
            assert_eq!(guard.release().await.unwrap(), ReleaseOutcome::Released);
        }));
    }
    first.release().await.unwrap();
    let mut last = None;
    for expected in 0..64 {
        let (number, fence) = told.recv().await.unwrap();
        assert_eq!(number, expected, "an inversion");
        assert!(Some(fence) > last);
        last = Some(fence);
    }
    for waiter in waiters {
        waiter.await.unwrap();
    }
    // The lock and its queue are gone, and wake-up keys within a second; the fence is remembered for a minute.
    let left = || server.query::<Vec<String>>(&["KEYS", "~lock*"]);
    let fence = format!("~lock.2:{{{space}/gate}}:fence");
    assert!(left().iter().all(|key| *key == fence || key.contains(":wake:")), "{:?}", left());
    until("only the fence is left", async || left() == [fence.as_str()]).await;
    assert!(server.query::<i64>(&["PTTL", &fence]) > 0);
}

#[tokio::test]
async fn a_holder_gets_no_notification_and_a_waiter_only_its_own() {
    let server = Server::start();
    let space = namespace();
    let (here, there) = (own(&server, &space).await, own(&server, &space).await);
    let tracked = || server.info("stats")["tracking_total_keys"].parse::<u64>().unwrap();
    let before = tracked();
    let guard = here.lock("gate").ttl(TTL).acquire().await.unwrap();
    assert_eq!(tracked(), before, "an uncontended lock is tracked");
    let waiter = enqueue(&server, &there, "gate", &space).await;
    // On Redis 6 it subscribes with a separate command, after it has joined the queue.
    until("it listens", async || tracked() > before).await;
    // Redis 7.0 treats every key that the script names as read, until the key changes.
    let most = if server.version().at_least(7, 2) || !server.version().at_least(7, 0) { 1 } else { 5 };
    assert!(tracked() - before <= most, "changes of the lock would be reported to every waiting process");
    guard.release().await.unwrap();
    waiter.await.unwrap().release().await.unwrap();
    assert_eq!(tracked(), before);
}

#[tokio::test]
async fn a_fence_goes_on_from_the_last_though_the_servers_clock_has_stepped_back() {
    let server = Server::start();
    let space = namespace();
    let larder = own(&server, &space).await;
    let lock = larder.lock("gate").ttl(TTL);
    let guard = lock.acquire().await.unwrap();
    let ahead = guard.fence().get() + 3_600_000_000;
    guard.release().await.unwrap();
    // As if the last grant had been an hour in the future.
    let name = format!("~lock.2:{{{space}/gate}}:fence");
    server.query::<String>(&["SET", &name, &ahead.to_string(), "PX", "60000"]);
    let at_once = lock.acquire().await.unwrap();
    assert_eq!(at_once.fence().get(), ahead + 1);
    let waiter = enqueue(&server, &larder, "gate", &space).await;
    at_once.release().await.unwrap();
    let handed_over = waiter.await.unwrap();
    assert_eq!(handed_over.fence().get(), ahead + 2);
    assert!(
        server.query::<i64>(&["PTTL", &name]) > 60_000,
        "it is remembered for the lock's time and a minute"
    );
    handed_over.release().await.unwrap();
}

#[tokio::test]
async fn acquiring_releasing_enqueueing_and_handing_over_are_one_command_each() {
    let server = Server::start();
    let (here, there) = (own(&server, "s").await, own(&server, "s").await);
    // Every script is known by now, so no first use is counted.
    for _ in 0..2 {
        let guard = here.lock("warm").ttl(TTL).acquire().await.unwrap();
        let waiter = enqueue(&server, &there, "warm", "s").await;
        guard.release().await.unwrap();
        waiter.await.unwrap().release().await.unwrap();
    }
    let beats = || here.stats().locks.heartbeats + there.stats().locks.heartbeats;
    let scripts = || server.calls("evalsha") + server.calls("eval");

    let (before, beaten) = (scripts(), beats());
    let guard = here.lock("a").ttl(TTL).acquire().await.unwrap();
    assert_eq!(scripts() - before, 1, "taking");
    assert!(there.lock("a").try_acquire().await.unwrap().is_none());
    assert_eq!(scripts() - before, 2, "asking");
    let waiter = enqueue(&server, &there, "a", "s").await;
    let asked = scripts() - before - (beats() - beaten);
    assert!((2..=3).contains(&asked), "queued: {asked}");

    let others: Vec<_> = {
        let mut others = Vec::new();
        for _ in 0..3 {
            let larder = own(&server, "s").await;
            let waiter = enqueue(&server, &larder, "a", "s").await;
            others.push((larder, waiter));
        }
        others
    };
    let woken = || others.iter().map(|(larder, _)| larder.stats().locks.wakeups).sum::<u64>();
    let all_beats =
        || beats() + others.iter().map(|(larder, _)| larder.stats().locks.heartbeats).sum::<u64>();
    // Heartbeats run in between. They have their own count, which is read before and after the commands.
    let (woken_before, there_before) = (woken(), there.stats().locks.wakeups);
    let (before, beaten) = (scripts(), all_beats());
    guard.release().await.unwrap();
    let second = waiter.await.unwrap();
    let (spent, beaten) = (scripts() - before, all_beats() - beaten);
    assert!(spent >= 2 && spent <= 2 + beaten, "a handover: {spent} scripts, {beaten} of them heartbeats");
    assert_eq!(there.stats().locks.wakeups - there_before, 1);
    assert_eq!(woken() - woken_before, 0, "somebody else was woken");
    second.release().await.unwrap();
    for (larder, waiter) in others {
        waiter.await.unwrap().release().await.unwrap();
        drop(larder);
    }
}

#[tokio::test]
async fn all_that_wait_in_a_process_are_kept_by_at_most_five_requests_a_second() {
    let server = Server::start();
    let larder = own(&server, "s").await;
    let mut held = Vec::new();
    let mut waiters = Vec::new();
    for number in 0..20 {
        let name = format!("lock-{number}");
        held.push(larder.lock(&name).ttl(TTL).acquire().await.unwrap());
        waiters.push(enqueue(&server, &larder, &name, "s").await);
    }
    let (began, before) = (Instant::now(), larder.stats().locks.heartbeats);
    until("some heartbeats", async || larder.stats().locks.heartbeats >= before + 8).await;
    // The first of them may have arrived at once.
    let beats = larder.stats().locks.heartbeats - before - 1;
    let rate = beats as f64 / began.elapsed().as_secs_f64();
    assert!(rate <= 5.0, "{rate} a second");
    for guard in held {
        guard.release().await.unwrap();
    }
    for waiter in waiters {
        waiter.await.unwrap().release().await.unwrap();
    }
    // There is no waiter left: the heartbeat stops.
    let ended = larder.stats().locks.heartbeats;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(larder.stats().locks.heartbeats <= ended + 1);
}

#[tokio::test]
async fn dead_heads_cost_the_queue_at_most_half_a_second_each() {
    let server = Server::builder().tcp().start();
    for heads in [1u32, 3] {
        let space = namespace();
        let holder = own(&server, &space).await;
        let guard = holder.lock("gate").ttl(TTL).acquire().await.unwrap();
        let proxy = Proxy::start(server.addr().unwrap()).await;
        let mut ghosts = Vec::new();
        for _ in 0..heads {
            let dead = support::connect_as(&proxy.url(), &space).await;
            ghosts.push((enqueue(&server, &dead, "gate", &space).await, dead));
        }
        let second = enqueue(&server, &holder, "gate", &space).await;
        // Half-open connections: the waiters can neither take the lock nor leave the queue.
        proxy.silence(Direction::Both);
        let lateness = Lateness::watch();
        let released = Instant::now();
        guard.release().await.unwrap();
        let guard = second.await.unwrap();
        let took = released.elapsed();
        // For each waiter at the head: a heartbeat that comes too early, the one that passes it over, and the
        // confirmation, there and back.
        let longest = heads * Duration::from_millis(500) + lateness.of(4 * heads);
        assert!(took <= longest, "{heads} dead heads took {took:?}, more than {longest:?}");
        guard.release().await.unwrap();
        for (ghost, _) in ghosts {
            ghost.abort();
        }
    }
}

#[tokio::test]
async fn a_lost_wake_up_costs_a_poll_and_not_a_stall() {
    let server = Server::builder().tcp().start();
    let space = namespace();
    let holder = own(&server, &space).await;
    let proxy = Proxy::start(server.addr().unwrap()).await;
    let larder = support::connect_as(&proxy.url(), &space).await;
    let guard = holder.lock("gate").ttl(TTL).acquire().await.unwrap();
    let waiter = enqueue(&server, &larder, "gate", &space).await;
    proxy.only_tracked().swallow(Direction::ToClient);
    let released = Instant::now();
    guard.release().await.unwrap();
    let guard = waiter.await.unwrap();
    assert!(released.elapsed() < Duration::from_secs(2), "{:?}", released.elapsed());
    guard.release().await.unwrap();
}

#[tokio::test]
async fn a_late_wake_up_does_not_lengthen_the_lease() {
    let server = Server::builder().tcp().start();
    let space = namespace();
    let holder = own(&server, &space).await;
    let proxy = Proxy::start(server.addr().unwrap()).await;
    let larder = support::connect_as(&proxy.url(), &space).await;
    let guard = holder.lock("gate").ttl(TTL).acquire().await.unwrap();
    let short = larder.lock("gate").ttl(Duration::from_secs(2));
    let waiter = tokio::spawn(async move { short.acquire().await.unwrap() });
    let name = format!("{space}/gate");
    until("it is queued", async || waiting(&server, &name) == 1).await;
    let before = larder.stats().locks.heartbeats;
    // Later than the claim lasts, and the reply to the confirmation is as late.
    proxy.delay(Direction::ToClient, Duration::from_millis(300));
    guard.release().await.unwrap();
    let guard = waiter.await.unwrap();
    support::waiting::ends_no_later_than(&server, &format!("~lock.2:{{{name}}}"), &guard);
    assert!(guard.remaining() < Duration::from_millis(1700), "{:?}", guard.remaining());
    assert!(larder.stats().locks.heartbeats > before, "no heartbeat kept the place");
    guard.release().await.unwrap();
}

#[tokio::test]
async fn a_holder_that_died_is_followed_by_the_next_waiter_when_its_lease_has_expired() {
    for (store, here, there) in each_pair().await {
        let short = Duration::from_millis(300);
        std::mem::forget(here.lock("gate").ttl(short).acquire().await.unwrap());
        let began = Instant::now();
        let guard = there.lock("gate").ttl(TTL).acquire().await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(5), "{store}");
        guard.release().await.unwrap();
    }
}

#[tokio::test]
async fn a_waiter_that_times_out_or_is_dropped_leaves_the_queue_to_others() {
    for (store, larder) in each_store().await {
        let lock = larder.lock("gate").ttl(TTL);
        let guard = lock.acquire().await.unwrap();
        let late = lock.acquire_within(Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(late.kind(), ErrorKind::LockHeld, "{store}");
        let queued = QueuedAttempts::listen();
        let [gone, next] = [0, 1].map(|_| {
            let lock = lock.clone();
            tokio::spawn(async move { lock.acquire().await.unwrap() })
        });
        queued.until(2).await;
        gone.abort();
        assert!(gone.await.unwrap_err().is_cancelled());
        guard.release().await.unwrap();
        let guard = tokio::time::timeout(Duration::from_secs(5), next).await.expect(store).unwrap();
        guard.release().await.unwrap();
        until("there is no waiter", async || lock.try_acquire().await.unwrap().is_some()).await;
    }
}

#[tokio::test]
async fn a_dropped_waiter_leaves_its_place_at_once() {
    let server = Server::start();
    let larder = own(&server, "s").await;
    // Longer than any wait here: when a lock expires, the next waiter checks which waiters are dead.
    let guard = larder.lock("gate").ttl(Duration::from_secs(3600)).acquire().await.unwrap();
    let queued = QueuedAttempts::listen();
    let gone = enqueue(&server, &larder, "gate", "s").await;
    let next = enqueue(&server, &larder, "gate", "s").await;
    // The replies have arrived, too: a request without a reply is cancelled in another way.
    queued.until(2).await;
    gone.abort();
    // While the lock is held, no other waiter checks which waiters are dead.
    until("one waits", async || waiting(&server, "s/gate") == 1).await;
    guard.release().await.unwrap();
    next.await.unwrap().release().await.unwrap();
}

#[tokio::test]
async fn cancelled_attempts_leave_no_lock_and_no_place_behind() {
    let server = Server::start();
    let larder = own(&server, "s").await;
    let attempts = std::env::var("LARDER_TEST_CANCELS").ok().and_then(|n| n.parse().ok()).unwrap_or(5_000u64);
    let lock = Arc::new(larder.lock("gate").ttl(Duration::from_secs(3600)));
    for attempt in 0..attempts {
        let max_wait = Duration::from_micros(attempt % 40 * 20);
        if attempt % 2 == 0 {
            let _ = tokio::time::timeout(max_wait, lock.acquire()).await;
        } else {
            let (one, other) = (lock.clone(), lock.clone());
            let both = async { tokio::join!(one.acquire(), other.acquire()) };
            let _ = tokio::time::timeout(max_wait, both).await;
        }
    }
    let guard =
        lock.acquire_within(Duration::from_secs(10)).await.expect("a cancelled attempt holds the lock");
    until("the queue is empty", async || waiting(&server, "s/gate") == 0).await;
    guard.release().await.unwrap();
    until("what is left is remembered for a while only", async || {
        let left: Vec<String> = server.query(&["KEYS", "~lock*"]);
        left.iter().all(|name| name.ends_with(":fence") || name.contains(":wake:"))
    })
    .await;
    let left: Vec<String> = server.query(&["KEYS", "~lock*"]);
    assert!(left.iter().all(|name| server.query::<i64>(&["PTTL", name]) != -1), "a key without an end");
}

#[tokio::test]
async fn after_a_server_lost_its_data_its_waiters_join_the_queue_again() {
    let server = Server::start();
    let space = namespace();
    let larder = own(&server, &space).await;
    let guard = larder.lock("gate").ttl(TTL).acquire().await.unwrap();
    let waiter = enqueue(&server, &larder, "gate", &space).await;
    server.command(&["FLUSHALL"]);
    server.command(&["SCRIPT", "FLUSH"]);
    let second = tokio::time::timeout(Duration::from_secs(5), waiter).await.expect("a stall").unwrap();
    assert!(second.fence() > guard.fence());
    assert_eq!(guard.release().await.unwrap(), ReleaseOutcome::AlreadyLost);
    second.release().await.unwrap();
}
