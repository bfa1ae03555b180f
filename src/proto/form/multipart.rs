//! `multipart/form-data` (RFC 7578, RFC 2046 §5.1).

use memchr::memmem;
use std::borrow::Cow;

/// Limit on the parts of a form that become fields of a request.
pub const FIELDS_MAX: usize = 256;
/// Limit, in bytes, on the header fields of one part.
pub(super) const PART_HEAD_BYTES_MAX: usize = 8 * 1024;
/// RFC 2046 §5.1.1: "no longer than 70 characters".
const BOUNDARY_BYTES_MAX: usize = 70;

/// One field of a form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part<'a> {
    /// The field's name; empty when the part has no name.
    pub name: Cow<'a, [u8]>,
    /// The file's name, for a file.
    pub filename: Option<Cow<'a, [u8]>>,
    /// The part's own `Content-Type`.
    pub content_type: Option<&'a [u8]>,
    /// The content.
    pub body: &'a [u8],
}

/// Why a form can't be read to its end. The parts before the fault have been handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum MultipartError {
    #[error("the boundary of the Content-Type does not occur")]
    NoBoundary,
    #[error("the form breaks off: its closing boundary is missing")]
    Truncated,
    #[error("the head of a part is malformed or longer than {PART_HEAD_BYTES_MAX} bytes")]
    PartHead,
    #[error("the form has too many parts")]
    TooManyParts,
}

/// The boundary in a `Content-Type` of `multipart/form-data`.
#[must_use]
pub fn multipart_boundary(content_type: &[u8]) -> Option<&[u8]> {
    let (essence, parameters) = content_type.split_at(memchr::memchr(b';', content_type)?);
    if !essence.trim_ascii().eq_ignore_ascii_case(b"multipart/form-data") {
        return None;
    }
    let at = find_parameter(parameters, b"boundary")?;
    let value = parameters.get(at..)?;
    let boundary = match value.strip_prefix(b"\"") {
        Some(quoted) => quoted.get(..memchr::memchr(b'"', quoted)?)?,
        None => value.split(|&byte| byte == b';').next()?.trim_ascii(),
    };
    (!boundary.is_empty() && boundary.len() <= BOUNDARY_BYTES_MAX).then_some(boundary)
}

/// Where the value of parameter `name` begins in `; name=value; …`.
fn find_parameter(parameters: &[u8], name: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(rest) = parameters.get(at..).filter(|rest| !rest.is_empty()) {
        let skip = rest.iter().position(|byte| !matches!(byte, b';' | b' ' | b'\t' | b'\r' | b'\n'))?;
        at += skip;
        let rest = parameters.get(at..)?;
        let equals = memchr::memchr(b'=', rest)?;
        let is_blank = |byte: &&u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        let blanks = rest.get(equals + 1..)?.iter().take_while(is_blank).count();
        let value_at = at + equals + 1 + blanks;
        if rest.get(..equals)?.trim_ascii().eq_ignore_ascii_case(name) {
            return Some(value_at);
        }
        at = value_at + value_length(parameters.get(value_at..)?);
    }
    None
}

/// The length of a parameter's value, quoted or not.
fn value_length(value: &[u8]) -> usize {
    if value.first() == Some(&b'"') {
        let mut escaped = true; // The opening quote.
        for (at, &byte) in value.iter().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => return at + 1,
                _ => {}
            }
        }
        return value.len();
    }
    memchr::memchr(b';', value).unwrap_or(value.len())
}

/// Calls `f` with each part of `body`, which may have at most `parts_max` parts.
///
/// # Errors
/// See [`MultipartError`].
pub fn multipart<'a>(
    body: &'a [u8],
    boundary: &[u8],
    parts_max: usize,
    mut f: impl FnMut(Part<'a>),
) -> Result<(), MultipartError> {
    let delimiter = [b"\r\n--", boundary].concat();
    let opening = delimiter.get(2..).unwrap_or_default();
    // The first boundary stands at the start or, after a preamble, on a line of its own.
    let mut rest = match body.strip_prefix(opening) {
        Some(rest) => rest,
        None => {
            let at = memmem::find(body, &delimiter).ok_or(MultipartError::NoBoundary)?;
            body.get(at + delimiter.len()..).unwrap_or_default()
        }
    };
    let finder = memmem::Finder::new(&delimiter);
    for _ in 0..parts_max {
        if rest.starts_with(b"--") {
            return Ok(());
        }
        // RFC 2046 §5.1.1: white space may pad the boundary line.
        let padding = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        let part = rest.get(padding..).and_then(|rest| rest.strip_prefix(b"\r\n")).ok_or(MultipartError::Truncated)?;
        let (head, content) = split_head(part)?;
        // A boundary includes the line end before it. In a part without content, that line end also ends the part's head.
        let (end, next) = if content.starts_with(opening) {
            (0, opening.len())
        } else {
            let end = finder.find(content).ok_or(MultipartError::Truncated)?;
            (end, end + delimiter.len())
        };
        f(read_part(head, content.get(..end).unwrap_or_default()));
        rest = content.get(next..).unwrap_or_default();
    }
    if rest.starts_with(b"--") { Ok(()) } else { Err(MultipartError::TooManyParts) }
}

