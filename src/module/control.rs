//! The control plane: the one writer of the module table.

use super::compile::{Compiler, UnitCache};
use super::deploy::{DeployError, DeployOptions, Deployed};
use super::generation::{Generation, Retired, Serving, reap};
use super::history::{self, Again, Found, Query};
use super::job_code::GenerationIndex;
use super::libraries::{Allowed, Library};
use super::matcher;
pub use super::mounts::MountDirs;
use super::pipeline::{self, DeployTask};
use super::project::{Posted, ProjectLimits};
use super::reach::Reach;
use super::setting_callbacks::SettingCallbacks;
use super::settings::{Change, SettingsStore};
use super::spare_build::SpareBuild;
use super::store::Store;
use super::table::{Published, Table};
pub use super::verify::RouteLimits;
use super::{built, record, restart, sdk, store, verify};
use crate::abi::manifest::Manifest;
use crate::abi::settings::Settings;
use crate::domain::{DEFAULT_DOMAIN, Host, LoadError};
use crate::jobs::store::ScheduleSpec;
use crate::logbook;
use arc_swap::ArcSwap;
use crossbeam::channel::{self, Receiver, Sender, TrySendError};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long all modules together are waited for at the end that something still holds.
const LET_GO_WAIT: Duration = Duration::from_millis(200);
/// How long the others wait at the end for the `unload` of one module.
const UNLOAD_TURN: Duration = Duration::from_millis(500);

/// What the control plane needs to know.
#[derive(Debug, Clone)]
pub struct ControlConfig {
    /// Directory of the persisted modules.
    pub module_dir: PathBuf,
    /// Longest run of the compiler.
    pub compile_timeout: Duration,
    /// Longest run of a module's constructors in the inspection process.
    pub inspect_timeout: Duration,
    /// Longest wait for running requests when a swap has to run `unload` before `onload`.
    pub swap_timeout: Duration,
    /// What routes may give themselves.
    pub route_limits: RouteLimits,
    /// Which directories modules may have served.
    pub mounts: MountDirs,
    /// Libraries that sources may name.
    pub allow_lib: Allowed,
    /// Whether ready shared objects are served.
    pub allow_binary: bool,
    /// Limits of a project of several files.
    pub project_limits: ProjectLimits,
    /// Versions of each module that are kept.
    pub versions_kept: usize,
    /// The file of those whose signatures are asked for; `None`: sources need no signature.
    pub trusted_signers: Option<PathBuf>,
    /// Whether modules may create jobs of modules of other domains.
    pub jobs_of_all: bool,
    /// Deployments that may wait.
    pub queue_max: usize,
    /// Deployments worked on at once.
    pub workers: usize,
}

impl Default for ControlConfig {
    fn default() -> Self {
        Self {
            module_dir: PathBuf::from("modules"),
            compile_timeout: Duration::from_secs(10),
            inspect_timeout: Duration::from_secs(5),
            swap_timeout: Duration::from_secs(30),
            route_limits: RouteLimits {
                body_bytes_max: usize::MAX,
                plain_body_bytes_max: usize::MAX,
                handler_timeout: None,
            },
            mounts: MountDirs::default(),
            allow_lib: Allowed::Default,
            allow_binary: false,
            project_limits: ProjectLimits::default(),
            versions_kept: 20,
            trusted_signers: None,
            jobs_of_all: false,
            queue_max: 64,
            workers: std::thread::available_parallelism().map_or(2, usize::from).max(2),
        }
    }
}

/// Takes the outcome of a deployment, on a thread of the control plane.
pub type DeployReply = Box<dyn FnOnce(Result<Deployed, DeployError>) + Send>;
/// Takes the outcome of a removal or a restart, on a thread of the control plane.
pub type RemoveReply = Box<dyn FnOnce(Result<(), DeployError>) + Send>;

/// Takes what was found, on a thread of the control plane.
pub type FoundReply = Box<dyn FnOnce(Result<Found, DeployError>) + Send>;

