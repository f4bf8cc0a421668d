//! `larder top`: a live view of caches, locks, limits, processes and the server.
//!
//! Tasks read (`collect`) and send updates; one loop takes them and the keys (`keys`), changes the state (`data`) and
//! draws it (`view`). The terminal is restored however the loop ends: by a key, by a signal, by an error or by a panic.

mod collect;
mod data;
mod keys;
mod rows;
mod view;

use std::io::{self, IsTerminal};
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use clap::Args;
use larder::admin::Admin;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use crate::app::App;
use crate::args::duration;
use crate::exit::Exit;
use crate::failure::Failure;
use data::{Data, Update};
use keys::{After, Ui};

/// How often the thread that reads keys looks whether it should end.
const POLL: Duration = Duration::from_millis(100);

/// Watch caches, locks, limits, processes and the server live
///
/// The figures of caches are estimates from a random sample of the keys, which costs the server at most a twentieth of
/// its time. `?` shows the keys, `q` quits.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// How often the view is updated
    #[arg(long, short, value_name = "TIME", default_value = "2s", value_parser = duration)]
    interval: Duration,
}

pub(crate) async fn run(arguments: Arguments, app: &App) -> Result<Exit, Failure> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(Failure::usage("top needs a terminal")
            .fix("in scripts use `larder ls`, `larder lock ls`, `larder ps` and `larder doctor`, with --format json"));
    }
    let larder = app.connect().await?;
    let admin = larder.admin();
    let interval = arguments.interval.max(Duration::from_millis(100));
    let title = match admin.namespace() {
        "" => app.settings.shown_url(),
        namespace => format!("{namespace} @ {}", app.settings.shown_url()),
    };
    let ui = Ui::new(app.out.colour());
    let result = match Screen::enter() {
        Ok(mut screen) => watch(&mut screen.terminal, admin, interval, Data::new(title), ui).await,
        Err(failure) => Err(failure),
    };
    // A terminal that goes away fails the draw or the reader of keys before its SIGHUP is handled.
    let result = match result {
        Ok(Exit::IO) | Err(_) if is_hung_up() => Ok(Exit::signal(1)),
        other => other,
    };
    // The view is gone already: a server that does not answer must not hold up the shell.
    let _ = tokio::time::timeout(Duration::from_secs(1), larder.close()).await;
    result
}

/// Whether the terminal, which was there at the start, has gone away.
fn is_hung_up() -> bool {
    !io::stdout().is_terminal() || !io::stdin().is_terminal()
}

/// The terminal while the view is on it: raw, and on its second screen. Restored on drop; ratatui's panic hook does the
/// same before a panic is printed.
///
/// The terminal may have gone away by then. No failure is printed, because `eprintln!` panics when standard error was
/// that terminal, and a panic in a drop aborts. `DefaultTerminal` prints one in its own drop, so that is never run.
struct Screen {
    terminal: ManuallyDrop<DefaultTerminal>,
}

impl Screen {
    fn enter() -> Result<Self, Failure> {
        let terminal = ratatui::try_init().inspect_err(|_| {
            let _ = ratatui::try_restore();
        })?;
        Ok(Self { terminal: ManuallyDrop::new(terminal) })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.terminal.show_cursor();
        let _ = ratatui::try_restore();
    }
}

async fn watch(
    terminal: &mut DefaultTerminal,
    admin: Admin,
    interval: Duration,
    mut data: Data,
    mut ui: Ui,
) -> Result<Exit, Failure> {
    let (news, mut updates) = mpsc::channel::<Update>(16);
    let tasks = [
        tokio::spawn(collect::servers(admin.clone(), interval, news.clone())),
        tokio::spawn(collect::sample(admin.clone(), interval, news.clone())),
        tokio::spawn(collect::walks(admin, interval, news)),
    ];
    let mut input = Input::start()?;
    let mut signals = Signals::new()?;
    // The clock moves, and so does the time since when a server is away.
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let exit = loop {
        terminal.draw(|frame| view::draw(frame, &data, &ui))?;
        tokio::select! {
            _ = seconds.tick() => {}
            update = updates.recv() => match update {
                Some(update) if !ui.paused => data.apply(update),
                Some(_) => {}
                None => break Exit::SERVER,
            },
            event = input.next() => match event {
                Some(Event::Key(key)) => {
                    if ui.press(key, &data) == After::Quit {
                        break Exit::OK;
                    }
                }
                // The next draw notices the new size.
                Some(_) => {}
                None => break Exit::IO,
            },
            signal = signals.next() => break Exit::signal(signal),
        }
    };
    for task in tasks {
        task.abort();
    }
    Ok(exit)
}

/// The events of the terminal, read on a thread of its own because reading blocks.
struct Input {
    events: mpsc::Receiver<Event>,
    stop: Arc<AtomicBool>,
}

impl Input {
    fn start() -> Result<Self, Failure> {
        let (sender, events) = mpsc::channel(64);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        thread::Builder::new().name("larder-keys".to_owned()).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match event::poll(POLL)
                    .and_then(|there| if there { event::read().map(Some) } else { Ok(None) })
                {
                    Ok(None) => {}
                    Ok(Some(event)) => {
                        if sender.blocking_send(event).is_err() {
                            return;
                        }
                    }
                    // The terminal is gone; the receiver notices that the sender is.
                    Err(_) => return,
                }
            }
        })?;
        Ok(Self { events, stop })
    }

    async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The signals that end a program. Ctrl-C on the terminal is a key here, because the terminal is raw.
#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => 2,
            _ = self.terminate.recv() => 15,
            _ = self.hang_up.recv() => 1,
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> i32 {
        let _ = tokio::signal::ctrl_c().await;
        2
    }
}

#[cfg(all(test, unix))]
#[path = "panic_tests.rs"]
mod tests;
