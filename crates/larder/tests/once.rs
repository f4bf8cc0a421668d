//! Work that runs once: for several callers, programs and processes, while replies are late and while the server is
//! away.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use larder::{Cache, ErrorKind, Larder, OnceError};
use larder_testkit::worker::{self, Worker};
use larder_testkit::{Direction, Proxy, Server};
use support::held::{LIMIT, gate, within};
use support::{connect, connect_as, each_pair, namespace, patient, server, until};
use tokio::sync::oneshot;

const HOUR: Duration = Duration::from_secs(3600);

fn words(larder: &Larder) -> Cache<String> {
    larder.cache("word").ttl(HOUR).build().unwrap()
}

/// The embedded store used twice, and two `Larder`s, as two programs have them, on each other store.
async fn pairs() -> Vec<(&'static str, Larder, Larder)> {
    let embedded = connect("memory:").await;
    let mut pairs = each_pair().await;
    pairs.push(("memory", embedded.clone(), embedded));
    pairs
}

/// Work that must not run.
async fn never() -> Result<String, &'static str> {
    Err("it ran")
}

#[tokio::test]
async fn work_runs_once_for_all_callers_of_all_programs() {
    for (store, one, other) in pairs().await {
        let runs = Arc::new(AtomicU32::new(0));
        let caches = [words(&one), words(&other)];
        let call = |caller: usize| {
            let (cache, runs) = (&caches[caller % 2], runs.clone());
            async move {
                let work = move || async move {
                    let run = runs.fetch_add(1, SeqCst);
                    for _ in 0..50 {
                        tokio::task::yield_now().await;
                    }
                    Ok::<_, Infallible>(format!("run {run}"))
                };
                cache.run_once("k", work).await.unwrap()
            }
        };
        let results = join_all((0..20).map(call)).await;
        assert_eq!(call(0).await, "run 0", "{store}");
        assert_eq!(runs.load(SeqCst), 1, "{store}");
        assert!(results.iter().all(|result| result == "run 0"), "{store}: {results:?}");
        assert_eq!(caches[1].get("k").await.unwrap().as_deref(), Some("run 0"), "{store}");
        // Once its result is deleted, it runs again.
        caches[0].delete("k").await.unwrap();
        assert_eq!(call(1).await, "run 1", "{store}");
    }
}

#[tokio::test]
async fn work_that_failed_is_run_by_the_next_caller() {
    for (store, one, other) in pairs().await {
        let failed = words(&one).run_once("k", || async { Err::<String, _>("no money") }).await;
        assert!(failed.as_ref().is_err_and(|error| error.work() == Some(&"no money")), "{store}: {failed:?}");
        let done = words(&other).run_once("k", || async { Ok::<_, Infallible>("paid".to_owned()) }).await;
        assert_eq!(done.unwrap(), "paid", "{store}");
    }
}

#[tokio::test]
async fn the_works_error_is_shown_and_its_cause_is_the_source_whatever_its_type() {
    #[derive(Debug)]
    struct Declined(std::num::ParseIntError);
    impl std::fmt::Display for Declined {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("declined")
        }
    }
    impl std::error::Error for Declined {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }
    let declined = || Declined("x".parse::<u32>().unwrap_err());
    let chain = |error: &dyn std::error::Error| {
        let source = error.source().map(ToString::to_string);
        (error.to_string(), source.unwrap_or_default())
    };
    let larder = connect("memory:").await;
    let words = words(&larder);
    let shown = "the work failed: declined".to_owned();
    let cause = "invalid digit found in string".to_owned();
    let error = words.run_once("k", move || async move { Err(declined()) }).await.unwrap_err();
    assert_eq!(error.work().unwrap().0, declined().0);
    assert_eq!(chain(&error), (shown.clone(), cause.clone()));
    let boxed: Box<dyn std::error::Error + Send + Sync> = Box::new(declined());
    let error = words.run_once("k", move || async move { Err(boxed) }).await.unwrap_err();
    assert_eq!(chain(&error), (shown, cause));
    let error = words.run_once("k", || async { Err("no money") }).await.unwrap_err();
    assert_eq!(chain(&error.clone()), ("the work failed: no money".to_owned(), String::new()));
}

