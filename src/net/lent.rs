//! Memory of another process, to be sent.

use std::ops::Range;

/// Bytes in memory that another process can write: they are sent from where they lie and never become a slice.
///
/// # Safety
/// From [`Lent::pointer`] on, [`Lent::len`] bytes must be readable for as long as the value lives.
#[expect(clippy::len_without_is_empty)] // The bytes are never empty.
pub unsafe trait Lent: Send + std::fmt::Debug {
    /// Points to the first byte.
    fn pointer(&self) -> *const u8;

    /// How many bytes there are.
    fn len(&self) -> usize;

    /// A copy of the present bytes at `range`; the part of `range` beyond the end is left out.
    fn copy(&self, range: Range<usize>) -> Vec<u8>;

    /// Whether the other process has ended, so that its memory exists only for such bytes: a copy must replace them soon.
    fn is_left_behind(&self) -> bool {
        false
    }
}