/// Hashes of module versions that must stay on disk.
pub type Needed = Box<dyn Fn() -> HashSet<String> + Send + Sync>;

/// A module as the control plane has it.
pub(super) struct Entry {
    pub(super) manifest: Arc<Manifest>,
    pub(super) hash: String,
    /// The name of the source's file, which reports show.
    pub(super) source_name: Option<String>,
    /// The domain it was deployed into; it is in the default one if its host has no others.
    pub(super) domain: String,
    pub(super) warnings: String,
    /// The deployment that made it; a later one has a larger ticket.
    pub(super) ticket: u64,
    /// The number of its version.
    pub(super) version: u64,
    /// The libraries that its sources name.
    pub(super) libraries: Vec<Library>,
    /// Settings that it has unless others are set.
    pub(super) defaults: BTreeMap<String, String>,
    /// The schedules that it declares.
    pub(super) schedules: Vec<ScheduleSpec>,
    /// When the module came, whatever its version is now: the order of the modules. Milliseconds since 1970.
    pub(super) since_ms: u64,
    /// What is published of it while it is being swapped: its WebSocket paths that the next version has no more are gone, so
    /// that their sockets end with the handlers they have had, before its `unload`.
    pub(super) interim: Option<Arc<Manifest>>,
    /// `None` while it is being swapped.
    pub(super) serving: Option<Arc<Serving>>,
    /// Disconnected when no request uses it any more.
    pub(super) released: Receiver<()>,
}

impl Entry {
    /// Whether it serves requests: it is not being swapped, and not in quarantine.
    pub(super) fn is_running(&self) -> bool {
        let instance = self.serving.as_ref().map(|serving| serving.generation().instance());
        instance.is_some_and(|instance| instance.quarantine().is_none())
    }
}

/// What a short lock guards.
#[derive(Default)]
pub(super) struct TableState {
    /// The first deployed first.
    pub(super) entries: Vec<Entry>,
    /// Manifests of deployments between their conflict check and their publication.
    pub(super) reserved: Vec<(u64, Arc<Manifest>)>,
    subscribers: Vec<Box<dyn Fn() + Send + Sync>>,
    names: HashMap<String, Arc<Mutex<()>>>,
}

/// What the control plane's threads share.
pub(super) struct ControlState {
    pub(super) config: ControlConfig,
    pub(super) host: Arc<dyn Host>,
    pub(super) compiler: Compiler,
    pub(super) store: Store,
    pub(super) units: UnitCache,
    pub(super) spare_build: SpareBuild,
    pub(super) settings: SettingsStore,
    pub(super) setting_callbacks: Arc<SettingCallbacks>,
    table: Arc<ArcSwap<Table>>,
    state: Mutex<TableState>,
    known: Mutex<GenerationIndex>,
    /// The patterns of the last tables, compiled.
    patterns: Mutex<matcher::Cache>,
    needed: OnceLock<Needed>,
    reaper: Sender<Retired>,
    generations: AtomicU64,
    tickets: AtomicU64,
    /// No deployment begins any more.
    stopping: AtomicBool,
    /// The modules whose `unload` is still due, once it is their turn.
    unloading: Mutex<Option<Vec<String>>>,
    /// They are not waited for any more.
    abandoned: AtomicBool,
}

