//! Computes the slots of a schedule from a cron text in a time zone. Has no clock: the caller passes the time.

use croner::parser::{CronParser, Seconds, Year};
use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};

/// Limit, in bytes, on a cron text and on the name of a time zone.
pub const CRON_BYTES_MAX: usize = 256;

/// The time zone of a schedule without one.
pub const ZONE_DEFAULT: &str = "UTC";

const HOUR_S: i64 = 60 * 60;
/// Longest gap of a time zone, in hours: Samoa skipped a whole day in 2011.
const GAP_HOURS_MAX: i64 = 48;

/// The fields of a cron text, and their allowed values.
const FIELDS: [(&str, &str); 6] = [
    ("second", "0 to 59"),
    ("minute", "0 to 59"),
    ("hour", "0 to 23"),
    ("day of month", "1 to 31, L for the last one, 15W for the weekday nearest to the 15th"),
    ("month", "1 to 12, or JAN to DEC"),
    (
        "day of week",
        "0 to 7, where 0 and 7 are Sunday, or SUN to SAT; FRI#2 for the second Friday, FRIL for the last one",
    ),
];

/// A parsed cron text in a time zone.
///
/// Where clocks are put forward, a text with a fixed hour and minute runs at the first moment after the gap. A text with steps
/// or stars has no slot in the gap. Where clocks are put back, a fixed text runs once, in the first pass; a text with steps or
/// stars runs in both passes.
#[derive(Debug, Clone)]
pub struct Cron {
    cron: croner::Cron,
    zone: TimeZone,
}

impl Cron {
    /// Parses `text`: five fields, or six with seconds before them, or an alias like `@daily`; `zone` is an IANA name.
    ///
    /// # Errors
    /// A sentence for users: which field is wrong and why, that the zone is unknown, or that no date ever matches.
    pub fn parse(text: &str, zone: &str) -> Result<Self, String> {
        if text.len() > CRON_BYTES_MAX || !text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
            return Err(format!(
                "the cron text {text:?} has more than {CRON_BYTES_MAX} bytes, or other characters than ASCII"
            ));
        }
        let cron = read(text).map_err(|why| format!("the cron text {text:?} can't be used: {why}"))?;
        let cron = Self { cron, zone: zone_of(zone)? };
        // The search covers all years: a 29th of February occurs within eight years.
        if cron.next_s(0).is_none() {
            return Err(format!("the cron text {text:?} matches no date"));
        }
        Ok(cron)
    }

    /// The first slot after `after_ms`. Both are milliseconds since 1970-01-01 00:00:00 UTC; a slot is a whole second.
    #[must_use]
    pub fn next_ms(&self, after_ms: i64) -> Option<i64> {
        let second = after_ms.div_euclid(1000);
        // Where a zone skips whole days, the search stops at the gap; it is then repeated behind the gap.
        let mut starts = (0..GAP_HOURS_MAX).map(|hours| second.saturating_add(hours * HOUR_S));
        let next = starts.find_map(|start| self.next_s(start)).filter(|next| *next > second)?;
        Some(next.saturating_mul(1000))
    }

    fn next_s(&self, after_s: i64) -> Option<i64> {
        let after = Timestamp::from_second(after_s).ok()?.to_zoned(self.zone.clone());
        Some(self.cron.find_next_occurrence(&after, false).ok()?.timestamp().as_second())
    }
}

fn parser() -> CronParser {
    CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build()
}

fn read(text: &str) -> Result<croner::Cron, String> {
    parser().parse(text).map_err(|error| {
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let names = match fields.len() {
            _ if text.trim_start().starts_with('@') => {
                return "the aliases are @hourly, @daily, @weekly, @monthly and @yearly; or write minute, hour, day of \
                        month, month, day of week"
                    .to_owned();
            }
            5 => FIELDS.get(1..),
            6 => Some(&FIELDS[..]),
            count => {
                return format!(
                    "it has {count} fields: write minute, hour, day of month, month, day of week, as in \"30 3 * * *\", each day at 3:30"
                );
            }
        };
        // The wrong field is also wrong when all other fields are stars.
        let wrong = fields.iter().copied().enumerate().find_map(|(at, field)| {
            let mut alone = vec!["*"; fields.len()];
            *alone.get_mut(at)? = field;
            parser().parse(&alone.join(" ")).err()?;
            let (name, takes) = names?.get(at)?;
            Some(format!(
                "field {} ({name}), {field:?}: it takes {takes}; or *, a list (1,2), a range (1-5), steps (*/5, 1-9/2)",
                at + 1
            ))
        });
        wrong.unwrap_or_else(|| error.to_string())
    })
}

