//! One deployment, step by step. Every step before publication can refuse, and then nothing has changed.

use super::control::{DeployReply, Entry, Plane, RemoveReply, short};
use super::deploy::{DeployError, DeployOptions, Deployed, SourceFields};
use super::dialect::Reading;
use super::generation::{Generation, Serving};
use super::store::{Prepared, Record, both};
use super::{mounts, sdk, store, verify};
use crate::abi::manifest::Manifest;
use crate::abi::visible::visible;
use crate::domain::{DEFAULT_DOMAIN, LoadError};
use crossbeam::channel::RecvTimeoutError;
use sha2::{Digest, Sha256};
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Work for the control plane's threads.
pub(super) enum Job {
    Deploy { ticket: u64, source: Vec<u8>, options: DeployOptions, reply: DeployReply },
    Remove { ticket: u64, name: String, reply: RemoveReply },
    Restart { name: String, reply: RemoveReply },
    Stop,
}

impl Job {
    /// Answers without doing it.
    pub(super) fn fail(self, error: DeployError) {
        match self {
            Job::Deploy { reply, .. } => reply(Err(error)),
            Job::Remove { reply, .. } | Job::Restart { reply, .. } => reply(Err(error)),
            Job::Stop => {}
        }
    }
}

/// Says in the log what became of a deployment.
pub(super) fn log_outcome(result: &Result<Deployed, DeployError>) {
    match result {
        Ok(done) if done.unchanged => tracing::info!("module {} is unchanged ({})", done.name, short(&done.hash)),
        Ok(done) => tracing::info!("module {} is deployed ({})", done.name, short(&done.hash)),
        Err(error) => tracing::info!("a deployment was refused: {}", visible(&error.reason())),
    }
}

/// Deploys `source`.
pub(super) fn deploy(
    plane: &Plane,
    ticket: u64,
    source: &[u8],
    options: &DeployOptions,
) -> Result<Deployed, DeployError> {
    let domain = options.domain.as_deref();
    // Before the compiler is bothered; the load checks again, and the limit of domains with it.
    domain.map_or(Ok(()), |domain| plane.host.check_domain(domain))?;
    let reading = Reading::new(source, &options.fields);
    let mut deployed = deploy_read(plane, ticket, source, &reading, domain)?;
    // Not kept with the module: the next client may not send the fields.
    deployed.warnings.push_str(&reading.remarks());
    Ok(deployed)
}

/// Deploys `source`, which has been read.
fn deploy_read(
    plane: &Plane,
    ticket: u64,
    source: &[u8],
    reading: &Reading,
    domain: Option<&str>,
) -> Result<Deployed, DeployError> {
    let hash = hash_of(source, reading.fields());
    if let Some(same) = already_served(plane, ticket, &hash, domain) {
        return Ok(same);
    }
    let key = plane.compiler.key(source, reading);
    // What moves to another domain was inspected when it came.
    let (warnings, manifest) = built(plane, ticket, &key, source, reading, || served_manifest(plane, &hash))?;
    verify::check(&manifest)?;
    mounts::check(&manifest, &plane.config.mounts)?;
    let warnings = warnings + &verify::remarks(&manifest, plane.config.route_limits);
    let fields = reading.fields();
    let compiled = Compiled { hash: &hash, key: &key, fields, domain, warnings, persist: true, since_ms: None };
    install(plane, ticket, compiled, &manifest)
}

/// Names a version of a module: SHA-256 of the source, and of the fields that came with it and count, if there are any.
fn hash_of(source: &[u8], fields: &SourceFields) -> String {
    let mut hasher = Sha256::new();
    hasher.update(source);
    hasher.update(fields.text().as_bytes());
    sdk::hex(&hasher.finalize())
}

/// The key of the compilation of a version that was kept as `key`, compiled again if it was another compiler's or another
/// SDK's: what these made need not keep to the interface of this server.
pub(super) fn renewed(plane: &Plane, key: &str) -> Result<String, DeployError> {
    let source = plane.store.source(key)?;
    let reading = Reading::new(&source, &SourceFields::default());
    let renewed = plane.compiler.key(&source, &reading);
    if renewed != key {
        built(plane, plane.ticket(), &renewed, &source, &reading, || None)?;
    }
    Ok(renewed)
}

