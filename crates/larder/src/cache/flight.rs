//! Loads under way in this process: one a key, which all who want the key wait for together.
//!
//! A flight is found by its entry's name. Whoever writes or deletes the entry detaches it: those who wait already still
//! get its value, those who come later start anew. That is what makes a load that starts after a `delete` returned
//! see nothing older than the delete.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Why a flight has no value.
#[derive(Clone)]
pub(super) enum Crash {
    /// The loader's own error, of whatever type.
    Loader(Arc<dyn Any + Send + Sync>),
    /// The message of the loader's panic.
    Panicked(Arc<str>),
}

pub(super) type Landed<V> = Result<V, Crash>;

/// Waits for a flight.
pub(super) type Seat<V> = watch::Receiver<Option<Landed<V>>>;

type Tower<V> = HashMap<String, Arc<watch::Sender<Option<Landed<V>>>>>;

pub(crate) struct Flights<V>(Arc<Mutex<Tower<V>>>);

impl<V> Default for Flights<V> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// The right and the duty to bring a flight to its end. When it is dropped before that, those who wait learn that nobody
/// flies.
pub(super) struct Pilot<V> {
    name: String,
    sender: Arc<watch::Sender<Option<Landed<V>>>>,
    tower: Arc<Mutex<Tower<V>>>,
}

impl<V> Pilot<V> {
    /// Whether those who come now still join this flight.
    pub(super) fn is_attached(&self) -> bool {
        lock(&self.tower).get(&self.name).is_some_and(|sender| Arc::ptr_eq(sender, &self.sender))
    }

    /// Hands the outcome to all who wait, and ends the flight.
    pub(super) fn land(self, outcome: Landed<V>) {
        self.sender.send_replace(Some(outcome));
    }
}

impl<V> Drop for Pilot<V> {
    fn drop(&mut self) {
        let mut tower = lock(&self.tower);
        if tower.get(&self.name).is_some_and(|sender| Arc::ptr_eq(sender, &self.sender)) {
            tower.remove(&self.name);
        }
    }
}

impl<V> Flights<V> {
    /// A seat on the flight to `name`; with the duty to fly it where there was none.
    pub(super) fn board(&self, name: &str) -> (Seat<V>, Option<Pilot<V>>) {
        let mut tower = lock(&self.0);
        if let Some(sender) = tower.get(name) {
            return (sender.subscribe(), None);
        }
        let (sender, seat) = watch::channel(None);
        let sender = Arc::new(sender);
        tower.insert(name.to_owned(), sender.clone());
        (seat, Some(Pilot { name: name.to_owned(), sender, tower: self.0.clone() }))
    }

    /// Detaches the flights to these names when the guard is dropped: once the write that voids them has been
    /// answered, has failed, or was given up. Not before, or a flight could start between that and the write.
    pub(super) fn detach_when_done<'a>(
        &'a self,
        names: impl IntoIterator<Item = &'a str>,
    ) -> DetachWhenDone<'a, V> {
        DetachWhenDone { flights: self, names: names.into_iter().collect() }
    }

    pub(super) fn detach_all(&self) {
        lock(&self.0).clear();
    }
}

fn lock<V>(tower: &Mutex<Tower<V>>) -> MutexGuard<'_, Tower<V>> {
    tower.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) struct DetachWhenDone<'a, V> {
    flights: &'a Flights<V>,
    names: Vec<&'a str>,
}

impl<V> Drop for DetachWhenDone<'_, V> {
    fn drop(&mut self) {
        let mut tower = lock(&self.flights.0);
        if tower.is_empty() {
            return;
        }
        for name in &self.names {
            tower.remove(*name);
        }
    }
}
