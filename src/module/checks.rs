//! The checks of a deployment that need neither a running server nor its settings. A deployment and `cweb check` run the same
//! checks.

use super::deploy::DeployError;
use super::matcher::Cache;
use super::project::Source;
use super::table::{Published, Table};
use super::{mounts, sanitizing, schedules, verify};
use crate::abi::manifest::Manifest;
use crate::domain::{DEFAULT_DOMAIN, check_domain_name};
use crate::jobs::store::ScheduleSpec;
use std::sync::Arc;

/// Checks the domain that a client or `module.toml` names, before anything is compiled.
///
/// # Errors
/// [`LoadError::Domain`](crate::domain::LoadError::Domain): the name is not valid, or is reserved.
pub(super) fn domain(domain: Option<&str>, is_sanitized: bool) -> Result<(), DeployError> {
    domain.map_or(Ok(()), check_domain_name)?;
    if is_sanitized { Ok(()) } else { sanitizing::check_reserved(domain) }
}

/// Checks the manifest of `source`, and returns the schedules that the module declares.
///
/// # Errors
/// The reasons for a refusal.
pub(super) fn manifest(source: &Source, manifest: &Manifest) -> Result<Vec<ScheduleSpec>, DeployError> {
    source.check_name(&manifest.name)?;
    verify::check(manifest)?;
    mounts::check(manifest)?;
    schedules::declared(source, manifest)
}

/// Checks the size of the module's route patterns. A server compares them with the patterns of its other modules, too.
///
/// # Errors
/// [`DeployError::Patterns`].
pub(super) fn patterns(manifest: &Manifest) -> Result<(), DeployError> {
    let alone = Published::new(Arc::new(manifest.clone()), String::new(), DEFAULT_DOMAIN.to_owned(), None);
    let table = Table::build(vec![alone], &mut Cache::default());
    table.map(drop).map_err(|error| DeployError::Patterns(error.to_string()))
}
