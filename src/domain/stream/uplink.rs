//! The way from the module's side of a stream to its shard.

use super::Pipe;
use std::sync::Arc;

/// The address of a stream's answer: the number of its shard, and its slot there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::domain) struct StreamAddress {
    pub(in crate::domain) shard: usize,
    pub(in crate::domain) slot: u32,
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
    /// Takes a slot for an answer, with its pipe ready for use. `None`: all slots are taken.
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
    fn place(&self, slot: u32) -> StreamAddress;

    /// The same uplink with a lifetime beyond the call.
    fn share(&self) -> Arc<dyn Uplink>;
}
