//! Operations on a lock apart from holding it: ask for the holder, hand it over, break it, run under it if it is free.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use larder::lock::{Fence, Guard, JobRun, LockTicket, ReleaseOutcome};
use larder::{ErrorKind, Quota};
use larder_testkit::{Direction, Proxy, Server};
use support::waiting::QueuedAttempts;
use support::{connect_as, each_pair, each_store, namespace, server, until};

const TTL: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_secs(20);

fn begun() {
    panic!("the lock is held")
}

fn this_process(name: &str) -> bool {
    name.ends_with(&format!(":{}", std::process::id()))
}

#[tokio::test]
async fn a_holder_is_named_with_its_fence_its_time_and_its_waiters() {
    for (store, larder) in each_store().await {
        let lock = larder.lock("gate").ttl(TTL);
        assert_eq!(lock.holder().await.unwrap(), None, "{store}");
        let guard = lock.acquire().await.unwrap();
        let holder = lock.holder().await.unwrap().expect(store);
        assert!(this_process(&holder.process), "{store}: {holder:?}");
        assert_eq!((holder.fence, holder.waiting), (guard.fence(), 0), "{store}");
        assert!(holder.remaining > TTL / 2 && holder.remaining <= TTL, "{holder:?}");

        let queued = QueuedAttempts::listen();
        let waiter = tokio::spawn({
            let lock = lock.clone();
            async move { lock.acquire().await.unwrap() }
        });
        queued.until(1).await;
        assert_eq!(lock.holder().await.unwrap().unwrap().waiting, 1, "{store}");
        guard.release().await.unwrap();
        let guard = tokio::time::timeout(LONG, waiter).await.expect(store).unwrap();
        let holder = lock.holder().await.unwrap().expect(store);
        assert_eq!((holder.fence, holder.waiting), (guard.fence(), 0), "{store}");
        assert!(this_process(&holder.process), "{store}: handed over to {holder:?}");
        guard.release().await.unwrap();
        assert_eq!(lock.holder().await.unwrap(), None, "{store}");
    }
}

#[tokio::test]
async fn a_name_is_text_of_any_type() {
    for (store, larder) in each_store().await {
        let (owned, shared): (String, Arc<str>) = (format!("cart-{}", 7), "cart-7".into());
        let guard = larder.lock(owned.clone()).acquire().await.unwrap();
        for lock in [larder.lock(&owned), larder.lock(shared.clone()), larder.lock("cart-7")] {
            assert!(lock.try_acquire().await.unwrap().is_none(), "{store}: another lock");
        }
        guard.release().await.unwrap();

        larder.cache::<String>(owned.clone()).ttl(TTL).build().unwrap().set("a", &owned).await.unwrap();
        let read = larder.cache::<String>(&owned).build().unwrap().get("a").await.unwrap();
        assert_eq!(read.as_ref(), Some(&owned), "{store}");
        let limiter = larder.rate_limiter(owned.clone(), Quota::per_hour(1)).unwrap();
        assert_eq!(limiter.name(), "cart-7");

        larder.lock_group(owned.clone()).locks([&owned]).acquire().await.unwrap().release().await.unwrap();
        larder.locks([owned.clone()]).acquire().await.unwrap().release().await.unwrap();
        larder.rw_lock(owned.clone()).read().await.unwrap().release().await.unwrap();
        larder.election(owned.clone()).campaign().await.unwrap().resign().await.unwrap();
        larder.semaphore(owned.clone(), 1).acquire().await.unwrap().release().await.unwrap();
        let run = larder.job(owned).every(TTL).run(async |_| Ok::<_, String>(7)).await.unwrap();
        assert!(matches!(run, JobRun::Ran(Ok(7))), "{store}: {run:?}");
    }
}

