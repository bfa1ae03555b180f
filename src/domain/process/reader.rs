//! Reading what a life says until it ends, and its burial.

use super::control::{Question, ToChild, ToParent};
use super::hearing::Hearing;
use super::life::Life;
use super::shared::{RunQuestion, Shared};
use super::supervisor::Event;
use crate::abi::{crypto, host};
use crate::jobs::store::Tables;
use crossbeam::channel::Sender;
use std::io;
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// How long the end of a process is waited for, to know how it ended.
const REAP_WAIT: Duration = Duration::from_millis(50);

/// How long the last words of a process that is over are waited for; they are in the pipe.
const PRINTED_WAIT: Duration = Duration::from_millis(100);

/// Reads `life` until it ends, and buries it. `alive` is dropped when all is done.
pub(super) fn attend(
    shared: &Arc<Shared>,
    life: &Arc<Life>,
    mut hearing: Hearing,
    mut child: Child,
    alive: Sender<()>,
) {
    let mut tables = Tables::new(&shared.config.jobs_database);
    let error = loop {
        match hearing.next() {
            Ok(ToParent::Done { call, outcome }) => life.done(call, outcome),
            Ok(ToParent::Question { call, what }) => answer(shared, life, &mut tables, call, what),
            Ok(ToParent::Fault(fault)) => {
                shared.fault_caught(life, &fault);
                shared.want_replacement(life, "a signal was caught in it, so its memory can't be trusted");
            }
            Err(error) => break error,
        }
    };
    if error.kind() != io::ErrorKind::UnexpectedEof && !life.is_ending() {
        tracing::error!("the process of domain {} can't be understood: {error}", shared.name());
        life.set_broken();
    } else if !is_exiting(child.id()) {
        // It has hung up and lives on: what ends it now is the server.
        life.set_broken();
    }
    let reaped = bury(shared, life, &mut child);
    if reaped {
        life.wait_printed(PRINTED_WAIT);
    }
    drop(alive);
    let _ = shared.events.send(Event::Died { life: life.number() });
    if !reaped {
        let _ = child.wait();
    }
    life.unconfine();
}

/// Whether a process that is not reaped is on its way out: its descriptors are closed after the kernel has said so
/// (`PF_EXITING` in the flags of proc_pid_stat(5)).
fn is_exiting(pid: u32) -> bool {
    const PF_EXITING: u64 = 4;
    const FLAGS_AFTER_NAME: usize = 6;
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    let flags = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(FLAGS_AFTER_NAME));
    flags.and_then(|flags| flags.parse::<u64>().ok()).is_none_or(|flags| flags & PF_EXITING != 0)
}

/// The process is dead, or is so now: everybody who waits for it learns it, first of all the shards. Returns whether it
/// has been waited for.
fn bury(shared: &Shared, life: &Life, child: &mut Child) -> bool {
    life.kill();
    life.give_up_orders();
    shared.dethrone(life);
    life.is_reaped();
    let status = wait_briefly(shared, child);
    // The supervisor tells of a spare.
    if !life.is_ending() && !life.is_spare() && !shared.is_stopping() {
        shared.life_lost(life, status);
    }
    status.is_some()
}

/// Waits for a process that has been killed. `None`: it is not over yet. A process is over when its last thread is, and
/// one that gets no processor time, on a machine that is kept busy, can take long: the next life doesn't wait for that.
fn wait_briefly(shared: &Shared, child: &mut Child) -> Option<ExitStatus> {
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

/// Answers what a module asks.
fn answer(shared: &Shared, life: &Arc<Life>, tables: &mut Tables, call: u64, what: Question) {
    let reply = |result| {
        let _ = life.send(&ToChild::Reply { call, result });
    };
    let run = match what {
        Question::CreateJob { instance, job, payload } => {
            // It is answered once it is durable: not here, where everybody else's answers pass.
            let permit = life.asked().creating.enter(job.len() + payload.len());
            let life = Arc::clone(life);
            let create = move || {
                let name =
                    host::ModuleToken { name: String::new(), id: instance, number: instance, ..Default::default() };
                let result = host::create_job(&name, &job, &payload);
                let _ = life.send(&ToChild::Reply { call, result });
                drop(permit);
            };
            if let Err(error) = thread::Builder::new().name("create-job".to_owned()).spawn(create) {
                reply(Err(error.to_string()));
            }
            return;
        }
        Question::Sign { token } => {
            return reply(crypto::sign(shared.name(), &token).ok_or_else(|| "no key".to_owned()));
        }
        Question::Verify { signed, token } => {
            let valid = crypto::verify(shared.name(), &signed, &token);
            return reply(if valid { Ok(String::new()) } else { Err("no signature of this server".to_owned()) });
        }
        // Here, so that a domain has one read going at most; a page is short.
        Question::Rows(query) => {
            let own = (!shared.config.reads_all_jobs).then(|| shared.module_names());
            return reply(tables.page(&query, own.as_deref()).map_err(|error| error.to_string()));
        }
        Question::Emit { run, .. } | Question::SetResult { run, .. } | Question::SetError { run, .. } => run,
    };
    let bytes = match &what {
        Question::Emit { kind, data, .. } => kind.len() + data.as_ref().map_or(0, String::len),
        Question::SetResult { text, .. } | Question::SetError { text, .. } => text.len(),
        _ => 0,
    };
    let permit = life.asked().runs.enter(bytes);
    if !shared.ask_run(life, run, RunQuestion { call, what, permit }) {
        reply(Err("there is no such run".to_owned()));
    }
}
