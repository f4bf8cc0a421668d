//! The time of a test's world. It moves when the test says so, and takes tokio's timers along.
//!
//! If tokio's time was paused when the world was made, the world's time follows tokio's: a sleep in the test moves
//! both. Otherwise it stands still except during [`pass`](WorldTime::pass), which pauses tokio's time while it runs.
//! tokio then jumps from timer to timer, so what larder does meanwhile (renewals, heartbeats) happens at its own time.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::{Handle, Id, RuntimeFlavor};
use tokio::task::yield_now;
use tokio::time::Instant;

/// Where the time of a world begins: not at zero, so that a point before its start can be computed.
const START: Duration = Duration::from_secs(24 * 3600);
/// How many turns the other tasks get to react to the new time.
const TURNS: usize = 100;
/// How long tokio's clock is watched to see whether it is paused.
const PROBE: Duration = Duration::from_micros(20);

/// The time that all clocks of a world show, apart from their differences.
#[derive(Debug)]
pub(crate) struct WorldTime {
    passing: Mutex<Passing>,
    /// Whether the time follows tokio's outside of `pass`, too.
    follows: bool,
    /// Held while time passes, so that two calls pass it one after the other.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Passing {
    /// The world's time when `since` was set.
    base: Duration,
    /// The runtime and the point of its time from which on the time moves; `None` while it stands still.
    since: Option<(Id, Instant)>,
    /// The end of the call of `pass` that runs. tokio's timers are a millisecond late at most, the world's time is not.
    end: Duration,
    /// The last time that was read. A thread without this runtime cannot read its clock, and gets this.
    last: Duration,
}

impl Passing {
    fn now(&mut self) -> Duration {
        let here = Handle::try_current().ok().map(|runtime| runtime.id());
        if let Some((home, since)) = self.since
            && here == Some(home)
        {
            let passed = Instant::now().saturating_duration_since(since);
            self.last = self.last.max(self.base.saturating_add(passed).min(self.end));
        }
        self.last
    }

    /// Makes the time `base` from now on. `home` is the runtime whose time it then follows.
    fn set(&mut self, base: Duration, home: Option<Id>, end: Duration) {
        let since = home.map(|home| (home, Instant::now()));
        *self = Self { base, since, end, last: base };
    }
}

impl WorldTime {
    pub(crate) fn start() -> Self {
        let follows = is_paused();
        let mut passing = Passing { base: START, since: None, end: Duration::MAX, last: START };
        passing.set(START, current().filter(|_| follows), Duration::MAX);
        Self { passing: Mutex::new(passing), follows, turn: tokio::sync::Mutex::default() }
    }

    pub(crate) fn now(&self) -> Duration {
        self.passing().now()
    }

    /// Lets time pass, and what is due in it happen.
    pub(crate) async fn pass(&self, span: Duration) {
        let _turn = self.turn.lock().await;
        let Some(home) = current_if_movable() else {
            // The timers of several threads cannot be moved: only the world's time is.
            settle().await;
            self.skip(span);
            settle().await;
            return;
        };
        // Dropped in the opposite order: the world's time is set first, while tokio's still stands.
        let _paused = Paused::begin();
        let _passage = Passage::begin(self, span, home);
        tokio::time::sleep(span).await;
        settle().await;
    }

    fn skip(&self, span: Duration) {
        let mut passing = self.passing();
        let (now, since) = (passing.now(), passing.since);
        passing.set(now.saturating_add(span), since.map(|(home, _)| home), Duration::MAX);
    }

    fn passing(&self) -> MutexGuard<'_, Passing> {
        self.passing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the movement of the world's time, also if the call of `pass` is dropped.
struct Passage<'a> {
    time: &'a WorldTime,
    home: Id,
}

impl<'a> Passage<'a> {
    fn begin(time: &'a WorldTime, span: Duration, home: Id) -> Self {
        let mut passing = time.passing();
        let now = passing.now();
        passing.set(now, Some(home), now.saturating_add(span));
        Self { time, home }
    }
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        let mut passing = self.time.passing();
        let now = passing.now();
        passing.set(now, self.time.follows.then_some(self.home), Duration::MAX);
    }
}

/// Keeps tokio's time paused, unless the test has done so.
struct Paused;

impl Paused {
    fn begin() -> Option<Self> {
        (!is_paused()).then(|| {
            tokio::time::pause();
            Self
        })
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        // `resume` panics if the time is not paused, or outside a runtime.
        if current().is_some() && is_paused() {
            tokio::time::resume();
        }
    }
}

fn current() -> Option<Id> {
    Handle::try_current().ok().map(|runtime| runtime.id())
}

/// Returns the current runtime if its time can be paused: it has one thread.
fn current_if_movable() -> Option<Id> {
    let runtime = Handle::try_current().ok()?;
    (runtime.runtime_flavor() == RuntimeFlavor::CurrentThread).then(|| runtime.id())
}

/// Whether tokio's time stands still. tokio does not say so: watch it while the machine's time moves.
fn is_paused() -> bool {
    let (tokio, machine) = (Instant::now(), std::time::Instant::now());
    while machine.elapsed() < PROBE {
        std::hint::spin_loop();
    }
    Instant::now() == tokio
}

/// Lets the other tasks run until they wait.
async fn settle() {
    for _ in 0..TURNS {
        yield_now().await;
    }
}
