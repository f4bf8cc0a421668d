//! Everything larder promises, under faults drawn from a seed.
//!
//! Worker processes use caches, locks, semaphores, read-write locks, lock groups, elections, jobs and rate limits of
//! one deployment, and note each call with its begin and end. The parent stops and kills processes and servers, cuts,
//! slows and silences links, moves slots, makes replicas masters, and flushes scripts. After each round, which has
//! servers and processes of its own, checkers in `larder_testkit::history` judge the notes: a pure function for each
//! promise.
//!
//! Only a live process is promised its turn, or a time. Everything that may have kept a process from acting is noted as
//! a fault: a fault that was injected into the process or the server, with its aftermath; a stall of the process, the
//! proxies or the server that took longer than [`fleet::STALL`], which happens on an overloaded machine; and a time in
//! which the process cannot reach the server.
//!
//! The rounds alternate between four deployments ([`what::On`]): a server that keeps its data, one that loses them when
//! it is killed, a Cluster whose slots move, and a master that is replaced by Sentinel, whose acknowledged writes may
//! be lost. The checkers then excuse the losses that the promises allow, and nothing else.
//!
//! LARDER_FAULTS_SEED replays a schedule, LARDER_FAULTS_SECONDS makes it longer, LARDER_FAULTS_WHAT chooses larder's
//! parts, LARDER_FAULTS_ON the servers, and LARDER_FAULTS_BAR demands that the bars of a long run are reached:
//! `cargo xtask faults --what WHAT --on ON --minutes N --seed S`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod check;
mod fleet;
mod ground;
mod measure;
mod report;
mod soak;
mod strike;
mod what;
mod work;

use std::time::{Duration, Instant};

use larder_testkit::worker;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use fleet::Fleet;
use report::Report;
use what::{On, Turns, What, setting};

const TEST: &str = "nothing_that_is_promised_is_broken_whatever_fails";

#[test]
fn nothing_that_is_promised_is_broken_whatever_fails() {
    if worker::role().is_some() {
        return work::run();
    }
    let seed = setting("LARDER_FAULTS_SEED").unwrap_or_else(|| rand::rng().next_u64());
    let span = Duration::from_secs(setting("LARDER_FAULTS_SECONDS").unwrap_or(20));
    let what: What = setting("LARDER_FAULTS_WHAT").unwrap_or_default();
    let turns: Turns = setting("LARDER_FAULTS_ON").unwrap_or_default();
    let strict = setting("LARDER_FAULTS_BAR").unwrap_or(0_u8) == 1;
    let mut report = Report::start(seed, what, &turns, span, strict);
    let mut rng = StdRng::seed_from_u64(seed);
    if what.is_soak() {
        return soak_for(span, rng.next_u64(), &mut report);
    }
    let began = Instant::now();
    // Even a short run has a round on each kind of server.
    let round = what.plan().round.min(span / u32::try_from(turns.len()).unwrap());
    for number in 0.. {
        let left = span.saturating_sub(began.elapsed());
        if number >= turns.len() && left < round / 4 {
            break;
        }
        let on = turns.of_round(number);
        let mut fleet = Fleet::start(what, on, rng.next_u64());
        let faults = fleet.strike(round.min(left.max(round / 4)));
        let notes = fleet.stop();
        report.skewed(fleet.skewed);
        let broken = report.add(number, on, &faults, check::judge(&notes));
        if broken {
            report.kept(&fleet.keep());
            continue;
        }
        if rng.random_bool(0.5) {
            // Keys that are left on a server take time to expire. Half of the rounds wait for that.
            report.ends(fleet.left_for_ever());
        }
    }
    report.finish();
}

/// Runs one round for the whole time, and records the memory, tasks, threads and descriptors of the processes.
fn soak_for(span: Duration, seed: u64, report: &mut Report) {
    let mut fleet = Fleet::start(what::SOAK, On::Kept, seed);
    let faults = fleet.strike(span);
    let notes = fleet.stop();
    report.skewed(fleet.skewed);
    report.add_faults(&faults);
    let made = notes.of("made").iter().map(|note| note.numbers[0]).sum();
    report.finish_soak(&soak::rows(&notes), made);
}
