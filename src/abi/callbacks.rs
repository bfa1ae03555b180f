//! The callbacks that a loaded module has registered: those of its events and of its detached answers.

use super::{events, stream_callbacks};

/// The callbacks of the loaded module with this [`ModuleToken::id`](super::module_token::ModuleToken); dropping this ends them.
#[derive(Debug)]
pub(super) struct Callbacks(pub(super) u64);

impl Callbacks {
    /// Ends the callbacks: no further one begins. Waits for a limited time for a running callback of an event: see
    /// [`events::end`].
    pub(super) fn end(&self) {
        stream_callbacks::end_callbacks(self.0);
        events::end(self.0);
    }
}

impl Drop for Callbacks {
    fn drop(&mut self) {
        self.end();
    }
}
