//! A thread that a module has started may be canceled (pthread_cancel(3)), but not within a function of the server. The
//! C library unwinds a canceled thread at the next system call that waits, and the unwinding of Rust frames ends the
//! process.

use super::native;
use std::ffi::c_int;
use std::marker::PhantomData;

/// The calling thread can't be canceled while this lives; a request to cancel it takes effect afterwards. A fault that jumps
/// over this value leaves a thread that can't be canceled, like all threads of the server.
#[derive(Debug)]
pub struct Uncancelled {
    before: c_int,
    /// The state belongs to the thread.
    not_send: PhantomData<*const ()>,
}

impl Uncancelled {
    /// Forbids to cancel the calling thread.
    #[must_use]
    pub fn begin() -> Self {
        // SAFETY: changes the state of the calling thread only.
        Self { before: unsafe { native::cwebn_cancel_forbid() }, not_send: PhantomData }
    }
}

impl Drop for Uncancelled {
    fn drop(&mut self) {
        // SAFETY: as above; the value can't leave its thread.
        unsafe { native::cwebn_cancel_restore(self.before) };
    }
}
