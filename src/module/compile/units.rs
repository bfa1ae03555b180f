//! Compiling a project: units in parallel, unchanged units from the cache, then the link.

use super::super::deploy::{DeployError, cut};
use super::super::dialect::Language;
use super::super::dialect::messages::{self, LinkedFiles};
use super::super::project::Project;
use super::super::sdk;
use super::plan::{Plan, Unit};
use super::{Compiler, Workdir, assets};
use crate::domain::sandbox::Policy;
use crate::domain::sandbox::program::{self, Held};
use rustix::process::{Pid, Signal, kill_process_group};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Instant, SystemTime};

/// Limit on the compilers that work on one project at once.
const PARALLEL_MAX: usize = 8;
/// Limit on the unit objects in the cache.
const OBJECTS_MAX: usize = 1024;
/// The directory of the objects in the scratch directory. The name is hidden, so no file of a project can lie there.
const DIR: &str = ".cweb";
/// Limit, in bytes, on the diagnostics of all units; the rest is cut.
const OUTPUT_BYTES_MAX: usize = 256 * 1024;

/// The cache of unit objects.
#[derive(Debug)]
pub(in crate::module) struct UnitCache {
    dir: Option<PathBuf>,
}

impl UnitCache {
    pub(in crate::module) fn new(dir: PathBuf) -> Self {
        Self { dir: Some(dir) }
    }

    /// A cache that keeps nothing.
    pub(in crate::module) fn none() -> Self {
        Self { dir: None }
    }

    fn path(&self, key: &str) -> Option<PathBuf> {
        self.dir.as_ref().map(|dir| dir.join(key))
    }

    /// Whether the cache holds the object `key`.
    fn has(&self, key: &str) -> bool {
        self.path(key).is_some_and(|path| path.with_extension("o").exists())
    }

    /// Copies the object `key` to `target` and returns the warnings of its compilation.
    fn take(&self, key: &str, target: &Path) -> Option<String> {
        let path = self.path(key)?;
        let warnings = fs::read_to_string(path.with_extension("txt")).ok()?;
        fs::copy(path.with_extension("o"), target).ok()?;
        // `tidy` removes the oldest objects first; the new time marks this object as recently used.
        let _ = fs::File::open(path.with_extension("o")).and_then(|file| file.set_modified(SystemTime::now()));
        Some(warnings)
    }

    /// Stores the object in the file `object`. The cache is an optimisation, so errors are ignored.
    fn keep(&self, key: &str, object: &Path, warnings: &str) {
        let Some(path) = self.path(key) else { return };
        let aside = path.with_extension(format!("{:?}.new", thread::current().id()));
        let kept = fs::copy(object, &aside).and_then(|_| {
            fs::write(path.with_extension("txt"), warnings)?;
            fs::rename(&aside, path.with_extension("o"))
        });
        if kept.is_err() {
            let _ = fs::remove_file(&aside);
        }
    }

    /// Removes the oldest objects beyond [`OBJECTS_MAX`].
    pub(in crate::module) fn tidy(&self) {
        let Some(entries) = self.dir.as_ref().and_then(|dir| fs::read_dir(dir).ok()) else { return };
        let aged = entries.flatten().filter_map(|entry| {
            let path = entry.path();
            let is_object = path.extension().is_some_and(|extension| extension == "o");
            is_object.then(|| Some((entry.metadata().ok()?.modified().ok()?, path)))?
        });
        let mut objects: Vec<(SystemTime, PathBuf)> = aged.collect();
        objects.sort();
        for (_, path) in objects.iter().take(objects.len().saturating_sub(OBJECTS_MAX)) {
            let _ = fs::remove_file(path);
            let _ = fs::remove_file(path.with_extension("txt"));
        }
    }
}

/// State that all units of one project share.
struct UnitBuild<'a> {
    project: &'a Project,
    plan: &'a Plan,
    dir: &'a Path,
    sdk: &'a Path,
    cache: &'a UnitCache,
    deadline: Instant,
    /// Flags for the project's header directories.
    include: Vec<String>,
    /// A hash of all files that units may include.
    headers: String,
    /// Compilers that are already running, by the number of their unit.
    started: Mutex<BTreeMap<usize, Started>>,
}

/// A running compiler. Dropping this value kills its process group and reaps it.
struct Started(Option<Child>);

impl Started {
    fn take(mut self) -> Option<Child> {
        self.0.take()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let Some(mut child) = self.0.take() else { return };
        // The process is not reaped yet, so its id, which is also its group's, can't belong to another process.
        if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = child.wait();
    }
}