#[tokio::test]
async fn errors_of_locks_name_the_lock_and_its_holder() {
    for (store, larder) in each_store().await {
        let lock = larder.lock("gate").ttl(TTL);
        let guard = lock.acquire().await.unwrap();
        let held = lock.acquire_within(Duration::from_millis(20)).await.unwrap_err();
        assert_eq!(held.kind(), ErrorKind::LockHeld, "{store}");
        let message = held.to_string();
        let fence = format!("with fence {}", guard.fence());
        assert!(
            message.contains("gate\"") && message.contains("20ms by ") && message.contains(&fence),
            "{message}"
        );
        assert!(lock.break_if(guard.fence()).await.unwrap());
        let lost = guard.extend(TTL).await.unwrap_err();
        assert_eq!(lost.kind(), ErrorKind::LockLost, "{store}");
        assert!(lost.to_string().contains("gate\" has expired"), "{lost}");
        // The holder that the server names when it reports the loss, and not the one at a later time.
        let (broken, ticket) = (lock.acquire().await.unwrap(), lock.acquire());
        let fence = broken.fence();
        let (ticket, _) = tokio::join!(ticket, async {
            until("it waits", async || lock.holder().await.unwrap().is_some_and(|by| by.waiting == 1)).await;
            assert!(lock.break_if(fence).await.unwrap(), "{store}");
        });
        let ticket = ticket.unwrap().into_ticket().unwrap();
        let to = |error: larder::Error, fence: Fence| {
            let (kind, message) = (error.kind(), error.to_string());
            assert_eq!(kind, ErrorKind::LockLost, "{store}");
            let (name, by) = ("gate\" was lost and is held by ", format!(" with fence {fence}, for "));
            assert!(message.contains(name) && message.contains(&by), "{store}: {message}");
        };
        to(broken.extend(TTL).await.unwrap_err(), ticket.fence());
        assert!(lock.break_if(ticket.fence()).await.unwrap());
        let last = lock.acquire().await.unwrap();
        to(broken.into_ticket().unwrap_err(), ticket.fence());
        to(lock.adopt(&ticket).await.unwrap_err(), last.fence());
        last.release().await.unwrap();
        let hold = lock.clone().max_hold(Duration::from_secs(1)).keep_alive().acquire().await.unwrap_err();
        assert!(hold.to_string().contains("max_hold (1s) is shorter than the time to live (20s)"), "{hold}");
    }
}

#[tokio::test]
async fn a_broken_lock_goes_to_the_next_waiter_and_its_guard_learns_it_at_the_next_renewal() {
    for (store, larder) in each_store().await {
        // Renewed every 2 s, and lost after 6.
        let lock = larder.lock("gate").ttl(Duration::from_secs(6));
        let hung = lock.clone().keep_alive().acquire().await.unwrap();
        let queued = QueuedAttempts::listen();
        let waiter = tokio::spawn({
            let lock = lock.clone();
            async move { lock.acquire().await.unwrap() }
        });
        queued.until(1).await;
        let another = Fence::new(hung.fence().get() - 1);
        assert!(!lock.break_if(another).await.unwrap(), "{store}");
        assert!(lock.break_if(hung.fence()).await.unwrap(), "{store}");
        let next = tokio::time::timeout(LONG, waiter).await.expect(store).unwrap();
        assert!(next.fence() > hung.fence(), "{store}");
        assert!(hung.is_valid(), "{store}: nothing has notified it so far");
        let remaining = hung.remaining();
        let began = tokio::time::Instant::now();
        hung.lost().await;
        assert!(began.elapsed() < remaining, "{store}: lost only at its deadline");
        // The renewal that reported the loss named the next holder.
        let lost = hung.extend(TTL).await.unwrap_err().to_string();
        assert!(lost.contains(&format!("with fence {}, for ", next.fence())), "{store}: {lost}");
        assert_eq!(hung.release().await.unwrap(), ReleaseOutcome::AlreadyLost, "{store}");
        assert!(!lock.break_if(another).await.unwrap(), "{store}: the holder is another");
        assert_eq!(next.release().await.unwrap(), ReleaseOutcome::Released, "{store}");
        assert!(!lock.break_if(Fence::new(1)).await.unwrap(), "{store}: there is no holder");
    }
}

