//! Lock groups: several locks in one command, all or none.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use larder::{ErrorKind, Larder};

use larder::lock::{GroupGuard, GroupLocks, ReleaseOutcome};
use larder_testkit::history::{Notebook, Notes};
use larder_testkit::worker::{self, Worker};
use larder_testkit::{Direction, Proxy, Server};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use support::waiting::QueuedAttempts;
use support::{connect_as, each_pair, each_store, namespace, until};
use tokio::task::JoinHandle;

const TTL: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_secs(30);

fn waits(locks: GroupLocks) -> JoinHandle<GroupGuard> {
    tokio::spawn(async move { locks.acquire().await.unwrap() })
}

async fn served(waiter: JoinHandle<GroupGuard>) -> GroupGuard {
    tokio::time::timeout(LONG, waiter).await.expect("a stall").unwrap()
}

#[tokio::test]
async fn a_waiter_that_sends_nothing_more_leaves_no_key_without_an_expiry() {
    let server = Server::builder().tcp().start();
    let proxy = Proxy::start(server.addr().unwrap()).await;
    let space = namespace();
    let (cut, well) = (connect_as(&proxy.url(), &space).await, connect_as(&server.url(), &space).await);
    let held = well.lock_group("g").locks(["a"]).ttl(TTL).acquire().await.unwrap();
    let waiter = waits(cut.lock_group("g").locks(["a", "b"]).ttl(TTL));
    until("it waits", async || {
        well.lock_group("g").holder("a").await.unwrap().is_some_and(|holder| holder.waiting == 1)
    })
    .await;
    proxy.silence(Direction::Both);
    assert_eq!(held.release().await.unwrap(), ReleaseOutcome::Released);
    let names: Vec<String> = server.query(&["KEYS", "*"]);
    assert!(names.len() >= 3, "the waiter has a claim: {names:?}");
    for name in names {
        assert_ne!(server.query::<i64>(&["PTTL", &name]), -1, "{name}");
    }
    waiter.abort();
}

#[tokio::test]
async fn locks_whose_holder_the_server_has_lost_are_free() {
    let space = namespace();
    let (server, larder) = (support::server(), connect_as(&support::server().url(), &space).await);
    let (group, key) = (larder.lock_group("g"), format!("~group.1:{{{space}/g}}"));
    let lost = group.locks(["a", "b"]).ttl(TTL).acquire().await.unwrap();
    assert_eq!(server.query::<i64>(&["DEL", &key]), 1);
    assert!(group.holder("a").await.unwrap().is_none());
    let next = group.locks(["b", "c"]).try_acquire().await.unwrap().expect("the lock is free");
    assert!(next.fence("b").unwrap() > lost.fence("b").unwrap());
    // Waiters get what is free, too.
    let queued = QueuedAttempts::listen();
    let waiter = waits(group.locks(["b"]).ttl(TTL));
    queued.until(1).await;
    assert_eq!(server.query::<i64>(&["DEL", &key]), 1);
    let served = served(waiter).await;
    assert!(served.fence("b").unwrap() > next.fence("b").unwrap());
    // The late release of a lost holder frees nothing of the next one.
    drop(next);
    assert_eq!(lost.release().await.unwrap(), ReleaseOutcome::AlreadyLost);
    assert!(group.locks(["b"]).try_acquire().await.unwrap().is_none());
    assert_eq!(served.release().await.unwrap(), ReleaseOutcome::Released);
}

#[tokio::test]
async fn the_keys_of_a_group_expire_together() {
    let server = Server::builder().tcp().start();
    let proxy = Proxy::start(server.addr().unwrap()).await;
    let (cut, well) = (connect_as(&proxy.url(), "k").await, connect_as(&server.url(), "k").await);
    let left = |names: &[&str]| {
        let left: Vec<i64> =
            names.iter().map(|name| server.query(&["PTTL", &format!("~group.1:{{k/g}}{name}")])).collect();
        let (least, most) = (*left.iter().min().unwrap(), *left.iter().max().unwrap());
        assert!(least > 0 && most - least < 5000, "{names:?}: {left:?}");
        least
    };
    let held = well.lock_group("g").locks(["a"]).ttl(LONG).acquire().await.unwrap();
    assert!(left(&["", ":state", ":fence"]) > 85_000);
    let waiter = waits(cut.lock_group("g").locks(["a"]).ttl(TTL));
    until("it waits", async || {
        well.lock_group("g").holder("a").await.unwrap().is_some_and(|holder| holder.waiting == 1)
    })
    .await;
    left(&["", ":state", ":line"]);
    proxy.silence(Direction::Both);
    held.release().await.unwrap();
    // The waiter has a claim that it never confirms.
    assert!(left(&["", ":state", ":line"]) > 60_000);
    let short = well.lock_group("g").locks(["b"]).ttl(Duration::from_secs(1)).acquire().await.unwrap();
    left(&["", ":state", ":line"]);
    waiter.abort();
    let next = well.lock_group("g").locks(["a"]).acquire_within(LONG).await.expect("a dead waiter has it");
    left(&["", ":state", ":fence"]);
    drop((short, next));
}

