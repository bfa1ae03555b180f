//! State that the threads of the control plane share: the modules, the table that is published, and the locks that order
//! deployments.

use super::compile::{Compiler, UnitCache};
use super::deploy::DeployError;
use super::file_names::at;
use super::generation::{Generation, Retired, Serving};
use super::generation_index::GenerationIndex;
use super::ledger::Ledger;
use super::libraries::{Allowed, Library};
use super::matcher;
use super::mounts::MountDirs;
use super::project::ProjectLimits;
use super::setting_callbacks::SettingCallbacks;
use super::settings::SettingsStore;
use super::spare_build::SpareBuild;
use super::store::Store;
use super::table::{Published, Table};
use super::verify::{self, RouteLimits};
use crate::abi::manifest::Manifest;
use crate::abi::settings::Settings;
use crate::domain::{DEFAULT_DOMAIN, Host, LoadError};
use crate::jobs::store::ScheduleSpec;
use crate::logbook;
use arc_swap::ArcSwap;
use crossbeam::channel::{Receiver, Sender};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// The settings of the control plane.
#[derive(Debug, Clone)]
pub struct ControlConfig {
    /// Directory of the persisted modules.
    pub module_dir: PathBuf,
    /// Limit on a run of the compiler.
    pub compile_timeout: Duration,
    /// Limit on a run of a module's constructors in the inspection process.
    pub inspect_timeout: Duration,
    /// Limit on the wait for running requests, when a swap must run `unload` before `onload`.
    pub swap_timeout: Duration,
    /// Limits on the limits that routes may set for themselves.
    pub route_limits: RouteLimits,
    /// The directories that modules may serve.
    pub mounts: MountDirs,
    /// The libraries that sources may name.
    pub allow_lib: Allowed,
    /// Whether the server takes ready shared objects.
    pub allow_binary: bool,
    /// Limits of a project of several files.
    pub project_limits: ProjectLimits,
    /// How many versions of each module the store keeps.
    pub versions_kept: usize,
    /// The file of the trusted signers; `None`: sources need no signature.
    pub trusted_signers: Option<PathBuf>,
    /// Whether modules may create jobs of modules in other domains.
    pub jobs_of_all: bool,
    /// Limit on waiting deployments.
    pub queue_max: usize,
    /// Number of deployments that run at once.
    pub workers: usize,
}

