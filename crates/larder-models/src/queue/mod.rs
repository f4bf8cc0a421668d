//! The queue of invalidations that the server has not confirmed yet.
//!
//! [`Names`]: one entry, whose deletions are queued, sent, lost and sent again beside calls that set it. Each
//! item has a generation; an answer removes the item only if its generation has not changed since it was
//! sent. While a call sets the entry, its item is not sent; and the call first waits until no request for it
//! is on its way.
//!
//! [`Tags`]: one tag, whose replacement is queued and sent after that of the epoch, beside a loader of
//! another process that names the tag itself. The loader reads the epoch, the row, the tag and the epoch
//! again, and stores what it read only if the epoch is still the same.
//!
//! Not modelled: requests that are carried out after their sender gave up, for which larder promises nothing
//! (docs/guarantees.md); several entries, which share nothing but a counter; the queue's bound.

mod names;
mod tags;

pub use names::{Item, Names, NamesAction, NamesState, Setter};
pub use tags::{Loader, Queued, Sent, Tags, TagsAction, TagsState};

/// C1: what the queue does not cover is not older than what this process wrote.
pub const OWN: &str = "what is served is not older than what this process has invalidated";
/// A deletion from before a `set` does not follow it.
pub const KEPT: &str = "no deletion that was queued before a set removes what it stored";
/// The model is not safe only because nothing is ever sent.
pub const SENT: &str = "the queue can be emptied after a deletion, with a newer value stored";
/// A value can be stored.
pub const STORED: &str = "a value can be stored and be valid after an invalidation that was sent";

/// The mistakes that the protocol can be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mistake {
    /// Any answer removes the item, even if it was queued again since it was sent.
    NoGenerations,
    /// An item is sent while a call sets its entry.
    SentBesideWriter,
    /// A call sets an entry while a deletion of it is on its way.
    SetBesideSent,
    /// A `set` that was answered also removes what was queued since it began.
    RemovesNewer,
    /// A tag is sent before the epoch was answered.
    TagFirst,
    /// An answer about the epoch counts for tags that were queued since it was sent.
    EpochOfAnswer,
}
