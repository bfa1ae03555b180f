//! The restart of one module, in its present version.

use super::control_state::ControlState;
use super::deploy::DeployError;
use std::sync::{Arc, PoisonError};

/// Restarts a module: see [`Instance::restart`](crate::domain::Instance::restart).
pub(super) fn restart(control: &ControlState, name: &str) -> Result<(), DeployError> {
    let turn = control.name_lock(name);
    // A swap of this module must wait, because it would replace the instance during its restart.
    let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
    let generation = control.state().entries.iter().find_map(|entry| {
        let serving = entry.serving.as_ref().filter(|_| entry.manifest.name == name);
        serving.map(|serving| Arc::clone(serving.generation()))
    });
    let generation = generation.ok_or_else(|| DeployError::NotFound(name.to_owned()))?;
    generation.instance().restart().map_err(|fault| {
        let name = name.to_owned();
        if control.host.domains().is_empty() {
            DeployError::NoProcess { name, fault }
        } else {
            DeployError::Restart { name, fault }
        }
    })?;
    tracing::info!("module {name} was restarted");
    Ok(())
}
