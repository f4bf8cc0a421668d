//! Jobs: one run in the fleet for each period or slot, and what happens to runs that fail, die or lose their lock.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use larder::{ErrorKind, Larder};

use larder::lock::{Job, JobOutcome, JobRun};
use larder_testkit::{Direction, Proxy, Server};
use support::{each_pair, each_store, namespace, until};
use tokio::sync::oneshot;

const DAY: Duration = Duration::from_secs(86_400);
const TTL: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(20);

type Ran = JobRun<u32, String>;

async fn run(job: &Job) -> Ran {
    job.run(async |_| Ok(7)).await.unwrap()
}

async fn fail(job: &Job) -> Ran {
    job.run(async |_| Err("no".to_owned())).await.unwrap()
}

fn nightly(larder: &Larder) -> Job {
    nightly_at(larder, Duration::ZERO)
}

/// The time that many whole days ago.
fn nightly_at(larder: &Larder, ago: Duration) -> Job {
    // A boundary that a test meets by chance only once in years: half a period from now.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() % DAY.as_secs();
    let boundary = (now + DAY.as_secs() / 2) % DAY.as_secs();
    larder
        .job("nightly")
        .every(DAY)
        .offset(Duration::from_secs(boundary) + ago)
        .ttl(TTL)
        .backoff(Duration::ZERO)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_calls_at_once_one_runs_and_the_others_say_where() {
    for (store, here, there) in each_pair().await {
        let bodies = Arc::new(AtomicU64::new(0));
        let calls: Vec<_> = (0..16)
            .map(|number| {
                let job = nightly(if number % 2 == 0 { &here } else { &there });
                let bodies = bodies.clone();
                tokio::spawn(async move {
                    job.run(async |lease| {
                        assert!(lease.is_valid() && lease.fence().get() > 0);
                        bodies.fetch_add(1, Ordering::SeqCst);
                        tokio::task::yield_now().await;
                        Ok::<_, String>(())
                    })
                    .await
                    .unwrap()
                })
            })
            .collect();
        let mut ran = 0;
        for call in calls {
            match call.await.unwrap() {
                JobRun::Ran(Ok(())) => ran += 1,
                JobRun::AlreadyDone { by, .. } | JobRun::Running { by, .. } => {
                    assert!(by.ends_with(&format!(":{}", std::process::id())), "{store}: {by}");
                }
                other => panic!("{store}: {other:?}"),
            }
        }
        assert_eq!((ran, bodies.load(Ordering::SeqCst)), (1, 1), "{store}");
    }
}

#[tokio::test]
async fn a_period_is_completed_once_and_the_next_is_another() {
    for (store, larder) in each_store().await {
        let job = nightly(&larder);
        assert_eq!(job.status().await.unwrap(), None, "{store}");
        assert_eq!(run(&job).await, Ran::Ran(Ok(7)), "{store}");
        let Ran::AlreadyDone { at, .. } = run(&job).await else { panic!("{store}: run twice") };
        let age = SystemTime::now().duration_since(at).unwrap_or_default();
        assert!(age < LONG, "{store}: {age:?}");
        let status = job.status().await.unwrap().expect(store);
        assert_eq!(status.outcome, JobOutcome::Completed, "{store}");
        assert!(status.took().unwrap() < LONG, "{status:?}");
        // A run that counts for the next period, because its boundary is near, is another run.
        let early = nightly(&larder).tolerance(DAY / 2 + Duration::from_secs(600));
        assert_eq!(run(&early).await, Ran::Ran(Ok(7)), "{store}");
        assert!(matches!(run(&early).await, Ran::AlreadyDone { .. }), "{store}");
        // A clock that steps back completes nothing again.
        assert!(matches!(run(&job).await, Ran::AlreadyDone { .. }), "{store}");
    }
}

#[tokio::test]
async fn a_short_period_is_run_again_and_again() {
    for (store, larder) in each_store().await {
        let job = larder.job("tick").every(Duration::from_millis(50)).ttl(TTL);
        let mut ran = 0;
        until("it has run in three periods", async || {
            ran += u32::from(matches!(run(&job).await, Ran::Ran(_)));
            ran >= 3
        })
        .await;
        assert!(ran >= 3, "{store}");
    }
}

#[tokio::test]
async fn a_failed_run_is_tried_again_later_and_given_up_after_its_attempts() {
    for (store, larder) in each_store().await {
        let job = nightly(&larder).attempts(2);
        let patient = job.clone().backoff(DAY / 2);
        assert_eq!(fail(&patient).await, Ran::Ran(Err("no".to_owned())), "{store}");
        assert_eq!(job.status().await.unwrap().unwrap().outcome, JobOutcome::Failed, "{store}");
        let Ran::BackingOff { until } = run(&patient).await else { panic!("{store}: at once") };
        let left = until.duration_since(SystemTime::now()).unwrap();
        assert!(left > DAY / 3 && left <= DAY / 2 + LONG, "{store}: {left:?}");
        assert!(matches!(fail(&job).await, Ran::Ran(Err(_))), "{store}");
        assert_eq!(run(&job).await, Ran::GaveUp { attempts: 2 }, "{store}");
        // With more attempts allowed, it is completed.
        assert_eq!(run(&job.clone().attempts(3)).await, Ran::Ran(Ok(7)), "{store}");
        assert!(matches!(run(&job).await, Ran::AlreadyDone { .. }), "{store}");
    }
}

#[tokio::test]
async fn a_run_at_most_once_is_not_tried_again() {
    for (store, larder) in each_store().await {
        let job = nightly(&larder).at_most_once();
        assert!(matches!(fail(&job).await, Ran::Ran(Err(_))), "{store}");
        assert!(matches!(run(&job).await, Ran::AlreadyDone { .. }), "{store}");
        assert!(matches!(run(&nightly(&larder).attempts(9)).await, Ran::AlreadyDone { .. }), "{store}");
    }
}

#[tokio::test]
async fn each_slot_runs_once_whatever_its_order() {
    for (store, larder) in each_store().await {
        let job = larder.job("invoices").ttl(TTL).backoff(Duration::ZERO);
        let slot = async |slot: &str| job.run_slot(slot, async |_| Ok::<_, String>(1)).await.unwrap();
        for month in ["2026-11", "2026-09", "{odd}: slot/\n"] {
            assert_eq!(slot(month).await, JobRun::Ran(Ok(1)), "{store}: {month}");
            assert!(matches!(slot(month).await, JobRun::AlreadyDone { .. }), "{store}: {month}");
        }
        let failed = job.run_slot("2026-12", async |_| Err::<u32, _>("no".to_owned())).await.unwrap();
        assert!(matches!(failed, JobRun::Ran(Err(_))), "{store}");
        assert_eq!(slot("2026-12").await, JobRun::Ran(Ok(1)), "{store}: tried again");
    }
}

#[tokio::test]
async fn the_record_of_a_slot_is_kept_for_thirty_days_or_for_as_long_as_the_job_says() {
    let server = Server::start();
    let larder = support::connect_as(&server.url(), "s").await;
    for (keep, days) in [(None, 30), (Some(10 * DAY), 10), (Some(90 * DAY), 90)] {
        let name = format!("invoices{days}");
        let mut job = larder.job(&name).ttl(TTL);
        if let Some(keep) = keep {
            job = job.keep(keep);
        }
        // While it runs, its records last for a day longer, the longest time that a run may take.
        let kept = |when: &str, days: u32| {
            // The status, and the record of the slot.
            let status = format!("~job.1:{{s/{name}}}");
            let record = format!("{status}:slot:2026-11");
            for key in [status, record] {
                let left = Duration::from_millis(server.query(&["PTTL", &key]));
                assert!(left > (days - 1) * DAY && left <= days * DAY, "{when}: {key} for {left:?}");
            }
        };
        let body = async |_| {
            kept("it runs", days + 1);
            Ok::<_, String>(1)
        };
        assert_eq!(job.run_slot("2026-11", body).await.unwrap(), JobRun::Ran(Ok(1)));
        kept("it has run", days);
    }
}

#[tokio::test]
async fn a_run_is_stopped_when_it_has_held_its_lock_for_max_hold() {
    for (store, larder) in each_store().await {
        let job = nightly(&larder).ttl(SHORT).max_hold(SHORT);
        let hangs = job.run(async |_| std::future::pending::<Result<u32, String>>().await);
        let lost = tokio::time::timeout(LONG, hangs).await.expect(store).unwrap_err();
        assert_eq!(lost.kind(), ErrorKind::LockLost, "{store}");
        let died = nightly(&larder);
        until("its lease is over", async || !matches!(run(&died).await, Ran::Running { .. })).await;
        assert!(matches!(run(&died).await, Ran::AlreadyDone { .. }), "{store}: another run took its place");
    }
}

#[tokio::test]
async fn a_run_that_is_under_way_holds_up_every_other_of_its_job() {
    for (store, larder) in each_store().await {
        let job = nightly(&larder);
        let (begun, has_begun) = oneshot::channel();
        let (go, waits) = oneshot::channel::<()>();
        let running = tokio::spawn({
            let job = job.clone();
            async move {
                let body = async |_| {
                    begun.send(()).unwrap();
                    waits.await.unwrap();
                    Ok::<_, String>(())
                };
                job.run(body).await.unwrap()
            }
        });
        has_begun.await.unwrap();
        assert!(matches!(run(&job).await, Ran::Running { .. }), "{store}");
        let other = job.run_slot("x", async |_| Ok::<_, String>(())).await.unwrap();
        assert!(matches!(other, JobRun::Running { .. }), "{store}");
        assert_eq!(job.status().await.unwrap().unwrap().outcome, JobOutcome::Running, "{store}");
        go.send(()).unwrap();
        assert!(matches!(running.await.unwrap(), JobRun::Ran(Ok(()))), "{store}");
    }
}

#[tokio::test]
async fn a_run_whose_body_is_dropped_has_died_and_another_takes_its_place() {
    for (store, larder) in each_store().await {
        let job = nightly(&larder);
        {
            let (begun, has_begun) = oneshot::channel();
            let body = async |_| {
                begun.send(()).unwrap();
                std::future::pending::<Result<(), String>>().await
            };
            tokio::select! {
                _ = job.run(body) => panic!("it never ends"),
                _ = has_begun => {}
            }
        }
        until("its lock is free", async || job.status().await.unwrap().unwrap().outcome == JobOutcome::Died)
            .await;
        assert_eq!(run(&job).await, Ran::Ran(Ok(7)), "{store}");
    }
}

#[tokio::test]
async fn missed_periods_are_made_up_for_only_if_asked_to_and_the_oldest_first() {
    for (store, larder) in each_store().await {
        // The job as it was `days` days ago.
        let ago = |days: u32| nightly_at(&larder, days * DAY);
        assert_eq!(run(&ago(5)).await, Ran::Ran(Ok(7)), "{store}");
        let mut made_up = 0;
        // The last two slots, and today's.
        while matches!(run(&ago(0).catch_up(2)).await, Ran::Ran(Ok(7))) {
            made_up += 1;
        }
        assert_eq!(made_up, 3, "{store}");
        let job = |days| ago(days).catch_up(2).attempts(1);
        let tomorrow = |larder: &Larder| nightly(larder).tolerance(DAY * 99 / 100).catch_up(2).attempts(1);
        assert!(matches!(run(&job(0)).await, Ran::AlreadyDone { .. }), "{store}");
        assert!(matches!(fail(&tomorrow(&larder)).await, Ran::Ran(Err(_))), "{store}");
        assert_eq!(run(&tomorrow(&larder)).await, Ran::GaveUp { attempts: 1 }, "{store}");
    }
    for (store, larder) in each_store().await {
        // Without this setting, missed slots are skipped.
        assert_eq!(run(&nightly_at(&larder, 5 * DAY)).await, Ran::Ran(Ok(7)), "{store}");
        assert_eq!(run(&nightly(&larder)).await, Ran::Ran(Ok(7)), "{store}");
        assert!(matches!(run(&nightly(&larder)).await, Ran::AlreadyDone { .. }), "{store}");
    }
}

#[tokio::test]
async fn a_run_that_lost_its_lock_completes_nothing() {
    let server = Server::start();
    let space = namespace();
    let larder = support::connect_as(&server.url(), &space).await;
    let job = nightly(&larder);
    let lost = job
        .run(async |_| {
            server.command(&["DEL", &format!("~job.1:{{{space}/nightly}}:lock")]);
            Ok::<_, String>(())
        })
        .await
        .unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::LockLost);
    assert_eq!(run(&job).await, Ran::Ran(Ok(7)), "it was not completed");
}

