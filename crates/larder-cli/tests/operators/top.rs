//! `larder top` on a terminal of its own.
//!
//! With LARDER_TOP_SCREENS=FOLDER the screens are written there, as text and with the terminal's own sequences.

use std::fs;
use std::io::{Read, Seek, Write};
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::process::Child;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use larder_testkit::{Server, eventually};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{Termios, tcgetattr};
use nix::unistd::Pid;
use pty_process::Size;
use pty_process::blocking::{Command, Pty};

use super::run;

const LIMIT: Duration = Duration::from_secs(30);

/// `larder top` and the terminal that it runs on.
struct Terminal {
    pty: Arc<Pty>,
    child: Child,
    screen: Arc<Mutex<vt100::Parser>>,
    sent: Arc<Mutex<Vec<u8>>>,
    before: Termios,
}

fn size(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

impl Terminal {
    fn start(url: &str, variables: &[(&str, &str)]) -> Self {
        let (pty, pts) = pty_process::blocking::open().unwrap();
        pty.resize(Size::new(24, 80)).unwrap();
        let before = tcgetattr(&pty).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_larder")).args(["top", "--interval", "200ms"]);
        for name in ["NO_COLOR", "LARDER_PROFILE", "LARDER_NAMESPACE", "LARDER_PASSWORD"] {
            command = command.env_remove(name);
        }
        command = command.env("LARDER_URL", url).env("TERM", "xterm-256color").env("HOME", "/nonexistent");
        let child = command.envs(variables.iter().copied()).spawn(pts).unwrap();
        let pty = Arc::new(pty);
        let screen = Arc::new(Mutex::new(vt100::Parser::new(size(24), size(80), 0)));
        let sent = Arc::new(Mutex::new(Vec::new()));
        let (reader, shown, all) = (Arc::clone(&pty), Arc::clone(&screen), Arc::clone(&sent));
        thread::spawn(move || {
            let mut buffer = [0; 65_536];
            // When the child has ended, reading fails.
            while let Ok(length @ 1..) = (&*reader).read(&mut buffer) {
                shown.lock().unwrap().process(&buffer[..length]);
                all.lock().unwrap().extend_from_slice(&buffer[..length]);
            }
        });
        Self { pty, child, screen, sent, before }
    }

    fn text(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    /// Waits until the screen is as wanted.
    #[track_caller]
    fn until(&self, what: &str, wanted: impl Fn(&str) -> bool) {
        let limit = std::time::Instant::now() + LIMIT;
        while !wanted(&self.text()) {
            assert!(std::time::Instant::now() < limit, "{what} is not seen:\n{}", self.text());
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn press(&self, keys: &str) {
        (&*self.pty).write_all(keys.as_bytes()).unwrap();
    }

    fn resize(&self, rows: u16, columns: u16) {
        self.screen.lock().unwrap().screen_mut().set_size(size(rows), size(columns));
        self.pty.resize(Size::new(rows, columns)).unwrap();
    }

    /// Writes the screen to files, for people to look at.
    fn capture(&self, name: &str) {
        let Some(folder) = std::env::var_os("LARDER_TOP_SCREENS").map(PathBuf::from) else { return };
        fs::create_dir_all(&folder).unwrap();
        let parser = self.screen.lock().unwrap();
        fs::write(folder.join(format!("{name}.txt")), parser.screen().contents()).unwrap();
        fs::write(folder.join(format!("{name}.ansi")), parser.screen().contents_formatted()).unwrap();
    }

    /// Waits for the end, and checks that the terminal is as it was.
    #[track_caller]
    fn ended(mut self, code: i32) {
        let status = eventually("top ends", LIMIT, || self.child.try_wait().unwrap());
        assert_eq!(status.code(), Some(code), "{}", self.text());
        let after = tcgetattr(&*self.pty).unwrap();
        assert_eq!(after.local_flags, self.before.local_flags);
        assert_eq!(after.input_flags, self.before.input_flags);
        assert_eq!(after.output_flags, self.before.output_flags);
        eventually("the first screen is back", LIMIT, || {
            let sent = self.sent.lock().unwrap();
            let last = |sequence: &[u8]| sent.windows(sequence.len()).rposition(|window| window == sequence);
            let (left, shown) = (last(b"\x1b[?1049l"), last(b"\x1b[?25h"));
            (left > last(b"\x1b[?1049h") && shown > last(b"\x1b[?25l")).then_some(())
        });
    }

    fn is_coloured(&self) -> bool {
        let parser = self.screen.lock().unwrap();
        let screen = parser.screen();
        let (rows, columns) = screen.size();
        let cells = (0..rows.get()).flat_map(|row| (0..columns.get()).map(move |column| (row, column)));
        cells
            .filter_map(|(row, column)| screen.cell(row, column))
            .any(|cell| cell.fgcolor() != vt100::Color::Default || cell.bgcolor() != vt100::Color::Default)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server with entries of two caches and records of a limiter, and a program that holds a lock and permits of it.
fn filled() -> (Server, Program) {
    let server = Server::builder()
        .tcp()
        .persist()
        .arg("maxmemory", "64mb")
        .arg("maxmemory-policy", "allkeys-lfu")
        .start();
    let fill = "for i = 1, 300 do redis.call('SET', 'shop/user:' .. i, '{\"name\":\"Ann\"}', 'EX', 3000) end \
                for i = 1, 100 do redis.call('SET', 'shop/page@2:' .. i, '[' .. string.rep('1,', 500) .. '1]', 'EX', 300) end \
                for i = 1, 20 do redis.call('SET', '~limit.1:{shop/api:' .. i .. '}', 'x', 'EX', 600) end";
    server.command(&["EVAL", fill, "0"]);
    let program = Program::start(&server.url());
    (server, program)
}

/// A program that announced itself.
struct Program {
    held: Option<Box<dyn std::any::Any>>,
    runtime: tokio::runtime::Runtime,
}

impl Program {
    fn start(url: &str) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let held = runtime.block_on(async {
            let larder = larder::Larder::builder().url(url).namespace("shop").presence("web-3");
            let larder = larder.connect().await.unwrap();
            let hour = Duration::from_secs(3600);
            let checkout = larder.lock("checkout").ttl(hour).acquire().await.unwrap();
            let permits = larder.semaphore("exports", 4).ttl(hour).acquire_many(2).await.unwrap();
            let waiting = larder.lock("checkout");
            tokio::spawn(async move { waiting.acquire().await });
            Box::new((checkout, permits, larder))
        });
        Self { held: Some(held), runtime }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // What is released runs on the runtime.
        let _inside = self.runtime.enter();
        drop(self.held.take());
    }
}

#[test]
fn top_shows_what_is_there_follows_the_terminals_size_and_outlives_a_restart() {
    let (server, _program) = filled();
    let top = Terminal::start(&server.url(), &[("LARDER_NAMESPACE", "shop")]);
    top.until("the sample", |text| {
        text.contains("user") && text.contains("page@2") && text.contains("commands")
    });
    top.until("the tabs and keys", |text| text.contains(" 1 Caches") && text.contains("q quit"));
    assert!(top.is_coloured());
    top.capture("80x24");
    // Sorted by name, ascending: page before user.
    top.press("Sr");
    top.press("S");
    top.press("/page\r");
    top.until("the filter", |text| text.contains("filter: page") && !text.contains("user"));
    top.press("\x1b");
    top.until("everything again", |text| text.contains("user"));
    top.press("?");
    top.until("the help", |text| text.contains("any key closes this"));
    top.capture("80x24-help");
    top.press("x");
    top.press("3");
    top.until("the limiter", |text| text.contains("api") && text.contains("KEYS"));
    top.capture("80x24-limits");

    top.press("2");
    top.until("the locks", |text| text.contains("checkout") && text.contains("2/4"));
    top.capture("80x24-locks");
    top.press("4");
    top.until("the process", |text| text.contains("web-3") && text.contains("PROCESS"));
    top.capture("80x24-processes");
    top.press("3");
    top.resize(50, 200);
    top.until("all four tables", |text| {
        ["1 Caches", "2 Locks", "3 Limits", "4 Processes", "page@2", "checkout", "web-3"]
            .iter()
            .all(|part| text.contains(part))
    });
    top.capture("200x50");
    top.resize(24, 80);
    top.until("one table", |text| !text.contains("MEDIAN") && text.contains("LIMITER"));

    server.kill();
    top.until("the outage", |text| text.contains("not reached for"));
    top.capture("80x24-outage");
    server.restart();
    top.until("the server is back", |text| !text.contains("not reached for") && text.contains("api"));
    top.press(" ");
    top.until("the pause", |text| text.contains("paused"));
    top.press("\x03");
    top.ended(0);
}

#[test]
fn without_colour_top_is_plain_and_a_signal_restores_the_terminal() {
    let (server, _program) = filled();
    let top = Terminal::start(&server.url(), &[("LARDER_NAMESPACE", "shop"), ("NO_COLOR", "1")]);
    top.until("the sample and the rates", |text| text.contains("page@2") && text.contains("commands"));
    assert!(!top.is_coloured());
    top.capture("80x24-plain");
    top.press("2");
    top.resize(50, 200);
    top.until("all four tables", |text| {
        ["page@2", "checkout", "LIMITER", "web-3"].iter().all(|part| text.contains(part))
    });
    assert!(!top.is_coloured());
    top.capture("200x50-plain");
    kill(Pid::from_raw(i32::try_from(top.child.id()).unwrap()), Signal::SIGTERM).unwrap();
    top.ended(128 + 15);
}

#[test]
fn a_key_right_after_a_resize_is_not_lost() {
    let (server, _program) = filled();
    let top = Terminal::start(&server.url(), &[("LARDER_NAMESPACE", "shop")]);
    top.until("the sample", |text| text.contains("page@2"));
    for round in 0..200 {
        let (key, title) = if round % 2 == 0 { ("3", "LIMITER") } else { ("4", "PROCESS") };
        top.resize(24 + round % 5, 80 + round % 7);
        top.press(key);
        top.until(&format!("the pane of key {key} in round {round}"), |text| text.contains(title));
    }
    top.press("q");
    top.ended(0);
}

/// Closing the master is what a terminal emulator or sshd does when its window or connection closes.
#[test]
fn a_terminal_that_goes_away_ends_top_as_a_hang_up() {
    let server = Server::start();
    for stderr_is_a_file in [false, true] {
        let (mut pty, pts) = pty_process::blocking::open().unwrap();
        pty.resize(Size::new(24, 80)).unwrap();
        let mut errors = tempfile::tempfile().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_larder")).args(["top", "--interval", "200ms"]);
        command =
            command.env("LARDER_URL", server.url()).env("TERM", "xterm-256color").env("HOME", "/nonexistent");
        for name in ["LARDER_PROFILE", "LARDER_NAMESPACE", "LARDER_PASSWORD"] {
            command = command.env_remove(name);
        }
        if stderr_is_a_file {
            command = command.stderr(errors.try_clone().unwrap());
        }
        let mut child = command.spawn(pts).unwrap();
        // The first frame names the keys. If they are missing, figures that change end the reads.
        let mut screen = vt100::Parser::new(size(24), size(80), 0);
        let (mut buffer, end) = ([0; 4096], std::time::Instant::now() + LIMIT);
        while !screen.screen().contents().contains("q quit") {
            assert!(std::time::Instant::now() < end, "no frame:\n{}", screen.screen().contents());
            let length = pty.read(&mut buffer).unwrap();
            screen.process(&buffer[..length]);
        }
        drop(pty);
        let status = eventually("top ends", LIMIT, || child.try_wait().unwrap());
        let mut text = String::new();
        errors.rewind().unwrap();
        errors.read_to_string(&mut text).unwrap();
        assert_eq!(status.code(), Some(128 + 1), "{status}, stderr in a file: {stderr_is_a_file}, {text:?}");
        assert_eq!(text, "");
    }
}

#[test]
fn without_a_terminal_top_says_what_to_use_instead() {
    let output = run("memory:", &["top"]);
    assert_eq!(output.status.code(), Some(64));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("top needs a terminal") && error.contains("larder doctor"), "{error}");
}
