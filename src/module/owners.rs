//! Checks whether a key may change a module.

use super::control::ControlState;
use super::deploy::{DeployError, LOOPBACK};
use super::reach::Reach;

/// Checks that a key may change the module `name` in `domain`.
pub(super) fn check_reach(reach: &Reach, name: &str, domain: &str) -> Result<(), DeployError> {
    if reach.has(Some(domain), name) {
        return Ok(());
    }
    Err(DeployError::OutOfReach { name: name.to_owned(), domain: domain.to_owned() })
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
