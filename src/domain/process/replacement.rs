//! One process after another.
//!
//! After a death: load all modules, run their `onload`, let the shards send. In place of a process that still serves: load all
//! modules beside it; let no order and no request begin any more and wait for those that have; run `unload` there and
//! `onload` here; let the shards send here. What waited meanwhile is sent then. Jobs go on in the old process until they end.

use super::control::{Order, Outcome};
use super::hook::{Hook, NoOutcome};
use super::instance::ProcessInstance;
use super::lock;
use super::shared::{DomainShared, Loaded};
use super::supervisor::Supervisor;
use crate::domain::inbox::Message;
use crossbeam::channel::RecvTimeoutError;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

/// How long a change waits for orders: modules that are being deployed, and hooks.
const ORDERS_WAIT: Duration = Duration::from_secs(10);
/// How long it waits for running requests; those that take longer end in the old process.
const DRAIN_WAIT: Duration = Duration::from_secs(10);
/// How long it waits for one `unload`, if that may take so long at all.
const UNLOAD_WAIT: Duration = Duration::from_secs(5);
/// How long it waits for a new process to say that it works.
const ANSWER_WAIT: Duration = Duration::from_secs(30);
/// How long an old process stays for jobs and requests that still run there.
const FAREWELL_WAIT: Duration = Duration::from_secs(60);
/// How long it stays after that for scheduled work.
const SETTLE_WAIT: Duration = Duration::from_secs(5);
/// How often it is looked at meanwhile.
const FAREWELL_LOOK: Duration = Duration::from_millis(10);
/// The wait after a process could not be started.
const START_PAUSE: Duration = Duration::from_secs(1);

/// What an old process has still to do.
struct Drain {
    old: Arc<ProcessInstance>,
    /// Shards that have nothing there any more.
    drained: usize,
    /// Modules with running jobs: their `unload` comes when these have ended.
    unload: Vec<u64>,
}

impl Supervisor {
    /// Puts a new process into service, in the place of `old` if there is one. Returns when it is there, or the server stops.
    pub(super) fn succeed(&mut self, old: Option<&Arc<ProcessInstance>>) {
        let mut drain = None;
        while !self.shared.is_stopping() {
            let new = match self.fresh() {
                Ok(new) => new,
                Err(error) => {
                    tracing::error!("the process of domain {} could not be started: {error}", self.shared.name());
                    thread::sleep(START_PAUSE);
                    continue;
                }
            };
            if !self.shared.load_missing(&new) {
                self.pause();
                continue;
            }
            let leaving = drain.get_or_insert_with(|| self.shared.retire(old));
            if !self.shared.take_over(&new) {
                self.pause();
                continue;
            }
            match leaving.take() {
                Some(leaving) => {
                    leaving.wait_apart(&self.shared);
                    self.shared.replacements.fetch_add(1, Ordering::Relaxed);
                }
                // It may have died while it was to be replaced.
                None => drop(self.shared.restarts.fetch_add(u64::from(old.is_some()), Ordering::Relaxed)),
            }
            self.begun(&new);
            return;
        }
    }
}

impl DomainShared {
    /// Loads the modules that `process` has not. False: it died of one of them.
    fn load_missing(&self, process: &ProcessInstance) -> bool {
        let wanted = |id: u64, module: &Loaded| !module.quarantine.is_on() && !process.has(id);
        let modules = lock(&self.modules);
        let missing: Vec<(u64, PathBuf)> = modules
            .iter()
            .filter(|(id, module)| wanted(**id, module))
            .map(|(id, module)| (*id, module.path.clone()))
            .collect();
        drop(modules);
        missing.into_iter().all(|(instance, path)| {
            let path = path.display().to_string();
            self.bring_up(process, instance, Hook::Constructor, Order::Load { instance, path })
        })
    }

