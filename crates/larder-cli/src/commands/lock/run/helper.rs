//! This program, started again by `lock run`, which becomes the child.
//!
//! Between its start and the child's it asks the kernel to kill it when larder dies, and takes the terminal if larder
//! lends it. Both must happen in the child's process, and before its program runs. A safe program cannot run code
//! between `fork` and `exec`, so there is a process for it.

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use nix::unistd::{Pid, getpgrp, getppid};

use super::terminal;
use crate::exit::Exit;
use crate::output::escape;

/// The first argument, which no person types.
const WORD: &str = "__lock-run-child";
const NOT_FOUND: Exit = Exit::code(127);
const NOT_EXECUTABLE: Exit = Exit::code(126);

/// Makes the command that starts the helper: in a process group of its own, as a child of this process.
pub(super) fn command(program: &[OsString], foreground: bool) -> io::Result<Command> {
    let mut command = Command::new(own_program()?);
    command.arg(WORD).arg(std::process::id().to_string());
    command.arg(if foreground { "foreground" } else { "background" }).args(program).process_group(0);
    Ok(command)
}

/// Returns this program's file. On Linux it is found even if it was replaced or removed since it was started.
fn own_program() -> io::Result<PathBuf> {
    if cfg!(target_os = "linux") {
        let link = PathBuf::from("/proc/self/exe");
        if link.exists() {
            return Ok(link);
        }
    }
    env::current_exe()
}

/// If this process is the helper, becomes the child, and returns only if that failed. `None` if it is not.
pub(crate) fn helper(mut arguments: impl Iterator<Item = OsString>) -> Option<Exit> {
    arguments.next()?;
    if arguments.next()? != WORD {
        return None;
    }
    let parent = arguments.next()?.to_str()?.parse().ok().map(Pid::from_raw)?;
    let foreground = arguments.next()? == "foreground";
    let program = arguments.next()?;

    if let Err(exit) = die_with(parent) {
        return Some(exit);
    }
    if foreground {
        // Without the terminal the child still runs; a terminal that has gone is no reason not to start it.
        let _ = terminal::Terminal::open().map(|terminal| terminal.give_to(getpgrp()));
    }
    let error = Command::new(&program).args(arguments).exec();
    let exit = if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE };
    let name = program.to_string_lossy();
    let _ = writeln!(io::stderr().lock(), "larder: {}: {error}", escape::text(&name));
    Some(exit)
}

/// Asks the kernel to kill this process when its parent dies. The kernel forgets the wish only if the child's program
/// changes its user.
fn die_with(parent: Pid) -> Result<(), Exit> {
    #[cfg(target_os = "linux")]
    if nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).is_err() {
        return Err(NOT_EXECUTABLE);
    }
    // The parent may have died before: then this process has another one already, and no signal comes.
    if getppid() != parent {
        return Err(Exit::signal(nix::sys::signal::Signal::SIGKILL as i32));
    }
    Ok(())
}
