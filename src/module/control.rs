//! The control plane: the one writer of the module table.

use super::compile::{Compiler, UnitCache};
pub use super::control_state::{ControlConfig, Needed};
use super::control_state::{ControlState, lock, short};
use super::deploy::{DeployError, DeployOptions};
pub use super::deploy::{DeployReply, RemoveReply};
use super::generation::{Generation, reap};
pub use super::history::FoundReply;
use super::history::{self, Again, Query};
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

/// How long all modules together are waited for at the end that something still holds.
const LET_GO_WAIT: Duration = Duration::from_millis(200);
/// How long the others wait at the end for the `unload` of one module.
const UNLOAD_TURN: Duration = Duration::from_millis(500);

/// Handle to the control plane; clones are the same one.
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
        unload_all(&self.control);
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

/// Does one piece of work, and answers it.
fn work(control: &ControlState, job: DeployTask) {
    if control.is_stopping() {
        return job.fail(DeployError::ShuttingDown);
    }
    match job {
        DeployTask::Deploy { ticket, posted, options, reply } => {
            // A panic here is a bug, but it must not cost the client its answer or the server a thread.
            let run = std::panic::AssertUnwindSafe(|| pipeline::deploy(control, ticket, posted, &options));
            let result = std::panic::catch_unwind(run)
                .unwrap_or_else(|_| Err(DeployError::Internal("a panic; please report it".to_owned())));
            record::log_outcome(&result);
            reply(result);
            let needed = control.needed.get().map(|needed| needed()).unwrap_or_default();
            if let Err(error) = control.store.tidy(&needed) {
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

/// Unloads every module, in the order of their deployment: the hooks have run when this returns. One that takes its time
/// does not keep the others from theirs.
fn unload_all(control: &Arc<ControlState>) {
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
            running.extend(unload(control, generation));
        }
    }
    for ended in running {
        let _ = ended.recv();
    }
}

/// Runs `unload` of a generation, and waits for it a moment. Returns what tells its end if that has not come.
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
        tracing::error!("a module is not unloaded: {error}");
        return None;
    }
    (ended.recv_timeout(UNLOAD_TURN) == Err(channel::RecvTimeoutError::Timeout)).then_some(ended)
}
