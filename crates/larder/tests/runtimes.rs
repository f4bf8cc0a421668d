//! Runtimes that end, runtimes that are blocked or not polled, and threads without a runtime: the background work of a
//! `Larder` goes on, and calls recover at once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::convert::Infallible;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use larder::Larder;

use larder::lock::{Guard, SemaphorePermit};
use larder_testkit::Server;
use support::{connect_as, namespace, patient, server};
use tokio::runtime::{Builder, Runtime};

/// Long enough that a busy machine renews in time, and short enough to wait for several renewals.
const TTL: Duration = Duration::from_millis(2500);
/// A lock that is still held this long after its grant was renewed.
const RENEWED: Duration = Duration::from_millis(5400);
const LONG: Duration = Duration::from_secs(60);

fn current() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn multi(workers: usize) -> Runtime {
    Builder::new_multi_thread().worker_threads(workers).enable_all().build().unwrap()
}

/// A `Larder` on `memory:` and one on a server, created on `runtime`.
fn each_on(runtime: &Runtime) -> Vec<(&'static str, Larder)> {
    let urls = [("memory", "memory:".to_owned()), ("server", server().url())];
    urls.map(|(store, url)| (store, runtime.block_on(connect_as(&url, &namespace())))).into()
}

/// Runs `work` on a thread with its own runtime, which ends at once afterwards.
fn on_a_ghost<F: Future<Output = ()>>(work: impl FnOnce() -> F + Send + 'static) {
    thread::spawn(move || current().block_on(work())).join().unwrap();
}

async fn kept(larder: &Larder, name: &str) -> Guard {
    larder.lock(name).ttl(TTL).keep_alive().acquire().await.unwrap()
}

async fn outlives_its_time(store: &str, guard: &Guard) {
    let lost = tokio::time::timeout(RENEWED, guard.lost()).await;
    assert!(lost.is_err() && guard.is_valid(), "{store}: a kept lock was lost");
}

// ---- Runtimes that end ----------------------------------------------------------------------------------------------

#[test]
fn locks_are_kept_though_a_runtime_that_took_one_ended_before_any_renewal_began() {
    for how in ["drop", "release", "run"] {
        let runtime = multi(2);
        for (store, larder) in each_on(&runtime) {
            let ghost = larder.clone();
            on_a_ghost(move || async move {
                let lock = ghost.lock("ghost").ttl(TTL).keep_alive();
                match how {
                    "drop" => drop(lock.try_acquire().await.unwrap().unwrap()),
                    "release" => drop(lock.try_acquire().await.unwrap().unwrap().release().await.unwrap()),
                    _ => lock.run(|_| async {}).await.unwrap(),
                }
            });
            runtime.block_on(async {
                let guard = kept(&larder, "main").await;
                outlives_its_time(store, &guard).await;
            });
        }
    }
}

#[test]
fn permits_are_renewed_though_a_runtime_that_took_one_ended_before_any_renewal_began() {
    let runtime = multi(2);
    for (store, larder) in each_on(&runtime) {
        let ghost = larder.clone();
        on_a_ghost(move || async move { drop(ghost.semaphore("ghost", 1).try_acquire().await) });
        runtime.block_on(async {
            let semaphore = larder.semaphore("main", 1).ttl(TTL);
            let permit: SemaphorePermit = semaphore.acquire().await.unwrap();
            assert!(
                tokio::time::timeout(RENEWED, permit.lost()).await.is_err(),
                "{store}: a permit was lost"
            );
            assert!(semaphore.try_acquire().await.unwrap().is_none(), "{store}: two permits of one");
        });
    }
}

