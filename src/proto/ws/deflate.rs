//! Messages that are compressed one by one (RFC 7692 §7.2).

use super::frame::{Kind, push_header};
use flate2::{Compress, Compression, FlushCompress};
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::{TINFL_FLAG_HAS_MORE_INPUT, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF};
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

/// Last bytes of a flush, which are not sent (RFC 7692 §7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// RFC 6455 §7.4.1: text that is no UTF-8, or data that can't be expanded.
const INVALID: u16 = 1007;
/// RFC 6455 §7.4.1: a message too big to process.
const TOO_BIG: u16 = 1009;

/// RSV1 of a frame: its message is compressed (RFC 7692 §6).
pub(super) const COMPRESSED: u8 = 0x40;

/// Smallest first room for an expanded message, in bytes; larger payloads get a multiple of their size.
const EXPANDED_BYTES: usize = 1024;

const FLAGS: u32 = TINFL_FLAG_HAS_MORE_INPUT | TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;

/// Compresses messages. One for a thread: it keeps nothing between messages.
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
    /// `payload` as one compressed frame that refers no further back than 2^`window_bits` bytes; `None` if that is not
    /// smaller than the payload.
    pub fn frame(&mut self, kind: Kind, payload: &[u8], window_bits: u8) -> Option<Vec<u8>> {
        // A message that does not fit here is not smaller than its payload.
        let mut data = Vec::with_capacity(payload.len());
        // The coder's window is the largest. Pieces that know nothing of each other need none larger than themselves.
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

/// Expands messages. One for a thread: it keeps nothing between messages.
///
/// The decoder writes to the message itself and has no window of its own: a reference to bytes before the message is an
/// error, and no message can show bytes of another.
#[derive(Default)]
pub struct Inflater {
    coder: DecompressorOxide,
}

impl Inflater {
    /// The message of at most `bytes_max` bytes that is compressed in `payload`.
    ///
    /// # Errors
    /// The close code that tells the client what is wrong: 1007 for data that can't be expanded or text that is no
    /// UTF-8, 1009 for a message that is too big.
    pub fn message(&mut self, kind: Kind, mut payload: Vec<u8>, bytes_max: usize) -> Result<Vec<u8>, u16> {
        // Room for one byte beyond the limit, so that a message that is too large is noticed.
        let room_max = bytes_max.saturating_add(1);
        let mut out = vec![0; payload.len().saturating_mul(3).max(EXPANDED_BYTES).min(room_max)];
        payload.extend_from_slice(&TAIL);
        let (mut input, mut length) = (&payload[..], 0);
        self.coder.init();
        loop {
            let (status, taken, made) = decompress(&mut self.coder, input, &mut out, length, FLAGS);
            input = input.get(taken..).unwrap_or_default();
            length += made;
            match status {
                TINFLStatus::NeedsMoreInput if input.is_empty() => break,
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
        let mut hello = |payload: &[u8]| {
            inflater.message(Kind::Text, payload.to_vec(), 100).map(|text| String::from_utf8(text).unwrap())
        };
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
        // §7.2.3.2: "Hello" by reference to the message before, which is forgotten.
        assert_eq!(hello(b"\xf2\x00\x11\x00\x00"), Err(1007));
        // After a last block the next one begins anew, with nothing to refer to.
        assert_eq!(hello(b"\xf3\x48\xcd\xc9\xc9\x07\x00\xf2\x48\xcd\xc9\xc9\x07\x00").as_deref(), Ok("HelloHello"));
        assert_eq!(hello(b"\xff\xff\xff"), Err(1007));
    }

    #[test]
    fn what_is_expanded_is_limited() {
        let (mut deflater, mut inflater) = (Deflater::default(), Inflater::default());
        for size in [1000, 1024, 10_000, 1 << 20] {
            let frame = deflater.frame(Kind::Binary, &vec![7; size], 15).unwrap();
            let mut message =
                |max| inflater.message(Kind::Binary, payload(&frame).to_vec(), max).map(|bytes| bytes.len());
            assert_eq!((message(size), message(size + 1)), (Ok(size), Ok(size)));
            assert_eq!((message(size - 1), message(10)), (Err(1009), Err(1009)));
        }
        let text = deflater.frame(Kind::Text, &[0xff; 100], 15).unwrap();
        assert_eq!(text[0], 0xc1);
        assert_eq!(inflater.message(Kind::Text, payload(&text).to_vec(), 1000), Err(1007));
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

    proptest! {
        #[test]
        fn messages_come_back(
            words in proptest::collection::vec("[a-e]{1,9}", 30..900), window_bits in 8..16_u8, noise in any::<Vec<u8>>(),
        ) {
            let (mut deflater, mut inflater) = (Deflater::default(), Inflater::default());
            let text = words.join(" ");
            let frame = deflater.frame(Kind::Text, text.as_bytes(), window_bits);
            if let Some(frame) = &frame {
                prop_assert!(frame.len() <= text.len());
                prop_assert_eq!(inflater.message(Kind::Text, payload(frame).to_vec(), text.len()), Ok(text.clone().into_bytes()));
            }
            prop_assert!(frame.is_some() || window_bits < 10 || text.len() < 200);
            let _ = inflater.message(Kind::Binary, noise, 1000).map(|bytes| assert!(bytes.len() <= 1000));
        }
    }
}
