//! The state that all modules of a process share for their calls in workers.

use super::super::control::CaughtFault;
use super::forker::Forker;
use std::sync::atomic::{AtomicUsize, Ordering};

/// State that all modules of the process share.
pub(in crate::domain::process) struct WorkerHost {
    pub(in crate::domain::process) forker: Forker,
    /// Limit on concurrent calls.
    pub(in crate::domain::process) calls_max: usize,
    pub(in crate::domain::process) calls: AtomicUsize,
    /// Reports a fault in a worker to the server.
    pub(in crate::domain::process) tell: Box<dyn Fn(CaughtFault) + Send + Sync>,
}

/// One of the permitted concurrent calls, until it is dropped.
pub(super) struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    pub(super) fn take(host: &'a WorkerHost) -> Option<Self> {
        // Relaxed: the counter orders no other access.
        let more = |calls: usize| (calls < host.calls_max).then_some(calls + 1);
        host.calls.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Self(&host.calls))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
