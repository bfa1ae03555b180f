//! A call for the executors of this process.

use super::call::{GenerationRef, Task};
use super::inbox::Inbox;
use std::sync::Arc;

/// A task with everything that running it needs.
pub struct Call {
    /// Keeps the module's generation loaded.
    pub hold: Arc<dyn GenerationRef>,
    /// The inbox for the outcome.
    pub reply: Arc<Inbox>,
    /// The task.
    pub work: Task,
}
