//! Operations on a deployed module: reading its versions, sources and settings, deploying an earlier version again,
//! changing settings.

use super::built;
use super::compiled::Compiled;
use super::control_state::{ControlState, short};
use super::deploy::{DeployError, DeployOptions, Deployed, RemoveReply, SourceFields};
use super::generation::Generation;
use super::pipeline;
use super::project::Source;
use super::reach::Reach;
use super::setting_callbacks::Changed;
use super::settings::Change;
use super::versions::{self, Version};
use serde_json::{Value, json};
use std::sync::{Arc, PoisonError, Weak};

/// Takes the result of a query, on a thread of the control plane.
pub type FoundReply = Box<dyn FnOnce(Result<Found, DeployError>) + Send>;

/// A query about a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Query {
    /// The live version: number, libraries, warnings.
    Live,
    /// All versions in the store.
    Versions,
    /// One version.
    Version(u64),
    /// The source of a version; without a number, of the live one.
    Source(Option<u64>),
    /// Settings with their values, and the names of secrets.
    Settings,
}

/// The result of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// JSON.
    Json(String),
    /// The source of a module of one file.
    File(Vec<u8>),
    /// A ready shared object.
    Object(Vec<u8>),
    /// The tar file of a project.
    Project(Vec<u8>),
}

/// The number of the live version of `name`.
fn live(control: &ControlState, name: &str) -> Result<u64, DeployError> {
    let state = control.state();
    let entry = state.entries.iter().find(|entry| entry.manifest.name == name);
    entry.map(|entry| entry.version).ok_or_else(|| DeployError::NotFound(name.to_owned()))
}

fn version(list: &[Version], name: &str, number: u64) -> Result<Version, DeployError> {
    let kept = || list.iter().map(|version| version.number.to_string()).collect::<Vec<_>>().join(", ");
    list.iter().find(|version| version.number == number).cloned().ok_or_else(|| {
        DeployError::Version(format!("module {name} has no version {number}; the kept versions: {}", kept()))
    })
}

/// Answers `query` about the module `name`.
pub(super) fn answer(control: &ControlState, name: &str, query: Query) -> Result<Found, DeployError> {
    if query == Query::Settings {
        return settings(control, name);
    }
    let live = live(control, name)?;
    let list = control.ledger.versions(name)?;
    match query {
        Query::Live | Query::Version(_) => {
            let number = if let Query::Version(number) = query { number } else { live };
            let found = version(&list, name, number)?;
            let mut json = detailed(&found, found.number == live);
            let reports = control.host.sanitizer_reports(&found.domain);
            let crash = control.host.last_crash(&found.domain, name).filter(|_| found.number == live);
            if let (Some(fields), Some(crash)) = (json.as_object_mut(), crash) {
                fields.insert("last_crash".to_owned(), super::crash_json::crash_json(&crash));
            }
            if let Some(fields) = json.as_object_mut().filter(|_| found.fields.sanitize.is_some()) {
                fields.insert("sanitize".to_owned(), found.fields.sanitize.clone().into());
                fields.insert(
                    "sanitizer_reports".to_owned(),
                    if found.number == live { reports } else { Vec::new() }.into(),
                );
            }
            Ok(Found::Json(json.to_string()))
        }
        Query::Versions => {
            let versions: Vec<Value> = list.iter().rev().map(|version| version.json(version.number == live)).collect();
            Ok(Found::Json(json!({ "name": name, "live": live, "versions": versions }).to_string()))
        }
        Query::Source(number) => {
            let found = version(&list, name, number.unwrap_or(live))?;
            let source = control.store.source(&found.key)?;
            let bytes = source.packed()?;
            Ok(match source {
                Source::Project(_) => Found::Project(bytes),
                Source::File(_) if source.object().is_some() => Found::Object(bytes),
                Source::File(_) => Found::File(bytes),
            })
        }
        Query::Settings => settings(control, name),
    }
}

fn detailed(found: &Version, is_live: bool) -> Value {
    let mut json = found.json(is_live);
    if let Some(fields) = json.as_object_mut() {
        let manifest = &found.manifest;
        let routes: Vec<_> = manifest.routes.iter().map(|r| json!({ "method": r.method, "path": r.path })).collect();
        let sockets: Vec<_> = manifest.websockets.iter().map(|w| json!({ "path": w.path })).collect();
        let jobs: Vec<_> = manifest.jobs.iter().map(|j| json!({ "name": j.name })).collect();
        fields.insert("name".to_owned(), manifest.name.clone().into());
        fields.insert("routes".to_owned(), routes.into());
        fields.insert("websockets".to_owned(), sockets.into());
        fields.insert("jobs".to_owned(), jobs.into());
        if !manifest.limits.is_empty() {
            fields.insert("limits".to_owned(), json!(manifest.limits));
        }
    }
    json
}

fn settings(control: &ControlState, name: &str) -> Result<Found, DeployError> {
    let set = control.settings.of(name)?;
    let defaults = control.defaults_of(name);
    let secrets: Vec<&String> = set.secrets.keys().collect();
    let json = json!({ "name": name, "settings": set.settings, "defaults": defaults, "secrets": secrets });
    Ok(Found::Json(json.to_string()))
}

/// How to serve a deployed module again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Again {
    /// In this version; without a number, in the version before the live one.
    Version(Option<u64>),
    /// Compiled with these sanitizers; `None`: without sanitizers.
    Sanitized {
        /// Names of sanitizers, separated by commas.
        names: Option<String>,
        /// The client that asks for it.
        by: String,
    },
}

