//! The shard's end of the body of a request.

use super::pipe::{Closed, Copying, Writer};
use super::slots::CallSlot;
use std::sync::Arc;

/// A body on its way to its handler. Dropping it before its end tells the handler that the client is gone.
#[derive(Debug)]
pub struct Upload {
    writer: Writer,
    /// The memory stays while this lives.
    _slot: Arc<CallSlot>,
}

/// Why the handler takes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// There is no room now: a notice comes when there is.
    Now,
    /// It takes none any more.
    Ever,
}

impl Upload {
    /// The body of the request whose call has `slot`.
    #[must_use]
    pub fn new(slot: &Arc<CallSlot>) -> Self {
        Self { writer: Writer::new(slot.up().clone(), Copying::Written), _slot: Arc::clone(slot) }
    }

    /// Bytes that the handler's side has room for: at least one.
    ///
    /// # Errors
    /// [`Full`].
    pub fn room(&mut self) -> Result<usize, Full> {
        match self.writer.room() {
            Ok(0) => {}
            Ok(room) => return Ok(room),
            Err(Closed::Gone(_) | Closed::Corrupt) => return Err(Full::Ever),
        }
        self.writer.await_room();
        match self.writer.room() {
            Ok(0) => Err(Full::Now),
            Ok(room) => {
                self.writer.awake();
                Ok(room)
            }
            Err(_) => Err(Full::Ever),
        }
    }

    /// Hands over a piece, for which there is room, and wakes the handler if it waits for one.
    ///
    /// # Errors
    /// The handler takes none any more, or there is no memory.
    pub fn put(&mut self, bytes: &[u8]) -> Result<(), Full> {
        let put = self.writer.put(bytes);
        self.writer.wake_reader();
        match put {
            Ok(count) if count == bytes.len() => Ok(()),
            _ => Err(Full::Ever),
        }
    }

    /// The body is complete; `errno`: it never will be, for this reason.
    pub fn end(&mut self, errno: Option<i32>) {
        self.writer.end(errno);
        self.writer.wake_reader();
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.end(Some(libc::ECONNRESET));
    }
}
