//! The events that a domain's supervisor gets, over one channel.

use super::control::Outcome;
use super::instance::ProcessInstance;
use super::lifecycle::Input;
use crossbeam::channel::Sender;
use std::io;
use std::process::ExitStatus;
use std::sync::Arc;

/// An event of a domain.
pub(super) enum Event {
    /// An input for the machine, unchanged.
    Input(Input),
    /// The helper has started a process, or failed to.
    Started(io::Result<Arc<ProcessInstance>>),
    /// The process has carried out order number `call` of the supervisor.
    Outcome { process: u64, call: u64, outcome: Outcome },
    /// The process has ended; `None`: the kernel has not reported the status in time.
    Reaped {
        process: u64,
        status: Option<ExitStatus>,
        /// Dropped when nothing more is needed of the process; its cgroup is then removed.
        hold: Sender<()>,
    },
}
