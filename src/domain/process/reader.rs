//! Reading what a life says until it ends, and its burial.

use super::control::{self, Question, ToChild, ToParent};
use super::life::Life;
use super::shared::Shared;
use super::supervisor::Event;
use crate::abi::{crypto, host};
use crossbeam::channel::Sender;
use std::io;
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::sync::Arc;
use std::thread;

/// Reads `life` until it ends, and buries it. `alive` is dropped when all is done.
pub(super) fn attend(
    shared: &Arc<Shared>,
    life: &Arc<Life>,
    mut stream: UnixStream,
    mut child: Child,
    alive: Sender<()>,
) {
    let error = loop {
        match control::read(&mut stream) {
            Ok(ToParent::Done { call, outcome }) => life.done(call, outcome),
            Ok(ToParent::Question { call, what }) => answer(shared, life, call, what),
            Ok(ToParent::Fault(fault)) => {
                shared.fault_caught(life, &fault);
                shared.want_replacement(life, "a signal was caught in it, so its memory can't be trusted");
            }
            Err(error) => break error,
        }
    };
    if error.kind() != io::ErrorKind::UnexpectedEof && !life.is_ending() {
        tracing::error!("the process of domain {} can't be understood: {error}", shared.name());
    }
    bury(shared, life, &mut child);
    drop(alive);
    let _ = shared.events.send(Event::Died { life: life.number() });
}

/// The process is dead, or is so now: everybody who waits for it learns it, first of all the shards.
fn bury(shared: &Shared, life: &Life, child: &mut Child) {
    life.kill();
    life.give_up_orders();
    shared.dethrone(life);
    life.is_reaped();
    let status = child.wait().inspect_err(|error| tracing::error!("the process of domain {} is lost: {error}", shared.name())).ok();
    // The supervisor tells of a spare.
    if !life.is_ending() && !life.is_spare() && !shared.is_stopping() {
        shared.life_lost(life, status);
    }
}

/// Answers what a module asks.
fn answer(shared: &Shared, life: &Arc<Life>, call: u64, what: Question) {
    let reply = |result| {
        let _ = life.send(&ToChild::Reply { call, result });
    };
    let run = match what {
        Question::CreateJob { instance, job, payload } => {
            // It is answered once it is durable: not here, where everybody else's answers pass.
            let life = Arc::clone(life);
            let create = move || {
                let name = host::ModuleToken { name: String::new(), id: instance };
                let result = host::create_job(&name, &job, &payload);
                let _ = life.send(&ToChild::Reply { call, result });
            };
            if let Err(error) = thread::Builder::new().name("create-job".to_owned()).spawn(create) {
                reply(Err(error.to_string()));
            }
            return;
        }
        Question::Sign { token } => return reply(crypto::sign(&token).ok_or_else(|| "no key".to_owned())),
        Question::Verify { signed, token } => {
            let valid = crypto::verify(&signed, &token);
            return reply(if valid { Ok(String::new()) } else { Err("no signature of this server".to_owned()) });
        }
        Question::Emit { run, .. } | Question::SetResult { run, .. } | Question::SetError { run, .. } => run,
    };
    if !shared.ask_run(life, run, call, what) {
        reply(Err("there is no such run".to_owned()));
    }
}
