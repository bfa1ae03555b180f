//! The stop of the server; no module can block it.
//!
//! The server polls for the end of modules' code and never joins its threads. Each wait has a limit, and a further signal
//! shortens it. The end of the process ends code that is still running then. The store of jobs is the exception: it is closed
//! in any case, because that runs no code of modules. All accepted jobs are then on the disk.

use super::host::ModuleHost;
use super::shards::RunningShard;
use super::signals::StopSignals;
use crate::config::Config;
use crate::domain::inbox::Message;
use crate::domain::process::DomainRegistry;
use crate::jobs::Jobs;
use crate::module::control::Control;
use crossbeam::channel::{Sender, bounded};
use std::io::Write;
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long the stop waits for threads that were told to end.
const THREADS_WAIT: Duration = Duration::from_secs(2);
/// Limit, beyond the configured time-out, on running deployments and the `unload` of all modules together.
const HOOKS_WAIT: Duration = Duration::from_secs(2);
/// How long the stop waits for the modules' processes; their cgroups must be removed.
const PROCESSES_WAIT: Duration = Duration::from_secs(6);
/// How long the stop waits for the destructors that exit(3) runs.
const EXIT_WAIT: Duration = Duration::from_secs(2);
/// The rest of each of these waits once a further signal has arrived.
const HURRIED_WAIT: Duration = Duration::from_millis(500);
/// Interval between two checks of a wait.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Limits how long a stop waits.
pub(super) struct Patience<'a> {
    signals: &'a mut StopSignals,
    /// A further signal has arrived since the signal that began the stop.
    hurried: bool,
}

impl<'a> Patience<'a> {
    pub(super) fn new(signals: &'a mut StopSignals) -> Self {
        Self { signals, hurried: false }
    }

    /// Waits until `done` returns true, at most until `end`, or for `hurried` after a further signal. Returns the result of
    /// `done`.
    fn wait(&mut self, end: Instant, hurried: Duration, done: impl Fn() -> bool) -> bool {
        let mut end = if self.hurried { end.min(Instant::now() + hurried) } else { end };
        while !done() {
            if self.signals.stop_asked() && !std::mem::replace(&mut self.hurried, true) {
                end = end.min(Instant::now() + hurried);
            }
            if Instant::now() >= end {
                return done();
            }
            thread::sleep(LOOK_EVERY);
        }
        true
    }

    /// Waits for a thread that was told to end.
    pub(super) fn wait_for<T>(&mut self, thread: &JoinHandle<T>) -> bool {
        self.wait(Instant::now() + THREADS_WAIT, HURRIED_WAIT, || thread.is_finished())
    }

    fn why(&self) -> &'static str {
        if self.hurried { "a second signal came" } else { "the time limit is over" }
    }

    /// Stops the control plane: running deployments and the modules.
    pub(super) fn unload(&mut self, control: &Control, end: Instant, purge: bool) {
        let unloading = control.clone();
        let ended = match thread::Builder::new().name("shutdown".to_owned()).spawn(move || unloading.shutdown()) {
            Ok(thread) => self.wait(end, HURRIED_WAIT, || thread.is_finished()),
            Err(error) => {
                tracing::error!("the modules are not unloaded: {error}");
                true
            }
        };
        if !ended {
            match control.abandon() {
                Some(modules) => {
                    let modules = modules.join(", ");
                    tracing::warn!(
                        "unload is not waited for any longer: {}; modules without unload: {modules}",
                        self.why()
                    );
                }
                None => tracing::warn!(
                    "a deployment is not waited for any longer, and modules are left without unload: {}",
                    self.why()
                ),
            }
        }
        if purge {
            control.purge();
        }
    }

    /// Ends the modules' processes.
    pub(super) fn end_processes(&mut self, host: &ModuleHost) {
        let ModuleHost::Apart(domains) = host else { return };
        let ending: Arc<DomainRegistry> = Arc::clone(domains);
        match thread::Builder::new().name("domains-end".to_owned()).spawn(move || ending.stop()) {
            Ok(thread) => {
                self.wait(Instant::now() + PROCESSES_WAIT, HURRIED_WAIT, || thread.is_finished());
            }
            // The kernel ends the processes together with this process.
            Err(error) => tracing::error!("the processes of the modules are not ended in order: {error}"),
        }
    }
}

