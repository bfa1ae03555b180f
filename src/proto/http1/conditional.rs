//! Conditional requests and ranges (RFC 9110 §13, §14): decides the answer to a request with validators and a `Range`.

use super::head::{Method, RequestView};
use super::range::{self, Asked};
use std::ops::Range;
use std::time::UNIX_EPOCH;

/// The validators of a resource: they identify its state (RFC 9110 §8.8).
#[derive(Debug, Clone, Copy)]
pub struct Validators<'a> {
    /// `ETag`, with its quotes.
    pub etag: Option<&'a [u8]>,
    /// `Last-Modified`, in seconds after 1970-01-01 00:00:00 UTC.
    pub modified: Option<u64>,
}

/// The answer to a conditional or range request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// 200 with the whole resource.
    Whole,
    /// 206 with these parts, in the order of the request; never empty.
    Parts(Vec<Range<u64>>),
    /// 304 Not Modified.
    NotModified,
    /// 412 Precondition Failed.
    Failed,
    /// 416 Range Not Satisfiable.
    Unsatisfiable,
}

/// Judges a request for a resource of `length` bytes (RFC 9110 §13.2.2). `now`: seconds after 1970-01-01 00:00:00 UTC.
#[must_use]
pub fn judge(view: &RequestView<'_>, validators: Validators<'_>, length: u64, now: u64) -> Verdict {
    match precondition(view, validators) {
        Some(verdict) => verdict,
        // RFC 9110 §14.2: a Range has a meaning in a GET only.
        None if view.method() != Method::Get => Verdict::Whole,
        None => parts(view, validators, length, now),
    }
}

/// The verdict of the precondition fields; `None` when they let the request proceed.
fn precondition(view: &RequestView<'_>, validators: Validators<'_>) -> Option<Verdict> {
    let reads = matches!(view.method(), Method::Get | Method::Head);
    if view.header("if-match").is_some() {
        if !lists(view, "if-match", |tag| strong(tag, validators.etag)) {
            return Some(Verdict::Failed);
        }
    } else if let Some(date) = view.only_header("if-unmodified-since").and_then(date_of)
        && validators.modified.is_some_and(|modified| modified > date)
    {
        return Some(Verdict::Failed);
    }
    if view.header("if-none-match").is_some() {
        if lists(view, "if-none-match", |tag| weak(tag, validators.etag)) {
            return Some(if reads { Verdict::NotModified } else { Verdict::Failed });
        }
    } else if reads
        && let Some(date) = view.only_header("if-modified-since").and_then(date_of)
        && validators.modified.is_some_and(|modified| modified <= date)
    {
        return Some(Verdict::NotModified);
    }
    None
}

fn parts(view: &RequestView<'_>, validators: Validators<'_>, length: u64, now: u64) -> Verdict {
    let Some(value) = view.only_header("range") else { return Verdict::Whole };
    // Two conditions are no condition that holds: a part of another representation would be mixed with the client's.
    let condition = view.only_header("if-range");
    if view.header("if-range").is_some()
        && !condition.is_some_and(|condition| holds(condition.trim_ascii(), validators, now))
    {
        return Verdict::Whole;
    }
    match range::asked(value, length) {
        Asked::Nothing => Verdict::Whole,
        Asked::Parts(parts) => Verdict::Parts(parts),
        Asked::Unsatisfiable => Verdict::Unsatisfiable,
    }
}

/// RFC 9110 §13.1.5: whether the current resource is the one of which the client has a part.
fn holds(condition: &[u8], validators: Validators<'_>, now: u64) -> bool {
    if condition.starts_with(b"\"") || condition.starts_with(b"W/") {
        return strong(condition, validators.etag);
    }
    // RFC 9110 §8.8.2.2: a date is a strong validator only if the resource can't have changed twice in that second.
    let exact = |date: u64| validators.modified == Some(date) && now > date.saturating_add(1);
    date_of(condition).is_some_and(exact)
}

