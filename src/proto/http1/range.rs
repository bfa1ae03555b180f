//! `Range` and `Content-Range` (RFC 9110 §14), and bodies of several parts (RFC 9110 §14.6).

use std::ops::Range;

/// Limit on the ranges of one request; a field with more is ignored (RFC 9110 §14.2 allows it), because each part costs a head.
const RANGES_MAX: usize = 32;

/// The meaning of a `Range` field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// The field is not understood, so it is ignored.
    Nothing,
    /// These ranges: at least one, each within the resource and not empty.
    Parts(Vec<Range<u64>>),
    /// No range lies within the resource.
    Unsatisfiable,
}

/// Reads the value of a `Range` field for a resource of `length` bytes.
pub(super) fn asked(value: &[u8], length: u64) -> Asked {
    let value = value.trim_ascii();
    let Some((unit, specs)) = value.split_at_checked(6) else { return Asked::Nothing };
    if !unit.eq_ignore_ascii_case(b"bytes=") {
        return Asked::Nothing;
    }
    let (mut parts, mut seen) = (Vec::new(), 0);
    // RFC 9110 §14.1.2: a suffix of at least one byte is satisfiable, also of an empty resource, where it is all of it.
    let has_suffix = |spec: &[u8]| spec.starts_with(b"-") && spec.iter().any(|byte| matches!(byte, b'1'..=b'9'));
    let mut is_satisfiable = false;
    for spec in specs.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|spec| !spec.is_empty()) {
        seen += 1;
        match range_of(spec, length) {
            _ if seen > RANGES_MAX => return Asked::Nothing,
            None => return Asked::Nothing,
            Some(part) => {
                is_satisfiable |= has_suffix(spec);
                parts.extend((!part.is_empty()).then_some(part));
            }
        }
    }
    if seen == 0 || parts.is_empty() && is_satisfiable {
        return Asked::Nothing;
    }
    if parts.is_empty() {
        return Asked::Unsatisfiable;
    }
    // RFC 9110 §14.2: overlapping ranges are suspicious, and the whole resource is shorter than parts that exceed it in sum.
    let wanted = parts.iter().fold(0_u64, |sum, part| sum.saturating_add(part.end - part.start));
    if wanted > length { Asked::Nothing } else { Asked::Parts(parts) }
}

/// One range; empty if the range lies outside the resource. `None`: the text is not a range.
fn range_of(spec: &[u8], length: u64) -> Option<Range<u64>> {
    let dash = spec.iter().position(|byte| *byte == b'-')?;
    let (first, last) = (spec.get(..dash)?.trim_ascii(), spec.get(dash + 1..)?.trim_ascii());
    if first.is_empty() {
        let count = number(last)?.min(length);
        return Some(length - count..length);
    }
    let first = number(first)?;
    let last = if last.is_empty() { u64::MAX } else { number(last)? };
    if last < first {
        return None;
    }
    let end = last.saturating_add(1);
    Some(if first < length { first..end.min(length) } else { 0..0 })
}

/// A number in decimal digits; a number that is too large becomes the largest one.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let add = |sum: u64, digit: &u8| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    Some(digits.iter().fold(0, add))
}

/// The value of `Content-Range` for one part of a resource of `length` bytes.
#[must_use]
pub fn content_range(part: &Range<u64>, length: u64) -> String {
    format!("bytes {}-{}/{length}", part.start, part.end.saturating_sub(1))
}

/// The value of `Content-Range` in a 416 about a resource of `length` bytes.
#[must_use]
pub fn no_range(length: u64) -> String {
    format!("bytes */{length}")
}

/// The bytes before one part of a body of several parts (RFC 9110 §14.6).
#[must_use]
pub fn part_head(boundary: &str, content_type: &str, part: &Range<u64>, length: u64) -> Vec<u8> {
    let range = content_range(part, length);
    format!("\r\n--{boundary}\r\nContent-Type: {content_type}\r\nContent-Range: {range}\r\n\r\n").into_bytes()
}

/// The bytes behind the last part.
#[must_use]
pub fn parts_end(boundary: &str) -> Vec<u8> {
    format!("\r\n--{boundary}--\r\n").into_bytes()
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)] // The tests mean lists of ranges.
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parts(value: &str) -> Asked {
        asked(value.as_bytes(), 10)
    }

    #[test]
    fn rfc_9110_14_1_2_byte_ranges() {
        for (value, start, end) in [
            ("bytes=0-0", 0, 1),
            ("bytes=0-", 0, 10),
            ("bytes=9-99", 9, 10),
            ("bytes=-3", 7, 10),
            ("bytes=-99", 0, 10),
            ("BYTES= 2 - 3 ", 2, 4),
            ("bytes=99-,1-1", 1, 2),
            ("bytes=0-99999999999999999999999", 0, 10),
            ("bytes=0-18446744073709551615", 0, 10),
        ] {
            assert_eq!(parts(value), Asked::Parts(vec![start..end]), "{value}");
        }
        assert_eq!(parts("bytes=0-1,4-5, -2"), Asked::Parts(vec![0..2, 4..6, 8..10]));
        for value in ["bytes=10-", "bytes=-0", "bytes=99-100,10-10"] {
            assert_eq!(parts(value), Asked::Unsatisfiable, "{value}");
        }
        for value in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=a-b",
            "bytes=5-4",
            "bytes=-",
            "items=0-1",
            "bytes=1",
            "bytes=+1-2",
        ] {
            assert_eq!(parts(value), Asked::Nothing, "{value}");
        }
        assert_eq!(parts("bytes=0-9,0-9"), Asked::Nothing, "the parts exceed the whole resource");
        let many = format!("bytes={}", vec!["0-0"; RANGES_MAX + 1].join(","));
        assert_eq!(asked(many.as_bytes(), 1000), Asked::Nothing);
        for (value, expected) in [
            ("bytes=0-", Asked::Unsatisfiable),
            ("bytes=-0", Asked::Unsatisfiable),
            ("bytes=-5", Asked::Nothing),
            ("bytes=0-0,-1", Asked::Nothing),
        ] {
            assert_eq!(asked(value.as_bytes(), 0), expected, "{value}");
        }
    }

    proptest! {
        #[test]
        fn parts_lie_within_and_are_no_more_than_the_whole(value in "bytes=[-0-9, ]{0,40}", length in 0..200_u64) {
            if let Asked::Parts(parts) = asked(value.as_bytes(), length) {
                prop_assert!(parts.iter().all(|part| part.start < part.end && part.end <= length));
                prop_assert!(parts.iter().map(|part| part.end - part.start).sum::<u64>() <= length);
            }
        }
    }
}
