//! Commands without a server: writing the headers for an editor, and checking a module as a deployment would.

use super::compile::{Compiler, UnitCache, Workdir};
use super::deploy::{DeployError, SourceFields};
use super::generation::{Generation, Serving};
use super::instruments::Instruments;
use super::libraries::{Allowed, Library};
use super::matcher::Cache;
use super::project::{self, Posted, ProjectLimits, Source};
use super::table::{Published, Table};
use super::verify::RouteLimits;
use super::{checks, sdk, shared_object, verify};
use crate::abi::manifest::Manifest;
use crate::domain::{DEFAULT_DOMAIN, Inspected, Inspection, Instance};
use crossbeam::channel;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Limit on a run of the compiler.
const COMPILE_TIMEOUT: Duration = Duration::from_secs(60);
/// Limit on a run of the constructors: the default of `--hook-timeout-ms`.
const INSPECT_TIMEOUT: Duration = Duration::from_secs(30);
/// The name of the shared object in the directory of its compilation.
const OBJECT: &str = "module.so";

/// A module that passed all checks that need no server. A server may still refuse it, for example because another module
/// serves its paths.
#[derive(Debug, Clone)]
pub struct Checked {
    /// The module's manifest.
    pub manifest: Manifest,
    /// The compiler's warnings; empty without any.
    pub warnings: String,
    /// The libraries that the sources name.
    pub libraries: Vec<Library>,
}

/// Writes the headers of modules below `dir`, and returns their directory.
///
/// # Errors
/// A file can't be written.
pub fn headers(dir: &Path) -> io::Result<PathBuf> {
    sdk::unpack(dir)
}

/// Compiles and inspects a module in `dir`, which must be an empty directory of the caller's. The name in `fields` is the
/// file name of a single source.
///
/// # Errors
/// As of a deployment.
pub fn check(posted: Posted, fields: &SourceFields, dir: &Path) -> Result<Checked, DeployError> {
    let source = Source::read(posted, ProjectLimits::default())?;
    checks::domain(source.domain(), false)?;
    let scratch = dir.join("scratch");
    fs::create_dir_all(&scratch)?;
    let compiler = Compiler::new(sdk::unpack(dir)?, COMPILE_TIMEOUT, Allowed::All).with_objects(Some(usize::MAX));
    let plan = compiler.plan(&source, fields)?;
    let begin = || Inspection::begin(&scratch, OBJECT, &[]);
    let mut begun = None;
    let mut while_compiling = || begun = Some(begin());
    let mut workdir = Workdir::new(scratch.clone());
    let warnings = compiler.compile(&source, &plan, &mut workdir, OBJECT, &UnitCache::none(), &mut while_compiling)?;
    let Inspected { manifest, unproved } = begun.unwrap_or_else(begin)?.finish(INSPECT_TIMEOUT)?;
    checks::manifest(&source, &manifest)?;
    checks::patterns(&manifest)?;
    let unproved = if plan.is_object() { shared_object::unproved(&unproved) } else { String::new() };
    // The limits of a server are not known here, so no remark compares with them.
    let remarks = verify::remarks(&manifest, RouteLimits::UNKNOWN);
    let warnings = warnings + &unproved + &remarks + &plan.remarks();
    Ok(Checked { manifest, warnings, libraries: plan.libraries() })
}

/// A module that was compiled with its tests.
#[derive(Debug, Clone)]
pub struct TestBuild {
    /// The compiler's working directory; file names in debug information are relative to it.
    pub dir: PathBuf,
    /// The shared object.
    pub object: PathBuf,
    /// The compiler's warnings; empty without any.
    pub warnings: String,
    /// The settings of `module.toml`.
    pub settings: BTreeMap<String, String>,
    /// The libraries that must be preloaded into a process with the module.
    pub preload: Vec<PathBuf>,
    /// The files of the module, without its tests.
    pub files: Vec<String>,
}

/// Compiles a module with its tests and `instruments` in `dir`, which must be an empty directory of the caller's.
///
/// # Errors
/// As of a deployment; or a sanitizer is not installed.
pub fn build_tests(
    posted: Posted,
    fields: &SourceFields,
    instruments: &Instruments,
    dir: &Path,
) -> Result<TestBuild, DeployError> {
    let source = Source::read(posted, ProjectLimits::default())?;
    let scratch = dir.join("build");
    fs::create_dir_all(&scratch)?;
    let compiler = Compiler::new(sdk::unpack(dir)?, COMPILE_TIMEOUT, Allowed::All).with_objects(Some(usize::MAX));
    let preload = compiler.preload(instruments).map_err(DeployError::Compile)?;
    let plan = compiler.plan_with(&source, fields, instruments)?;
    let mut workdir = Workdir::new(scratch.clone());
    let warnings = compiler.compile(&source, &plan, &mut workdir, OBJECT, &UnitCache::none(), &mut || {})?;
    let (settings, files) = match &source {
        Source::Project(project) => {
            let files = project.files.keys().filter(|path| !project::is_for_tests(path)).cloned();
            (project.default_settings(), files.collect())
        }
        Source::File(_) => (BTreeMap::new(), vec![plan.reading().file().to_owned()]),
    };
    // The object is copied, because the compiler's directory belongs to another user.
    let object = dir.join(OBJECT);
    fs::copy(scratch.join(OBJECT), &object)?;
    let warnings = warnings + &plan.remarks();
    Ok(TestBuild { dir: scratch, object, warnings, settings, preload, files })
}

/// A module table that contains only `instance`.
///
/// # Errors
/// A text for the author: a server would refuse the module.
pub fn alone(instance: &Arc<dyn Instance>, object: &Path) -> Result<Table, String> {
    let manifest = instance.manifest().clone();
    verify::check(&manifest).map_err(|refusal| refusal.to_string())?;
    // There is no reaper: the module stays loaded until the process ends.
    let (reaper, _) = channel::bounded(0);
    let generation = Generation::new(1, String::new(), Arc::clone(instance), object.to_path_buf(), reaper);
    let (serving, _) = Serving::start(Arc::new(generation));
    let published = Published::new(Arc::new(manifest), String::new(), DEFAULT_DOMAIN.to_owned(), Some(serving));
    Table::build(vec![published], &mut Cache::default()).map_err(|error| error.to_string())
}
