//! What is timed: one contender running one operation over and over in a number of tasks.

use std::error::Error;
use std::hint::black_box;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::task::JoinSet;

use crate::item::{ITEMS, Item};

pub(crate) type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Keys of one `get_many`.
pub(crate) const BATCH: u64 = 100;

/// A way to cache items on a server. Each task has a clone of its own.
pub(crate) trait Contender: Clone + Send + Sync + 'static {
    fn get(&mut self, id: u64) -> impl Future<Output = Outcome<Option<Item>>> + Send;
    fn set(&mut self, id: u64, item: &Item) -> impl Future<Output = Outcome<()>> + Send;
}

/// A contender that supports everything that is counted.
pub(crate) trait Complete: Contender {
    fn exists(&mut self, id: u64) -> impl Future<Output = Outcome<bool>> + Send;
    fn delete(&mut self, id: u64) -> impl Future<Output = Outcome<bool>> + Send;
    fn get_many(
        &mut self,
        ids: impl Iterator<Item = u64> + Send,
    ) -> impl Future<Output = Outcome<Vec<Option<Item>>>> + Send;
}

/// Stores every item once, so that every `get` is a hit.
pub(crate) async fn fill<C: Contender>(contender: &C) -> Outcome<()> {
    let mut contender = contender.clone();
    for (id, item) in (0..).zip(Item::all()) {
        contender.set(id, &item).await?;
    }
    Ok(())
}

pub(crate) type Work = Pin<Box<dyn Future<Output = Outcome<()>> + Send>>;

/// The clock of a lane.
#[derive(Debug, Clone, Copy)]
enum Clock {
    Wall,
    Processor,
}

impl Clock {
    fn now(self) -> Duration {
        let clock = match self {
            Self::Wall => ClockId::Monotonic,
            Self::Processor => ClockId::ProcessCPUTime,
        };
        let now = clock_gettime(clock);
        Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
    }
}

/// A contender that runs one operation in a number of tasks.
pub(crate) struct Lane {
    pub(crate) name: &'static str,
    tasks: u64,
    /// How many times as many operations it runs as the first lane.
    times: u64,
    clock: Clock,
    work: Box<dyn Fn(Ids) -> Work>,
}

impl Lane {
    /// Every operation is a hit.
    pub(crate) fn get<C: Contender>(name: &'static str, contender: &C, tasks: u64) -> Self {
        let contender = contender.clone();
        Self::new(name, tasks, move |ids| {
            let mut contender = contender.clone();
            Box::pin(async move {
                for id in ids {
                    let item = contender.get(id).await?.ok_or("a stored item is gone")?;
                    black_box(item);
                }
                Ok(())
            })
        })
    }

    pub(crate) fn set<C: Contender>(name: &'static str, contender: &C, tasks: u64) -> Self {
        let (contender, items) = (contender.clone(), Arc::new(Item::all()));
        Self::new(name, tasks, move |ids| {
            let (mut contender, items) = (contender.clone(), items.clone());
            Box::pin(async move {
                for id in ids {
                    let item = usize::try_from(id).ok().and_then(|id| items.get(id)).ok_or("no such item")?;
                    contender.set(id, item).await?;
                }
                Ok(())
            })
        })
    }

    /// [`BATCH`] hits an operation.
    pub(crate) fn get_many<C: Complete>(name: &'static str, contender: &C, tasks: u64) -> Self {
        let contender = contender.clone();
        Self::new(name, tasks, move |ids| {
            let mut contender = contender.clone();
            Box::pin(async move {
                for first in ids {
                    let batch = (first..first + BATCH).map(|id| id % ITEMS);
                    let items = contender.get_many(batch).await?;
                    if items.iter().any(Option::is_none) {
                        return Err("a stored item is gone".into());
                    }
                    black_box(items);
                }
                Ok(())
            })
        })
    }

    pub(crate) fn new(name: &'static str, tasks: u64, work: impl Fn(Ids) -> Work + 'static) -> Self {
        Self { name, tasks, times: 1, clock: Clock::Wall, work: Box::new(work) }
    }

    /// The same with this many times the operations: for a contender that is so much faster that its time would be too
    /// short to measure.
    #[must_use]
    pub(crate) fn times(self, times: u64) -> Self {
        Self { times, ..self }
    }

    /// The same, timed by the processor time of all threads of this process: for a contender that never waits. Then
    /// this is the time that it takes on an idle machine, and a busy machine hardly changes it.
    #[must_use]
    pub(crate) fn computing(self) -> Self {
        Self { clock: Clock::Processor, ..self }
    }

    /// Runs `each` times `times` operations in every task, and returns the time until all tasks are done.
    pub(crate) async fn run(&self, each: u64) -> Outcome<Duration> {
        let began = self.clock.now();
        let mut running = JoinSet::new();
        for task in 0..self.tasks {
            running.spawn((self.work)(Ids { next: task * 37, left: each * self.times }));
        }
        while let Some(done) = running.join_next().await {
            done??;
        }
        Ok(self.clock.now().saturating_sub(began))
    }

    /// Operations of all tasks for each operation of one task of the first lane.
    pub(crate) fn operations(&self) -> u64 {
        self.tasks * self.times
    }
}

/// The ids that one task goes through: all of them, in an order that differs from the server's.
pub(crate) struct Ids {
    next: u64,
    left: u64,
}

impl Ids {
    /// The position where this task begins, different for each task, and the number of ids.
    pub(crate) fn start_and_count(&self) -> (u64, u64) {
        (self.next, self.left)
    }
}

impl Iterator for Ids {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.left = self.left.checked_sub(1)?;
        self.next = (self.next + 7) % ITEMS;
        Some(self.next)
    }
}
