//! Invalidations that the server has not answered yet, kept until it has.
//!
//! A write that fails because the server is away leaves an older value there, which would be served when the server
//! returns. So the write's name is queued and deleted later; a version that was to be replaced is replaced later.
//! Until the server has answered, readers of this process skip what it holds under a queued name.
//!
//! [`queue`] is the table: one item a name. Each item succeeds or fails alone. It carries a generation from one counter,
//! and leaves the table when its own answer came and its generation has not moved since it was sent: a late answer never
//! removes a newer item. [`sender`] sends the items, many at once, apart for each node: a dead node holds up nobody else.
//!
//! A tag is replaced only after the epoch, and that epoch replacement must have been sent after the tag was queued. A
//! fill that read before the invalidation then finds either the epoch or the tag changed; see cache/tag.rs.
//!
//! Not promised: anything that is still queued when the process ends, or the last handle is dropped. The time to live
//! bounds that.

mod queue;
mod sender;
mod throttle;

pub(crate) use queue::{Invalidation, InvalidationQueue, Started};
pub(crate) use sender::{Delivery, send};
