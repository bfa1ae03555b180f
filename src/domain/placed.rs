//! Large bodies that are written directly to the memory beside a domain's rings while they arrive.
//!
//! The shard that receives the body owns it. When the body is complete, the record of its request names the place, and
//! the body is not copied again. A dropped body returns its place. The domain can write to the memory, so its bytes are
//! as untrustworthy as the domain. The bytes go to the process that serves the path when the body is complete. This
//! process belongs to another domain only if the path has moved while the body arrived.
//!
//! A body that arrives slowly must not keep the memory of a process that has ended, because the kernel gets that memory back
//! as a whole. Enforced by [`PlacedBody::leave_ended`], which shards call about once a second.

use super::ring::Region;
use crossbeam::queue::SegQueue;
use std::io;
use std::sync::{Arc, Weak};

/// Returned places: offset, size in bytes, and the number of bytes written there.
pub(in crate::domain) type Abandoned = SegQueue<(usize, usize, usize)>;

/// A large body at its place in a domain's memory.
#[derive(Debug)]
pub struct PlacedBody {
    /// The memory with the place; `None`: the bytes that have arrived are in `own`.
    memory: Option<Arc<Region>>,
    offset: usize,
    bytes: usize,
    written: usize,
    /// The list of returned places of the lender. Only the lender keeps it alive.
    abandoned: Weak<Abandoned>,
    is_handed_over: bool,
    /// The bytes that have arrived, once they have left the place.
    own: Vec<u8>,
}

impl PlacedBody {
    /// A body of `bytes` bytes, still empty, at `offset` in `memory`.
    pub(in crate::domain) fn new(
        memory: &Arc<Region>,
        offset: usize,
        bytes: usize,
        abandoned: &Arc<Abandoned>,
    ) -> Self {
        let (memory, abandoned) = (Some(Arc::clone(memory)), Arc::downgrade(abandoned));
        Self { memory, offset, bytes, written: 0, abandoned, is_handed_over: false, own: Vec::new() }
    }

    /// Appends `part`.
    ///
    /// # Errors
    /// `ENOSPC` or `ENOMEM`: there is no memory; `InvalidInput`: the part is larger than the rest of the place.
    pub fn put(&mut self, part: &[u8]) -> io::Result<()> {
        if part.len() > self.bytes - self.written {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        match &self.memory {
            Some(memory) => memory.write(self.offset + self.written, part)?,
            None => self.own.extend_from_slice(part),
        }
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
        match &self.memory {
            Some(memory) => memory.load(self.offset..self.offset + self.written),
            None => self.own.clone(),
        }
    }

    /// Copies the bytes that have arrived out of their place if its lender is gone, because the process has ended. The rest
    /// gathers in the server.
    pub fn leave_ended(&mut self) {
        if self.memory.is_some() && self.abandoned.strong_count() == 0 {
            self.own = self.load();
            self.memory = None;
        }
    }

    /// The offset in the memory, if the body is complete and `abandoned` belongs to the lender of its place.
    pub(in crate::domain) fn offset_of(&self, abandoned: &Arc<Abandoned>) -> Option<usize> {
        // A lender has one list, whose address no other list has while this body exists.
        let is_its = std::ptr::eq(self.abandoned.as_ptr(), Arc::as_ptr(abandoned));
        (is_its && self.written == self.bytes).then_some(self.offset)
    }

    /// Records that the domain has the record that names the place.
    pub(in crate::domain) fn set_handed_over(&mut self) {
        self.is_handed_over = true;
    }
}

impl Drop for PlacedBody {
    fn drop(&mut self) {
        if !self.is_handed_over
            && let Some(abandoned) = self.abandoned.upgrade()
        {
            abandoned.push((self.offset, self.bytes, self.written));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFSET: usize = 4096;

    fn lender() -> (Arc<Region>, Arc<Abandoned>) {
        (Arc::new(Region::create(2 * OFFSET).unwrap()), Arc::new(Abandoned::new()))
    }

    #[test]
    fn a_slow_body_does_not_keep_the_memory_of_a_process_that_has_ended() {
        let (memory, list) = lender();
        let mut body = PlacedBody::new(&memory, OFFSET, 7, &list);
        body.put(b"mes").unwrap();
        body.leave_ended();
        assert_eq!((Arc::strong_count(&memory), body.load()), (2, b"mes".to_vec()), "its lender is there");
        drop(list);
        body.leave_ended();
        assert_eq!((Arc::strong_count(&memory), body.load()), (1, b"mes".to_vec()));
        body.put(b"sage").unwrap();
        assert!(body.put(b"!").is_err(), "beyond its size");
        assert_eq!((body.written(), body.load()), (7, b"message".to_vec()));
        let (_, another) = lender();
        assert_eq!(body.offset_of(&another), None);
    }

    #[test]
    fn a_dropped_body_gives_its_place_back_to_its_lender_alone() {
        let (memory, list) = lender();
        let mut body = PlacedBody::new(&memory, OFFSET, 7, &list);
        body.put(b"mes").unwrap();
        assert_eq!(body.offset_of(&list), None, "it is not complete");
        body.put(b"sage").unwrap();
        let (_, another) = lender();
        assert_eq!((body.offset_of(&list), body.offset_of(&another)), (Some(OFFSET), None));
        drop(body);
        assert_eq!((list.pop(), list.pop(), another.pop()), (Some((OFFSET, 7, 7)), None, None));
    }
}