#[tokio::test]
async fn a_run_whose_link_is_dead_is_stopped_and_its_period_is_run_elsewhere() {
    let server = Server::builder().tcp().start();
    let proxy = Proxy::start(server.addr().unwrap()).await;
    let space = namespace();
    let (here, there) =
        (support::connect_as(&proxy.url(), &space).await, support::connect_as(&server.url(), &space).await);
    let job = nightly(&here).ttl(SHORT);
    let stopped = job
        .run(async |_| {
            proxy.silence(Direction::Both);
            std::future::pending::<Result<(), String>>().await
        })
        .await
        .unwrap_err();
    assert_eq!(stopped.kind(), ErrorKind::LockLost);
    let elsewhere = nightly(&there);
    until("its lease is over", async || matches!(run(&elsewhere).await, Ran::Ran(Ok(7)))).await;
    proxy.restore();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_end_is_recorded_learns_so_also_after_the_run_of_a_later_period() {
    let server = Server::builder().tcp().start();
    let proxy = Arc::new(Proxy::start(server.addr().unwrap()).await);
    let space = namespace();
    let here = support::patient().response_timeout(Duration::from_millis(300)).namespace(&space);
    let here = here.url(proxy.url()).connect().await.unwrap();
    let there = support::connect_as(&server.url(), &space).await;
    // Run once, so that the server knows the scripts.
    assert_eq!(run(&nightly(&here)).await, Ran::Ran(Ok(7)));
    let tick = |larder: &Larder| larder.job("tick").every(Duration::from_millis(500)).ttl(TTL);
    let running = tokio::spawn({
        let (job, proxy) = (tick(&here), proxy.clone());
        async move {
            let body = async |_| {
                // The server executes the end of the run, and the reply is lost.
                proxy.swallow(Direction::ToClient);
                Ok::<_, String>(7)
            };
            job.run(body).await
        }
    });
    let later = tick(&there);
    until("a later period is completed there", async || {
        let ended = later.status().await.unwrap().is_some_and(|last| last.ended.is_some());
        ended && matches!(run(&later).await, Ran::Ran(Ok(7)))
    })
    .await;
    proxy.restore().drop_connections();
    let heard = tokio::time::timeout(LONG, running).await.expect("an answer").unwrap();
    assert_eq!(heard.unwrap(), JobRun::Ran(Ok(7)));
}

#[tokio::test]
async fn the_longest_settings_are_accepted_by_each_store() {
    for (store, larder) in each_store().await {
        let longest =
            larder.job("longest").keep(3660 * DAY).backoff(366 * DAY).max_hold(Duration::MAX).ttl(TTL);
        let often = longest.clone().every(Duration::from_millis(10)).catch_up(u32::MAX);
        let failed =
            often.offset(366 * DAY - Duration::from_millis(1)).run(async |_| Err::<u32, _>("no")).await;
        assert_eq!(failed.expect(store), JobRun::Ran(Err("no")), "{store}");
        let slot = async || longest.run_slot("a", async |_| Err::<u32, _>("no")).await.expect(store);
        assert_eq!(slot().await, JobRun::Ran(Err("no")), "{store}");
        let JobRun::BackingOff { until } = slot().await else { panic!("{store}: it backs off") };
        let waits = until.duration_since(SystemTime::now()).unwrap();
        assert!((365 * DAY..367 * DAY).contains(&waits), "{store}: {waits:?}");
    }
}

#[tokio::test]
async fn a_run_that_is_longer_than_its_record_is_kept_has_it_until_the_end() {
    let each = each_store().await.into_iter().map(async |(store, larder)| {
        let keep = Duration::from_secs(1);
        let job = larder.job("long").ttl(TTL).keep(keep).backoff(LONG);
        let (ran, other) = (job.clone(), job.clone());
        let run = ran.run_slot("a", async |_| {
            // This time must pass: the record would be gone.
            tokio::time::sleep(2 * keep).await;
            let status = other.status().await.unwrap().expect("the run is known");
            assert_eq!(status.outcome, JobOutcome::Running, "{store}");
            match other.run_slot("a", async |_| Ok::<_, String>(())).await.unwrap() {
                JobRun::Running { by, since } => {
                    assert!(by.ends_with(&format!(":{}", std::process::id())), "{store}: {by:?}");
                    assert!(since.elapsed().unwrap() > keep, "{store}");
                }
                other => panic!("{store}: {other:?}"),
            }
            Err::<(), _>("no")
        });
        assert_eq!(run.await.expect(store), JobRun::Ran(Err("no")));
        let next = job.run_slot("a", async |_| Ok::<_, String>(())).await.unwrap();
        assert!(matches!(next, JobRun::BackingOff { .. }), "{store}: the attempt counts: {next:?}");
    });
    futures_util::future::join_all(each).await;
}

#[tokio::test]
async fn settings_that_make_no_sense_are_refused() {
    let larder = Larder::connect("memory:").await.unwrap();
    let job = larder.job("a");
    let refused = async |job: &Job| {
        let error = job.run(async |_| Ok::<_, String>(())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSetting, "{error}");
        error.to_string()
    };
    assert!(refused(&job).await.contains("run_slot"));
    assert!(refused(&job.clone().every(Duration::ZERO)).await.contains("10ms"));
    let every = job.clone().every(DAY);
    assert!(refused(&every.clone().tolerance(DAY)).await.contains("not below the period"));
    assert!(refused(&every.clone().attempts(0)).await.contains("attempt"));
    assert!(refused(&every.clone().max_hold(SHORT)).await.contains("max_hold (300ms)"));
    for keep in [Duration::ZERO, Duration::MAX, 3661 * DAY] {
        assert!(refused(&every.clone().keep(keep)).await.contains("1 s to 3660 days"));
    }
    for backoff in [Duration::MAX, 367 * DAY] {
        assert!(refused(&every.clone().backoff(backoff)).await.contains("longer than 366 days"));
    }
    for offset in [Duration::MAX, 366 * DAY] {
        assert!(refused(&every.clone().offset(offset)).await.contains("an offset of"));
    }
    for periods in [u32::MAX, 3659] {
        assert!(refused(&every.clone().catch_up(periods)).await.contains("3660 days"));
    }
    for slot in ["", &"x".repeat(201)] {
        let error = job.run_slot(slot, async |_| Ok::<_, String>(())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSetting);
    }
}
