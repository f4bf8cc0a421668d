//! The counters and metrics of one limiter.

#[cfg(feature = "metrics")]
use std::sync::OnceLock;

use super::decision::DecidedBy;
use crate::telemetry::Instrument;

pub(super) struct LimitMeter {
    #[cfg(feature = "metrics")]
    name: Box<str>,
    /// By [`DecidedBy`]: allowed and refused decisions. Created on first use.
    #[cfg(feature = "metrics")]
    decisions: [(OnceLock<metrics::Counter>, OnceLock<metrics::Counter>); 4],
    pub(super) check: Instrument,
    pub(super) check_many: Instrument,
    pub(super) take_up_to: Instrument,
    pub(super) acquire: Instrument,
    pub(super) remaining: Instrument,
    pub(super) reset: Instrument,
    pub(super) refund: Instrument,
    pub(super) reserve: Instrument,
    pub(super) settle: Instrument,
    pub(super) overrides: Instrument,
}

impl LimitMeter {
    pub(super) fn new(name: &str) -> Self {
        let instrument = |operation| Instrument::new("limiter", name, operation);
        Self {
            #[cfg(feature = "metrics")]
            name: name.into(),
            #[cfg(feature = "metrics")]
            decisions: Default::default(),
            check: instrument("check"),
            check_many: instrument("check_many"),
            take_up_to: instrument("take_up_to"),
            acquire: instrument("acquire"),
            remaining: instrument("remaining"),
            reset: instrument("reset"),
            refund: instrument("refund"),
            reserve: instrument("reserve"),
            settle: instrument("settle"),
            overrides: instrument("override"),
        }
    }

    #[cfg(feature = "metrics")]
    pub(super) fn decided(&self, allowed: bool, by: DecidedBy) {
        let place = DecidedBy::ALL.iter().position(|other| *other == by);
        if let Some((yes, no)) = place.and_then(|place| self.decisions.get(place)) {
            let (counter, decision) = if allowed { (yes, "allowed") } else { (no, "refused") };
            counter
                .get_or_init(|| {
                    metrics::counter!(
                        "larder_limiter_decisions_total",
                        "limiter" => self.name.to_string(), "decision" => decision, "by" => by.as_str()
                    )
                })
                .increment(1);
        }
    }

    #[cfg(not(feature = "metrics"))]
    pub(super) fn decided(&self, _: bool, _: DecidedBy) {}
}
