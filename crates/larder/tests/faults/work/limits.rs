//! Rate limits: keys that all processes share, and trials on keys of their own.

use std::sync::Arc;
use std::time::Duration;

use larder::{Quota, Result};

use larder::limit::RateLimiter;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::task::JoinSet;

use super::Scene;

pub(crate) const WINDOW: Duration = Duration::from_millis(900);
/// By number: limits that count in buckets, by an exact log, in batches, and one whose callers wait for their turn.
pub(crate) const LIMITS: [u64; 4] = [100, 7, 60, 40];

pub(crate) fn start(scene: &Arc<Scene>, tasks: &mut JoinSet<()>, draw: &mut impl FnMut() -> StdRng) {
    for number in 0..LIMITS.len() {
        tasks.spawn(ask(scene.clone(), number, draw()));
    }
    tasks.spawn(refuse(scene.clone(), draw()));
    tasks.spawn(come_again(scene.clone(), draw()));
}

fn limiter(scene: &Scene, number: usize) -> Result<RateLimiter> {
    let limiter = scene.larder.rate_limiter(format!("limit-{number}"), Quota::new(LIMITS[number], WINDOW))?;
    if number == 2 { limiter.batched(10) } else { Ok(limiter) }
}

async fn ask(scene: Arc<Scene>, number: usize, mut rng: StdRng) {
    let limiter = limiter(&scene, number).unwrap();
    while scene.goes_on() {
        let sent = scene.now();
        let allowed = if number == 3 {
            limiter.acquire("key", WINDOW).await.map(|decision| decision.is_allowed())
        } else {
            limiter.allow("key").await
        };
        if let Ok(allowed) = allowed {
            scene.note("decided", &[number as u64, sent, scene.now(), u64::from(allowed)]);
        }
        tokio::time::sleep(Duration::from_micros(rng.random_range(1000..12_000))).await;
    }
}

/// R2: of ten permits, six are taken, six are refused, and four are still there. The key was not used within the
/// window, and of calls that fail nothing is known. Keys come again after some minutes, so that a limiter's table of
/// known keys does not fill for as long as the run lasts.
async fn refuse(scene: Arc<Scene>, mut rng: StdRng) {
    let limiter = scene.larder.rate_limiter("refused", Quota::per_minute(10)).unwrap();
    for trial in 0_u64.. {
        if !scene.goes_on() {
            return;
        }
        let key = (u64::from(scene.process), trial % 4096);
        let start = scene.now();
        let (first, second) = (limiter.check_n(key, 6).await, limiter.check_n(key, 6).await);
        let third = limiter.check_n(key, 4).await;
        if let (Ok(first), Ok(second), Ok(third)) = (first, second, third) {
            let right = first.is_allowed() && !second.is_allowed() && third.is_allowed();
            scene.note("refusal", &[start, scene.now(), u64::from(right)]);
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(20..60))).await;
    }
}

/// R3 and R5: a caller that is refused, alone, and waits for `retry_after`, is admitted; and `retry_after` is at most
/// the window and a sixtieth.
async fn come_again(scene: Arc<Scene>, mut rng: StdRng) {
    let window = Duration::from_millis(300);
    for trial in 0_u64.. {
        let limit = if trial.is_multiple_of(2) { 3 } else { 25 };
        let name = if limit == 3 { "again-exact" } else { "again-buckets" };
        let limiter = scene.larder.rate_limiter(name, Quota::new(limit, window)).unwrap();
        let key = (u64::from(scene.process), trial % 512);
        let start = scene.now();
        let mut refused = None;
        for _ in 0..=limit {
            if !scene.goes_on() {
                return;
            }
            match limiter.check(key).await {
                Ok(decision) if decision.is_allowed() => {}
                Ok(decision) => {
                    refused = decision.retry_after();
                    break;
                }
                Err(_) => break,
            }
        }
        if let Some(after) = refused {
            tokio::time::sleep(after).await;
            if let Ok(decision) = limiter.check(key).await {
                let soon = after <= window + window / 60;
                let numbers = [start, scene.now(), u64::from(decision.is_allowed()), u64::from(soon)];
                scene.note("again", &numbers);
            }
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(20..100))).await;
    }
}
