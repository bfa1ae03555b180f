//! The driver of a domain's state machine: one thread that takes events and carries out the machine's decisions.
//!
//! This thread never waits for a process: orders, starts and examinations come back as events, and the machine has the time
//! limits. The thread ends when the domain has stopped and its last process has ended.

use super::control::{self, Outcome};
use super::events::Event;
use super::helper::{self, Task};
use super::instance::ProcessInstance;
use super::lifecycle::{Catalog, Effect, Ending, Input, Machine, ModuleId, Order, ProcessId, Settings};
use super::lock;
use super::shared::{DomainShared, Loaded};
use super::start;
use crate::domain::sanitized;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};
use std::collections::BTreeMap;
use std::io;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Instant;

struct Supervisor {
    machine: Machine,
    shared: Arc<DomainShared>,
    helper: Sender<Task>,
    processes: BTreeMap<ProcessId, Supervised>,
}

/// A process that the machine knows.
struct Supervised {
    instance: Arc<ProcessInstance>,
    /// The status of its end.
    status: Option<ExitStatus>,
    /// Keeps its cgroup, through its reader.
    hold: Option<Sender<()>>,
}

/// Starts the threads that keep a process in service and a spare ready.
///
/// # Errors
/// The threads can't be started.
pub(super) fn start(shared: &Arc<DomainShared>, events: Receiver<Event>) -> io::Result<()> {
    let settings = Settings {
        domain: shared.name().to_owned(),
        hook_timeout: shared.config.hook_timeout,
        crash_limit: shared.config.crash_limit,
        is_sanitized: sanitized::is_one(shared.name()),
    };
    let supervisor = Supervisor {
        machine: Machine::new(settings, Instant::now()),
        shared: Arc::clone(shared),
        helper: helper::start(shared)?,
        processes: BTreeMap::new(),
    };
    thread::Builder::new().name("domain".to_owned()).spawn(move || supervisor.run(&events))?;
    Ok(())
}

impl Supervisor {
    fn run(mut self, events: &Receiver<Event>) {
        self.step(Input::Tick);
        while !self.machine.is_over() {
            let event = match self.machine.wake_at() {
                Some(at) => events.recv_deadline(at),
                None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let input = match event {
                Ok(event) => self.translate(event),
                Err(RecvTimeoutError::Timeout) => Some(Input::Tick),
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if let Some(input) = input {
                self.step(input);
            }
        }
    }

    fn step(&mut self, input: Input) {
        let catalog = Modules { shared: &self.shared, processes: &self.processes };
        let effects = self.machine.step(Instant::now(), input, &catalog);
        for effect in effects {
            self.carry_out(effect);
        }
    }

    /// Keeps the part of an event that only this thread needs, and returns the machine's input.
    fn translate(&mut self, event: Event) -> Option<Input> {
        match event {
            Event::Input(input) => Some(input),
            Event::Started(Ok(instance)) => {
                let process = instance.number();
                self.processes.insert(process, Supervised { instance, status: None, hold: None });
                Some(Input::Started { process })
            }
            Event::Started(Err(error)) => Some(Input::NotStarted { why: error.to_string() }),
            Event::Reaped { process, status, hold } => {
                if let Some(supervised) = self.processes.get_mut(&process) {
                    (supervised.status, supervised.hold) = (status, Some(hold));
                }
                Some(Input::Reaped { process })
            }
            Event::Outcome { process, call, outcome } => {
                let result = self.outcome(process, outcome);
                Some(Input::Done { process, call, result })
            }
        }
    }

    /// The machine's result for the outcome of an order.
    fn outcome(&self, process: ProcessId, outcome: Outcome) -> Result<(), String> {
        let instance = self.instance(process);
        let module = instance.and_then(|instance| instance.trying());
        if let Some(instance) = instance {
            instance.set_trying(None);
        }
        match outcome {
            Outcome::Loaded(manifest, base) => {
                if let (Some(instance), Some(module)) = (instance, module) {
                    instance.add(module, base);
                    let _ = self.shared.recognize(instance, module, &manifest);
                    if !lock(&self.shared.modules).contains_key(&module) {
                        // The module was closed while it was being loaded, without an order to this process.
                        self.shared.close_apart(instance, module);
                    }
                }
                Ok(())
            }
            Outcome::Done | Outcome::Returned(_) => Ok(()),
            Outcome::Fault(text)
            | Outcome::Host(text)
            | Outcome::Loader(text)
            | Outcome::Refused(text)
            | Outcome::Exhausted(_, text) => Err(text),
        }
    }

    fn instance(&self, process: ProcessId) -> Option<&Arc<ProcessInstance>> {
        self.processes.get(&process).map(|supervised| &supervised.instance)
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Start => drop(self.helper.send(Task::Start)),
            Effect::CountRestart => drop(self.shared.restarts.fetch_add(1, Ordering::Relaxed)),
            Effect::CountReplacement => drop(self.shared.replacements.fetch_add(1, Ordering::Relaxed)),
            Effect::Log(level, text) => log(level, &text),
            Effect::CloseGate { round } => self.shared.gate().close(round),
            Effect::Quarantine { module, cause, summary } => self.shared.quarantine(module, cause, &summary),
            Effect::Forget { process } => drop(self.processes.remove(&process)),
            Effect::Examine { process, trying } => {
                let Some(supervised) = self.processes.get(&process) else { return };
                let (instance, status) = (Arc::clone(&supervised.instance), supervised.status);
                let _ = self.helper.send(Task::Examine { process: instance, trying, status });
            }
            Effect::Order { process, .. }
            | Effect::Publish { process }
            | Effect::Drain { process }
            | Effect::Up { process }
            | Effect::Down { process }
            | Effect::Signal { process, .. } => {
                if let Some(instance) = self.instance(process) {
                    self.carry_out_in(instance, effect);
                }
            }
        }
    }

    /// Carries out an effect that concerns one living process.
    fn carry_out_in(&self, instance: &Arc<ProcessInstance>, effect: Effect) {
        match effect {
            Effect::Order { call, what, .. } => self.order(instance, call, what),
            Effect::Publish { .. } => drop(instance.publish(self.shared.number(), self.shared.published())),
            Effect::Drain { .. } => {
                instance.set_draining();
                self.shared.drain();
            }
            Effect::Up { .. } => match start::endpoints(&self.shared, instance) {
                Ok(endpoints) => self.shared.activate(instance, endpoints),
                Err(error) => {
                    tracing::error!("the rings of a process can't be used: {error}");
                    instance.kill();
                }
            },
            Effect::Down { .. } => self.shared.deactivate(instance),
            Effect::Signal { how: Ending::Kill(Some(why)), .. } => instance.kill_because(why),
            Effect::Signal { how: Ending::Kill(None), .. } => instance.kill(),
            Effect::Signal { how: Ending::Finish, .. } => instance.finish(),
            Effect::Signal { how: Ending::HangUp, .. } => instance.hang_up(),
            _ => {}
        }
    }

    /// Sends an order of the machine. An order for a removed module counts as done.
    fn order(&self, instance: &Arc<ProcessInstance>, call: u64, what: Order) {
        let modules = lock(&self.shared.modules);
        let order = match what {
            Order::Load(id) => modules.get(&id).map(|module| {
                let path = module.path.display().to_string();
                control::Order::Load { instance: id, path }
            }),
            Order::Configure(id) => modules.get(&id).map(|module| {
                let settings = module.settings.clone();
                control::Order::Configure { instance: id, settings }
            }),
            Order::Onload(id) => Some(control::Order::Onload { instance: id }),
            Order::Probe => Some(control::Order::Onload { instance: 0 }),
            Order::Unload(id) => Some(control::Order::Unload { instance: id }),
            Order::Settle => Some(control::Order::Settle),
        };
        drop(modules);
        match order {
            Some(order) => {
                if let Order::Load(id) | Order::Onload(id) = what {
                    instance.set_trying(Some(id));
                }
                instance.begin_supervised(call, order);
            }
            None => self.shared.tell(Input::Done { process: instance.number(), call, result: Ok(()) }),
        }
    }
}

fn log(level: tracing::Level, text: &str) {
    match level {
        tracing::Level::ERROR => tracing::error!("{text}"),
        tracing::Level::WARN => tracing::warn!("{text}"),
        _ => tracing::info!("{text}"),
    }
}

/// The modules of a domain, and their state in its processes.
struct Modules<'a> {
    shared: &'a DomainShared,
    processes: &'a BTreeMap<ProcessId, Supervised>,
}

