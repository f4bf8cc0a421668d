//! Jobs: every process calls each of them again and again; some runs fail, some take too long.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use larder::lock::JobRun;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::task::JoinSet;

use super::Scene;

pub(crate) const TTL: Duration = Duration::from_millis(500);
pub(crate) const EVERY: Duration = Duration::from_secs(2);
pub(crate) const BACKOFF: Duration = Duration::from_millis(10);
/// The longest pause between two calls of a process.
pub(crate) const PAUSE: Duration = Duration::from_millis(200);
/// As many as may be called; the jobs of a run in which other parts are used, too, are half of them.
pub(crate) const JOBS: std::ops::Range<u64> = 40..50;
const FEW: std::ops::Range<u64> = 40..45;

pub(crate) fn start(scene: &Arc<Scene>, tasks: &mut JoinSet<()>, draw: &mut impl FnMut() -> StdRng) {
    for job in if scene.what.is_only("jobs") { JOBS } else { FEW } {
        tasks.spawn(call(scene.clone(), job, draw()));
    }
}

async fn call(scene: Arc<Scene>, number: u64, mut rng: StdRng) {
    let job = scene.larder.job(format!("job-{number}")).every(EVERY).ttl(TTL);
    let job = job.tolerance(Duration::ZERO).attempts(1_000_000).backoff(BACKOFF);
    while scene.goes_on() {
        let (asked, attempt) = (scene.now(), scene.next_attempt());
        let fence = AtomicU64::new(0);
        let (span, fails) = (rng.random_range(0..80), rng.random_bool(0.1));
        let body = async |lease: larder::lock::LockHandle| {
            fence.store(lease.fence().get(), Ordering::Relaxed);
            scene.note("run", &[number, attempt, lease.fence().get(), asked]);
            let end = scene.now() + span * 1_000_000;
            loop {
                let at = scene.now();
                if lease.is_valid() {
                    scene.note("held", &[number, attempt, at]);
                }
                if at >= end {
                    return if fails { Err(()) } else { Ok(()) };
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let outcome = job.run(body).await;
        let fence = fence.load(Ordering::Relaxed);
        match outcome {
            Ok(JobRun::Ran(result)) => {
                scene.note("ran", &[number, attempt, scene.now(), if result.is_ok() { 1 } else { 2 }]);
            }
            // The body was stopped, or its end could not be recorded.
            Err(_) if fence != 0 => scene.note("ran", &[number, attempt, scene.now(), 3]),
            // A start that was not answered may have taken the lock, and with it the time of an attempt.
            Err(_) => scene.note("unknown", &[number, asked, scene.now()]),
            Ok(_) => scene.note("refused", &[number]),
        }
        let pause = rng.random_range(PAUSE / 4..PAUSE);
        tokio::time::sleep(pause).await;
    }
}
