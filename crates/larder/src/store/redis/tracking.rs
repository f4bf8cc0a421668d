//! The tracking connection: `CLIENT TRACKING` on, and its session.
//!
//! The order matters here. Pushes and replies arrive on one connection, and the connection's task reports a push
//! before it hands out any later reply. So if a reader finds the generation of its read still current, every change
//! before that moment has been reported. A generation opens before the connection is dialled. It becomes valid only
//! after tracking was switched on and a heartbeat was answered, and the connection's own task ends it when the
//! connection ends.
//!
//! A server or a proxy may refuse tracking. Then the connection still serves reads, but nothing that is read through
//! it is cached in this process.

use std::sync::Arc;

use super::wire::{Event, Reply, Request};
use crate::clock::{Clock, Moment};
use crate::store::InvalidationSink;
use crate::store::session::{ReadStamp, Sessions};
use crate::telemetry::target;

/// What all tracking connections of a store share.
#[derive(Clone)]
pub(super) struct Tracking {
    pub(super) sessions: Arc<Sessions>,
    pub(super) sink: Arc<dyn InvalidationSink>,
    pub(super) clock: Clock,
}

/// A session, given back on drop.
pub(super) struct SessionHandle {
    tracking: Tracking,
    number: Option<u16>,
    of_cluster: bool,
}

impl SessionHandle {
    pub(super) fn take(tracking: Tracking, of_cluster: bool) -> Self {
        let number = tracking.sessions.take();
        if number.is_none() {
            tracing::warn!(target: target::CONNECTION, "the cluster has more nodes than can be tracked: reads of the others are not kept near");
        }
        Self { tracking, number, of_cluster }
    }

    /// Opens a generation for a connection that is about to be dialled, and invalidates all earlier reads.
    pub(super) fn open(&self) -> Option<ReadStamp> {
        let stamp = self.number.map(|session| self.tracking.sessions.open(session));
        self.tracking.sink.all_changed();
        stamp
    }

    pub(super) fn of_cluster(&self) -> bool {
        self.of_cluster
    }

    pub(super) fn sessions(&self) -> &Arc<Sessions> {
        &self.tracking.sessions
    }

    pub(super) fn moment(&self) -> Moment {
        self.tracking.clock.moment()
    }

    pub(super) fn end(&self, stamp: ReadStamp) {
        self.tracking.sessions.end(stamp);
    }

    pub(super) fn renew(&self, stamp: ReadStamp, sent: Moment) {
        self.tracking.sessions.renew(stamp, sent);
    }

    /// Returns the function that the connection's task calls with each event.
    pub(super) fn events(&self, stamp: Option<ReadStamp>) -> impl Fn(&Event<'_>) + Send + Sync + use<> {
        let tracking = self.tracking.clone();
        move |event: &Event<'_>| match event {
            Event::Push([kind, data @ ..]) if kind.as_str() == Some("invalidate") => match data {
                [Reply::Array(names)] => {
                    for name in names {
                        if let Reply::Bulk(name) = name
                            && let Ok(name) = str::from_utf8(name)
                        {
                            tracking.sink.changed(name);
                        }
                    }
                }
                // FLUSHALL and FLUSHDB do not name the keys.
                _ => tracking.sink.all_changed(),
            },
            Event::Push(_) => {}
            Event::Ended { .. } => {
                if let Some(stamp) = stamp {
                    tracking.sessions.end(stamp);
                }
                tracking.sink.all_changed();
            }
        }
    }
}

impl Drop for SessionHandle {
    fn drop(&mut self) {
        if let Some(session) = self.number {
            self.tracking.sessions.give_back(session);
        }
    }
}

/// Returns the request that switches tracking on.
pub(super) fn tracking_on() -> Request {
    Request::new("CLIENT").arg("TRACKING").arg("ON")
}

/// Returns whether the reply to [`tracking_on`] says that tracking is on. The server may refuse it.
pub(super) fn is_armed(reply: Reply, server: &str, role: &'static str) -> bool {
    let refused = reply.into_result().err();
    if let Some(error) = &refused {
        tracing::warn!(
            target: target::CONNECTION,
            %server,
            role,
            %error,
            "the server refuses CLIENT TRACKING: near copies are off"
        );
    }
    refused.is_none()
}
