//! Everything larder promises, under faults drawn from a seed.
//!
//! Worker processes, each behind a proxy of its own, use caches, locks, semaphores, read-write locks, elections, jobs and
//! rate limits of one server, and note each call with its begin and end. The parent stops and kills processes and servers,
//! cuts, slows and silences links, and flushes scripts. After each round, which has servers and processes of its own,
//! checkers in `larder_testkit::history` judge the notes: a pure function for each promise.
//!
//! Only who is live is promised its turn, or a time. Whatever may have kept a process from acting is noted as a fault:
//! what is done to it or to the server, with what comes after; that it, the proxies or the server stood still for longer
//! than [`fleet::STALL`], which a machine with too much to do does by itself; and that it does not reach the server.
//! In some rounds the server keeps nothing when it is killed. What its promises say of lost data is what the checkers
//! leave out then.
//!
//! LARDER_FAULTS_SEED replays a schedule, LARDER_FAULTS_SECONDS makes it longer, LARDER_FAULTS_WHAT chooses what is used:
//! `cargo xtask faults --minutes N --seed S --what WHAT`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod check;
mod fleet;
mod report;
mod strike;
mod what;
mod work;

use std::time::{Duration, Instant};

use larder_testkit::worker;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use fleet::Fleet;
use report::Report;
use what::{What, setting};

const TEST: &str = "nothing_that_is_promised_is_broken_whatever_fails";
/// Short, so that notes are few and a server that comes back has little to read.
const ROUND: Duration = Duration::from_secs(45);
/// One round in so many has a server that loses its data when it is killed.
const LOSSY: u64 = 4;

#[test]
fn nothing_that_is_promised_is_broken_whatever_fails() {
    if worker::role().is_some() {
        return work::run();
    }
    let seed = setting("LARDER_FAULTS_SEED").unwrap_or_else(|| rand::rng().next_u64());
    let span = Duration::from_secs(setting("LARDER_FAULTS_SECONDS").unwrap_or(20));
    let what: What = setting("LARDER_FAULTS_WHAT").unwrap_or_default();
    let mut report = Report::new(seed, what, span);
    report.start();
    let mut rng = StdRng::seed_from_u64(seed);
    let began = Instant::now();
    // At least two rounds: one server keeps its data, one loses it.
    let round = ROUND.min(span / 2);
    for number in 0.. {
        let left = span.saturating_sub(began.elapsed());
        if number >= 2 && left < round / 4 {
            break;
        }
        let lossy = number % LOSSY == LOSSY - 1 || span <= 2 * ROUND && number == 1;
        let seed = rng.next_u64();
        let mut fleet = Fleet::start(what, lossy, seed);
        let faults = fleet.strike(round.min(left.max(round / 4)));
        let notes = fleet.stop();
        report.skewed(fleet.skewed);
        report.add(number, lossy, &faults, check::judge(&notes));
        if rng.random_bool(0.5) {
            // What is left on a server takes up to its time to end; half of the rounds wait for that.
            report.ends(fleet.left_for_ever());
        }
    }
    report.finish();
}
