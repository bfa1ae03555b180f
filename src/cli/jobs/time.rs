//! Parsing and formatting of times and spans.

use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

const SECOND_MS: i64 = 1000;
const DAY_MS: i64 = 86_400 * SECOND_MS;

/// A span: `500ms`, `30s`, `5m`, `2h`, `1d`, or milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) struct Span {
    pub(in crate::cli) ms: u64,
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_lowercase());
        let factor = match text.get(digits.len()..) {
            Some("" | "ms") => Some(1),
            Some("s") => Some(1000),
            Some("m") => Some(60 * 1000),
            Some("h") => Some(60 * 60 * 1000),
            Some("d") => Some(24 * 60 * 60 * 1000),
            _ => None,
        };
        let count = digits.parse::<u64>().ok().filter(|_| digits.starts_with(|c: char| c.is_ascii_digit()));
        let ms = factor.zip(count).and_then(|(factor, count): (u64, u64)| count.checked_mul(factor));
        ms.map(|ms| Self { ms }).ok_or_else(|| "write 500ms, 30s, 5m, 2h, 1d, or milliseconds".to_owned())
    }
}

/// A point in time: RFC 3339, `+30s`, or milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum When {
    At { ms: i64 },
    After(Span),
}

impl When {
    /// The time in milliseconds since 1970.
    pub(in crate::cli) fn ms(self, now_ms: i64) -> i64 {
        match self {
            Self::At { ms } => ms,
            Self::After(span) => now_ms.saturating_add(i64::try_from(span.ms).unwrap_or(i64::MAX)),
        }
    }
}

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(span) = text.strip_prefix('+') {
            return span.parse().map(Self::After);
        }
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        let ms = if is_number { text.parse().ok() } else { parse_rfc3339(text) };
        ms.map(|ms| Self::At { ms }).ok_or_else(|| {
            "write a time with its zone (2030-01-31T09:30:00Z, 2030-01-31T09:30:00+01:00), a span from now (+30s), or \
             milliseconds since 1970"
                .to_owned()
        })
    }
}

