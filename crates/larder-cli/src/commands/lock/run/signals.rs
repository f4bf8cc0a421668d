//! The signals that larder forwards, and those that its terminal sends.

use std::fs;
use std::io;

use nix::sys::signal::Signal;
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};
use tokio::sync::mpsc;

/// Those that are forwarded to the child's group, and end larder while it waits for the lock.
const FORWARDED: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// The signals of this process. While it lives, they have no other effect.
pub(super) struct Signals {
    forwarded: mpsc::UnboundedReceiver<Signal>,
    child: Stream,
    resumed: Stream,
    suspended: Stream,
}

/// What has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrived {
    /// A signal to forward.
    Forward(Signal),
    /// A child has changed its state.
    Child,
    /// The shell has put this process into the foreground or the background, and continued it.
    Resumed,
    /// Ctrl-Z.
    Suspended,
}

impl Signals {
    /// Begins to listen. A signal that this process was started to ignore, as by `nohup`, stays ignored, by the child
    /// too.
    pub(super) fn listen() -> io::Result<Self> {
        let ignored = ignored();
        let (sender, forwarded) = mpsc::unbounded_channel();
        for forward in FORWARDED.into_iter().filter(|forward| ignored & bit(*forward) == 0) {
            let mut stream = signal(SignalKind::from_raw(forward as i32))?;
            let sender = sender.clone();
            tokio::spawn(
                async move { while stream.recv().await.is_some() && sender.send(forward).is_ok() {} },
            );
        }
        Ok(Self {
            forwarded,
            child: signal(SignalKind::child())?,
            resumed: signal(SignalKind::from_raw(Signal::SIGCONT as i32))?,
            suspended: signal(SignalKind::from_raw(Signal::SIGTSTP as i32))?,
        })
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) -> Arrived {
        tokio::select! {
            Some(signal) = self.forwarded.recv() => Arrived::Forward(signal),
            Some(()) = self.child.recv() => Arrived::Child,
            Some(()) = self.resumed.recv() => Arrived::Resumed,
            Some(()) = self.suspended.recv() => Arrived::Suspended,
            else => std::future::pending().await,
        }
    }

    /// Waits for one that ends larder before it has a child.
    pub(super) async fn end(&mut self) -> Signal {
        loop {
            if let Arrived::Forward(signal) = self.next().await {
                return signal;
            }
        }
    }
}

fn bit(signal: Signal) -> u64 {
    1 << (signal as i32 - 1)
}

/// The signals that this process ignores, as a set of bits. Empty where the system does not say.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0)
}
