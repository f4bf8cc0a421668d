//! Local time that goes on during suspend, and that tests can set.
//!
//! `std::time::Instant` stops during suspend on Linux: a deadline measured with it would still seem far away when the
//! laptop wakes up. CLOCK_BOOTTIME does not stop. Setting the wall clock affects neither.
//! Only the age of near copies also counts on that: see [`coarse`].

#[cfg(feature = "testing")]
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

#[cfg(feature = "testing")]
pub(crate) use world::WorldTime;

/// Returns by how much the clocks of two machines may disagree about a span: their rates differ by far less than a
/// thousandth.
pub(crate) fn drift(span: Duration) -> Duration {
    span / 1000
}

/// A point of local time. Only differences have a meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Tick(Duration);

impl Tick {
    pub(crate) fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }

    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "only a server's clock is another"))]
    pub(crate) fn before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(span))
    }

    pub(crate) fn from_micros(micros: u64) -> Self {
        Self(Duration::from_micros(micros))
    }

    /// For what counts in microseconds and only compares ticks.
    pub(crate) fn as_micros(self) -> u64 {
        u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX)
    }

    /// Returns the time since `earlier`, or zero if `earlier` is later.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// A point of local time on two coarse clocks, in nanoseconds: a monotonic one, and one that goes on during suspend.
/// Reading both takes half the time of the exact clock, reading one a quarter. They lag by a timer tick, 10 ms at
/// most, or longer after a host has taken the processor away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    mono: u64,
    awake: u64,
}

impl Moment {
    #[cfg(test)]
    pub(crate) fn new(mono: u64, awake: u64) -> Self {
        Self { mono, awake }
    }

    pub(crate) fn mono(self) -> u64 {
        self.mono
    }

    pub(crate) fn awake(self) -> u64 {
        self.awake
    }

    /// Returns nanoseconds of the monotonic clock, `span` from now.
    pub(crate) fn mono_after(self, span: Duration) -> u64 {
        self.mono.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX))
    }
}

/// The source of local time.
#[derive(Debug, Clone, Default)]
pub(crate) enum Clock {
    /// The machine's clock, which goes on during suspend.
    #[default]
    Machine,
    /// Microseconds that a test sets.
    #[cfg_attr(not(test), expect(dead_code, reason = "the hermetic tests set the time by hand"))]
    Manual(Arc<AtomicU64>),
    /// Another machine's clock, for tests: `ahead` of this machine's, and fast by `parts` in a million.
    #[cfg(test)]
    Skewed { since: Duration, ahead: Duration, parts: i32 },
    /// The time of a test's world, as a process sees it whose clock is `ahead`.
    #[cfg(feature = "testing")]
    World { time: Arc<WorldTime>, ahead: Duration },
}

/// How old [`Clock::recent`] may be. The kernel's timer ticks at least a hundred times a second, and is late if a
/// host has taken the processor away for several ticks.
pub(crate) const RECENT: Duration = Duration::from_millis(100);

impl Clock {
    /// Makes a clock that is `ahead` of the machine's, and from now on fast by `parts` in a million (slow if below
    /// zero).
    #[cfg(test)]
    pub(crate) fn skewed(ahead: Duration, parts: i32) -> Self {
        Self::Skewed { since: machine(), ahead, parts }
    }

    pub(crate) fn now(&self) -> Tick {
        match self {
            Self::Machine => Tick(machine()),
            Self::Manual(micros) => Tick(Duration::from_micros(micros.load(Ordering::Acquire))),
            #[cfg(test)]
            Self::Skewed { since, ahead, parts } => {
                let rate = 1.0 + f64::from(*parts) / 1e6;
                Tick(*since + *ahead + machine().saturating_sub(*since).mul_f64(rate))
            }
            #[cfg(feature = "testing")]
            Self::World { time, ahead } => Tick(time.now().saturating_add(*ahead)),
        }
    }

    /// Returns the coarse time, for reads so frequent that the exact clock would be most of their cost.
    #[inline]
    pub(crate) fn moment(&self) -> Moment {
        match self {
            Self::Machine => coarse(),
            Self::Manual(micros) => {
                let nanos = micros.load(Ordering::Acquire).saturating_mul(1000);
                Moment { mono: nanos, awake: nanos }
            }
            #[cfg(any(test, feature = "testing"))]
            _ => {
                let nanos = u64::try_from(self.now().0.as_nanos()).unwrap_or(u64::MAX);
                Moment { mono: nanos, awake: nanos }
            }
        }
    }

    /// Returns a time that this thread has read within the last [`RECENT`]. For decisions that take nanoseconds, most
    /// of which an exact read would cost, and that can read again when it matters.
    pub(crate) fn recent(&self) -> Tick {
        match self {
            Self::Machine => Tick(recent()),
            _ => self.now(),
        }
    }
}

/// Reads the kernel's last tick, which is cheaper than the processor's counter. While the tick is the same, the
/// cached time is close enough.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn recent() -> Duration {
    use std::cell::Cell;
    thread_local! {
        static LAST: Cell<(i64, i64, Duration)> = const { Cell::new((0, 0, Duration::ZERO)) };
    }
    let tick = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    let (seconds, nanos, time) = LAST.get();
    #[allow(clippy::useless_conversion, reason = "narrower on some targets")]
    let tick = (i64::from(tick.tv_sec), i64::from(tick.tv_nsec));
    if (seconds, nanos) == tick {
        return time;
    }
    let time = machine();
    LAST.set((tick.0, tick.1, time));
    time
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn recent() -> Duration {
    machine()
}

