//! The position of a ring in its region, and the layout of its words.

use std::io;

/// The bytes of a word, the unit of all shared data.
pub(super) const WORD_BYTES: usize = size_of::<u64>();

/// The words between two header words. 128 bytes, because the adjacent-line prefetcher moves pairs of cache lines together.
/// Loom tracks each word separately, so there one word suffices.
pub(super) const STRIDE: usize = if cfg!(loom) { 1 } else { 128 / WORD_BYTES };

/// Written by the producer: records before this position are complete.
pub(super) const TAIL: usize = 0;
/// Written by the consumer: words before this position may be overwritten.
pub(super) const HEAD: usize = STRIDE;
/// The futex of a sleeping consumer, and the flag that it sleeps.
pub(super) const ASLEEP: usize = 2 * STRIDE;
/// The futex of a producer that waits for room, and the flag that it waits.
pub(super) const WAITING: usize = 3 * STRIDE;
/// The first word of the data.
pub(super) const DATA: usize = 4 * STRIDE;

/// The smallest data area, in bytes: it holds more than one record of the largest permitted size.
const DATA_BYTES_MIN: usize = 64;
/// The largest data area, in bytes; record lengths then easily fit into 32 bits.
const DATA_BYTES_MAX: usize = 1 << 30;

/// One ring within a [`Region`](super::Region).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingSpec {
    /// The offset from the start of the region, in bytes; a multiple of [`RingSpec::ALIGN`]. Rings must not overlap.
    pub offset: usize,
    /// The bytes for records: a power of two from 64 to 2³⁰.
    pub data_bytes: usize,
}

impl RingSpec {
    /// The alignment of offsets, so that no two words of different writers share a pair of cache lines.
    pub const ALIGN: usize = STRIDE * WORD_BYTES;

    /// The bytes of the region that the ring occupies, including its header: the next ring may start at `offset +
    /// total_bytes()`, rounded up to [`RingSpec::ALIGN`].
    #[must_use]
    pub const fn total_bytes(&self) -> usize {
        DATA * WORD_BYTES + self.data_bytes
    }

    /// Limit, in bytes, on a record: a quarter of the data. So a ring always holds several records, and the largest
    /// record does not need an empty ring.
    #[must_use]
    pub const fn record_bytes_max(&self) -> usize {
        self.data_bytes / 4
    }

    /// The words that a record of `bytes` bytes occupies: one for its header, then its bytes.
    pub(super) const fn record_words(bytes: usize) -> usize {
        1 + bytes.div_ceil(WORD_BYTES)
    }

    /// Checks the fields against each other and against a region of `region_bytes` bytes.
    pub(super) fn check(&self, region_bytes: usize) -> io::Result<()> {
        let sized = self.data_bytes.is_power_of_two() && (DATA_BYTES_MIN..=DATA_BYTES_MAX).contains(&self.data_bytes);
        let placed = self.offset.is_multiple_of(Self::ALIGN)
            && self.offset.checked_add(self.total_bytes()).is_some_and(|end| end <= region_bytes);
        if sized && placed {
            return Ok(());
        }
        let what = format!("{self:?} is no ring in a region of {region_bytes} bytes");
        Err(io::Error::new(io::ErrorKind::InvalidInput, what))
    }
}

/// A record's first word: its length, and above it the low half of its position. The position exposes most garbage, but no
/// code relies on that.
pub(super) fn record_header(position: u64, bytes: usize) -> [u8; WORD_BYTES] {
    (position << 32 | bytes as u64).to_le_bytes()
}

/// The length from a header read at `position`; `None` for garbage. Only the 32 bits bound it.
pub(super) fn record_bytes(position: u64, header: u64) -> Option<usize> {
    (header >> 32 == position & u64::from(u32::MAX)).then_some((header & u64::from(u32::MAX)) as usize)
}