/// Whether a list of entity tags is `*` or has a tag for which `matches` holds. `*` matches any existing resource.
fn lists(view: &RequestView<'_>, name: &str, matches: impl Fn(&[u8]) -> bool) -> bool {
    let fields = view.headers().filter(|(known, _)| known.eq_ignore_ascii_case(name.as_bytes()));
    fields.into_iter().any(|(_, value)| {
        let value = value.trim_ascii();
        value == b"*" || Tags(value).any(&matches)
    })
}

/// The entity tags of a field. A tag may contain a comma, so the value is not split at commas.
struct Tags<'a>(&'a [u8]);

impl<'a> Iterator for Tags<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let start = self.0.iter().position(|byte| !matches!(byte, b' ' | b'\t' | b','))?;
        let rest = self.0.get(start..)?;
        let quote = if rest.starts_with(b"W/\"") { 2 } else { 0 };
        if rest.get(quote) != Some(&b'"') {
            self.0 = &[];
            return None;
        }
        let close = rest.get(quote + 1..)?.iter().position(|byte| *byte == b'"')? + quote + 2;
        let (tag, behind) = rest.split_at_checked(close)?;
        self.0 = behind;
        Some(tag)
    }
}

/// RFC 9110 §8.8.3.2: the strong comparison.
fn strong(tag: &[u8], own: Option<&[u8]>) -> bool {
    own.is_some_and(|own| own == tag && !own.starts_with(b"W/"))
}

/// RFC 9110 §8.8.3.2: the weak comparison.
fn weak(tag: &[u8], own: Option<&[u8]>) -> bool {
    let opaque = |tag: &[u8]| tag.strip_prefix(b"W/").unwrap_or(tag).to_vec();
    own.is_some_and(|own| opaque(own) == opaque(tag))
}

/// Seconds after 1970-01-01 00:00:00 UTC of a date in any of the three formats (RFC 9110 §5.6.7); `None` for another text.
fn date_of(value: &[u8]) -> Option<u64> {
    let time = httpdate::parse_http_date(std::str::from_utf8(value).ok()?.trim()).ok()?;
    time.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)] // The tests mean lists of ranges.
mod tests {
    use super::super::head::{Head, Limits};
    use super::*;

    const TAG: &[u8] = b"\"a,b\"";
    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const MODIFIED: u64 = 784_111_777;

