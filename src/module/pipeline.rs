//! One deployment, step by step. Each step before the publication can refuse the deployment; then nothing has changed.

use super::built::built;
use super::compile::Plan;
use super::compiled::Compiled;
use super::control_state::{ControlState, Entry};
use super::deploy::{DeployError, DeployOptions, Deployed, SourceFields, cut};
use super::durable::both;
use super::generation::{Generation, Serving};
use super::ledger::Draft;
use super::module_record::Record;
use super::project::{Posted, Source};
use super::reach::Reach;
use super::record::{prepare, record, since_ms, version};
use super::signing::{self, Signature};
use super::versions::{self, Version};
use super::{checks, mounts, owners, sanitizing, verify};
use crate::abi::manifest::Manifest;
use crate::domain::LoadError;
use crate::logbook;
use crossbeam::channel::RecvTimeoutError;
use std::sync::{Arc, PoisonError};

/// Deploys `posted`.
pub(super) fn deploy(
    control: &ControlState,
    ticket: u64,
    posted: Posted,
    options: &DeployOptions,
) -> Result<Deployed, DeployError> {
    let source = Source::read(posted, control.config.project_limits)?;
    let domain = options.domain.as_deref().or(source.domain());
    checks::domain(domain, options.fields.sanitize.is_some())?;
    // An early check, before the compiler starts; the load checks this again, together with the limit on domains.
    domain.map_or(Ok(()), |domain| control.host.check_domain(domain))?;
    let trusted = control.config.trusted_signers.as_deref();
    let signature = signing::check(trusted, &source, &options.fields, options.signature.as_deref())?;
    deploy_source(control, ticket, &source, domain, options, signature)
}

/// Deploys `source` into `domain`; its files and `signature` must have been checked.
pub(super) fn deploy_source(
    control: &ControlState,
    ticket: u64,
    source: &Source,
    domain: Option<&str>,
    options: &DeployOptions,
    signature: Option<Signature>,
) -> Result<Deployed, DeployError> {
    sanitizing::check(control, source, options, domain)?;
    let plan = control.compiler.plan(source, &options.fields)?;
    let mut deployed = deploy_read(control, ticket, source, &plan, domain, options, signature)?;
    // The remarks are not stored with the module: the next client may not send the fields.
    deployed.warnings.push_str(&plan.remarks());
    Ok(deployed)
}

/// Deploys `source`, whose plan has been made.
fn deploy_read(
    control: &ControlState,
    ticket: u64,
    source: &Source,
    plan: &Plan,
    domain: Option<&str>,
    options: &DeployOptions,
    signature: Option<Signature>,
) -> Result<Deployed, DeployError> {
    let hash = source.hash(plan.fields());
    let name = plan.fields().source_name.as_deref();
    if let Some(same) = already_served(control, ticket, &hash, name, domain, &options.reach)? {
        return Ok(same);
    }
    let key = control.compiler.key(source, plan);
    // A module that moves to another domain was inspected at its first deployment.
    let (warnings, manifest) = built(control, ticket, &key, source, plan, || served_manifest(control, &hash))?;
    let schedules = checks::manifest(source, &manifest)?;
    mounts::check_allowed(&manifest, &control.config.mounts)?;
    let warnings = warnings + &verify::remarks(&manifest, control.config.route_limits);
    let fields = plan.fields();
    let message = options.message.as_deref().unwrap_or_default();
    let message = cut(message, MESSAGE_BYTES_MAX);
    let compiled = Compiled {
        hash: &hash,
        key: &key,
        fields,
        domain,
        warnings,
        persist: true,
        since_ms: None,
        version: None,
        message,
        by: &options.by,
        take_over: options.take_over,
        reach: options.reach.clone(),
        signature,
        libraries: plan.libraries(),
        defaults: source.default_settings(),
        schedules,
    };
    install(control, ticket, compiled, &manifest)
}

/// The key of the compilation of a version that was stored under `key`. The version is compiled again if the compiler or
/// the SDK has changed, since the old result may not fit this server's interface. The source was compiled as `source_name`.
pub(super) fn renewed(control: &ControlState, key: &str, source_name: Option<String>) -> Result<String, DeployError> {
    let source = control.store.source(key)?;
    let plan = control.compiler.plan(&source, &SourceFields { source_name, ..SourceFields::default() })?;
    let renewed = control.compiler.key(&source, &plan);
    if renewed != key {
        built(control, control.ticket(), &renewed, &source, &plan, || None)?;
    }
    Ok(renewed)
}