/// Deploys what was deployed before a restart: it was inspected then, unless it has to be compiled again.
pub(super) fn reload(plane: &Plane, ticket: u64, record: &Record) -> Result<(), DeployError> {
    let source = plane.store.source(&record.key)?;
    let reading = Reading::new(&source, &record.fields);
    let key = plane.compiler.key(&source, &reading);
    let known = || (key == record.key).then(|| Arc::new(record.manifest.clone()));
    let (warnings, manifest) = built(plane, ticket, &key, &source, &reading, known)?;
    verify::check(&manifest)?;
    mounts::check(&manifest, &plane.config.mounts)?;
    let warnings = warnings + &verify::remarks(&manifest, plane.config.route_limits);
    let domain = Some(record.domain.as_str());
    let (persist, since_ms) = (key != record.key, Some(record.deployed_ms));
    let fields = reading.fields();
    let compiled = Compiled { hash: &record.hash, key: &key, fields, domain, warnings, persist, since_ms };
    install(plane, ticket, compiled, &manifest).map(|_| ())
}

/// The module that is made of this very source and in this domain, if one is served. What was asked for before this is
/// superseded by it.
fn already_served(plane: &Plane, ticket: u64, hash: &str, domain: Option<&str>) -> Option<Deployed> {
    let mut state = plane.state();
    let is_it = |entry: &&mut Entry| {
        entry.hash == hash && entry.is_running() && domain.is_none_or(|domain| domain == entry.domain)
    };
    let entry = state.entries.iter_mut().find(is_it)?;
    entry.ticket = entry.ticket.max(ticket);
    Some(Deployed {
        name: entry.manifest.name.clone(),
        manifest: Arc::clone(&entry.manifest),
        hash: hash.to_owned(),
        domain: plane.place(&entry.domain).to_owned(),
        warnings: entry.warnings.clone(),
        unchanged: true,
        superseded: false,
    })
}

/// The manifest of the module that is made of this very source, in whatever domain.
fn served_manifest(plane: &Plane, hash: &str) -> Option<Arc<Manifest>> {
    let state = plane.state();
    state.entries.iter().find(|entry| entry.hash == hash).map(|entry| Arc::clone(&entry.manifest))
}

/// The shared object in the directory of its compilation.
const OBJECT: &str = "module.so";

/// Sees to it that compilation `key` is in the store. Returns its warnings and its manifest, which is `known` if it was
/// there already.
fn built(
    plane: &Plane,
    ticket: u64,
    key: &str,
    source: &[u8],
    reading: &Reading,
    known: impl FnOnce() -> Option<Arc<Manifest>>,
) -> Result<(String, Arc<Manifest>), DeployError> {
    if let Some(warnings) = plane.store.cached(key) {
        let inspect = || plane.host.inspect(&plane.store.object(key), plane.config.inspect_timeout).map(Arc::new);
        return Ok((warnings, known().map_or_else(inspect, Ok)?));
    }
    let dir = plane.store.scratch().join(ticket.to_string());
    std::fs::create_dir_all(&dir).map_err(store::at(&dir))?;
    let result = compiled(plane, &dir, key, source, reading);
    let _ = std::fs::remove_dir_all(&dir);
    result.map(|(warnings, manifest)| (warnings, Arc::new(manifest)))
}

/// Compiles `source` in `dir`, inspects the result and keeps it.
fn compiled(
    plane: &Plane,
    dir: &Path,
    key: &str,
    source: &[u8],
    reading: &Reading,
) -> Result<(String, Manifest), DeployError> {
    // It gets ready while the compiler works.
    let inspection = plane.host.begin_inspection(dir, OBJECT)?;
    let warnings = plane.compiler.compile(source, reading, dir, OBJECT)?;
    let keep = || plane.store.prepare(key, source, &dir.join(OBJECT), &warnings);
    let (kept, manifest) = both(keep, || inspection.finish(plane.config.inspect_timeout))?;
    // Also what the inspection refuses: it need not be compiled again to be refused.
    kept?.commit()?;
    Ok((warnings, manifest?))
}

/// A source that has been compiled.
struct Compiled<'a> {
    /// SHA-256 of the source.
    hash: &'a str,
    /// Key of the compilation.
    key: &'a str,
    /// What came with the source and made a difference.
    fields: &'a SourceFields,
    /// The domain it is to run in; `None`: where the module is.
    domain: Option<&'a str>,
    warnings: String,
    /// Whether the module store is to hear of it.
    persist: bool,
    /// When the module came, if that is known of a module that is not served yet. Milliseconds since 1970.
    since_ms: Option<u64>,
}