    fn verdict(method: &str, fields: &[(&str, &str)]) -> Verdict {
        let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let text = format!("{method} / HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
        let any = usize::MAX;
        let limits = Limits { head_bytes_max: any, headers_max: 20, uri_bytes_max: any, body_bytes_max: any };
        let mut head = Head::default();
        head.parse(text.as_bytes(), &limits).unwrap();
        let view = RequestView { head: &head, bytes: text.as_bytes(), body: &[], shared: None, peer: None };
        judge(&view, Validators { etag: Some(TAG), modified: Some(MODIFIED) }, 10, MODIFIED + 60)
    }

    #[test]
    fn rfc_9110_13_1_1_and_13_1_2_entity_tags() {
        for (tags, matches) in [
            ("\"a,b\"", true),
            ("*", true),
            ("\"x\", \"a,b\"", true),
            (",, \"a,b\" ,", true),
            ("\"a\"", false),
            ("a,b", false),
            ("", false),
            ("\"open", false),
        ] {
            let none = verdict("GET", &[("If-None-Match", tags)]);
            assert_eq!(none, if matches { Verdict::NotModified } else { Verdict::Whole }, "{tags}");
            let some = verdict("GET", &[("If-Match", tags)]);
            assert_eq!(some, if matches { Verdict::Whole } else { Verdict::Failed }, "{tags}");
        }
        // §8.8.3.2: weak tags match weakly, and never strongly.
        assert_eq!(verdict("HEAD", &[("If-None-Match", "W/\"a,b\"")]), Verdict::NotModified);
        assert_eq!(verdict("GET", &[("If-Match", "W/\"a,b\"")]), Verdict::Failed);
        assert_eq!(verdict("PUT", &[("If-None-Match", "*")]), Verdict::Failed);
        assert_eq!(verdict("GET", &[("If-None-Match", "\"x\""), ("If-None-Match", "\"a,b\"")]), Verdict::NotModified);
    }

    #[test]
    fn rfc_9110_13_1_3_and_13_1_4_dates() {
        let (before, after) = ("Sun, 06 Nov 1994 08:49:36 GMT", "Sun, 06 Nov 1994 08:49:38 GMT");
        for (date, new) in [(before, true), (DATE, false), (after, false)] {
            let since = verdict("GET", &[("If-Modified-Since", date)]);
            assert_eq!(since, if new { Verdict::Whole } else { Verdict::NotModified });
            let unmodified = verdict("GET", &[("If-Unmodified-Since", date)]);
            assert_eq!(unmodified, if new { Verdict::Failed } else { Verdict::Whole });
        }
        // Dates in the other formats count; other texts do not.
        assert_eq!(verdict("GET", &[("If-Modified-Since", "Sunday, 06-Nov-94 08:49:37 GMT")]), Verdict::NotModified);
        assert_eq!(verdict("GET", &[("If-Modified-Since", "Sun Nov  6 08:49:37 1994")]), Verdict::NotModified);
        assert_eq!(verdict("GET", &[("If-Modified-Since", "yesterday")]), Verdict::Whole);
        let twice = [("If-Modified-Since", DATE), ("If-Modified-Since", DATE)];
        assert_eq!(verdict("GET", &twice), Verdict::Whole);
        assert_eq!(verdict("POST", &[("If-Modified-Since", DATE)]), Verdict::Whole);
    }

    #[test]
    fn rfc_9110_13_2_2_tags_come_before_dates() {
        assert_eq!(verdict("GET", &[("If-None-Match", "\"x\""), ("If-Modified-Since", DATE)]), Verdict::Whole);
        let old = "Sun, 06 Nov 1994 08:49:36 GMT";
        assert_eq!(verdict("GET", &[("If-Match", "\"a,b\""), ("If-Unmodified-Since", old)]), Verdict::Whole);
        let not_modified = verdict("GET", &[("If-None-Match", "\"a,b\""), ("Range", "bytes=0-1")]);
        assert_eq!(not_modified, Verdict::NotModified);
        assert_eq!(verdict("GET", &[("If-Match", "\"x\""), ("If-None-Match", "\"a,b\"")]), Verdict::Failed);
    }

    #[test]
    fn rfc_9110_14_2_and_13_1_5_ranges() {
        let part = Verdict::Parts(vec![0..2]);
        assert_eq!(verdict("GET", &[("Range", "bytes=0-1")]), part);
        assert_eq!(verdict("HEAD", &[("Range", "bytes=0-1")]), Verdict::Whole);
        assert_eq!(verdict("GET", &[("Range", "bytes=10-")]), Verdict::Unsatisfiable);
        assert_eq!(verdict("GET", &[("Range", "bytes=0-1"), ("Range", "bytes=2-3")]), Verdict::Whole);
        for (condition, holds) in [
            ("\"a,b\"", true),
            ("W/\"a,b\"", false),
            ("\"x\"", false),
            (DATE, true),
            ("Sun, 06 Nov 1994 08:49:38 GMT", false),
            ("soon", false),
        ] {
            let verdict = verdict("GET", &[("Range", "bytes=0-1"), ("If-Range", condition)]);
            assert_eq!(verdict, if holds { part.clone() } else { Verdict::Whole }, "{condition}");
        }
        for second in ["\"a,b\"", "\"x\""] {
            let twice = [("Range", "bytes=0-1"), ("If-Range", "\"a,b\""), ("If-Range", second)];
            assert_eq!(verdict("GET", &twice), Verdict::Whole, "{second}");
        }
    }
}
