//! Read-write locks: many readers, few writers.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use tokio::task::JoinSet;

use super::Scene;
use super::holding::{Thing, attempt, hold, part, patience, rest, span};

const TTL: Duration = Duration::from_millis(400);
const TASKS: usize = 4;
pub(crate) const THING: u64 = 20;
/// What a writer takes.
pub(crate) const ALL: u64 = 65_535;

pub(crate) fn start(scene: &Arc<Scene>, tasks: &mut JoinSet<()>, draw: &mut impl FnMut() -> StdRng) {
    for _ in 0..TASKS {
        tasks.spawn(contend(scene.clone(), draw()));
    }
}

async fn contend(scene: Arc<Scene>, mut rng: StdRng) {
    let lock = scene.larder.rw_lock("catalogue").ttl(TTL);
    while scene.goes_on() {
        let (patience, limit) = patience(&mut rng);
        if rng.random_bool(0.2) {
            let thing = Thing { number: THING, weight: ALL };
            let call = lock.write_within(patience);
            let Some((number, guard)) = attempt(&scene, thing, patience, limit, call.into_future()).await
            else {
                rest(&mut rng).await;
                continue;
            };
            hold(&scene, thing, number, &guard, span(&mut rng)).await;
            part(&scene, thing, guard, &mut rng).await;
        } else {
            let thing = Thing { number: THING, weight: 1 };
            let call = lock.read_within(patience);
            let Some((number, guard)) = attempt(&scene, thing, patience, limit, call.into_future()).await
            else {
                rest(&mut rng).await;
                continue;
            };
            hold(&scene, thing, number, &guard, 2 * span(&mut rng)).await;
            part(&scene, thing, guard, &mut rng).await;
        }
        rest(&mut rng).await;
    }
}
