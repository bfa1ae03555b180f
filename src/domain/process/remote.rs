//! A module in a domain.

use super::call_target::CallTarget;
use super::control::{Order, Outcome, ToChild};
use super::hook::{Hook, NoOutcome};
use super::instance::ProcessInstance;
use super::job_data;
use super::lifecycle::Input;
use super::lock;
use super::quarantine::Quarantine;
use super::shared::{DomainShared, Run, RunQuestion};
use crate::abi::manifest::Manifest;
use crate::abi::settings::Settings;
use crate::domain::{Fault, Instance};
use crate::jobs::code::JobCalls;
use crossbeam::channel::{Receiver, unbounded};
use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

/// How often the server side of a running job checks whether the job must end.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A module in a domain. Dropping it closes the module's shared object there.
pub(super) struct RemoteModule {
    shared: Arc<DomainShared>,
    target: CallTarget,
}

impl RemoteModule {
    pub(super) fn new(shared: Arc<DomainShared>, id: u64, manifest: Manifest, quarantine: Arc<Quarantine>) -> Self {
        let target = CallTarget::new(id, Arc::clone(shared.identity()), manifest, quarantine);
        Self { shared, target }
    }

    /// Loads the module into the process in service, which started without it.
    fn load_again(&self) -> Result<(), String> {
        let modules = lock(&self.shared.modules);
        let module = modules.get(&self.target.id()).ok_or("the module has been removed")?;
        let (path, hook) = (module.path.display().to_string(), module.onloaded && module.has_onload);
        drop(modules);
        let order = Order::Load { instance: self.target.id(), path };
        let (pass, loaded) = loop {
            let pass = self.shared.enter()?;
            if pass.process().has(self.target.id()) {
                // The module was loaded before its quarantine, so its state there must not be used.
                self.shared.want_replacement(pass.process(), "a module was taken out of quarantine");
                return Ok(());
            }
            if let Some(loaded) = self.shared.load_in_turn(pass.process(), order.clone()) {
                break (pass, loaded);
            }
        };
        let process = pass.process();
        match loaded.map_err(|none| in_words(Hook::Constructor, none))? {
            Outcome::Loaded(manifest, base) => {
                process.add(self.target.id(), base);
                self.shared.recognize(process, self.target.id(), &manifest)?;
            }
            Outcome::Loader(what)
            | Outcome::Exhausted(_, what)
            | Outcome::Refused(what)
            | Outcome::Fault(what)
            | Outcome::Host(what) => return Err(what),
            _ => return Err("the domain's process gave an answer of another kind".to_owned()),
        }
        if !self.shared.configure_in(process, self.target.id()) {
            return Err("the module's settings could not be sent to its process".to_owned());
        }
        // If it was published before, other modules find its symbols again.
        let _ = process.publish(self.shared.number(), self.shared.published());
        if hook
            && let Outcome::Fault(what) | Outcome::Host(what) = self
                .shared
                .call_hook(process, Hook::Onload, Order::Onload { instance: self.target.id() })
                .map_err(|none| in_words(Hook::Onload, none))?
        {
            return Err(what);
        }
        Ok(())
    }
}

/// A sentence for a missing outcome of `hook`.
fn in_words(hook: Hook, none: NoOutcome) -> String {
    match none {
        NoOutcome::Died => none.to_string(),
        NoOutcome::Late(_) => format!("{} {none}", hook.name()),
    }
}

fn outcome_of(outcome: Result<Outcome, String>) -> Result<(), Fault> {
    match outcome {
        Ok(Outcome::Fault(what) | Outcome::Host(what) | Outcome::Exhausted(_, what)) | Err(what) => Err(Fault { what }),
        Ok(_) => Ok(()),
    }
}

impl Instance for RemoteModule {
    fn manifest(&self) -> &Manifest {
        self.target.manifest()
    }

    fn configure(&self, settings: &Settings) -> Result<(), Fault> {
        // With a pass, as in `onload`: the next process gets the settings stored here.
        let pass = self.shared.enter();
        if let Some(module) = lock(&self.shared.modules).get_mut(&self.target.id()) {
            module.settings = settings.clone();
        }
        let pass = pass.map_err(|what| Fault { what })?;
        // A module in quarantine is not loaded; it gets its settings when it is loaded again.
        if self.target.barred().is_some() || self.shared.configure_in(pass.process(), self.target.id()) {
            return Ok(());
        }
        Err(Fault { what: "the module's settings could not be sent to its process".to_owned() })
    }

    fn set_version(&self, number: u64) {
        if let Some(module) = lock(&self.shared.modules).get_mut(&self.target.id()) {
            module.version = Some(number);
        }
    }

    fn onload(&self) -> Result<(), Fault> {
        if let Some(what) = self.target.barred() {
            return Err(Fault { what });
        }
        // Held until the end of the hook is recorded: either the next process runs the hook, or this call did, but not both
        // or neither.
        let pass = self.shared.enter().map_err(|what| Fault { what })?;
        if self.target.manifest().has_onload {
            let (id, before) = (self.target.id(), self.shared.last_crash_of(self.target.id()));
            let order = Order::Onload { instance: id };
            let outcome = self.shared.call_hook(pass.process(), Hook::Onload, order);
            let outcome = outcome_of(outcome.map_err(|none| none.to_string()));
            outcome.map_err(|fault| self.shared.located(id, before.as_ref(), fault))?;
        }
        self.shared.set_onloaded(self.target.id(), true);
        Ok(())
    }