#[tokio::test]
async fn a_lock_is_handed_over_as_a_ticket_with_its_fence() {
    let hand_over = async |store: &str, guard: Guard, there: &larder::Larder| {
        let fence = guard.fence();
        let lease = guard.handle();
        let ticket = guard.into_ticket().unwrap();
        assert!(!lease.is_valid(), "{store}");
        let sent = serde_json::to_string(&ticket).unwrap();
        // A reader may store each number as a double.
        let fields: serde_json::Value = serde_json::from_str(&sent).unwrap();
        let token = fields["token"].as_str().expect("a number loses digits");
        assert!(token.len() == 16 && token.chars().all(|digit| digit.is_ascii_hexdigit()), "{token}");
        assert!(fields["fence"].as_u64().unwrap() < 1 << 53);
        let ticket: LockTicket = serde_json::from_str(&sent).unwrap();
        assert!(!format!("{ticket:?}").contains("token"), "{store}: it is a secret");
        let lock = there.lock("gate").ttl(TTL).keep_alive();
        assert!(lock.try_acquire().await.unwrap().is_none(), "{store}: it is held");
        let wrong = there.lock("other").adopt(&ticket).await.unwrap_err();
        assert_eq!(wrong.kind(), ErrorKind::InvalidSetting);
        let guard = lock.adopt(&ticket).await.unwrap();
        assert_eq!((guard.fence(), ticket.fence()), (fence, fence), "{store}");
        assert!(guard.remaining() > TTL / 2);
        assert_eq!(guard.release().await.unwrap(), ReleaseOutcome::Released, "{store}");
        assert_eq!(lock.adopt(&ticket).await.unwrap_err().kind(), ErrorKind::LockLost, "{store}: it is over");
    };
    for (store, here, there) in each_pair().await {
        hand_over(store, here.lock("gate").ttl(TTL).keep_alive().acquire().await.unwrap(), &there).await;
    }
    let larder = support::connect("memory:").await;
    let guard = larder.lock("gate").ttl(TTL).acquire().await.unwrap();
    hand_over("memory", guard, &larder).await;
}

#[tokio::test]
async fn a_ticket_whose_adoption_is_answered_too_late_leaves_the_lock_free() {
    let server = Server::builder().tcp().start();
    let proxy = Proxy::start(server.addr().unwrap()).await;
    let space = namespace();
    let (slow, well) = (connect_as(&proxy.url(), &space).await, connect_as(&server.url(), &space).await);
    let ttl = Duration::from_secs(3600);
    let ticket = well.lock("gate").ttl(ttl).acquire().await.unwrap().into_ticket().unwrap();
    proxy.delay(Direction::Both, Duration::from_millis(100));
    let late = slow.lock("gate").ttl(Duration::from_millis(50)).adopt(&ticket).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::LockLost, "{late}");
    until("it is free", async || well.lock("gate").try_acquire().await.unwrap().is_some()).await;
}

