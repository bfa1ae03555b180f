//! Module code with a time limit: constructors, `onload`, `unload`, `on_setting`, the cancel callbacks of jobs; and what
//! happens when it does not return.
//!
//! A thread that runs foreign code can't be ended, but a process can. A process with such code that does not return is
//! replaced, as after an endless handler. Constructors and destructors run under the dynamic loader's lock, so no further
//! module can be loaded into that process; loads wait for the next process.

use super::control::{Order, Outcome};
use super::instance::ProcessInstance;
use super::lock;
use super::shared::DomainShared;
use crossbeam::channel::{Receiver, RecvTimeoutError};
use std::time::Duration;

/// A kind of module code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    Constructor,
    Onload,
    Unload,
    Setting,
    Cancel,
}

impl Hook {
    /// The name, for people.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Constructor => "a constructor",
            Self::Onload => "onload",
            Self::Unload => "unload",
            Self::Setting => "on_setting",
            Self::Cancel => "the cancel callback of a job",
        }
    }
}

/// The reason why there is no outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoOutcome {
    #[error("its process died")]
    Died,
    /// The time limit.
    #[error("did not return within {} ms, the limit of --hook-timeout-ms", .0.as_millis())]
    Late(Duration),
}

impl DomainShared {
    /// Makes `process` load a module in its turn: modules are loaded one after the other, and the time of one load must not
    /// count for another. `None`: nothing can be loaded there any more, or the process died before the turn.
    pub(super) fn load_in_turn(&self, process: &ProcessInstance, order: Order) -> Option<Result<Outcome, NoOutcome>> {
        let loader = process.loader();
        let _turn = loader.turn();
        if !loader.wait_closed(self.config.hook_timeout) {
            loader.jam();
            self.want_replacement(process, "a destructor of a module does not return");
        }
        if loader.is_jammed() || process.is_dead() {
            return None;
        }
        let loaded = self.call_hook(process, Hook::Constructor, order);
        if matches!(loaded, Err(NoOutcome::Late(_))) {
            loader.jam();
        }
        Some(loaded)
    }

    /// Sends the settings of a module to `process`. Returns false if they could not be sent.
    pub(super) fn configure_in(&self, process: &ProcessInstance, instance: u64) -> bool {
        let settings = lock(&self.modules).get(&instance).map(|module| module.settings.clone());
        let Some(settings) = settings else { return true };
        let order = Order::Configure { instance, settings };
        matches!(process.call_within(self.config.hook_timeout, self.number(), order), Ok(Outcome::Done))
    }

    /// Makes `process` run a hook, and waits for its end within the time limit.
    pub(super) fn call_hook(&self, process: &ProcessInstance, hook: Hook, order: Order) -> Result<Outcome, NoOutcome> {
        let begun = process.begin(self.number(), order).map_err(|_| NoOutcome::Died)?;
        self.await_hook(process, hook, &begun)
    }

    /// Waits for the end of a hook that [`ProcessInstance::begin`] has begun.
    pub(super) fn await_hook(
        &self,
        process: &ProcessInstance,
        hook: Hook,
        begun: &Receiver<Outcome>,
    ) -> Result<Outcome, NoOutcome> {
        let limit = self.config.hook_timeout;
        begun.recv_timeout(limit).map_err(|error| match error {
            RecvTimeoutError::Disconnected => NoOutcome::Died,
            RecvTimeoutError::Timeout => {
                self.want_replacement(process, &format!("{} of a module does not return", hook.name()));
                NoOutcome::Late(limit)
            }
        })
    }
}
