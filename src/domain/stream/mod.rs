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
//! | `uplink` | the way from the module's side to the shard |
//! | `limits` | time and threads of calls |
//! | `here`, `inbox_uplink` | the streams of modules in the server's process |

mod answer;
pub(in crate::domain) mod call;
pub(in crate::domain) mod detached;
mod down;
mod form;
pub mod here;
pub(in crate::domain) mod inbox_uplink;
mod limits;
mod pipe;
pub mod running;
pub(in crate::domain) mod slots;
#[cfg(test)]
mod tests;
mod uplink;
mod upload;

pub use answer::{Answer, Framing, Home, Next, StreamBegin, begin_answer};
pub use limits::configure;
pub use slots::{CallSlot, NoSlot, StreamSizes};
pub use upload::{Full, Upload};

pub(in crate::domain) use pipe::Pipe;
pub(in crate::domain) use uplink::{Begun, StreamAddress, Uplink};

use std::sync::Arc;

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