    /// Has a module loaded or its `onload` run, and knows whose fault it is if `process` dies of it: then false.
    fn bring_up(&self, process: &ProcessInstance, instance: u64, hook: Hook, order: Order) -> bool {
        let limit = self.config.hook_timeout;
        process.set_trying(Some(instance));
        match process.call_within(limit, self.number(), order) {
            Ok(Outcome::Loaded(manifest, base)) => {
                process.add(instance, base);
                let _ = self.recognize(process, instance, &manifest);
                if !lock(&self.modules).contains_key(&instance) {
                    // It was closed while it was being loaded, and this process was passed over.
                    self.close_in(process, instance);
                }
            }
            Ok(Outcome::Done) => {}
            Ok(other) => tracing::error!("a module could not be loaded again: {other:?}"),
            Err(error) => {
                if error == RecvTimeoutError::Timeout {
                    process.kill_because(format!("{} {}", hook.name(), NoOutcome::Late(limit)));
                }
                process.kill();
                // The crash is to be counted before the next process is tried.
                process.wait_buried();
                return false;
            }
        }
        process.set_trying(None);
        true
    }

    /// Tells `process` the settings of a module. False: it could not be told.
    pub(super) fn configure_in(&self, process: &ProcessInstance, instance: u64) -> bool {
        let settings = lock(&self.modules).get(&instance).map(|module| module.settings.clone());
        let Some(settings) = settings else { return true };
        let order = Order::Configure { instance, settings };
        matches!(process.call_within(self.config.hook_timeout, self.number(), order), Ok(Outcome::Done))
    }

    /// Ends the service of `old`: no order and no request begins there any more. Where a module has an `unload` to be run, those
    /// that did begin have ended, or have had their time. `None`: it is dead.
    fn retire(&self, old: Option<&Arc<ProcessInstance>>) -> Option<Drain> {
        let quiet = self.close_gate(ORDERS_WAIT);
        let old = old.filter(|old| !old.is_dead())?;
        let shards = self.inboxes.get().map_or(0, Vec::len);
        for inbox in self.inboxes.get().into_iter().flatten() {
            inbox.push(Message::DomainDrain { domain: self.identity().number() });
        }
        let mut drain = Drain { old: Arc::clone(old), drained: 0, unload: Vec::new() };
        // Only an `unload` has to come after the last request, and before the next `onload`. Without one, what runs goes on
        // in the old process while others begin in the new.
        let (later, now) = self.to_unload(old);
        let in_order = !later.is_empty() || !now.is_empty();
        let deadline = Instant::now() + if in_order { DRAIN_WAIT } else { Duration::ZERO };
        while drain.drained < shards && !old.is_dead() && Instant::now() < deadline {
            drain.drained += usize::from(old.next_drained().recv_timeout(FAREWELL_LOOK).is_ok());
        }
        if !quiet {
            tracing::warn!("a hook does not return: the process it runs in is ended");
            old.end();
            old.wait_buried();
            self.close_gate(ORDERS_WAIT);
        } else if !in_order {
            // Nothing to be run there.
        } else if drain.drained < shards {
            tracing::warn!("requests run for longer than {} s: they end in the old process", DRAIN_WAIT.as_secs());
        } else {
            let (later, now) = self.to_unload(old);
            for instance in now {
                self.unload(old, instance);
            }
            drain.unload = later;
        }
        if old.is_dead() {
            old.wait_buried();
            return None;
        }
        Some(drain)
    }

    /// The modules of `old` whose `unload` is due: those with running jobs, and those without.
    fn to_unload(&self, old: &ProcessInstance) -> (Vec<u64>, Vec<u64>) {
        let running = self.running_in(old);
        let due = |id: u64, module: &Loaded| {
            module.onloaded && module.has_unload && !module.quarantine.is_on() && old.has(id)
        };
        let modules = lock(&self.modules);
        let due = modules.iter().filter(|(id, module)| due(**id, module)).map(|(id, _)| *id);
        due.partition(|id| running.contains(id))
    }

    fn unload(&self, old: &ProcessInstance, instance: u64) {
        let name = || lock(&self.modules).get(&instance).map(|module| module.name.clone()).unwrap_or_default();
        let limit = UNLOAD_WAIT.min(self.config.hook_timeout);
        match old.call_within(limit, self.number(), Order::Unload { instance }) {
            Ok(Outcome::Fault(what)) => tracing::error!("module {} failed in unload: {what}", name()),
            Err(RecvTimeoutError::Timeout) => {
                tracing::error!("unload of module {} does not return within {} ms", name(), limit.as_millis());
            }
            // If it died of that, this is told elsewhere.
            _ => {}
        }
    }

