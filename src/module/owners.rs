//! Checks whether a key may change a module.

use super::control_state::ControlState;
use super::deploy::{DeployError, LOOPBACK};
use super::reach::Reach;

/// Checks that a key may deploy the module `name`, which is in the domain `there` if it is deployed, into `domain`.
pub(super) fn check_reach(
    control: &ControlState,
    reach: &Reach,
    name: &str,
    there: Option<&str>,
    domain: &str,
) -> Result<(), DeployError> {
    if reach.may_install(name, there, domain) && (there.is_some() || may_find_secrets(control, reach, name)?) {
        return Ok(());
    }
    let outside = there.filter(|there| !reach.has(Some(there), name)).unwrap_or(domain);
    Err(DeployError::OutOfReach { name: name.to_owned(), domain: outside.to_owned() })
}

/// Whether a module that is new may be deployed under a name that has secrets already: they are for the module of this name,
/// wherever it will be, and not for any module of some domain.
fn may_find_secrets(control: &ControlState, reach: &Reach, name: &str) -> Result<bool, DeployError> {
    Ok(reach.has(None, name) || control.settings.of(name)?.secrets.is_empty())
}

/// Checks that version `live` of the module `name` was not deployed by another key than `by`.
pub(super) fn check_owner(control: &ControlState, name: &str, live: u64, by: &str) -> Result<(), DeployError> {
    let list = control.store.versions(name)?;
    let owner = list.into_iter().find(|version| version.number == live).map(|version| version.by).unwrap_or_default();
    // A module that was deployed without a key has no owner.
    if owner.is_empty() || owner == by || owner == LOOPBACK {
        return Ok(());
    }
    Err(DeployError::TakeOver { name: name.to_owned(), owner })
}
