//! Ctrl-C in commands that show what they know so far.

use tokio::sync::watch;

/// Remembers whether the person pressed Ctrl-C, also between two waits.
pub(crate) struct Interrupt(watch::Receiver<bool>);

impl Interrupt {
    /// Begins to listen. From now on Ctrl-C does not end the program.
    pub(crate) fn listen() -> Self {
        let (pressed, receiver) = watch::channel(false);
        tokio::spawn(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
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
