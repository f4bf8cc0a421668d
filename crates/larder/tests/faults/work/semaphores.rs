//! Semaphores: callers that want several permits among those that want one.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use tokio::task::JoinSet;

use super::Scene;
use super::holding::{Thing, attempt, hold, max_wait, part, rest, span};

const TTL: Duration = Duration::from_millis(400);
const TASKS: usize = 4;
pub(crate) const THING: u64 = 10;
pub(crate) const PERMITS: u64 = 5;

pub(crate) fn start(scene: &Arc<Scene>, tasks: &mut JoinSet<()>, draw: &mut impl FnMut() -> StdRng) {
    for _ in 0..TASKS {
        tasks.spawn(contend(scene.clone(), draw()));
    }
}

async fn contend(scene: Arc<Scene>, mut rng: StdRng) {
    let semaphore = scene.larder.semaphore("pool", PERMITS).ttl(TTL);
    while scene.goes_on() {
        let weight = if rng.random_bool(0.7) { 1 } else { rng.random_range(2..=PERMITS) };
        let thing = Thing { number: THING, weight };
        let (max_wait, limit) = max_wait(&mut rng);
        let call = semaphore.acquire_many_within(weight, max_wait);
        let Some((number, permit)) = attempt(&scene, thing, max_wait, limit, call.into_future()).await else {
            rest(&mut rng).await;
            continue;
        };
        hold(&scene, thing, number, &permit, 4 * span(&mut rng)).await;
        part(&scene, thing, number, permit, &mut rng).await;
        rest(&mut rng).await;
    }
}