#[tokio::test]
async fn a_waiter_whose_process_is_long_dead_is_not_counted() {
    let server = Server::builder().tcp().start();
    let proxy = Proxy::start(server.addr().unwrap()).await;
    let (cut, well) = (connect_as(&proxy.url(), "k").await, connect_as(&server.url(), "k").await);
    let group = well.lock_group("g");
    let held = group.locks(["a"]).ttl(TTL).acquire().await.unwrap();
    let waiter = waits(cut.lock_group("g").locks(["a"]).ttl(TTL));
    let waiting = async || group.holder("a").await.unwrap().map(|holder| holder.waiting);
    until("it waits", async || waiting().await == Some(1)).await;
    proxy.silence(Direction::Both);
    until("it has lost its place", async || waiting().await == Some(0)).await;
    waiter.abort();
    drop(held);
}

#[tokio::test]
async fn all_are_held_or_none() {
    for (store, larder) in each_store().await {
        let order = larder.lock_group("order:7");
        let both = order.locks(["b", "a"]).ttl(TTL);
        let guard = both.acquire().await.unwrap();
        assert!(guard.is_valid() && guard.remaining() > TTL / 2, "{store}");
        assert!(guard.fence("a").is_some() && guard.fence("b").is_some() && guard.fence("c").is_none());
        for name in ["a", "b"] {
            assert!(order.locks([name]).try_acquire().await.unwrap().is_none(), "{store}: {name}");
            let holder = order.holder(name).await.unwrap().expect(store);
            assert_eq!(Some(holder.fence), guard.fence(name), "{store}");
            assert!(holder.process.ends_with(&std::process::id().to_string()), "{store}: {holder}");
            assert!(holder.remaining > TTL / 2 && holder.remaining <= TTL, "{store}: {holder}");
        }
        // Other locks: of the group, of another group, and without a group.
        drop(order.locks(["c"]).try_acquire().await.unwrap().expect(store));
        drop(larder.lock_group("order:8").locks(["a"]).try_acquire().await.unwrap().expect(store));
        drop(larder.lock("a").try_acquire().await.unwrap().expect(store));
        assert!(order.locks(["b", "c"]).try_acquire().await.unwrap().is_none(), "{store}");
        until("a set that is not free takes nothing", async || order.holder("c").await.unwrap().is_none())
            .await;
        let late = order.locks(["c", "b"]).acquire_within(Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(late.kind(), ErrorKind::LockHeld, "{store}: {late:?}");
        let first = guard.fence("a").unwrap();
        assert_eq!(guard.release().await.unwrap(), ReleaseOutcome::Released, "{store}");
        let guard = order.locks(["a", "b", "c"]).acquire().await.unwrap();
        assert!(guard.fence("a").unwrap() > first, "{store}");
        drop(guard);
        until("a dropped guard frees all", async || both.try_acquire().await.unwrap().is_some()).await;
    }
    let larder = support::connect("memory:").await;
    for names in [vec![], vec!["a", "a"], vec![""]] {
        let refused = larder.lock_group("g").locks(names).acquire().await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidSetting);
    }
}

#[tokio::test]
async fn the_error_of_a_group_names_the_group_its_locks_and_a_holder() {
    for (store, larder) in each_store().await {
        let order = larder.lock_group("order:7");
        let held = order.locks(["parcel"]).ttl(TTL).acquire().await.unwrap();
        let wanted = order.locks(["invoice", "parcel"]).ttl(TTL);
        let error = wanted.acquire_within(Duration::from_millis(30)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LockHeld, "{store}");
        let text = error.to_string();
        let by = format!("\"parcel\" is held by {}", order.holder("parcel").await.unwrap().unwrap().process);
        for part in ["order:7", "\"invoice\"", &by] {
            assert!(text.contains(part), "{store}: {part} is missing: {text}");
        }
        held.release().await.unwrap();
    }
}

