//! Ctrl-C in commands that show what they know so far.

use tokio::sync::watch;

/// Remembers whether the person pressed Ctrl-C, also between two waits.
pub(crate) struct Interrupt(watch::Receiver<bool>);

impl Interrupt {
    /// Begins to listen. From now on Ctrl-C does not end the program.
    pub(crate) fn listen() -> Self {
        let (pressed, receiver) = watch::channel(false);
        let ctrl_c = ctrl_c();
        tokio::spawn(async move {
            if ctrl_c.await {
                let _ = pressed.send(true);
            }
            // A closed channel would look like Ctrl-C.
            std::future::pending::<()>().await;
        });
        Self(receiver)
    }

    /// Completes when Ctrl-C was pressed.
    pub(crate) async fn pressed(&mut self) {
        let _ = self.0.wait_for(|pressed| *pressed).await;
    }
}

/// Takes the signal over at once, and returns a future that waits for it: false if that is not possible.
#[cfg(unix)]
fn ctrl_c() -> impl Future<Output = bool> + Send {
    use tokio::signal::unix::{SignalKind, signal};
    let interrupts = signal(SignalKind::interrupt());
    async move {
        match interrupts {
            Ok(mut interrupts) => interrupts.recv().await.is_some(),
            Err(_) => false,
        }
    }
}

#[cfg(not(unix))]
async fn ctrl_c() -> bool {
    tokio::signal::ctrl_c().await.is_ok()
}
