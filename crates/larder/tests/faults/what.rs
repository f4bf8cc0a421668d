//! The settings of a run: larder's parts, the servers, the processes, and the bars of a long run.

use std::env;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::time::Duration;

/// Which of larder's parts the workers use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct What(&'static str);

const PARTS: [&str; 8] = ["cache", "locks", "limits", "semaphores", "jobs", "elections", "rw", "groups"];
const ALL: &str = "all";
pub(crate) const SOAK: What = What("soak");

impl Default for What {
    fn default() -> Self {
        Self(ALL)
    }
}

impl What {
    pub(crate) fn has(self, part: &str) -> bool {
        [ALL, SOAK.0, part].contains(&self.0)
    }

    /// Whether this part is used alone, so that all of the machine is there for it.
    pub(crate) fn is_only(self, part: &str) -> bool {
        self.0 == part
    }

    pub(crate) fn is_soak(self) -> bool {
        self == SOAK
    }

    pub(crate) fn plan(self) -> Plan {
        let plan = Plan {
            workers: 5,
            round: Duration::from_secs(45),
            hold: 50..600,
            pause: 50..700,
            measures: false,
            bars: &[],
        };
        match self.0 {
            ALL => Plan { pause: 50..400, bars: &[Bar::Operations(1_000_000), Bar::Faults(500)], ..plan },
            "jobs" => Plan {
                workers: 8,
                round: Duration::from_secs(75),
                pause: 50..500,
                bars: &[Bar::Judged("jobs: no period skipped", 2000), Bar::Faults(500)],
                ..plan
            },
            "elections" => Plan {
                round: Duration::from_secs(90),
                hold: 20..200,
                pause: 10..150,
                measures: true,
                bars: &[
                    Bar::Faults(1000),
                    Bar::Judged("elections: a new leader in time", 10),
                    Bar::Judged("elections: handover after resign", 100),
                ],
                ..plan
            },
            // Long pauses between faults: when a process fails, all overlapping groups wait.
            "groups" => {
                Plan { pause: 3000..8000, bars: &[Bar::Judged("groups: no deadlock", 100_000)], ..plan }
            }
            "rw" => Plan {
                workers: 8,
                pause: 500..2500,
                bars: &[Bar::Judged("rw: no writer is overtaken by later readers", 10_000)],
                ..plan
            },
            _ => plan,
        }
    }
}

impl FromStr for What {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [SOAK.0, ALL].iter().chain(&PARTS).find(|part| **part == text).map(|part| Self(part)).ok_or(())
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// How a run is made.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// How many processes.
    pub(crate) workers: usize,
    /// How long a round takes. A short one has few notes, and a server that comes back has little to read.
    pub(crate) round: Duration,
    /// How long a fault lasts that has no length of its own, in milliseconds.
    pub(crate) hold: Range<u64>,
    /// How long the processes are left alone after a fault, in milliseconds.
    pub(crate) pause: Range<u64>,
    /// Whether each round begins with a time in which nothing but leaders fails, and times are measured.
    pub(crate) measures: bool,
    /// The bars of a long run.
    pub(crate) bars: &'static [Bar],
}

/// A bar: the least that a long run has to reach, besides having no violation.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bar {
    Operations(u64),
    Faults(u64),
    /// How often a promise was judged, or a time measured.
    Judged(&'static str, u64),
}

/// Which servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum On {
    /// One that keeps its data when it is killed.
    Kept,
    /// One that loses them.
    Lossy,
    /// A Cluster of three masters and three replicas.
    Cluster,
    /// A master and a replica under three sentinels.
    Sentinel,
}

impl fmt::Display for On {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kept => "kept",
            Self::Lossy => "lossy",
            Self::Cluster => "cluster",
            Self::Sentinel => "sentinel",
        })
    }
}

/// The servers of the rounds, in turn.
#[derive(Debug, Clone)]
pub(crate) struct Turns(&'static str, Vec<On>);

impl Turns {
    pub(crate) fn of_round(&self, number: usize) -> On {
        self.1[number % self.1.len()]
    }

    pub(crate) fn len(&self) -> usize {
        self.1.len()
    }
}

impl Default for Turns {
    fn default() -> Self {
        Self("all", vec![On::Kept, On::Cluster, On::Lossy, On::Sentinel])
    }
}

impl FromStr for Turns {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let turns = match text {
            "kept" => Self("kept", vec![On::Kept]),
            "lossy" => Self("lossy", vec![On::Lossy]),
            "cluster" => Self("cluster", vec![On::Cluster]),
            "sentinel" => Self("sentinel", vec![On::Sentinel]),
            "single" => Self("single", vec![On::Kept, On::Lossy]),
            "all" => Self::default(),
            _ => return Err(()),
        };
        Ok(turns)
    }
}

impl fmt::Display for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Returns the value of an environment variable, if it is set.
pub(crate) fn setting<T: FromStr>(name: &str) -> Option<T> {
    let text = env::var(name).ok()?;
    let Ok(value) = text.parse() else { panic!("{name} cannot be {text:?}") };
    Some(value)
}
