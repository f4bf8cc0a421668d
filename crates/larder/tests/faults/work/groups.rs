//! Lock groups: sets of locks that overlap, each taken as a whole or not at all.

use std::sync::Arc;
use std::time::Duration;

use larder::lock::GroupGuard;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::task::JoinSet;

use super::Scene;
use super::holding::{Thing, attempt, hold, max_wait, part, rest, span};

const TTL: Duration = Duration::from_millis(400);
/// Tasks of a process; more if only groups are used.
const TASKS: usize = 2;
const MANY: usize = 8;
/// The set is noted as a weight: a bit for each lock.
pub(crate) const THING: u64 = 60;
pub(crate) const LOCKS: [&str; 16] =
    ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p"];
/// An attempt waits so long at most. One that waits for longer while nothing fails is in a deadlock.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(15);
/// The largest set.
const MOST: usize = 4;

pub(crate) fn start(scene: &Arc<Scene>, tasks: &mut JoinSet<()>, draw: &mut impl FnMut() -> StdRng) {
    for _ in 0..if scene.what.is_only("groups") { MANY } else { TASKS } {
        tasks.spawn(contend(scene.clone(), draw()));
    }
}

async fn contend(scene: Arc<Scene>, mut rng: StdRng) {
    let group = scene.larder.lock_group("order");
    while scene.goes_on() {
        let mut set = 0_u64;
        for _ in 0..rng.random_range(1..=MOST) {
            set |= 1 << rng.random_range(0..LOCKS.len());
        }
        let names = LOCKS.iter().enumerate().filter(|(bit, _)| set >> bit & 1 == 1).map(|(_, name)| *name);
        let thing = Thing { number: THING, weight: set };
        let (short, limit) = max_wait(&mut rng);
        let max_wait = if rng.random_bool(0.1) { short } else { MAX_WAIT };
        let locks = group.locks(names).ttl(TTL);
        let call = locks.acquire_within(max_wait).into_future();
        if let Some((number, guard)) = attempt(&scene, thing, max_wait, limit, call).await {
            // Rarely for longer than the time to live: the others wait for it, and for each other.
            let span = if rng.random_bool(0.05) { span(&mut rng) } else { Duration::ZERO };
            hold(&scene, thing, number, &guard, span).await;
            part(&scene, thing, number, guard, &mut rng).await;
        }
        rest(&mut rng).await;
    }
}

/// The number of the grant, which all locks of the set share.
pub(super) fn fence_of(guard: &GroupGuard) -> u64 {
    LOCKS.iter().find_map(|name| guard.fence(name)).map_or(0, larder::lock::Fence::get)
}
