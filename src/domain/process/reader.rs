//! Reads the messages of a process until it ends, and waits for its end.

use super::control::{Question, ToChild, ToParent};
use super::control_reader::ControlReader;
use super::events::Event;
use super::instance::ProcessInstance;
use super::lifecycle::Input;
use super::shared::{DomainShared, RunQuestion};
use crate::abi::module_token::ModuleToken;
use crate::abi::{crypto, host};
use crate::domain::sanitized;
use crossbeam::channel::{Sender, bounded};
use std::io;
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Limit on the wait for the status of an ended process. The next process waits for it too, since without the status no module
/// is held responsible.
const REAP_WAIT: Duration = Duration::from_millis(500);

/// Limit on the wait for the remaining output of an ended process, which is in the pipe.
const PRINTED_WAIT: Duration = Duration::from_millis(100);

/// The same for the report of a sanitizer, which first reads the module's debug information; on a busy machine that takes long.
const REPORT_WAIT: Duration = Duration::from_secs(10);

/// A process that a reader takes over.
pub(super) struct Attended {
    pub(super) process: Arc<ProcessInstance>,
    pub(super) control_reader: ControlReader,
    pub(super) child: Child,
}

/// Starts the thread that reads one process. The thread gets the process over the sender, and ends if the sender is
/// dropped.
///
/// # Errors
/// The thread can't be started.
pub(super) fn start(shared: &Arc<DomainShared>) -> io::Result<Sender<Attended>> {
    let (sender, receiver) = bounded(1);
    let shared = Arc::clone(shared);
    let read = move || {
        if let Ok(attended) = receiver.recv() {
            attend(&shared, attended);
        }
    };
    thread::Builder::new().name("domain-reader".to_owned()).spawn(read)?;
    Ok(sender)
}

/// Reads the process until it ends, and reports the end to the supervisor.
fn attend(shared: &Arc<DomainShared>, attended: Attended) {
    let Attended { process, mut control_reader, mut child } = attended;
    let process = &process;
    let number = process.number();
    let error = loop {
        match control_reader.next() {
            Ok(ToParent::Started) => process.set_started(),
            Ok(ToParent::Done { call, outcome }) => {
                if let Some(outcome) = process.done(call, outcome) {
                    let _ = shared.events.send(Event::Outcome { process: number, call, outcome });
                }
            }
            Ok(ToParent::Question { call, what }) => answer(shared, process, call, what),
            Ok(ToParent::Fault(fault)) => {
                shared.fault_caught(process, &fault);
                shared.want_replacement(process, "a signal was caught in it, so its memory can't be trusted");
            }
            Ok(ToParent::WorkerFault(fault)) => shared.fault_in_worker(process, &fault),
            Err(error) => break error,
        }
    };
    let garbled = (error.kind() != io::ErrorKind::UnexpectedEof).then(|| error.to_string());
    if garbled.is_some() || !is_exiting(child.id()) {
        // The process has sent an invalid message, or has closed its connection without ending: the server ends it.
        process.set_broken();
    }
    process.kill();
    shared.tell(Input::Exited { process: number, garbled });
    process.is_reaped();
    let status = wait_briefly(shared, &mut child);
    // The output of the process comes before the lines about its death; a sanitizer's report has the reason.
    if sanitized::is_one(shared.name()) {
        process.wait_printed(REPORT_WAIT);
    } else if status.is_some() {
        process.wait_printed(PRINTED_WAIT);
    }
    let (hold, forgotten) = bounded(0);
    let _ = shared.events.send(Event::Reaped { process: number, status, hold });
    if status.is_none() {
        let _ = child.wait();
    }
    // The channel is disconnected after the death was examined; the examination needs the cgroup.
    let _ = forgotten.recv();
    process.unconfine();
}

/// Whether a process that is not reaped is exiting: the kernel closes its descriptors after it has set `PF_EXITING` (in the
/// flags of proc_pid_stat(5)).
fn is_exiting(pid: u32) -> bool {
    const PF_EXITING: u64 = 4;
    const FLAGS_AFTER_NAME: usize = 6;
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    let flags = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(FLAGS_AFTER_NAME));
    flags.and_then(|flags| flags.parse::<u64>().ok()).is_none_or(|flags| flags & PF_EXITING != 0)
}