/// From the manifest to publication.
fn install(
    plane: &Plane,
    ticket: u64,
    mut compiled: Compiled<'_>,
    manifest: &Arc<Manifest>,
) -> Result<Deployed, DeployError> {
    let name = manifest.name.clone();
    let turn = plane.name_lock(&name);
    let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
    let current = current(plane, &name);
    let domain = compiled.domain.or(current.as_ref().map(|current| current.domain.as_str())).unwrap_or(DEFAULT_DOMAIN);
    if let Some(remark) = current.as_ref().and_then(|current| verify::other_author(&current.manifest, manifest)) {
        compiled.warnings.push_str(&remark);
    }
    let mut deployed = Deployed {
        name: name.clone(),
        manifest: Arc::clone(manifest),
        hash: compiled.hash.to_owned(),
        domain: plane.place(domain).to_owned(),
        warnings: compiled.warnings.clone(),
        unchanged: false,
        superseded: false,
    };
    match &current {
        Some(newer) if newer.ticket > ticket => {
            deployed.superseded = true;
            return Ok(deployed);
        }
        Some(same)
            if same.hash == compiled.hash
                && same.domain == domain
                && already_served(plane, ticket, compiled.hash, Some(domain)).is_some() =>
        {
            deployed.unchanged = true;
            return Ok(deployed);
        }
        _ => {}
    }
    plane.reserve(ticket, manifest, domain)?;
    let result = swap_in(plane, ticket, compiled, domain, manifest);
    plane.release(ticket);
    result.map(|()| deployed)
}

/// What is deployed under a name.
struct Current {
    ticket: u64,
    hash: String,
    domain: String,
    manifest: Arc<Manifest>,
}

fn current(plane: &Plane, name: &str) -> Option<Current> {
    let state = plane.state();
    let entry = state.entries.iter().find(|entry| entry.manifest.name == name)?;
    let manifest = Arc::clone(&entry.manifest);
    Some(Current { ticket: entry.ticket, hash: entry.hash.clone(), domain: entry.domain.clone(), manifest })
}

/// Loads the new generation, runs the hooks in their order, persists and publishes.
fn swap_in(
    plane: &Plane,
    ticket: u64,
    compiled: Compiled<'_>,
    domain: &str,
    manifest: &Arc<Manifest>,
) -> Result<(), DeployError> {
    let since_ms = since_ms(plane, &compiled, &manifest.name);
    let record = compiled.persist.then(|| record(&compiled, domain, manifest, since_ms));
    // Written while the module is loaded and its requests wait for the hooks.
    let (prepared, loaded) = both(
        || record.map(|record| plane.store.prepare_record(&record)).transpose(),
        || load(plane, &compiled, domain, manifest),
    )?;
    let (generation, held, started) = loaded?;
    if plane.is_abandoned() {
        return Err(DeployError::ShuttingDown);
    }
    let committed = started.and_then(|()| Ok(prepared?.map_or(Ok(()), Prepared::commit)?));
    if let Err(error) = committed {
        if let Some(old) = held {
            restore(plane, &manifest.name, &old);
        }
        return Err(error);
    }
    let (serving, released) = Serving::start(generation);
    let entry = Entry {
        manifest: Arc::clone(manifest),
        hash: compiled.hash.to_owned(),
        domain: domain.to_owned(),
        warnings: compiled.warnings,
        ticket,
        since_ms,
        interim: None,
        serving: Some(serving),
        released,
    };
    let mut state = plane.state();
    let place = state.entries.iter_mut().find(|entry| entry.manifest.name == manifest.name);
    // The old entry is kept until the table without it is published: who finds the old one finds it whole.
    let _old = match place {
        Some(place) => Some(std::mem::replace(place, entry)),
        None => {
            state.entries.push(entry);
            None
        }
    };
    plane.publish(&state)
}

/// When the module came: a new version takes the place of the one before, also after a restart.
fn since_ms(plane: &Plane, compiled: &Compiled<'_>, name: &str) -> u64 {
    let served = plane.state().entries.iter().find(|entry| entry.manifest.name == name).map(|entry| entry.since_ms);
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    served.or(compiled.since_ms).unwrap_or_else(|| u64::try_from(now()).unwrap_or(u64::MAX))
}

fn record(compiled: &Compiled<'_>, domain: &str, manifest: &Manifest, since_ms: u64) -> Record {
    Record {
        name: manifest.name.clone(),
        hash: compiled.hash.to_owned(),
        key: compiled.key.to_owned(),
        manifest: manifest.clone(),
        deployed_ms: since_ms,
        domain: domain.to_owned(),
        fields: compiled.fields.clone(),
    }
}

/// A generation that is loaded, the one that its hooks made wait, and what became of its `onload`.
type LoadedGeneration = (Arc<Generation>, Option<Arc<Generation>>, Result<(), DeployError>);

