//! A domain, as the server uses it.

use super::arena::Budgets;
use super::cgroup::Cgroups;
use super::connects::Connects;
use super::control::{self, Order, Outcome};
use super::core_files::CoreFiles;
use super::hook::NoOutcome;
use super::identity::Identity;
use super::lock;
use super::quarantine::{CrashLimit, Quarantine};
use super::remote::RemoteModule;
use super::shared::{DomainShared, Loaded};
use super::supervisor;
use super::watch::Allowance;
use crate::abi::request::RequestRules;
use crate::abi::settings::Settings;
use crate::domain::inbox::Inbox;
use crate::domain::sandbox::Policy;
use crate::domain::sanitized;
use crate::domain::{CodingSettings, Fault, Instance, LoadError};
use crate::net::Waker;
use crossbeam::channel::unbounded;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Modules loaded into one process before it is replaced.
const LOADS_MAX: u64 = 1_000;

/// What a domain needs to know.
#[derive(Debug, Clone)]
pub struct DomainConfig {
    /// Which domain it is.
    pub identity: Arc<Identity>,
    /// Core of each shard; `None` where a shard is not pinned.
    pub cores: Vec<Option<usize>>,
    /// Cores of the executor pool; empty for all.
    pub free_cores: Vec<usize>,
    /// Executors that are always there.
    pub threads_min: usize,
    /// Executors at most.
    pub threads_max: usize,
    /// The modules' database; that of the default domain, if others have their own.
    pub database: PathBuf,
    /// Where the other domains have theirs, each in a directory by its name; `None`: all share `database`.
    pub domain_data: Option<PathBuf>,
    /// Where the shared objects to load lie, in a directory by the domain's name.
    pub run_dir: PathBuf,
    /// The database of jobs, for modules to read.
    pub jobs_database: PathBuf,
    /// Where each process has a record while it lives, for [`end_orphans`](super::end_orphans).
    pub records: PathBuf,
    /// How long handlers may run whose route says nothing, in milliseconds.
    pub handler_timeout_ms: u64,
    /// Budgets of the memory for large bodies.
    pub bodies: Budgets,
    /// What is compressed and expanded there.
    pub codings: CodingSettings,
    /// What the process may do.
    pub policy: Policy,
    /// Users of the domains but the default one, each of which runs as one of its own.
    pub users: Option<RangeInclusive<u32>>,
    /// Names the libraries of sanitizers, for domains of modules that are compiled with one.
    pub sanitizers: sanitized::Libraries,
    /// Libraries that its process has from its start: those of its sanitizers.
    pub preload: Vec<PathBuf>,
    /// Where modules may keep files of a moment; also in the environment as `TMPDIR`.
    pub scratch: PathBuf,
    /// Limit, in bytes a second, on what is printed; more is dropped.
    pub output_bytes_max: usize,
    /// Whether modules read by SQL the jobs of other domains' modules too.
    pub reads_all_jobs: bool,
    /// What it may connect to, where its policy has that the server connects.
    pub connects: Arc<Connects>,
    /// What it may use beside memory.
    pub allowance: Allowance,
    /// The filter of the log (`CWEB_LOG`), if it is not the environment's.
    pub log: Option<String>,
    /// Limits and settings of requests.
    pub requests: RequestRules,
    /// Longest message of the process over the control connection: see [`message_bytes_max`].
    pub message_bytes_max: usize,
    /// Where core files go, if there are to be any.
    pub core_files: Option<CoreFiles>,
    /// When a module is left out.
    pub crash_limit: CrashLimit,
    /// Longest run of a constructor, `onload` or `unload`.
    pub hook_timeout: Duration,
    /// Resident bytes above those at its start with which a process is replaced; 0: none are too many.
    pub rss_recycle_bytes: u64,
    /// What limits the memory that each process uses, beside the policy's limit of its address space.
    pub cgroups: Option<Arc<Cgroups>>,
}

/// The limit of a message of a process, where `text_bytes` is the most that a job may give or be given at once.
#[must_use]
pub fn message_bytes_max(text_bytes: usize) -> usize {
    control::message_bytes_max(text_bytes)
}

/// Modules in a process of their own. Dropping it leaves the process; [`Domain::stop`] ends it.
pub struct Domain {
    shared: Arc<DomainShared>,
}