#[tokio::test]
async fn of_two_attempts_with_a_lock_in_common_the_first_is_served_first() {
    for (store, larder) in each_store().await {
        let group = larder.lock_group("g");
        let locks = |names: &[&str]| group.locks(names.iter().copied()).ttl(TTL);
        let queued = QueuedAttempts::listen();
        let a = locks(&["a"]).acquire().await.unwrap();
        let ab = waits(locks(&["a", "b"]));
        queued.until(1).await;
        let bc = waits(locks(&["b", "c"]));
        queued.until(2).await;
        // The lock is free, and the first of the two waiters wants it.
        assert!(locks(&["b"]).try_acquire().await.unwrap().is_none(), "{store}");
        // A caller whose locks do not overlap with theirs does not wait.
        drop(locks(&["d", "e"]).try_acquire().await.unwrap().expect(store));
        assert_eq!(group.holder("a").await.unwrap().expect(store).waiting, 1, "{store}");
        assert!(!bc.is_finished(), "{store}");
        a.release().await.unwrap();
        let ab = served(ab).await;
        assert!(!bc.is_finished(), "{store}");
        let fence = ab.fence("b").unwrap();
        ab.release().await.unwrap();
        let bc = served(bc).await;
        assert!(bc.fence("b").unwrap() > fence, "{store}");
    }
}