impl UnitBuild<'_> {
    /// The language whose compiler links.
    fn language(&self) -> Language {
        if self.plan.has_cpp() { Language::Cpp } else { Language::C }
    }
}

impl Compiler {
    /// Compiles `project` to the file `target` within `dir`. Returns the warnings.
    pub(super) fn project(
        &self,
        project: &Project,
        plan: &Plan,
        (workdir, target): (&mut Workdir, &str),
        cache: &UnitCache,
        deadline: Instant,
        begun: &mut dyn FnMut(),
    ) -> Result<String, DeployError> {
        let dir = &workdir.path().to_path_buf();
        let (include, headers, sdk) = (include_flags(project), headers_of(project, plan), sdk::dir_in(dir));
        let started = Mutex::default();
        let work = UnitBuild { project, plan, dir, sdk: &sdk, cache, deadline, include, headers, started };
        let order = self.order(&work);
        // The compilers set up their sandboxes while the files are written, and start working right after that. On a
        // machine with few cores, every process started in between would delay them.
        let held = self.first_compilers(&work, &order, workdir)?;
        let linker = if held.is_empty() { Some(self.linker(&work, target, workdir)?) } else { None };
        write_files(project, plan, dir)?;
        fs::create_dir_all(dir.join(DIR))?;
        workdir.sdk()?;
        self.hand_over(dir)?;
        *work.started.lock().unwrap_or_else(PoisonError::into_inner) =
            held.into_iter().map(|(number, held)| (number, Started(held.let_go()))).collect();
        let linker = linker.map_or_else(|| self.linker(&work, target, workdir), Ok)?;
        begun();
        let mut warnings = self.all_units(&work, &order.units)?;
        self.assets(&work)?;
        warnings.push_str(&self.link(&work, linker, || self.linker(&work, target, workdir))?);
        self.take_back(&dir.join(target))?;
        Ok(warnings)
    }

    /// Compiles the units in parallel.
    ///
    /// # Errors
    /// The messages of all units together, if the compiler refuses a unit.
    fn all_units(&self, work: &UnitBuild<'_>, units: &[usize]) -> Result<String, DeployError> {
        let next = AtomicUsize::new(0);
        let results = Mutex::new(Vec::new());
        let run = || {
            while let Some(number) = take_next(&next, units) {
                let Some(unit) = work.plan.units().get(number) else { continue };
                let result = self.unit(work, number, unit);
                results.lock().unwrap_or_else(PoisonError::into_inner).push((number, result));
            }
        };
        let workers = workers().min(units.len());
        thread::scope(|scope| {
            for _ in 1..workers {
                // If no other thread can be started, this one does all the work.
                let _ = thread::Builder::new().name("compile".to_owned()).spawn_scoped(scope, run);
            }
            run();
        });
        let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        results.sort_by_key(|(number, _)| *number);
        let (mut said, mut refused) = (String::new(), false);
        for (_, result) in results {
            match result {
                Ok(text) => said.push_str(&text),
                Err(DeployError::Compile(text)) => {
                    refused = true;
                    said.push_str(&text);
                }
                Err(other) => return Err(other),
            }
        }
        if said.len() > OUTPUT_BYTES_MAX {
            said.truncate(cut(&said, OUTPUT_BYTES_MAX).len());
            said.push_str("\n... (the rest is cut)\n");
        }
        if refused { Err(DeployError::Compile(super::hints::with_hints(said))) } else { Ok(said) }
    }

    fn unit(&self, work: &UnitBuild<'_>, number: usize, unit: &Unit) -> Result<String, DeployError> {
        let (key, object) = (self.unit_key(work, unit), work.dir.join(object(number)));
        let started = work.started.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        let (mut started, language) = (started.and_then(Started::take), unit.reading.language());
        if started.is_none()
            && let Some(warnings) = work.cache.take(&key, &object)
        {
            return Ok(warnings);
        }
        let warnings = Self::again_if_crowded(work.deadline, || {
            let child = match started.take() {
                Some(child) => child,
                None => self.spawn(self.unit_command(work, number, unit, program::command)?, language)?,
            };
            self.outcome(child, language, work.deadline)
        })?;
        // The compiler may have made a link there, so the object becomes the server's own before any of our code reads it.
        self.take_back(&object)?;
        work.cache.keep(&key, &object, &warnings);
        Ok(warnings)
    }

