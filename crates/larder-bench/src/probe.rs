//! One operation of one contender, run a number of times by one task on one thread: the unit of `count`.

use std::hint::black_box;

use crate::bare::Bare;
use crate::item::{ITEMS, Item};
use crate::lane::{BATCH, Complete, Outcome};
use crate::ours::Ours;
use crate::rounds::Flavour;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Larder,
    Bare,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Probe {
    GetHit,
    GetMiss,
    Set,
    Exists,
    Delete,
    GetMany,
}

impl Probe {
    pub(crate) const ALL: [Self; 6] =
        [Self::GetHit, Self::GetMiss, Self::Set, Self::Exists, Self::Delete, Self::GetMany];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::GetHit => "get-hit",
            Self::GetMiss => "get-miss",
            Self::Set => "set",
            Self::Exists => "exists",
            Self::Delete => "delete",
            Self::GetMany => "get_many",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|probe| probe.name() == name)
    }
}

impl Side {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Larder => "larder",
            Self::Bare => "bare",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        [Self::Larder, Self::Bare].into_iter().find(|side| side.name() == name)
    }

    /// Connects, stores `2 × ITEMS` items, warms up, and then calls `measured` around the operations themselves, at
    /// most [`ITEMS`] of them.
    pub(crate) fn run<T>(
        self,
        url: &str,
        probe: Probe,
        times: u64,
        measured: impl FnOnce(&mut dyn FnMut() -> Outcome<()>) -> Outcome<T>,
    ) -> Outcome<T> {
        match self {
            Self::Larder => run(async || Ours::connect(url).await, probe, times, measured),
            Self::Bare => run(async || Bare::connect(url).await, probe, times, measured),
        }
    }
}

fn run<C: Complete, T>(
    connect: impl AsyncFnOnce() -> Outcome<C>,
    probe: Probe,
    times: u64,
    measured: impl FnOnce(&mut dyn FnMut() -> Outcome<()>) -> Outcome<T>,
) -> Outcome<T> {
    let items = Item::all();
    let runtime = Flavour::CurrentThread.build()?;
    let mut contender = runtime.block_on(async {
        let mut contender = connect().await?;
        for (id, item) in (0..).zip(items.iter().chain(&items)) {
            contender.set(id, item).await?;
        }
        Outcome::Ok(contender)
    })?;
    // Warming up uses other items than the measurement, because a delete works only once.
    runtime.block_on(repeat(&mut contender, probe, &items, ITEMS..ITEMS + 200))?;
    measured(&mut || runtime.block_on(repeat(&mut contender, probe, &items, 0..times)))
}

async fn repeat<C: Complete>(
    contender: &mut C,
    probe: Probe,
    items: &[Item],
    ids: std::ops::Range<u64>,
) -> Outcome<()> {
    for (id, item) in ids.zip(items.iter().cycle()) {
        let as_expected = match probe {
            Probe::GetHit => black_box(contender.get(id).await?).is_some(),
            Probe::GetMiss => black_box(contender.get(id + 2 * ITEMS).await?).is_none(),
            Probe::Set => contender.set(id, item).await.map(|()| true)?,
            Probe::Exists => contender.exists(id).await?,
            Probe::Delete => contender.delete(id).await?,
            Probe::GetMany => {
                let found = contender.get_many(id..id + BATCH).await?;
                found.len() as u64 == BATCH && black_box(found).iter().all(Option::is_some)
            }
        };
        if !as_expected {
            return Err(format!("{} did not find what was stored", probe.name()).into());
        }
    }
    Ok(())
}
