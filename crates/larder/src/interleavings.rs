//! Explores the interleavings of larder's threads.
//!
//! The problem: `larder-models` checks the protocols and not the code, and a test sees only the orders that the
//! machine's scheduler happens to choose. The mechanism: with `--cfg larder_interleavings` the locks and atomics of
//! `sync.rs`, and those of quick_cache, are shuttle's. shuttle runs a scenario many times, and decides at each lock and
//! atomic which thread continues: at random, and by PCT (Burckhardt et al., "A Randomized Scheduler with Probabilistic
//! Guarantees of Finding Bugs", ASPLOS 2010). The tests check that larder keeps its promises in every schedule that was
//! tried, and that each known mistake breaks one. The scenarios are in `cache/interleavings`, `near/interleavings` and
//! `store/interleavings.rs`.
//!
//! Not explored: memory orders weaker than sequential consistency; the inside of tokio's channels and locks, of which
//! each operation is one step here; anything that awaits the network; code that uses other locks than those of
//! `sync.rs`.
//!
//! `cargo xtask test` runs them, or by hand:
//!
//! ```sh
//! RUSTFLAGS="--cfg larder_interleavings" cargo test -p larder --lib --no-default-features \
//!     --profile interleavings --target-dir target/interleavings interleavings
//! ```
//!
//! The other tests fail with that cfg, because shuttle's locks work only in a scenario.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, FailurePersistence, Runner};

/// For each scheduler.
const SCHEDULES: usize = 10_000;
const SEED: u64 = 0x1a2d_e201;
/// The most switches to another thread in one schedule of PCT.
const CHANGES: usize = 4;

#[derive(Debug, Clone, Copy)]
enum By {
    Random,
    Pct,
}

/// Runs a scenario in many schedules. Panics if the scenario does, or if a thread would wait forever.
pub(crate) fn holds(name: &str, scenario: impl Fn() + Copy + Send + Sync + 'static) {
    for by in [By::Random, By::Pct] {
        let started = Instant::now();
        let schedules = run(by, FailurePersistence::Print, scenario);
        assert_eq!(schedules, SCHEDULES, "{name}: the exploration ended early");
        let seconds = started.elapsed().as_secs_f64();
        println!("{name}: {schedules} schedules, {by:?}, seed {SEED:#x}, {seconds:.1} s");
    }
}

/// Searches for a schedule in which a scenario panics with one of these promises. Panics if neither scheduler
/// finds one.
pub(crate) fn breaks(name: &str, promises: &[&str], scenario: impl Fn() + Copy + Send + Sync + 'static) {
    let found = [By::Random, By::Pct].map(|by| {
        let tried = Arc::new(AtomicUsize::new(0));
        let counted = tried.clone();
        let run = AssertUnwindSafe(|| {
            run(by, FailurePersistence::None, move || {
                counted.fetch_add(1, Ordering::Relaxed);
                scenario();
            })
        });
        let caught = catch_unwind(run).err().map(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned())).unwrap_or_default()
        });
        if let Some(text) = &caught {
            let known = promises.iter().any(|promise| text.contains(promise));
            assert!(known, "{name}: broke something else than {promises:?}: {text}");
            let tried = tried.load(Ordering::Relaxed);
            println!("{name}: broken in schedule {tried}, {by:?}, seed {SEED:#x}");
        }
        caught.is_some()
    });
    assert!(found.contains(&true), "{name}: nothing breaks {promises:?} in {SCHEDULES} schedules of each");
}

fn run(
    by: By,
    failure_persistence: FailurePersistence,
    scenario: impl Fn() + Send + Sync + 'static,
) -> usize {
    let mut config = Config::new();
    config.failure_persistence = failure_persistence;
    // It warns of weaker memory orders, which the documentation of this module excludes.
    config.silence_warnings = true;
    match by {
        By::Random => Runner::new(RandomScheduler::new_from_seed(SEED, SCHEDULES), config).run(scenario),
        By::Pct => Runner::new(PctScheduler::new_from_seed(SEED, CHANGES, SCHEDULES), config).run(scenario),
    }
}
