//! Compression of answers and decompression of request bodies, on the thread that ran the handler and never on a shard.
//!
//! Answers below `ANSWER_BYTES_MIN` are never compressed.

mod streamed;

pub(super) use streamed::{StreamCoder, streamed};

use crate::abi::frame::HandlerAnswer;
use crate::abi::manifest::RouteDecl;
use crate::proto::http1::{Coding, RequestView, ResponseHead, choose_coding, encode_response};
use crate::proto::mime;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::sync::OnceLock;

/// Smaller answers are not compressed: most of their bytes on the wire are head and packet anyway.
const ANSWER_BYTES_MIN: usize = 1024;

/// Larger answers are not compressed: one would occupy a thread for many seconds.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// These levels give most of the possible gain in about a tenth of the time of the highest level: see docs/files.md.
const ZSTD_LEVEL: i32 = 3;
const BROTLI_QUALITY: i32 = 4;
const BROTLI_WINDOW: i32 = 20;
const GZIP_LEVEL: u32 = 5;

/// Limit on the codings of one request body; each can multiply its size.
const LAYERS_MAX: usize = 2;

static SETTINGS: OnceLock<Chosen> = OnceLock::new();

/// The settings of compression and decompression in this process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodingSettings {
    /// Codings of answers, by name, in the order of preference; if empty, answers are not compressed.
    pub answers: Vec<String>,
    /// Limit, in bytes, on the expanded body of a request whose route sets no limit.
    pub body_bytes_max: usize,
    /// Limit, in bytes, on the limit that a route may set.
    pub route_body_bytes_max: usize,
}

struct Chosen {
    codings: Vec<Coding>,
    body_bytes_max: usize,
    route_body_bytes_max: usize,
}

/// Sets the settings of this process. Calls after the first have no effect; before the first nothing is compressed.
pub fn set_codings(settings: &CodingSettings) {
    let codings = settings.answers.iter().filter_map(|name| Coding::of(name.as_bytes())).collect();
    let CodingSettings { body_bytes_max, route_body_bytes_max, .. } = *settings;
    let _ = SETTINGS.set(Chosen { codings, body_bytes_max, route_body_bytes_max });
}

/// The limit on the expanded body of a request to this route, in bytes.
pub(super) fn body_bytes_max(route: &RouteDecl) -> usize {
    let Some(settings) = SETTINGS.get() else { return 0 };
    route.body_bytes_max().map_or(settings.body_bytes_max, |own| own.min(settings.route_body_bytes_max))
}

/// A header field.
type Field<'a> = (Cow<'a, [u8]>, Cow<'a, [u8]>);

/// An answer with other header fields or another body than its handler gave.
pub(super) struct Changed<'a> {
    fields: Vec<Field<'a>>,
    /// The compressed body, if it was compressed.
    pub(super) body: Option<Vec<u8>>,
}

/// Compresses the body of an answer to `view`, if the client accepts that and the size is worth it. `None`: the answer is
/// sent unchanged.
pub(super) fn changed<'a>(view: &RequestView<'_>, answer: &'a HandlerAnswer<'_>) -> Option<Changed<'a>> {
    if !(ANSWER_BYTES_MIN..=ANSWER_BYTES_MAX).contains(&answer.body.len()) {
        return None;
    }
    let codings = SETTINGS.get().map(|settings| &settings.codings).filter(|codings| !codings.is_empty())?;
    if answer.status == 206 || !is_eligible(answer.headers()) {
        return None;
    }
    let coding = choose_coding(view, codings, |_| true);
    let compressed = coding.and_then(|coding| Some((coding, compress(coding, answer.body)?)));
    let mut fields: Vec<Field<'a>> = answer.headers().map(|(name, value)| (name.into(), value.into())).collect();
    add_vary(&mut fields);
    let body = compressed.map(|(coding, body)| {
        weaken_tags(&mut fields);
        fields.push((b"Content-Encoding".into(), coding.name().as_bytes().into()));
        body
    });
    Some(Changed { fields, body })
}

impl Changed<'_> {
    /// Appends the answer, whose handler gave `body`. Returns the number of dropped header fields.
    pub(super) fn encode<'h>(
        &self,
        out: &mut Vec<u8>,
        body: &[u8],
        head: impl FnOnce(usize) -> ResponseHead<'h>,
    ) -> u32 {
        let body = self.body.as_deref().unwrap_or(body);
        encode_response(out, &head(body.len()), self.fields(), body)
    }

    /// All header fields.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.iter().map(|(name, value)| (name.as_ref(), value.as_ref()))
    }
}

fn is(name: &[u8], known: &str) -> bool {
    name.eq_ignore_ascii_case(known.as_bytes())
}

