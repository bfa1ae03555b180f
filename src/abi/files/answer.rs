//! Decides which parts of a file answer a request.

use super::open::{Family, Found, OpenFile};
use crate::proto::http1::{
    Coding, RequestView, Validators, Verdict, choose_coding, content_range, http_date, judge, no_range, part_head,
    parts_end,
};
use crate::proto::mime;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Preferred coding among those that a client weighs equally: the one with the smallest file.
const PREFERRED: [Coding; 3] = [Coding::Brotli, Coding::Zstd, Coding::Gzip];

/// A piece of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Bytes in memory.
    Text(Vec<u8>),
    /// A range of the file.
    Part(Range<u64>),
}

impl Piece {
    fn bytes(&self) -> u64 {
        match self {
            Piece::Text(bytes) => bytes.len() as u64,
            Piece::Part(range) => range.end - range.start,
        }
    }
}

/// The body of an answer with a file.
#[derive(Debug, Clone)]
pub struct FileParts {
    /// The open file.
    pub file: Arc<OpenFile>,
    /// The pieces to send, in order.
    pub pieces: Vec<Piece>,
}

/// An answer with a file, or the answer that a condition or a range requires.
#[derive(Debug, Clone)]
pub struct FileAnswer {
    /// The status.
    pub status: u16,
    /// Bytes of the body.
    pub bytes: u64,
    /// The body, if there is one. The answer to HEAD has it too: the server leaves it out.
    pub parts: Option<FileParts>,
    fields: Vec<(&'static str, String)>,
    /// The body has several parts, so its content type is not the file's.
    is_multipart: bool,
}

/// A header field.
type Field<'a> = (Cow<'a, [u8]>, Cow<'a, [u8]>);

/// A module's settings for a file answer.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wishes<'a> {
    pub(super) content_type: Option<&'a str>,
    pub(super) etag: Option<&'a str>,
    /// Send the whole file and ignore the request's conditions and ranges.
    pub(super) is_plain: bool,
}

impl FileAnswer {
    /// An answer without a file.
    pub(super) fn without_file(status: u16, fields: Vec<(&'static str, String)>) -> Self {
        Self { status, bytes: 0, parts: None, fields, is_multipart: false }
    }

    /// The answer to `view` with a file. Its content type is that of `name`, unless the module sets another one.
    pub(super) fn new(view: &RequestView<'_>, family: &Family, name: &[u8], wishes: Wishes<'_>) -> Self {
        let coding = choose_coding(view, &PREFERRED, |coding| family.sibling(coding).is_some());
        let found = coding.and_then(|coding| family.sibling(coding)).unwrap_or(&family.plain);
        let content_type = wishes.content_type.unwrap_or_else(|| mime::content_type(name));
        let etag = wishes.etag.map_or_else(|| found.info.etag(), str::to_owned);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        // RFC 9110 §8.8.2.1: the date must not be in the future.
        let modified = found.info.modified_s().map(|modified| modified.min(now));
        let mut fields = vec![("Accept-Ranges", "bytes".to_owned()), ("ETag", etag.clone())];
        let date = modified.map(|modified| String::from_utf8_lossy(&http_date(modified)).into_owned());
        fields.extend(date.map(|date| ("Last-Modified", date)));
        if family.varies() {
            fields.push(("Vary", "Accept-Encoding".to_owned()));
        }
        let verdict = if wishes.is_plain {
            Verdict::Whole
        } else {
            judge(view, Validators { etag: Some(etag.as_bytes()), modified }, found.info.bytes, now)
        };
        let mut answer = Self::without_file(200, fields);
        answer.decide(verdict, found, content_type);
        if answer.status < 300 {
            answer.fields.extend(coding.map(|coding| ("Content-Encoding", coding.name().to_owned())));
        }
        answer
    }

    fn decide(&mut self, verdict: Verdict, found: &Found, content_type: &str) {
        let bytes = found.info.bytes;
        let pieces = match verdict {
            Verdict::NotModified => return self.status = 304,
            Verdict::Failed => return self.status = 412,
            Verdict::Unsatisfiable => {
                self.status = 416;
                return self.fields.push(("Content-Range", no_range(bytes)));
            }
            Verdict::Whole => vec![Piece::Part(0..bytes)],
            Verdict::Parts(parts) => self.parts_of(parts, bytes, content_type),
        };
        if !self.is_multipart {
            self.fields.push(("Content-Type", content_type.to_owned()));
        }
        self.bytes = pieces.iter().map(Piece::bytes).sum();
        self.parts = Some(FileParts { file: Arc::clone(&found.file), pieces });
    }

    fn parts_of(&mut self, parts: Vec<Range<u64>>, bytes: u64, content_type: &str) -> Vec<Piece> {
        self.status = 206;
        if let [part] = parts.as_slice() {
            self.fields.push(("Content-Range", content_range(part, bytes)));
            return vec![Piece::Part(part.clone())];
        }
        let boundary = uuid::Uuid::new_v4().simple().to_string();
        self.is_multipart = true;
        self.fields.push(("Content-Type", format!("multipart/byteranges; boundary={boundary}")));
        let piece =
            |part: Range<u64>| [Piece::Text(part_head(&boundary, content_type, &part, bytes)), Piece::Part(part)];
        let mut pieces: Vec<Piece> = parts.into_iter().flat_map(piece).collect();
        pieces.push(Piece::Text(parts_end(&boundary)));
        pieces
    }

    /// The header fields of the answer: the module's, which take precedence, and the file's.
    #[must_use]
    pub fn fields<'a>(&'a self, given: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Vec<Field<'a>> {
        let is = |name: &[u8], known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        let mut fields: Vec<Field<'a>> = given
            .filter(|(name, _)| !(is(name, "content-range") || self.is_multipart && is(name, "content-type")))
            .map(|(name, value)| (Cow::Borrowed(name), Cow::Borrowed(value)))
            .collect();
        for (name, value) in &self.fields {
            let place = fields.iter_mut().find(|(known, _)| is(known, name));
            match place {
                None => fields.push((Cow::Borrowed(name.as_bytes()), Cow::Borrowed(value.as_bytes()))),
                Some((_, known)) if *name == "Vary" && !names(known, value) => {
                    known.to_mut().extend_from_slice(format!(", {value}").as_bytes());
                }
                Some(_) => {}
            }
        }
        fields
    }
}

/// Whether a `Vary` field has `name`, or `*`.
fn names(list: &[u8], name: &str) -> bool {
    let mut items = list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    items.any(|item| item == b"*" || item.eq_ignore_ascii_case(name.as_bytes()))
}
