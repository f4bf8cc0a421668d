//! What is shown: rows of cells, and the state that updates change.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How many rates are kept for the curve of commands.
const HISTORY: usize = 120;

/// A part of the view, in the order of the keys 1 to 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pane {
    Caches,
    Locks,
    Limits,
    Processes,
}

impl Pane {
    pub(crate) const ALL: [Self; 4] = [Self::Caches, Self::Locks, Self::Limits, Self::Processes];

    pub(crate) fn index(self) -> usize {
        match self {
            Self::Caches => 0,
            Self::Locks => 1,
            Self::Limits => 2,
            Self::Processes => 3,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Caches => "Caches",
            Self::Locks => "Locks",
            Self::Limits => "Limits",
            Self::Processes => "Processes",
        }
    }

    pub(crate) fn columns(self) -> &'static [Column] {
        match self {
            Self::Caches => CACHES,
            Self::Locks => LOCKS,
            Self::Limits => LIMITS,
            Self::Processes => PROCESSES,
        }
    }

    /// What the pane says while it has no rows.
    pub(crate) fn empty(self) -> &'static str {
        match self {
            Self::Caches => "no entries",
            Self::Locks => "no lock is held or waited for",
            Self::Limits => "no limiter has a record",
            Self::Processes => "no process announced itself: Larder::builder().presence(\"web-3\")",
        }
    }
}

/// A column. Its width has room for its title and an arrow. The first one takes the room that is left; those with a
/// high rank leave first where it is narrow.
#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) title: &'static str,
    pub(crate) width: u16,
    pub(crate) right: bool,
    pub(crate) rank: u8,
}

const fn number(title: &'static str, width: u16, rank: u8) -> Column {
    Column { title, width, right: true, rank }
}

const fn text(title: &'static str, width: u16, rank: u8) -> Column {
    Column { title, width, right: false, rank }
}

const CACHES: &[Column] = &[
    text("CACHE", 14, 0),
    number("ENTRIES", 10, 0),
    number("BYTES", 9, 1),
    number("SHARE", 6, 2),
    number("MEDIAN TTL", 11, 3),
    number("NO EXPIRY", 10, 4),
    text("FORMAT", 12, 5),
];
const LOCKS: &[Column] = &[
    text("LOCK", 16, 0),
    text("KIND", 9, 1),
    text("HOLDER", 18, 0),
    number("EXPIRES", 8, 2),
    number("WAITING", 8, 1),
    number("HELD", 7, 4),
    number("FENCE", 16, 5),
];
const LIMITS: &[Column] = &[text("LIMITER", 20, 0), number("KEYS", 9, 0), number("SHARE", 6, 1)];
const PROCESSES: &[Column] = &[
    text("PROCESS", 11, 0),
    text("HOST", 10, 4),
    number("PID", 7, 3),
    text("VERSION", 8, 5),
    number("UP", 7, 3),
    number("HITS", 6, 0),
    number("LOADS/s", 8, 1),
    number("LOCKS", 6, 4),
    number("ERRORS/s", 9, 1),
    number("SEEN", 6, 2),
];

/// What rows are sorted by.
#[derive(Debug, Clone, PartialEq, PartialOrd)]
pub(crate) enum Key {
    Number(f64),
    Text(String),
}

/// A cell: what is shown, and what it is sorted by.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    pub(crate) text: String,
    pub(crate) key: Key,
    /// Something that needs attention.
    pub(crate) alert: bool,
}

impl Cell {
    pub(crate) fn text(text: &str) -> Self {
        let text = crate::output::escape::text(text).into_owned();
        Self { key: Key::Text(text.to_lowercase()), text, alert: false }
    }

    pub(crate) fn number(text: impl Into<String>, number: f64) -> Self {
        Self { text: text.into(), key: Key::Number(number), alert: false }
    }

    /// Nothing is known; sorted behind everything else.
    pub(crate) fn none() -> Self {
        Self { text: "–".to_owned(), key: Key::Number(-1.0), alert: false }
    }

    pub(crate) fn alert_if(mut self, alert: bool) -> Self {
        self.alert = alert;
        self
    }
}

/// The servers of caches, or those of locks and limits, added up.
#[derive(Debug, Clone, Default)]
pub(crate) struct Server {
    /// `10.0.0.1:6379`, or `3 masters`.
    pub(crate) name: String,
    pub(crate) product: String,
    pub(crate) role: String,
    pub(crate) uptime: Option<Duration>,
    pub(crate) used: u64,
    pub(crate) limit: u64,
    pub(crate) policy: String,
    pub(crate) clients: Option<u64>,
    pub(crate) keys: u64,
    pub(crate) rates: Option<Rates>,
}

/// Per second, since the update before.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rates {
    pub(crate) commands: f64,
    /// From 0 to 1; `None` if nothing was read.
    pub(crate) hits: Option<f64>,
    pub(crate) evicted: f64,
    pub(crate) expired: f64,
    pub(crate) bytes_in: f64,
    pub(crate) bytes_out: f64,
}

/// One pane's rows, and how they came about.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sheet {
    pub(crate) rows: Vec<Vec<Cell>>,
    /// For example `sample of 1,000 of 1,204,551 keys`.
    pub(crate) note: String,
    /// Whether it was read at all.
    pub(crate) known: bool,
    /// Why it could not be read, if so.
    pub(crate) error: Option<String>,
}

/// News for the view.
#[derive(Debug)]
pub(crate) enum Update {
    Servers(Box<Server>, Option<Box<Server>>),
    Rows(Pane, Sheet),
    /// The pane cannot be read; what it showed stays.
    Failed(Pane, String),
    /// The server cannot be reached.
    Away(String),
}

/// Everything that is shown.
#[derive(Debug, Default)]
pub(crate) struct Data {
    pub(crate) title: String,
    pub(crate) caches: Server,
    pub(crate) coordination: Option<Server>,
    pub(crate) commands: VecDeque<f64>,
    pub(crate) sheets: [Sheet; 4],
    /// Since when the server is away, and why.
    pub(crate) away: Option<(Instant, String)>,
}

impl Data {
    pub(crate) fn new(title: String) -> Self {
        Self { title, ..Self::default() }
    }

    pub(crate) fn sheet(&self, pane: Pane) -> &Sheet {
        let [caches, locks, limits, processes] = &self.sheets;
        match pane {
            Pane::Caches => caches,
            Pane::Locks => locks,
            Pane::Limits => limits,
            Pane::Processes => processes,
        }
    }

    fn sheet_mut(&mut self, pane: Pane) -> &mut Sheet {
        let [caches, locks, limits, processes] = &mut self.sheets;
        match pane {
            Pane::Caches => caches,
            Pane::Locks => locks,
            Pane::Limits => limits,
            Pane::Processes => processes,
        }
    }

    pub(crate) fn apply(&mut self, update: Update) {
        match update {
            Update::Servers(caches, coordination) => {
                if let Some(rates) = caches.rates {
                    self.commands.push_back(rates.commands);
                    if self.commands.len() > HISTORY {
                        self.commands.pop_front();
                    }
                }
                self.caches = *caches;
                self.coordination = coordination.map(|server| *server);
                self.away = None;
            }
            Update::Rows(pane, sheet) => *self.sheet_mut(pane) = Sheet { known: true, ..sheet },
            Update::Failed(pane, why) => self.sheet_mut(pane).error = Some(why),
            Update::Away(why) => {
                let since = self.away.as_ref().map_or_else(Instant::now, |(since, _)| *since);
                self.away = Some((since, why));
            }
        }
    }
}