    fn setting_changed(&self, key: &str) -> Result<(), Fault> {
        if !self.target.manifest().has_on_setting || self.target.barred().is_some() {
            return Ok(());
        }
        // Held until the order is given, as for the cancel callback of a job: a replacement need not wait for its end.
        let pass = self.shared.enter().map_err(|what| Fault { what })?;
        let order = Order::SettingChanged { instance: self.target.id(), key: key.to_owned() };
        let (process, begun) = (Arc::clone(pass.process()), pass.process().begin(self.shared.number(), order));
        let begun = begun.map_err(|what| Fault { what })?;
        drop(pass);
        let outcome = self.shared.await_hook(&process, Hook::Setting, &begun);
        outcome_of(outcome.map_err(|none| none.to_string()))
    }

    fn unload(&self) -> Result<(), Fault> {
        // As in `onload`. The hook is not run again, whatever its result.
        let pass = self.shared.enter().map_err(|what| Fault { what })?;
        self.shared.set_onloaded(self.target.id(), false);
        if !self.target.manifest().has_unload || self.target.quarantine().is_on() {
            return Ok(());
        }
        let outcome = self.shared.call_hook(pass.process(), Hook::Unload, Order::Unload { instance: self.target.id() });
        outcome_of(outcome.map_err(|none| none.to_string()))
    }

    fn run_job(&self, job: usize, uuid: &str, payload: &str, calls: &dyn JobCalls) -> Result<i32, Fault> {
        if let Some(what) = self.target.barred() {
            return Err(Fault { what });
        }
        let run = self.shared.number();
        let (sender, asked) = unbounded();
        let (instance, payload) = (self.target.id(), payload.to_owned());
        let limit_ms = calls.remaining_ms();
        let order = Order::RunJob { run, instance, job, uuid: uuid.to_owned(), payload, limit_ms };
        let outcome = self.shared.enter().and_then(|pass| {
            let process = Arc::clone(pass.process());
            self.shared.add_run(run, Run { process: Arc::clone(&process), instance, uuid: uuid.to_owned(), sender });
            let done = process.begin(self.shared.number(), order)?;
            // From here on the run belongs to this process, even when another one is in service.
            drop(pass);
            self.attend(&process, run, &asked, &done, calls)
        });
        self.shared.remove_run(run);
        match outcome {
            Ok(Outcome::Returned(returned)) => Ok(returned),
            Ok(Outcome::Fault(what) | Outcome::Host(what)) | Err(what) => Err(Fault { what }),
            Ok(_) => Err(Fault { what: "the domain's process gave an answer of another kind".to_owned() }),
        }
    }

    fn cancel_job(&self, job: usize, uuid: &str) -> Result<(), Fault> {
        if self.target.quarantine().is_on() || self.target.manifest().jobs.get(job).is_none_or(|job| !job.has_cancel) {
            return Ok(());
        }
        let order = Order::CancelJob { instance: self.target.id(), job, uuid: uuid.to_owned() };
        let fault = |what| Fault { what };
        let (process, begun) = match self.shared.process_of_job(uuid) {
            Some(process) => (Arc::clone(&process), process.begin(self.shared.number(), order).map_err(fault)?),
            None => {
                // Held until the order is given, and not while it is carried out, because a replacement must not wait for
                // that.
                let pass = self.shared.enter().map_err(fault)?;
                (Arc::clone(pass.process()), pass.process().begin(self.shared.number(), order).map_err(fault)?)
            }
        };
        let outcome = self.shared.await_hook(&process, Hook::Cancel, &begun);
        outcome_of(outcome.map_err(|none| in_words(Hook::Cancel, none)))
    }

    fn quarantine(&self) -> Option<String> {
        self.target.barred()
    }

    fn restart(&self) -> Result<(), Fault> {
        if self.target.quarantine().lift() {
            self.shared.tell(Input::Lifted { module: self.target.id() });
            return self.load_again().map_err(|what| {
                let name = &self.target.manifest().name;
                let why = format!("module {name} is in quarantine: it could not be loaded again: {what}; ");
                self.target.quarantine().impose(why + "a new deployment lifts it");
                Fault { what }
            });
        }
        let pass = self.shared.enter().map_err(|what| Fault { what })?;
        self.shared.want_replacement(pass.process(), "it was asked for");
        Ok(())
    }

    fn id(&self) -> u64 {
        self.target.id()
    }

    fn as_any(&self) -> &dyn Any {
        &self.target
    }
}

impl RemoteModule {
    /// Answers the questions of a running job until the job has ended.
    fn attend(
        &self,
        process: &ProcessInstance,
        run: u64,
        asked: &Receiver<RunQuestion>,
        done: &Receiver<Outcome>,
        calls: &dyn JobCalls,
    ) -> Result<Outcome, String> {
        let mut told = false;
        loop {
            crossbeam::channel::select! {
                recv(asked) -> question => {
                    let Ok(RunQuestion { call, what, permit }) = question else { continue };
                    let result = job_data::answer(what, calls, |file| process.hand_over(call, file));
                    let _ = process.send(&ToChild::Reply { call, result });
                    drop(permit);
                }
                recv(done) -> outcome => return outcome.map_err(|_| "its process died".to_owned()),
                default(LOOK_EVERY) => {}
            }
            if !told && calls.is_canceled() {
                told = true;
                let _ = process.send(&ToChild::MustEnd { run });
            }
        }
    }
}

impl Drop for RemoteModule {
    fn drop(&mut self) {
        self.shared.close(self.target.id());
    }
}
