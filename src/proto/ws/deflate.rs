//! Messages that are compressed independently of each other (RFC 7692 §7.2).

use super::frame::{Kind, push_header};
use flate2::{Compress, Compression, FlushCompress};
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::{TINFL_FLAG_HAS_MORE_INPUT, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF};
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

/// The last bytes of a flush; the sender removes them (RFC 7692 §7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// RFC 6455 §7.4.1: text that is not UTF-8, or data that can't be expanded.
const INVALID: u16 = 1007;
/// RFC 6455 §7.4.1: a message too big to process.
const TOO_BIG: u16 = 1009;

/// The bytes that a receiver appends to a payload (RFC 7692 §7.2.2), then an empty last block, which ends the stream (RFC 1951
/// §3.2.6).
const END: [u8; 6] = [0, 0, 0xff, 0xff, 3, 0];

/// RSV1 of a frame: its message is compressed (RFC 7692 §6).
pub(super) const COMPRESSED: u8 = 0x40;

/// Smallest initial capacity for an expanded message, in bytes; larger payloads get a multiple of their size.
const EXPANDED_BYTES: usize = 1024;

const FLAGS: u32 = TINFL_FLAG_HAS_MORE_INPUT | TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;

/// Compresses messages. A thread needs only one compressor, because no state is kept between messages.
#[derive(Debug)]
pub struct Deflater {
    coder: Compress,
}

impl Default for Deflater {
    fn default() -> Self {
        Self { coder: Compress::new(Compression::fast(), false) }
    }
}

impl Deflater {
    /// `payload` as one compressed frame with references of at most 2^`window_bits` bytes. `None` if the frame is not smaller
    /// than the payload.
    pub fn frame(&mut self, kind: Kind, payload: &[u8], window_bits: u8) -> Option<Vec<u8>> {
        // A message that does not fit into this capacity is not smaller than its payload.
        let mut data = Vec::with_capacity(payload.len());
        // The coder always has the largest window. Independent pieces of the window's size keep references within the window.
        for piece in payload.chunks(1 << window_bits) {
            self.coder.reset();
            let before = data.len();
            self.coder.compress_vec(piece, &mut data, FlushCompress::Sync).ok()?;
            let is_whole = self.coder.total_in() == piece.len() as u64 && data.len() < data.capacity();
            if !is_whole || !data.get(before..)?.ends_with(&TAIL) {
                return None;
            }
        }
        data.truncate(data.len().checked_sub(TAIL.len())?);
        let mut out = Vec::with_capacity(data.len() + 10);
        push_header(&mut out, kind.first_byte() | COMPRESSED, data.len());
        out.extend_from_slice(&data);
        Some(out)
    }
}

/// Expands messages. A thread needs only one expander, because no state is kept between messages.
///
/// The decoder writes into the message itself and has no window of its own. A reference to bytes before the message is an
/// error, so no message can show bytes of another.
#[derive(Default)]
pub struct Inflater {
    coder: DecompressorOxide,
}

