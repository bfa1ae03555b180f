//! The stored data of a deployment: the record that makes it live, and its entry in the list of versions.

use super::compiled::Compiled;
use super::control_state::{ControlState, short};
use super::deploy::{DeployError, Deployed};
use super::durable::both;
use super::ledger::{Draft, Publication};
use super::module_record::Record;
use super::versions::Version;
use crate::abi::manifest::Manifest;
use crate::abi::visible::visible;
use crate::logbook;
use std::time::{SystemTime, UNIX_EPOCH};

/// Prepares the publication of `record` with `version`, and writes the version's reference: a job of the version may start as
/// soon as the module is served.
pub(super) fn prepare(control: &ControlState, version: &Version, record: &Record) -> std::io::Result<Box<dyn Draft>> {
    let publication = Publication { record, version, kept: control.config.versions_kept };
    let (draft, referred) = both(|| control.ledger.prepare(publication), || control.store.refer(record))?;
    referred?;
    draft
}

/// The stored version that `record` makes live.
pub(super) fn version(compiled: &Compiled<'_>, record: &Record) -> Version {
    if let Some(known) = &compiled.version {
        return Version { manifest: record.manifest.clone(), ..known.clone() };
    }
    Version {
        at_ms: now_ms(),
        by: compiled.by.to_owned(),
        message: compiled.message.to_owned(),
        libraries: compiled.libraries.clone(),
        warnings: compiled.warnings.clone(),
        settings: compiled.defaults.clone(),
        signature: compiled.signature.clone(),
        ..Version::of_record(record)
    }
}

pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    u64::try_from(since).unwrap_or(u64::MAX)
}

/// When the module was first deployed: a new version keeps the time of the previous one, also after a restart.
pub(super) fn since_ms(control: &ControlState, compiled: &Compiled<'_>, name: &str) -> u64 {
    let served = control.state().entries.iter().find(|entry| entry.manifest.name == name).map(|entry| entry.since_ms);
    served.or(compiled.since_ms).unwrap_or_else(now_ms)
}

pub(super) fn record(
    compiled: &Compiled<'_>,
    domain: &str,
    manifest: &Manifest,
    since_ms: u64,
    version: u64,
) -> Record {
    Record {
        name: manifest.name.clone(),
        hash: compiled.hash.to_owned(),
        key: compiled.key.to_owned(),
        manifest: manifest.clone(),
        deployed_ms: since_ms,
        domain: domain.to_owned(),
        fields: compiled.fields.clone(),
        version,
    }
}

/// Logs the result of a deployment.
pub(super) fn log_outcome(result: &Result<Deployed, DeployError>) {
    match result {
        Ok(done) if done.unchanged => tracing::info!("module {} is unchanged ({})", done.name, short(&done.hash)),
        Ok(done) => {
            tracing::info!("module {} is deployed ({})", done.name, short(&done.hash));
            logbook::deployed(&done.name);
        }
        Err(error) => tracing::info!("a deployment was refused: {}", visible(&error.reason())),
    }
}
