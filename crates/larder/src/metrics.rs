//! What an exporter of metrics needs to know: the buckets of larder's histograms. Feature `metrics`.
//!
//! larder records through the [`metrics`](https://docs.rs/metrics) facade, and [`docs/observability.md`] lists what.
//! Units and descriptions are registered by `connect`, so that a scrape carries them as `# HELP`.
//!
//! [`docs/observability.md`]: crate::guide::observability

/// Upper bounds for calls, in seconds: from below a round trip on the same machine to the default `response_timeout`.
/// Few, because each bound is a line of a scrape for each operation of each cache.
const CALLS: &[f64] = &[0.0005, 0.002, 0.01, 0.05, 0.25, 1.0];

/// Upper bounds for locks, in seconds, which are held and waited for much longer than a call takes.
const LOCKS: &[f64] = &[0.001, 0.01, 0.1, 1.0, 10.0];

/// Returns the histograms of larder with upper bounds for their buckets, in seconds.
///
/// `metrics-exporter-prometheus` renders a histogram without buckets as a summary, whose quantiles cannot be added up
/// over instances. With these buckets it renders histograms, which the dashboard and the alerts in `ops/` need:
///
/// ```
/// use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder};
///
/// # fn main() -> Result<(), BuildError> {
/// let mut builder = PrometheusBuilder::new();
/// for (metric, buckets) in larder::metrics::buckets() {
///     builder = builder.set_buckets_for_metric(Matcher::Full((*metric).to_owned()), buckets)?;
/// }
/// let recorder = builder.build_recorder(); // or `builder.install()?`, which also listens
/// # drop(recorder);
/// # Ok(())
/// # }
/// ```
#[must_use]
pub fn buckets() -> &'static [(&'static str, &'static [f64])] {
    &[
        ("larder_operation_seconds", CALLS),
        ("larder_lock_wait_seconds", LOCKS),
        ("larder_lock_hold_seconds", LOCKS),
        ("larder_lock_handover_seconds", LOCKS),
    ]
}