/// Stops accepting, lets requests and jobs finish within the time-out, closes the store of jobs, unloads the modules.
pub(super) fn stop(
    config: &Config,
    signals: &mut StopSignals,
    control: &Control,
    jobs: &Jobs,
    shards: Vec<RunningShard>,
    host: &ModuleHost,
) {
    tracing::info!("stopping");
    let mut patience = Patience::new(signals);
    let timeout_ms = if config.force_shutdown { 0 } else { config.timeouts.shutdown_timeout_ms };
    let deadline = Instant::now() + Duration::from_millis(timeout_ms);
    for shard in &shards {
        shard.inbox.push(Message::Drain);
    }
    // No job begins from here on; running jobs have as much time as the requests.
    let running_jobs = jobs.clone();
    let jobs_end =
        thread::Builder::new().name("jobs-end".to_owned()).spawn(move || running_jobs.stop_running(deadline));
    let jobs_ended = || jobs_end.as_ref().map_or(true, JoinHandle::is_finished);
    let shards_ended = || shards.iter().all(|shard| shard.thread.is_finished());
    // The thread also ends at the deadline with jobs still running, so the time must be checked.
    let ended = patience.wait(deadline, Duration::ZERO, || jobs_ended() && shards_ended());
    if !ended || Instant::now() >= deadline {
        tracing::warn!("requests or jobs are still running and not waited for any longer: {}", patience.why());
    }
    for shard in &shards {
        shard.inbox.push(Message::Stop);
    }
    if !patience.wait(Instant::now() + THREADS_WAIT, HURRIED_WAIT, shards_ended) {
        tracing::warn!(
            "a handler does not return from its shard's thread: only the end of the process ends the handler"
        );
    }
    for shard in shards.into_iter().filter(|shard| shard.thread.is_finished()) {
        let _ = shard.thread.join();
    }
    jobs.close();
    // Modules whose code is still running stay loaded: unloading a module under a running handler would crash.
    patience.unload(control, deadline.max(Instant::now()) + HOOKS_WAIT, config.purge_modules);
    patience.end_processes(host);
    tracing::info!("stopped");
}

/// Ends a start that a signal has interrupted: no request has been served.
pub(super) fn stop_start(
    config: &Config,
    signals: &mut StopSignals,
    control: &Control,
    loading: &JoinHandle<()>,
    jobs: &Jobs,
    host: &ModuleHost,
) {
    tracing::info!("stopping: a signal came while the modules were loaded; nothing has been served");
    let mut patience = Patience::new(signals);
    control.refuse();
    if !patience.wait_for(loading) {
        tracing::warn!("a module that is being loaded is not waited for any longer: {}", patience.why());
    }
    jobs.close();
    patience.unload(control, Instant::now() + HOOKS_WAIT, config.purge_modules);
    patience.end_processes(host);
    tracing::info!("stopped");
}

/// The thread that ends the process if exit(3) does not.
static LAST_RESORT: OnceLock<Sender<i32>> = OnceLock::new();

/// Starts the thread that [`bound_exit`] needs. Must run before any code of modules is loaded: while a destructor of a shared
/// object runs, every starting thread waits for the loader's lock.
pub(super) fn prepare_exit() {
    let (sender, code) = bounded(1);
    let end = move || {
        let Ok(code) = code.recv() else { return };
        thread::sleep(EXIT_WAIT);
        // Bypasses the log, because its buffer on this thread may need that lock.
        let _ = writeln!(std::io::stderr(), "destructors of modules do not return: the process ends without them");
        signal_hook::low_level::exit(code);
    };
    // Without that thread, the end of the process has no time limit.
    if thread::Builder::new().name("exit".to_owned()).spawn(end).is_ok() {
        let _ = LAST_RESORT.set(sender);
    }
}

/// Makes the process end with exit code `code` soon after main has returned. exit(3) also runs destructors of modules that are
/// still loaded, and a destructor that never returns blocks the others. Only the first call counts.
pub fn bound_exit(code: i32) {
    if let Some(last_resort) = LAST_RESORT.get() {
        let _ = last_resort.try_send(code);
    }
}
