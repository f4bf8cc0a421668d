//! The terminal, which one process group at a time may read: lent to the child, and taken back.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};

/// The terminal that controls this process.
#[derive(Debug)]
pub(super) struct Terminal(File);

impl Terminal {
    /// Opens it; `None` for a process without one, such as one of cron.
    pub(super) fn open() -> Option<Self> {
        OpenOptions::new().read(true).write(true).open("/dev/tty").ok().map(Self)
    }

    /// Whether the child should have it: this process has it now, reads from it, and is no part of a pipeline, whose
    /// other programs would lose it.
    pub(super) fn should_be_lent(&self) -> bool {
        self.is_ours() && io::stdin().is_terminal() && !is_pipe(io::stdout())
    }

    /// Whether this process is in the foreground.
    pub(super) fn is_ours(&self) -> bool {
        self.owner() == Some(getpgrp())
    }

    /// Returns the foreground group.
    pub(super) fn owner(&self) -> Option<Pid> {
        tcgetpgrp(&self.0).ok()
    }

    /// Makes a process group the foreground group. Works in the background too: the signal that the kernel sends to a
    /// background process for that is blocked meanwhile.
    pub(super) fn give_to(&self, group: Pid) -> nix::Result<()> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGTTOU);
        let before = signals.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        let given = tcsetpgrp(&self.0, group);
        before.thread_set_mask()?;
        given
    }
}

fn is_pipe(file: impl AsFd) -> bool {
    use std::os::unix::fs::FileTypeExt;
    let metadata = file.as_fd().try_clone_to_owned().and_then(|file| File::from(file).metadata());
    metadata.is_ok_and(|metadata| metadata.file_type().is_fifo() || metadata.file_type().is_socket())
}
