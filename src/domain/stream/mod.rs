//! Streamed bodies between a shard and a handler, in any process.
//!
//! A stream has a slot of memory with a pipe for each direction; the room in a pipe is the writer's credit. The handler's
//! side waits on a futex of the pipe. The shard never waits: it raises its flag in the pipe, and a notice tells it when it
//! must act. Notices, and the beginning and the end of an answer, go through an `Uplink`. For isolated modules these are
//! records of the shard's ring, in the server's process messages to the shard's inbox. Only this trait differs between the
//! two.
//!
//! | file | content |
//! | --- | --- |
//! | `pipe` | one direction: a ring of bytes, positions, flags, checks |
//! | `slots` | the memory: the position of each slot, the free slots |
//! | `upload`, `answer` | the shard's sides: of a request body, and of an answer |
//! | `call`, `detached` | the module's sides: of a call, and of an answer that outlives its handler |
//! | `down` | an answer, for both of these |
//! | `form` | the parts of a form, which a handler reads while they arrive |
//! | `running` | the call of each thread, and canceled calls |
//! | `here`, `inbox_uplink` | the streams of modules in the server's process |

mod answer;
pub(in crate::domain) mod call;
pub(in crate::domain) mod detached;
mod down;
mod form;
pub mod here;
pub(in crate::domain) mod inbox_uplink;
mod pipe;
pub mod running;
pub(in crate::domain) mod slots;
#[cfg(test)]
mod tests;
mod upload;

pub use answer::{Answer, Framing, Home, Next, StreamBegin, begin_answer};
pub use slots::{CallSlot, NoSlot, StreamSizes};
pub use upload::{Full, Upload};

pub(in crate::domain) use pipe::Pipe;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The start of a call of a `CWEB_STREAM` route.
#[derive(Debug, Clone)]
pub struct StreamStart {
    /// The call's memory.
    pub slot: Arc<CallSlot>,
    /// The size of the whole body, in bytes, if the client has announced it.
    pub length: Option<u64>,
    /// Whether the client waits for `100 Continue`.
    pub expects_continue: bool,
}

/// A streamed answer as the handler begins it.
#[derive(Debug)]
pub(in crate::domain) struct Begun<'a> {
    /// The answer's slot; `None`: it uses the pipe of the call's own slot.
    pub(in crate::domain) slot: Option<u32>,
    pub(in crate::domain) status: u16,
    pub(in crate::domain) headers: &'a [(&'a [u8], &'a [u8])],
    /// The `Content-Length`, if the handler has set one.
    pub(in crate::domain) length: Option<u64>,
}

/// The connection of the module's side to the shard of a call.
pub(in crate::domain) trait Uplink: Send + Sync {
    /// Takes a slot for an answer, with its pipe ready for use. `None`: all are taken.
    fn take_slot(&self) -> Option<(u32, Pipe)>;

    /// The error of a call that gets no slot.
    fn no_slot(&self) -> i32 {
        libc::EBUSY
    }

    /// Returns a slot that the shard does not know about.
    fn give_slot(&self, slot: u32);

    /// Begins the answer.
    ///
    /// # Errors
    /// `E2BIG`: the header fields are too large.
    fn begin(&self, begun: &Begun<'_>) -> Result<(), i32>;

    /// Notifies the shard of bytes or room in the pipes of this call; `wants_body`: the handler reads the body for the
    /// first time.
    fn notice(&self, wants_body: bool);

    /// Ends the writing to a slot that the shard knows about.
    fn leave_slot(&self, slot: u32);

    /// The shard's address for slot `slot` of this call's answers.
    fn place(&self, slot: u32) -> detached::StreamAddress;

    /// The same uplink with a lifetime beyond the call.
    fn share(&self) -> Arc<dyn Uplink>;
}

/// Time limit of an ordinary handler, in milliseconds; 0: unknown.
static HANDLER_TIMEOUT_MS: AtomicU64 = AtomicU64::new(0);

/// Limit on the answers that a process streams at once from threads that other handlers need, too.
static BORROWED_THREADS_MAX: AtomicU64 = AtomicU64::new(1);

/// Sets the time limit of handlers whose route sets none, and the number of threads for handlers.
pub fn configure(handler_timeout_ms: u64, executors_max: usize) {
    HANDLER_TIMEOUT_MS.store(handler_timeout_ms, Ordering::Relaxed);
    BORROWED_THREADS_MAX.store((executors_max as u64 / 2).max(1), Ordering::Relaxed);
}

fn handler_timeout_ms() -> u64 {
    HANDLER_TIMEOUT_MS.load(Ordering::Relaxed)
}

fn borrowed_threads_max() -> u64 {
    BORROWED_THREADS_MAX.load(Ordering::Relaxed)
}