impl Domain {
    /// Starts the process, and waits until it is ready. `wakers` are those of the shards.
    ///
    /// # Errors
    /// The process could not be started.
    pub fn start(config: DomainConfig, wakers: Vec<Arc<Waker>>) -> io::Result<Self> {
        let (events, received) = unbounded();
        let shared = Arc::new(DomainShared::new(config, wakers, events));
        supervisor::start(&shared, received)?;
        let process = Self { shared };
        if let Err(error) = process.shared.enter().map(drop) {
            process.stop();
            return Err(io::Error::other(error));
        }
        Ok(process)
    }

    pub(super) fn shared(&self) -> &DomainShared {
        &self.shared
    }

    /// Names the shards' inboxes, in the order of their numbers, once.
    pub fn attach(&self, inboxes: Vec<Arc<Inbox>>) {
        self.shared.attach(inboxes);
    }

    /// Names the modules whose symbols others can resolve from now on.
    pub fn published<'a>(&self, instances: impl Iterator<Item = &'a Arc<dyn Instance>>) {
        self.shared.publish(instances.map(|instance| (instance.manifest().name.clone(), instance.id())).collect());
    }

    /// Ends the process.
    pub fn stop(&self) {
        self.shared.stop();
    }

    /// Waits, until `until` at most, for what the process has printed to be in the log. After [`Domain::stop`].
    pub fn wait_printed(&self, until: Instant) {
        for process in self.shared.processes() {
            process.wait_printed(until.saturating_duration_since(Instant::now()));
        }
    }
}

impl Domain {
    /// Which domain it is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        self.shared.identity()
    }

    /// Modules that are loaded, or to be loaded again.
    #[must_use]
    pub fn modules(&self) -> usize {
        lock(&self.shared.modules).len()
    }

    /// Loads a module: see [`Host::load`](crate::domain::Host::load).
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load(&self, path: &Path) -> Result<Arc<dyn Instance>, LoadError> {
        let shared = &self.shared;
        let id = shared.number();
        let order = Order::Load { instance: id, path: path.display().to_string() };
        let mut exhausted = false;
        let (pass, loaded) = loop {
            let pass = shared.enter().map_err(LoadError::Host)?;
            match shared.load_in_turn(pass.process(), order.clone()) {
                Some(Ok(Outcome::Exhausted(what, text))) if !exhausted => {
                    exhausted = true;
                    let old = Arc::clone(pass.process());
                    // The replacement waits for whoever has a pass.
                    drop(pass);
                    shared.want_replacement(&old, &format!("its modules have used up {what} ({text})"));
                    shared.gate().wait_followed(&old);
                }
                Some(loaded) => break (pass, loaded),
                None => {}
            }
        };
        match loaded {
            Ok(Outcome::Exhausted(what, text)) => Err(LoadError::Exhausted { what, text }),
            Ok(Outcome::Loaded(manifest, base)) => {
                if manifest.name.chars().any(char::is_control) {
                    pass.process().add(id, base);
                    shared.close_in(pass.process(), id);
                    return Err(LoadError::Manifest("its name is none in its domain".to_owned()));
                }
                let quarantine = Arc::<Quarantine>::default();
                let loaded = Loaded {
                    name: manifest.name.clone(),
                    path: path.to_path_buf(),
                    manifest: Arc::new(manifest.clone()),
                    has_onload: manifest.has_onload,
                    has_unload: manifest.has_unload,
                    onloaded: false,
                    quarantine: Arc::clone(&quarantine),
                    last_crash: None,
                    version: None,
                    settings: Settings::default(),
                };
                // With the pass: whoever makes another process after it knows the module.
                lock(&shared.modules).insert(id, loaded);
                if pass.process().add(id, base) == LOADS_MAX {
                    let why = "many modules have been loaded into it, and unloading gives not everything back";
                    shared.want_replacement(pass.process(), why);
                }
                Ok(Arc::new(RemoteModule::new(Arc::clone(shared), id, manifest, quarantine)))
            }
            Ok(Outcome::Loader(text)) => Err(LoadError::Loader(text)),
            Ok(Outcome::Refused(text)) => Err(LoadError::Manifest(text)),
            Ok(Outcome::Host(text) | Outcome::Fault(text)) => Err(LoadError::Host(text)),
            Err(late @ NoOutcome::Late(_)) => Err(LoadError::Constructor(Fault { what: late.to_string() })),
            Err(died) => Err(LoadError::Host(died.to_string())),
            Ok(_) => Err(LoadError::Host("its domain gave a wrong answer".to_owned())),
        }
    }
}
