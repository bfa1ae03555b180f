//! Bodies in pieces, between a shard and a handler, wherever the handler runs.
//!
//! A stream has a slot of memory with a pipe for each direction; the room in a pipe is the writer's credit. The handler's
//! side waits on a futex of the pipe. The shard never waits: it raises its flag in the pipe, and is told by a notice when
//! there is something to do. Notices, and the beginning and end of an answer, go through an `Uplink`: records of the ring
//! of the shard where the module has a process of its own, messages of the shard's inbox where it has not. That trait is
//! all that differs between the two.
//!
//! | file | what it knows |
//! | --- | --- |
//! | `pipe` | one direction: a ring of bytes, positions, flags, checks |
//! | `slots` | the memory: where each slot lies, which are free |
//! | `upload`, `answer` | the shard's ends: the body of a request, and an answer |
//! | `call`, `detached` | the module's ends: of a call, and of an answer that outlives its handler |
//! | `down` | an answer, for both |
//! | `form` | the parts of a form, read by a handler while they come |
//! | `running` | which call each thread runs, and which are canceled |
//! | `here`, `inbox_uplink` | all of it where modules run in the server's process |

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

/// What a call of a route of `CWEB_STREAM` begins with.
#[derive(Debug, Clone)]
pub struct StreamStart {
    /// Its memory.
    pub slot: Arc<CallSlot>,
    /// Bytes of the whole body, if the client has said how many.
    pub length: Option<u64>,
    /// The client waits for `100 Continue`.
    pub expects_continue: bool,
}

/// A streamed answer as the handler begins it.
#[derive(Debug)]
pub(in crate::domain) struct Begun<'a> {
    /// Its slot for answers; `None`: it uses the pipe of the call's own slot.
    pub(in crate::domain) slot: Option<u32>,
    pub(in crate::domain) status: u16,
    pub(in crate::domain) headers: &'a [(&'a [u8], &'a [u8])],
    /// The `Content-Length`, if the handler has set one.
    pub(in crate::domain) length: Option<u64>,
}

/// How the module's side reaches the shard that a call came from.
pub(in crate::domain) trait Uplink: Send + Sync {
    /// A slot for an answer, with its pipe ready for use. `None`: all are taken.
    fn take_slot(&self) -> Option<(u32, Pipe)>;

    /// The error of a call that gets no slot.
    fn no_slot(&self) -> i32 {
        libc::EBUSY
    }

    /// Gives a slot back that the shard has not heard of.
    fn give_slot(&self, slot: u32);

    /// Begins the answer.
    ///
    /// # Errors
    /// `E2BIG`: the header fields are too large.
    fn begin(&self, begun: &Begun<'_>) -> Result<(), i32>;

    /// Something has changed in the pipes of this call: there are bytes, or room; `wants_body`: its handler reads for the
    /// first time.
    fn notice(&self, wants_body: bool);

    /// Nothing more is written to a slot that the shard has heard of.
    fn leave_slot(&self, slot: u32);

    /// The name under which the shard speaks of this call's slot `slot` for answers.
    fn place(&self, slot: u32) -> detached::StreamAddress;

    /// The same uplink, for longer than the call.
    fn share(&self) -> Arc<dyn Uplink>;
}

/// How long an ordinary handler may run, in milliseconds; 0: not known.
static HANDLER_TIMEOUT_MS: AtomicU64 = AtomicU64::new(0);

/// Answers that a process streams at once from threads which other handlers need too.
static BORROWED_THREADS_MAX: AtomicU64 = AtomicU64::new(1);

/// Says how long handlers may run whose route says nothing, and how many threads there are for them.
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
