//! Request targets (RFC 9112 §3.2) and hosts (RFC 9110 §7.2).

use super::request_error::RequestError;
use std::net::Ipv6Addr;

/// The parts of a request target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target<'a> {
    /// Host and port of an absolute-form target: they replace the value of `Host` (RFC 9112 §3.2.2).
    pub(super) authority: Option<&'a [u8]>,
    /// The path, never empty.
    pub(super) path: &'a [u8],
    /// What follows the first `?`.
    pub(super) query: Option<&'a [u8]>,
}

impl<'a> Target<'a> {
    /// Reads origin-form, absolute-form and, if `asterisk` is set, asterisk-form.
    pub(super) fn read(target: &'a [u8], asterisk: bool) -> Result<Self, RequestError> {
        if memchr::memchr(b'#', target).is_some() {
            return Err(RequestError::Syntax("the target has a fragment"));
        }
        let (authority, origin) = match target {
            [b'/', ..] => (None, target),
            b"*" if asterisk => (None, target),
            _ => absolute_form(target).map(|(authority, origin)| (Some(authority), origin))?,
        };
        let (path, query) = match memchr::memchr(b'?', origin) {
            Some(at) => (origin.get(..at).unwrap_or_default(), origin.get(at + 1..)),
            None => (origin, None),
        };
        // An absolute-form target may have an empty path, which means `/` (RFC 9110 §4.2.3). The slash is borrowed from its
        // scheme.
        let path = if path.is_empty() {
            target.split(|&byte| byte == b':').nth(1).and_then(|rest| rest.get(..1)).unwrap_or_default()
        } else {
            path
        };
        Ok(Self { authority, path, query })
    }
}

/// The authority of an absolute-form target, and the rest (RFC 9112 §3.2.2). The authority ends at the first `/` or `?` (RFC
/// 3986 §3.2): a later `/` could belong to the query.
fn absolute_form(target: &[u8]) -> Result<(&[u8], &[u8]), RequestError> {
    let after = |scheme: &[u8]| {
        let (start, rest) = target.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    };
    let rest =
        after(b"http://").or_else(|| after(b"https://")).ok_or(RequestError::Syntax("the target must begin with /"))?;
    let end = memchr::memchr2(b'/', b'?', rest).unwrap_or(rest.len());
    let (authority, origin) = rest.split_at_checked(end).unwrap_or((rest, &[]));
    if !is_host(authority) {
        return Err(RequestError::Syntax("the target has no valid host"));
    }
    Ok((authority, origin))
}

/// Whether `value` is `uri-host [ ":" port ]`. User information (`@`) is refused like everything else that is no host: a reader
/// could take it for the host (RFC 9110 §4.2.4). `http` allows no empty host (§4.2.1).
pub(super) fn is_host(value: &[u8]) -> bool {
    let name_len = if value.first() == Some(&b'[') {
        memchr::memchr(b']', value).map_or(0, |end| end + 1)
    } else {
        memchr::memchr(b':', value).unwrap_or(value.len())
    };
    let (name, port) = value.split_at_checked(name_len).unwrap_or((value, &[]));
    let name = match name {
        [b'[', address @ .., b']'] => {
            std::str::from_utf8(address).is_ok_and(|address| address.parse::<Ipv6Addr>().is_ok())
        }
        _ => !name.is_empty() && is_registered_name(name),
    };
    name && port.strip_prefix(b":").map_or(port.is_empty(), |port| port.iter().all(u8::is_ascii_digit))
}

/// RFC 3986 §3.2.2: unreserved characters, sub-delims and percent-encoded bytes.
fn is_registered_name(name: &[u8]) -> bool {
    let mut rest = name;
    while let Some((&byte, behind)) = rest.split_first() {
        rest = match (byte, behind) {
            (b'%', [high, low, behind @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => behind,
            (b'-' | b'.' | b'_' | b'~', _) => behind,
            (b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=', _) => behind,
            _ if byte.is_ascii_alphanumeric() => behind,
            _ => return false,
        };
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_9110_7_2_hosts() {
        for good in ["x", "localhost:8080", "127.0.0.1", "a-b_c.example:", "[::1]", "[::1]:80", "%41b", "a,b"] {
            assert!(is_host(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            ":80",
            "a b",
            "a/b",
            "user@host",
            "a:b",
            "a:1:2",
            "::1",
            "[::1",
            "[::1]x",
            "[x]",
            "[]",
            "a%4",
            "é",
            "a\\b",
        ] {
            assert!(!is_host(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn rfc_9112_3_2_forms() {
        let read = |text: &'static str| Target::read(text.as_bytes(), false);
        let origin = read("/a?b?c").unwrap();
        assert_eq!((origin.authority, origin.path, origin.query), (None, b"/a".as_slice(), Some(b"b?c".as_slice())));
        let absolute = read("http://h:1?q").unwrap();
        assert_eq!((absolute.authority, absolute.path), (Some(b"h:1".as_slice()), b"/".as_slice()));
        for bad in ["*", "h:80", "relative", "http:///p", "http://u@h/", "ftp://h/", "/a#b", "http://h#b", ""] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert_eq!(Target::read(b"*", true).unwrap().path, b"*");
    }
}