#[tokio::test]
async fn the_locks_are_renewed_together_and_lost_together() {
    // What is renewed outlives a stall of a busy machine.
    let ttl = Duration::from_secs(3);
    let each = each_store().await.into_iter().map(async |(store, larder)| {
        let group = larder.lock_group("g");
        let guard = group.locks(["a", "b"]).ttl(ttl).acquire().await.unwrap();
        let began = Instant::now();
        while began.elapsed() < ttl + ttl / 4 {
            assert!(guard.is_valid(), "{store}: not renewed");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(group.holder("b").await.unwrap().is_some(), "{store}");
        drop(guard);
        let bounded = group.locks(["a", "b"]).ttl(ttl).max_hold(ttl).acquire().await.unwrap();
        tokio::time::timeout(LONG, bounded.lost()).await.expect(store);
        until("both are free", async || group.locks(["a", "b"]).try_acquire().await.unwrap().is_some()).await;
    });
    futures_util::future::join_all(each).await;
}

#[tokio::test]
async fn a_dropped_attempt_leaves_its_place() {
    for (store, here, there) in each_pair().await {
        let (here, there) = (here.lock_group("g"), there.lock_group("g"));
        let queued = QueuedAttempts::listen();
        let a = here.locks(["a"]).ttl(TTL).acquire().await.unwrap();
        let dropped = waits(here.locks(["a", "b"]));
        queued.until(1).await;
        assert!(there.locks(["b"]).try_acquire().await.unwrap().is_none(), "{store}");
        dropped.abort();
        until("its place is free", async || there.locks(["b"]).try_acquire().await.unwrap().is_some()).await;
        drop(a);
    }
}

/// The holder of each lock: never two at once.
struct Table(Vec<AtomicU64>);

impl Table {
    fn enter(&self, names: &[usize], who: u64) {
        for name in names {
            let before = self.0[*name].swap(who, Ordering::SeqCst);
            assert_eq!(before, 0, "{before} and {who} hold lock {name}");
        }
    }

    fn leave(&self, names: &[usize], who: u64) {
        for name in names {
            assert_eq!(self.0[*name].swap(0, Ordering::SeqCst), who);
        }
    }
}

/// Takes random sets of five locks, `count` times; holds each for a moment.
async fn contend(larder: Larder, table: Arc<Table>, who: u64, seed: u64, count: u32) {
    let mut random = StdRng::seed_from_u64(seed);
    let group = larder.lock_group("g");
    for _ in 0..count {
        let names: Vec<usize> = (0..5).filter(|_| random.random_bool(0.4)).collect();
        if names.is_empty() {
            continue;
        }
        let guard = group.locks(names.iter().map(|name| format!("lock-{name}"))).ttl(TTL).acquire().await;
        let guard = guard.unwrap();
        table.enter(&names, who);
        if random.random_bool(0.3) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        table.leave(&names, who);
        guard.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_overlapping_sets_cause_no_deadlock_and_no_two_holders() {
    let rounds = std::env::var("LARDER_TEST_GROUPS").ok().and_then(|n| n.parse().ok()).unwrap_or(40);
    for (store, url) in [("memory", "memory:".to_owned()), ("server", support::server().url())] {
        let table = Arc::new(Table((0..5).map(|_| AtomicU64::new(0)).collect()));
        let namespace = support::namespace();
        let mut tasks = Vec::new();
        let shared = connect_as(&url, &namespace).await;
        for process in 0..5 {
            // As in separate processes, each has its own connections.
            let larder = if store == "memory" { shared.clone() } else { connect_as(&url, &namespace).await };
            for task in 0..4 {
                let who = process * 4 + task + 1;
                tasks.push(tokio::spawn(contend(larder.clone(), table.clone(), who, who, rounds)));
            }
        }
        let began = Instant::now();
        let all = futures_util::future::join_all(tasks);
        let limit = LONG + Duration::from_millis(20) * 20 * rounds;
        for ended in tokio::time::timeout(limit, all).await.expect("a deadlock") {
            ended.expect(store);
        }
        println!("{store}: {:?}", began.elapsed());
    }
}

/// A worker: takes random sets, and writes down when each lock was held.
fn contend_in_worker() {
    let number = |name: &str| std::env::var(name).unwrap().parse::<u64>().unwrap();
    let (url, folder) = (std::env::var("GROUPS_URL").unwrap(), std::env::var("GROUPS_FOLDER").unwrap());
    let (process, rounds) = (number("GROUPS_PROCESS"), number("GROUPS_ROUNDS"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let larder = connect_as(&url, "processes").await;
        let notes =
            Arc::new(Notebook::create(Path::new(&folder), u32::try_from(process).unwrap(), 0).unwrap());
        let mut tasks = Vec::new();
        for task in 0..3 {
            let (larder, notes) = (larder.clone(), notes.clone());
            tasks.push(tokio::spawn(async move {
                let mut random = StdRng::seed_from_u64(process * 100 + task);
                let group = larder.lock_group("g");
                for _ in 0..rounds {
                    let held: Vec<u64> = (0..6).filter(|_| random.random_bool(0.35)).collect();
                    if held.is_empty() {
                        continue;
                    }
                    let names = held.iter().map(|name| format!("lock-{name}"));
                    let guard = group.locks(names).ttl(TTL).acquire().await.unwrap();
                    let from = notes.now();
                    if random.random_bool(0.3) {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    // A machine that stalls may lose the guard: then only the moment of the grant counts.
                    let until = if guard.is_valid() { notes.now() } else { from };
                    for name in held {
                        let fence = guard.fence(&format!("lock-{name}")).unwrap().get();
                        notes.note("held", &[name, from, until, fence]).unwrap();
                    }
                    guard.release().await.unwrap();
                }
            }));
        }
        for ended in futures_util::future::join_all(tasks).await {
            ended.unwrap();
        }
    });
    worker::send_line("done");
}

/// Five processes; LARDER_TEST_GROUPS sets how many sets each of their tasks takes.
#[test]
fn processes_that_take_random_overlapping_sets_cause_no_deadlock_and_no_two_holders() {
    if worker::role().is_some() {
        return contend_in_worker();
    }
    let test = "processes_that_take_random_overlapping_sets_cause_no_deadlock_and_no_two_holders";
    let rounds: u64 = std::env::var("LARDER_TEST_GROUPS").ok().and_then(|n| n.parse().ok()).unwrap_or(40);
    let server = Server::start();
    let folder = server.folder().join("notes");
    std::fs::create_dir_all(&folder).unwrap();
    let (url, folder_name) = (server.url(), folder.to_str().unwrap().to_owned());
    let workers: Vec<Worker> = (0..5)
        .map(|process: u64| {
            let (process, rounds) = (process.to_string(), rounds.to_string());
            let envs = [
                ("GROUPS_URL", &*url),
                ("GROUPS_FOLDER", &*folder_name),
                ("GROUPS_PROCESS", &*process),
                ("GROUPS_ROUNDS", &*rounds),
            ];
            Worker::spawn(test, "contend", &envs)
        })
        .collect();
    let limit = 4 * LONG + Duration::from_millis(100) * u32::try_from(15 * rounds).unwrap();
    for one in &workers {
        assert_eq!(one.read_line(limit).expect("a deadlock"), "done");
        assert!(one.wait(LONG).unwrap().success(), "{}", one.log());
    }
    let notes = Notes::read(&folder).unwrap();
    let mut sets = 0;
    for lock in 0..6 {
        // From, until, and the fence: by their order no two overlap, and the fences increase.
        let of_lock = notes.of("held").iter().filter(|note| note.numbers[0] == lock);
        let mut held: Vec<[u64; 3]> =
            of_lock.map(|note| [note.numbers[1], note.numbers[2], note.numbers[3]]).collect();
        held.sort_unstable();
        sets += held.len();
        for two in held.windows(2) {
            assert!(two[0][1] <= two[1][0], "lock {lock} has two holders: {two:?}");
            assert!(two[0][2] < two[1][2], "fences of lock {lock} do not increase: {two:?}");
        }
    }
    assert!(sets as u64 > 15 * rounds, "only {sets} locks were held");
}