/// Whether an answer with these header fields may be compressed.
fn is_eligible<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> bool {
    let mut compressible = false;
    for (name, value) in fields {
        let barred = match name.len() {
            12 => {
                if is(name, "content-type") {
                    compressible = mime::is_compressible(value);
                }
                false
            }
            // RFC 9111 §5.2.2.6, RFC 9110 §7.7: no intermediary may transform such an answer.
            13 => is(name, "cache-control") && lists(value, "no-transform") || is(name, "content-range"),
            // A digest covers the uncompressed body.
            6 => is(name, "digest"),
            11 => is(name, "content-md5"),
            14 => is(name, "content-digest"),
            16 => is(name, "content-encoding"),
            _ => false,
        };
        if barred {
            return false;
        }
    }
    compressible
}

/// Whether the list in a field contains `item`, or `*`.
fn lists(list: &[u8], item: &str) -> bool {
    let mut items = list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    items.any(|known| known == b"*" || is(known, item))
}

/// RFC 9110 §12.5.5: the answer depends on the codings that the client accepts, even if it was not compressed.
fn add_vary(fields: &mut Vec<Field<'_>>) {
    let varies = |(name, value): &Field<'_>| is(name, "vary") && lists(value, "accept-encoding");
    if fields.iter().any(varies) {
        return;
    }
    match fields.iter_mut().find(|(name, _)| is(name, "vary")) {
        Some((_, value)) if !value.trim_ascii().is_empty() => value.to_mut().extend_from_slice(b", Accept-Encoding"),
        Some((_, value)) => *value = b"Accept-Encoding".into(),
        None => fields.push((b"Vary".into(), b"Accept-Encoding".into())),
    }
}

/// RFC 9110 §8.8.3.3: different bytes must not have the same strong tag.
fn weaken_tags(fields: &mut [Field<'_>]) {
    for (_, value) in fields.iter_mut().filter(|(name, value)| is(name, "etag") && value.starts_with(b"\"")) {
        *value = [b"W/", value.as_ref()].concat().into();
    }
}

thread_local! {
    static ZSTD: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
}

/// Creates the thread-local state of the calling thread; see [`super::executor::prepare_thread`].
pub(super) fn ready() {
    let _ = ZSTD.try_with(|_| ());
}

/// `body` in this coding; `None` if it is not smaller, or if compression fails.
fn compress(coding: Coding, body: &[u8]) -> Option<Vec<u8>> {
    let encoded = match coding {
        Coding::Zstd => ZSTD.with_borrow_mut(|kept| {
            if kept.is_none() {
                *kept = Some(zstd::bulk::Compressor::new(ZSTD_LEVEL)?);
            }
            kept.as_mut().map_or_else(|| Err(io::ErrorKind::OutOfMemory.into()), |encoder| encoder.compress(body))
        }),
        Coding::Gzip => gzip(body),
        Coding::Brotli => brotli(body),
    };
    let encoded = encoded.inspect_err(|error| tracing::warn!("an answer can't be compressed: {error}")).ok()?;
    (encoded.len() < body.len()).then_some(encoded)
}

fn gzip(body: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder =
        flate2::write::GzEncoder::new(Vec::with_capacity(body.len() / 4), flate2::Compression::new(GZIP_LEVEL));
    encoder.write_all(body)?;
    encoder.finish()
}

fn brotli(body: &[u8]) -> io::Result<Vec<u8>> {
    let params = brotli::enc::BrotliEncoderParams {
        quality: BROTLI_QUALITY,
        lgwin: BROTLI_WINDOW,
        size_hint: body.len(),
        ..Default::default()
    };
    let mut out = Vec::with_capacity(body.len() / 4);
    brotli::BrotliCompress(&mut &*body, &mut out, &params)?;
    Ok(out)
}

/// The reason why a request body can't be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Undecodable {
    /// 413: the expanded size of the body exceeds this many bytes.
    TooLarge(usize),
    /// 400: the body is not valid data of its coding.
    Broken(Coding),
    /// 415: a coding is unknown, or there are too many codings.
    Unknown,
}

impl Undecodable {
    /// The status and the text for the client.
    pub(super) fn answer(self) -> (u16, String) {
        match self {
            Self::TooLarge(bytes) => (413, format!("the body has more than {bytes} bytes when it is expanded\n")),
            Self::Broken(coding) => (400, format!("the body is no {} data\n", coding.name())),
            Self::Unknown => (415, "the Content-Encoding is none of br, zstd, gzip\n".to_owned()),
        }
    }
}

/// The body of a request with its codings removed, at most `bytes_max` bytes; `None` if it has no coding.
///
/// # Errors
/// See [`Undecodable`].
pub(super) fn decoded(view: &RequestView<'_>, bytes_max: usize) -> Result<Option<Vec<u8>>, Undecodable> {
    let mut codings = Vec::new();
    for (_, value) in view.headers().filter(|(name, _)| is(name, "content-encoding")) {
        for name in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|name| !name.is_empty()) {
            if !is(name, "identity") {
                codings.push(Coding::of(name).ok_or(Undecodable::Unknown)?);
            }
        }
    }
    if codings.len() > LAYERS_MAX {
        return Err(Undecodable::Unknown);
    }
    let mut body = None;
    // The last coding was applied last (RFC 9110 §8.4).
    for coding in codings.into_iter().rev() {
        body = Some(expand(coding, body.as_deref().unwrap_or(view.body), bytes_max)?);
    }
    Ok(body)
}

