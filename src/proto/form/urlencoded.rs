//! `application/x-www-form-urlencoded` (WHATWG URL §5): query strings and simple forms.

/// Limit on the pairs of one input; later pairs are ignored.
const PAIRS_MAX: usize = 1024;

/// Calls `f` with each decoded name and value. Empty pieces (`a&&b`) are skipped; a piece without `=` has an empty value. An
/// invalid escape is kept as it is.
pub fn urlencoded(input: &[u8], mut f: impl FnMut(&[u8], &[u8])) {
    let (mut name, mut value) = (Vec::new(), Vec::new());
    for piece in input.split(|&byte| byte == b'&').filter(|piece| !piece.is_empty()).take(PAIRS_MAX) {
        let (raw_name, raw_value) = match memchr::memchr(b'=', piece) {
            Some(at) => (piece.get(..at).unwrap_or_default(), piece.get(at + 1..).unwrap_or_default()),
            None => (piece, &[][..]),
        };
        decode(raw_name, &mut name);
        decode(raw_value, &mut value);
        f(&name, &value);
    }
}

/// Whether a `Content-Type` is that of a urlencoded form.
#[must_use]
pub fn is_urlencoded(content_type: &[u8]) -> bool {
    let essence = content_type.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
    essence.eq_ignore_ascii_case(b"application/x-www-form-urlencoded")
}

fn hex(digit: Option<&u8>) -> Option<u8> {
    char::from(*digit?).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// A part of a path, percent-decoded (RFC 3986 §2.1). A plus stays a plus in a path, and an invalid escape is kept as it is.
#[must_use]
pub fn percent_decoded(input: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(input.len());
    unescape(input, b'+', &mut out);
    out
}

fn decode(input: &[u8], out: &mut Vec<u8>) {
    unescape(input, b' ', out);
}

fn unescape(input: &[u8], plus: u8, out: &mut Vec<u8>) {
    out.clear();
    let mut at = 0;
    while let Some(&byte) = input.get(at) {
        at += 1;
        match byte {
            b'+' => out.push(plus),
            b'%' => match (hex(input.get(at)), hex(input.get(at + 1))) {
                (Some(high), Some(low)) => {
                    out.push(high << 4 | low);
                    at += 2;
                }
                _ => out.push(b'%'),
            },
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pairs(input: &str) -> Vec<(String, String)> {
        let mut all = Vec::new();
        urlencoded(input.as_bytes(), |name, value| {
            all.push((String::from_utf8_lossy(name).into_owned(), String::from_utf8_lossy(value).into_owned()));
        });
        all
    }

    #[test]
    fn decodes() {
        let owned =
            |list: &[(&str, &str)]| list.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect::<Vec<_>>();
        assert_eq!(
            pairs("a=1&b=x+y%21&&c&=d&e=f=g"),
            owned(&[("a", "1"), ("b", "x y!"), ("c", ""), ("", "d"), ("e", "f=g")])
        );
        assert_eq!(pairs("a=%zz%4&b=%"), owned(&[("a", "%zz%4"), ("b", "%")]));
        assert_eq!(pairs(""), vec![]);
        assert_eq!(pairs(&"a&".repeat(5000)).len(), PAIRS_MAX);
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(name in proptest::collection::vec(any::<u8>(), 1..20), value in proptest::collection::vec(any::<u8>(), 0..20)) {
            let encode = |bytes: &[u8]| bytes.iter().map(|byte| format!("%{byte:02x}")).collect::<String>();
            let mut seen = None;
            urlencoded(format!("{}={}", encode(&name), encode(&value)).as_bytes(), |n, v| seen = Some((n.to_vec(), v.to_vec())));
            prop_assert_eq!(seen, Some((name, value)));
        }

        #[test]
        fn any_bytes_are_fine(input in proptest::collection::vec(any::<u8>(), 0..200)) {
            urlencoded(&input, |_, _| {});
        }
    }
}
