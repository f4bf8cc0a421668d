//! The events that larder emits, by their messages.

use std::fmt;
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber, span};

/// Keeps the target, message and fields of each event of larder. While there is only one subscriber, the thread that
/// meets an event first decides for all threads whether it is enabled; so a test that counts events creates a second
/// subscriber.
#[derive(Clone, Default)]
pub struct Events(Arc<Mutex<Vec<Recorded>>>);

/// An event.
#[derive(Debug, Clone)]
pub struct Recorded {
    pub target: String,
    pub message: String,
    pub fields: String,
}

impl Events {
    /// How often an event with this message was emitted.
    pub fn count(&self, message: &str) -> usize {
        self.all().iter().filter(|seen| seen.message == message).count()
    }

    pub fn all(&self) -> Vec<Recorded> {
        self.0.lock().unwrap().clone()
    }
}

impl Visit for Recorded {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            self.fields += &format!("{}={value:?} ", field.name());
        }
    }
}

impl Subscriber for Events {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("larder")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let target = event.metadata().target().to_owned();
        let mut seen = Recorded { target, message: String::new(), fields: String::new() };
        event.record(&mut seen);
        self.0.lock().unwrap().push(seen);
    }
}
