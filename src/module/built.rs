//! Compilations: from a source that was read to a shared object in the store, and its manifest.

use super::compile::Plan;
use super::control_state::ControlState;
use super::deploy::DeployError;
use super::file_names::at;
use super::project::Source;
use super::shared_object;
use super::spare_build::{Build, Make};
use super::store::both;
use crate::abi::manifest::Manifest;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// The shared object in the directory of its compilation.
const OBJECT: &str = "module.so";

/// Sees to it that compilation `key` is in the store. Returns its warnings and its manifest, which is `known` if it was
/// there already.
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
        // The client need not wait for the end of some fifty files.
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

/// Starts the thread that makes ready what the next compilation needs.
///
/// # Errors
/// There is no thread.
pub(super) fn keep_spare(control: &Arc<ControlState>) -> io::Result<()> {
    let state = Arc::clone(control);
    control.spare_build.start(move |orders| {
        let made = Arc::clone(&state);
        let make = move || {
            // Its tickets are those of the deployments, so no two directories have one name.
            let dir = empty_dir(&made, &format!("spare-{}", made.ticket())).ok()?;
            let workdir = made.compiler.prepare(dir.clone());
            let inspection = workdir.and_then(|workdir| {
                let inspection = made.host.begin_inspection(&dir, OBJECT, &[])?;
                Ok(Build { workdir, inspection: Some(inspection) })
            });
            let failed = |error: &DeployError| {
                tracing::debug!("nothing is made ready for the next compilation: {error}");
                let _ = std::fs::remove_dir_all(&dir);
            };
            inspection.inspect_err(failed).ok()
        };
        state.spare_build.keep(&orders, &(Box::new(make) as Make));
    })
}

/// Does `work` on a thread of its own, or here if there can be none.
fn aside(name: &str, work: impl FnOnce() + Send + Clone + 'static) {
    let thread = std::thread::Builder::new().name(name.to_owned());
    if thread.spawn(work.clone()).is_err() {
        work();
    }
}

/// Compiles `source` in the directory of `build`, inspects the result and keeps it.
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
    // One that waits has no sanitizer's libraries.
    let ready = build.inspection.take().filter(|_| preload.is_empty());
    let mut begun = ready.and_then(|mut inspection| inspection.is_there().then_some(Ok(inspection)));
    // The inspecting process gets ready while the compiler works. Started before the compiler, it would hold the compiler up.
    let mut while_compiling = || _ = begun.get_or_insert_with(begin);
    let units = &control.units;
    let warnings = control.compiler.compile(source, plan, &mut build.workdir, OBJECT, units, &mut while_compiling)?;
    let inspection = begun.unwrap_or_else(begin)?;
    if plan.is_object() {
        // The stored warnings include those of the inspection. A refused object is not kept: it cost no compilation.
        let inspected = inspection.finish(control.config.inspect_timeout)?;
        let warnings = warnings + &shared_object::unproved(&inspected.unproved);
        control.store.prepare(key, source, &dir.join(OBJECT), &warnings)?.commit()?;
        return Ok((warnings, inspected.manifest));
    }
    let keep = || control.store.prepare(key, source, &dir.join(OBJECT), &warnings);
    let (kept, inspected) = both(keep, || inspection.finish(control.config.inspect_timeout))?;
    // A refused object is kept, too: the next attempt is refused without a compilation.
    kept?.commit()?;
    Ok((warnings, inspected?.manifest))
}
