//! The thread of a domain for blocking tasks: starting processes, and examining their deaths.
//!
//! The kernel ends a process with the thread that started it, so this thread stays until the last process has ended.

use super::events::Event;
use super::instance::ProcessInstance;
use super::lifecycle::{Input, ModuleId};
use super::shared::DomainShared;
use super::start;
use crossbeam::channel::{Sender, unbounded};
use std::io;
use std::process::ExitStatus;
use std::sync::Arc;
use std::thread;

/// A task of the helper, whose result is an event.
pub(super) enum Task {
    /// Start a process.
    Start,
    /// Examine the death of `process`, in which `trying` was being loaded.
    Examine { process: Arc<ProcessInstance>, trying: Option<ModuleId>, status: Option<ExitStatus> },
}

/// Starts the helper, which ends when the returned sender is dropped.
///
/// # Errors
/// No thread could be started.
pub(super) fn start(shared: &Arc<DomainShared>) -> io::Result<Sender<Task>> {
    let (tasks, received) = unbounded();
    let shared = Arc::clone(shared);
    let run = move || {
        for task in received {
            match task {
                // A successful start sends its event itself, before any other event about the process.
                Task::Start => {
                    if let Err(error) = start::start(&shared) {
                        let _ = shared.events.send(Event::Started(Err(error)));
                    }
                }
                Task::Examine { process, trying, status } => {
                    let death = shared.examine(&process, trying, status);
                    shared.tell(Input::Examined { process: process.number(), death });
                }
            }
        }
    };
    thread::Builder::new().name("domain-helper".to_owned()).spawn(run)?;
    Ok(tasks)
}
