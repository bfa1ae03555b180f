//! Encodes and compresses the messages of modules on the sending thread: a shard only passes the frames on.

use crate::proto::ws::{Deflate, Deflater, Encoded, Kind, WINDOW_BITS_MAX, encode_frame, kind_of};
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// Largest frame, in bytes, that is kept for the next `send`: a kept frame uses memory for as long as the thread lives.
const KEPT_FRAME_BYTES_MAX: usize = 64 * 1024;

/// Largest message, in bytes, that is compressed: compressing a larger one would take a tenth of a second or more.
const COMPRESSED_BYTES_MAX: usize = 16 * 1024 * 1024;

/// After this many misses in a row, a socket tries only one message in 2^n.
const MISSES_MAX: u32 = 6;

/// Default size, in bytes, of the smallest message that is compressed.
pub(super) const COMPRESSED_BYTES_MIN: usize = 1024;

static BYTES_MIN: AtomicUsize = AtomicUsize::new(COMPRESSED_BYTES_MIN);

/// Number of open sockets of this process with agreed compression. Relaxed: no other access is ordered by it.
static DEFLATING: AtomicUsize = AtomicUsize::new(0);

/// Sets the size, in bytes, of the smallest message that is compressed.
pub(super) fn limit(bytes_min: usize) {
    BYTES_MIN.store(bytes_min, Ordering::Relaxed);
}

/// Estimates whether compression is worth its cost for messages of one type.
#[derive(Debug, Default)]
struct Backoff {
    /// Number of messages in a row that did not become smaller.
    misses: AtomicU32,
    /// Number of messages to send without trying.
    skipped: AtomicU32,
}

impl Backoff {
    /// Whether the next message should be compressed. Two threads may see the same count, which is harmless: the result is
    /// advice only.
    fn tries(&self) -> bool {
        let left = self.skipped.load(Ordering::Relaxed);
        if left > 0 {
            self.skipped.store(left - 1, Ordering::Relaxed);
        }
        left == 0
    }

    /// Records whether compression has made a message smaller.
    fn tried(&self, got_smaller: bool) {
        let misses = if got_smaller { 0 } else { MISSES_MAX.min(self.misses.load(Ordering::Relaxed) + 1) };
        self.misses.store(misses, Ordering::Relaxed);
        self.skipped.store((1 << misses) - 1, Ordering::Relaxed);
    }
}

/// The state of an open socket with agreed compression.
#[derive(Debug)]
pub(super) struct Compressing {
    deflate: Deflate,
    texts: Backoff,
    binaries: Backoff,
}

impl Compressing {
    pub(super) fn new(deflate: Deflate) -> Self {
        DEFLATING.fetch_add(1, Ordering::Relaxed);
        Self { deflate, texts: Backoff::default(), binaries: Backoff::default() }
    }

    pub(super) fn deflate(&self) -> Deflate {
        self.deflate
    }

    fn of(&self, kind: Kind) -> &Backoff {
        match kind {
            Kind::Text => &self.texts,
            Kind::Binary => &self.binaries,
        }
    }
}

