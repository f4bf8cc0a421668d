//! The child: a process group of its own, and the signals it is sent. No message is printed before its signal is sent.

use std::ffi::OsString;
use std::io;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpgid, getpgrp};

use super::Arguments;
use super::helper;
use super::notice::say;
use super::terminal::Terminal;
use crate::exit::Exit;

/// How often a group is asked whether it is gone.
const GONE_POLL: Duration = Duration::from_millis(10);

/// A child that runs, or has ended and was not asked about yet.
pub(super) struct Child {
    /// Its process, and its group.
    pid: Pid,
    terminal: Option<Terminal>,
    /// Whether its group was ever given the terminal.
    lent: bool,
    /// Whether its process was waited for, so that another may get its id.
    reaped: bool,
    warned: Warned,
}

/// What was said about this child already.
#[derive(Debug, Default)]
struct Warned {
    suspended: bool,
    terminal: bool,
    refused: bool,
}

impl Child {
    /// Starts the command. Call this on the main thread: the kernel ends the child together with the thread that
    /// started it.
    pub(super) fn start(arguments: &Arguments, fence: Option<u64>) -> io::Result<Self> {
        let terminal = Terminal::open();
        let lent = terminal.as_ref().is_some_and(Terminal::should_be_lent);
        let words: &[OsString] = &arguments.command;
        let mut command = helper::command(words, lent)?;
        command.env("LARDER_LOCK", &arguments.name);
        match fence {
            Some(fence) => command.env("LARDER_FENCE", fence.to_string()),
            // One of an outer `lock run` is not this one's.
            None => command.env_remove("LARDER_FENCE"),
        };
        let id = command.spawn()?.id();
        let pid = Pid::from_raw(i32::try_from(id).map_err(io::Error::other)?);
        Ok(Self { pid, terminal, lent, reaped: false, warned: Warned::default() })
    }

    /// Sends a signal to the whole group, and to the child itself if it has moved to another group. A group that has
    /// gone is no error.
    pub(super) fn signal(&mut self, signal: Signal) {
        match self.send(signal) {
            Ok(()) => {}
            Err(_) if self.warned.refused => {}
            Err(error) => {
                self.warned.refused = true;
                let hint = match error {
                    Errno::EPERM => {
                        ". It runs as another user: start larder as that user, as in `sudo larder lock run`"
                    }
                    _ => "",
                };
                say(format!("cannot send {signal} to the command: {error}{hint}"));
            }
        }
    }

    /// The same, and returns why it was refused.
    fn send(&self, signal: Signal) -> Result<(), Errno> {
        // A child that was waited for has no process id any more: another process may have it.
        let moved = !self.reaped && getpgid(Some(self.pid)).is_ok_and(|group| group != self.pid);
        let sent = [killpg(self.pid, signal), if moved { kill(self.pid, signal) } else { Ok(()) }];
        sent.into_iter().find(|sent| !matches!(sent, Ok(()) | Err(Errno::ESRCH))).unwrap_or(Ok(()))
    }

    /// Whether no process of the group is left. Ask this only after the child has ended.
    pub(super) fn group_is_gone(&self) -> bool {
        killpg(self.pid, None) == Err(Errno::ESRCH)
    }

    /// Waits until no process of the group is left, for at most this long.
    pub(super) async fn until_group_is_gone(&self, longest: Duration) {
        let gone = async {
            while !self.group_is_gone() {
                tokio::time::sleep(GONE_POLL).await;
            }
        };
        let _ = tokio::time::timeout(longest, gone).await;
    }

    /// Returns how the child ended, if it has.
    pub(super) fn ended(&mut self) -> io::Result<Option<Exit>> {
        loop {
            match waitpid(self.pid, Some(WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED)) {
                Ok(WaitStatus::Exited(_, code)) => {
                    self.reaped = true;
                    return Ok(Some(Exit::code(u8::try_from(code & 0xff).unwrap_or(u8::MAX))));
                }
                Ok(WaitStatus::Signaled(_, signal, _)) => {
                    self.reaped = true;
                    return Ok(Some(Exit::signal(signal as i32)));
                }
                // A child that stops again and again must not hold up its own deadline: the caller asks again later.
                Ok(WaitStatus::Stopped(_, signal)) => {
                    self.stopped(signal);
                    return Ok(None);
                }
                Ok(_) => return Ok(None),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// A child that a person stops would keep the lock: it is continued. One that was stopped because it needs the
    /// terminal gets it, if this process may give it.
    fn stopped(&mut self, signal: Signal) {
        match signal {
            Signal::SIGTSTP => {
                self.signal(Signal::SIGCONT);
                self.say_not_suspended();
            }
            Signal::SIGTTIN | Signal::SIGTTOU => {
                if self.has_terminal() || self.lend() {
                    self.signal(Signal::SIGCONT);
                } else if !self.warned.terminal {
                    self.warned.terminal = true;
                    say("the command waits for the terminal, and keeps the lock: bring it to the foreground");
                }
            }
            _ => {}
        }
    }

    /// Says once that Ctrl-Z has no effect.
    pub(super) fn say_not_suspended(&mut self) {
        if !self.warned.suspended {
            self.warned.suspended = true;
            say("a command that holds a lock is not suspended: it goes on");
        }
    }

    /// Whether its group is in the foreground now. A shell may have changed that since it was lent the terminal.
    fn has_terminal(&self) -> bool {
        self.terminal.as_ref().and_then(Terminal::owner) == Some(self.pid)
    }

    /// The shell has continued this process: the child may need the terminal.
    pub(super) fn resumed(&mut self) {
        if self.lend() {
            self.signal(Signal::SIGCONT);
        }
    }

    /// Gives the terminal to the child's group, if this process has it.
    fn lend(&mut self) -> bool {
        let Some(terminal) = self.terminal.as_ref().filter(|terminal| terminal.is_ours()) else {
            return false;
        };
        let given = terminal.give_to(self.pid).is_ok();
        self.lent |= given;
        given
    }
}

impl Drop for Child {
    /// Kills a child that still runs, and takes the terminal back.
    fn drop(&mut self) {
        // Supervision failed. The lock is released after this, so the child must be gone. One that may not be killed is
        // not waited for: it may run for ever.
        if !self.reaped && self.send(Signal::SIGKILL).is_ok() {
            while waitpid(self.pid, None) == Err(Errno::EINTR) {}
        }
        // The shell of this process may have the terminal already, and keeps it. A group that is gone cannot keep it:
        // it was one of the child's.
        if let (true, Some(terminal)) = (self.lent, &self.terminal)
            && let Some(owner) = terminal.owner()
            && (owner == self.pid || killpg(owner, None) == Err(Errno::ESRCH))
        {
            let _ = terminal.give_to(getpgrp());
        }
    }
}
