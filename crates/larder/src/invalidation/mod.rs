//! Invalidations that the server has not confirmed yet. They are kept until it does.
//!
//! A write that fails because the server is unavailable leaves an older value there, which would be served
//! when the server returns. So the name is queued and deleted later; a version that should be replaced is
//! replaced later. Until the server has confirmed that, readers of this process ignore what the server holds
//! under a queued name.
//!
//! [`queue`] is the table, with one item for each name. Each item succeeds or fails alone. It has a
//! generation from one counter. An item leaves the table when the request for this generation was answered,
//! so a late answer never removes a newer item. [`sender`] sends the items, many at a time and separately for
//! each node: a node that is down delays no other.
//!
//! A tag is replaced only after the epoch, by an epoch replacement that was sent after the tag was queued.
//! Then a fill that read before the invalidation finds either the epoch or the tag changed; see cache/tag.rs.
//!
//! Not guaranteed: items that are still queued when the process ends, or when the last handle is dropped, are
//! not sent. The time to live bounds how long their stale values are served.

mod queue;
mod sender;
mod table;
mod throttle;

pub(crate) use queue::{InvalidationQueue, Started};
pub(crate) use sender::{Delivery, send};
pub(crate) use table::Invalidation;
