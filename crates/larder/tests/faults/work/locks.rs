//! Locks: waited for, held, extended, freed, lost.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use tokio::task::JoinSet;

use super::Scene;
use super::holding::{Thing, attempt, hold, max_wait, part, rest, span};

const TTL: Duration = Duration::from_millis(300);
const TASKS: usize = 4;
pub(crate) const THINGS: std::ops::Range<u64> = 0..2;
/// The lock with quarantine, on deployments with failovers.
pub(crate) const QUARANTINED: u64 = 1;

pub(crate) fn start(scene: &Arc<Scene>, tasks: &mut JoinSet<()>, draw: &mut impl FnMut() -> StdRng) {
    for _ in 0..TASKS {
        tasks.spawn(contend(scene.clone(), draw()));
    }
}

async fn contend(scene: Arc<Scene>, mut rng: StdRng) {
    while scene.goes_on() {
        let thing = Thing { number: rng.random_range(THINGS), weight: 1 };
        let lock = scene.larder.lock(format!("gate-{}", thing.number)).ttl(TTL);
        let lock = if thing.number == QUARANTINED && scene.fails_over { lock.quarantine(TTL) } else { lock };
        let kept = rng.random_bool(0.5);
        let lock = if kept { lock.keep_alive() } else { lock };
        let (max_wait, limit) = max_wait(&mut rng);
        let call = lock.acquire_within(max_wait);
        let Some((number, guard)) = attempt(&scene, thing, max_wait, limit, call.into_future()).await else {
            rest(&mut rng).await;
            continue;
        };
        hold(&scene, thing, number, &guard, span(&mut rng)).await;
        if rng.random_bool(0.05) {
            let _ = guard.extend(TTL).await;
            scene.note("extended", &[thing.number]);
            hold(&scene, thing, number, &guard, span(&mut rng)).await;
        }
        part(&scene, thing, number, guard, &mut rng).await;
        rest(&mut rng).await;
    }
}
