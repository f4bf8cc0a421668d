//! The world's clock is obeyed by everything that has a time: it lasts until then, and no longer.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use larder::limit::DecidedBy;
use larder::lock::JobRun;
use larder::testing::{World, world};
use larder::{Cache, ErrorKind, Expiry, Larder, LoadError, Quota};

use super::{MILLI, MINUTE, SECOND, in_both, names, text};

const HOUR: Duration = Duration::from_secs(3600);
const TTL: Duration = Duration::from_secs(10);

#[test]
fn what_is_kept_alive_is_renewed_by_the_worlds_clock_and_lost_in_an_outage_longer_than_its_lease() {
    in_both(async |larder, world| {
        let other = world.process();
        let permit = larder.semaphore("permit", 1).ttl(TTL).acquire().await.unwrap();
        let writer = larder.rw_lock("row").ttl(TTL).write().await.unwrap();
        let leads = larder.election("leader").ttl(TTL).campaign().await.unwrap();
        let locks = larder.lock_group("group").locks(["a", "b"]).ttl(TTL).acquire().await.unwrap();
        let held = || [permit.is_valid(), writer.is_valid(), leads.is_valid(), locks.is_valid()];
        let free = async || {
            let group = other.lock_group("group").locks(["b"]).ttl(TTL);
            [
                other.semaphore("permit", 1).ttl(TTL).try_acquire().await.unwrap().is_some(),
                other.rw_lock("row").ttl(TTL).try_read().await.unwrap().is_some(),
                other.election("leader").leader().await.unwrap().is_none(),
                group.try_acquire().await.unwrap().is_some(),
            ]
        };
        world.advance(10 * MINUTE).await;
        assert_eq!((held(), free().await), ([true; 4], [false; 4]), "not renewed while time passed");

        // The last renewal is a third of the lease ago at most.
        world.outage(2 * TTL);
        world.advance(TTL / 2).await;
        assert_eq!(held(), [true; 4], "lost before its time");
        world.advance(TTL / 2).await;
        assert_eq!(held(), [false; 4], "held beyond its time");
        world.advance(TTL + SECOND).await;
        assert_eq!(free().await, [true; 4], "the store holds it for longer");
    });
}

#[test]
fn periods_retries_and_records_of_jobs_follow_the_worlds_clock() {
    in_both(async |larder, world| {
        let began = world.now();
        let job = larder.job("nightly").every(HOUR).tolerance(Duration::ZERO);
        let run = async || job.run(async |_| Ok::<_, String>(())).await.unwrap();
        assert_eq!(run().await, JobRun::Ran(Ok(())));
        world.advance(HOUR - MILLI).await;
        let same = run().await;
        assert!(matches!(&same, JobRun::AlreadyDone { at, .. } if *at == began), "{same:?}, began {began:?}");
        world.advance(MILLI).await;
        assert_eq!(run().await, JobRun::Ran(Ok(())), "in the next one");
        assert_eq!(job.status().await.unwrap().unwrap().started, began + HOUR);

        let job = larder.job("failing").every(HOUR).tolerance(Duration::ZERO).attempts(2).backoff(MINUTE);
        let fail = async || job.run(async |_| Err::<(), _>("no")).await.unwrap();
        assert_eq!(fail().await, JobRun::Ran(Err("no")));
        world.advance(MINUTE - MILLI).await;
        let until = began + HOUR + MINUTE;
        assert_eq!(fail().await, JobRun::BackingOff { until }, "retried before its time");
        world.advance(MILLI).await;
        assert_eq!(fail().await, JobRun::Ran(Err("no")));
        assert_eq!(fail().await, JobRun::GaveUp { attempts: 2 });
    });
}

