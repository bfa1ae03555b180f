//! Large bodies that are written directly to the memory beside a domain's rings while they arrive.
//!
//! The shard that receives the body owns it. When the body is complete, the record of its request names the place, and
//! the body is not copied again. A dropped body returns its place. The domain can write to the memory, so its bytes are
//! as untrustworthy as the domain. The bytes go to the process that serves the path when the body is complete. This
//! process belongs to another domain only if the path has moved while the body arrived.

use super::ring::Region;
use crossbeam::queue::SegQueue;
use std::io;
use std::sync::Arc;

/// Returned places: offset, size in bytes, and the number of bytes written there.
pub(in crate::domain) type Abandoned = SegQueue<(usize, usize, usize)>;

/// A large body at its place in a domain's memory.
#[derive(Debug)]
pub struct PlacedBody {
    memory: Arc<Region>,
    offset: usize,
    bytes: usize,
    written: usize,
    /// The list of returned places of the lender.
    abandoned: Arc<Abandoned>,
    is_handed_over: bool,
}

impl PlacedBody {
    /// A body of `bytes` bytes, still empty, at `offset` in `memory`.
    pub(in crate::domain) fn new(
        memory: &Arc<Region>,
        offset: usize,
        bytes: usize,
        abandoned: &Arc<Abandoned>,
    ) -> Self {
        let (memory, abandoned) = (Arc::clone(memory), Arc::clone(abandoned));
        Self { memory, offset, bytes, written: 0, abandoned, is_handed_over: false }
    }

    /// Appends `part`.
    ///
    /// # Errors
    /// `ENOSPC` or `ENOMEM`: there is no memory; `InvalidInput`: the part is larger than the rest of the place.
    pub fn put(&mut self, part: &[u8]) -> io::Result<()> {
        if part.len() > self.bytes - self.written {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.memory.write(self.offset + self.written, part)?;
        self.written += part.len();
        Ok(())
    }

    /// The size of the whole body, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The bytes that have arrived.
    #[must_use]
    pub fn written(&self) -> usize {
        self.written
    }

    /// A copy of the bytes that have arrived.
    #[must_use]
    pub fn load(&self) -> Vec<u8> {
        self.memory.load(self.offset..self.offset + self.written)
    }

    /// The offset in the memory, if the body is complete and `abandoned` belongs to the lender of its place.
    pub(in crate::domain) fn offset_of(&self, abandoned: &Arc<Abandoned>) -> Option<usize> {
        (Arc::ptr_eq(&self.abandoned, abandoned) && self.written == self.bytes).then_some(self.offset)
    }

    /// Records that the domain has the record that names the place.
    pub(in crate::domain) fn set_handed_over(&mut self) {
        self.is_handed_over = true;
    }
}

impl Drop for PlacedBody {
    fn drop(&mut self) {
        if !self.is_handed_over {
            self.abandoned.push((self.offset, self.bytes, self.written));
        }
    }
}
