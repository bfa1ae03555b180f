//! A large body that is written to its place beside the rings of a domain while it arrives.
//!
//! The shard that receives the body owns it. When the body is complete, the record of its request names the place, and the body is
//! copied nowhere else. A body whose request does not get there gives its place back when it is dropped. The domain can write to the
//! memory, so the bytes that come out of it are no more trustworthy than the domain. They go to the process that serves the path when the
//! body is complete; that is another domain's only if the path has moved there while the body arrived.

use super::ring::Region;
use crossbeam::queue::SegQueue;
use std::io;
use std::sync::Arc;

/// Places that nobody hands over any more: offset, bytes, and bytes that were written there.
pub(in crate::domain) type Abandoned = SegQueue<(usize, usize, usize)>;

/// See the module's documentation.
#[derive(Debug)]
pub struct PlacedBody {
    memory: Arc<Region>,
    offset: usize,
    bytes: usize,
    written: usize,
    /// Of the lender that has given the place out.
    abandoned: Arc<Abandoned>,
    is_handed_over: bool,
}

impl PlacedBody {
    /// A body of `bytes` bytes, of which none has come, at `offset` in `memory`.
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
    /// There is no memory (`ENOSPC`, `ENOMEM`), or the part is larger than what is left of the place.
    pub fn put(&mut self, part: &[u8]) -> io::Result<()> {
        if part.len() > self.bytes - self.written {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.memory.write(self.offset + self.written, part)?;
        self.written += part.len();
        Ok(())
    }

    /// Bytes of the whole body.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes that have come.
    #[must_use]
    pub fn written(&self) -> usize {
        self.written
    }

    /// A copy of what has come.
    #[must_use]
    pub fn load(&self) -> Vec<u8> {
        self.memory.load(self.offset..self.offset + self.written)
    }

    /// Its offset in the memory, if `abandoned` is of the lender that has given the place out.
    pub(in crate::domain) fn offset_of(&self, abandoned: &Arc<Abandoned>) -> Option<usize> {
        (Arc::ptr_eq(&self.abandoned, abandoned) && self.written == self.bytes).then_some(self.offset)
    }

    /// The domain has the record that names the place.
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