impl Inflater {
    /// The message in the compressed `payload`, at most `bytes_max` bytes.
    ///
    /// # Errors
    /// The close code for the client: 1007 for data that can't be expanded, is cut off or has other bytes behind it, and for
    /// text that is not UTF-8; 1009 for a message that is too big.
    pub fn message(&mut self, kind: Kind, payload: &[u8], bytes_max: usize) -> Result<Vec<u8>, u16> {
        // A sender that keeps the last bytes of its flush means the same message.
        let payload = payload.strip_suffix(&TAIL).unwrap_or(payload);
        if payload.is_empty() {
            return Ok(Vec::new());
        }
        // The capacity exceeds the limit by one byte, so that a message that is too large is detected.
        let room_max = bytes_max.saturating_add(1);
        let mut out = vec![0; payload.len().saturating_mul(3).max(EXPANDED_BYTES).min(room_max)];
        let (mut input, mut length) = (payload, 0);
        self.coder.init();
        loop {
            let (status, taken, made) = decompress(&mut self.coder, input, &mut out, length, FLAGS);
            input = input.get(taken..).unwrap_or_default();
            length += made;
            match status {
                TINFLStatus::NeedsMoreInput if input.is_empty() && self.is_at_end(&mut out, length) => break,
                TINFLStatus::Done if input.is_empty() => break,
                // A last block ends a stream of DEFLATE, not the message (RFC 7692 §7.2.3.4).
                TINFLStatus::Done if taken > 0 => self.coder.init(),
                TINFLStatus::HasMoreOutput if length > bytes_max => return Err(TOO_BIG),
                TINFLStatus::HasMoreOutput => out.resize((length * 2).max(EXPANDED_BYTES).min(room_max), 0),
                _ => return Err(INVALID),
            }
        }
        if length > bytes_max {
            return Err(TOO_BIG);
        }
        out.truncate(length);
        if kind == Kind::Text && std::str::from_utf8(&out).is_err() {
            return Err(INVALID);
        }
        Ok(out)
    }

