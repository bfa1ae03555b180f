//! Checks whether a key may change a module.

use super::control_state::ControlState;
use super::deploy::{DeployError, LOOPBACK};
use super::reach::Reach;

/// Checks that a key may deploy the module `name` into `domain`; `there` is the domain of a deployed module.
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

/// Whether a new module may be deployed under a name that already has secrets. The secrets are for the module of this name
/// in any domain, so a reach that names a domain does not suffice.
fn may_find_secrets(control: &ControlState, reach: &Reach, name: &str) -> Result<bool, DeployError> {
    Ok(reach.has(None, name) || control.settings.of(name)?.secrets.is_empty())
}

/// Checks that version `live` of the module `name` was not deployed by a key other than `by`.
pub(super) fn check_owner(control: &ControlState, name: &str, live: u64, by: &str) -> Result<(), DeployError> {
    let list = control.ledger.versions(name)?;
    let owner = list.into_iter().find(|version| version.number == live).map(|version| version.by).unwrap_or_default();
    // A module that was deployed without a key has no owner.
    if owner.is_empty() || owner == by || owner == LOOPBACK {
        return Ok(());
    }
    Err(DeployError::TakeOver { name: name.to_owned(), owner })
}
