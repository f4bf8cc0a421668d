//! The child: a process group of its own, and the signals it is sent.

use std::ffi::OsString;
use std::io;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpgrp};

use super::Arguments;
use super::helper;
use super::terminal::Terminal;
use crate::exit::Exit;
use crate::output;

/// A child that runs, or has ended and was not asked about yet.
pub(super) struct Child {
    /// Its process, and its group.
    pid: Pid,
    terminal: Option<Terminal>,
    /// Whether its group has the terminal.
    lent: bool,
    warned: bool,
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
        Ok(Self { pid, terminal, lent, warned: false })
    }

    /// Sends a signal to the whole group. A group that has gone is no error.
    pub(super) fn signal(&self, signal: Signal) {
        if let Err(error) = killpg(self.pid, signal)
            && error != Errno::ESRCH
        {
            output::say(&format!("cannot send {signal} to the command: {error}"));
        }
    }

    /// Returns how the child ended, if it has.
    pub(super) fn ended(&mut self) -> io::Result<Option<Exit>> {
        loop {
            match waitpid(self.pid, Some(WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED)) {
                Ok(WaitStatus::Exited(_, code)) => {
                    return Ok(Some(Exit::code(u8::try_from(code & 0xff).unwrap_or(u8::MAX))));
                }
                Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(Some(Exit::signal(signal as i32))),
                Ok(WaitStatus::Stopped(_, signal)) => self.stopped(signal),
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
                output::say("a command that holds a lock is not suspended: it goes on");
                self.signal(Signal::SIGCONT);
            }
            Signal::SIGTTIN | Signal::SIGTTOU => {
                if self.lent || self.lend() {
                    self.signal(Signal::SIGCONT);
                } else if !self.warned {
                    self.warned = true;
                    output::say(
                        "the command waits for the terminal, and keeps the lock: bring it to the foreground",
                    );
                }
            }
            _ => {}
        }
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
        self.lent = terminal.give_to(self.pid).is_ok();
        self.lent
    }
}

impl Drop for Child {
    /// Takes the terminal back.
    fn drop(&mut self) {
        if let (true, Some(terminal)) = (self.lent, &self.terminal) {
            let _ = terminal.give_to(getpgrp());
        }
    }
}
