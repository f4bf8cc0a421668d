//! How fast a near hit is.
//!
//! moka and amalgam-cache keep decoded values, as larder does; the others keep bytes. amalgam-cache has no second tier
//! here, and moka is a library for caches in one process, so neither learns of a write by another one.

use std::hint::black_box;
use std::sync::Arc;

use super::super::multi_tier::TwoTiers;
use super::super::rustis_cache::Rustis;
use super::NearCache;
use crate::item::Item;
use crate::lane::{Lane, Outcome};
use crate::near_hits::{self, BareNear};
use crate::ours::TTL;
use crate::rounds::{Flavour, compare};
use crate::table::{Table, interval, ratio, spread};
use crate::zipf::Draws;

/// Operations for each one that decodes: of a lookup, and of one that returns bytes. A lane that ran for seconds would
/// delay the connections, which share its thread.
const LOOKUPS: u64 = 100;
const COPIES: u64 = 5;
/// The tiers of the rivals hold this many keys by default.
const KEYS: u64 = 2_000;

pub(super) fn table(rounds: usize) -> Outcome<String> {
    eprintln!("near-rivals: hits");
    let mut table = Table::new(&["near hit, 1 thread", "ns of a processor", "time / bare", "95 % interval"]);
    let draws = Draws::of(KEYS);
    let standings = compare(Flavour::CurrentThread, rounds, async |url| lanes(url, &draws).await)?;
    for standing in &standings {
        let time = standing.ratio.inverted(1.0);
        table.row(&[
            standing.name,
            &spread(standing.rate.inverted(1e9)),
            &ratio(time.median),
            &interval(time),
        ]);
    }
    Ok(table.finish())
}

async fn lanes(url: &str, draws: &Draws) -> Outcome<Vec<Lane>> {
    let bare = BareNear::filled(KEYS)?;
    let ours = near_hits::NearCache::filled(url, KEYS).await?;
    let (rustis, tiers) = (Rustis::connect(url).await?, TwoTiers::connect(url).await?);
    for id in 0..KEYS {
        rustis.set(id, &Item::new(id)).await?;
        rustis.get(id).await?.ok_or("a stored item is gone")?;
        tiers.set(id, &Item::new(id)).await?;
    }
    // Lanes on copies of decoded values, then those that keep bytes, with and without decoding.
    let mut lanes = vec![
        bare.lane("bare `quick_cache`", draws, 1).times(LOOKUPS),
        ours.get_lane("larder, `get` of an `Arc`", draws, 1).times(LOOKUPS / 2),
        ours.text_lane("larder, `get` by text", draws, 1).times(LOOKUPS / 2),
        ours.get_or_load_lane("larder, `get_or_load` of an `Arc`", draws, 1).times(LOOKUPS / 2),
    ];
    lanes.push(of_moka(draws));
    lanes.push(of_amalgam(draws).await?);
    let (cache, walked) = (rustis.clone(), draws.clone());
    let lane = Lane::new("rustis, bytes", 1, move |ids| {
        let (cache, walk) = (cache.clone(), walked.walk(&ids));
        Box::pin(async move {
            for id in walk {
                black_box(cache.bytes(id).await?.ok_or("a near copy is gone")?);
            }
            Ok(())
        })
    });
    lanes.push(lane.computing().times(COPIES));
    lanes.push(typed("rustis, decoded by serde_json", rustis, draws));
    let (cache, walked) = (tiers.clone(), draws.clone());
    let lane = Lane::new("multi-tier-cache, bytes", 1, move |ids| {
        let (cache, walk) = (cache.clone(), walked.walk(&ids));
        Box::pin(async move {
            for id in walk {
                black_box(cache.bytes(id).await?.ok_or("a near copy is gone")?);
            }
            Ok(())
        })
    });
    lanes.push(lane.computing().times(COPIES));
    lanes.push(typed("multi-tier-cache, `get_typed`", tiers, draws));
    Ok(lanes)
}

fn names() -> Arc<[String]> {
    (0..KEYS).map(|id| format!("item-{id}")).collect()
}

fn of_moka(draws: &Draws) -> Lane {
    let (copies, names, draws) = (moka::sync::Cache::new(2 * KEYS), names(), draws.clone());
    for (id, name) in (0..).zip(names.iter()) {
        copies.insert(name.clone(), Arc::new(Item::new(id)));
    }
    Lane::new("moka, `sync`", 1, move |ids| {
        let (copies, names, walk) = (copies.clone(), names.clone(), draws.walk(&ids));
        Box::pin(async move {
            for id in walk {
                let name = names.get(usize::try_from(id)?).ok_or("no such key")?;
                black_box(copies.get(name.as_str()).ok_or("a copy is gone")?);
            }
            Ok(())
        })
    })
    .computing()
    .times(LOOKUPS / 2)
}

async fn of_amalgam(draws: &Draws) -> Outcome<Lane> {
    let copies: amalgam::Cache<Arc<Item>> = amalgam::Cache::builder().try_build()?;
    let (names, draws) = (names(), draws.clone());
    for (id, name) in (0..).zip(names.iter()) {
        let item = Arc::new(Item::new(id));
        copies.set(name.as_str(), item).options(|options| options.with_duration(TTL)).await?;
    }
    let lane = Lane::new("amalgam-cache, `try_get`", 1, move |ids| {
        let (copies, names, walk) = (copies.clone(), names.clone(), draws.walk(&ids));
        Box::pin(async move {
            for id in walk {
                let name = names.get(usize::try_from(id)?).ok_or("no such key")?;
                black_box(copies.try_get(name.as_str()).await?.ok_or("a copy is gone")?);
            }
            Ok(())
        })
    });
    Ok(lane.computing().times(LOOKUPS / 2))
}

fn typed<N: NearCache>(name: &'static str, cache: N, draws: &Draws) -> Lane {
    let draws = draws.clone();
    Lane::new(name, 1, move |ids| {
        let (cache, walk) = (cache.clone(), draws.walk(&ids));
        Box::pin(async move {
            for id in walk {
                black_box(cache.get(id).await?.ok_or("a near copy is gone")?);
            }
            Ok(())
        })
    })
    .computing()
}