/// Milliseconds since 1970, by this machine's clock.
pub(in crate::cli) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// `ms`, in milliseconds since 1970, as `2030-01-31T09:30:00.000Z`.
pub(in crate::cli) fn rfc3339(ms: i64) -> String {
    let (days, of_day) = (ms.div_euclid(DAY_MS), ms.rem_euclid(DAY_MS));
    let (year, month, day) = civil(days);
    let (seconds, ms) = (of_day / SECOND_MS, of_day % SECOND_MS);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// A span in its largest whole unit: `0s`, `59s`, `3m`, `2h`, `10d`.
pub(super) fn short(ms: i64) -> String {
    match ms.max(0) / SECOND_MS {
        seconds @ ..60 => format!("{seconds}s"),
        seconds @ ..3600 => format!("{}m", seconds / 60),
        seconds @ ..86_400 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// The year, month and day of day number `days` after 1970-01-01. The computation uses years that begin in March, so that
/// the leap day is the last day of a year.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468; // days from 0000-03-01 to 1970-01-01
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

/// The inverse of [`civil`]; `None` for a date that does not exist.
fn day_number(year: i64, month: i64, day: i64) -> Option<i64> {
    let (march_year, march_month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, year_of_era) = (march_year.div_euclid(400), march_year.rem_euclid(400));
    let day_of_year = (153 * march_month + 2) / 5 + day - 1;
    let days = era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468;
    (civil(days) == (year, month, day)).then_some(days)
}

/// RFC 3339 §5.6, in milliseconds since 1970; finer parts of a second are cut off.
fn parse_rfc3339(text: &str) -> Option<i64> {
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = text.get(from..to)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let is = |at: usize, any_of: &[u8]| text.as_bytes().get(at).is_some_and(|byte| any_of.contains(byte));
    let dashes = is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":");
    let days = day_number(number(0, 4)?, number(5, 7)?, number(8, 10)?).filter(|_| dashes)?;
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (fraction_ms, zone_at) = if is(19, b".") {
        let digits = text.get(20..)?.bytes().take_while(u8::is_ascii_digit).count();
        let thousandths: String = text.get(20..20 + digits)?.chars().chain("000".chars()).take(3).collect();
        (thousandths.parse::<i64>().ok().filter(|_| digits > 0)?, 20 + digits)
    } else {
        (0, 19)
    };
    let offset_min = match text.get(zone_at..)? {
        "Z" | "z" => 0,
        zone if zone.len() == 6 && is(zone_at + 3, b":") => {
            let (hours, minutes) = (number(zone_at + 1, zone_at + 3)?, number(zone_at + 4, zone_at + 6)?);
            let sign = if zone.starts_with('-') { -1 } else { i64::from(zone.starts_with('+')) };
            Some(sign * (hours * 60 + minutes)).filter(|_| sign != 0 && hours < 24 && minutes < 60)?
        }
        _ => return None,
    };
    let seconds = hour * 3600 + (minute - offset_min) * 60 + second;
    Some(days * DAY_MS + seconds * SECOND_MS + fraction_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spans() {
        for (text, ms) in
            [("0", 0), ("1500", 1500), ("500ms", 500), ("30s", 30_000), ("5m", 300_000), ("2h", 7_200_000)]
        {
            assert_eq!(text.parse(), Ok(Span { ms }), "{text}");
        }
        for text in
            ["", "s", "-1s", "+1", "1.5s", "1 s", "1w", "1S", "99999999999999999999", "99999999999999999d", "1é"]
        {
            assert!(text.parse::<Span>().unwrap_err().contains("500ms"), "{text}");
        }
    }

    #[test]
    fn points_in_time() {
        for (text, ms) in [
            ("0", 0),
            ("1700000000000", 1_700_000_000_000),
            ("1970-01-01T00:00:00Z", 0),
            ("1994-11-06t08:49:37z", 784_111_777_000),
            ("1985-04-12T23:20:50.52Z", 482_196_050_520),
            ("1996-12-19 16:39:57-08:00", 851_042_397_000),
            ("1937-01-01T12:00:27.87999+00:20", -1_041_337_172_121),
            ("1990-12-31T23:59:60Z", 662_688_000_000),
            ("2000-02-29T00:00:00Z", 951_782_400_000),
        ] {
            assert_eq!(text.parse(), Ok(When::At { ms }), "{text}");
        }
        assert_eq!("+30s".parse::<When>().unwrap().ms(1_000), 31_000);
        for text in [
            "",
            "soon",
            "+",
            "+soon",
            "-5",
            "2030-01-31",
            "2030-01-31T09:30:00",
            "2030-02-30T00:00:00Z",
            "2030-00-01T00:00:00Z",
            "2030-01-31T24:00:00Z",
            "2030-01-31T09:30Z",
            "2030-01-31T09:30:00.Z",
            "2030-01-31T09:30:00+0100",
            "2030-01-31T09:30:00*01:00",
            "2030-01-31T09:30:00Zé",
            "é030-01-31T09:30:00Z",
            "99999999999999999999",
        ] {
            assert!(text.parse::<When>().is_err(), "{text}");
        }
    }

    #[test]
    fn ages() {
        for (ms, text) in [(-5, "0s"), (59_999, "59s"), (60_000, "1m"), (7_199_999, "1h"), (864_000_000, "10d")] {
            assert_eq!(short(ms), text);
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(ms in -62_000_000_000_000_i64..253_000_000_000_000) {
            prop_assert_eq!(parse_rfc3339(&rfc3339(ms)), Some(ms));
        }

        #[test]
        fn nothing_makes_it_panic(text in "\\PC{0,30}", ms: i64) {
            let _ = (text.parse::<When>(), text.parse::<Span>(), rfc3339(ms), short(ms));
        }
    }
}
