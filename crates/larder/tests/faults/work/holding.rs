//! The common part of locks, permits, read-write locks and leaderships: a task waits for them, holds them, and frees
//! them.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use larder::Result;

use larder::lock::{GroupGuard, Guard, Leadership, RwLockReadGuard, RwLockWriteGuard, SemaphorePermit};
use larder_testkit::history::Notebook;
use rand::RngExt;
use rand::rngs::StdRng;

use super::Scene;

/// A thing that tasks wait for: its number in the notes, and how much of it an attempt takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Thing {
    pub(crate) number: u64,
    pub(crate) weight: u64,
}

/// Something that is held for a time.
pub(crate) trait Holding: Sized {
    fn valid(&self) -> bool;
    fn number(&self) -> u64;
    async fn until_lost(&self);
    async fn free(self);
}

macro_rules! holding {
    ($guard:ty, $free:ident, |$it:ident| $fence:expr) => {
        impl Holding for $guard {
            fn valid(&self) -> bool {
                self.is_valid()
            }

            fn number(&self) -> u64 {
                let $it = self;
                $fence
            }

            async fn until_lost(&self) {
                self.lost().await;
            }

            async fn free(self) {
                let _ = self.$free().await;
            }
        }
    };
}

holding!(Guard, release, |it| it.fence().get());
holding!(Leadership, resign, |it| it.fence().get());
holding!(RwLockWriteGuard, release, |it| it.fence().get());
holding!(GroupGuard, release, |it| super::groups::fence_of(it));
holding!(RwLockReadGuard, release, |_it| 0);
holding!(SemaphorePermit, release, |_it| 0);

tokio::task_local! {
    /// The attempt that is being polled.
    static ATTEMPT: (u64, u64);
}

/// Notes that an attempt is queued, from larder's event.
pub(crate) struct Ear(pub(crate) Arc<Notebook>);

impl tracing::Subscriber for Ear {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::TRACE && metadata.target() == "larder::lock"
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        let _ = ATTEMPT.try_with(|(thing, number)| {
            self.0.note("queued", &[*thing, *number, self.0.now()]).unwrap();
        });
    }
}

/// Makes an attempt that waits for `max_wait`, and drops it after `limit`. Notes its outcome.
pub(crate) async fn attempt<H: Holding>(
    scene: &Scene,
    thing: Thing,
    max_wait: Duration,
    limit: Duration,
    call: impl Future<Output = Result<H>>,
) -> Option<(u64, H)> {
    let number = scene.next_attempt();
    let asked = scene.now();
    scene.note("asked", &[thing.number, number, asked, thing.weight]);
    // The call is dropped only after its end has been noted.
    let mut call = pin!(ATTEMPT.scope((thing.number, number), call));
    let outcome = tokio::select! {
        outcome = &mut call => Some(outcome),
        () = tokio::time::sleep(limit) => None,
    };
    let gave_up = |at: u64| scene.note("gave_up", &[thing.number, number, at]);
    match outcome {
        Some(Ok(held)) => {
            scene.note("granted", &[thing.number, number, held.number(), scene.now()]);
            return Some((number, held));
        }
        // The wait began after the attempt was noted. The two clocks may differ a little.
        Some(Err(error)) if error.kind() == larder::ErrorKind::LockHeld => {
            let waited = max_wait.saturating_sub(Duration::from_millis(5));
            gave_up(asked + u64::try_from(waited.as_nanos()).unwrap_or(0));
        }
        // The time at which the call failed is not known.
        Some(Err(_)) => gave_up(asked),
        None => gave_up(scene.now()),
    }
    None
}

/// Holds it for `span`, or until it is lost, and notes when it was certainly valid.
pub(crate) async fn hold<H: Holding>(scene: &Scene, thing: Thing, number: u64, held: &H, span: Duration) {
    let (begin, end) = (scene.now(), scene.now() + u64::try_from(span.as_nanos()).unwrap());
    let mut noted = 0;
    loop {
        let at = scene.now();
        if !held.valid() {
            break;
        }
        let last = at >= end;
        if noted == 0 || last || at - noted > 5_000_000 {
            scene.note("held", &[thing.number, number, at]);
            noted = at;
        }
        if last {
            return;
        }
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
    // L3: a lost guard stays lost, and notifies its holder.
    tokio::time::sleep(Duration::from_millis(1)).await;
    let told = tokio::time::timeout(Duration::from_millis(100), held.until_lost()).await.is_ok();
    scene.note("lost", &[thing.number, u64::from(held.valid()), u64::from(told), begin, scene.now()]);
}

/// Frees it by a call or by its drop.
pub(crate) async fn part<H: Holding>(scene: &Scene, thing: Thing, number: u64, held: H, rng: &mut StdRng) {
    let frees = rng.random_bool(0.7);
    scene.note("parting", &[thing.number, number, scene.now(), u64::from(frees)]);
    if frees {
        held.free().await;
    }
    scene.note("parted", &[thing.number]);
}

/// Draws a time to hold: mostly a moment, sometimes longer than the time to live.
pub(crate) fn span(rng: &mut StdRng) -> Duration {
    Duration::from_micros(if rng.random_bool(0.01) { 500_000 } else { rng.random_range(0..4000) })
}

/// Draws how long an attempt waits, and when it is dropped.
pub(crate) fn max_wait(rng: &mut StdRng) -> (Duration, Duration) {
    let cancelled = Duration::from_micros(rng.random_range(100..200_000));
    let limit = if rng.random_bool(0.2) { cancelled } else { crate::fleet::LIMIT };
    (Duration::from_millis(rng.random_range(1..2000)), limit)
}

/// Pauses between two attempts of a task, so that the machine has time for all tasks.
pub(crate) async fn rest(rng: &mut StdRng) {
    tokio::time::sleep(Duration::from_micros(rng.random_range(0..20_000))).await;
}
