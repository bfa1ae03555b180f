//! The chunked transfer coding (RFC 9112 §7.1).

use super::field::{is_field_text, is_tchar};
use super::request_error::RequestError;

/// Limit, in bytes, on one chunk-size line with its extensions.
const SIZE_LINE_BYTES_MAX: usize = 1024;
/// Limit, in bytes, on all chunk extensions of a body; the server ignores them (RFC 9112 §7.1.1). Without this limit a client
/// could make the server read a thousand bytes for each byte of the body.
const EXTENSION_BYTES_MAX: usize = 16 * 1024;
/// Limit, in bytes, on all trailer fields; the server discards them (RFC 9112 §7.1.2 allows that).
const TRAILER_BYTES_MAX: usize = 8 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChunkState {
    /// At the start of a chunk-size line.
    Size,
    /// Within a chunk's data, this many bytes before its end.
    Data(usize),
    /// Before the CRLF that ends a chunk's data.
    DataEnd,
    /// At the start of a trailer line; bytes of the trailer so far.
    Trailer(usize),
}

/// Decodes one chunked body.
#[derive(Debug)]
pub(super) struct Chunked {
    state: ChunkState,
    /// Bytes of chunk extensions so far.
    extension_bytes: usize,
}

/// A piece of a body, handed out as it arrives.
#[derive(Debug, PartialEq, Eq)]
pub struct BodyPiece<'a> {
    /// Bytes of the input that are processed.
    pub consumed: usize,
    /// Bytes of the body, without their framing.
    pub bytes: &'a [u8],
    /// The body is complete.
    pub done: bool,
}

const BAD: RequestError = RequestError::Syntax("the chunked body is malformed");

impl Chunked {
    pub(super) fn new() -> Self {
        Self { state: ChunkState::Size, extension_bytes: 0 }
    }

    /// Appends the bytes of the body in `input` to `body`, up to `body_max` bytes in all. Returns how many bytes were consumed
    /// and whether the body is complete.
    pub(super) fn decode(
        &mut self,
        input: &[u8],
        body: &mut Vec<u8>,
        body_max: usize,
    ) -> Result<(usize, bool), RequestError> {
        let mut at = 0;
        loop {
            let rest = input.get(at..).unwrap_or_default();
            match self.state {
                ChunkState::Size => {
                    let Some(line) = take_line(rest, SIZE_LINE_BYTES_MAX)? else { return Ok((at, false)) };
                    at += line.len() + 2;
                    let (size, extension) = chunk_size(line)?;
                    self.extension_bytes += extension.len();
                    if self.extension_bytes > EXTENSION_BYTES_MAX {
                        return Err(BAD);
                    }
                    if size > body_max.saturating_sub(body.len()) {
                        return Err(RequestError::BodyTooLarge);
                    }
                    self.state = if size == 0 { ChunkState::Trailer(0) } else { ChunkState::Data(size) };
                }
                ChunkState::Data(left) => {
                    let part = rest.get(..left.min(rest.len())).unwrap_or_default();
                    body.try_reserve(part.len()).map_err(|_| RequestError::NoMemory)?;
                    body.extend_from_slice(part);
                    at += part.len();
                    if part.len() < left {
                        self.state = ChunkState::Data(left - part.len());
                        return Ok((at, false));
                    }
                    self.state = ChunkState::DataEnd;
                }
                ChunkState::DataEnd => match rest {
                    [b'\r', b'\n', ..] => {
                        at += 2;
                        self.state = ChunkState::Size;
                    }
                    [] | [b'\r'] => return Ok((at, false)),
                    _ => return Err(BAD),
                },
                ChunkState::Trailer(seen) => {
                    if line_bytes(rest) > TRAILER_BYTES_MAX {
                        return Err(RequestError::HeadTooLarge);
                    }
                    let Some(line) = take_line(rest, TRAILER_BYTES_MAX)? else { return Ok((at, false)) };
                    at += line.len() + 2;
                    if line.is_empty() {
                        return Ok((at, true));
                    }
                    if !is_field_line(line) {
                        return Err(RequestError::Syntax("a trailer field is malformed"));
                    }
                    let seen = seen + line.len();
                    if seen > TRAILER_BYTES_MAX {
                        return Err(RequestError::HeadTooLarge);
                    }
                    self.state = ChunkState::Trailer(seen);
                }
            }
        }
    }
}

impl Chunked {
    /// The next piece of the body in `input`: at most `room` bytes, all from one chunk.
    pub(super) fn piece<'a>(&mut self, input: &'a [u8], room: usize) -> Result<BodyPiece<'a>, RequestError> {
        let mut at = 0;
        while !matches!(self.state, ChunkState::Data(_)) {
            let rest = input.get(at..).unwrap_or_default();
            let before = (self.state, self.extension_bytes);
            let (used, done) = self.decode(rest.get(..self.step(rest)).unwrap_or(rest), &mut Vec::new(), usize::MAX)?;
            at += used;
            if done || used == 0 && before == (self.state, self.extension_bytes) {
                return Ok(BodyPiece { consumed: at, bytes: &[], done });
            }
        }
        let ChunkState::Data(left) = self.state else { return Ok(BodyPiece { consumed: at, bytes: &[], done: false }) };
        let rest = input.get(at..).unwrap_or_default();
        let bytes = rest.get(..left.min(rest.len()).min(room)).unwrap_or_default();
        self.state = if bytes.len() == left { ChunkState::DataEnd } else { ChunkState::Data(left - bytes.len()) };
        Ok(BodyPiece { consumed: at + bytes.len(), bytes, done: false })
    }

    /// Length of the line at the start of `rest`, in bytes: input that [`Chunked::decode`] consumes without producing data.
    fn step(&self, rest: &[u8]) -> usize {
        match self.state {
            ChunkState::DataEnd => rest.len().min(2),
            _ => memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1),
        }
    }
}