/// Handle to the control plane; clones are the same one.
#[derive(Clone)]
pub struct Control {
    control: Arc<ControlState>,
    jobs: Sender<DeployTask>,
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Control {
    /// Starts the control plane with an empty table; [`Control::load_persisted`] fills it.
    ///
    /// # Errors
    /// The module directory can't be used, or threads can't be started.
    pub fn start(config: ControlConfig, host: Arc<dyn Host>) -> io::Result<Self> {
        let store = Store::open(&config.module_dir).map_err(|error| {
            io::Error::new(error.kind(), format!("module directory {}: {error}", config.module_dir.display()))
        })?;
        let sdk_dir = sdk::unpack(&std::path::absolute(&config.module_dir)?)?;
        let compiler = Compiler::new(sdk_dir, config.compile_timeout, config.allow_lib.clone())
            .with_objects(config.allow_binary.then_some(config.project_limits.bytes_max));
        let units = UnitCache::new(store.units());
        let settings = SettingsStore::open(store.settings_dir())?;
        let (reaper, retired) = channel::unbounded();
        let (jobs, queue) = channel::bounded(config.queue_max);
        let workers = config.workers;
        let control = Arc::new(ControlState {
            config,
            host,
            compiler,
            store,
            units,
            spare_build: SpareBuild::default(),
            settings,
            setting_callbacks: Arc::default(),
            table: Arc::default(),
            state: Mutex::default(),
            known: Mutex::default(),
            patterns: Mutex::default(),
            needed: OnceLock::new(),
            reaper,
            generations: AtomicU64::new(1),
            tickets: AtomicU64::new(1),
            stopping: AtomicBool::new(false),
            unloading: Mutex::default(),
            abandoned: AtomicBool::new(false),
        });
        crate::threads::module_thread("reaper").spawn(move || reap(&retired))?;
        built::keep_spare(&control)?;
        let mut threads = Vec::new();
        for number in 0..workers {
            let (control, queue) = (Arc::clone(&control), queue.clone());
            let run = move || {
                queue.iter().take_while(|job| !matches!(job, DeployTask::Stop)).for_each(|job| control.work(job));
            };
            threads.push(crate::threads::module_thread(format!("deploy-{number}")).spawn(run)?);
        }
        Ok(Self { control, jobs, threads: Arc::new(Mutex::new(threads)) })
    }

    /// The published table.
    #[must_use]
    pub fn table(&self) -> Arc<ArcSwap<Table>> {
        Arc::clone(&self.control.table)
    }

    /// Calls `changed` after every publication, on the publishing thread, which waits for it.
    pub fn subscribe(&self, changed: Box<dyn Fn() + Send + Sync>) {
        lock(&self.control.state).subscribers.push(changed);
    }

    /// Keeps the versions on disk that `needed` names, besides the served ones. Only the first call counts.
    pub fn keep_versions(&self, needed: Needed) {
        let _ = self.control.needed.set(needed);
    }

    pub(super) fn control(&self) -> &ControlState {
        &self.control
    }

    /// Deploys what was `posted`; `reply` gets the outcome.
    pub fn deploy(&self, posted: Posted, options: DeployOptions, reply: DeployReply) {
        let ticket = self.control.tickets.fetch_add(1, Ordering::Relaxed);
        self.submit(DeployTask::Deploy { ticket, posted, options: Box::new(options), reply });
    }

    /// Removes the module `name`; `reply` gets the outcome.
    pub fn remove(&self, name: String, reply: RemoveReply) {
        let ticket = self.control.tickets.fetch_add(1, Ordering::Relaxed);
        self.submit(DeployTask::Remove { ticket, name, reply });
    }

    /// Restarts the module `name`; `reply` gets the outcome.
    pub fn restart(&self, name: String, reply: RemoveReply) {
        self.submit(DeployTask::Restart { name, reply });
    }

    /// The domain of the module `name`, if it is deployed.
    #[must_use]
    pub fn domain_of(&self, name: &str) -> Option<String> {
        let state = self.control.state();
        state.entries.iter().find(|entry| entry.manifest.name == name).map(|entry| entry.domain.clone())
    }

    /// Has the module `name`, if it is within `reach`, served again as `again` says; `reply` gets the outcome.
    pub fn again(&self, name: String, again: Again, reach: Reach, reply: DeployReply) {
        let ticket = self.control.tickets.fetch_add(1, Ordering::Relaxed);
        self.submit(DeployTask::Again { ticket, name, again, reach, reply });
    }

    /// Answers `query` about the module `name`.
    pub fn ask(&self, name: String, query: Query, reply: FoundReply) {
        self.submit(DeployTask::Ask { name, query, reply });
    }

    /// Changes a setting of the module `name`; `reply` gets the outcome.
    pub fn change_setting(&self, name: String, change: Change, reply: RemoveReply) {
        self.submit(DeployTask::Change { name, change, reply });
    }

    fn submit(&self, job: DeployTask) {
        if self.control.is_stopping() {
            return job.fail(DeployError::ShuttingDown);
        }
        match self.jobs.try_send(job) {
            Ok(()) => {}
            Err(TrySendError::Full(job)) => job.fail(DeployError::Busy),
            Err(TrySendError::Disconnected(job)) => job.fail(DeployError::ShuttingDown),
        }
    }

    /// Loads the modules that were deployed before the last stop, in the order of their deployment, until
    /// [`Control::refuse`]. One that can't be loaded is reported and skipped.
    pub fn load_persisted(&self) {
        let records = match self.control.store.records() {
            Ok(records) => records,
            Err(error) => return tracing::error!("the persisted modules can't be read: {error}"),
        };
        let elsewhere: Vec<String> = records
            .iter()
            .filter(|record| self.control.place(&record.domain) != record.domain)
            .map(|record| format!("{} ({})", record.name, record.domain))
            .collect();
        if !elsewhere.is_empty() {
            tracing::warn!(
                "there are no domains here (--isolation none), so these modules run in the server: {}",
                elsewhere.join(", ")
            );
        }
        for record in records {
            if self.control.is_stopping() {
                return;
            }
            let ticket = self.control.tickets.fetch_add(1, Ordering::Relaxed);
            match pipeline::reload(&self.control, ticket, &record) {
                Ok(()) => tracing::info!("module {} is loaded ({})", record.name, short(&record.hash)),
                // It may well be the stop that it failed of.
                Err(_) if self.control.is_stopping() => return,
                Err(error) => tracing::error!("module {} is skipped: {error}", record.name),
            }
        }
    }

    /// Refuses further deployments.
    pub fn refuse(&self) {
        self.control.stopping.store(true, Ordering::Release);
    }

    /// Refuses further deployments, waits for those that run, and unloads every module. No request may be running any
    /// more; generations that something still holds are left to the end of the process. All of this may take as long as
    /// module code does: see [`Control::abandon`].
    pub fn shutdown(&self) {
        self.refuse();
        let threads = std::mem::take(&mut *lock(&self.threads));
        for _ in &threads {
            let _ = self.jobs.send(DeployTask::Stop);
        }
        for thread in threads {
            let _ = thread.join();
        }
        self.control.spare_build.stop();
        ControlState::unload_all(&self.control);
    }

    /// [`Control::shutdown`], on another thread, is not waited for any more: no further module is unloaded. Returns those that
    /// are left; `None`: deployments still run.
    pub fn abandon(&self) -> Option<Vec<String>> {
        self.control.abandoned.store(true, Ordering::Release);
        lock(&self.control.unloading).clone()
    }

    /// Forgets the modules that were deployed.
    pub fn purge(&self) {
        if let Err(error) = self.control.store.purge().and_then(|()| self.control.settings.purge()) {
            tracing::error!("the modules could not be purged: {error}");
        }
    }
}

/// Rights on a loaded object: its domain gets it from its host.
fn owner_only() -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o600)
}

