//! Answers of the server's own paths with a file as their body.

use crate::domain::call::OwnedRequest;
use crate::proto::http1::{Validators, Verdict, content_range, judge, no_range};
use crate::server_response::{Reply, ServerAnswer};
use std::fs::File;

/// A file whose content never changes under its name.
pub(super) struct FileBody {
    pub(super) file: File,
    pub(super) bytes: u64,
    /// The entity tag, with its quotes.
    pub(super) etag: String,
    pub(super) content_type: &'static str,
}

/// Answers `request` with the file, or with the answer that the request's conditions and range require.
pub(super) fn send(request: &OwnedRequest, body: FileBody, reply: Reply) {
    let FileBody { file, bytes, etag, content_type } = body;
    let verdict = judge(&request.view(), Validators { etag: Some(etag.as_bytes()), modified: None }, bytes, 0);
    let answer = |status| {
        ServerAnswer { status, ..ServerAnswer::default() }
            .with("Accept-Ranges", "bytes")
            .with("ETag", etag.clone())
            // A browser must not guess another type from the content, and must run none of it.
            .with("X-Content-Type-Options", "nosniff")
            .with("Content-Security-Policy", "sandbox; default-src 'none'")
    };
    let with_type = |status| ServerAnswer { content_type, ..answer(status) };
    match verdict {
        Verdict::NotModified => reply.send(&answer(304)),
        Verdict::Failed => reply.send(&answer(412)),
        Verdict::Unsatisfiable => reply.send(&answer(416).with("Content-Range", no_range(bytes))),
        Verdict::Parts(parts) if parts.len() == 1 => {
            let part = parts.into_iter().next().unwrap_or(0..bytes);
            reply.send_file(&with_type(206).with("Content-Range", content_range(&part, bytes)), file, part);
        }
        // RFC 9110 §14.2: a server may ignore a Range; this one ignores several ranges.
        Verdict::Whole | Verdict::Parts(_) => reply.send_file(&with_type(200), file, 0..bytes),
    }
}

/// A path segment, percent-decoded: `%XX` is the byte of that number (RFC 3986 §2.1). `None`: the result is not UTF-8.
pub(super) fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first == b'%' {
            let (digits, tail) = rest.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = tail;
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::unescaped;

    #[test]
    fn names_come_back_from_urls() {
        for (text, name) in [("a.png", Some("a.png")), ("a%20b", Some("a b")), ("%C3%A4", Some("\u{e4}"))] {
            assert_eq!(unescaped(text).as_deref(), name);
        }
        for wrong in ["%", "%4", "%zz", "%ff"] {
            assert_eq!(unescaped(wrong), None, "{wrong}");
        }
    }
}
