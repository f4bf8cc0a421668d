//! Elections: each process campaigns, leads for a moment, and resigns or goes without a word.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use tokio::task::JoinSet;

use super::Scene;
use super::holding::{Thing, attempt, hold, max_wait, part, rest};

pub(crate) const TTL: Duration = Duration::from_millis(500);
pub(crate) const THINGS: std::ops::Range<u64> = 30..34;

pub(crate) fn start(scene: &Arc<Scene>, tasks: &mut JoinSet<()>, draw: &mut impl FnMut() -> StdRng) {
    for number in THINGS {
        tasks.spawn(campaign(scene.clone(), number, draw()));
        tasks.spawn(look(scene.clone(), number, draw()));
    }
}

async fn campaign(scene: Arc<Scene>, number: u64, mut rng: StdRng) {
    let election = scene.larder.election(format!("role-{number}")).ttl(TTL);
    let thing = Thing { number, weight: 1 };
    while scene.goes_on() {
        let (max_wait, limit) = max_wait(&mut rng);
        let limit = limit.min(2 * max_wait);
        let Some((number, lead)) = attempt(&scene, thing, limit, limit, election.campaign()).await else {
            rest(&mut rng).await;
            continue;
        };
        let span = Duration::from_millis(if rng.random_bool(0.02) { 900 } else { rng.random_range(0..120) });
        hold(&scene, thing, number, &lead, span).await;
        part(&scene, thing, number, lead, &mut rng).await;
    }
}

/// Who leads, as others see it.
async fn look(scene: Arc<Scene>, number: u64, mut rng: StdRng) {
    let election = scene.larder.election(format!("role-{number}"));
    while scene.goes_on() {
        let start = scene.now();
        if let Ok(leader) = election.leader().await {
            let fence = leader.map_or(0, |leader| leader.fence.get());
            scene.note("leader", &[number, start, scene.now(), fence]);
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(20..80))).await;
    }
}
