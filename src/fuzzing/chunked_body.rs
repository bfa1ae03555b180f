//! Compares the chunked coding with a second decoder, which works byte by byte.

use super::requests::decode;
use super::{Random, pieces, ways_to_cut};
use crate::proto::http1::Limits;

const HEAD: &[u8] = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
const BODY_BYTES_MAX: usize = 5000;
/// The same values as the private ones in `proto::http1::chunked`.
const SIZE_LINE_BYTES_MAX: usize = 1024;
const TRAILER_BYTES_MAX: usize = 8 * 1024;

/// The input is first a chunked body with requests behind it, then a body to be sent in chunks.
pub fn chunked_body(data: &[u8]) {
    let limits = Limits { body_bytes_max: BODY_BYTES_MAX, ..Limits::default() };
    let input = [HEAD, data].concat();
    let whole = decode(&[&input], &limits);
    match (reference(data), whole.requests.first()) {
        (Some((body, length)), Some(first)) => {
            assert_eq!((&first.body, first.chunked), (&body, true));
            let rest = decode(&[&data[length..]], &limits);
            assert_eq!((rest.requests.as_slice(), rest.error), (&whole.requests[1..], whole.error));
        }
        (None, None) => {}
        (expected, found) => panic!("expected {expected:?}, found {found:?}"),
    }
    for cuts in ways_to_cut(&input) {
        let cut = decode(&pieces(&input, &cuts), &limits);
        assert_eq!(cut.requests, whole.requests);
        assert_eq!(cut.error.is_some(), whole.error.is_some());
    }
    round_trip(&data[..data.len().min(BODY_BYTES_MAX)], &limits);
}

/// Decoding must restore `body` from chunks of any sizes.
fn round_trip(body: &[u8], limits: &Limits) {
    let mut random = Random::of(body);
    let mut sent = HEAD.to_vec();
    let mut rest = body;
    while !rest.is_empty() {
        let (part, others) = rest.split_at((1 + random.below(300)).min(rest.len()));
        let extension = ["", ";a", " ; a=\"b\""][random.below(3)];
        sent.extend_from_slice(format!("{:x}{extension}\r\n", part.len()).as_bytes());
        sent.extend_from_slice(part);
        sent.extend_from_slice(b"\r\n");
        rest = others;
    }
    sent.extend_from_slice(b"0\r\n\r\n");
    let found = decode(&[&sent], limits);
    assert_eq!((found.error, found.consumed, found.requests.len()), (None, sent.len(), 1));
    assert_eq!(found.requests[0].body, body);
}

/// The result of RFC 9112 §7.1 and the limits for `input`: the body and its end. `None`: the body does not end, or is invalid.
fn reference(input: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let size_line = line(input, &mut at, SIZE_LINE_BYTES_MAX)?;
        let size = size_of(size_line)?;
        if size == 0 {
            break;
        }
        if size > (BODY_BYTES_MAX - body.len()) as u128 {
            return None;
        }
        for _ in 0..size {
            body.push(*input.get(at)?);
            at += 1;
        }
        if input.get(at..at + 2)? != b"\r\n" {
            return None;
        }
        at += 2;
    }
    let mut trailers = 0;
    loop {
        let field = line(input, &mut at, TRAILER_BYTES_MAX)?;
        if field.is_empty() {
            return Some((body, at));
        }
        trailers += field.len();
        let colon = field.iter().position(|&byte| byte == b':')?;
        let tchar = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        let text = |byte: &u8| *byte == b'\t' || !byte.is_ascii_control();
        let is_field = colon > 0 && field[..colon].iter().all(tchar) && field[colon..].iter().all(text);
        if trailers > TRAILER_BYTES_MAX || !is_field {
            return None;
        }
    }
}

/// A line without its CRLF, with no other CR, LF or NUL in it (RFC 9112 §2.2).
fn line<'a>(input: &'a [u8], at: &mut usize, max: usize) -> Option<&'a [u8]> {
    let start = *at;
    loop {
        match input.get(*at)? {
            b'\r' if input.get(*at + 1)? == &b'\n' => {
                *at += 2;
                return Some(&input[start..*at - 2]);
            }
            b'\r' | b'\n' | 0 => return None,
            _ if *at - start == max => return None,
            _ => *at += 1,
        }
    }
}

/// Parses `1*HEXDIG`, at most 16 digits, then nothing or `BWS ";"` and any text.
fn size_of(line: &[u8]) -> Option<u128> {
    let (mut size, mut digits, mut blank) = (0_u128, 0, false);
    let text = |byte: &u8| *byte == b'\t' || !byte.is_ascii_control();
    for (at, &byte) in line.iter().enumerate() {
        match (char::from(byte).to_digit(16), byte) {
            (Some(digit), _) if !blank => {
                size = size * 16 + u128::from(digit);
                digits += 1;
                if digits > 16 {
                    return None;
                }
            }
            (_, b';') if digits > 0 => return line[at..].iter().all(text).then_some(size),
            (_, b' ' | b'\t') if digits > 0 => blank = true,
            _ => return None,
        }
    }
    (digits > 0 && !blank).then_some(size)
}
