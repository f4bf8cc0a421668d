//! The connection that is told what changed: `CLIENT TRACKING` on, and its life as a lane of trust.
//!
//! Order is everything here. Pushes and replies come down one connection, and the driver hands a push to us in its reading
//! task before it hands out any later reply; so whoever read something and finds its generation unbroken has been told
//! of every change before that. A generation opens before the connection is dialled, is believed only after tracking was
//! armed and a heartbeat answered, and ends in the reading task itself when the connection does.
//!
//! A server or a proxy may refuse tracking. Then the connection still reads, and nothing read through it is believed for
//! later.

use std::sync::Arc;

use redis::aio::MultiplexedConnection;
use redis::{PushInfo, PushKind, RedisResult, Value, cmd};

use super::link::is_connection_lost;
use crate::clock::{Clock, Moment};
use crate::store::InvalidationSink;
use crate::store::session::{ReadStamp, Sessions};
use crate::telemetry::target;

/// What every tracked connection of a store shares.
#[derive(Clone)]
pub(super) struct Tracking {
    pub(super) lanes: Arc<Sessions>,
    pub(super) listener: Arc<dyn InvalidationSink>,
    pub(super) clock: Clock,
}

/// A lane, given back when its connection is given up.
pub(super) struct SessionHandle {
    tracking: Tracking,
    number: Option<u16>,
    of_cluster: bool,
}

impl SessionHandle {
    pub(super) fn take(tracking: Tracking, of_cluster: bool) -> Self {
        let number = tracking.lanes.take();
        if number.is_none() {
            tracing::warn!(target: target::CONNECTION, "too many nodes to track: reads of some are not kept");
        }
        Self { tracking, number, of_cluster }
    }

    /// A new connection is about to be dialled: nothing that was read through the last one counts.
    pub(super) fn open(&self) -> Option<ReadStamp> {
        let seen = self.number.map(|lane| self.tracking.lanes.open(lane));
        self.tracking.listener.all_changed();
        seen
    }

    pub(super) fn of_cluster(&self) -> bool {
        self.of_cluster
    }

    pub(super) fn lanes(&self) -> &Arc<Sessions> {
        &self.tracking.lanes
    }

    pub(super) fn moment(&self) -> Moment {
        self.tracking.clock.moment()
    }

    pub(super) fn end(&self, seen: ReadStamp) {
        self.tracking.lanes.end(seen);
    }

    pub(super) fn renew(&self, seen: ReadStamp, sent: Moment) {
        self.tracking.lanes.renew(seen, sent);
    }

    /// What the connection's reading task does with a push.
    pub(super) fn pushes(&self, seen: Option<ReadStamp>) -> impl Fn(&PushInfo) + Send + Sync + use<> {
        let tracking = self.tracking.clone();
        move |push: &PushInfo| match push.kind {
            PushKind::Invalidate => match push.data.as_slice() {
                [Value::Array(names)] => {
                    for name in names {
                        if let Value::BulkString(name) = name
                            && let Ok(name) = str::from_utf8(name)
                        {
                            tracking.listener.changed(name);
                        }
                    }
                }
                // FLUSHALL and FLUSHDB name nothing.
                _ => tracking.listener.all_changed(),
            },
            PushKind::Disconnection => {
                if let Some(seen) = seen {
                    tracking.lanes.end(seen);
                }
                tracking.listener.all_changed();
            }
            _ => {}
        }
    }
}

impl Drop for SessionHandle {
    fn drop(&mut self) {
        if let Some(lane) = self.number {
            self.tracking.lanes.give_back(lane);
        }
    }
}

/// Turns tracking on; whether the server does. An error is a lost connection; a refusal is not.
pub(super) async fn arm(
    connection: &MultiplexedConnection,
    server: &str,
    role: &'static str,
) -> RedisResult<bool> {
    let mut connection = connection.clone();
    match cmd("CLIENT").arg("TRACKING").arg("ON").query_async::<Value>(&mut connection).await {
        Ok(_) => Ok(true),
        Err(error) if is_connection_lost(&error) => Err(error),
        Err(error) => {
            tracing::warn!(
                target: target::CONNECTION,
                %server,
                role,
                %error,
                "the server refuses CLIENT TRACKING: no near reads, and versions are asked for with every read"
            );
            Ok(false)
        }
    }
}