#[tokio::test]
async fn a_caller_that_does_not_wait_learns_that_it_runs() {
    for (store, one, other) in pairs().await {
        let (begun, begins) = oneshot::channel();
        let (go, wait) = oneshot::channel::<()>();
        let first = tokio::spawn({
            let words = words(&one);
            async move {
                let work = || async {
                    begun.send(()).unwrap();
                    wait.await.unwrap();
                    Ok::<_, Infallible>("done".to_owned())
                };
                words.run_once("k", work).await
            }
        });
        begins.await.unwrap();
        let told = words(&other).run_once("k", never).without_waiting().await;
        assert!(matches!(told, Err(OnceError::Running)), "{store}: {told:?}");
        let late = words(&other).run_once("k", never).timeout(Duration::from_millis(50)).await;
        assert!(matches!(&late, Err(OnceError::Larder(error)) if error.is_timeout()), "{store}: {late:?}");
        let waiter = tokio::spawn({
            let words = words(&other);
            async move { words.run_once("k", never).await }
        });
        go.send(()).unwrap();
        assert_eq!(first.await.unwrap().unwrap(), "done", "{store}");
        assert_eq!(waiter.await.unwrap().unwrap(), "done", "{store}");
    }
}

#[tokio::test]
async fn a_run_that_panicked_is_not_run_again_unless_a_caller_says_so() {
    for (store, one, other) in pairs().await {
        async fn cursed() -> Result<String, Infallible> {
            panic!("cursed")
        }
        let panicked = words(&one).run_once("k", cursed).await;
        assert!(
            matches!(&panicked, Err(OnceError::Panicked(message)) if message.contains("cursed")),
            "{store}: {panicked:?}"
        );
        let next = words(&other).run_once("k", never).await;
        assert!(matches!(next, Err(OnceError::Interrupted)), "{store}: {next:?}");
        let again = || async { Ok::<_, Infallible>("second".to_owned()) };
        assert_eq!(
            words(&other).run_once("k", again).retry_interrupted().await.unwrap(),
            "second",
            "{store}"
        );
        assert_eq!(words(&one).run_once("k", cursed).await.unwrap(), "second", "{store}");
    }
}

#[test]
fn a_runner_that_died_is_noticed_and_its_waiters_get_an_error() {
    let url = server().url();
    let namespace = namespace();
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (dying, living) = (runtime(), runtime());
    let first = dying.block_on(connect_as(&url, &namespace));
    let (begun, begins) = oneshot::channel();
    dying.spawn(async move {
        let work = || async {
            begun.send(()).unwrap();
            std::future::pending::<Result<String, Infallible>>().await
        };
        words(&first).run_once("k", work).await
    });
    living.block_on(async {
        begins.await.unwrap();
        let other = connect_as(&url, &namespace).await;
        let waiter = tokio::spawn({
            let words = words(&other);
            async move { words.run_once("k", never).await }
        });
        tokio::task::spawn_blocking(move || dying.shutdown_timeout(Duration::from_secs(1))).await.unwrap();
        let told = waiter.await.unwrap();
        assert!(matches!(told, Err(OnceError::Interrupted)), "{told:?}");
    });
}

#[tokio::test]
async fn work_is_not_run_while_the_server_is_away() {
    let server = Server::start();
    let larder = patient().url(server.url()).connect().await.unwrap();
    let words = words(&larder);
    words.set("warm", &"a".to_owned()).await.unwrap();
    server.kill();
    let runs = Arc::new(AtomicU32::new(0));
    let counted = runs.clone();
    let away = words
        .run_once("k", move || async move {
            counted.fetch_add(1, SeqCst);
            Ok::<_, Infallible>("ran".to_owned())
        })
        .await;
    assert!(matches!(&away, Err(OnceError::Larder(error)) if error.is_retryable()), "{away:?}");
    assert_eq!(runs.load(SeqCst), 0);
}

