//! Times of the calendar.

use std::time::SystemTime;

/// Writes a time as `2026-12-01T05:14:07Z`.
pub(crate) fn shown(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}
