//! Processes for single calls: routes with `CWEB_KILLABLE`.
//!
//! A thread can't be ended, a process can. So such a call runs in a worker, a process of its own, which an executor thread of the
//! domain waits for; at the call's deadline, or when its client is gone, the worker is killed, and nothing else has lost anything.
//!
//! The domain's process has many threads, and what its child finds locked stays locked. So it is forked once for each load of a
//! module, right after `onload` and again after `on_setting`: the zygote, which has one thread and finds out whether it can run
//! calls (`zygotes` has which one counts). All others are forked below it (see `zygote`). They have the module's memory copy-on-write, none of the memory that the
//! domain shares with the server (`Region::keep_from_children`), and none of its connections; what would need those is refused where
//! modules call it (`abi::worker`).
//!
//! Limits: calls at once, each with two processes, for all modules of a domain; each process has the address space that the domain's
//! may have, and all of them together the domain's cgroup. Modules can't make processes themselves: the filter against it
//! (`sandbox::no_forks`) is missing in the thread that makes zygotes alone, in zygotes and in spawners, which run no module code.

mod call;
mod forker;
mod packets;
mod zygote;
mod zygotes;

pub(super) use forker::Forker;
pub(super) use zygote::keep as keep_fault;

use super::control::CaughtFault;
use crate::abi::stream::StreamCall;
use crate::domain::in_process::{InProcessModule, WorkerAnswer, Workers};
use crate::domain::stream::call::CallState;
use crate::domain::{NoAnswer, output};
use crate::proto::http1::RequestView;
use call::{Ask, Ended, Outcome, Reply, SpawnerEnd, exchange};
use forker::Zygote;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use tracing::Level;
use zygotes::Zygotes;

/// What all modules of the process share.
pub(super) struct WorkerHost {
    pub(super) forker: Forker,
    /// Most calls at once.
    pub(super) calls_max: usize,
    pub(super) calls: AtomicUsize,
    /// Tells the server of a fault in a worker.
    pub(super) tell: Box<dyn Fn(CaughtFault) + Send + Sync>,
}

/// A place among the calls at once.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(host: &'a WorkerHost) -> Option<Self> {
        // Relaxed: the number orders nothing else.
        let more = |calls: usize| (calls < host.calls_max).then_some(calls + 1);
        host.calls.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Self(&host.calls))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The workers of one load of a module.
struct ModuleWorkers {
    host: Arc<WorkerHost>,
    module: Weak<InProcessModule>,
    zygotes: Arc<Zygotes>,
}

/// Has the calls of `module` that can be killed run by workers, if it has such routes. Without a `host` they run as others do.
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
    /// Has a worker run the call; tries again once where no worker has begun it.
    fn outcome(
        &self,
        route: usize,
        view: &RequestView<'_>,
        state: &CallState,
    ) -> io::Result<(Outcome, Arc<Zygote>, SpawnerEnd)> {
        let (mut may_retry, packed) = (true, view.packed());
        loop {
            let zygote = self.zygotes.current(state)?;
            // What the wait has left of its time.
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

    /// What of the outcome of a call is no answer.
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

    /// The time of a call is over.
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
        let text = format!("as many calls as may be run in processes of their own: {most} (--killable-calls-max)\n");
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
                // One that refuses may be none: a zygote answers so where it has made none.
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
                // Never given back: what the worker has not read would be the next one's.
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
