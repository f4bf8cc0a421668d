//! A terminal with a program on it.

use std::io::{Read, Write};
use std::num::NonZero;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Child;
use std::time::Instant;

use larder_testkit::eventually;
use nix::poll::{PollFd, PollFlags, poll};
use pty_process::Size;
use pty_process::blocking::{Command, Pty, open};

use super::{LONG, code};

const ROWS: u16 = 60;
const COLUMNS: u16 = 160;

/// A shell script on a terminal.
pub(crate) struct Screen {
    pty: Pty,
    child: Child,
    parser: vt100::Parser,
}

impl Screen {
    /// Starts a script. `larder` is on its path, and its server is `url`, with the namespace `shop`.
    pub(crate) fn start(url: &str, script: &str) -> Self {
        super::default_signals();
        let (pty, pts) = open().unwrap();
        pty.resize(Size::new(ROWS, COLUMNS)).unwrap();
        let folder = Path::new(env!("CARGO_BIN_EXE_larder")).parent().unwrap().display();
        let path = format!("{folder}:{}", std::env::var("PATH").unwrap());
        let settings =
            [("LARDER_URL", url), ("LARDER_NAMESPACE", "shop"), ("NO_COLOR", "1"), ("TERM", "xterm")];
        let command = Command::new("sh").arg("-c").arg(script).env("PATH", path).envs(settings);
        let child = command.env("XDG_CONFIG_HOME", "/nonexistent").spawn(pts).unwrap();
        Self { pty, child, parser: vt100::Parser::new(size(ROWS), size(COLUMNS), 0) }
    }

    pub(crate) fn type_in(&mut self, text: &str) {
        self.pty.write_all(text.as_bytes()).unwrap();
    }

    /// Reads until a text is on the screen, and returns the screen.
    pub(crate) fn until(&mut self, wanted: &str) -> String {
        let end = Instant::now() + LONG;
        while !self.text().contains(wanted) {
            assert!(Instant::now() < end, "no {wanted:?} on {}", self.text());
            assert!(self.read(), "the program ended without {wanted:?}: {}", self.text());
        }
        self.text()
    }

    /// Reads until the program has ended, and returns the screen and the exit code.
    pub(crate) fn ended(mut self) -> (String, i32) {
        let end = Instant::now() + LONG;
        while self.read() {
            assert!(Instant::now() < end, "the program has not ended: {}", self.text());
        }
        let status = eventually("the program to end", LONG, || self.child.try_wait().unwrap());
        (self.text(), code(status))
    }

    /// What is on the screen, without the spaces at the ends of its lines.
    fn text(&self) -> String {
        let text = self.parser.screen().contents();
        text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n").trim_end().to_owned()
    }

    /// Reads what is there, if anything comes soon. False when the program has closed the terminal.
    fn read(&mut self) -> bool {
        let mut ready = [PollFd::new(self.pty.as_fd(), PollFlags::POLLIN)];
        if poll(&mut ready, 100u16).unwrap() == 0 {
            return true;
        }
        let mut bytes = [0; 4096];
        match self.pty.read(&mut bytes) {
            Ok(0) | Err(_) => false,
            Ok(read) => {
                self.parser.process(&bytes[..read]);
                true
            }
        }
    }
}

fn size(cells: u16) -> NonZero<u16> {
    NonZero::new(cells).unwrap()
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
