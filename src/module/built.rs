//! Compilations: from a source to a shared object in the store, and its manifest.

use super::compile::Plan;
use super::control_state::ControlState;
use super::deploy::DeployError;
use super::durable::both;
use super::file_names::at;
use super::project::Source;
use super::shared_object;
use super::spare_build::{Build, Make};
use crate::abi::manifest::Manifest;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// The name of the shared object in the directory of its compilation.
const OBJECT: &str = "module.so";

/// Ensures that the store holds compilation `key`, and returns its warnings and manifest. For a compilation that was in the
/// store already, the manifest is `known()`, or else comes from an inspection.
pub(super) fn built(
    control: &ControlState,
    ticket: u64,
    key: &str,
    source: &Source,
    plan: &Plan,
    known: impl FnOnce() -> Option<Arc<Manifest>>,
) -> Result<(String, Arc<Manifest>), DeployError> {
    if let Some(warnings) = control.store.cached(key) {
        let inspect = || {
            let (object, preload) = (control.store.object(key), control.compiler.preload_of(plan)?);
            let manifest = control.host.inspect(&object, &preload, control.config.inspect_timeout)?;
            Ok::<_, DeployError>(Arc::new(manifest))
        };
        return Ok((warnings, known().map_or_else(inspect, Ok)?));
    }
    let mut build = match control.spare_build.take() {
        Some(build) => build,
        None => Build::new(empty_dir(control, &ticket.to_string())?),
    };
    let result = compiled(control, &mut build, key, source, plan);
    let dir = build.workdir.path().to_path_buf();
    let remove = move || _ = std::fs::remove_dir_all(&dir);
    match result {
        // A separate thread removes the scratch directory (about 50 files), so the client doesn't wait for the removal.
        Ok((warnings, manifest)) => {
            aside("scratch", remove);
            Ok((warnings, Arc::new(manifest)))
        }
        Err(error) => {
            remove();
            Err(error)
        }
    }
}

fn empty_dir(control: &ControlState, name: &str) -> Result<PathBuf, DeployError> {
    let dir = control.store.scratch().join(name);
    std::fs::create_dir_all(&dir).map_err(at(&dir))?;
    Ok(dir)
}

/// Starts the thread that prepares the directory and the processes of the next compilation.
///
/// # Errors
/// The thread can't be started.
pub(super) fn keep_spare(control: &Arc<ControlState>) -> io::Result<()> {
    let state = Arc::clone(control);
    control.spare_build.start(move |orders| {
        let made = Arc::clone(&state);
        let make = move || {
            // The number comes from the counter of the deployments' tickets, so every directory has a unique name.
            let dir = empty_dir(&made, &format!("spare-{}", made.ticket())).ok()?;
            let workdir = made.compiler.prepare(dir.clone());
            let inspection = workdir.and_then(|workdir| {
                let inspection = made.host.begin_inspection(&dir, OBJECT, &[])?;
                Ok(Build { workdir, inspection: Some(inspection) })
            });
            let failed = |error: &DeployError| {
                tracing::debug!("the next compilation can't be prepared: {error}");
                let _ = std::fs::remove_dir_all(&dir);
            };
            inspection.inspect_err(failed).ok()
        };
        state.spare_build.keep(&orders, &(Box::new(make) as Make));
    })
}

/// Runs `work` on a thread of its own, or on this thread if none can be started.
fn aside(name: &str, work: impl FnOnce() + Send + Clone + 'static) {
    let thread = std::thread::Builder::new().name(name.to_owned());
    if thread.spawn(work.clone()).is_err() {
        work();
    }
}

/// Compiles `source` in the directory of `build`, inspects the result and stores it.
fn compiled(
    control: &ControlState,
    build: &mut Build,
    key: &str,
    source: &Source,
    plan: &Plan,
) -> Result<(String, Manifest), DeployError> {
    let preload = control.compiler.preload_of(plan)?;
    let dir = &build.workdir.path().to_path_buf();
    let begin = || control.host.begin_inspection(dir, OBJECT, &preload);
    // An inspection process that was started beforehand has not loaded a sanitizer's libraries, so it serves only a module
    // without them.
    let ready = build.inspection.take().filter(|_| preload.is_empty());
    let mut begun = ready.and_then(|mut inspection| inspection.is_there().then_some(Ok(inspection)));
    // The inspection process starts while the compiler works. Started before the compiler, it would delay the compiler.
    let mut while_compiling = || _ = begun.get_or_insert_with(begin);
    let units = &control.units;
    let warnings = control.compiler.compile(source, plan, &mut build.workdir, OBJECT, units, &mut while_compiling)?;
    let inspection = begun.unwrap_or_else(begin)?;
    if plan.is_object() {
        // The stored warnings include those of the inspection. A refused object is not stored: refusing it again costs no
        // compilation.
        let inspected = inspection.finish(control.config.inspect_timeout)?;
        let warnings = warnings + &shared_object::unproved(&inspected.unproved);
        control.store.prepare(key, source, &dir.join(OBJECT), &warnings)?.commit()?;
        return Ok((warnings, inspected.manifest));
    }
    let keep = || control.store.prepare(key, source, &dir.join(OBJECT), &warnings);
    let (kept, inspected) = both(keep, || inspection.finish(control.config.inspect_timeout))?;
    // A refused object is stored, too: the next attempt is then refused without a compilation.
    kept?.commit()?;
    Ok((warnings, inspected?.manifest))
}
