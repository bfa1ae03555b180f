//! Compression of streamed answers: a client can decode each piece as soon as it arrives.

use super::{BROTLI_QUALITY, Field, GZIP_LEVEL, SETTINGS, ZSTD_LEVEL, add_vary, is, is_eligible, weaken_tags};
use crate::proto::http1::{Coding, Method, RequestView, choose_coding};
use std::fmt;
use std::io::{self, Write};

/// The encoders' windows, as logarithms. They bound an encoder's memory to about 1 MiB.
const ZSTD_WINDOW_LOG: u32 = 17;
const BROTLI_WINDOW_LOG: u32 = 17;

/// The output buffer of brotli, in bytes.
const BROTLI_BUFFER_BYTES: usize = 4096;

/// The header fields of a streamed answer to `view`, and its compressor if the client accepts one; `None` if the answer
/// must not be compressed.
pub(in crate::domain) fn streamed<'a>(
    view: &RequestView<'_>,
    status: u16,
    headers: &[(&'a [u8], &'a [u8])],
) -> Option<(Vec<Field<'a>>, Option<Box<StreamCoder>>)> {
    let codings = SETTINGS.get().map(|settings| &settings.codings).filter(|codings| !codings.is_empty())?;
    // With a Content-Length, the answer must have exactly the handler's bytes.
    let has_length = headers.iter().any(|(name, _)| is(name, "content-length"));
    if has_length || matches!(status, 0..=199 | 204..=206 | 304) || !is_eligible(headers.iter().copied()) {
        return None;
    }
    let mut fields: Vec<Field<'a>> = headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    add_vary(&mut fields);
    let Some(coding) = choose_coding(view, codings, |_| true) else { return Some((fields, None)) };
    let coder = StreamCoder::new(coding)
        .inspect_err(|error| tracing::warn!("an answer in pieces is not compressed: {error}"))
        .ok()?;
    weaken_tags(&mut fields);
    fields.push((b"Content-Encoding".into(), coding.name().as_bytes().into()));
    // The answer to HEAD has only the fields.
    Some((fields, (view.method() != Method::Head).then(|| Box::new(coder))))
}

enum Encoder {
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
}

/// The compressor of one answer.
pub(in crate::domain) struct StreamCoder(Encoder);

impl fmt::Debug for StreamCoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StreamCoder")
    }
}

impl StreamCoder {
    fn new(coding: Coding) -> io::Result<Self> {
        Ok(Self(match coding {
            Coding::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL)?;
                encoder.window_log(ZSTD_WINDOW_LOG)?;
                Encoder::Zstd(encoder)
            }
            Coding::Gzip => {
                Encoder::Gzip(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(GZIP_LEVEL)))
            }
            Coding::Brotli => {
                let quality = BROTLI_QUALITY.unsigned_abs();
                let encoder =
                    brotli::CompressorWriter::new(Vec::new(), BROTLI_BUFFER_BYTES, quality, BROTLI_WINDOW_LOG);
                Encoder::Brotli(Box::new(encoder))
            }
        }))
    }

    /// Compresses `bytes` and returns the output. With `flush`, the client can decode all of `bytes` from the output so
    /// far.
    ///
    /// # Errors
    /// `EIO`: the encoder has failed, and the answer can't go on.
    pub(in crate::domain) fn encode(&mut self, bytes: &[u8], flush: bool) -> Result<Vec<u8>, i32> {
        let writer: &mut dyn Write = match &mut self.0 {
            Encoder::Zstd(encoder) => encoder,
            Encoder::Gzip(encoder) => encoder,
            Encoder::Brotli(encoder) => encoder,
        };
        let written = writer.write_all(bytes).and_then(|()| if flush { writer.flush() } else { Ok(()) });
        written.map_err(failed)?;
        Ok(std::mem::take(match &mut self.0 {
            Encoder::Zstd(encoder) => encoder.get_mut(),
            Encoder::Gzip(encoder) => encoder.get_mut(),
            Encoder::Brotli(encoder) => encoder.get_mut(),
        }))
    }

    /// Ends the answer and returns the last output.
    ///
    /// # Errors
    /// As [`StreamCoder::encode`].
    pub(in crate::domain) fn finish(self) -> Result<Vec<u8>, i32> {
        match self.0 {
            Encoder::Zstd(encoder) => encoder.finish().map_err(failed),
            Encoder::Gzip(encoder) => encoder.finish().map_err(failed),
            Encoder::Brotli(encoder) => Ok(encoder.into_inner()),
        }
    }
}

#[allow(clippy::needless_pass_by_value)] // `map_err` passes the error by value.
fn failed(error: io::Error) -> i32 {
    tracing::warn!("an answer in pieces can't be compressed: {error}");
    libc::EIO
}

#[cfg(test)]
mod tests {
    use super::super::expand;
    use super::*;

    #[test]
    fn each_piece_can_be_read_when_it_has_come_and_the_whole_is_sound() {
        let noise: Vec<u8> = (0..60_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for coding in Coding::ALL {
            let mut coder = StreamCoder::new(coding).unwrap();
            let (mut sent, mut all) = (Vec::new(), Vec::new());
            for piece in [b"one".as_slice(), b"", b"two two two two", &noise, b"three"] {
                let coded = coder.encode(piece, true).unwrap();
                // The bound that a detached answer relies on.
                assert!(coded.len() <= piece.len() + piece.len() / 16 + 1024, "{coding:?} {}", coded.len());
                sent.extend(coded);
                all.extend_from_slice(piece);
                let mut seen = vec![0; all.len()];
                let mut rest = sent.as_slice();
                let read = match coding {
                    Coding::Zstd => {
                        io::Read::read_exact(&mut zstd::stream::read::Decoder::new(rest).unwrap(), &mut seen)
                    }
                    Coding::Gzip => io::Read::read_exact(&mut flate2::read::GzDecoder::new(rest), &mut seen),
                    Coding::Brotli => io::Read::read_exact(&mut brotli::Decompressor::new(&mut rest, 4096), &mut seen),
                };
                assert!(read.is_ok() && seen == all, "{coding:?} after {} bytes", all.len());
            }
            let last = coder.finish().unwrap();
            assert!(last.len() < 1024, "{coding:?}");
            sent.extend(last);
            assert_eq!(expand(coding, &sent, all.len()), Ok(all), "{coding:?}");
        }
    }
}
