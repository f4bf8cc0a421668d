//! One child process that cannot outlive the test.
//!
//! Dropping kills it. A test process that is itself killed drops nothing, so beside each child runs a shell that reads
//! from a pipe of ours: when we die, the pipe closes and the shell kills the child and removes its folder. (The
//! kernel's parent-death signal would do without the shell, but it needs unsafe code, and it fires when the *thread*
//! ends that started the child: a server shared by several tests would die with the first.)

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
    /// Starts `command`, which must become the server by itself (no fork), with `folder` as its own, if it has one.
    pub(crate) fn spawn(mut command: Command, folder: Option<&Path>) -> io::Result<Self> {
        // Groups of their own: Ctrl-C in the terminal must reach us only, or the watchdog would die before its moment.
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

    /// SIGSTOP; returns once the process stands still.
    pub(crate) fn pause(&mut self) {
        assert!(self.exited().is_none(), "the process to pause has died");
        let pid = self.rustix_pid();
        kill_process(pid, Signal::STOP).expect("a child of ours can be signalled");
        waitid(WaitId::Pid(pid), WaitIdOptions::STOPPED).expect("a child of ours can be waited for");
    }

    /// SIGCONT.
    pub(crate) fn resume(&self) {
        kill_process(self.rustix_pid(), Signal::CONT).expect("a child of ours can be signalled");
    }

    /// SIGKILL, where it still runs; returns once it is gone.
    pub(crate) fn kill(&mut self) {
        // The watchdog first: once the child is reaped, its number may belong to another process.
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
