//! A panic restores the terminal. One test runs the other one on a terminal of its own.

use std::env;
use std::io::Read;

use pty_process::Size;
use pty_process::blocking::{Command, open};

use super::Screen;

#[test]
#[ignore = "run by the next test, on a terminal of its own"]
fn panics_while_the_view_is_drawn() {
    let mut screen = Screen::enter().unwrap();
    screen.terminal.draw(|_| panic!("as wanted")).unwrap();
}

#[test]
fn a_panic_is_printed_on_a_terminal_that_is_restored() {
    let (mut pty, pts) = open().unwrap();
    pty.resize(Size::new(24, 80)).unwrap();
    let before = nix::sys::termios::tcgetattr(&pty).unwrap();
    let test = "commands::top::tests::panics_while_the_view_is_drawn";
    let command = Command::new(env::current_exe().unwrap());
    let mut child = command.args([test, "--exact", "--ignored", "--nocapture"]).spawn(pts).unwrap();
    let mut sent = Vec::new();
    let mut buffer = [0; 4096];
    // When the child has ended, reading fails.
    while let Ok(length @ 1..) = pty.read(&mut buffer) {
        sent.extend_from_slice(&buffer[..length]);
    }
    assert!(!child.wait().unwrap().success());
    let text = String::from_utf8_lossy(&sent);
    let place = |part: &str| text.find(part).unwrap_or_else(|| panic!("no {part:?} in {text:?}"));
    let (entered, left) = (place("\x1b[?1049h"), place("\x1b[?1049l"));
    assert!(entered < left && left < place("as wanted"), "{text:?}");
    let after = nix::sys::termios::tcgetattr(&pty).unwrap();
    assert_eq!(after.local_flags, before.local_flags);
    assert_eq!(after.input_flags, before.input_flags);
}
