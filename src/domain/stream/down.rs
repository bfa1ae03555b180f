//! A streamed answer on the writer's side: a handler, or the threads of a detached stream.

use super::Uplink;
use super::limits::borrowed_threads_max;
use super::pipe::{Closed, Writer};
use super::slots::ANSWER_BYTES_MAX;
use crate::domain::compress::StreamCoder;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Room reserved for the end of a compressed answer, and for the growth of a piece by compression, in bytes.
const CODED_RESERVE_BYTES: usize = 1024;

/// Limit, in bytes, on trailer fields.
pub(super) const TRAILER_BYTES_MAX: usize = 4096;

/// The number of answers that are being streamed from threads that other handlers need, too.
static BORROWED_THREADS: AtomicU64 = AtomicU64::new(0);

/// Counts one of these answers until this value is dropped.
pub(super) struct BorrowedThread;

impl BorrowedThread {
    /// Counts another answer, or returns `EBUSY` at the limit.
    pub(super) fn take() -> Result<Self, i32> {
        let borrowed = BORROWED_THREADS.fetch_add(1, Ordering::Relaxed);
        let taken = Self; // A refusal drops this value, which decrements the count.
        if borrowed < borrowed_threads_max() { Ok(taken) } else { Err(libc::EBUSY) }
    }
}

impl Drop for BorrowedThread {
    fn drop(&mut self) {
        BORROWED_THREADS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The answer while a handler or a detached stream sends it.
pub(super) struct Down {
    pub(super) slot: Option<u32>,
    pub(super) writer: Writer,
    /// The number of bytes that may still be written; `None`: no announced length.
    pub(super) left: Option<u64>,
    /// The compressor.
    pub(super) coder: Option<Box<StreamCoder>>,
    /// The errno for which the answer can't be continued.
    pub(super) broken: Option<i32>,
    /// The lines of trailer fields.
    pub(super) trailers: Vec<u8>,
    /// Set while the sending thread is one that others need, too.
    pub(super) borrowed: Option<BorrowedThread>,
    pub(super) uplink: Arc<dyn Uplink>,
}

/// The answer, shared by all threads that write to it.
pub(super) type SharedDown = Arc<Mutex<Down>>;

impl Drop for Down {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            self.uplink.leave_slot(slot);
        }
    }
}

impl Down {
    /// Writes all of `bytes` or nothing. Returns false without room; the shard notifies the writer when there is room.
    pub(super) fn write_all(&mut self, bytes: &[u8], uplink: &dyn Uplink) -> Result<bool, i32> {
        // Compression can't be undone, so there must be room for the largest possible output.
        let coded_max = bytes.len() + bytes.len() / 16 + 2 * CODED_RESERVE_BYTES;
        let needed = if self.coder.is_some() { coded_max } else { bytes.len() };
        if needed > ANSWER_BYTES_MAX {
            return Err(libc::EMSGSIZE);
        }
        self.check_length(bytes.len())?;
        let fits = |down: &mut Self| down.writer.room().map_err(errno_of).map(|room| room >= needed);
        if !fits(self)? {
            self.writer.await_room();
            if !fits(self)? {
                return Ok(false);
            }
            self.writer.awake();
        }
        let coded = self.coder.as_mut().map(|coder| coder.encode(bytes, true)).transpose()?;
        self.writer.put(coded.as_deref().unwrap_or(bytes)).map_err(errno_of)?;
        self.count(bytes.len());
        self.tell(uplink);
        Ok(true)
    }

    /// Notifies the shard of written bytes, if it waits for them.
    pub(super) fn tell(&self, uplink: &dyn Uplink) {
        if self.writer.take_reader() {
            uplink.notice(false);
        }
    }

    pub(super) fn check_length(&self, bytes: usize) -> Result<(), i32> {
        if self.left.is_some_and(|left| (bytes as u64) > left) { Err(libc::EMSGSIZE) } else { Ok(()) }
    }

    pub(super) fn count(&mut self, bytes: usize) {
        self.left = self.left.map(|left| left.saturating_sub(bytes as u64));
    }

    /// Ends a detached answer; the room for its last bytes was reserved.
    pub(super) fn end(&mut self, uplink: &dyn Uplink) {
        let last = self.coder.take().map(|coder| coder.finish());
        let is_whole = match last {
            None => true,
            Some(Ok(bytes)) => self.writer.put(&bytes) == Ok(bytes.len()),
            Some(Err(_)) => false,
        };
        if !self.trailers.is_empty() && self.writer.room().is_ok_and(|room| room >= self.trailers.len()) {
            self.writer.trailers_follow();
            let _ = self.writer.put(&self.trailers);
        }
        self.writer.end(if is_whole { None } else { Some(libc::EIO) });
        self.tell(uplink);
    }

    /// Ends the answer as incomplete, so that the client can tell.
    pub(super) fn fail(&mut self, errno: i32, uplink: &dyn Uplink) {
        self.writer.end(Some(errno));
        self.tell(uplink);
    }

    /// Stops counting the sending thread as borrowed.
    pub(super) fn give_thread_back(&mut self) {
        self.borrowed = None;
    }
}

pub(super) fn errno_of(closed: Closed) -> i32 {
    match closed {
        Closed::Gone(errno) => errno,
        Closed::Corrupt => libc::EIO,
    }
}