    /// The compiler command of unit `number`; `begin` as for [`Compiler::command`].
    fn unit_command(
        &self,
        work: &UnitBuild<'_>,
        number: usize,
        unit: &Unit,
        begin: fn(&Policy, &OsStr) -> io::Result<Command>,
    ) -> Result<Command, DeployError> {
        let cflags = work.plan.unit_cflags(unit, &work.include);
        let recipe = unit.reading.unit_recipe();
        let mut command = self.command(work.sdk, unit.reading.language(), &cflags, Some(&recipe), begin)?;
        command.args(["-c", "-o", &object(number), &unit.path]).current_dir(work.dir);
        Ok(command)
    }

    /// The order in which the units are done: those that must be compiled come first.
    fn order(&self, work: &UnitBuild<'_>) -> Order {
        let (mut missing, mut cached) = (Vec::new(), Vec::new());
        for (number, unit) in work.plan.units().iter().enumerate() {
            let is_cached = work.cache.has(&self.unit_key(work, unit));
            if is_cached { &mut cached } else { &mut missing }.push(number);
        }
        let missing_units = missing.len();
        Order { units: [missing, cached].concat(), missing: missing_units }
    }

    /// Starts compilers, waiting in their sandboxes, for the first units that must be compiled, as many as run at once. The
    /// files may still be missing.
    fn first_compilers(
        &self,
        work: &UnitBuild<'_>,
        order: &Order,
        workdir: &mut Workdir,
    ) -> Result<Vec<(usize, Held)>, DeployError> {
        // The sandbox grants the directory to the compiler's user.
        self.hand_over(work.dir)?;
        let first = order.units.iter().take(order.missing.min(workers()));
        first
            .filter_map(|number| Some((*number, work.plan.units().get(*number)?)))
            .map(|(number, unit)| {
                let mut command = self.unit_command(work, number, unit, program::held_command)?;
                let language = unit.reading.language();
                let held = Self::again_if_crowded(work.deadline, || {
                    workdir.held(&mut command).map_err(|error| self.not_started(language, error))
                });
                Ok((number, held?))
            })
            .collect()
    }

    /// Names the object of `unit`: the key covers all inputs of the object.
    fn unit_key(&self, work: &UnitBuild<'_>, unit: &Unit) -> String {
        let mut hasher = self.hasher(work.plan);
        let flags = work.plan.unit_cflags(unit, &work.include);
        hasher.update(format!("unit {flags:?} {:?}", unit.reading.unit_recipe()));
        hasher.update(super::super::flags::machine(&flags));
        hasher.update(work.plan.identity());
        hasher.update(work.plan.epilogue());
        hasher.update(&work.headers);
        hasher.update(&unit.path);
        hasher.update([0]);
        hasher.update(work.project.files.get(&unit.path).map(Vec::as_slice).unwrap_or_default());
        sdk::hex(&hasher.finalize())
    }

    /// Compiles the assets, if there are any.
    fn assets(&self, work: &UnitBuild<'_>) -> Result<(), DeployError> {
        // Assets are written after the units are compiled, so that no unit can include an asset: the units' keys do not
        // cover assets.
        if work.project.assets().is_empty() {
            return Ok(());
        }
        let (key, object) = (self.assets_key(work), work.dir.join(assets::OBJECT));
        if work.cache.take(&key, &object).is_some() {
            return Ok(());
        }
        assets::write(work.project, work.dir)?;
        self.hand_over(work.dir)?;
        let warnings = Self::again_if_crowded(work.deadline, || {
            let mut command = self.command(work.sdk, Language::C, &[], None, program::command)?;
            command.args(["-c", "-o", assets::OBJECT, assets::SOURCE]).current_dir(work.dir);
            self.outcome(self.spawn(command, Language::C)?, Language::C, work.deadline)
        })?;
        self.take_back(&object)?;
        work.cache.keep(&key, &object, &warnings);
        Ok(())
    }

    /// Names the object of the assets.
    fn assets_key(&self, work: &UnitBuild<'_>) -> String {
        let mut hasher = self.hasher(work.plan);
        hasher.update(b"assets\0");
        for path in work.project.assets() {
            let bytes = work.project.files.get(path).map(Vec::as_slice).unwrap_or_default();
            hasher.update(format!("{}:{path}:{}\n", path.len(), bytes.len()));
            hasher.update(bytes);
        }
        sdk::hex(&hasher.finalize())
    }

