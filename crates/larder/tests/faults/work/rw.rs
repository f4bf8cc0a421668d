//! Read-write locks: many readers, few writers.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use tokio::task::JoinSet;

use super::Scene;
use super::holding::{Thing, attempt, hold, max_wait, part, rest, span};

const TTL: Duration = Duration::from_millis(400);
/// Tasks of a process, each of which writes now and then.
const TASKS: usize = 4;
/// The tasks of a process if only read-write locks are used: eight processes have 64 readers, and 8 writers that do not
/// read.
const READERS: usize = 8;
const WRITERS: usize = 1;
pub(crate) const THING: u64 = 20;
/// The weight of a writer.
pub(crate) const ALL: u64 = 65_535;

pub(crate) fn start(scene: &Arc<Scene>, tasks: &mut JoinSet<()>, draw: &mut impl FnMut() -> StdRng) {
    if scene.what.is_only("rw") {
        for _ in 0..READERS {
            tasks.spawn(contend(scene.clone(), 0.0, draw()));
        }
        for _ in 0..WRITERS {
            tasks.spawn(contend(scene.clone(), 1.0, draw()));
        }
        return;
    }
    for _ in 0..TASKS {
        tasks.spawn(contend(scene.clone(), 0.2, draw()));
    }
}

async fn contend(scene: Arc<Scene>, writes: f64, mut rng: StdRng) {
    let lock = scene.larder.rw_lock("catalogue").ttl(TTL);
    while scene.goes_on() {
        let (max_wait, limit) = max_wait(&mut rng);
        if rng.random_bool(writes) {
            let thing = Thing { number: THING, weight: ALL };
            let call = lock.write_within(max_wait).into_future();
            if let Some((number, guard)) = attempt(&scene, thing, max_wait, limit, call).await {
                hold(&scene, thing, number, &guard, span(&mut rng)).await;
                part(&scene, thing, number, guard, &mut rng).await;
            }
        } else {
            let thing = Thing { number: THING, weight: 1 };
            let call = lock.read_within(max_wait).into_future();
            if let Some((number, guard)) = attempt(&scene, thing, max_wait, limit, call).await {
                hold(&scene, thing, number, &guard, 2 * span(&mut rng)).await;
                part(&scene, thing, number, guard, &mut rng).await;
            }
        }
        rest(&mut rng).await;
    }
}
