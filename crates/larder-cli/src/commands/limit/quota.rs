//! Quotas as people type them: `10/1s`, `100/m`, `500/1h:exact`, `5/1s:gcra=2`.

use std::time::Duration;

use larder::Quota;

const FORM: &str = "write a quota as 10/1s, 100/m, 500/1h:exact or 5/1s:gcra=2";

pub(super) fn parse(text: &str) -> Result<Quota, String> {
    let (rate, method) = text.split_once(':').map_or((text, None), |(rate, method)| (rate, Some(method)));
    let (limit, window) = rate.split_once('/').ok_or(FORM)?;
    let limit = limit.parse().map_err(|_| format!("{limit:?} is not a number of permits; {FORM}"))?;
    let quota = Quota::new(limit, self::window(window)?);
    match method {
        None => Ok(quota),
        Some("exact") => Ok(quota.exact()),
        Some(method) => {
            let burst = method.strip_prefix("gcra=").and_then(|burst| burst.parse().ok());
            burst
                .map(|burst| quota.gcra(burst))
                .ok_or_else(|| format!("{method:?} is no way to count; {FORM}"))
        }
    }
}

/// A time, or a unit alone: `s` is one second.
fn window(text: &str) -> Result<Duration, String> {
    let unit_alone = !text.starts_with(|c: char| c.is_ascii_digit());
    let whole = if unit_alone { format!("1{text}") } else { text.to_owned() };
    humantime::parse_duration(&whole).map_err(|_| format!("{text:?} is not a time; {FORM}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_are_read_as_people_write_them() {
        let second = Duration::from_secs(1);
        assert_eq!(parse("10/1s"), Ok(Quota::new(10, second)));
        assert_eq!(parse("10/s"), Ok(Quota::new(10, second)));
        assert_eq!(parse("100/1m"), Ok(Quota::per_minute(100)));
        assert_eq!(parse("500/1h:exact"), Ok(Quota::per_hour(500).exact()));
        assert_eq!(parse("5/1s:gcra=2"), Ok(Quota::per_second(5).gcra(2)));
        for wrong in ["", "10", "x/1s", "10/x", "10/1s:fast", "10/1s:gcra", "/1s", "10/"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
