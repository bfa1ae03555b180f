//! The control plane, the only writer of the module table.

use super::compile::{Compiler, UnitCache};
pub use super::control_state::{ControlConfig, Needed};
use super::control_state::{ControlState, lock, short};
use super::deploy::{DeployError, DeployOptions};
pub use super::deploy::{DeployReply, RemoveReply};
use super::generation::{Generation, reap};
pub use super::history::FoundReply;
use super::history::{self, Again, Query};
use super::ledger::FileLedger;
pub use super::mounts::MountDirs;
use super::project::Posted;
use super::reach::Reach;
use super::settings::{Change, SettingsStore};
use super::spare_build::SpareBuild;
use super::store::Store;
use super::table::Table;
use super::task::DeployTask;
pub use super::verify::RouteLimits;
use super::{built, pipeline, record, restart, sdk};
use crate::domain::Host;
use arc_swap::ArcSwap;
use crossbeam::channel::{self, Receiver, Sender, TrySendError};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// At shutdown: how long the control plane waits, for all modules together, until their last references are released.
const LET_GO_WAIT: Duration = Duration::from_millis(200);
/// At shutdown: how long the control plane waits for one module's `unload` before it goes on with the others.
const UNLOAD_TURN: Duration = Duration::from_millis(500);

/// Handle to the control plane; clones refer to the same control plane.
#[derive(Clone)]
pub struct Control {
    control: Arc<ControlState>,
    jobs: Sender<DeployTask>,
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Control {
    /// Starts the control plane with an empty table; [`Control::load_persisted`] fills it.
    ///
    /// # Errors
    /// The module directory can't be used, or threads can't be started.
    pub fn start(config: ControlConfig, host: Arc<dyn Host>) -> io::Result<Self> {
        let opened =
            Store::open(&config.module_dir).and_then(|store| Ok((store, FileLedger::open(&config.module_dir)?)));
        let (store, ledger) = opened.map_err(|error| {
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
            ledger: Box::new(ledger),
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
                queue.iter().take_while(|job| !matches!(job, DeployTask::Stop)).for_each(|job| work(&control, job));
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

    /// Keeps the versions on disk that `needed` returns, besides the served ones. Calls after the first have no effect.
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

    /// Serves the module `name` again as `again` says, if `name` is within `reach`; `reply` gets the outcome.
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
    /// [`Control::refuse`]. A module that can't be loaded is logged and skipped.
    pub fn load_persisted(&self) {
        let records = match self.control.ledger.published() {
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
                // The stop itself may have caused the failure.
                Err(_) if self.control.is_stopping() => return,
                Err(error) => tracing::error!("module {} is skipped: {error}", record.name),
            }
        }
    }

    /// Refuses further deployments.
    pub fn refuse(&self) {
        self.control.stopping.store(true, Ordering::Release);
    }

    /// Refuses further deployments, waits for running deployments, and unloads every module. The caller must have ended all
    /// requests; generations with remaining references stay loaded until the process ends. Module code may make this call
    /// take arbitrarily long: see [`Control::abandon`].
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
        unload_all(&self.control);
    }

    /// Tells a [`Control::shutdown`] on another thread to unload no further module, because the caller stops waiting for
    /// it. Returns the names of the modules that are still loaded; `None`: deployments still run.
    pub fn abandon(&self) -> Option<Vec<String>> {
        self.control.abandoned.store(true, Ordering::Release);
        lock(&self.control.unloading).clone()
    }

    /// Removes all modules and their settings from the store.
    pub fn purge(&self) {
        let purged = self.control.ledger.purge().and_then(|()| self.control.store.purge());
        if let Err(error) = purged.and_then(|()| self.control.settings.purge()) {
            tracing::error!("the modules could not be purged: {error}");
        }
    }
}

/// Runs one task and sends its outcome.
fn work(control: &ControlState, job: DeployTask) {
    if control.is_stopping() {
        return job.fail(DeployError::ShuttingDown);
    }
    match job {
        DeployTask::Deploy { ticket, posted, options, reply } => {
            // A panic here is a bug, but the client must get its answer and the server must keep the thread.
            let run = std::panic::AssertUnwindSafe(|| pipeline::deploy(control, ticket, posted, &options));
            let result = std::panic::catch_unwind(run).unwrap_or_else(|_| {
                Err(DeployError::Internal("the deployment panicked; please report this bug".to_owned()))
            });
            record::log_outcome(&result);
            reply(result);
            let needed = control.needed.get().map(|needed| needed()).unwrap_or_default();
            if let Err(error) = control.store.tidy(|| control.ledger.keys(), &needed) {
                tracing::warn!("old compilations could not be removed: {error}");
            }
            control.units.tidy();
            control.spare_build.order();
        }
        DeployTask::Remove { ticket, name, reply } => reply(pipeline::remove(control, ticket, &name)),
        DeployTask::Again { ticket, name, again, reach, reply } => {
            let result = history::again(control, ticket, &name, again, reach);
            record::log_outcome(&result);
            reply(result);
        }
        DeployTask::Ask { name, query, reply } => reply(history::answer(control, &name, query)),
        DeployTask::Change { name, change, reply } => history::change(control, &name, change, reply),
        DeployTask::Restart { name, reply } => reply(restart::restart(control, &name)),
        DeployTask::Stop => {}
    }
}

/// Unloads every module, in the order of deployment: when this function returns, the hooks have run. A slow hook does not
/// keep the other modules from theirs.
fn unload_all(control: &Arc<ControlState>) {
    let entries = std::mem::take(&mut control.state().entries);
    let due = entries.iter().filter(|entry| entry.manifest.has_unload && entry.serving.is_some());
    *lock(&control.unloading) = Some(due.map(|entry| entry.manifest.name.clone()).collect());
    let state = control.state();
    let _ = control.publish(&state);
    drop(state);
    // Requests have ended. A remaining reference is about to be released, or never will be.
    let let_go_by = Instant::now() + LET_GO_WAIT;
    let mut running = Vec::new();
    for mut entry in entries {
        let Some(serving) = entry.serving.take() else { continue };
        let generation = Arc::clone(serving.generation());
        drop(serving);
        if control.is_abandoned() {
            // The reaper must not unload it either.
            std::mem::forget(generation);
            continue;
        }
        let released = entry.released.recv_deadline(let_go_by);
        let idle = released == Err(channel::RecvTimeoutError::Disconnected);
        if idle && generation.take_unload() {
            running.extend(unload(control, generation));
        }
    }
    for ended in running {
        let _ = ended.recv();
    }
}

/// Runs `unload` of a generation and waits for it at most [`UNLOAD_TURN`]. Returns the channel that reports the end, if
/// `unload` still runs.
fn unload(control: &Arc<ControlState>, generation: Arc<Generation>) -> Option<Receiver<()>> {
    let (done, ended) = channel::bounded(1);
    let control = Arc::clone(control);
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
        tracing::error!("the unload of a module did not run, because no thread can be started: {error}");
        return None;
    }
    (ended.recv_timeout(UNLOAD_TURN) == Err(channel::RecvTimeoutError::Timeout)).then_some(ended)
}