/// Serves the module `name` again as `again` says.
pub(super) fn again(
    control: &ControlState,
    ticket: u64,
    name: &str,
    again: Again,
    reach: Reach,
) -> Result<Deployed, DeployError> {
    match again {
        Again::Version(number) => rollback(control, ticket, name, number, reach),
        Again::Sanitized { names, by } => sanitize(control, ticket, name, names, by, reach),
    }
}

/// Deploys version `number` of the module `name` again; without a number, the version before the live one. Compiles only if
/// the compiler, the SDK or a library has changed since.
fn rollback(
    control: &ControlState,
    ticket: u64,
    name: &str,
    number: Option<u64>,
    reach: Reach,
) -> Result<Deployed, DeployError> {
    let live = live(control, name)?;
    let list = control.ledger.versions(name)?;
    let number = number
        .or_else(|| versions::before(&list, live))
        .ok_or_else(|| DeployError::Version(format!("module {name} has no version before {live}, which is live")))?;
    let wanted = version(&list, name, number)?;
    let source = control.store.source(&wanted.key)?;
    super::signing::check_kept(control.config.trusted_signers.as_deref(), &source, wanted.signature.as_ref())?;
    let plan = control.compiler.plan(&source, &wanted.fields)?;
    let key = control.compiler.key(&source, &plan);
    let known = || (key == wanted.key).then(|| Arc::new(wanted.manifest.clone()));
    let (_, manifest) = built::built(control, ticket, &key, &source, &plan, known)?;
    let schedules = super::checks::manifest(&source, &manifest)?;
    super::mounts::check_allowed(&manifest, &control.config.mounts)?;
    let compiled = Compiled {
        hash: &wanted.hash,
        key: &key,
        fields: &wanted.fields,
        domain: Some(&wanted.domain),
        warnings: wanted.warnings.clone(),
        persist: true,
        since_ms: None,
        version: Some(Version { key: key.clone(), libraries: plan.libraries(), ..wanted.clone() }),
        message: "",
        by: "",
        take_over: true,
        reach,
        signature: None,
        libraries: plan.libraries(),
        defaults: wanted.settings.clone(),
        schedules,
    };
    let deployed = pipeline::install(control, ticket, compiled, &manifest)?;
    tracing::info!("module {name} is back at version {number} ({})", short(&wanted.hash));
    Ok(deployed)
}

/// Deploys the live source of the module `name` again, compiled with the sanitizers `names`; `None`: without sanitizers.
fn sanitize(
    control: &ControlState,
    ticket: u64,
    name: &str,
    names: Option<String>,
    by: String,
    reach: Reach,
) -> Result<Deployed, DeployError> {
    let live = live(control, name)?;
    let found = version(&control.ledger.versions(name)?, name, live)?;
    let source = control.store.source(&found.key)?;
    super::signing::check_kept(control.config.trusted_signers.as_deref(), &source, found.signature.as_ref())?;
    let fields = SourceFields { sanitize: names, ..found.fields };
    let options = DeployOptions { fields, by, reach, ..DeployOptions::default() };
    pipeline::deploy_source(control, ticket, &source, None, &options, found.signature)
}

/// Changes a setting of the module `name` and makes it visible to the running code. `reply` gets the outcome on another
/// thread, after the module's `on_setting` callback has returned.
pub(super) fn change(control: &ControlState, name: &str, change: Change, reply: RemoveReply) {
    match changed(control, name, change) {
        Ok(Some((key, versions))) => control.setting_callbacks.call(name, Changed { key, versions, reply }),
        Ok(None) => reply(Ok(())),
        Err(error) => reply(Err(error)),
    }
}

/// The name of a setting, and versions of its module.
type ChangedSetting = (String, Vec<Weak<Generation>>);

/// Stores the change. Returns the setting and the loaded versions of its module; `None` if the value has not changed.
fn changed(control: &ControlState, name: &str, change: Change) -> Result<Option<ChangedSetting>, DeployError> {
    let text = "a module's name is 1 to 127 bytes without control characters";
    if name.is_empty() || name.len() > 127 || name.chars().any(char::is_control) {
        return Err(DeployError::Setting(text.to_owned()));
    }
    let turn = control.name_lock(name);
    // A swap of this module reads its settings once, so the change must not run during a swap.
    let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
    control.setting_callbacks.check(name)?;
    let (key, defaults) = (change.key.clone(), control.defaults_of(name));
    let before = control.settings.of(name)?.over(&defaults);
    let settings = control.settings.change(name, change)?.over(&defaults);
    let differs = before.0.get(&key) != settings.0.get(&key);
    let served = control.state().entries.iter().find_map(|entry| {
        let serving = entry.serving.as_ref().filter(|_| entry.manifest.name == name);
        serving.map(|serving| Arc::clone(serving.generation()))
    });
    let older = control.known().of_name(name);
    let current = served.as_ref().map(|generation| generation.instance().id());
    let older = older.into_iter().filter(|generation| Some(generation.instance().id()) != current);
    let mut versions = Vec::new();
    for generation in served.iter().map(Arc::clone).chain(older) {
        match generation.instance().configure(&settings) {
            Ok(()) => versions.push(Arc::downgrade(&generation)),
            // The setting is stored: if the domain's process has died, its successor reads the setting at its start.
            Err(fault) => tracing::warn!("module {name}: {fault}"),
        }
    }
    Ok((differs && !versions.is_empty()).then_some((key, versions)))
}