#[tokio::test]
async fn what_is_renewed_keeps_its_fence_and_its_holder() {
    const SHORT: &str = "20000";
    let ttl = Duration::from_secs(3);
    let (server, space) = (server(), namespace());
    let larder = connect_as(&server.url(), &space).await;
    let fence_of = |kind: &str, name: &str| format!("~{kind}:{{{space}/{name}}}:fence");
    let left = |fence: &str| server.query::<i64>(&["PTTL", fence]);
    // As if the time had passed since the grant.
    let shorten = |fence: &str| assert_eq!(server.query::<i64>(&["PEXPIRE", fence, SHORT]), 1, "{fence}");
    let renewed = async |fence: &str| until(fence, async || left(fence) > 60_000).await;

    let lock = larder.lock("lock").ttl(ttl);
    let guard = lock.clone().keep_alive().acquire().await.unwrap();
    let fence = fence_of("lock.2", "lock");
    shorten(&fence);
    renewed(&fence).await;
    let holder = lock.holder().await.unwrap().unwrap();
    assert!(this_process(&holder.process) && holder.fence == guard.fence(), "{holder:?}");
    assert!(lock.break_if(guard.fence()).await.unwrap());

    let extended = larder.lock("extended").ttl(ttl).acquire().await.unwrap();
    let fence = fence_of("lock.2", "extended");
    shorten(&fence);
    extended.extend(10 * ttl).await.unwrap();
    assert!(left(&fence) > 60_000 + 9 * 3000, "{}", left(&fence));
    // A renewal for less shortens nothing.
    extended.extend(ttl).await.unwrap();
    assert!(left(&fence) > 60_000 + 9 * 3000, "{}", left(&fence));

    let election = larder.election("scheduler").ttl(ttl).value("10.0.0.7");
    let leadership = election.campaign().await.unwrap();
    let fence = fence_of("election.2", "scheduler");
    shorten(&fence);
    renewed(&fence).await;
    let leader = election.leader().await.unwrap().unwrap();
    assert_eq!((leader.value.as_str(), leader.fence), ("10.0.0.7", leadership.fence()));

    let group = larder.lock_group("order");
    let held = group.locks(["a", "b"]).ttl(ttl).acquire().await.unwrap();
    let fence = fence_of("group.1", "order");
    shorten(&fence);
    renewed(&fence).await;
    // One lock's short time does not shorten the memory of a fence of another one.
    let long = group.locks(["c"]).ttl(100 * ttl).acquire().await.unwrap();
    drop(group.locks(["d"]).ttl(ttl).acquire().await.unwrap());
    assert!(left(&fence) > 60_000 + 99 * 3000, "{}", left(&fence));
    assert_eq!(group.holder("a").await.unwrap().unwrap().fence, held.fence("a").unwrap());
    drop((long, held));

    let job = larder.job("nightly").ttl(ttl);
    let fence = format!("~job.1:{{{space}/nightly}}:lock:fence");
    let ran = job.run_slot("a", async |lease| {
        shorten(&fence);
        renewed(&fence).await;
        let last = server.query::<String>(&["GET", &fence]);
        assert!(last.starts_with(&lease.fence().to_string()), "{last}");
        Ok::<_, String>(())
    });
    assert_eq!(ran.await.unwrap(), larder::lock::JobRun::Ran(Ok(())));

    let rw = larder.rw_lock("catalogue").ttl(ttl);
    let write = rw.write().await.unwrap();
    let number = format!("~rwlock.1:{{{space}/catalogue}}:number");
    shorten(&number);
    renewed(&number).await;
    let last = server.query::<u64>(&["HGET", &number, "fence"]);
    assert_eq!(last, write.fence().get());
}

#[tokio::test]
async fn a_body_runs_if_the_lock_is_free_or_becomes_free_in_time() {
    for (store, larder) in each_store().await {
        let lock = larder.lock("gate").ttl(TTL);
        assert_eq!(lock.try_run(async |lease| lease.is_valid()).await.unwrap(), Some(true), "{store}");
        let guard = lock.acquire().await.unwrap();
        let not_begun = async |_: larder::lock::LockHandle| begun();
        assert_eq!(lock.try_run(not_begun).await.unwrap(), None::<()>, "{store}");
        let late = lock.run_within(Duration::from_millis(20), not_begun).await.unwrap_err();
        assert_eq!(late.kind(), ErrorKind::LockHeld, "{store}");
        guard.release().await.unwrap();
        assert_eq!(lock.run_within(LONG, async |_| 7).await.unwrap(), 7, "{store}");
        until("it is free again", async || lock.holder().await.unwrap().is_none()).await;
    }
}

#[test]
fn a_fence_is_a_plain_number_in_serde() {
    let fence = Fence::new(1_700_000_000_000_000);
    assert_eq!(serde_json::to_string(&fence).unwrap(), "1700000000000000");
    assert_eq!(serde_json::from_str::<Fence>("1700000000000000").unwrap(), fence);
}