/// Deploys a stored module after a restart. Its inspection is repeated only if it must be compiled again.
pub(super) fn reload(control: &ControlState, ticket: u64, record: &Record) -> Result<(), DeployError> {
    let source = control.store.source(&record.key)?;
    let plan = control.compiler.plan(&source, &record.fields)?;
    let key = control.compiler.key(&source, &plan);
    let known = || (key == record.key).then(|| Arc::new(record.manifest.clone()));
    let (warnings, manifest) = built(control, ticket, &key, &source, &plan, known)?;
    let schedules = checks::manifest(&source, &manifest)?;
    mounts::check_allowed(&manifest, &control.config.mounts)?;
    let warnings = warnings + &verify::remarks(&manifest, control.config.route_limits);
    let domain = Some(record.domain.as_str());
    let (persist, since_ms) = (key != record.key, Some(record.deployed_ms));
    let fields = plan.fields();
    let (known, persist) = match control.ledger.versions(&record.name) {
        Ok(list) => {
            let known = list.into_iter().find(|version| version.number == record.version);
            // A record from before versions existed has no list of versions: the list begins here.
            let persist = persist || known.is_none();
            (known, persist)
        }
        // The record is enough to serve the module. Its list must not begin again, because the list says who owns the module.
        Err(error) => {
            tracing::error!(
                "{error}; module {} is served, but can't be deployed until this file is restored; without the file, its versions \
                 and its owner are forgotten",
                record.name
            );
            (None, false)
        }
    };
    let version = Version {
        key: key.clone(),
        libraries: plan.libraries(),
        ..known.unwrap_or_else(|| Version::of_record(record))
    };
    let compiled = Compiled {
        hash: &record.hash,
        key: &key,
        fields,
        domain,
        warnings,
        persist,
        since_ms,
        version: Some(version),
        message: "",
        by: "",
        take_over: true,
        reach: Reach::All,
        signature: None,
        libraries: plan.libraries(),
        defaults: source.default_settings(),
        schedules,
    };
    install(control, ticket, compiled, &manifest).map(|_| ())
}

/// The served module with the same source and domain, compiled under the file name `name`; `None` accepts any file name and
/// any domain. The module gets the ticket of this deployment, which supersedes earlier requests. A module out of `reach` is
/// an error.
fn already_served(
    control: &ControlState,
    ticket: u64,
    hash: &str,
    name: Option<&str>,
    domain: Option<&str>,
    reach: &Reach,
) -> Result<Option<Deployed>, DeployError> {
    let mut state = control.state();
    let is_it = |entry: &&mut Entry| {
        let is_same = entry.hash == hash && (name.is_none() || name == entry.source_name.as_deref());
        is_same && entry.is_running() && domain.is_none_or(|domain| domain == entry.domain)
    };
    let Some(entry) = state.entries.iter_mut().find(is_it) else { return Ok(None) };
    owners::check_reach(control, reach, &entry.manifest.name, Some(&entry.domain), &entry.domain)?;
    entry.ticket = entry.ticket.max(ticket);
    Ok(Some(Deployed {
        name: entry.manifest.name.clone(),
        manifest: Arc::clone(&entry.manifest),
        hash: hash.to_owned(),
        domain: control.place(&entry.domain).to_owned(),
        warnings: entry.warnings.clone(),
        unchanged: true,
        superseded: false,
        version: entry.version,
        libraries: entry.libraries.clone(),
    }))
}

/// The manifest of a served module with the same source, in any domain.
fn served_manifest(control: &ControlState, hash: &str) -> Option<Arc<Manifest>> {
    let state = control.state();
    state.entries.iter().find(|entry| entry.hash == hash).map(|entry| Arc::clone(&entry.manifest))
}

/// Limit, in bytes, on the message of a version.
const MESSAGE_BYTES_MAX: usize = 4096;