/// Loads the generation and runs the hooks in their order.
fn load(
    plane: &Plane,
    compiled: &Compiled<'_>,
    domain: &str,
    manifest: &Manifest,
) -> Result<LoadedGeneration, DeployError> {
    let loaded = plane.generation(compiled.hash, &plane.store.object(compiled.key), domain);
    let generation = loaded.map_err(|error| match error {
        DeployError::Load(LoadError::Constructor(fault)) => {
            DeployError::Constructor { name: manifest.name.clone(), fault }
        }
        other => other,
    })?;
    // Its constructors run again there, and may have been waiting for that.
    if generation.manifest() != manifest {
        let what = "it says something else of itself in its domain than when it was inspected".to_owned();
        return Err(DeployError::Load(LoadError::Manifest(what)));
    }
    let held = if manifest.has_onload { hold(plane, manifest)? } else { None };
    let started = start(&generation, &manifest.name);
    Ok((generation, held, started))
}

/// Runs `onload`. From here on `unload` is due.
pub(super) fn start(generation: &Arc<Generation>, name: &str) -> Result<(), DeployError> {
    generation.instance().onload().map_err(|fault| DeployError::Onload { name: name.to_owned(), fault })?;
    generation.set_unload_due(true);
    Ok(())
}

/// When the module's current generation has an `unload` that must come before the new `onload`: lets its requests wait,
/// waits for the running ones and for the sockets that `next` serves no more, and runs it. Returns the generation it was, to
/// go back to.
fn hold(plane: &Plane, next: &Manifest) -> Result<Option<Arc<Generation>>, DeployError> {
    let name = next.name.as_str();
    let mut state = plane.state();
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
    plane.publish(&state)?;
    drop(state);
    if released.recv_timeout(plane.config.swap_timeout) == Err(RecvTimeoutError::Timeout) {
        resume(plane, name, &old);
        return Err(DeployError::SwapTimeout { name: name.to_owned(), waited: plane.config.swap_timeout });
    }
    // A job may hold the generation still: then its unload comes when the job ends, and this swap does not wait.
    if Arc::strong_count(&old) == 1
        && old.take_unload()
        && let Err(fault) = old.instance().unload()
    {
        tracing::error!("module {name} failed in unload: {fault}");
    }
    Ok(Some(old))
}

/// Goes back to a generation whose `unload` may have run already.
fn restore(plane: &Plane, name: &str, old: &Arc<Generation>) {
    if !old.is_unload_due()
        && let Err(error) = start(old, name)
    {
        tracing::error!("going back to the version before: {error}");
    }
    resume(plane, name, old);
}

/// Serves requests with `old` again.
fn resume(plane: &Plane, name: &str, old: &Arc<Generation>) {
    let mut state = plane.state();
    if let Some(entry) = state.entries.iter_mut().find(|entry| entry.manifest.name == name) {
        let (serving, released) = Serving::start(Arc::clone(old));
        entry.serving = Some(serving);
        entry.interim = None;
        entry.released = released;
    }
    if let Err(error) = plane.publish(&state) {
        tracing::error!("{error}");
    }
}

/// Removes a module.
pub(super) fn remove(plane: &Plane, ticket: u64, name: &str) -> Result<(), DeployError> {
    let turn = plane.name_lock(name);
    let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
    let not_found = || DeployError::NotFound(name.to_owned());
    match current(plane, name) {
        None => return Err(not_found()),
        // Deployed again after this removal was asked for: the removal came before that, and is done.
        Some(newer) if newer.ticket > ticket => return Ok(()),
        Some(_) => {}
    }
    plane.store.remove(name)?;
    let mut state = plane.state();
    let at = state.entries.iter().position(|entry| entry.manifest.name == name).ok_or_else(not_found)?;
    let _old = state.entries.remove(at);
    plane.publish(&state)?;
    tracing::info!("module {name} is removed");
    Ok(())
}

/// Restarts a module: see [`Instance::restart`](crate::domain::Instance::restart).
pub(super) fn restart(plane: &Plane, name: &str) -> Result<(), DeployError> {
    let turn = plane.name_lock(name);
    // A swap of this module waits: it would replace the instance that is being restarted.
    let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
    let generation = plane.state().entries.iter().find_map(|entry| {
        let serving = entry.serving.as_ref().filter(|_| entry.manifest.name == name);
        serving.map(|serving| Arc::clone(serving.generation()))
    });
    let generation = generation.ok_or_else(|| DeployError::NotFound(name.to_owned()))?;
    generation.instance().restart().map_err(|fault| {
        let name = name.to_owned();
        if plane.host.domains().is_empty() {
            DeployError::NoProcess { name, fault }
        } else {
            DeployError::Restart { name, fault }
        }
    })?;
    tracing::info!("module {name} is restarted");
    Ok(())
}
