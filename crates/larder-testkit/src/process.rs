//! One child process that cannot outlive the test.
//!
//! Dropping kills it. A test process that is itself killed drops nothing, so next to each child runs a shell that reads
//! from a pipe of ours: when we die, the pipe closes, and the shell kills the child and removes its folder. (The
//! kernel's parent-death signal would work without the shell. But it needs unsafe code, and it fires when the *thread*
//! that started the child ends: a server shared by several tests would die with the first of them.)

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    watchdog: Child,
}

impl Process {
    /// Starts `command`, which must become the server itself (no fork), with `folder` as its folder, if it has one.
    pub(crate) fn spawn(mut command: Command, folder: Option<&Path>) -> io::Result<Self> {
        // Process groups of their own: Ctrl-C in the terminal must reach only us, or the watchdog would die too early.
        let child = command.process_group(0).spawn()?;
        let watchdog = Command::new("/bin/sh")
            .args(["-c", "read -r _; kill -9 \"$1\"; shift; rm -rf \"$@\"", "larder-watchdog"])
            .arg(child.id().to_string())
            .args(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
        match watchdog {
            Ok(watchdog) => Ok(Self { child, watchdog }),
            Err(error) => {
                end(&mut { child });
                Err(error)
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child of ours can be waited for")
    }

    pub(crate) fn rustix_pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// The pipe that the process reads from, once, if its command has one.
    pub(crate) fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Sends SIGSTOP, and returns once the process is stopped.
    pub(crate) fn pause(&mut self) {
        assert!(self.exited().is_none(), "the process to pause has died");
        let pid = self.rustix_pid();
        kill_process(pid, Signal::STOP).expect("a child of ours can be signalled");
        waitid(WaitId::Pid(pid), WaitIdOptions::STOPPED).expect("a child of ours can be waited for");
    }

    /// Sends SIGCONT.
    pub(crate) fn resume(&self) {
        kill_process(self.rustix_pid(), Signal::CONT).expect("a child of ours can be signalled");
    }

    /// Sends SIGKILL if the process still runs, and returns once it is gone.
    pub(crate) fn kill(&mut self) {
        // Kill the watchdog first: once the child is reaped, its number may belong to another process.
        end(&mut self.watchdog);
        end(&mut self.child);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}
