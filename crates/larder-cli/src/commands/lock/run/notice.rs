//! Messages for a person that never hold up the thread which keeps the lock.
//!
//! Standard error may be a pipe that is full, or a terminal that Ctrl-S stops or that stops background writers
//! (`stty tostop`). A write on the thread that renews the lease and sends the signals would let the command outlive its
//! lock.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

use crate::output;

/// How long the caller waits for a message to be written.
const WRITE_TIMEOUT: Duration = Duration::from_millis(50);
/// More messages than this that cannot be written are dropped.
const MOST: usize = 16;

/// The messages that are being written.
static PENDING: AtomicUsize = AtomicUsize::new(0);

/// Prints a line to standard error on a thread of its own. Returns when it is written, at the latest after 50 ms.
pub(super) fn say(text: impl Into<String>) {
    let before = PENDING.fetch_add(1, Ordering::SeqCst);
    if before >= MOST {
        PENDING.fetch_sub(1, Ordering::SeqCst);
        return;
    }
    let text = text.into();
    let (done, written) = sync_channel(1);
    let writer = thread::Builder::new().name("larder-say".to_owned()).spawn(move || {
        // The kernel lets a thread that blocks SIGTTOU write from the background. Otherwise the signal stops all of
        // larder, also the thread that keeps the lock.
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGTTOU);
        if signals.thread_block().is_ok() {
            output::say(&text);
        }
        PENDING.fetch_sub(1, Ordering::SeqCst);
        let _ = done.send(());
    });
    match writer {
        // An earlier message still waits, so this one waits too.
        Ok(_) if before > 0 => {}
        Ok(_) => {
            let _ = written.recv_timeout(WRITE_TIMEOUT);
        }
        Err(_) => {
            PENDING.fetch_sub(1, Ordering::SeqCst);
        }
    }
}
