//! Compilations: from a source that was read to a shared object in the store, and its manifest.

use super::compile::Plan;
use super::control_state::ControlState;
use super::deploy::DeployError;
use super::file_names::at;
use super::project::Source;
use super::shared_object;
use super::store::both;
use crate::abi::manifest::Manifest;
use std::path::Path;
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
    let dir = control.store.scratch().join(ticket.to_string());
    std::fs::create_dir_all(&dir).map_err(at(&dir))?;
    let result = compiled(control, &dir, key, source, plan);
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

/// Does `work` on a thread of its own, or here if there can be none.
fn aside(name: &str, work: impl FnOnce() + Send + Clone + 'static) {
    let thread = std::thread::Builder::new().name(name.to_owned());
    if thread.spawn(work.clone()).is_err() {
        work();
    }
}

/// Compiles `source` in `dir`, inspects the result and keeps it.
fn compiled(
    control: &ControlState,
    dir: &Path,
    key: &str,
    source: &Source,
    plan: &Plan,
) -> Result<(String, Manifest), DeployError> {
    let preload = control.compiler.preload_of(plan)?;
    let begin = || control.host.begin_inspection(dir, OBJECT, &preload);
    // The inspecting process gets ready while the compiler works. Started before the compiler, it would hold the compiler up.
    let mut begun = None;
    let mut while_compiling = || begun = Some(begin());
    let warnings = control.compiler.compile(source, plan, dir, OBJECT, &control.units, &mut while_compiling)?;
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