    /// Whether the payload ends with the header of an empty stored block, as a flush does. The bytes of `END` then end the
    /// stream and add no byte to the message. In any other block those bytes are data, or an error. `out` has `length` bytes.
    fn is_at_end(&mut self, out: &mut [u8], length: usize) -> bool {
        let (status, taken, made) = decompress(&mut self.coder, &END, out, length, FLAGS);
        // The stored block may be the last one of the stream: the decoder then does not read the second block.
        status == TINFLStatus::Done && made == 0 && (taken == END.len() || taken == TAIL.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn payload(frame: &[u8]) -> &[u8] {
        match frame[1] {
            126 => &frame[4..],
            127 => &frame[10..],
            _ => &frame[2..],
        }
    }

    #[test]
    fn rfc_7692_7_2_3_examples() {
        let mut inflater = Inflater::default();
        let mut hello =
            |payload: &[u8]| inflater.message(Kind::Text, payload, 100).map(|text| String::from_utf8(text).unwrap());
        for payload in [
            &b"\xf2\x48\xcd\xc9\xc9\x07\x00"[..],                    // §7.2.3.1
            b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00",         // §7.2.3.3: no compression
            b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00",                     // §7.2.3.4: BFINAL
            b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00", // §7.2.3.5: two blocks
        ] {
            assert_eq!(hello(payload).as_deref(), Ok("Hello"), "{payload:x?}");
        }
        assert_eq!(hello(b"\x00").as_deref(), Ok("")); // §7.2.3.6
        assert_eq!(hello(b"").as_deref(), Ok(""));
        // §7.2.3.2: "Hello" by reference to the message before; the expander has forgotten that message.
        assert_eq!(hello(b"\xf2\x00\x11\x00\x00"), Err(1007));
        // The block after a last block begins a new stream, with no bytes to refer to.
        assert_eq!(hello(b"\xf3\x48\xcd\xc9\xc9\x07\x00\xf2\x48\xcd\xc9\xc9\x07\x00").as_deref(), Ok("HelloHello"));
        assert_eq!(hello(b"\xff\xff\xff"), Err(1007));
    }

    #[test]
    fn what_is_cut_off_or_has_bytes_behind_it_is_no_message() {
        let mut inflater = Inflater::default();
        let mut expand = |payload: &[u8]| inflater.message(Kind::Binary, payload, 100_000);
        let text: Vec<u8> = (0..2000_u32).flat_map(|n| format!("{} ", n * 7919 % 1000).into_bytes()).collect();
        let dynamic = Deflater::default().frame(Kind::Binary, &text, 15).unwrap();
        let dynamic = payload(&dynamic);
        assert_eq!(expand(dynamic).as_ref(), Ok(&text));
        let stored = b"\x00\x0a\x00\xf5\xff0123456789\x00";
        for whole in [&b"\xf2\x48\xcd\xc9\xc9\x07\x00"[..], stored, dynamic] {
            let message = expand(whole).unwrap();
            // The first byte of a stored block alone is an empty message.
            for end in 1 + usize::from(whole[0] == 0)..whole.len() {
                assert_eq!(expand(&whole[..end]), Err(1007), "{end} bytes of {}", whole.len());
            }
            for byte in 1..=255 {
                for behind in [&[byte][..], &[byte, 0], b"garbage behind the message"] {
                    assert_eq!(expand(&[whole, behind].concat()), Err(1007), "{behind:x?}");
                }
            }
            assert_eq!(expand(&[whole, &TAIL].concat()), Ok(message), "the sender has kept the end of its flush");
        }
        // A stored block that lacks four bytes: the bytes appended to a payload must not become data.
        assert_eq!(expand(b"\x00\x08\x00\xf7\xff0123"), Err(1007));
        // The last block of a stream, and bytes behind such a block.
        let last = b"\xf3\x48\xcd\xc9\xc9\x07\x00";
        assert_eq!(expand(last).as_deref(), Ok(&b"Hello"[..]));
        assert_eq!(expand(b"\x01").as_deref(), Ok(&b""[..]));
        assert_eq!(expand(&[&last[..], b"garbage"].concat()), Err(1007));
        assert_eq!(expand(&last[..6]), Err(1007));
    }

    #[test]
    fn what_is_expanded_is_limited() {
        let (mut deflater, mut inflater) = (Deflater::default(), Inflater::default());
        for size in [1000, 1024, 10_000, 1 << 20] {
            let frame = deflater.frame(Kind::Binary, &vec![7; size], 15).unwrap();
            let mut message = |max| inflater.message(Kind::Binary, payload(&frame), max).map(|bytes| bytes.len());
            assert_eq!((message(size), message(size + 1)), (Ok(size), Ok(size)));
            assert_eq!((message(size - 1), message(10)), (Err(1009), Err(1009)));
        }
        let text = deflater.frame(Kind::Text, &[0xff; 100], 15).unwrap();
        assert_eq!(text[0], 0xc1);
        assert_eq!(inflater.message(Kind::Text, payload(&text), 1000), Err(1007));
    }

    #[test]
    fn what_does_not_get_smaller_is_not_compressed() {
        let mut random = crate::fuzzing::Random::new(7);
        let noise: Vec<u8> = (0..100_000).map(|_| random.next() as u8).collect();
        for window_bits in [8, 15] {
            for size in [0, 1, 2, 10, 255, 256, 257, 5000, 100_000] {
                assert_eq!(Deflater::default().frame(Kind::Binary, &noise[..size], window_bits), None, "{size}");
            }
        }
    }

    /// One to nine of the letters from a to e.
    fn word(number: u32) -> String {
        (0..=number % 9).map(|at| char::from(b'a' + (number.rotate_right(3 * at + 4) % 5) as u8)).collect()
    }

    proptest! {
        #[test]
        fn messages_come_back(
            words in proptest::collection::vec(any::<u32>(), 30..900), window_bits in 8..16_u8, noise in any::<Vec<u8>>(),
        ) {
            let (mut deflater, mut inflater) = (Deflater::default(), Inflater::default());
            let text = words.into_iter().map(word).collect::<Vec<_>>().join(" ");
            let frame = deflater.frame(Kind::Text, text.as_bytes(), window_bits);
            if let Some(frame) = &frame {
                prop_assert!(frame.len() <= text.len());
                prop_assert_eq!(inflater.message(Kind::Text, payload(frame), text.len()), Ok(text.clone().into_bytes()));
            }
            prop_assert!(frame.is_some() || window_bits < 10 || text.len() < 200);
            let _ = inflater.message(Kind::Binary, &noise, 1000).map(|bytes| assert!(bytes.len() <= 1000));
        }
    }
}