impl Modules<'_> {
    fn select(&self, process: ProcessId, wanted: impl Fn(&Loaded, bool) -> bool) -> Vec<ModuleId> {
        let Some(process) = self.processes.get(&process) else { return Vec::new() };
        let modules = lock(&self.shared.modules);
        let wanted = |(id, module): &(&ModuleId, &Loaded)| wanted(module, process.instance.has(**id));
        modules.iter().filter(wanted).map(|(id, _)| *id).collect()
    }
}

impl Catalog for Modules<'_> {
    fn missing(&self, process: ProcessId) -> Vec<ModuleId> {
        self.select(process, |module, is_loaded| !module.quarantine.is_on() && !is_loaded)
    }

    fn with_settings(&self, process: ProcessId) -> Vec<ModuleId> {
        self.select(process, |module, is_loaded| !module.settings.0.is_empty() && is_loaded)
    }

    fn to_onload(&self, process: ProcessId) -> Vec<ModuleId> {
        self.select(process, |module, is_loaded| {
            module.onloaded && module.has_onload && !module.quarantine.is_on() && is_loaded
        })
    }

    fn to_unload(&self, process: ProcessId) -> Vec<ModuleId> {
        self.select(process, |module, is_loaded| {
            module.onloaded && module.has_unload && !module.quarantine.is_on() && is_loaded
        })
    }

    fn running(&self, process: ProcessId) -> Vec<ModuleId> {
        self.processes.get(&process).map(|process| self.shared.running_in(&process.instance)).unwrap_or_default()
    }

    fn loaded(&self, process: ProcessId) -> Vec<ModuleId> {
        self.select(process, |_, is_loaded| is_loaded)
    }

    fn name(&self, module: ModuleId) -> String {
        lock(&self.shared.modules).get(&module).map(|module| module.name.clone()).unwrap_or_default()
    }

    fn contains(&self, module: ModuleId) -> bool {
        lock(&self.shared.modules).contains_key(&module)
    }

    fn is_quarantined(&self, module: ModuleId) -> bool {
        lock(&self.shared.modules).get(&module).is_some_and(|module| module.quarantine.is_on())
    }
}