#[test]
fn absences_results_and_remaining_times_follow_the_worlds_clock() {
    in_both(async |larder, world| {
        let cache: Cache<String> = larder.cache("name").ttl(HOUR).negative_ttl(MINUTE).build().unwrap();
        let count = Arc::new(AtomicU32::new(0));
        let counted = || {
            let count = count.clone();
            async move { count.fetch_add(1, Ordering::Relaxed) }
        };
        let absent = async || {
            let run = counted();
            let load = async move { run.await.to_string().parse::<u32>().map(|_| None) };
            assert_eq!(cache.get_or_load_optional(1, |_| load).await.unwrap(), None);
            count.load(Ordering::Relaxed)
        };
        assert_eq!(absent().await, 1);
        world.advance(MINUTE - MILLI).await;
        assert_eq!(absent().await, 1, "an absence was forgotten before its time");
        world.advance(MILLI).await;
        assert_eq!(absent().await, 2, "an absence was remembered for too long");

        count.store(0, Ordering::Relaxed);
        let once = async || {
            let run = counted();
            let work = || async move { Ok::<_, io::Error>(run.await.to_string()) };
            cache.run_once(2, work).ttl(MINUTE).await.unwrap()
        };
        assert_eq!(once().await, "0");
        world.advance(MINUTE - MILLI).await;
        assert_eq!(once().await, "0", "a result was forgotten before its time");
        world.advance(MILLI).await;
        assert_eq!(once().await, "1", "a result was kept for too long");

        cache.set(3, &text("a")).ttl(MINUTE).await.unwrap();
        world.advance(20 * SECOND).await;
        assert_eq!(cache.ttl(3).await.unwrap(), Some(Expiry::After(40 * SECOND)));
        assert_eq!(cache.get_entry(3).await.unwrap().unwrap().age(), Some(20 * SECOND));
        assert!(cache.touch(3, MINUTE).await.unwrap());
        world.advance(MINUTE - MILLI).await;
        assert!(cache.exists(3).await.unwrap());
        world.advance(MILLI).await;
        assert!(!cache.exists(3).await.unwrap());
    });
}

/// Waits until the work has ended while time passes. Returns its result and how long it took in the world's time.
async fn timed<T>(world: &World, work: impl Future<Output = T>) -> (T, Duration) {
    let began = world.now();
    let ended = async { (work.await, world.now().duration_since(began).unwrap()) };
    tokio::join!(ended, world.advance(MINUTE)).0
}

#[test]
fn deadlines_of_calls_and_loaders_pass_by_the_worlds_clock() {
    // While time runs, what passes between the call and `advance` is real time.
    let slack = SECOND / 2;
    let after = |took: Duration, time: Duration| took + slack >= time && took <= time + slack;
    in_both(async |larder, world| {
        let cache: Cache<String> = larder
            .cache("name")
            .ttl(MINUTE)
            .stale_for(HOUR)
            .soft_timeout(SECOND)
            .hard_timeout(5 * SECOND)
            .build()
            .unwrap();
        let slow = || async {
            tokio::time::sleep(HOUR).await;
            Ok::<_, io::Error>(text("late"))
        };
        let (failed, took) = timed(&world, cache.get_or_load(1, slow).into_future()).await;
        assert!(matches!(failed, Err(LoadError::Larder(error)) if error.is_timeout()));
        assert!(after(took, 5 * SECOND), "{took:?}");

        cache.set(2, &text("old")).await.unwrap();
        world.advance(2 * MINUTE).await;
        let (stale, took) = timed(&world, cache.get_or_load(2, slow).into_future()).await;
        assert_eq!(stale.unwrap(), "old");
        assert!(after(took, SECOND), "{took:?}");

        let _held = larder.lock("a").ttl(HOUR).acquire().await.unwrap();
        let (refused, took) = timed(&world, larder.lock("a").acquire_within(3 * SECOND)).await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::LockHeld);
        assert!(after(took, 3 * SECOND), "{took:?}");

        world.latency(10 * SECOND);
        let (late, took) = timed(&world, larder.ping().timeout(2 * SECOND)).await;
        assert!(late.unwrap_err().is_timeout() && after(took, 2 * SECOND), "{took:?}");
    });
}

