//! Where a ring lies in its region and how its words are laid out.

use std::io;

/// Bytes in a word: the unit of everything shared.
pub(super) const WORD_BYTES: usize = size_of::<u64>();

/// Words between two header words. 128 bytes, because the adjacent-line prefetcher makes pairs of cache lines travel
/// together. Loom tracks each word, so there it is one.
pub(super) const STRIDE: usize = if cfg!(loom) { 1 } else { 128 / WORD_BYTES };

/// Written by the producer: records before this position are complete.
pub(super) const TAIL: usize = 0;
/// Written by the consumer: words before this position may be written over.
pub(super) const HEAD: usize = STRIDE;
/// Whether the consumer sleeps; it waits here.
pub(super) const ASLEEP: usize = 2 * STRIDE;
/// Whether the producer waits for room; it waits here.
pub(super) const WAITING: usize = 3 * STRIDE;
/// First word of the data.
pub(super) const DATA: usize = 4 * STRIDE;

/// Smallest data area: room for one record of the largest size it allows and more.
const DATA_BYTES_MIN: usize = 64;
/// Largest data area; record lengths then fit 32 bits with room to spare.
const DATA_BYTES_MAX: usize = 1 << 30;

/// One ring within a [`Region`](super::Region).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingSpec {
    /// Bytes from the start of the region; a multiple of [`RingSpec::ALIGN`]. Rings must not overlap.
    pub offset: usize,
    /// Bytes for records: a power of two from 64 to 2³⁰.
    pub data_bytes: usize,
}

impl RingSpec {
    /// What offsets are multiples of, so that no two words of different writers share a pair of cache lines.
    pub const ALIGN: usize = STRIDE * WORD_BYTES;

    /// Bytes of the region that the ring takes, header included: the next ring may start at `offset + total_bytes()`
    /// rounded up to [`RingSpec::ALIGN`].
    #[must_use]
    pub const fn total_bytes(&self) -> usize {
        DATA * WORD_BYTES + self.data_bytes
    }

    /// Most bytes a record may have: a quarter of the data, so that a ring always holds some records and the largest
    /// one needs no empty ring.
    #[must_use]
    pub const fn record_bytes_max(&self) -> usize {
        self.data_bytes / 4
    }

    /// Words that a record of `bytes` takes: one for its header, then its bytes.
    pub(super) const fn record_words(bytes: usize) -> usize {
        1 + bytes.div_ceil(WORD_BYTES)
    }

    /// Checks the numbers against each other and against a region of `region_bytes`.
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

/// A record's first word: its length and, above, the low half of its position. The position makes most garbage visible
/// as such; nothing relies on it.
pub(super) fn record_header(position: u64, bytes: usize) -> [u8; WORD_BYTES] {
    (position << 32 | bytes as u64).to_le_bytes()
}

/// The length from a header read at `position`, unless it is garbage. It is not bounded by anything but 32 bits.
pub(super) fn record_bytes(position: u64, header: u64) -> Option<usize> {
    (header >> 32 == position & u64::from(u32::MAX)).then_some((header & u64::from(u32::MAX)) as usize)
}