#[cfg(unix)]
fn machine() -> Duration {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Boottime;
    // Apple's monotonic clock goes on during sleep; on other systems there is nothing better.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Monotonic;
    let time = rustix::time::clock_gettime(CLOCK);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Wall time is used as the clock that goes on during suspend, because Linux has no coarse form of CLOCK_BOOTTIME. If
/// the wall clock is set back, the monotonic clock still counts.
///
/// The kernel moves both clocks in one step, at each tick. So the second one is read only when the first has moved
/// since this thread last read it; until then its last reading is the current one. After a suspend, and after the wall
/// clock was set, that may be wrong until the next tick, which the lag of 10 ms covers.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[inline]
fn coarse() -> Moment {
    use std::cell::Cell;

    use rustix::time::{ClockId, clock_gettime};
    thread_local! {
        static LAST: Cell<Moment> = const { Cell::new(Moment { mono: 0, awake: 0 }) };
    }
    let nanos = |clock| {
        let time = clock_gettime(clock);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        seconds.wrapping_mul(1_000_000_000).wrapping_add(u64::try_from(time.tv_nsec).unwrap_or(0))
    };
    let mono = nanos(ClockId::MonotonicCoarse);
    let last = LAST.get();
    if last.mono == mono {
        return last;
    }
    let moment = Moment { mono, awake: nanos(ClockId::RealtimeCoarse) };
    LAST.set(moment);
    moment
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn coarse() -> Moment {
    let nanos = u64::try_from(machine().as_nanos()).unwrap_or(u64::MAX);
    Moment { mono: nanos, awake: nanos }
}

#[cfg(not(unix))]
fn machine() -> Duration {
    use std::sync::OnceLock;
    use std::time::Instant;
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// docs/guarantees.md lists what a wrong wall clock affects. A new read needs a place in that list.
    #[test]
    fn the_wall_clock_is_read_only_where_the_page_says() {
        let mut found = Vec::new();
        let mut folders = vec![std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|kind| kind == "rs") {
                    let source = std::fs::read_to_string(path).unwrap();
                    // Tests stand at the end of a file, or in files that set the time themselves.
                    let code = source.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
                    let reads = |line: &&str| {
                        let of = |clock: &str| {
                            ["::now()", ".elapsed()"]
                                .iter()
                                .any(|read| line.contains(&[clock, *read].concat()))
                        };
                        of("SystemTime")
                            || of("UNIX_EPOCH")
                            || line.contains(&["Clock", "Id::Realtime"].concat())
                    };
                    found.extend(code.lines().filter(reads).map(|line| line.trim().to_owned()));
                }
            }
        }
        found.sort();
        let expected = [
            // The clock difference that `doctor` reports.
            "let (before, began) = (since_1970(SystemTime::now()), Instant::now());",
            // The days that a certificate is still valid, also for `doctor`.
            "let left = not_after.map(|end| end.duration_since(SystemTime::now()).unwrap_or_default());",
            // The age of a near copy on Linux: the later of two clocks.
            "let moment = Moment { mono, awake: nanos(ClockId::RealtimeCoarse) };",
            // Two tests: of the jobs, and of limiters under wrong clocks.
            "let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();",
            "let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();",
            // `wall_clock` of the Redis store: used while no server has told its time.
            "let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();",
            // The start of an embedded store.
            "let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn machine_time_goes_forward() {
        let clock = Clock::default();
        let earlier = clock.now();
        while clock.now() == earlier {}
        assert!(clock.now() > earlier);
    }

    #[test]
    fn a_recent_look_is_never_ahead_and_never_old() {
        let (clock, mut last) = (Clock::default(), Tick(Duration::ZERO));
        let started = clock.now();
        while clock.now().since(started) < Duration::from_millis(50) {
            let before = clock.now();
            let recent = clock.recent();
            let after = clock.now();
            assert!(recent <= after && recent >= last);
            // A thread that was not scheduled for long says nothing about the clock.
            if after.since(before) < Duration::from_millis(1) {
                assert!(after.since(recent) < RECENT, "{:?}", after.since(recent));
            }
            last = recent;
        }
        assert!(last.since(started) > Duration::ZERO);
    }

    #[test]
    fn a_moment_follows_both_clocks() {
        let clock = Clock::default();
        let first = clock.moment();
        // Until the next tick: at most 10 ms, more on a busy machine.
        let started = clock.now();
        let second = loop {
            let moment = clock.moment();
            if moment.mono() > first.mono() {
                break moment;
            }
            assert!(clock.now().since(started) < Duration::from_secs(30), "the clock does not tick");
        };
        assert!(second.awake() != first.awake(), "the second clock was not read after a tick");
    }

    #[test]
    fn a_difference_never_wraps() {
        let clock = Clock::Manual(Arc::new(AtomicU64::new(5)));
        let now = clock.now();
        assert_eq!(now.since(now.after(Duration::from_secs(1))), Duration::ZERO);
    }
}