fn expand(coding: Coding, body: &[u8], bytes_max: usize) -> Result<Vec<u8>, Undecodable> {
    let broken = |_| Undecodable::Broken(coding);
    let mut out = Vec::new();
    let limit = (bytes_max as u64).saturating_add(1);
    let mut rest = body;
    let read = match coding {
        Coding::Zstd => {
            let decoder = zstd::stream::read::Decoder::with_buffer(&mut rest).and_then(|mut decoder| {
                // 8 MiB, which every decoder must support (RFC 8878 §3.1.1.1.2); with more, the client would choose the
                // server's memory.
                decoder.window_log_max(23)?;
                Ok(decoder)
            });
            decoder.map_err(broken)?.take(limit).read_to_end(&mut out)
        }
        Coding::Gzip => flate2::bufread::MultiGzDecoder::new(&mut rest).take(limit).read_to_end(&mut out),
        Coding::Brotli => {
            let mut decoder = brotli::Decompressor::new(&mut rest, 4096);
            let read = decoder.by_ref().take(limit).read_to_end(&mut out);
            // Bytes behind the end of the data are an error of the read after the one that finds the end.
            read.and_then(|_| if out.len() > bytes_max { Ok(0) } else { decoder.read(&mut [0]) })
        }
    };
    read.map_err(broken)?;
    if out.len() <= bytes_max && !rest.is_empty() {
        return Err(Undecodable::Broken(coding));
    }
    if out.len() > bytes_max { Err(Undecodable::TooLarge(bytes_max)) } else { Ok(out) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text() -> Vec<u8> {
        "All work and no play makes Jack a dull boy. ".repeat(100).into_bytes()
    }

    #[test]
    fn what_is_compressed_comes_back() {
        for coding in Coding::ALL {
            let encoded = compress(coding, &text()).unwrap();
            assert!(encoded.len() < text().len() / 5, "{coding:?}");
            assert_eq!(expand(coding, &encoded, text().len()), Ok(text()), "{coding:?}");
            assert_eq!(expand(coding, &encoded, text().len() - 1), Err(Undecodable::TooLarge(text().len() - 1)));
            assert_eq!(expand(coding, &encoded[..encoded.len() / 2], 1 << 20), Err(Undecodable::Broken(coding)));
            assert_eq!(expand(coding, b"this is no such data", 1 << 20), Err(Undecodable::Broken(coding)));
            for behind in [1, 5000] {
                let longer = [encoded.as_slice(), &vec![b'x'; behind]].concat();
                assert_eq!(expand(coding, &longer, 1 << 20), Err(Undecodable::Broken(coding)), "{coding:?} {behind}");
            }
        }
        let noise: Vec<u8> = (0..2000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        assert!(Coding::ALL.iter().all(|coding| compress(*coding, &noise).is_none_or(|out| out.len() < noise.len())));
    }

    #[test]
    fn what_may_be_compressed() {
        let eligible = |fields: &[(&str, &str)]| is_eligible(fields.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())));
        let kind = ("Content-Type", "text/plain");
        assert!(eligible(&[kind]) && eligible(&[kind, ("Cache-Control", "max-age=3")]));
        assert!(!eligible(&[]) && !eligible(&[("Content-Type", "image/png")]));
        for field in [
            ("content-encoding", "gzip"),
            ("Content-Range", "bytes 0-1/2"),
            ("Cache-Control", "private, No-Transform"),
            ("Digest", "sha-256=x"),
            ("Content-MD5", "x"),
        ] {
            assert!(!eligible(&[kind, field]) && !eligible(&[field, kind]), "{field:?}");
        }
    }

    #[test]
    fn fields_of_an_encoded_answer() {
        let field = |name: &'static str, value: &'static str| -> Field<'static> {
            (name.as_bytes().into(), value.as_bytes().into())
        };
        for (vary, expected) in [
            (None, "Accept-Encoding"),
            (Some("Cookie"), "Cookie, Accept-Encoding"),
            (Some("accept-encoding, Cookie"), "accept-encoding, Cookie"),
            (Some("*"), "*"),
        ] {
            let mut fields: Vec<Field<'_>> = vary.map(|vary| field("Vary", vary)).into_iter().collect();
            add_vary(&mut fields);
            assert_eq!(fields, [(Cow::from(b"Vary".as_slice()), Cow::from(expected.as_bytes()))]);
        }
        let mut fields = [field("ETag", "\"a\""), field("etag", "W/\"b\"")];
        weaken_tags(&mut fields);
        assert_eq!(fields.map(|(_, value)| value.into_owned()), [b"W/\"a\"".to_vec(), b"W/\"b\"".to_vec()]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_expanded_within_the_limit_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for coding in Coding::ALL {
                if let Ok(out) = expand(coding, &bytes, 1000) {
                    prop_assert!(out.len() <= 1000);
                }
            }
        }
    }
}
