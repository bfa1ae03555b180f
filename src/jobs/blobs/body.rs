//! Transfers a body from a shard to the thread that writes it, through a bounded buffer.
//!
//! The shard never waits: the thread calls `Notify` when the buffer has room again. The thread may block.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Size of the buffer, in bytes; the thread processes as many bytes outside the buffer.
const BUFFER_BYTES: usize = 256 * 1024;

/// Memory, in bytes, that one body in transfer may hold.
pub const BUFFERS_BYTES: usize = 2 * BUFFER_BYTES;

/// Notifies the shard of new room; true: the thread wants the body, so a client that waits for `100 Continue` must be asked for
/// it.
pub type Notify = Box<dyn Fn(bool) + Send + Sync>;

/// Why the thread takes no bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// The buffer has no room now; a notice follows when it has.
    Now,
    /// The thread will take no more bytes.
    Ever,
}

/// How a body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyEnd {
    /// The body is complete.
    Complete,
    /// The body will never be complete, for this errno.
    Broken(i32),
}

#[derive(Default)]
struct State {
    buffer: Vec<u8>,
    end: Option<BodyEnd>,
    /// The thread will take no more bytes.
    is_left: bool,
    /// The shard waits for a notice of room.
    awaits_room: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    notify: Notify,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The shard's end of the buffer. Dropping it before the end of the body tells the thread that the client is gone.
pub struct BodyWriter {
    shared: Arc<Shared>,
}

/// The thread's end of the buffer. Dropping it leaves the rest of the body unread.
pub struct BodyReader {
    shared: Arc<Shared>,
}

/// Creates the two ends of a body.
#[must_use]
pub fn body(notify: Notify) -> (BodyWriter, BodyReader) {
    let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), notify });
    (BodyWriter { shared: Arc::clone(&shared) }, BodyReader { shared })
}

impl BodyWriter {
    /// The free bytes of the buffer: at least one.
    ///
    /// # Errors
    /// See [`Full`].
    pub fn room(&mut self) -> Result<usize, Full> {
        let mut state = self.shared.state();
        match BUFFER_BYTES.saturating_sub(state.buffer.len()) {
            _ if state.is_left => Err(Full::Ever),
            0 => {
                state.awaits_room = true;
                Err(Full::Now)
            }
            room => Ok(room),
        }
    }

    /// Passes a piece to the thread.
    ///
    /// # Errors
    /// The thread takes no more bytes.
    pub fn put(&mut self, bytes: &[u8]) -> Result<(), Full> {
        let mut state = self.shared.state();
        if state.is_left {
            return Err(Full::Ever);
        }
        state.buffer.extend_from_slice(bytes);
        drop(state);
        self.shared.changed.notify_one();
        Ok(())
    }

    /// Ends the body: complete, or broken for the reason `errno`. Only the first call has an effect.
    pub fn end(&mut self, errno: Option<i32>) {
        self.shared.state().end.get_or_insert(errno.map_or(BodyEnd::Complete, BodyEnd::Broken));
        self.shared.changed.notify_one();
    }
}

impl Drop for BodyWriter {
    fn drop(&mut self) {
        self.end(Some(libc::ECONNRESET));
    }
}

impl BodyReader {
    /// Tells the shard that the thread wants the body now.
    pub(super) fn ask(&self) {
        (self.shared.notify)(true);
    }

    /// Waits for bytes, and takes all of them in exchange for `bytes`, which must be empty. The end of the body is reported
    /// after its last bytes.
    pub(super) fn next(&mut self, bytes: &mut Vec<u8>) -> Result<(), BodyEnd> {
        let mut state = self.shared.state();
        while state.buffer.is_empty() {
            if let Some(end) = state.end {
                return Err(end);
            }
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::swap(&mut state.buffer, bytes);
        let is_awaited = std::mem::take(&mut state.awaits_room);
        drop(state);
        if is_awaited {
            (self.shared.notify)(false);
        }
        Ok(())
    }
}

impl Drop for BodyReader {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.is_left = true;
        state.buffer = Vec::new();
        let is_awaited = std::mem::take(&mut state.awaits_room);
        drop(state);
        if is_awaited {
            (self.shared.notify)(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn bytes_come_in_order_and_the_buffer_is_bounded() {
        let told = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&told);
        let (mut writer, mut reader) = body(Box::new(move |_| {
            counter.fetch_add(1, Ordering::SeqCst);
        }));
        writer.put(&vec![1; BUFFER_BYTES - 1]).unwrap();
        assert_eq!(writer.room(), Ok(1));
        writer.put(&[2]).unwrap();
        assert_eq!(writer.room(), Err(Full::Now));
        let mut bytes = Vec::new();
        reader.next(&mut bytes).unwrap();
        assert_eq!((bytes.len(), bytes.last(), told.load(Ordering::SeqCst)), (BUFFER_BYTES, Some(&2), 1));
        bytes.clear();
        writer.put(b"x").unwrap();
        writer.end(None);
        writer.end(Some(5));
        reader.next(&mut bytes).unwrap();
        assert_eq!((bytes.as_slice(), reader.next(&mut Vec::new())), (b"x".as_slice(), Err(BodyEnd::Complete)));
        drop(reader);
        assert_eq!((writer.room(), writer.put(b"y")), (Err(Full::Ever), Err(Full::Ever)));
    }

    #[test]
    fn who_waits_for_room_is_told_of_the_end() {
        let told = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&told);
        let (mut writer, reader) = body(Box::new(move |_| {
            counter.fetch_add(1, Ordering::SeqCst);
        }));
        writer.put(&vec![1; BUFFER_BYTES]).unwrap();
        assert_eq!(writer.room(), Err(Full::Now));
        drop(reader);
        assert_eq!(told.load(Ordering::SeqCst), 1);
        let (writer, mut reader) = body(Box::new(|_| {}));
        drop(writer);
        assert_eq!(reader.next(&mut Vec::new()), Err(BodyEnd::Broken(libc::ECONNRESET)));
    }
}
