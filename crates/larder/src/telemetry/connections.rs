//! What is counted of connections, and the event of a new one.

use std::fmt;

use super::target;

/// An open connection. The gauge counts it until this is dropped, however its supervisor ends.
#[must_use]
pub(crate) struct Connected {
    #[cfg(feature = "metrics")]
    gauge: metrics::Gauge,
}

/// Counts the connections of a store. The caller of `connect` makes it, and its recorder is used on every thread.
#[derive(Clone)]
pub(crate) struct ConnectionMeter {
    #[cfg(feature = "metrics")]
    reconnects: metrics::Counter,
    #[cfg(feature = "metrics")]
    gauge: metrics::Gauge,
}

impl ConnectionMeter {
    pub(crate) fn new() -> Self {
        Self {
            #[cfg(feature = "metrics")]
            reconnects: metrics::counter!("larder_reconnects_total"),
            #[cfg(feature = "metrics")]
            gauge: metrics::gauge!("larder_connections"),
        }
    }

    /// Counts a new connection; `again` if it is not the link's first.
    pub(crate) fn connected(&self, server: &str, role: &'static str, again: bool) -> Connected {
        tracing::info!(target: target::CONNECTION, server, role, again, "connected");
        #[cfg(feature = "metrics")]
        {
            if again {
                self.reconnects.increment(1);
            }
            self.gauge.increment(1.0);
            Connected { gauge: self.gauge.clone() }
        }
        #[cfg(not(feature = "metrics"))]
        Connected {}
    }
}

impl fmt::Debug for ConnectionMeter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionMeter").finish_non_exhaustive()
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        #[cfg(feature = "metrics")]
        self.gauge.decrement(1.0);
    }
}
