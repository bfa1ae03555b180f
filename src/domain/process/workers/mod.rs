//! Processes for single calls: routes with `CWEB_KILLABLE`.
//!
//! A thread can't be ended, but a process can. Such a call therefore runs in a worker, a process of its own, and an
//! executor thread of the domain waits for it. At the call's deadline, or when its client has gone, the worker is killed
//! without harm to anything else.
//!
//! The domain's process has many threads, and a lock that is held at a fork stays locked in the child. Therefore only
//! one process is forked from it for each load of a module, right after `onload`, and again after `on_setting`. This
//! child is the zygote: it has one thread and checks whether it can run calls (`zygotes` chooses the current one). All
//! other processes are forked from the zygote (see `zygote`). These processes have the module's memory copy-on-write,
//! but neither the memory that the domain shares with the server (`Region::keep_from_children`) nor its connections.
//! Functions that need those refuse calls there (`abi::worker`).
//!
//! Limits: the number of concurrent calls, each with two processes, for all modules of a domain. Each process may have
//! the address space of the domain, and all of them share the domain's cgroup. Modules can't create processes
//! themselves. The filter against that (`sandbox::no_forks`) is missing only in the thread that makes zygotes, in
//! zygotes and in spawners, which run no module code.

mod call;
mod forker;
mod host;
mod packets;
mod zygote;
mod zygotes;

pub(super) use forker::Forker;
pub(super) use host::WorkerHost;
pub(super) use zygote::keep as keep_fault;

use super::control::CaughtFault;
use crate::abi::stream::StreamCall;
use crate::domain::in_process::{InProcessModule, WorkerAnswer, Workers};
use crate::domain::stream::call::CallState;
use crate::domain::{NoAnswer, output};
use crate::proto::http1::RequestView;
use call::{Ask, Ended, Outcome, Reply, SpawnerEnd, exchange};
use forker::Zygote;
use host::Place;
use std::io;
use std::sync::{Arc, Weak};
use tracing::Level;
use zygotes::Zygotes;

/// The workers of one loaded module.
struct ModuleWorkers {
    host: Arc<WorkerHost>,
    module: Weak<InProcessModule>,
    zygotes: Arc<Zygotes>,
}

/// Makes workers run the killable calls of `module`, if it has such routes. Without a `host` these calls run like others.
pub(super) fn attach(module: &Arc<InProcessModule>, host: Option<&Arc<WorkerHost>>) -> bool {
    if !module.has_killable() {
        return false;
    }
    let Some(host) = host else {
        tracing::warn!("module {}: CWEB_KILLABLE has no effect in a process with a sanitizer", module.name());
        return false;
    };
    let (host, module_of) = (Arc::clone(host), Arc::downgrade(module));
    let zygotes = Zygotes::new(Arc::clone(&host), Weak::clone(&module_of));
    module.set_workers(Box::new(ModuleWorkers { host, module: module_of, zygotes }));
    true
}

impl ModuleWorkers {
    /// Runs the call in a worker; tries once more if no worker has begun it.
    fn outcome(
        &self,
        route: usize,
        view: &RequestView<'_>,
        state: &CallState,
    ) -> io::Result<(Outcome, Arc<Zygote>, SpawnerEnd)> {
        let (mut may_retry, packed) = (true, view.packed());
        loop {
            let zygote = self.zygotes.current(state)?;
            // The time that the wait has left of the call's time.
            let limit_ms = state.remaining_ms();
            let ask = Ask { route, head_bytes: packed.len(), peer: view.peer, limit_ms };
            let meta = serde_json::to_vec(&ask)?;
            let mut taken = zygote.take();
            let outcome = match &mut taken {
                Ok(spawner) => exchange(spawner, &meta, &[&packed, view.body], state)?,
                Err(_) => Outcome::Unreachable { may_have_begun: false },
            };
            match (outcome, taken) {
                (Outcome::Unreachable { may_have_begun: false }, taken) if may_retry => {
                    if let Ok(spawner) = &taken {
                        forker::end(&spawner.socket);
                    }
                    self.zygotes.discard(&zygote);
                    may_retry = false;
                }
                (outcome, Ok(spawner)) => return Ok((outcome, zygote, spawner)),
                (_, Err(error)) => return Err(error),
            }
        }
    }

