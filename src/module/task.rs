//! Tasks of the control plane's threads.

use super::deploy::{DeployError, DeployOptions, DeployReply, RemoveReply};
use super::history::{Again, FoundReply, Query};
use super::project::Posted;
use super::reach::Reach;
use super::settings::Change;

/// A task of the control plane.
pub(super) enum DeployTask {
    Deploy { ticket: u64, posted: Posted, options: Box<DeployOptions>, reply: DeployReply },
    Remove { ticket: u64, name: String, reply: RemoveReply },
    Restart { name: String, reply: RemoveReply },
    Again { ticket: u64, name: String, again: Again, reach: Reach, reply: DeployReply },
    Ask { name: String, query: Query, reply: FoundReply },
    Change { name: String, change: Change, reply: RemoveReply },
    Stop,
}

impl DeployTask {
    /// Replies with `error` instead of running the task.
    pub(super) fn fail(self, error: DeployError) {
        match self {
            DeployTask::Deploy { reply, .. } | DeployTask::Again { reply, .. } => reply(Err(error)),
            DeployTask::Remove { reply, .. } | DeployTask::Restart { reply, .. } | DeployTask::Change { reply, .. } => {
                reply(Err(error));
            }
            DeployTask::Ask { reply, .. } => reply(Err(error)),
            DeployTask::Stop => {}
        }
    }
}