#[test]
fn blocks_overrides_and_batches_of_limits_follow_the_worlds_clock() {
    in_both(async |larder, world| {
        let logins = larder.rate_limiter("logins", Quota::per_second(1)).unwrap().block_for(MINUTE).unwrap();
        assert!(logins.allow("ann").await.unwrap());
        let refused = logins.check("ann").await.unwrap();
        assert!(!refused.is_allowed());
        let wait = refused.retry_after().unwrap();
        world.advance(wait - MILLI).await;
        assert!(!logins.allow("ann").await.unwrap(), "the block ended before its time");
        world.advance(MILLI).await;
        assert!(logins.allow("ann").await.unwrap(), "blocked for longer than retry_after");

        let api = larder.rate_limiter("api", Quota::per_minute(1)).unwrap();
        api.override_key("ann", Quota::per_minute(3), HOUR).await.unwrap();
        world.advance(HOUR - MILLI).await;
        assert_eq!(api.remaining("ann").await.unwrap(), 3);
        world.advance(MILLI).await;
        assert_eq!(api.remaining("ann").await.unwrap(), 1, "the override outlives its time");

        let hot = larder.rate_limiter("hot", Quota::per_minute(100)).unwrap().batched(10).unwrap();
        let decided = async || hot.check("k").await.unwrap().decided_by();
        assert_eq!([decided().await, decided().await], [DecidedBy::Store, DecidedBy::Batch]);
        world.advance(MINUTE).await;
        assert_eq!(decided().await, DecidedBy::Store, "a batch outlives its time");
    });
}

#[tokio::test(start_paused = true)]
async fn without_a_world_paused_time_moves_timers_and_no_clock() {
    let larder = Larder::connect("memory:").await.unwrap();
    let (cache, limiter) = (names(&larder), larder.rate_limiter("a", Quota::per_minute(1)).unwrap());
    cache.set(1, &text("a")).await.unwrap();
    assert!(limiter.allow("k").await.unwrap() && limiter.allow("l").await.unwrap());
    let held = larder.lock("a").ttl(HOUR).acquire().await.unwrap();
    let began = Instant::now();
    tokio::time::sleep(MINUTE / 2).await;
    assert!(!limiter.allow("l").await.unwrap());
    tokio::time::sleep(24 * HOUR).await;
    // Times to live and leases follow the machine's clock. The limiter's record was removed by a timer.
    let kept = (cache.exists(1).await.unwrap(), held.is_valid(), limiter.allow("k").await.unwrap());
    assert_eq!(kept, (true, true, true));
    // Timeouts follow tokio's, and pass at once. Which of its two timers ends the wait for a lock is not said.
    let refused = larder.lock("a").acquire_within(HOUR).await;
    assert!(matches!(refused.unwrap_err().kind(), ErrorKind::LockHeld | ErrorKind::TimedOut));
    assert!(began.elapsed() < MINUTE / 2, "it waited for real time");
}

#[tokio::test]
async fn time_that_is_paused_after_a_world_was_made_moves_only_with_advance() {
    let (larder, world) = world().build();
    let cache = names(&larder);
    cache.set(1, &text("a")).await.unwrap();
    tokio::time::pause();
    let before: SystemTime = world.now();
    tokio::time::sleep(HOUR).await;
    assert!(world.now() == before && cache.exists(1).await.unwrap());
    world.advance(MINUTE).await;
    assert!(world.now() == before + MINUTE && !cache.exists(1).await.unwrap());
    // It was the test that paused tokio's time, and it stays paused.
    let (began, tokios) = (Instant::now(), tokio::time::Instant::now());
    tokio::time::sleep(HOUR).await;
    assert!(tokios.elapsed() >= HOUR && began.elapsed() < MINUTE);
    assert_eq!(world.now(), before + MINUTE);
}