/// The steps from the manifest to the publication.
pub(super) fn install(
    control: &ControlState,
    ticket: u64,
    mut compiled: Compiled<'_>,
    manifest: &Arc<Manifest>,
) -> Result<Deployed, DeployError> {
    let name = manifest.name.clone();
    let turn = control.name_lock(&name);
    let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
    let current = current(control, &name);
    let is_sanitized = compiled.fields.sanitize.is_some();
    // A module that could not be loaded at the start is not served, but still has its owner, its domain and its secrets.
    let kept = if current.is_none() && compiled.persist { control.ledger.record(&name) } else { None };
    let there = current.as_ref().map(|current| current.domain.as_str());
    let there = there.or(kept.as_ref().map(|kept| kept.domain.as_str()));
    let domain = match compiled.domain {
        Some(domain) if !is_sanitized => domain.to_owned(),
        _ => sanitizing::domain_of(control, &name, is_sanitized, there)?,
    };
    let domain = domain.as_str();
    let file = compiled.fields.source_name.as_deref();
    owners::check_reach(control, &compiled.reach, &name, there, domain)?;
    if let Some(remark) = current.as_ref().and_then(|current| verify::other_author(&current.manifest, manifest)) {
        compiled.warnings.push_str(&remark);
    }
    let mut deployed = Deployed {
        name: name.clone(),
        manifest: Arc::clone(manifest),
        hash: compiled.hash.to_owned(),
        domain: control.place(domain).to_owned(),
        warnings: compiled.warnings.clone(),
        unchanged: false,
        superseded: false,
        version: 0,
        libraries: compiled.libraries.clone(),
    };
    match &current {
        Some(newer) if newer.ticket > ticket => {
            deployed.superseded = true;
            deployed.version = newer.version;
            return Ok(deployed);
        }
        Some(same)
            if same.hash == compiled.hash
                && same.domain == domain
                // Deploying a version again that differs only in the name of its file is a change.
                && compiled.version.as_ref().is_none_or(|wanted| wanted.number == same.version)
                && already_served(control, ticket, compiled.hash, file, Some(domain), &compiled.reach)?.is_some() =>
        {
            deployed.unchanged = true;
            deployed.version = same.version;
            return Ok(deployed);
        }
        _ => {}
    }
    let live = current.as_ref().map(|current| current.version).or(kept.as_ref().map(|kept| kept.version));
    if let Some(live) = live.filter(|_| !compiled.take_over) {
        owners::check_owner(control, &name, live, compiled.by)?;
    }
    control.reserve(ticket, manifest, domain)?;
    let swap = || swap_in(control, ticket, compiled, domain, manifest);
    let result = if is_sanitized {
        let (result, reports) = sanitizing::with_reports(control, domain, swap);
        deployed.warnings.push_str(&reports);
        result
    } else {
        swap()
    };
    control.release(ticket);
    result.map(|version| Deployed { version, ..deployed })
}

/// The module that is deployed under a name.
struct Current {
    ticket: u64,
    version: u64,
    hash: String,
    domain: String,
    manifest: Arc<Manifest>,
}

fn current(control: &ControlState, name: &str) -> Option<Current> {
    let state = control.state();
    let entry = state.entries.iter().find(|entry| entry.manifest.name == name)?;
    let manifest = Arc::clone(&entry.manifest);
    let (ticket, version) = (entry.ticket, entry.version);
    Some(Current { ticket, version, hash: entry.hash.clone(), domain: entry.domain.clone(), manifest })
}

/// Loads the new generation, runs the hooks in order, persists and publishes.
fn swap_in(
    control: &ControlState,
    ticket: u64,
    compiled: Compiled<'_>,
    domain: &str,
    manifest: &Arc<Manifest>,
) -> Result<u64, DeployError> {
    let since_ms = since_ms(control, &compiled, &manifest.name);
    let live = current(control, &manifest.name).map_or(0, |current| current.version);
    let number = match &compiled.version {
        Some(version) => version.number,
        None => versions::next(&control.ledger.versions(&manifest.name)?, live),
    };
    let record = record(&compiled, domain, manifest, since_ms, number);
    let version = version(&compiled, &record);
    // The files are written in parallel with the load, because requests of the module wait for its hooks.
    let (prepared, loaded) = both(
        || compiled.persist.then(|| prepare(control, &version, &record)).transpose(),
        || load(control, &compiled, domain, manifest, number),
    )?;
    let (generation, held, started) = loaded?;
    if control.is_abandoned() {
        return Err(DeployError::ShuttingDown);
    }
    let committed = started.and_then(|()| Ok(prepared?.map_or(Ok(()), Draft::commit)?));
    if let Err(error) = committed {
        if let Some(old) = held {
            restore(control, &manifest.name, &old);
        }
        return Err(error);
    }
    let (serving, released) = Serving::start(generation);
    let entry = Entry {
        manifest: Arc::clone(manifest),
        hash: compiled.hash.to_owned(),
        source_name: compiled.fields.source_name.clone(),
        domain: domain.to_owned(),
        warnings: compiled.warnings,
        ticket,
        version: number,
        libraries: compiled.libraries,
        defaults: compiled.defaults,
        schedules: compiled.schedules,
        since_ms,
        interim: None,
        serving: Some(serving),
        released,
    };
    let mut state = control.state();
    let place = state.entries.iter_mut().find(|entry| entry.manifest.name == manifest.name);
    // The old entry must live until the table without it is published: a reader that finds the old entry must find it
    // complete.
    let _old = match place {
        Some(place) => Some(std::mem::replace(place, entry)),
        None => {
            state.entries.push(entry);
            None
        }
    };
    control.publish(&state)?;
    Ok(number)
}

/// The loaded generation, the generation that was stopped for its hooks, and the outcome of `onload`.
type LoadedGeneration = (Arc<Generation>, Option<Arc<Generation>>, Result<(), DeployError>);

