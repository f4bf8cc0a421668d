//! The same history on both stores, at times that the test sets.

use std::cell::{Cell, RefCell, RefMut};
use std::sync::OnceLock;
use std::time::Duration;

use larder_testkit::Server;

use super::{START, labelled};
use crate::store::limit::{Charge, ChargeStamp, Charged, Label, Override, QuotaSpec};
use crate::store::memory::MemoryLimits;
use crate::store::redis::limit::raw;

/// Longer than any test: the server's own time goes on during the test, and must not end records.
const FOREVER: &str = "36000000";

/// The labels of an override's specs, and how long it lasts.
type Overridden = Option<(Vec<Label>, Duration)>;

/// Both stores, for any number of histories.
pub(super) struct Stores {
    pub(super) memory: MemoryLimits,
    server: RefCell<redis::Connection>,
    scripts: Scripts,
    next: Cell<u64>,
}

/// The scripts, changed to read the time from their last two arguments.
struct Scripts {
    charge: String,
    refund: String,
    over: String,
    reset: String,
    together: String,
}

pub(super) struct Both<'a> {
    memory: &'a MemoryLimits,
    server: RefMut<'a, redis::Connection>,
    scripts: &'a Scripts,
    /// The record that the history uses.
    pub(super) name: String,
    pub(super) clock: u64,
}

impl Default for Stores {
    fn default() -> Self {
        static SERVER: OnceLock<Server> = OnceLock::new();
        let server = redis::Client::open(SERVER.get_or_init(Server::start).url()).unwrap();
        let (charge, refund) = raw::scripts();
        let scripts = Scripts {
            charge: tell(charge),
            refund: tell(refund),
            over: tell(raw::over()),
            reset: tell(raw::reset()),
            together: tell(raw::together()),
        };
        let server = RefCell::new(server.get_connection().unwrap());
        Self { memory: MemoryLimits::keeping_ended(), server, scripts, next: Cell::new(0) }
    }
}

impl Stores {
    /// A record that no other history uses.
    pub(super) fn history(&self) -> Both<'_> {
        static TESTS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        if self.next.get() == 0 {
            self.next.set((1 + TESTS.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) << 32);
        }
        let number = self.next.replace(self.next.get() + 1);
        let name = format!("~limit.1:{{/history:{number}}}");
        let (server, scripts) = (self.server.borrow_mut(), &self.scripts);
        Both { memory: &self.memory, server, scripts, name, clock: START }
    }
}

impl Both<'_> {
    fn run<T: redis::FromRedisValue>(&mut self, script: &str, request: &[u8], more: Option<&[u8]>) -> T {
        let mut command = redis::cmd("EVAL");
        command.arg(script).arg(1).arg(&self.name).arg(request).arg(more);
        command.arg(self.clock / 1_000_000).arg(self.clock % 1_000_000);
        command.query(&mut *self.server).unwrap_or_else(|error| panic!("{request:?} {error}"))
    }

    /// The answers of the memory store and of the server.
    pub(super) fn charge(&mut self, charge: Charge<'_>) -> (Charged, Charged) {
        let (request, more) = raw::charge(charge);
        let answer: Vec<u8> = self.run(&self.scripts.charge, &request, more.as_deref());
        (self.memory.charge(&self.name, charge, self.clock), raw::answer(&answer, charge))
    }

    pub(super) fn charge_together(&mut self, charges: &[(&str, Charge<'_>)]) -> (Vec<Charged>, Vec<Charged>) {
        let mut command = redis::cmd("EVAL");
        command.arg(&self.scripts.together).arg(charges.len());
        charges.iter().for_each(|(name, _)| {
            command.arg(*name);
        });
        raw::charge_together(charges).iter().for_each(|request| {
            command.arg(request);
        });
        command.arg(self.clock / 1_000_000).arg(self.clock % 1_000_000);
        let answers: Vec<Vec<u8>> =
            command.query(&mut *self.server).unwrap_or_else(|error| panic!("{error}"));
        let found =
            answers.iter().zip(charges).map(|(answer, (_, charge))| raw::answer(answer, *charge)).collect();
        (self.memory.charge_together(charges, self.clock), found)
    }

    /// When the record would expire, by the clock that the script was given.
    pub(super) fn lives_until(&mut self) -> u64 {
        redis::cmd("GET").arg(format!("{}:until", self.name)).query(&mut *self.server).unwrap()
    }

    pub(super) fn refund(&mut self, permits: u64, stamp: ChargeStamp) -> (u64, u64) {
        let server = self.run(&self.scripts.refund, &raw::refund(permits, stamp), None);
        (self.memory.refund(&self.name, permits, stamp, self.clock), server)
    }

    pub(super) fn forget(&mut self) -> (bool, bool) {
        let found: u64 = self.run(&self.scripts.reset, b"", None);
        (self.memory.forget(&self.name, self.clock), found > 0)
    }

    /// Sets an override; without specs, ends it. `own` are the specs that hold after it.
    pub(super) fn set_override(&mut self, specs: &[QuotaSpec], own: &[QuotaSpec], lasts: Duration) {
        let key = Override { specs: labelled(specs), own: own.to_vec(), lasts };
        self.memory.set_override(&self.name, &key, self.clock);
        let _: redis::Value = self.run(&self.scripts.over, &raw::over_request(&key), None);
    }

    pub(super) fn override_of(&mut self) -> (Overridden, Overridden) {
        let (left, specs): (u64, Vec<u8>) = self.run(&self.scripts.over, b"", None);
        let labels = specs.chunks(25).map(|spec| Label::try_from(&spec[10..]).unwrap()).collect();
        let found = (left > 0).then(|| (labels, Duration::from_micros(left)));
        (self.memory.override_of(&self.name, self.clock), found)
    }
}

fn tell(script: &str) -> String {
    // The last one: a script that charges several keys reads the time for all of them.
    let (before, after) = script.rsplit_once("redis.call('TIME')").unwrap();
    let told = format!("{before}{{ table.remove(ARGV, #ARGV - 1), table.remove(ARGV) }}{after}");
    // The time at which a record would end is stored beside it.
    let end = |script: String, whole: &str, milliseconds: &str| {
        let beside = format!(
            "'PX', '{FOREVER}') redis.call('SET', KEYS[1] .. ':until', clock + 1000 * {milliseconds})"
        );
        script.replace(whole, &beside)
    };
    let told = end(told, "'PX', sub(ask, 6 + 10 * specs))", "sub(ask, 6 + 10 * specs)");
    let told = end(told, "'PX', string.format('%d', lives))", "lives");
    let told = end(told, "'PX', string.format('%d', rest))", "rest");
    let told = told.replace("'PX', string.format('%d', left))", &format!("'PX', '{FOREVER}')"));
    told.replace(
        "redis.call('PEXPIRE', KEYS[1], rest)",
        &format!("redis.call('PEXPIRE', KEYS[1], {FOREVER})"),
    )
}