impl Drop for Compressing {
    fn drop(&mut self) {
        DEFLATING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether a message of `bytes` bytes is worth compressing.
fn is_worth(bytes: usize) -> bool {
    (BYTES_MIN.load(Ordering::Relaxed)..=COMPRESSED_BYTES_MAX).contains(&bytes)
}

/// A message that was encoded for the type `asked`.
struct LastFrame {
    asked: Kind,
    kind: Kind,
    /// Offset of the payload in the frame.
    header_len: usize,
    plain: Arc<[u8]>,
    /// The frame compressed for a window of this many bits; `None` in the pair: compression does not make the frame smaller.
    deflated: Option<(u8, Option<Arc<[u8]>>)>,
}

impl LastFrame {
    /// Encodes `payload`; the type is binary if the payload is not valid UTF-8 (RFC 6455 §5.6).
    fn new(asked: Kind, payload: &[u8]) -> Self {
        let kind = sent_as(asked, payload);
        let plain: Arc<[u8]> = encode_frame(kind, payload).into();
        Self { asked, kind, header_len: plain.len() - payload.len(), plain, deflated: None }
    }

    fn is_of(&self, asked: Kind, payload: &[u8]) -> bool {
        self.asked == asked && self.plain.get(self.header_len..) == Some(payload)
    }
}

fn sent_as(asked: Kind, payload: &[u8]) -> Kind {
    if asked == Kind::Text { kind_of(payload) } else { asked }
}

/// The buffers and the compressor of one thread.
struct Coder {
    /// The last message that this thread encoded. A module broadcasts by calling `send` for each socket with the same bytes.
    /// Comparing the bytes is cheaper than encoding them again, and all sockets share one buffer.
    last: Option<LastFrame>,
    /// Created for the first compressed message.
    deflater: Option<Box<Deflater>>,
}

thread_local! {
    static CODER: RefCell<Coder> = const { RefCell::new(Coder { last: None, deflater: None }) };
}

/// Creates the calling thread's own state in advance. Its creation registers a destructor, which waits for the dynamic loader's
/// lock (`__cxa_thread_atexit_impl`).
pub(super) fn ready() {
    let _ = CODER.try_with(|_| ());
}

impl Coder {
    fn deflated(&mut self, kind: Kind, payload: &[u8], window_bits: u8) -> Option<Arc<[u8]>> {
        self.deflater.get_or_insert_default().frame(kind, payload, window_bits).map(Into::into)
    }

    /// The frame of `last` for a socket with compression, if compression is worth its cost.
    fn for_window(&mut self, last: &mut LastFrame, payload: &[u8], window_bits: u8) -> Option<Arc<[u8]>> {
        match &last.deflated {
            Some((bits, frame)) if *bits == window_bits => frame.clone(),
            _ => {
                let frame = self.deflated(last.kind, payload, window_bits);
                last.deflated = Some((window_bits, frame.clone()));
                frame
            }
        }
    }
}

/// The frame of `payload` for one socket, as a message of type `asked`.
pub(super) fn for_socket(asked: Kind, payload: &[u8], compressing: Option<&Compressing>) -> Arc<[u8]> {
    CODER.with_borrow_mut(|coder| {
        let last = coder.last.take().filter(|last| last.is_of(asked, payload));
        let mut last = last.unwrap_or_else(|| LastFrame::new(asked, payload));
        let compressing = compressing.filter(|_| is_worth(payload.len()));
        let compressing = compressing.filter(|compressing| compressing.of(last.kind).tries());
        let deflated = compressing.and_then(|compressing| {
            let deflated = coder.for_window(&mut last, payload, compressing.deflate.window_bits());
            compressing.of(last.kind).tried(deflated.is_some());
            deflated
        });
        let frame = deflated.unwrap_or_else(|| Arc::clone(&last.plain));
        coder.last = Some(last).filter(|last| last.plain.len() <= KEPT_FRAME_BYTES_MAX);
        frame
    })
}

/// The frames of `payload` for many sockets; compressed only if a socket of this process can read that.
pub(super) fn for_room(asked: Kind, payload: &[u8]) -> Encoded {
    let kind = sent_as(asked, payload);
    let plain = encode_frame(kind, payload).into();
    let compresses = is_worth(payload.len()) && DEFLATING.load(Ordering::Relaxed) > 0;
    let deflate = || CODER.with_borrow_mut(|coder| coder.deflated(kind, payload, WINDOW_BITS_MAX));
    Encoded { plain, deflated: compresses.then(deflate).flatten() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_whose_messages_do_not_get_smaller_is_tried_seldom() {
        let compressing = Compressing::new(Deflate::with_window(15).unwrap());
        let mut noise = crate::fuzzing::Random::new(1);
        let mut message = || (0..2000).map(|_| noise.next() as u8).collect::<Vec<u8>>();
        let mut tried = 0;
        for _ in 0..1000 {
            tried += u32::from(compressing.binaries.skipped.load(Ordering::Relaxed) == 0);
            assert_eq!(for_socket(Kind::Binary, &message(), Some(&compressing))[0], 0x82);
        }
        assert!((15..30).contains(&tried), "{tried}");
        let text = "what gets smaller ".repeat(100);
        assert_eq!(for_socket(Kind::Text, text.as_bytes(), Some(&compressing))[0], 0xc1, "types are apart");
        let firsts: Vec<u8> =
            (0..100).map(|_| for_socket(Kind::Binary, text.as_bytes(), Some(&compressing))[0]).collect();
        assert!(firsts.ends_with(&[0xc2; 36]), "{firsts:x?}");
    }

    #[test]
    fn the_same_bytes_are_encoded_once_for_each_window() {
        let of = |bits| Compressing::new(Deflate::with_window(bits).unwrap());
        let (small, large) = (of(9), of(15));
        let text = "to all of them ".repeat(200);
        let frame = |compressing| for_socket(Kind::Text, text.as_bytes(), compressing);
        let frames = [frame(None), frame(Some(&large)), frame(None), frame(Some(&large))];
        assert!(Arc::ptr_eq(&frames[0], &frames[2]) && Arc::ptr_eq(&frames[1], &frames[3]));
        assert_eq!((frames[0][0], frames[1][0], frame(Some(&small))[0]), (0x81, 0xc1, 0xc1));
        let room = for_room(Kind::Text, text.as_bytes());
        assert_eq!((&room.plain, room.deflated.as_ref()), (&frames[0], Some(&frames[1])));
        assert_eq!(for_room(Kind::Text, b"short").deflated, None);
        assert_eq!(for_room(Kind::Text, &[0xff; 2000]).deflated.unwrap()[0], 0xc2, "no text");
    }
}