/// Loads the generation and runs the hooks in order.
fn load(
    control: &ControlState,
    compiled: &Compiled<'_>,
    domain: &str,
    manifest: &Manifest,
    number: u64,
) -> Result<LoadedGeneration, DeployError> {
    let settings = control.settings_of(&manifest.name, &compiled.defaults)?;
    let loaded = control.generation(compiled.hash, &control.store.object(compiled.key), domain, &settings);
    let generation = loaded.map_err(|error| match error {
        DeployError::Load(LoadError::Constructor(fault)) => {
            DeployError::Constructor { name: manifest.name.clone(), fault }
        }
        other => other,
    })?;
    generation.instance().set_version(number);
    // The constructors run again in the domain, and may behave differently there.
    if generation.manifest() != manifest {
        let what = "its config in its domain differs from the config in the inspection".to_owned();
        return Err(DeployError::Load(LoadError::Manifest(what)));
    }
    let held = if manifest.has_onload { hold(control, manifest)? } else { None };
    let started = start(&generation, &manifest.name);
    Ok((generation, held, started))
}

/// Runs `onload`. From here on `unload` is due.
pub(super) fn start(generation: &Arc<Generation>, name: &str) -> Result<(), DeployError> {
    generation.instance().onload().map_err(|fault| DeployError::Onload { name: name.to_owned(), fault })?;
    generation.set_unload_due(true);
    Ok(())
}

/// Stops the present generation if it has an `unload`, which must run before the new `onload`: holds new requests, waits
/// for running requests and for sockets that `next` no longer serves, and runs `unload`. Returns the stopped generation, so
/// that the caller can go back to it.
fn hold(control: &ControlState, next: &Manifest) -> Result<Option<Arc<Generation>>, DeployError> {
    let name = next.name.as_str();
    let mut state = control.state();
    let Some(entry) = state.entries.iter_mut().find(|entry| entry.manifest.name == name) else { return Ok(None) };
    if !entry.manifest.has_unload {
        return Ok(None);
    }
    let Some(serving) = entry.serving.take() else { return Ok(None) };
    let stays = |path: &str| next.websockets.iter().any(|socket| socket.path == path);
    let mut interim = Manifest::clone(&entry.manifest);
    interim.websockets.retain(|socket| stays(&socket.path));
    entry.interim = Some(Arc::new(interim));
    let released = entry.released.clone();
    let old = Arc::clone(serving.generation());
    drop(serving);
    control.publish(&state)?;
    drop(state);
    if released.recv_timeout(control.config.swap_timeout) == Err(RecvTimeoutError::Timeout) {
        resume(control, name, &old);
        return Err(DeployError::SwapTimeout { name: name.to_owned(), waited: control.config.swap_timeout });
    }
    // If a job still holds the generation, `unload` runs after the job, and this swap does not wait for it.
    if Arc::strong_count(&old) == 1
        && old.take_unload()
        && let Err(fault) = old.instance().unload()
    {
        tracing::error!("module {name} failed in unload: {fault}");
    }
    Ok(Some(old))
}

/// Goes back to a generation whose `unload` may have run already.
fn restore(control: &ControlState, name: &str, old: &Arc<Generation>) {
    if !old.is_unload_due()
        && let Err(error) = start(old, name)
    {
        tracing::error!("module {name}: going back to the previous version failed: {error}");
    }
    resume(control, name, old);
}

/// Serves requests with `old` again.
fn resume(control: &ControlState, name: &str, old: &Arc<Generation>) {
    let mut state = control.state();
    if let Some(entry) = state.entries.iter_mut().find(|entry| entry.manifest.name == name) {
        let (serving, released) = Serving::start(Arc::clone(old));
        entry.serving = Some(serving);
        entry.interim = None;
        entry.released = released;
    }
    if let Err(error) = control.publish(&state) {
        tracing::error!("{error}");
    }
}

/// Removes a module.
pub(super) fn remove(control: &ControlState, ticket: u64, name: &str) -> Result<(), DeployError> {
    let turn = control.name_lock(name);
    let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
    let not_found = || DeployError::NotFound(name.to_owned());
    match current(control, name) {
        None => return Err(not_found()),
        // The module was deployed again after this removal was requested: the removal counts as done before that
        // deployment.
        Some(newer) if newer.ticket > ticket => return Ok(()),
        Some(_) => {}
    }
    control.ledger.withdraw(name)?;
    // The settings go with the module: another module of this name, from any author, must not find its secrets.
    control.settings.remove(name)?;
    let mut state = control.state();
    let at = state.entries.iter().position(|entry| entry.manifest.name == name).ok_or_else(not_found)?;
    let _old = state.entries.remove(at);
    control.publish(&state)?;
    let text = format!("module {name} is removed");
    tracing::info!("{text}");
    logbook::add(name, logbook::Kind::Info, &text);
    logbook::forget(name);
    Ok(())
}
