//! Module code that somebody waits for: constructors, `onload`, `unload`, the cancel callbacks of jobs. How long they may take, and what
//! follows.
//!
//! A thread that runs code of others can't be ended, a process can: one in which such code does not return is replaced, as
//! after a handler that never ends. Constructors and destructors run under the dynamic loader's lock, so nothing else can
//! be loaded there any more; whoever wants to waits for the next process.

use super::control::{Order, Outcome};
use super::instance::ProcessInstance;
use super::lock;
use super::shared::DomainShared;
use crossbeam::channel::{Receiver, RecvTimeoutError};
use std::time::Duration;

/// A part of a module's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    Constructor,
    Onload,
    Unload,
    Setting,
    Cancel,
}

impl Hook {
    /// Its name, for people.
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

/// Why there is no outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoOutcome {
    #[error("its process died")]
    Died,
    /// The limit.
    #[error("did not return within {} ms, the limit of --hook-timeout-ms", .0.as_millis())]
    Late(Duration),
}

impl DomainShared {
    /// Has `process` load a module when it is its turn: one is loaded after the other, and what one takes is not to be
    /// the next one's fault. `None`: nothing can be loaded there any more, or it has died before the turn came.
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

    /// Tells `process` the settings of a module. False: it could not be told.
    pub(super) fn configure_in(&self, process: &ProcessInstance, instance: u64) -> bool {
        let settings = lock(&self.modules).get(&instance).map(|module| module.settings.clone());
        let Some(settings) = settings else { return true };
        let order = Order::Configure { instance, settings };
        matches!(process.call_within(self.config.hook_timeout, self.number(), order), Ok(Outcome::Done))
    }

    /// Has `process` run a part of a module's code, and waits for its end as long as it may take.
    pub(super) fn call_hook(&self, process: &ProcessInstance, hook: Hook, order: Order) -> Result<Outcome, NoOutcome> {
        let begun = process.begin(self.number(), order).map_err(|_| NoOutcome::Died)?;
        self.await_hook(process, hook, &begun)
    }

    /// Waits for the end of what [`ProcessInstance::begin`] has begun.
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
