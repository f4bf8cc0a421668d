//! Reads from a server's certificate when it ends.
//!
//! A certificate is DER: nested records of a tag, a length and a body. The end of its validity is at a fixed place, so
//! twenty lines read it and no parser of X.509 is needed. rustls has verified the certificate already.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xA0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// Returns the time after which the certificate is invalid.
pub(crate) fn not_after(der: &[u8]) -> Option<SystemTime> {
    let (_, certificate, _) = record(der)?;
    let (_, mut fields, _) = record(certificate)?;
    if fields.first() == Some(&VERSION) {
        fields = record(fields)?.2;
    }
    // Skip the serial number, the algorithm and the issuer.
    for _ in 0..3 {
        fields = record(fields)?.2;
    }
    let (SEQUENCE, validity, _) = record(fields)? else { return None };
    let (_, _, end) = record(validity)?;
    let (tag, time, _) = record(end)?;
    parse_time(tag, std::str::from_utf8(time).ok()?)
}

/// Splits off the first record: its tag, its body, and what follows it.
fn record(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7F))?;
        (
            digits.iter().try_fold(0_usize, |sum, &digit| sum.checked_mul(256)?.checked_add(digit.into()))?,
            rest,
        )
    };
    let (body, after) = rest.split_at_checked(length)?;
    Some((tag, body, after))
}

/// Parses `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`.
fn parse_time(tag: u8, text: &str) -> Option<SystemTime> {
    let digits = text.strip_suffix('Z')?;
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = digits.split_at_checked(2)?;
            let year: i64 = year.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = digits.split_at_checked(4)?;
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    let pair = |index: usize| rest.get(index * 2..index * 2 + 2)?.parse::<i64>().ok();
    let days = days_since_1970(year, pair(0)?, pair(1)?);
    let seconds = days * 86_400 + pair(2)? * 3_600 + pair(3)? * 60 + pair(4)?;
    Some(UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).ok()?))
}

/// Counts the days from 1970-01-01 to a date of the Gregorian calendar.
pub(crate) fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March here, so that the day that leap years add is the last of its year.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_counted_across_leap_years() {
        for (date, days) in [
            ((1970, 1, 1), 0),
            ((1970, 12, 31), 364),
            ((2000, 2, 29), 11_016),
            ((2000, 3, 1), 11_017),
            ((2026, 12, 1), 20_788),
        ] {
            assert_eq!(days_since_1970(date.0, date.1, date.2), days, "{date:?}");
        }
    }

    #[test]
    fn both_forms_of_times_are_read_and_others_are_not() {
        let seconds =
            |tag, text| parse_time(tag, text).map(|time| time.duration_since(UNIX_EPOCH).unwrap().as_secs());
        assert_eq!(seconds(UTC_TIME, "261201000001Z"), Some(20_788 * 86_400 + 1));
        assert_eq!(seconds(GENERALIZED_TIME, "20261201000001Z"), Some(20_788 * 86_400 + 1));
        for (tag, text) in [(UTC_TIME, "261201000001"), (UTC_TIME, "26120100000Z"), (0x13, "261201000001Z")] {
            assert_eq!(seconds(tag, text), None, "{text}");
        }
        assert_eq!(not_after(&[0x30, 0x82, 0xFF]), None);
    }
}
