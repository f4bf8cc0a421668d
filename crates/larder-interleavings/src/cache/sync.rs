//! shuttle's locks for larder's `cache/flight.rs`; and tokio's channel and lock, of which each operation is
//! one step: another thread may go on before it, but not within it.

pub(super) use std::sync::PoisonError;

pub(super) use shuttle::sync::atomic::{AtomicBool, Ordering};
pub(super) use shuttle::sync::{Mutex, MutexGuard};

/// Lets another thread go on, if the scheduler decides so. `yield_now` would tell PCT that this thread has
/// nothing to do.
fn step() {
    if !std::thread::panicking() {
        AtomicBool::new(false).load(Ordering::SeqCst);
    }
}

#[derive(Default)]
pub(super) struct AsyncMutex<T>(tokio::sync::Mutex<T>);

impl<T> AsyncMutex<T> {
    pub(super) async fn lock(&self) -> tokio::sync::MutexGuard<'_, T> {
        step();
        self.0.lock().await
    }
}

pub(super) mod watch {
    use tokio::sync::watch;
    use tokio::sync::watch::Ref;
    use tokio::sync::watch::error::RecvError;

    use super::step;

    pub(in crate::cache) struct Sender<T>(watch::Sender<T>);

    pub(in crate::cache) struct Receiver<T>(watch::Receiver<T>);

    pub(in crate::cache) fn channel<T>(first: T) -> (Sender<T>, Receiver<T>) {
        let (sender, receiver) = watch::channel(first);
        (Sender(sender), Receiver(receiver))
    }

    impl<T> Sender<T> {
        pub(in crate::cache) fn send_replace(&self, value: T) -> T {
            step();
            self.0.send_replace(value)
        }

        pub(in crate::cache) fn subscribe(&self) -> Receiver<T> {
            step();
            Receiver(self.0.subscribe())
        }

        pub(in crate::cache) fn is_closed(&self) -> bool {
            step();
            self.0.is_closed()
        }

        pub(in crate::cache) async fn closed(&self) {
            step();
            self.0.closed().await;
        }
    }

    impl<T> Receiver<T> {
        pub(in crate::cache) async fn wait_for(
            &mut self,
            wanted: impl FnMut(&T) -> bool,
        ) -> Result<Ref<'_, T>, RecvError> {
            step();
            self.0.wait_for(wanted).await
        }
    }

    impl<T> Drop for Receiver<T> {
        fn drop(&mut self) {
            step();
        }
    }
}