impl Default for ControlConfig {
    fn default() -> Self {
        Self {
            module_dir: PathBuf::from("modules"),
            compile_timeout: Duration::from_secs(10),
            inspect_timeout: Duration::from_secs(30),
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

/// Hashes of module versions that must stay on disk.
pub type Needed = Box<dyn Fn() -> HashSet<String> + Send + Sync>;

/// A module in the control plane.
pub(super) struct Entry {
    pub(super) manifest: Arc<Manifest>,
    pub(super) hash: String,
    /// The name of the source's file, for crash reports.
    pub(super) source_name: Option<String>,
    /// The domain that the module was deployed into. If the host has no such domain, the module runs in the default domain.
    pub(super) domain: String,
    pub(super) warnings: String,
    /// The ticket of the deployment; a later deployment has a larger ticket.
    pub(super) ticket: u64,
    /// The number of the module's version.
    pub(super) version: u64,
    /// The libraries that the sources name.
    pub(super) libraries: Vec<Library>,
    /// Default settings, which apply where no other value is set.
    pub(super) defaults: BTreeMap<String, String>,
    /// The schedules that the module declares.
    pub(super) schedules: Vec<ScheduleSpec>,
    /// When the module was first deployed, in milliseconds since 1970, whatever its version. Modules are ordered by this
    /// time.
    pub(super) since_ms: u64,
    /// The manifest published during a swap. WebSocket paths that the next version lacks are already gone from it, so that
    /// their sockets end with the old handlers, before the old `unload`.
    pub(super) interim: Option<Arc<Manifest>>,
    /// `None` during a swap.
    pub(super) serving: Option<Arc<Serving>>,
    /// Disconnected once no request uses the module any more.
    pub(super) released: Receiver<()>,
}

impl Entry {
    /// Whether the module serves requests: no swap is in progress, and the module is not in quarantine.
    pub(super) fn is_running(&self) -> bool {
        let instance = self.serving.as_ref().map(|serving| serving.generation().instance());
        instance.is_some_and(|instance| instance.quarantine().is_none())
    }
}

/// State behind the lock of [`ControlState::state`], which is held briefly.
#[derive(Default)]
pub(super) struct TableState {
    /// In the order of deployment.
    pub(super) entries: Vec<Entry>,
    /// Manifests of deployments between their conflict check and their publication.
    pub(super) reserved: Vec<(u64, Arc<Manifest>)>,
    pub(super) subscribers: Vec<Box<dyn Fn() + Send + Sync>>,
    pub(super) names: HashMap<String, Arc<Mutex<()>>>,
}

pub(super) struct ControlState {
    pub(super) config: ControlConfig,
    pub(super) host: Arc<dyn Host>,
    pub(super) compiler: Compiler,
    pub(super) store: Store,
    pub(super) ledger: Box<dyn Ledger>,
    pub(super) units: UnitCache,
    pub(super) spare_build: SpareBuild,
    pub(super) settings: SettingsStore,
    pub(super) setting_callbacks: Arc<SettingCallbacks>,
    pub(super) table: Arc<ArcSwap<Table>>,
    pub(super) state: Mutex<TableState>,
    pub(super) known: Mutex<GenerationIndex>,
    /// The compiled patterns of the last tables.
    pub(super) patterns: Mutex<matcher::Cache>,
    pub(super) needed: OnceLock<Needed>,
    pub(super) reaper: Sender<Retired>,
    pub(super) generations: AtomicU64,
    pub(super) tickets: AtomicU64,
    /// Whether new deployments are refused.
    pub(super) stopping: AtomicBool,
    /// The modules whose `unload` has not run yet; `None` before the unloading begins.
    pub(super) unloading: Mutex<Option<Vec<String>>>,
    /// Whether the caller of the shutdown has stopped waiting for unloads.
    pub(super) abandoned: AtomicBool,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The permissions of a loaded object: only the server's user. The host hands the file to the domain.
fn owner_only() -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o600)
}

/// The first 12 digits of a hash, for messages.
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

    /// Takes the next ticket.
    pub(super) fn ticket(&self) -> u64 {
        self.tickets.fetch_add(1, Ordering::Relaxed)
    }

    /// The lock that orders deployments of one name.
    pub(super) fn name_lock(&self, name: &str) -> Arc<Mutex<()>> {
        Arc::clone(self.state().names.entry(name.to_owned()).or_default())
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Whether tasks that still run must not change anything any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }

    /// The domain in which a module of `domain` runs: `domain`, or the default domain if the host has no such domain.
    pub(super) fn place<'a>(&self, domain: &'a str) -> &'a str {
        if self.host.check_domain(domain).is_ok() { domain } else { DEFAULT_DOMAIN }
    }

    /// Loads a module as a new generation.
    pub(super) fn generation(
        &self,
        hash: &str,
        so: &std::path::Path,
        domain: &str,
        settings: &Settings,
    ) -> Result<Arc<Generation>, DeployError> {
        let id = self.generations.fetch_add(1, Ordering::Relaxed);
        // Each generation gets a file of its own: the dynamic loader would map two loads of one file to the same image.
        let place = self.store.run_dir().join(self.place(domain));
        std::fs::create_dir_all(&place).map_err(at(&place))?;
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

    /// Publishes the table of `state` and calls the subscribers.
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

    /// The settings that the code of the module `name` reads.
    pub(super) fn settings_of(&self, name: &str, defaults: &BTreeMap<String, String>) -> Result<Settings, DeployError> {
        Ok(self.settings.of(name)?.over(defaults))
    }

    /// Checks `manifest` against every other module and reserves its paths until [`ControlState::release`].
    pub(super) fn reserve(&self, ticket: u64, manifest: &Arc<Manifest>, domain: &str) -> Result<(), DeployError> {
        let mut state = self.state();
        let served = state.entries.iter().map(|entry| &*entry.manifest);
        let coming = state.reserved.iter().map(|(_, manifest)| &**manifest);
        verify::conflict(manifest, served, coming).map_err(DeployError::Conflict)?;
        // All patterns together have a size limit, too: a module that would exceed the limit is refused here, before
        // anything changes.
        let others = state.entries.iter().map(|entry| (&entry.manifest, self.place(&entry.domain)));
        // The domains of reserved manifests are not known here, so their patterns count for this module's domain.
        let others = others.chain(state.reserved.iter().map(|(_, manifest)| (manifest, domain)));
        let all = others.filter(|(other, _)| other.name != manifest.name).chain([(manifest, self.place(domain))]);
        let all = all.map(|(of, domain)| Published::new(Arc::clone(of), String::new(), domain.to_owned(), None));
        Table::build(all.collect(), &mut lock(&self.patterns))
            .map_err(|error| DeployError::Patterns(error.to_string()))?;
        state.reserved.push((ticket, Arc::clone(manifest)));
        Ok(())
    }

    /// Releases the reservation of `ticket`.
    pub(super) fn release(&self, ticket: u64) {
        self.state().reserved.retain(|(reserved, _)| *reserved != ticket);
    }
}