#[tokio::test]
async fn work_that_takes_longer_than_its_result_is_kept_runs_once_all_the_same() {
    const BRIEF: Duration = Duration::from_millis(50);
    for (store, one, other) in pairs().await {
        let (gate, mut keeper) = gate();
        let call = tokio::spawn({
            let words = words(&one);
            async move {
                let work = || async {
                    gate.pass().await;
                    Ok::<_, Infallible>("done".to_owned())
                };
                words.run_once("k", work).ttl(BRIEF).await
            }
        });
        keeper.reached().await;
        tokio::time::sleep(4 * BRIEF).await;
        let told = words(&other).run_once("k", never).ttl(BRIEF).without_waiting().await;
        assert!(matches!(told, Err(OnceError::Running)), "{store}: {told:?}");
        keeper.open();
        assert_eq!(within("it ends", LIMIT, call).await.unwrap().unwrap(), "done", "{store}");
        let done = async || words(&other).get("k").await.unwrap().is_none();
        until("its result is forgotten in time", done).await;
    }
}

// ---- Several processes ---------------------------------------------------------------------------------------------

const KEYS: u32 = 30;

/// One of two processes: runs the work of all keys at the same time, and prints the results.
fn work(role: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let larder = connect_as(&std::env::var("ONCE_URL").unwrap(), "n").await;
        let words = words(&larder);
        worker::send_line("ready");
        tokio::task::spawn_blocking(worker::read_line).await.unwrap().unwrap();
        let counts = redis::Client::open(std::env::var("ONCE_COUNTS").unwrap()).unwrap();
        let calls = (0..KEYS).map(|key| {
            let (words, counts, result) = (words.clone(), counts.clone(), format!("{role} {key}"));
            tokio::spawn(async move {
                let work = move || async move {
                    let count = move || {
                        let mut connection = counts.get_connection().unwrap();
                        redis::cmd("INCR").arg(format!("runs:{key}")).exec(&mut connection).unwrap();
                    };
                    tokio::task::spawn_blocking(count).await.unwrap();
                    Ok::<_, Infallible>(result)
                };
                (key, words.run_once(key, work).await.unwrap())
            })
        });
        for call in join_all(calls).await {
            let (key, result) = call.unwrap();
            worker::send_line(&format!("{key}: {result}"));
        }
    });
}

#[test]
fn of_two_processes_that_race_for_a_key_one_runs_its_work_and_both_get_that_result() {
    if let Some(role) = worker::role() {
        return work(&role);
    }
    let test = "of_two_processes_that_race_for_a_key_one_runs_its_work_and_both_get_that_result";
    let server = Server::builder().tcp().start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let delays = [Duration::ZERO, Duration::from_millis(3)];
    let mut both = Vec::new();
    for (role, delay) in ["one", "other"].into_iter().zip(delays) {
        // The replies to one of the two processes are late.
        let proxy = runtime.block_on(Proxy::start(server.addr().unwrap()));
        proxy.delay(Direction::ToClient, delay);
        let envs = [("ONCE_URL", proxy.url()), ("ONCE_COUNTS", server.url())];
        let envs = envs.each_ref().map(|(name, value)| (*name, value.as_str()));
        both.push((Worker::spawn(test, role, &envs), proxy));
    }
    for (worker, _) in &both {
        assert_eq!(worker.read_line(4 * LIMIT).unwrap(), "ready");
    }
    both.iter().for_each(|(worker, _)| worker.send_line("go").unwrap());
    let results: Vec<Vec<String>> = both
        .iter()
        .map(|(worker, _)| (0..KEYS).map(|_| worker.read_line(4 * LIMIT).unwrap()).collect())
        .collect();
    assert_eq!(results[0], results[1]);
    for key in 0..KEYS {
        assert_eq!(server.query::<u32>(&["GET", &format!("runs:{key}")]), 1, "key {key}");
    }
}

#[test]
fn a_process_that_is_killed_in_the_middle_leaves_word_and_another_may_take_its_place() {
    let test = "a_process_that_is_killed_in_the_middle_leaves_word_and_another_may_take_its_place";
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    if worker::role().is_some() {
        return runtime.block_on(async {
            let larder = connect_as(&std::env::var("ONCE_URL").unwrap(), "n").await;
            let work = || async {
                worker::send_line("it runs");
                std::future::pending::<Result<String, Infallible>>().await
            };
            drop(words(&larder).run_once("k", work).await);
        });
    }
    let server = Server::builder().tcp().start();
    let dying = Worker::spawn(test, "dies", &[("ONCE_URL", &server.url())]);
    assert_eq!(dying.read_line(4 * LIMIT).unwrap(), "it runs");
    runtime.block_on(async {
        let larder = connect_as(&server.url(), "n").await;
        let told = words(&larder).run_once("k", never).without_waiting().await;
        assert!(matches!(told, Err(OnceError::Running)), "{told:?}");
        let waiter = tokio::spawn({
            let words = words(&larder);
            async move { words.run_once("k", never).await }
        });
        dying.kill();
        let told = within("the waiter is notified", LIMIT, waiter).await.unwrap();
        assert!(matches!(told, Err(OnceError::Interrupted)), "{told:?}");
        let again = || async { Ok::<_, Infallible>("second".to_owned()) };
        assert_eq!(words(&larder).run_once("k", again).retry_interrupted().await.unwrap(), "second");
    });
}

