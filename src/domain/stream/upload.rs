//! The shard's side of a request body.

use super::pipe::{Closed, Copying, Writer};
use super::slots::CallSlot;
use std::sync::Arc;

/// A body on its way to its handler. Dropping it before its end tells the handler that the client has gone.
#[derive(Debug)]
pub struct Upload {
    writer: Writer,
    /// Keeps the memory.
    _slot: Arc<CallSlot>,
}

/// The reason why the handler takes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// There is no room now; a notice comes when there is.
    Now,
    /// The handler takes no more.
    Ever,
}

impl Upload {
    /// The body of the request whose call has `slot`.
    #[must_use]
    pub fn new(slot: &Arc<CallSlot>) -> Self {
        Self { writer: Writer::new(slot.up().clone(), Copying::Written), _slot: Arc::clone(slot) }
    }

    /// The room of the handler's side, in bytes: at least one.
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

    /// Passes on a piece, for which there must be room, and wakes the handler if it waits for one.
    ///
    /// # Errors
    /// The handler takes no more, or there is no memory.
    pub fn put(&mut self, bytes: &[u8]) -> Result<(), Full> {
        let put = self.writer.put(bytes);
        self.writer.wake_reader();
        match put {
            Ok(count) if count == bytes.len() => Ok(()),
            _ => Err(Full::Ever),
        }
    }

    /// Ends the body; with `errno` as incomplete, for this reason.
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