    /// The linker, which sets up its sandbox while the units are compiled.
    fn linker(&self, work: &UnitBuild<'_>, target: &str, workdir: &mut Workdir) -> Result<Held, DeployError> {
        let language = work.language();
        let units = work.plan.units();
        let mut command = self.command(work.sdk, language, &[], None, program::held_command)?;
        command
            .arg("-shared")
            .args((0..units.len()).map(object))
            .args((!work.project.assets().is_empty()).then_some(assets::OBJECT))
            .args(["-o", target])
            .args(work.plan.link_flags(self.is_clang))
            .args(super::LINK_FLAGS)
            .current_dir(work.dir);
        Self::again_if_crowded(work.deadline, || {
            workdir.held(&mut command).map_err(|error| self.not_started(language, error))
        })
    }

    /// Links with `linker`, or with `another` if that one found too many processes.
    fn link(
        &self,
        work: &UnitBuild<'_>,
        linker: Held,
        mut another: impl FnMut() -> Result<Held, DeployError>,
    ) -> Result<String, DeployError> {
        let mut first = Some(linker);
        let linked = Self::again_if_crowded(work.deadline, || {
            let linker = match first.take() {
                Some(linker) => linker,
                None => another()?,
            };
            let linker =
                linker.let_go().ok_or_else(|| DeployError::Internal("the linker has run before".to_owned()))?;
            self.outcome(linker, work.language(), work.deadline)
        });
        linked.map_err(|error| match error {
            DeployError::Compile(text) => {
                let units = work.plan.units().iter().map(|unit| unit.path.as_str()).collect();
                let files = LinkedFiles { units, all: work.project.files.keys().map(String::as_str).collect() };
                DeployError::Compile(super::hints::with_hints(messages::linker(&text, &files, &work.plan.words())))
            }
            other => other,
        })
    }
}

/// The order of the units, by their numbers in the plan.
struct Order {
    units: Vec<usize>,
    /// The number of units, at the front, that must be compiled.
    missing: usize,
}

/// How many compilers work on one project at once.
fn workers() -> usize {
    thread::available_parallelism().map_or(2, usize::from).min(PARALLEL_MAX)
}

fn take_next(next: &AtomicUsize, units: &[usize]) -> Option<usize> {
    // Relaxed: the counter guards no other data, and `fetch_add` gives each number to one thread.
    units.get(next.fetch_add(1, Ordering::Relaxed)).copied()
}

fn object(number: usize) -> String {
    format!("{DIR}/{number}.o")
}

/// Writes all files but the assets, which are written later.
fn write_files(project: &Project, plan: &Plan, dir: &Path) -> io::Result<()> {
    let assets = project.assets();
    let units: Vec<&str> = plan.units().iter().map(|unit| unit.path.as_str()).collect();
    for (path, bytes) in &project.files {
        if assets.contains(&path.as_str()) && !units.contains(&path.as_str()) {
            continue;
        }
        let target = dir.join(path);
        target.parent().map_or(Ok(()), fs::create_dir_all)?;
        let unit = plan.units().iter().position(|unit| unit.path == *path);
        let epilogue = unit.map(|number| epilogue(plan, number)).unwrap_or_default();
        fs::write(&target, [bytes.as_slice(), epilogue.as_bytes()].concat())?;
    }
    Ok(())
}

/// Text appended to a unit.
fn epilogue(plan: &Plan, number: usize) -> String {
    let own = plan.units().get(number).map(|unit| unit.reading.unit_recipe().epilogue).unwrap_or_default();
    if number == 0 { own + &plan.epilogue() } else { own }
}

/// A hash of all files that a unit may include: every file that is neither a unit nor an asset, and units that are
/// included.
fn headers_of(project: &Project, plan: &Plan) -> String {
    let assets = project.assets();
    let is_unit = |path: &str| plan.units().iter().any(|unit| unit.path == path);
    let is_included = |path: &str| {
        let name = path.rsplit('/').next().unwrap_or(path);
        plan.units().iter().any(|unit| unit.reading.words().includes(name))
    };
    let mut hasher = Sha256::new();
    for (path, bytes) in &project.files {
        if (is_unit(path) && !is_included(path)) || assets.contains(&path.as_str()) {
            continue;
        }
        hasher.update(format!("{}:{path}:{}\n", path.len(), bytes.len()));
        hasher.update(bytes);
    }
    sdk::hex(&hasher.finalize())
}

fn include_flags(project: &Project) -> Vec<String> {
    let named =
        project.settings.include.iter().map(|dir| dir.trim_start_matches("./").trim_end_matches('/').to_owned());
    let has_own = project.files.keys().any(|path| path.starts_with("include/"));
    let own = (has_own && project.settings.include.is_empty()).then(|| "include".to_owned());
    let dirs = named.chain(own).chain([".".to_owned()]);
    dirs.map(|dir| format!("-I{}", if dir.is_empty() { "." } else { &dir })).collect()
}