/// The length of the line at the start of `input`, without its CRLF, as far as it has arrived.
fn line_bytes(input: &[u8]) -> usize {
    let line = memchr::memchr(b'\n', input).and_then(|at| input.get(..at)).unwrap_or(input);
    line.strip_suffix(b"\r").unwrap_or(line).len()
}

/// The line at the start of `input`, without its CRLF; `None` when it is not complete. Bare CR and LF are refused.
fn take_line(input: &[u8], max: usize) -> Result<Option<&[u8]>, RequestError> {
    match memchr::memchr(b'\n', input) {
        Some(at) if at > max + 1 => Err(BAD),
        Some(at) => {
            let line = input.get(..at).and_then(|line| line.strip_suffix(b"\r")).ok_or(BAD)?;
            if memchr::memchr2(b'\r', 0, line).is_some() { Err(BAD) } else { Ok(Some(line)) }
        }
        None if input.len() > max + 1 => Err(BAD),
        None => Ok(None),
    }
}

/// Parses `chunk-size [ chunk-ext ]`: hexadecimal digits, then nothing or `;…`. Returns the size and the extension.
fn chunk_size(line: &[u8]) -> Result<(usize, &[u8]), RequestError> {
    let at = memchr::memchr(b';', line).unwrap_or(line.len());
    let (mut digits, extension) = line.split_at_checked(at).unwrap_or((line, &[]));
    while let ([before @ .., b' ' | b'\t'], false) = (digits, extension.is_empty()) {
        digits = before; // RFC 9112 §7.1.1: "bad" white space before the semicolon
    }
    // 16 digits fill 64 bits, so a large number can't overflow to a small one.
    if digits.is_empty() || digits.len() > 16 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(BAD);
    }
    if !extension.iter().all(|&byte| is_field_text(byte)) {
        return Err(BAD);
    }
    let text = std::str::from_utf8(digits).map_err(|_| BAD)?;
    let size = usize::from_str_radix(text, 16).map_err(|_| BAD)?;
    Ok((size, extension))
}

/// Whether a trailer line is a field (RFC 9112 §5). Folded lines and lines with a space before the colon are refused as in the
/// head, although the trailer is discarded.
fn is_field_line(line: &[u8]) -> bool {
    let Some(colon) = memchr::memchr(b':', line) else { return false };
    let (name, value) = line.split_at_checked(colon).unwrap_or((line, &[]));
    !name.is_empty() && name.iter().all(|&byte| is_tchar(byte)) && value.iter().all(|&byte| is_field_text(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(input: &[u8]) -> Result<(Vec<u8>, usize, bool), RequestError> {
        let (mut chunked, mut body) = (Chunked::new(), Vec::new());
        let (consumed, done) = chunked.decode(input, &mut body, 1000)?;
        Ok((body, consumed, done))
    }

    #[test]
    fn rfc_9112_7_1_sizes_extensions_and_trailers() {
        let input = b"4;name=\"v\"\r\nWiki\r\nA\r\npedia in c\r\n0\r\nX: y\r\n\r\nnext";
        assert_eq!(decode(input).unwrap(), (b"Wikipedia in c".to_vec(), input.len() - 4, true));
        assert_eq!(decode(b"0\r\n\r\n").unwrap(), (Vec::new(), 5, true));
    }

    #[test]
    fn malformed_chunks_are_refused() {
        for bad in [
            b"g\r\n".as_slice(),
            b"\r\n",
            b"-1\r\n",
            b"+1\r\n",
            b"0x1\r\n",
            b" 1\r\na\r\n",
            b"1 \r\na\r\n",
            b"1\x0c;x\r\na\r\n",
            b"1 2;x\r\na\r\n",
            b";x\r\n",
            b"0\r\nno field\r\n\r\n",
            b"0\r\nA: b\r\n folded\r\n\r\n",
            b"0\r\nA : b\r\n\r\n",
            b"1\na\r\n",
            b"1\r\nab\r\n",
            b"11111111111111111\r\n",
            b"1\r\na\r\n0\r\nbad\n\r\n",
            b"1\x0c;a\r\na\r\n",
            b"1;a\x0bb\r\na\r\n",
            b"1;a\nb\r\na\r\n",
            b"0\r\nno colon\r\n\r\n",
            b"0\r\nX : y\r\n\r\n",
            b"0\r\nX: y\r\n z\r\n\r\n",
            b"0\r\n: y\r\n\r\n",
            b"0\r\nX: \x01\r\n\r\n",
        ] {
            assert!(decode(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
        assert_eq!(decode(b"fff\r\n").unwrap_err(), RequestError::BodyTooLarge);
        assert!(decode(&[b'1'; 2000]).is_err());
    }

    #[test]
    fn rfc_9112_7_1_1_extensions_are_bounded_in_all() {
        let chunk = [b"1;".as_slice(), &[b'e'; 1000], b"\r\na\r\n"].concat();
        let chunks = |count| [chunk.repeat(count), b"0\r\n\r\n".to_vec()].concat();
        assert_eq!(decode(&chunks(16)).unwrap().0.len(), 16);
        assert!(decode(&chunks(17)).is_err());
        assert_eq!(decode(b"1 \t;e\r\na\r\n0\r\n\r\n").unwrap().0, b"a");
    }
}