    /// The answer for a worker that ended without one.
    fn ended(&self, ended: Ended, what: &str) -> NoAnswer {
        let (name, how) = (self.name(), ended.what());
        output::said(&name, Level::ERROR, &format!("{what} is answered 500: its process ended: {how}"));
        let module = self.module.upgrade().map_or(0, |module| module.number());
        let signal = ended.signal().unwrap_or_default();
        let fault = ended
            .fault
            .or_else(|| (signal != 0).then(|| CaughtFault { instance: module, signal, ..CaughtFault::default() }));
        if let Some(fault) = fault {
            let place = format!("a handler ({what}), in a process of its own");
            (self.host.tell)(CaughtFault { place, ..fault });
        }
        NoAnswer::failed(format!("module {name} failed: the process of its handler ended: {how}\n"))
    }

    /// The answer for a call whose time is over.
    fn late(&self, what: &str, limit_ms: Option<u64>, so: &str) -> NoAnswer {
        let (name, limit_ms) = (self.name(), limit_ms.unwrap_or_default());
        let text = format!("did not answer within {limit_ms} ms");
        output::said(&name, Level::ERROR, &format!("{what} {text}: it is answered 504, {so}"));
        NoAnswer::from((504, format!("module {name} {text}\n")))
    }

    fn name(&self) -> String {
        self.module.upgrade().map_or_else(|| "?".to_owned(), |module| module.name().to_owned())
    }

    fn busy(&self) -> NoAnswer {
        let most = self.host.calls_max;
        let text = format!("the limit on calls in processes of their own is reached: {most} (--killable-calls-max)\n");
        NoAnswer::from((503, text))
    }
}

impl Workers for ModuleWorkers {
    fn call(&self, route: usize, view: &RequestView<'_>, state: &CallState) -> Result<WorkerAnswer, NoAnswer> {
        let Some(_place) = Place::take(&self.host) else { return Err(self.busy()) };
        let limit_ms = state.remaining_ms();
        let what = format!("{} {}", view.method().as_str(), String::from_utf8_lossy(view.path()));
        let failed = |error: io::Error| {
            output::said(&self.name(), Level::ERROR, &format!("{what} is answered 503: no process for it: {error}"));
            NoAnswer::from((503, format!("there is no process for the call: {error}\n")))
        };
        let (outcome, zygote, spawner) = match self.outcome(route, view, state) {
            Err(_) if state.remaining_ms() == Some(0) => {
                return Err(self.late(&what, limit_ms, "no process has begun it"));
            }
            outcome => outcome.map_err(failed)?,
        };
        match outcome {
            Outcome::Answered(reply, body) => {
                // The answer may come from the zygote, which answers in this way if it has made no spawner.
                if reply.refused.is_none() {
                    zygote.give_back(spawner);
                } else {
                    forker::end(&spawner.socket);
                }
                let Reply { status, fields, refused, fault } = reply;
                if let Some(fault) = fault {
                    (self.host.tell)(fault);
                }
                match refused {
                    None => Ok(WorkerAnswer { status, fields, body }),
                    Some(text) => Err(NoAnswer::from((status, text))),
                }
            }
            Outcome::Ended(ended) => {
                // The spawner is not reused: bytes that the worker has not read would reach the next worker.
                forker::end(&spawner.socket);
                Err(self.ended(ended, &what))
            }
            Outcome::Late => {
                forker::end(&spawner.socket);
                Err(self.late(&what, limit_ms, "its process is killed"))
            }
            Outcome::Gone => {
                forker::end(&spawner.socket);
                Err(NoAnswer::from((503, "the client is gone\n".to_owned())))
            }
            Outcome::Unreachable { .. } => {
                forker::end(&spawner.socket);
                Err(NoAnswer::failed(format!("module {}: the process of its handler is gone\n", self.name())))
            }
        }
    }

    fn renew(&self) {
        self.zygotes.renew(true);
    }

    fn refresh(&self) {
        self.zygotes.renew(false);
    }

    fn end(&self) {
        self.zygotes.end();
    }
}