#[test]
fn waiters_keep_their_places_though_a_runtime_that_waited_ended_before_any_heartbeat() {
    let runtime = multi(2);
    for (store, larder) in each_on(&runtime) {
        let held = runtime.block_on(larder.lock("busy").ttl(LONG).acquire()).unwrap();
        let ghost = larder.clone();
        on_a_ghost(move || async move {
            ghost.lock("busy").acquire_within(Duration::ZERO).await.unwrap_err();
        });
        runtime.block_on(async {
            let before = larder.stats().locks.heartbeats;
            let waiter = tokio::spawn({
                let lock = larder.lock("busy");
                async move { lock.acquire().await.map(drop) }
            });
            support::until("it is alive", async || larder.stats().locks.heartbeats >= before + 3).await;
            held.release().await.unwrap();
            tokio::time::timeout(Duration::from_secs(10), waiter).await.expect(store).unwrap().unwrap();
        });
    }
}

/// Returns once every task spawned on this current-thread runtime, and every task that those spawned, has been polled.
async fn all_begins() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

#[test]
fn locks_are_kept_when_the_runtime_that_took_the_first_ends() {
    let runtime = multi(2);
    for (store, larder) in each_on(&runtime) {
        let (taken, wait) = mpsc::channel();
        let (end, ends) = mpsc::channel::<()>();
        let job = thread::spawn({
            let larder = larder.clone();
            move || {
                let job = current();
                let guard = job.block_on(async {
                    let guard = kept(&larder, "job").await;
                    all_begins().await;
                    guard
                });
                taken.send(()).unwrap();
                ends.recv().unwrap();
                drop((guard, job));
            }
        });
        wait.recv().unwrap();
        runtime.block_on(async {
            let guard = kept(&larder, "main").await;
            end.send(()).unwrap();
            tokio::task::spawn_blocking(move || job.join().unwrap()).await.unwrap();
            outlives_its_time(store, &guard).await;
        });
    }
}

#[test]
fn after_the_runtime_that_connected_has_ended_calls_recover_at_once() {
    for url in [server().url(), support::cluster().url()] {
        let (first, second) = (current(), current());
        let builder = patient().url(&url).namespace(namespace());
        let larder = first.block_on(builder.connect()).unwrap();
        let guard = first.block_on(larder.lock("a").ttl(LONG).acquire()).unwrap();
        drop(first);
        let began = Instant::now();
        second.block_on(async {
            let cache = larder.cache::<u32>("n").ttl(LONG).build().unwrap();
            // Requests that may be sent twice succeed, and so do requests that must not be.
            cache.set("a", &1).await.unwrap();
            assert_eq!(cache.get("a").await.unwrap(), Some(1));
            larder.ping().await.unwrap();
            assert!(larder.lock("b").try_acquire().await.unwrap().is_some());
            guard.release().await.unwrap();
        });
        assert!(began.elapsed() < Duration::from_secs(2), "{url}: {:?}", began.elapsed());
    }
}

