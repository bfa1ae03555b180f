//! What commands do without a server: the headers for an editor, and a check of a module as a deployment would make it.

use super::compile::{Compiler, UnitCache, Workdir};
use super::deploy::{DeployError, SourceFields};
use super::generation::{Generation, Serving};
use super::instruments::Instruments;
use super::libraries::{Allowed, Library};
use super::matcher::Cache;
use super::project::{self, Posted, ProjectLimits, Source};
use super::table::{Published, Table};
use super::{sdk, shared_object, verify};
use crate::abi::manifest::Manifest;
use crate::domain::{DEFAULT_DOMAIN, Inspected, Inspection, Instance};
use crossbeam::channel;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Longest run of the compiler.
const COMPILE_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest run of the constructors.
const INSPECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The shared object in the directory of its compilation.
const OBJECT: &str = "module.so";

/// A module that a server would take, as far as that shows without one: its paths may be another's there.
#[derive(Debug, Clone)]
pub struct Checked {
    /// What it declares.
    pub manifest: Manifest,
    /// What the compiler said; empty if nothing.
    pub warnings: String,
    /// The libraries that its sources name.
    pub libraries: Vec<Library>,
}

/// Writes the headers of modules below `dir`, and returns their directory.
///
/// # Errors
/// A file can't be written.
pub fn headers(dir: &Path) -> io::Result<PathBuf> {
    sdk::unpack(dir)
}

/// Compiles and inspects a module in `dir`, an empty directory of the caller's; a source that comes alone has the file name
/// in `fields`.
///
/// # Errors
/// As of a deployment.
pub fn check(posted: Posted, fields: &SourceFields, dir: &Path) -> Result<Checked, DeployError> {
    let source = Source::read(posted, ProjectLimits::default())?;
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
    source.check_name(&manifest.name)?;
    verify::check(&manifest)?;
    let unproved = if plan.is_object() { shared_object::unproved(&unproved) } else { String::new() };
    Ok(Checked { manifest, warnings: warnings + &unproved + &plan.remarks(), libraries: plan.libraries() })
}

/// A module that was compiled with its tests.
#[derive(Debug, Clone)]
pub struct TestBuild {
    /// The directory that the compiler worked in: its files are named relative to it.
    pub dir: PathBuf,
    /// The shared object.
    pub object: PathBuf,
    /// What the compiler said; empty if nothing.
    pub warnings: String,
    /// The settings of `module.toml`.
    pub settings: BTreeMap<String, String>,
    /// The libraries that a process with the module must have from its start.
    pub preload: Vec<PathBuf>,
    /// The files of the module, without tests.
    pub files: Vec<String>,
}

/// Compiles a module with its tests and `instruments` in `dir`, an empty directory of the caller's.
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
    // Out of the compiler's directory, which is another user's.
    let object = dir.join(OBJECT);
    fs::copy(scratch.join(OBJECT), &object)?;
    let warnings = warnings + &plan.remarks();
    Ok(TestBuild { dir: scratch, object, warnings, settings, preload, files })
}

/// The table of a server with one module.
///
/// # Errors
/// For people: the module would be refused.
pub fn alone(instance: &Arc<dyn Instance>, object: &Path) -> Result<Table, String> {
    let manifest = instance.manifest().clone();
    verify::check(&manifest).map_err(|refusal| refusal.to_string())?;
    // Without a reaper: the module stays loaded as long as the process is there.
    let (reaper, _) = channel::bounded(0);
    let generation = Generation::new(1, String::new(), Arc::clone(instance), object.to_path_buf(), reaper);
    let (serving, _) = Serving::start(Arc::new(generation));
    let published = Published::new(Arc::new(manifest), String::new(), DEFAULT_DOMAIN.to_owned(), Some(serving));
    Table::build(vec![published], &mut Cache::default()).map_err(|error| error.to_string())
}
