//! What the supervisor of a domain is told, over one channel.

use super::control::Outcome;
use super::instance::ProcessInstance;
use super::lifecycle::Input;
use crossbeam::channel::Sender;
use std::io;
use std::process::ExitStatus;
use std::sync::Arc;

/// An event of a domain.
pub(super) enum Event {
    /// An input of the machine as it is.
    Input(Input),
    /// The helper has started a process, or could not.
    Started(io::Result<Arc<ProcessInstance>>),
    /// The process has carried out order number `call` of the supervisor.
    Outcome { process: u64, call: u64, outcome: Outcome },
    /// The process has ended; `None`: the kernel takes long to say how.
    Reaped {
        process: u64,
        status: Option<ExitStatus>,
        /// Dropped when nothing is to be known of the process any more: its cgroup is removed then.
        hold: Sender<()>,
    },
}
