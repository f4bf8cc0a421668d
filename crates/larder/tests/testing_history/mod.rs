//! Random histories: the same seed gives the same one.

use std::fmt::Debug;
use std::io;
use std::time::Duration;

use larder::limit::RateLimiter;
use larder::lock::{Guard, Lock};
use larder::testing::{World, world};
use larder::{Cache, Larder, Near, Quota};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::runtime::Builder;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// A process, and what it holds.
struct Process {
    larder: Larder,
    cache: Cache<String>,
    lock: Lock,
    limiter: RateLimiter,
    held: Option<Guard>,
}

impl Process {
    fn new(larder: Larder) -> Self {
        let cache = larder.cache("name").ttl(MINUTE).ttl_jitter(0.3).early_refresh(1.0).stale_for(MINUTE);
        let cache = cache.near(Near::bytes(1 << 20).max_age(5 * SECOND)).build().unwrap();
        let lock = larder.lock("lock").ttl(10 * SECOND).keep_alive();
        let limiter = larder.rate_limiter("limit", [Quota::per_second(2), Quota::per_minute(20)]).unwrap();
        Self { cache, lock, limiter, held: None, larder }
    }

    /// Does something that the seed chooses. Returns what happened.
    async fn act(&mut self, rng: &mut StdRng, world: &World) -> String {
        let (key, span) = (rng.random_range(0..3_u32), Duration::from_millis(rng.random_range(0..20_000)));
        let cache = &self.cache;
        let load = move || async move {
            tokio::time::sleep(span / 10).await;
            Ok::<_, io::Error>(format!("{span:?}"))
        };
        match rng.random_range(0..14) {
            0 | 1 => {
                let found = cache.get_entry(key).await;
                let show = |entry: larder::Entry<String>| {
                    (entry.value().clone(), entry.source(), entry.age(), entry.remaining(), entry.version())
                };
                shown(found.map(|entry| entry.map(show)))
            }
            2..=4 => {
                let (loaded, ()) = tokio::join!(cache.get_or_load(key, load), world.advance(span / 5));
                shown(loaded)
            }
            5 => shown(cache.set(key, &format!("{span:?}")).tag("tag").await),
            6 => shown(cache.delete(key).or_queue().await),
            7 => shown(self.larder.tag("tag").invalidate().await),
            8 => match self.held.take() {
                Some(held) => shown((held.fence(), held.remaining(), held.release().await)),
                None => {
                    let (held, ()) =
                        tokio::join!(self.lock.acquire_within(5 * SECOND), world.advance(6 * SECOND));
                    let answer = shown(held.as_ref().map(Guard::fence));
                    self.held = held.ok();
                    answer
                }
            },
            9 | 10 => {
                let decision = self.limiter.check(key).await;
                shown(
                    decision
                        .map(|one| (one.is_allowed(), one.remaining(), one.retry_after(), one.reset_after())),
                )
            }
            11 => {
                world.outage(span / 10);
                String::from("outage")
            }
            12 => {
                world.lose_next_reply();
                shown(world.evict(cache, key))
            }
            _ => {
                world.advance(span).await;
                format!("{span:?} to {:?}", world.now())
            }
        }
    }
}

fn shown(what: impl Debug) -> String {
    format!("{what:?}")
}

/// Runs the history of a seed, with paused time.
fn history(seed: u64) -> Vec<String> {
    history_in(seed, seed)
}

/// Runs the calls that `seed` chooses in the world of another seed.
fn history_in(of_world: u64, seed: u64) -> Vec<String> {
    let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let (larder, world) = world().seed(of_world).build();
        let mut processes = [Process::new(larder), Process::new(world.process())];
        let mut rng = StdRng::seed_from_u64(seed);
        let mut history = Vec::new();
        for _ in 0..40 {
            let who = rng.random_range(0..processes.len());
            history.push(processes[who].act(&mut rng, &world).await);
        }
        history
    })
}

fn check_same(seed: u64, first: &[String], second: &[String]) {
    for (step, (first, second)) in first.iter().zip(second).enumerate() {
        assert_eq!(first, second, "seed {seed}, step {step}");
    }
    assert_eq!(first.len(), second.len(), "seed {seed}");
}

/// Half of the runs have one seed, the other half are two of each seed. `LARDER_TEST_WORLDS=10000` is the long form.
#[test]
fn the_same_seed_gives_the_same_history() {
    let runs = std::env::var("LARDER_TEST_WORLDS").map_or(200, |runs| runs.parse().expect("a number"));
    let first = history(7);
    for _ in 1..runs / 2 {
        check_same(7, &first, &history(7));
    }
    for seed in 100..100 + runs / 4 {
        check_same(seed, &history(seed), &history(seed));
    }
    assert_ne!(history_in(1, 7), history_in(2, 7), "the world's seed changes nothing");
}
