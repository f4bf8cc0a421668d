//! The queue of invalidations that the server has not answered yet.
//!
//! [`Names`]: one entry, whose deletions are queued, sent, lost and sent again beside calls that set it. Each item has a
//! generation; an answer removes the item only if its generation has not moved since it was sent. While a call sets the
//! entry, its item is not sent; and the call waits first until none is on its way.
//!
//! [`Tags`]: one tag, whose replacement is queued and sent after that of the epoch, beside a loader of another process
//! that names the tag itself. The loader reads the epoch, the row, the tag and the epoch again, and stores what it read
//! only if the epoch is still the same.
//!
//! Not modelled: requests that are carried out after their sender gave them up, of which larder promises nothing
//! (docs/guarantees.md); several entries, which share nothing but a counter; the queue's bound.

mod names;
mod tags;

pub use names::{Item, Names, NamesAction, NamesState, Setter};
pub use tags::{Loader, Queued, Sent, Tags, TagsAction, TagsState};

/// C1: what the queue does not cover is not older than what this process wrote.
pub const OWN: &str = "what is served is not older than what this process has invalidated";
/// A deletion from before a `set` does not come after it.
pub const KEPT: &str = "no deletion that was queued before a set removes what it stored";
/// The model is not safe for the reason alone that nothing is ever sent.
pub const SENT: &str = "the queue can be emptied after a deletion, with a newer value stored";
/// Nor for the reason that nothing is stored.
pub const STORED: &str = "a value can be stored and be valid after an invalidation that was sent";

/// What may be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mistake {
    /// Any answer removes the item, also one that was queued again since it was sent.
    NoGenerations,
    /// An item is sent while a call sets its entry.
    SentBesideWriter,
    /// A call sets an entry while the deletion of that is on its way.
    SetBesideSent,
    /// A `set` that was answered removes also what was queued since it began.
    RemovesNewer,
    /// A tag is sent before the epoch was answered.
    TagFirst,
    /// An answer about the epoch counts for tags that were queued since it was sent.
    EpochOfAnswer,
}