#[test]
fn if_the_runtime_that_connected_is_not_polled_calls_of_others_are_answered_again() {
    let (idle, other) = (current(), current());
    let builder = Larder::builder().url(server().url()).namespace(namespace());
    let larder = idle.block_on(builder.response_timeout(Duration::from_millis(300)).connect()).unwrap();
    other.block_on(async {
        support::until("it is answered", async || larder.ping().await.is_ok()).await;
        // And it stays so, for longer than the link waits for a heartbeat: this time must pass.
        for _ in 0..20 {
            larder.ping().await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    drop(idle);
}

// ---- Runtimes that are blocked --------------------------------------------------------------------------------------

#[test]
fn locks_are_kept_while_the_runtime_that_took_the_first_computes() {
    let runtime = multi(2);
    let larder = runtime.block_on(connect_as(&server().url(), &namespace()));
    let (taken, wait) = mpsc::channel();
    let job = thread::spawn({
        let larder = larder.clone();
        move || {
            current().block_on(async {
                let _guard = kept(&larder, "job").await;
                all_begins().await;
                taken.send(()).unwrap();
                thread::sleep(RENEWED + TTL);
            });
        }
    });
    wait.recv().unwrap();
    runtime.block_on(async {
        let guard = kept(&larder, "main").await;
        outlives_its_time("server", &guard).await;
    });
    job.join().unwrap();
}

#[test]
fn a_task_that_takes_a_kept_lock_and_then_computes_keeps_it_and_costs_others_none() {
    let runtime = multi(4);
    runtime.block_on(async {
        let larder = connect_as(&server().url(), &namespace()).await;
        let mut held = Vec::new();
        for number in 0..50 {
            held.push(kept(&larder, &format!("held-{number}")).await);
        }
        for run in [false, true] {
            let lock = larder.lock("own").ttl(TTL);
            let task = tokio::spawn(async move {
                let compute = || thread::sleep(RENEWED);
                if run {
                    return lock
                        .run(|lease| async move {
                            compute();
                            lease.is_valid()
                        })
                        .await
                        .unwrap();
                }
                let guard = lock.keep_alive().acquire().await.unwrap();
                compute();
                guard.is_valid()
            });
            assert!(task.await.unwrap(), "run {run}: its own lock was lost");
            let lost = held.iter().filter(|guard| !guard.is_valid()).count();
            assert_eq!(lost, 0, "run {run}: locks of others were lost");
        }
    });
}

#[test]
fn on_one_thread_that_computes_locks_are_kept_too() {
    current().block_on(async {
        let larder = connect_as(&server().url(), &namespace()).await;
        let guard = kept(&larder, "main").await;
        thread::sleep(RENEWED);
        assert!(guard.is_valid(), "a kept lock was lost");
        guard.release().await.unwrap();
    });
}

// ---- Threads without a runtime --------------------------------------------------------------------------------------

#[test]
fn what_is_dropped_on_a_plain_thread_is_freed_at_once() {
    let runtime = multi(2);
    for (store, larder) in each_on(&runtime) {
        for keep in [false, true] {
            let lock = larder.lock("t").ttl(LONG);
            let guard = runtime.block_on(if keep { lock.keep_alive() } else { lock }.acquire()).unwrap();
            thread::spawn(move || drop(guard)).join().unwrap();
            let next = runtime.block_on(larder.lock("t").acquire_within(Duration::from_secs(10)));
            drop(next.expect(store));
        }
        let permit = runtime.block_on(larder.semaphore("s", 1).ttl(LONG).acquire()).unwrap();
        thread::spawn(move || drop(permit)).join().unwrap();
        let next = runtime.block_on(larder.semaphore("s", 1).acquire_within(Duration::from_secs(10)));
        drop(next.expect(store));
    }
}

#[test]
fn in_the_embedded_store_what_is_dropped_where_no_runtime_is_left_is_freed() {
    let runtime = current();
    let larder = runtime.block_on(connect_as("memory:", &namespace()));
    let (guard, group, permit) = runtime.block_on(async {
        let guard = larder.lock("t").ttl(LONG).acquire().await.unwrap();
        let group = larder.lock_group("g").locks(["a"]).ttl(LONG).acquire().await.unwrap();
        (guard, group, larder.semaphore("s", 1).ttl(LONG).acquire().await.unwrap())
    });
    drop(runtime);
    drop((guard, group, permit));
    current().block_on(async {
        assert!(larder.lock("t").try_acquire().await.unwrap().is_some(), "a lock");
        assert!(larder.lock_group("g").locks(["a"]).try_acquire().await.unwrap().is_some(), "a group");
        assert!(larder.semaphore("s", 1).try_acquire().await.unwrap().is_some(), "a permit");
    });
}

#[test]
fn a_guard_in_a_task_that_goes_down_with_its_runtime_is_freed() {
    let watching = multi(1);
    for (store, larder) in each_on(&watching) {
        let ends = multi(1);
        ends.block_on(async {
            let guard = larder.lock("t").ttl(LONG).acquire().await.unwrap();
            let (begin, begun) = tokio::sync::oneshot::channel();
            tokio::spawn(async move {
                let _guard = guard;
                begin.send(()).unwrap();
                std::future::pending::<()>().await;
            });
            begun.await.unwrap();
        });
        drop(ends);
        let next = watching.block_on(larder.lock("t").acquire_within(Duration::from_secs(10)));
        drop(next.expect(store));
    }
}

// ---- The thread -----------------------------------------------------------------------------------------------------

/// How many threads of this process belong to a `Larder`.
#[cfg(target_os = "linux")]
fn threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok());
    names.filter(|name| name.trim() == "larder").count()
}

/// Whether this process runs the named test alone, because other tests have threads too. If not, starts one that does.
#[cfg(target_os = "linux")]
fn alone(test: &str) -> bool {
    const ALONE: &str = "LARDER_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let alone = std::process::Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(ALONE, "1")
        .status();
    assert!(alone.unwrap().success());
    false
}

#[cfg(target_os = "linux")]
#[test]
fn the_thread_ends_with_the_last_handle_though_an_invalidation_cannot_be_sent() {
    if !alone("the_thread_ends_with_the_last_handle_though_an_invalidation_cannot_be_sent") {
        return;
    }
    multi(2).block_on(async {
        for hangs in [true, false] {
            let server = Server::start();
            let builder = patient().url(server.url()).response_timeout(Duration::from_secs(1));
            let larder = builder.connect().await.unwrap();
            let cache = larder.cache::<u32>("n").ttl(LONG).build().unwrap();
            cache.set("a", &1).await.unwrap();
            if hangs {
                server.pause();
            } else {
                server.kill();
            }
            cache.delete("a").await.unwrap_err();
            assert_eq!((larder.stats().invalidations.waiting, threads()), (1, 1));
            drop((larder, cache));
            support::until("the thread has ended", async || threads() == 0).await;
            if hangs {
                server.resume();
                support::until("no connection is left", async || connections(&server).is_empty()).await;
            }
        }
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_larder_has_one_thread_that_ends_with_its_last_handle_or_with_close() {
    if !alone("a_larder_has_one_thread_that_ends_with_its_last_handle_or_with_close") {
        return;
    }
    let runtime = multi(2);
    runtime.block_on(async {
        let memory = connect_as("memory:", &namespace()).await;
        drop(kept(&memory, "a").await);
        assert_eq!(threads(), 0, "memory: needs none");

        let builder = patient().url(server().url()).coordination(server().url()).namespace(namespace());
        let larder = builder.connect().await.unwrap();
        let guard = kept(&larder, "a").await;
        let cache = larder.cache::<u32>("n").ttl(LONG).build().unwrap();
        cache.set("a", &1).await.unwrap();
        assert_eq!(threads(), 1);
        drop(larder);
        assert!(guard.is_valid() && cache.get("a").await.unwrap() == Some(1));
        assert_eq!(threads(), 1);
        drop((guard, cache));
        support::until("the thread has ended", async || threads() == 0).await;

        let larder = connect_as(&server().url(), &namespace()).await;
        let guard = kept(&larder, "a").await;
        larder.close().await.unwrap();
        assert_eq!(threads(), 0, "close has not waited for the thread");
        drop((guard, larder));
    });
}

// ---- Loads ----------------------------------------------------------------------------------------------------------

#[test]
fn a_loader_that_blocks_its_thread_keeps_its_claim_and_its_value_is_stored() {
    let load = async |larder: &Larder, loads: &Arc<AtomicU32>| {
        let cache = larder.cache::<u32>("n").ttl(LONG).build().unwrap();
        let loads = loads.clone();
        let loader = move || async move {
            loads.fetch_add(1, Ordering::SeqCst);
            // Longer than a claim lives without renewal.
            thread::sleep(Duration::from_millis(4500));
            Ok::<_, Infallible>(7)
        };
        assert_eq!(cache.get_or_load("a", loader).await.unwrap(), 7);
        assert_eq!(cache.get("a").await.unwrap(), Some(7), "what was loaded was not stored");
    };
    let namespace = namespace();
    let loads = Arc::<AtomicU32>::default();
    thread::scope(|scope| {
        for first in [true, false] {
            let (load, loads, namespace) = (&load, &loads, &namespace);
            scope.spawn(move || {
                current().block_on(async {
                    let larder = connect_as(&server().url(), namespace).await;
                    if !first {
                        let begun = async || loads.load(Ordering::SeqCst) == 1;
                        support::until("the other loads", begun).await;
                    }
                    load(&larder, loads).await;
                });
            });
        }
    });
    assert_eq!(loads.load(Ordering::SeqCst), 1, "loaded twice");
}

#[test]
fn in_the_embedded_store_a_loader_that_blocks_the_only_thread_keeps_its_claim() {
    current().block_on(async {
        let larder = connect_as("memory:", &namespace()).await;
        let cache = larder.cache::<u32>("n").ttl(LONG).build().unwrap();
        let blocks = || async {
            // Longer than a claim on a server lives without renewal.
            thread::sleep(Duration::from_millis(3500));
            Ok::<_, Infallible>(7)
        };
        assert_eq!(cache.get_or_load("a", blocks).await.unwrap(), 7);
        assert_eq!(cache.get("a").await.unwrap(), Some(7), "what was loaded was not stored");
    });
}

#[test]
fn in_the_embedded_store_a_load_whose_runtime_ends_leaves_no_claim() {
    let lives = current();
    let larder = lives.block_on(connect_as("memory:", &namespace()));
    let cache = larder.cache::<u32>("n").ttl(LONG).build().unwrap();
    let ends = current();
    let (begin, begun) = mpsc::channel();
    let load = {
        let cache = cache.clone();
        async move {
            let never = move || async move {
                begin.send(()).unwrap();
                std::future::pending::<Result<u32, Infallible>>().await
            };
            cache.get_or_load("a", never).await
        }
    };
    ends.spawn(load);
    ends.block_on(async {
        while begun.try_recv().is_err() {
            tokio::task::yield_now().await
        }
    });
    drop(ends);
    lives.block_on(async {
        let began = Instant::now();
        assert_eq!(cache.get_or_load("a", async || Ok::<_, Infallible>(8)).await.unwrap(), 8);
        assert!(began.elapsed() < Duration::from_secs(2), "it waited for a claim: {:?}", began.elapsed());
    });
}

#[test]
fn when_the_runtime_of_a_load_ends_a_caller_that_waits_for_it_loads() {
    let lives = multi(1);
    for (store, larder) in each_on(&lives) {
        let ends = multi(1);
        let cache = larder.cache::<u32>("n").ttl(LONG).build().unwrap();
        let (begin, begun) = mpsc::channel();
        let leader = cache.clone();
        ends.spawn(async move {
            let loader = move || async move {
                begin.send(()).unwrap();
                std::future::pending::<Result<u32, Infallible>>().await
            };
            drop(leader.get_or_load("a", loader).await);
        });
        begun.recv().unwrap();
        let waiter = lives.spawn({
            let cache = cache.clone();
            async move { cache.get_or_load("a", || async { Ok::<_, Infallible>(7) }).await }
        });
        lives.block_on(support::until("it waits", async || larder.stats().caches["n"].misses >= 2));
        drop(ends);
        let loaded = lives.block_on(async { tokio::time::timeout(Duration::from_secs(20), waiter).await });
        assert_eq!(loaded.expect(store).unwrap().unwrap(), 7, "{store}");
    }
}

// ---- Only the connection of background work is lost
// ------------------------------------------------------------------

/// The connections of larder on a server, as `CLIENT LIST` shows them.
fn connections(server: &Server) -> Vec<String> {
    let list: String = server.query(&["CLIENT", "LIST"]);
    list.lines().filter(|line| line.contains(" name=larder ")).map(str::to_owned).collect()
}

/// Closes the connection of background work, while the server has no room for a new one.
async fn end_background(server: &Server, larder: &Larder) {
    loop {
        larder.ping().await.unwrap();
        let untracked = connections(server).into_iter().filter(|line| !line.contains(" flags=t"));
        // The connection for requests has just sent a ping, and no heartbeat since.
        let (callers, background): (Vec<_>, Vec<_>) = untracked.partition(|line| line.contains(" cmd=ping "));
        if let ([_], [background]) = (&callers[..], &background[..]) {
            // The connections for requests, and the connection of this test.
            server.command(&["CONFIG", "SET", "maxclients", "3"]);
            let id = background.split_whitespace().find_map(|field| field.strip_prefix("id=")).unwrap();
            server.command(&["CLIENT", "KILL", "ID", id]);
            return;
        }
    }
}

#[test]
fn without_the_connection_of_background_work_locks_and_runs_are_kept_and_those_of_dropped_guards_are_freed() {
    multi(2).block_on(async {
        let server = Server::start();
        let larder = connect_as(&server.url(), &namespace()).await;
        let guard = kept(&larder, "kept").await;
        let permit = larder.semaphore("kept", 1).ttl(TTL).acquire().await.unwrap();
        let dropped = larder.lock("dropped").ttl(LONG).acquire().await.unwrap();
        let words = larder.cache::<String>("word").ttl(LONG).build().unwrap();
        let (begun, begins) = tokio::sync::oneshot::channel();
        let run = tokio::spawn({
            let words = words.clone();
            async move {
                let work = || async {
                    begun.send(()).unwrap();
                    std::future::pending::<Result<String, Infallible>>().await
                };
                words.run_once("runs", work).await
            }
        });
        begins.await.unwrap();
        end_background(&server, &larder).await;

        thread::spawn(move || drop(dropped)).join().unwrap();
        let next = larder.lock("dropped").acquire_within(Duration::from_secs(10)).await;
        drop(next.expect("the lock of a dropped guard is freed"));
        outlives_its_time("server", &guard).await;
        assert!(permit.is_valid(), "a kept permit was lost");
        let never = || async { Err::<String, _>("it ran") };
        let told = words.run_once("runs", never).without_waiting().await;
        assert!(matches!(told, Err(larder::OnceError::Running)), "{told:?}");
        run.abort();
        // After work has failed, the next caller can run it at once.
        assert!(words.run_once("fails", never).await.is_err());
        let again = tokio::time::timeout(
            LONG,
            words.run_once("fails", || async { Ok::<_, Infallible>("done".into()) }),
        );
        assert_eq!(again.await.unwrap().unwrap(), "done");
        assert_eq!(connections(&server).len(), 2, "the background is connected, so this shows nothing");
    });
}

// ---- Connections that come back -------------------------------------------------------------------------------------

#[test]
fn kept_locks_that_the_server_lost_are_lost_as_soon_as_it_is_back() {
    let runtime = multi(2);
    runtime.block_on(async {
        let server = larder_testkit::Server::builder().tcp().start();
        let larder = connect_as(&server.url(), &namespace()).await;
        let guard = larder.lock("a").ttl(Duration::from_secs(600)).keep_alive().acquire().await.unwrap();
        // The server keeps no data over the restart.
        server.restart();
        let lost = tokio::time::timeout(Duration::from_secs(20), guard.lost());
        lost.await.expect("notified of the loss long before the next renewal");
        assert!(!guard.is_valid());
    });
}

#[test]
fn while_a_connection_pauses_between_dials_calls_fail_at_once() {
    let runtime = multi(2);
    runtime.block_on(async {
        let server = larder_testkit::Server::builder().tcp().start();
        let proxy = larder_testkit::Proxy::start(server.addr().unwrap()).await;
        let larder = connect_as(&proxy.url(), &namespace()).await;
        // Connections that are accepted and closed at once are redialled with growing pauses.
        for _ in 0..12 {
            proxy.drop_connections();
            let began = Instant::now();
            if let Err(error) = larder.ping().await {
                assert_eq!(error.kind(), larder::ErrorKind::Disconnected, "{error}");
                let took = began.elapsed();
                assert!(took < Duration::from_secs(1), "waited {took:?} for a pause");
                if error.to_string().contains("drops new connections") {
                    return;
                }
            }
        }
        panic!("each call waited for the pause to end");
    });
}
