//! A call for the executors of this process.

use super::call::{GenerationRef, Task};
use super::inbox::Inbox;
use std::sync::Arc;

/// A piece of work with all it needs.
pub struct Call {
    /// Keeps the module's generation loaded.
    pub hold: Arc<dyn GenerationRef>,
    /// Where the outcome goes.
    pub reply: Arc<Inbox>,
    /// What to run.
    pub work: Task,
}
