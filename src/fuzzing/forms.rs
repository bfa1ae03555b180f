//! Forms: `multipart/form-data` and `application/x-www-form-urlencoded`.

use super::{Random, pieces, ways_to_cut};
use crate::proto::form::{self, Form, FormEvent, MultipartError, Part, PartHead};

/// The same value as the private one in `proto::form`.
const PAIRS_MAX: usize = 1024;

/// The first line of the input is a `Content-Type` and the rest is a body. Then the target builds a form from the input.
pub fn multipart(data: &[u8]) {
    let (content_type, body) = match data.iter().position(|&byte| byte == b'\n') {
        Some(end) => (&data[..end], &data[end + 1..]),
        None => (b"multipart/form-data; boundary=B".as_slice(), data),
    };
    if let Some(boundary) = form::multipart_boundary(content_type) {
        assert!((1..=70).contains(&boundary.len()));
        assert!(content_type.windows(boundary.len()).any(|window| window == boundary));
        parts_of(body, boundary);
    }
    form_of(data);
}

/// The parts must lie in the body in their order, separated by at least a delimiter, and none may contain a delimiter.
fn parts_of(body: &[u8], boundary: &[u8]) {
    let delimiter = [b"\r\n--", boundary].concat();
    let (mut end_before, mut count) = (0, 0);
    let result = form::multipart(body, boundary, form::FIELDS_MAX, |part| {
        count += 1;
        let start = part.body.as_ptr() as usize - body.as_ptr() as usize;
        let end = start + part.body.len();
        assert!(end <= body.len(), "a part outside of the body");
        assert!(count == 1 || start >= end_before + delimiter.len(), "parts overlap");
        assert!(!part.body.windows(delimiter.len()).any(|window| window == delimiter));
        assert!(part.body.is_empty() || body[end..].starts_with(&delimiter));
        assert!(!part.name.contains(&b'\n') && !part.filename.as_deref().unwrap_or_default().contains(&b'\n'));
        end_before = end;
    });
    assert!(count <= 256);
    match result {
        Ok(()) => {
            let closing = [&delimiter[2..], b"--"].concat();
            assert!(body[end_before..].windows(closing.len()).any(|window| window == closing));
        }
        Err(MultipartError::TooManyParts) => assert_eq!(count, 256),
        Err(MultipartError::NoBoundary) => assert_eq!(count, 0),
        Err(MultipartError::Truncated | MultipartError::PartHead) => {}
    }
}

/// A form in pieces must equal the whole form, however the input is cut: parts, contents and the end.
pub fn multipart_stream(data: &[u8]) {
    let (content_type, body) = match data.iter().position(|&byte| byte == b'\n') {
        Some(end) => (&data[..end], &data[end + 1..]),
        None => (b"multipart/form-data; boundary=B".as_slice(), data),
    };
    let boundary = form::multipart_boundary(content_type).unwrap_or(b"B");
    let mut whole = Vec::new();
    let result = form::multipart(body, boundary, usize::MAX, |part| {
        let head = PartHead {
            name: part.name.to_vec(),
            filename: part.filename.as_deref().map(<[u8]>::to_vec),
            content_type: part.content_type.map(<[u8]>::to_vec),
        };
        whole.push((head, part.body.to_vec()));
    });
    for cuts in ways_to_cut(body) {
        let (parts, end) = parts_in_pieces(boundary, pieces(body, &cuts));
        assert_eq!(end, result, "the end of the form");
        assert_eq!(parts, whole, "its parts");
    }
}

type PartsAndEnd = (Vec<(PartHead, Vec<u8>)>, Result<(), MultipartError>);

/// The complete parts of a form.
fn parts_in_pieces(boundary: &[u8], pieces: Vec<&[u8]>) -> PartsAndEnd {
    let (mut form, mut all) = (Form::new(boundary), Vec::new());
    let mut pieces = pieces.into_iter();
    let (mut rest, mut part) = (&[][..], (PartHead::default(), Vec::new()));
    loop {
        match form.next_event() {
            Ok(FormEvent::NeedMore) => {
                if rest.is_empty() {
                    let Some(piece) = pieces.next() else {
                        form.finish();
                        continue;
                    };
                    rest = piece;
                }
                let room = form.room();
                let count = rest.len().min(room.len());
                assert!(count > 0, "there is room for the requested bytes");
                room[..count].copy_from_slice(&rest[..count]);
                rest = &rest[count..];
                form.filled(count);
            }
            Ok(FormEvent::Part(head)) => part = (head, Vec::new()),
            Ok(FormEvent::Content(range)) => {
                assert!(!range.is_empty());
                part.1.extend_from_slice(form.bytes(range));
            }
            Ok(FormEvent::PartEnd) => all.push(std::mem::take(&mut part)),
            Ok(FormEvent::End) => return (all, Ok(())),
            Err(error) => {
                assert_eq!(form.next_event(), Err(error), "an error stays");
                return (all, Err(error));
            }
        }
    }
}

