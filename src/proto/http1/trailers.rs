//! Trailer fields of an answer in chunks (RFC 9110 §6.5, RFC 9112 §7.1.2).

use super::field::{Fate, fate, push_field};

/// Limit, in bytes, on the trailer fields of one answer.
const TRAILER_BYTES_MAX: usize = 8 * 1024;

/// Fields that a recipient or a proxy needs before the content (RFC 9110 §6.5.1).
const NEVER: [&str; 21] = [
    "age",
    "authorization",
    "cache-control",
    "content-encoding",
    "content-range",
    "content-type",
    "expires",
    "host",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "retry-after",
    "set-cookie",
    "te",
    "trailer",
    "vary",
    "warning",
    "www-authenticate",
];

/// Appends a trailer field. Returns false if the field can't be a trailer field.
pub fn push_trailer(out: &mut Vec<u8>, name: &[u8], value: &[u8]) -> bool {
    let is_never = NEVER.iter().any(|never| name.eq_ignore_ascii_case(never.as_bytes()));
    if is_never || !matches!(fate(name, value), Fate::Send) {
        return false;
    }
    push_field(out, name, value);
    true
}

/// The trailer fields in `lines`, which may be any bytes; fields that can't be sent are left out.
#[must_use]
pub fn checked_trailers(lines: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let lines = lines.get(..lines.len().min(TRAILER_BYTES_MAX)).unwrap_or_default();
    for line in lines.split(|byte| *byte == b'\n').filter_map(|line| line.strip_suffix(b"\r")) {
        if let Some(colon) = memchr::memchr(b':', line) {
            let (name, value) = line.split_at(colon);
            push_trailer(&mut out, name, value.get(1..).unwrap_or_default().trim_ascii());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_sent_behind_the_content() {
        let mut out = Vec::new();
        assert!(push_trailer(&mut out, b"X-Sum", b"1f"));
        for (name, value) in [
            ("Content-Length", "3"),
            ("transfer-encoding", "x"),
            ("Set-Cookie", "a=b"),
            ("", "x"),
            ("x y", "z"),
            ("X", "a\r\nb"),
        ] {
            assert!(!push_trailer(&mut out, name.as_bytes(), value.as_bytes()), "{name}");
        }
        assert_eq!(out, b"X-Sum: 1f\r\n");
        assert_eq!(checked_trailers(b"X: 1\r\nHost: h\r\nno\r\nY:2\r\nbroken: off"), b"X: 1\r\nY: 2\r\n");
    }

    proptest! {
        #[test]
        fn any_bytes_become_fields_or_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "[a-c: \r\n]{0,60}") {
            for lines in [bytes.as_slice(), text.as_bytes()] {
                let out = checked_trailers(lines);
                prop_assert!(out.is_empty() || out.ends_with(b"\r\n") && !out.windows(4).any(|four| four == b"\r\n\r\n"));
                prop_assert_eq!(checked_trailers(&out), out);
            }
        }
    }
}