    /// Makes `new` complete and puts it into service. False: it died.
    fn take_over(self: &Arc<Self>, new: &Arc<ProcessInstance>) -> bool {
        if !self.load_missing(new) {
            return false;
        }
        let configured: Vec<u64> = {
            let modules = lock(&self.modules);
            let has_some = |id: u64, module: &Loaded| !module.settings.0.is_empty() && new.has(id);
            modules.iter().filter(|(id, module)| has_some(**id, module)).map(|(id, _)| *id).collect()
        };
        // Before the hooks, which may read them. Nobody changes them now: that takes a pass.
        for instance in configured {
            if !self.configure_in(new, instance) {
                tracing::error!("a module's settings could not be handed to its new process");
            }
        }
        // Before the hooks, which may look for others' symbols.
        let _ = new.publish(self.number(), self.published());
        let wanted = |id: u64, module: &Loaded| {
            module.onloaded && module.has_onload && !module.quarantine.is_on() && new.has(id)
        };
        let modules = lock(&self.modules);
        let hooks: Vec<u64> = modules.iter().filter(|(id, module)| wanted(**id, module)).map(|(id, _)| *id).collect();
        drop(modules);
        // The last one is of no module: that it is answered shows that the process works, also when there is none.
        let done = hooks.into_iter().chain([0]).all(|instance| self.is_up(new, instance));
        let endpoints = match new.endpoints(self) {
            Ok(endpoints) if done => endpoints,
            other => {
                if let Err(error) = other {
                    tracing::error!("the rings of a process can't be used: {error}");
                }
                new.kill();
                new.wait_buried();
                return false;
            }
        };
        if !self.activate(new, endpoints) {
            new.wait_buried();
            return false;
        }
        for (_, module) in lock(&self.modules).iter_mut().filter(|(id, _)| new.has(**id)) {
            module.history.loaded();
        }
        true
    }

    fn is_up(&self, process: &ProcessInstance, instance: u64) -> bool {
        let order = Order::Onload { instance };
        if instance == 0 {
            return process.call_within(ANSWER_WAIT, self.number(), order).is_ok();
        }
        self.bring_up(process, instance, Hook::Onload, order)
    }
}

impl Drain {
    /// Waits on a thread of its own until nothing runs in the old process any more, and ends it.
    fn wait_apart(self, shared: &Arc<DomainShared>) {
        let (waiting, old) = (Arc::clone(shared), Arc::clone(&self.old));
        let spawned = thread::Builder::new().name("domain-drain".to_owned()).spawn(move || self.wait(&waiting));
        if let Err(error) = spawned {
            tracing::error!("jobs in an old process can't be waited for: {error}");
            old.end();
        }
    }

    fn wait(mut self, shared: &DomainShared) {
        let shards = shared.inboxes.get().map_or(0, Vec::len);
        let deadline = Instant::now() + FAREWELL_WAIT;
        while !self.old.is_dead() {
            self.drained += self.old.next_drained().try_iter().count();
            let running = shared.running_in(&self.old);
            let (later, now): (Vec<u64>, Vec<u64>) =
                std::mem::take(&mut self.unload).into_iter().partition(|id| running.contains(id));
            self.unload = later;
            for instance in now {
                shared.unload(&self.old, instance);
            }
            if running.is_empty() && self.drained >= shards {
                // What these have left to the scheduler; whoever schedules without end is not waited for.
                let _ = self.old.call_within(SETTLE_WAIT, shared.number(), Order::Settle);
                break;
            }
            if Instant::now() >= deadline {
                tracing::warn!(
                    "jobs or requests still run in an old process after {} s: it is ended",
                    FAREWELL_WAIT.as_secs()
                );
                break;
            }
            thread::sleep(FAREWELL_LOOK);
        }
        self.old.end();
    }
}