/// Cuts the input into names and contents. A form built of them must decode to them.
fn form_of(data: &[u8]) {
    const BOUNDARY: &[u8] = b"----cweb-7MA4YWxkTrZu0gW";
    let mut random = Random::of(data);
    let mut fields: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut rest = &data[..data.len().min(2000)];
    while !rest.is_empty() && fields.len() < 20 {
        let (name, others) = rest.split_at(random.below(20).min(rest.len()));
        let (content, others) = others.split_at((1 + random.below(200)).min(others.len()));
        // A name has no line ends (WHATWG HTML writes them as %0D%0A).
        fields.push((name.iter().copied().filter(|byte| !b"\r\n".contains(byte)).collect(), content.to_vec()));
        rest = others;
    }
    if fields.is_empty() || data.windows(BOUNDARY.len()).any(|window| window == BOUNDARY) {
        return;
    }
    let mut body = Vec::new();
    for (name, content) in &fields {
        let quoted: Vec<u8> = name
            .iter()
            .flat_map(|&byte| if b"\"\\".contains(&byte) { vec![b'\\', byte] } else { vec![byte] })
            .collect();
        let head = [b"--", BOUNDARY, b"\r\nContent-Disposition: form-data; name=\"", &quoted, b"\"\r\n\r\n"].concat();
        body.extend_from_slice(&head);
        body.extend_from_slice(content);
        // RFC 2046 §5.1.1: without content, the line end of the head is enough.
        if !content.is_empty() || random.below(2) == 0 {
            body.extend_from_slice(b"\r\n");
        }
    }
    body.extend_from_slice(&[b"--", BOUNDARY, b"--"].concat());
    let mut found = Vec::new();
    let keep = |part: Part<'_>| found.push((part.name.into_owned(), part.body.to_vec()));
    assert_eq!(form::multipart(&body, BOUNDARY, form::FIELDS_MAX, keep), Ok(()));
    assert_eq!(found, fields);
}

/// Names and values must equal those of a second decoder, and decoding must reverse encoding.
pub fn urlencoded(data: &[u8]) {
    let mut found = Vec::new();
    form::urlencoded(data, |name, value| found.push((name.to_vec(), value.to_vec())));
    let pieces = data.split(|&byte| byte == b'&').filter(|piece| !piece.is_empty()).take(PAIRS_MAX);
    let expected: Vec<(Vec<u8>, Vec<u8>)> = pieces
        .map(|piece| {
            let mut halves = piece.splitn(2, |&byte| byte == b'=');
            (unescape(halves.next().unwrap()), unescape(halves.next().unwrap_or_default()))
        })
        .collect();
    assert_eq!(found, expected);

    let escape = |bytes: &[u8]| bytes.iter().map(|byte| format!("%{byte:02X}")).collect::<String>();
    let (name, value) = data.split_at(data.len() / 2);
    let mut decoded = Vec::new();
    form::urlencoded(format!("{}={}", escape(name), escape(value)).as_bytes(), |name, value| {
        decoded.push((name.to_vec(), value.to_vec()));
    });
    assert_eq!(decoded, [(name.to_vec(), value.to_vec())]);
}

/// WHATWG URL §1.3 and §5.1.
fn unescape(input: &[u8]) -> Vec<u8> {
    let digit = |byte: &u8| b"0123456789abcdef".iter().position(|known| *known == byte.to_ascii_lowercase());
    let (mut out, mut rest) = (Vec::new(), input);
    while let Some((&first, behind)) = rest.split_first() {
        rest = behind;
        if let (b'%', [high, low, others @ ..]) = (first, behind)
            && let (Some(high), Some(low)) = (digit(high), digit(low))
        {
            out.push((high * 16 + low) as u8);
            rest = others;
        } else {
            out.push(if first == b'+' { b' ' } else { first });
        }
    }
    out
}