/// Waits for a killed process. `None`: the process has not ended yet. A process ends with its last thread, which can
/// take long on a busy machine; the next process waits no longer than [`REAP_WAIT`] for that.
fn wait_briefly(shared: &DomainShared, child: &mut Child) -> Option<ExitStatus> {
    let deadline = Instant::now() + REAP_WAIT;
    loop {
        match child.try_wait() {
            Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_micros(200)),
            Ok(status) => return status,
            Err(error) => {
                tracing::error!("the process of domain {} is lost: {error}", shared.name());
                return None;
            }
        }
    }
}

/// Answers a question of a module.
fn answer(shared: &DomainShared, process: &Arc<ProcessInstance>, call: u64, what: Question) {
    let reply = |result| {
        let _ = process.send(&ToChild::Reply { call, result });
    };
    let run = match what {
        Question::CreateJob { instance, job, payload } => {
            // Another thread answers once the job is durable, since this thread must be free for all other messages.
            let permit = process.asked().creating.enter(job.len() + payload.len());
            let process = Arc::clone(process);
            let create = move || {
                let name = ModuleToken { name: String::new(), id: instance, number: instance, ..Default::default() };
                let result = host::create_job(&name, &job, &payload);
                let _ = process.send(&ToChild::Reply { call, result });
                drop(permit);
            };
            if let Err(error) = thread::Builder::new().name("create-job".to_owned()).spawn(create) {
                reply(Err(error.to_string()));
            }
            return;
        }
        Question::Connect { address } => {
            // Runs on a thread of its own, since resolving names may take long.
            let permit = process.asked().creating.enter(0);
            let (connects, domain) = (Arc::clone(&shared.config.connects), shared.name().to_owned());
            let process = Arc::clone(process);
            let connect = move || {
                let handed = connects.begin(&domain, address).and_then(|socket| process.hand_over(call, &socket));
                let result = handed.map(|()| String::new()).map_err(|errno| errno.to_string());
                let _ = process.send(&ToChild::Reply { call, result });
                drop(permit);
            };
            if thread::Builder::new().name("connect".to_owned()).spawn(connect).is_err() {
                reply(Err(libc::EAGAIN.to_string()));
            }
            return;
        }
        Question::Sign { token } => {
            return reply(crypto::sign(shared.name(), &token).ok_or_else(|| "no key".to_owned()));
        }
        Question::Verify { signed, token } => {
            let valid = crypto::verify(shared.name(), &signed, &token);
            return reply(if valid { Ok(String::new()) } else { Err("not a signature of this server".to_owned()) });
        }
        // Runs on this thread, so that a domain has at most one read in progress; a page is short.
        Question::Rows(query) => {
            let own = (!shared.config.reads_all_jobs).then(|| shared.module_names());
            let page = shared.config.job_tables.page(&query, own.as_deref());
            return reply(page.map_err(|error| error.to_string()));
        }
        Question::Emit { run, .. }
        | Question::SetResult { run, .. }
        | Question::SetError { run, .. }
        | Question::Checkpoint { run, .. }
        | Question::EmitBytes { run, .. }
        | Question::Resume { run }
        | Question::File { run, .. }
        | Question::Output { run, .. } => run,
    };
    let bytes = match &what {
        Question::Emit { kind, data, .. } => kind.len() + data.as_ref().map_or(0, String::len),
        Question::SetResult { text, .. } | Question::SetError { text, .. } => text.len(),
        Question::Checkpoint { bytes, .. } => bytes.len(),
        Question::EmitBytes { kind, bytes, .. } => kind.len() + bytes.len(),
        Question::File { name, .. } | Question::Output { name, .. } => name.len(),
        _ => 0,
    };
    let permit = process.asked().runs.enter(bytes);
    if !shared.ask_run(process, run, RunQuestion { call, what, permit }) {
        reply(Err("there is no such run".to_owned()));
    }
}
