//! Numbers, sizes and times as people read them.

use std::time::Duration;

/// Writes `1204551` as `1,204,551`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Writes a size with at most three digits, as `412 MiB` or `1.3 KiB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut units = UNITS.iter();
    let mut unit = units.next().unwrap_or(&"KiB");
    // Rounded, 999.5 has four digits.
    while value >= 999.5 {
        let Some(larger) = units.next() else { break };
        value /= 1024.0;
        unit = larger;
    }
    if value < 9.95 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

/// Writes a time with its two largest units, as `1h 30m`, `41m`, `2.5s` or `340ms`.
pub(crate) fn time(time: Duration) -> String {
    let millis = time.as_millis();
    if millis < 1000 {
        return if millis == 0 && !time.is_zero() {
            format!("{}µs", time.as_micros())
        } else {
            format!("{millis}ms")
        };
    }
    if millis < 10_000 {
        let tenths = millis / 100;
        return if tenths.is_multiple_of(10) {
            format!("{}s", tenths / 10)
        } else {
            format!("{}.{}s", tenths / 10, tenths % 10)
        };
    }
    let seconds = time.as_secs();
    let two = |large: u64, unit: &str, small: u64, smaller: &str| {
        if small == 0 { format!("{large}{unit}") } else { format!("{large}{unit} {small}{smaller}") }
    };
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => two(seconds / 60, "m", seconds % 60, "s"),
        3600..86_400 => two(seconds / 3600, "h", seconds % 3600 / 60, "m"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!([count(0), count(999), count(1000), count(1_204_551)], ["0", "999", "1,000", "1,204,551"]);
        assert_eq!(size(1023), "1023 B");
        assert_eq!([size(1024), size(412 << 20), size(10_239)], ["1.0 KiB", "412 MiB", "10 KiB"]);
        assert_eq!(size((1 << 20) - 1), "1.0 MiB");
    }

    #[test]
    fn times_have_two_units_at_most() {
        let shown = [340, 2500, 3000, 41_000, 61_000, 2_460_000, 5_400_000, 90_000_000]
            .map(|ms| time(Duration::from_millis(ms)));
        assert_eq!(shown, ["340ms", "2.5s", "3s", "41s", "1m 1s", "41m", "1h 30m", "1d 1h"]);
        assert_eq!(time(Duration::from_micros(70)), "70µs");
    }
}
