//! From the lock to the child, and from its end to the release.

use std::io::{self, IsTerminal};
use std::time::Duration;

use larder::Larder;
use larder::admin::LockKind;
use larder::lock::ReleaseOutcome;
use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};

use super::Arguments;
use super::child::Child;
use super::held::Held;
use super::notice::say;
use super::schedule::{KILL_BEFORE, Schedule, Step};
use super::signals::{Arrived, Signals};
use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::units;

/// The longest sleep between two looks at the clock: timers stop while the machine sleeps, and the lease does not.
const SLICE: Duration = Duration::from_millis(100);
/// After this time a person at a terminal reads what larder waits for.
const SILENT: Duration = Duration::from_secs(1);
/// How often the group of a child that has ended is asked about.
const GROUP_POLL: Duration = Duration::from_millis(20);

pub(super) async fn run(arguments: Arguments, app: &App) -> Result<Exit, Failure> {
    // From here on a signal ends larder in order, so that no lock stays behind.
    let mut signals = Signals::listen()?;
    let larder = tokio::select! {
        larder = app.connect() => larder?,
        signal = signals.end() => return Ok(Exit::signal(signal as i32)),
    };
    let acquired = tokio::select! {
        held = Held::acquire(&larder, &arguments) => Ok(held),
        signal = signals.end() => Err(signal),
        never = explain_wait(&larder, &arguments) => match never {},
    };
    let exit = match acquired {
        Ok(Ok(Some(held))) => run_under(held, &larder, &arguments, &mut signals).await,
        Ok(Ok(None)) => Ok(held_by_others(&larder, &arguments).await),
        Ok(Err(error)) => Err(Failure::during(&format!("cannot acquire {:?}", arguments.name), &error)),
        Err(signal) => Ok(Exit::signal(signal as i32)),
    };
    // Waits until a dropped attempt, or a release without an answer, was sent.
    let _ = larder.close().await;
    exit
}

async fn run_under(
    held: Held,
    larder: &Larder,
    arguments: &Arguments,
    signals: &mut Signals,
) -> Result<Exit, Failure> {
    if let Some(holders) = arguments.max_holders {
        warn_of_another_number(larder, &arguments.name, holders).await;
    }
    let name = &arguments.name;
    let mut schedule = Schedule::new(arguments.grace);
    // A slow server, or a machine that slept, may have used up the lease.
    let left = held.remaining();
    if schedule.is_too_late(left) {
        let _ = held.release().await;
        let left = units::time(left);
        say(format!("the lock {name:?} has only {left} left: the command was not started"));
        return Ok(Exit::LOST);
    }
    let supervised = match Child::start(arguments, held.fence()) {
        Ok(mut child) => supervise(&mut child, &held, &mut schedule, signals).await,
        Err(error) => Err(error),
    };
    // The child has ended and was waited for, or was never started: now others may have the lock.
    let released = held.release().await;
    let exit =
        supervised.map_err(|error| Failure::new(Exit::IO, format!("cannot run the command: {error}")))?;
    if schedule.is_ending() {
        say(format!("the lock {name:?} could not be kept: the command was ended"));
        return Ok(Exit::LOST);
    }
    match released {
        Ok(ReleaseOutcome::AlreadyLost) => {
            say(format!("the lock {name:?} was lost before the command ended: another may have run"));
            Ok(Exit::LOST)
        }
        Ok(ReleaseOutcome::Released) => Ok(exit),
        _ => {
            let ttl = units::time(arguments.ttl);
            say(format!("the server did not confirm the release of {name:?}: it expires within {ttl}"));
            Ok(exit)
        }
    }
}

/// Runs until the child has ended. Sends it the signals that arrive, and those of the schedule. If the schedule ends
/// the child, its group gets the same grace: this also waits until the group is gone, or kills it.
async fn supervise(
    child: &mut Child,
    held: &Held,
    schedule: &mut Schedule,
    signals: &mut Signals,
) -> io::Result<Exit> {
    let mut lost = held.lost();
    let mut knows = false;
    let mut ended = None;
    loop {
        if ended.is_none() {
            ended = child.ended()?;
        }
        if let Some(exit) = ended
            && (!schedule.is_ending() || child.group_is_gone())
        {
            return Ok(exit);
        }
        let was_ending = schedule.is_ending();
        let sleep = match schedule.step(held.remaining(), now()?) {
            Step::Wait(time) => time.min(if ended.is_some() { GROUP_POLL } else { SLICE }),
            Step::Term => {
                // Signals first: a message may have to wait for its reader.
                child.signal(Signal::SIGTERM);
                // One that is stopped takes no other signal.
                child.signal(Signal::SIGCONT);
                say("the lock cannot be renewed: ending the command");
                Duration::ZERO
            }
            Step::Kill => {
                child.signal(Signal::SIGKILL);
                if !was_ending {
                    say("the lock is lost: killing the command");
                }
                if let Some(exit) = ended {
                    child.until_group_is_gone(KILL_BEFORE).await;
                    return Ok(exit);
                }
                SLICE
            }
        };
        tokio::select! {
            arrived = signals.next() => match arrived {
                Arrived::Forward(signal) => child.signal(signal),
                Arrived::Resumed => child.resumed(),
                Arrived::Child => {}
                Arrived::Suspended => child.say_not_suspended(),
            },
            () = &mut lost, if !knows => knows = true,
            () = tokio::time::sleep(sleep) => {}
        }
    }
}

async fn held_by_others(larder: &Larder, arguments: &Arguments) -> Exit {
    if !arguments.quiet {
        say(format!("{} is held{}", arguments.name, holders(larder, arguments).await));
    }
    Exit::code(arguments.conflict_exit)
}

/// Says what larder waits for, if a person reads it. Never completes.
async fn explain_wait(larder: &Larder, arguments: &Arguments) -> std::convert::Infallible {
    if !arguments.no_wait && !arguments.quiet && io::stderr().is_terminal() {
        tokio::time::sleep(SILENT).await;
        say(format!("waiting for {}{}", arguments.name, holders(larder, arguments).await));
    }
    std::future::pending().await
}

/// Names the holders, as far as the server answers.
async fn holders(larder: &Larder, arguments: &Arguments) -> String {
    if arguments.max_holders.is_some() {
        return match larder.admin().lock(LockKind::Semaphore, &arguments.name).await {
            Ok(info) => format!(": {} of {} permits", info.holding, info.permits.unwrap_or(info.holding)),
            Err(_) => String::new(),
        };
    }
    match larder.lock(&arguments.name).holder().await {
        Ok(Some(holder)) => {
            let process = match &holder.announced {
                Some(name) => format!("{name} ({})", holder.process),
                None => holder.process.clone(),
            };
            let left = units::time(holder.remaining);
            format!(" by {process}, fence {}, for {left} more unless renewed", holder.fence)
        }
        _ => String::new(),
    }
}

/// The first use of a semaphore stores its number. Another number on this command line has no effect.
async fn warn_of_another_number(larder: &Larder, name: &str, holders: u64) {
    if let Ok(info) = larder.admin().lock(LockKind::Semaphore, name).await
        && let Some(stored) = info.permits.filter(|stored| *stored != holders)
    {
        say(format!("{name:?} has {stored} permits on the server: --max-holders {holders} has no effect"));
    }
}

/// Time that goes on while the machine sleeps.
fn now() -> io::Result<Duration> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    const CLOCK: ClockId = ClockId::CLOCK_BOOTTIME;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    const CLOCK: ClockId = ClockId::CLOCK_MONOTONIC;
    Ok(Duration::from(clock_gettime(CLOCK)?))
}