/// Header fields and content of a part.
fn split_head(part: &[u8]) -> Result<(&[u8], &[u8]), MultipartError> {
    if let Some(content) = part.strip_prefix(b"\r\n") {
        return Ok((&[], content));
    }
    let window = part.get(..part.len().min(PART_HEAD_BYTES_MAX)).unwrap_or_default();
    let at = memmem::find(window, b"\r\n\r\n").ok_or(MultipartError::PartHead)?;
    part.split_at_checked(at)
        .map(|(head, rest)| (head, rest.get(4..).unwrap_or_default()))
        .ok_or(MultipartError::PartHead)
}

pub(super) fn read_part<'a>(head: &'a [u8], body: &'a [u8]) -> Part<'a> {
    let mut part = Part { name: Cow::Borrowed(&[]), filename: None, content_type: None, body };
    for line in unfolded_lines(head) {
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        let (name, value) = line.split_at(colon);
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if name.trim_ascii().eq_ignore_ascii_case(b"content-disposition") {
            let parameters = memchr::memchr(b';', value).and_then(|at| value.get(at..)).unwrap_or_default();
            let read = |wanted| find_parameter(parameters, wanted).and_then(|at| parameters.get(at..)).map(unquote);
            part.name = read(b"name").unwrap_or(Cow::Borrowed(&[]));
            part.filename = read(b"filename");
        } else if name.trim_ascii().eq_ignore_ascii_case(b"content-type") {
            // The parameters of a folded field are left out: a line end in this value would be one in a field of an answer.
            let first = value.split(|&byte| byte == b'\r' || byte == b'\n').next().unwrap_or_default();
            let first = first.trim_ascii_end();
            part.content_type = Some(first.strip_suffix(b";").unwrap_or(first));
        }
    }
    part
}

/// The fields of a head: lines, each with those that continue it (they begin with a blank, RFC 5322 §2.2.3).
fn unfolded_lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = head;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let is_end = |&at: &usize| !matches!(rest.get(at + 1), Some(b' ' | b'\t'));
        let end = memchr::memchr_iter(b'\n', rest).find(is_end).unwrap_or(rest.len());
        let (line, after) = rest.split_at(end);
        rest = after.get(1..).unwrap_or_default();
        Some(line)
    })
}