// ---- Late replies, and a server that is away
// -------------------------------------------------------------------------

/// A `Larder` behind a proxy (`slow`), and one whose replies always arrive (`quick`).
struct Scene {
    server: Server,
    proxy: Proxy,
    slow: Larder,
    quick: Larder,
}

impl Scene {
    async fn new() -> Self {
        let server = Server::builder().tcp().start();
        let proxy = Proxy::start(server.addr().unwrap()).await;
        let (slow, quick) = (connect_as(&proxy.url(), "n").await, connect_as(&server.url(), "n").await);
        // The clear version and the scripts are known now.
        for larder in [&slow, &quick] {
            let work = || async { Ok::<_, Infallible>("warm".to_owned()) };
            assert_eq!(words(larder).run_once("warm", work).await.unwrap(), "warm");
        }
        Self { server, proxy, slow, quick }
    }

    /// Waits until `quick` is told that the work of `k` is running.
    async fn runs(&self) {
        until("it runs", async || {
            let told = words(&self.quick).run_once("k", never).without_waiting().await;
            matches!(told, Err(OnceError::Running))
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_is_there_while_the_server_is_away_is_given_and_stored_later() {
    let scene = Scene::new().await;
    let (gate, mut keeper) = gate();
    let call = tokio::spawn({
        let words = words(&scene.slow);
        async move {
            let work = || async {
                gate.pass().await;
                Ok::<_, Infallible>("done".to_owned())
            };
            words.run_once("k", work).await
        }
    });
    keeper.reached().await;
    scene.runs().await;
    scene.proxy.cut();
    keeper.open();
    assert_eq!(within("the caller has its result", LIMIT, call).await.unwrap().unwrap(), "done");
    assert_eq!(words(&scene.quick).get("k").await.unwrap(), None, "it cannot be stored yet");
    // Longer than the time after which a silent run counts as dead: other processes do not know its result.
    let told = within("another caller is notified", LIMIT, words(&scene.quick).run_once("k", never)).await;
    assert!(matches!(told, Err(OnceError::Interrupted)), "{told:?}");
    scene.proxy.restore();
    until("it is stored", async || words(&scene.quick).get("k").await.unwrap().is_some()).await;
    assert_eq!(words(&scene.quick).run_once("k", never).await.unwrap(), "done");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_server_is_away_from_the_runner_its_waiters_go_on_waiting() {
    let scene = Scene::new().await;
    let (gate, mut keeper) = gate();
    let call = tokio::spawn({
        let words = words(&scene.slow);
        async move {
            let work = || async {
                gate.pass().await;
                Ok::<_, Infallible>("done".to_owned())
            };
            words.run_once("k", work).await
        }
    });
    keeper.reached().await;
    let waiter = tokio::spawn({
        let words = words(&scene.quick);
        async move { words.run_once("k", never).await }
    });
    scene.runs().await;
    // The connection is cut only for a moment, in which the work ends.
    scene.proxy.cut();
    keeper.open();
    assert_eq!(within("the caller has its result", LIMIT, call).await.unwrap().unwrap(), "done");
    scene.proxy.restore();
    assert_eq!(within("the waiter has it", LIMIT, waiter).await.unwrap().unwrap(), "done");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_given_up_before_its_begin_was_answered_runs_nothing_and_leaves_the_key_free() {
    let scene = Scene::new().await;
    let ran = Arc::new(AtomicBool::new(false));
    // Versions are fetched on the other connection.
    scene.proxy.only_untracked().silence(Direction::ToClient);
    let call = tokio::spawn({
        let (words, ran) = (words(&scene.slow), ran.clone());
        async move {
            let work = move || async move {
                ran.store(true, SeqCst);
                Ok::<_, Infallible>("first".to_owned())
            };
            words.run_once("k", work).await
        }
    });
    // The server has started the run, and the caller has not received the reply.
    let mark = ["EXISTS", "~once.1:{n/word:k}"];
    until("it has begun", async || scene.server.query::<u64>(&mark) == 1).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    scene.proxy.restore();
    let second = || async { Ok::<_, Infallible>("second".to_owned()) };
    let next = within("the next caller runs it", LIMIT, words(&scene.quick).run_once("k", second)).await;
    assert_eq!(next.unwrap(), "second");
    assert!(!ran.load(SeqCst), "the first ran, too");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_begin_that_arrives_when_its_caller_has_timed_out_runs_nothing_and_leaves_the_key_free() {
    let scene = Scene::new().await;
    scene.proxy.only_untracked().silence(Direction::ToServer);
    let late = words(&scene.slow).run_once("k", never).timeout(Duration::from_millis(100)).await;
    assert!(matches!(&late, Err(OnceError::Larder(error)) if error.is_timeout()), "{late:?}");
    assert!(
        words(&scene.quick).run_once("k", never).await.is_err_and(|error| error.work() == Some(&"it ran"))
    );
    scene.proxy.restore();
    // Either may arrive first: the begin, or the request that cancels it.
    let second = || async { Ok::<_, Infallible>("second".to_owned()) };
    let next = within("the next caller runs it", LIMIT, words(&scene.quick).run_once("k", second)).await;
    assert_eq!(next.unwrap(), "second");
    assert_eq!(
        within("the first may try again", LIMIT, words(&scene.slow).run_once("k", never)).await.unwrap(),
        "second"
    );
}

/// Another client stores a different invalidated value under the key between any two requests of the call.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_replaced_all_the_time_by_what_does_not_count_ends_a_call_after_a_few_attempts_with_pauses() {
    let scene = Scene::new().await;
    let stale: Cache<String> = scene.quick.cache("word").ttl(HOUR).stale_for(HOUR).build().unwrap();
    let mut connection = redis::Client::open(scene.server.url()).unwrap().get_connection().unwrap();
    let mut copies: Vec<Vec<u8>> = Vec::new();
    for key in 0..200 {
        stale.set(key, &"old".to_owned()).await.unwrap();
        assert!(stale.expire(key).await.unwrap());
        copies.push(redis::cmd("GET").arg(format!("n/word:{key}")).query(&mut connection).unwrap());
    }
    let stop = Arc::new(AtomicBool::new(false));
    let (tell, told) = oneshot::channel();
    let other = std::thread::spawn({
        let stop = stop.clone();
        move || {
            let mut tell = Some(tell);
            for copy in copies.iter().cycle() {
                if stop.load(SeqCst) {
                    break;
                }
                redis::cmd("SET").arg("n/word:k").arg(copy).exec(&mut connection).unwrap();
                let _ = tell.take().map(|tell| tell.send(()));
            }
        }
    });
    told.await.unwrap();
    scene.proxy.delay(Direction::ToClient, Duration::from_millis(5));
    for what in ["run_once", "set_if_absent"] {
        // On a busy machine two requests may run with no write in between.
        let mut busy = None;
        for _ in 0..20 {
            scene.server.reset_stats();
            let started = Instant::now();
            let error = match what {
                "run_once" => match within(what, LIMIT, words(&scene.slow).run_once("k", never)).await {
                    Err(OnceError::Larder(error)) => Some(error),
                    _ => None,
                },
                _ => words(&scene.slow).set_if_absent("k", &"new".to_owned()).await.err(),
            };
            if let Some(error) = error {
                busy = Some((error, started.elapsed()));
                break;
            }
        }
        let (error, took) = busy.expect("somebody came in between each time");
        assert_eq!(error.kind(), ErrorKind::Busy, "{what}: {error}");
        // The second request follows at once; the later ones wait with growing pauses of up to 64 ms, half of it
        // random.
        assert!(took > Duration::from_millis(380), "{what}: {took:?}");
        // Scripts of background work are counted, too.
        let asked = scene.server.calls("evalsha");
        assert!((16..30).contains(&asked), "{what}: asked {asked} times");
    }
    stop.store(true, SeqCst);
    other.join().unwrap();
}
