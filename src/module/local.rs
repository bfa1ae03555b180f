//! What commands do without a server: the headers for an editor, and a check of a module as a deployment would make it.

use super::compile::{Compiler, UnitCache};
use super::deploy::{DeployError, SourceFields};
use super::libraries::{Allowed, Library};
use super::project::{Posted, ProjectLimits, Source};
use super::{sdk, verify};
use crate::abi::manifest::Manifest;
use crate::domain::Inspection;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
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
    let compiler = Compiler::new(sdk::unpack(dir)?, COMPILE_TIMEOUT, Allowed::All);
    let plan = compiler.plan(&source, fields)?;
    let inspection = Inspection::begin(&scratch, OBJECT)?;
    let warnings = compiler.compile(&source, &plan, &scratch, OBJECT, &UnitCache::none())?;
    let manifest = inspection.finish(INSPECT_TIMEOUT)?;
    verify::check(&manifest)?;
    Ok(Checked { manifest, warnings: warnings + &plan.reading().remarks(), libraries: plan.libraries() })
}