/// A parameter's value without its quotes. `\"` and `\\` are escapes. Browsers write `%22` for a quote (WHATWG HTML, multipart
/// encoding); `%22` stays as it is, because other clients mean these three characters.
fn unquote(value: &[u8]) -> Cow<'_, [u8]> {
    let value = value.get(..value_length(value)).unwrap_or_default();
    let quoted = value.strip_prefix(b"\"");
    let inner = quoted.map_or(value.trim_ascii(), |inner| inner.strip_suffix(b"\"").unwrap_or(inner));
    // Line ends must not reach a module, because the module may write the value to a field of an answer or to a log.
    if memchr::memchr3(b'\\', b'\r', b'\n', inner).is_none() {
        return Cow::Borrowed(inner);
    }
    let mut out = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if matches!(byte, b'\r' | b'\n') {
            continue; // A fold: the blank behind it stays.
        }
        let escape = quoted.is_some() && byte == b'\\' && matches!(bytes.peek(), Some(b'"' | b'\\'));
        out.push(if escape { bytes.next().unwrap_or(byte) } else { byte });
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Read = (Vec<(String, Option<String>, Vec<u8>)>, Result<(), MultipartError>);

    fn parts(body: &[u8]) -> Read {
        let mut all = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let end = multipart(body, b"B", FIELDS_MAX, |part| {
            all.push((text(&part.name), part.filename.as_deref().map(text), part.body.to_vec()));
        });
        (all, end)
    }

    #[test]
    fn rfc_5322_2_2_3_folded_fields_of_a_part() {
        let body = b"--B\r\nContent-Disposition: form-data;\r\n name=\"a\";\r\n\tfilename=\"b\r\n c\"\r\n\
                     Content-Type: text/plain;\r\n charset=utf-8\r\nX: y\r\n\r\none\r\n--B--\r\n";
        assert_eq!(parts(body), (vec![("a".to_owned(), Some("b c".to_owned()), b"one".to_vec())], Ok(())));
        let unquoted =
            b"--B\r\nContent-Disposition: form-data; name=\r\n \"a\"; filename=b\\\r\n\tc\r\n\r\none\r\n--B--";
        assert_eq!(parts(unquoted).0, [("a".to_owned(), Some("b\\\tc".to_owned()), b"one".to_vec())]);
        let mut types = Vec::new();
        multipart(body, b"B", 1, |part| types.push(part.content_type)).unwrap();
        assert_eq!(types, [Some(&b"text/plain"[..])]);
    }

    #[test]
    fn reads_fields_and_files() {
        let body = b"--B\r\nContent-Disposition: form-data; name=\"a \\\"q\\\"\"\r\n\r\none\r\n\
                     --B\r\ncontent-disposition: form-data; filename= \"x;y.c\"; name = f\r\nContent-Type: text/x-c\r\n\r\n\0\r\n-B\r\n--B--\r\n";
        let (all, end) = parts(body);
        assert_eq!(end, Ok(()));
        assert_eq!(all[0], ("a \"q\"".into(), None, b"one".to_vec()));
        assert_eq!(all[1], ("f".into(), Some("x;y.c".into()), b"\0\r\n-B".to_vec()));
    }

    #[test]
    fn rfc_2046_5_1_1_a_part_without_content_may_end_with_its_head() {
        let head = "--B\r\nContent-Disposition: form-data; name=a\r\n\r\n";
        let (empty, other) = (("a".to_owned(), None, Vec::new()), ("a".to_owned(), None, b"x".to_vec()));
        assert_eq!(parts(format!("{head}--B--").as_bytes()), (vec![empty.clone()], Ok(())));
        assert_eq!(parts(format!("{head}{head}x\r\n--B--").as_bytes()), (vec![empty, other], Ok(())));
    }

    #[test]
    fn a_form_that_breaks_off_is_an_error() {
        assert_eq!(
            parts(b"--B\r\nContent-Disposition: form-data; name=a\r\n\r\none").1,
            Err(MultipartError::Truncated)
        );
        assert_eq!(parts(b"nothing").1, Err(MultipartError::NoBoundary));
        assert_eq!(parts(b"--B\r\nno end of head").1, Err(MultipartError::PartHead));
        let many = "--B\r\n\r\nx\r\n".repeat(FIELDS_MAX + 1) + "--B--";
        assert_eq!(parts(many.as_bytes()).1, Err(MultipartError::TooManyParts));
    }

    #[test]
    fn finds_boundaries() {
        let find =
            |text: &'static str| multipart_boundary(text.as_bytes()).map(|b| String::from_utf8_lossy(b).into_owned());
        assert_eq!(find("multipart/form-data; boundary=abc").as_deref(), Some("abc"));
        assert_eq!(find("Multipart/Form-Data; charset=x; Boundary=\"a b\"").as_deref(), Some("a b"));
        assert_eq!(find("multipart/mixed; boundary=abc"), None);
        assert_eq!(find("multipart/form-data"), None);
        assert_eq!(find("multipart/form-data; xboundary=abc"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_fine(body in proptest::collection::vec(any::<u8>(), 0..300), text in "[-B\r\n:;=\" a-c]{0,200}") {
            let _ = parts(&body);
            let _ = parts(format!("--B\r\n{text}").as_bytes());
            let _ = multipart_boundary(&body);
            let _ = multipart_boundary(format!("multipart/form-data;{text}").as_bytes());
        }

        #[test]
        fn contents_come_out_as_they_went_in(contents in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..5)) {
            prop_assume!(contents.iter().all(|c| memmem::find(c, b"--B").is_none()));
            let mut body = Vec::new();
            for content in &contents {
                body.extend_from_slice(b"--B\r\nContent-Disposition: form-data; name=n\r\n\r\n");
                body.extend_from_slice(content);
                body.extend_from_slice(b"\r\n");
            }
            body.extend_from_slice(b"--B--\r\n");
            let (all, end) = parts(&body);
            prop_assert_eq!(end, Ok(()));
            prop_assert_eq!(all.into_iter().map(|part| part.2).collect::<Vec<_>>(), contents);
        }
    }
}