/// The time zone `name`: from the system's data, or else from the program's own.
fn zone_of(name: &str) -> Result<TimeZone, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'+' | b'-' | b'/');
    let found = || TimeZone::get(name).or_else(|_| TimeZoneDatabase::bundled().get(name)).ok();
    let known = !name.is_empty() && name.len() <= CRON_BYTES_MAX && name.bytes().all(is_plain);
    known
        .then(found)
        .flatten()
        .ok_or_else(|| format!("there is no time zone {name:?}: write an IANA name, as Europe/Berlin or UTC"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    /// The slots after `after`, in UTC.
    fn slots(cron: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let cron = Cron::parse(cron, zone).unwrap();
        let mut at = ms(after);
        let next = || {
            at = cron.next_ms(at)?;
            Some(Timestamp::from_millisecond(at).unwrap().to_string())
        };
        std::iter::from_fn(next).take(count).collect()
    }

    #[test]
    fn slots_follow_the_text_in_its_zone() {
        let daily = slots("30 7 * * *", "Asia/Tokyo", "2025-01-01T00:00:00Z", 2);
        assert_eq!(daily, ["2025-01-01T22:30:00Z", "2025-01-02T22:30:00Z"]);
        let seconds = slots("*/20 * * * * *", "UTC", "2025-01-01T00:00:05.250Z", 3);
        assert_eq!(seconds, ["2025-01-01T00:00:20Z", "2025-01-01T00:00:40Z", "2025-01-01T00:01:00Z"]);
        assert_eq!(slots("@monthly", "UTC", "2025-01-01T00:00:00Z", 1), ["2025-02-01T00:00:00Z"]);
        assert_eq!(slots("0 0 29 FEB *", "UTC", "2025-01-01T00:00:00Z", 1), ["2028-02-29T00:00:00Z"]);
        assert_eq!(slots("0 0 L * *", "UTC", "2025-02-01T00:00:00Z", 1), ["2025-02-28T00:00:00Z"]);
        assert_eq!(slots("0 0 15W * *", "UTC", "2025-03-01T00:00:00Z", 1), ["2025-03-14T00:00:00Z"]);
        assert_eq!(slots("0 0 * * FRI#2", "UTC", "2025-03-01T00:00:00Z", 1), ["2025-03-14T00:00:00Z"]);
        assert_eq!(slots("0 0 * * FRIL", "UTC", "2025-03-01T00:00:00Z", 1), ["2025-03-28T00:00:00Z"]);
        let exactly = slots("0 12 * * MON-FRI", "UTC", "2025-01-03T12:00:00Z", 1);
        assert_eq!(exactly, ["2025-01-06T12:00:00Z"], "a slot comes after the time, never at it");
    }

    #[test]
    fn a_gap_of_the_clock_moves_a_fixed_time_behind_it() {
        // Berlin, 30 March 2025: 02:00 is followed by 03:00 (01:00 UTC).
        let fixed = slots("30 2 * * *", "Europe/Berlin", "2025-03-29T12:00:00Z", 2);
        assert_eq!(fixed, ["2025-03-30T01:00:00Z", "2025-03-31T00:30:00Z"]);
        let steps = slots("*/30 * * * *", "Europe/Berlin", "2025-03-30T00:00:00Z", 3);
        assert_eq!(steps, ["2025-03-30T00:30:00Z", "2025-03-30T01:00:00Z", "2025-03-30T01:30:00Z"]);
    }

    #[test]
    fn a_day_that_a_zone_leaves_out_is_no_end() {
        // Apia: 29 December 2011 was followed by the 31st.
        let slots = slots("30 2 * * *", "Pacific/Apia", "2011-12-29T11:00:00Z", 3);
        assert_eq!(slots, ["2011-12-29T12:30:00Z", "2011-12-30T12:30:00Z", "2011-12-31T12:30:00Z"]);
    }

    #[test]
    fn a_fold_of_the_clock_runs_a_fixed_time_once_and_steps_twice() {
        // Berlin, 26 October 2025: 03:00 is followed by 02:00 (01:00 UTC).
        let fixed = slots("30 2 * * *", "Europe/Berlin", "2025-10-25T12:00:00Z", 2);
        assert_eq!(fixed, ["2025-10-26T00:30:00Z", "2025-10-27T01:30:00Z"]);
        // The same holds when the search begins within the second pass.
        assert_eq!(slots("30 2 * * *", "Europe/Berlin", "2025-10-26T01:10:00Z", 1), ["2025-10-27T01:30:00Z"]);
        let steps = slots("*/30 * * * *", "Europe/Berlin", "2025-10-26T00:00:00Z", 4);
        assert_eq!(
            steps,
            ["2025-10-26T00:30:00Z", "2025-10-26T01:00:00Z", "2025-10-26T01:30:00Z", "2025-10-26T02:00:00Z"]
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, zone, words) in [
            ("61 * * * *", "UTC", "field 1 (minute), \"61\": it takes 0 to 59; or *"),
            ("5/15 * * * *", "UTC", "field 1 (minute), \"5/15\""),
            ("0 0 0 * *", "UTC", "field 3 (day of month), \"0\": it takes 1 to 31"),
            ("0 0 * * MOO", "UTC", "field 5 (day of week), \"MOO\": it takes 0 to 7"),
            ("0 * 25 * * *", "UTC", "field 3 (hour)"),
            ("* * *", "UTC", "it has 3 fields"),
            ("", "UTC", "it has 0 fields"),
            ("0 0 0 1 1 * 2030", "UTC", "it has 7 fields"),
            ("@never", "UTC", "@never"),
            ("@every 5m", "UTC", "the aliases are @hourly, @daily"),
            ("0 0 30 2 *", "UTC", "matches no date"),
            ("* * * * *", "Europe/Atlantis", "no time zone \"Europe/Atlantis\""),
            ("* * * * *", "../../etc/passwd", "no time zone"),
            ("* * * * *", "", "no time zone"),
            ("* * * * \u{e9}", "UTC", "ASCII"),
            (&"*".repeat(257), "UTC", "256 bytes"),
        ] {
            let error = Cron::parse(text, zone).unwrap_err();
            assert!(error.contains(words), "{text} {zone}: {error}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn slots_only_grow_whatever_the_text(
            fields in proptest::collection::vec("[*?0-9LW#,/+-]{1,5}|\\*/[1-9]|[0-9]{1,2}", 5..7),
            after_s in 1_700_000_000_i64..1_800_000_000,
        ) {
            let Ok(cron) = Cron::parse(&fields.join(" "), "America/New_York") else { return Ok(()) };
            let mut at = after_s * 1000;
            for _ in 0..3 {
                let Some(next) = cron.next_ms(at) else { break };
                prop_assert!(next > at && next % 1000 == 0);
                at = next;
            }
        }
    }
}
