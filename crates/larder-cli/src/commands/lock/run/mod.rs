//! `larder lock run`: runs a command while a lock is held, and ends it before another may hold the lock.
//!
//! The problem: a program that holds a lock may be cut off from the server. The lock expires, another program takes it,
//! and both run (hashicorp/consul#9788). The mechanism: a local deadline that is certainly earlier than the server's
//! (see the library's lease), and two signals before it. `schedule` decides when, `child` sends them, `held` is the
//! lock or the permit, `notice` prints messages without a wait for their reader, `terminal` lends the terminal to the
//! child, and `helper` is this program started again, which becomes the child after it has asked the kernel to end it
//! together with larder.

#[cfg(unix)]
mod child;
mod held;
#[cfg(unix)]
mod helper;
#[cfg(unix)]
mod notice;
mod schedule;
#[cfg(unix)]
mod signals;
#[cfg(unix)]
mod supervise;
#[cfg(unix)]
mod terminal;

use std::ffi::OsString;
use std::time::Duration;

use clap::Args;

use crate::app::App;
use crate::args::duration;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::units;

#[cfg(unix)]
pub(crate) use helper::helper;

/// Run a command while a lock is held
#[derive(Debug, Args)]
#[command(after_long_help = "\
Environment of the command:
  LARDER_LOCK   the name of the lock
  LARDER_FENCE  a number that grows with every grant of the lock. Store it with
                what the lock protects, and refuse writes with a lower one.
                Not set with --max-holders.

The lock is renewed every third of --ttl. If that fails, the command gets SIGTERM --grace and 1 s before the lock \
expires, and SIGKILL 0.2 s before it: it is dead before another can hold the lock. The same goes for its process \
group, which is its own. INT, TERM, HUP and QUIT are forwarded to that group.

Exit status: that of the command, 128+n if signal n ended it; 75 the lock is held (--conflict-exit), 70 the lock \
was lost, 69 the server cannot be reached, 64 the arguments are wrong, 126 and 127 the command cannot be run.

What this cannot prevent. Two commands may run at the same time:
  - after `larder lock break`, FLUSHALL, or a failover or restart that loses
    the lock: until the next renewal
  - while larder itself is stopped (SIGSTOP) or the machine sleeps: the command
    is killed when it wakes up
  - if what the command starts leaves its process group (setsid, daemons):
    larder signals that group and the command itself, and does not know others
  - if larder is killed by SIGKILL: on Linux the command is killed with it, but
    not the processes that it started; on other systems nothing is killed
  - if the command changes its user (sudo, setuid): larder may not signal it,
    neither at the deadline nor when larder dies. Write
    `sudo larder lock run …`, not `larder lock run … -- sudo …`
  - after the command has ended by itself: processes that it left behind
    (`./job & exit 0`) go on without the lock
Only a resource that checks LARDER_FENCE is safe from all of these.

Examples:
  larder lock run nightly --no-wait -- ./report.sh    # cron: one of them runs
  larder lock run deploy --wait 10m -- ./deploy.sh    # one after the other
  larder lock run convert --max-holders 2 -- ffmpeg -i in.mp4 out.webm")]
pub(crate) struct Arguments {
    /// The name of the lock
    name: String,
    /// How long the lock outlives a larder that cannot renew it
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "30s")]
    ttl: Duration,
    /// Do not wait if the lock is held
    #[arg(long, conflicts_with = "wait")]
    no_wait: bool,
    /// Wait for the lock for at most this long [default: for ever]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    wait: Option<Duration>,
    /// Let so many commands run at the same time: a semaphore instead of a lock
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=65_535))]
    max_holders: Option<u64>,
    /// How long the command may take to end after SIGTERM
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "5s")]
    grace: Duration,
    /// The exit status if the lock is held
    #[arg(long, value_name = "CODE", default_value_t = 75)]
    conflict_exit: u8,
    /// Say nothing if the lock is held
    #[arg(long, short)]
    quiet: bool,
    /// The command and its arguments, after --
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Arguments {
    /// Checks that the command can be ended before the lock expires, whatever the last renewal waited for.
    fn check(&self, response_timeout: Duration) -> Result<(), Failure> {
        if self.name.is_empty() {
            return Err(Failure::usage("the lock needs a name"));
        }
        let least = self
            .grace
            .saturating_add(Duration::from_secs(1))
            .saturating_add(response_timeout)
            .saturating_mul(3);
        if self.ttl < least {
            return Err(Failure::usage(format!(
                "--ttl {} is too short: with --grace {} and --timeout {} it must be at least {}",
                units::time(self.ttl),
                units::time(self.grace),
                units::time(response_timeout),
                units::time(least)
            ))
            .fix("three times (grace + 1s + timeout), so that the command is dead before another holds the lock"));
        }
        Ok(())
    }
}

pub(crate) async fn run(arguments: Arguments, app: &App) -> Result<Exit, Failure> {
    app.may_write()?;
    arguments.check(app.settings.timeout)?;
    #[cfg(unix)]
    return supervise::run(arguments, app).await;
    #[cfg(not(unix))]
    return Err(Failure::usage("lock run needs process groups and signals, which this system does not have"));
}

#[cfg(not(unix))]
pub(crate) fn helper(_arguments: impl Iterator<Item = OsString>) -> Option<Exit> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_that_leaves_no_time_to_end_the_command_is_refused() {
        let arguments = |ttl, grace| Arguments {
            name: "nightly".into(),
            ttl: Duration::from_secs(ttl),
            no_wait: false,
            wait: None,
            max_holders: None,
            grace: Duration::from_secs(grace),
            conflict_exit: 75,
            quiet: false,
            command: vec!["true".into()],
        };
        let second = Duration::from_secs(1);
        assert!(arguments(30, 5).check(second).is_ok());
        assert!(arguments(21, 5).check(second).is_ok());
        let refused = arguments(20, 5).check(second).unwrap_err();
        assert!(refused.to_string().contains("at least 21s"), "{refused}");
        assert!(arguments(30, u64::MAX).check(second).is_err());
        assert_eq!(refused.exit(), Exit::USAGE);
    }
}