/// The beginning of a hash, for people.
pub(super) fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

impl ControlState {
    pub(super) fn state(&self) -> MutexGuard<'_, TableState> {
        lock(&self.state)
    }

    pub(super) fn known(&self) -> MutexGuard<'_, GenerationIndex> {
        lock(&self.known)
    }

    /// The number of a deployment that begins now.
    pub(super) fn ticket(&self) -> u64 {
        self.tickets.fetch_add(1, Ordering::Relaxed)
    }

    /// The lock that puts deployments of one name in order.
    pub(super) fn name_lock(&self, name: &str) -> Arc<Mutex<()>> {
        Arc::clone(self.state().names.entry(name.to_owned()).or_default())
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Whether what still runs is not to change anything any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }

    fn work(&self, job: DeployTask) {
        if self.is_stopping() {
            return job.fail(DeployError::ShuttingDown);
        }
        match job {
            DeployTask::Deploy { ticket, posted, options, reply } => {
                // A panic here is a bug, but it must not cost the client its answer or the server a thread.
                let run = std::panic::AssertUnwindSafe(|| pipeline::deploy(self, ticket, posted, &options));
                let result = std::panic::catch_unwind(run)
                    .unwrap_or_else(|_| Err(DeployError::Internal("a panic; please report it".to_owned())));
                record::log_outcome(&result);
                reply(result);
                let needed = self.needed.get().map(|needed| needed()).unwrap_or_default();
                if let Err(error) = self.store.tidy(&needed) {
                    tracing::warn!("old compilations could not be removed: {error}");
                }
                self.units.tidy();
                self.spare_build.order();
            }
            DeployTask::Remove { ticket, name, reply } => reply(pipeline::remove(self, ticket, &name)),
            DeployTask::Again { ticket, name, again, reach, reply } => {
                let result = history::again(self, ticket, &name, again, reach);
                record::log_outcome(&result);
                reply(result);
            }
            DeployTask::Ask { name, query, reply } => reply(history::answer(self, &name, query)),
            DeployTask::Change { name, change, reply } => history::change(self, &name, change, reply),
            DeployTask::Restart { name, reply } => reply(restart::restart(self, &name)),
            DeployTask::Stop => {}
        }
    }

    /// Where a module of the domain `domain` runs: there, or in the default one if its host has no such domain.
    pub(super) fn place<'a>(&self, domain: &'a str) -> &'a str {
        if self.host.check_domain(domain).is_ok() { domain } else { DEFAULT_DOMAIN }
    }

    /// Makes a generation by loading a module.
    pub(super) fn generation(
        &self,
        hash: &str,
        so: &std::path::Path,
        domain: &str,
        settings: &Settings,
    ) -> Result<Arc<Generation>, DeployError> {
        let id = self.generations.fetch_add(1, Ordering::Relaxed);
        // A file of its own for each generation: the loader gives two loads of one file the same image.
        let place = self.store.run_dir().join(self.place(domain));
        std::fs::create_dir_all(&place).map_err(store::at(&place))?;
        let run = place.join(format!("{}-{id}.so", std::process::id()));
        if let Err(error) = std::fs::copy(so, &run).and_then(|_| std::fs::set_permissions(&run, owner_only())) {
            let _ = std::fs::remove_file(&run);
            return Err(error.into());
        }
        let instance = self.host.load(&run, self.place(domain)).inspect_err(|_| {
            let _ = std::fs::remove_file(&run);
        })?;
        if !settings.0.is_empty() {
            instance.configure(settings).map_err(|fault| DeployError::Load(LoadError::Host(fault.what)))?;
        }
        let generation = Arc::new(Generation::new(id, hash.to_owned(), instance, run, self.reaper.clone()));
        self.known().add(&generation);
        Ok(generation)
    }

    /// Publishes what `state` says, and tells who wants to know.
    pub(super) fn publish(&self, state: &TableState) -> Result<(), DeployError> {
        let modules = state
            .entries
            .iter()
            .map(|entry| {
                let domain = self.place(&entry.domain).to_owned();
                let manifest = entry.interim.as_ref().unwrap_or(&entry.manifest);
                Published::new(Arc::clone(manifest), entry.hash.clone(), domain, entry.serving.clone())
            })
            .collect();
        let table = Table::build(modules, &mut lock(&self.patterns))
            .map_err(|error| DeployError::Internal(error.to_string()))?;
        logbook::set_known(state.entries.iter().map(|entry| entry.manifest.name.clone()));
        self.table.store(Arc::new(table));
        for changed in &state.subscribers {
            changed();
        }
        Ok(())
    }

    /// The default settings of the served version of the module `name`.
    pub(super) fn defaults_of(&self, name: &str) -> BTreeMap<String, String> {
        let state = self.state();
        let entry = state.entries.iter().find(|entry| entry.manifest.name == name);
        entry.map(|entry| entry.defaults.clone()).unwrap_or_default()
    }

    /// What the code of the module `name` finds as its settings.
    pub(super) fn settings_of(&self, name: &str, defaults: &BTreeMap<String, String>) -> Result<Settings, DeployError> {
        Ok(self.settings.of(name)?.over(defaults))
    }

    /// Checks `manifest` against every other module and reserves its paths until [`ControlState::release`].
    pub(super) fn reserve(&self, ticket: u64, manifest: &Arc<Manifest>, domain: &str) -> Result<(), DeployError> {
        let mut state = self.state();
        let served = state.entries.iter().map(|entry| &*entry.manifest);
        let coming = state.reserved.iter().map(|(_, manifest)| &**manifest);
        verify::conflict(manifest, served, coming).map_err(DeployError::Conflict)?;
        // All patterns together have a size limit too: what would exceed it is refused here, before anything changes.
        let others = state.entries.iter().map(|entry| (&entry.manifest, self.place(&entry.domain)));
        // Where those that are on their way will be is not known here: they count for the domain of this one.
        let others = others.chain(state.reserved.iter().map(|(_, manifest)| (manifest, domain)));
        let all = others.filter(|(other, _)| other.name != manifest.name).chain([(manifest, self.place(domain))]);
        let all = all.map(|(of, domain)| Published::new(Arc::clone(of), String::new(), domain.to_owned(), None));
        Table::build(all.collect(), &mut lock(&self.patterns))
            .map_err(|error| DeployError::Patterns(error.to_string()))?;
        state.reserved.push((ticket, Arc::clone(manifest)));
        Ok(())
    }

    /// Takes a reservation back.
    pub(super) fn release(&self, ticket: u64) {
        self.state().reserved.retain(|(reserved, _)| *reserved != ticket);
    }

    /// Unloads every module, in the order of their deployment: the hooks have run when this returns. One that takes its time
    /// does not keep the others from theirs.
    fn unload_all(control: &Arc<Self>) {
        let entries = std::mem::take(&mut control.state().entries);
        let due = entries.iter().filter(|entry| entry.manifest.has_unload && entry.serving.is_some());
        *lock(&control.unloading) = Some(due.map(|entry| entry.manifest.name.clone()).collect());
        let state = control.state();
        let _ = control.publish(&state);
        drop(state);
        // Requests are over; what still holds a module after this is on its way to let go, or never will.
        let let_go_by = Instant::now() + LET_GO_WAIT;
        let mut running = Vec::new();
        for mut entry in entries {
            let Some(serving) = entry.serving.take() else { continue };
            let generation = Arc::clone(serving.generation());
            drop(serving);
            if control.is_abandoned() {
                // The reaper is not to unload it either.
                std::mem::forget(generation);
                continue;
            }
            let released = entry.released.recv_deadline(let_go_by);
            let idle = released == Err(channel::RecvTimeoutError::Disconnected);
            if idle && generation.take_unload() {
                running.extend(control.unload(generation));
            }
        }
        for ended in running {
            let _ = ended.recv();
        }
    }

    /// Runs `unload` of a generation, and waits for it a moment. Returns what tells its end if that has not come.
    fn unload(self: &Arc<Self>, generation: Arc<Generation>) -> Option<Receiver<()>> {
        let (done, ended) = channel::bounded(1);
        let control = Arc::clone(self);
        let run = move || {
            let name = &generation.manifest().name;
            let unloaded = generation.instance().unload();
            if let Err(fault) = unloaded
                && !control.is_abandoned()
            {
                tracing::error!("module {name} failed in unload: {fault}");
            }
            lock(&control.unloading).iter_mut().for_each(|left| left.retain(|other| other != name));
            let _ = done.send(());
        };
        if let Err(error) = std::thread::Builder::new().name("unload".to_owned()).spawn(run) {
            tracing::error!("a module is not unloaded: {error}");
            return None;
        }
        (ended.recv_timeout(UNLOAD_TURN) == Err(channel::RecvTimeoutError::Timeout)).then_some(ended)
    }
}
