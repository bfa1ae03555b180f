//! State that the supervisor, the modules and the readers of the processes share.

use super::asked::Permit;
use super::control::{Order, Outcome, Question};
use super::crash_report::CrashReport;
use super::domain_config::DomainConfig;
use super::endpoints::RingEndpoints;
use super::events::Event;
use super::gate::{Gate, Pass};
use super::identity::Identity;
use super::instance::ProcessInstance;
use super::lifecycle::Input;
use super::lock;
use super::quarantine::Quarantine;
use super::reports::Reports;
use crate::abi::manifest::Manifest;
use crate::abi::settings::Settings;
use crate::domain::inbox::{Inbox, Message};
use crate::net::Waker;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

/// Limit on the kept names of closed modules.
const CLOSED_MAX: usize = 64;

/// Limit on the wait of a publication for a domain.
const PUBLISH_WAIT: Duration = Duration::from_secs(1);

/// A module that every process must load.
pub(super) struct Loaded {
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// The module's manifest, which must be the same in each process.
    pub(super) manifest: Arc<Manifest>,
    pub(super) has_onload: bool,
    pub(super) has_unload: bool,
    /// Whether `onload` has run and `unload` has not.
    pub(super) onloaded: bool,
    pub(super) quarantine: Arc<Quarantine>,
    pub(super) last_crash: Option<CrashReport>,
    /// The number of the module's version.
    pub(super) version: Option<u64>,
    /// The settings that its code reads in each process.
    pub(super) settings: Settings,
}

/// A run of a job, which stays in the process where it began.
pub(super) struct Run {
    pub(super) process: Arc<ProcessInstance>,
    pub(super) instance: u64,
    pub(super) uuid: String,
    pub(super) sender: Sender<RunQuestion>,
}

/// A question of a running job.
pub(super) struct RunQuestion {
    pub(super) call: u64,
    pub(super) what: Question,
    /// Dropped when the question is answered.
    pub(super) permit: Permit,
}

/// A process that has not acknowledged a publication.
struct UnacknowledgedPublish {
    process: u64,
    answer: Receiver<Outcome>,
}

pub(super) struct DomainShared {
    pub(super) config: DomainConfig,
    pub(super) wakers: Vec<Arc<Waker>>,
    pub(super) inboxes: OnceLock<Vec<Arc<Inbox>>>,
    /// Endpoints created before the shards existed.
    endpoints: Mutex<Vec<RingEndpoints>>,
    gate: Gate,
    pub(super) modules: Mutex<BTreeMap<u64, Loaded>>,
    published: Mutex<Vec<(String, u64)>>,
    unacknowledged: Mutex<Option<UnacknowledgedPublish>>,
    runs: Mutex<HashMap<u64, Run>>,
    /// All processes that may still be alive.
    processes: Mutex<Vec<Weak<ProcessInstance>>>,
    pub(super) restarts: AtomicU64,
    pub(super) replacements: AtomicU64,
    pub(super) last_crash: Mutex<Option<CrashReport>>,
    /// When a fault in the process of a single call was last reported.
    pub(super) worker_told_at: Mutex<Option<Instant>>,
    /// The reports of sanitizers.
    pub(super) reports: Arc<Reports>,
    /// The names of recently closed modules, since a destructor may run for a while.
    pub(super) closed: Mutex<VecDeque<(u64, String)>>,
    pub(super) events: Sender<Event>,
}

impl DomainShared {
    pub(super) fn new(config: DomainConfig, wakers: Vec<Arc<Waker>>, events: Sender<Event>) -> Self {
        let told = events.clone();
        let gate = Gate::new(move |round| drop(told.send(Event::Input(Input::Quiet { round }))));
        Self {
            config,
            wakers,
            inboxes: OnceLock::new(),
            endpoints: Mutex::default(),
            gate,
            modules: Mutex::default(),
            published: Mutex::default(),
            unacknowledged: Mutex::default(),
            runs: Mutex::default(),
            processes: Mutex::default(),
            restarts: AtomicU64::new(0),
            replacements: AtomicU64::new(0),
            last_crash: Mutex::default(),
            worker_told_at: Mutex::default(),
            reports: Arc::default(),
            closed: Mutex::default(),
            events,
        }
    }

    pub(super) fn identity(&self) -> &Arc<Identity> {
        &self.config.identity
    }

    /// The domain's name.
    pub(super) fn name(&self) -> &str {
        self.config.identity.name()
    }

    /// A number that was never used before.
    pub(super) fn number(&self) -> u64 {
        self.config.identity.unique()
    }

    /// The gate to the process in service.
    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// The process in service, if there is one.
    pub(super) fn current(&self) -> Option<Arc<ProcessInstance>> {
        self.gate.current()
    }

    /// Takes a pass to the process in service, and waits for a process if necessary.
    ///
    /// # Errors
    /// A sentence for people: no process came in time.
    pub(super) fn enter(&self) -> Result<Pass<'_>, String> {
        self.gate.enter().ok_or_else(|| format!("the process of domain {} is not running", self.name()))
    }

    /// Sends an input to the supervisor.
    pub(super) fn tell(&self, input: Input) {
        let _ = self.events.send(Event::Input(input));
    }

    /// Puts `process` into service, with its endpoints to the shards, and lets orders begin. Called by the supervisor.
    pub(super) fn activate(&self, process: &Arc<ProcessInstance>, endpoints: Vec<RingEndpoints>) {
        self.gate.open(Arc::clone(process));
        self.deliver(endpoints);
        // Locked after the gate was opened: a later publication reaches this process itself; an earlier one is in the list.
        let published = lock(&self.published);
        let _ = process.publish(self.number(), published.clone());
    }

    /// Takes the dead `process` out of service, and informs the shards and the waiters of orders. Called by the supervisor.
    pub(super) fn deactivate(&self, process: &ProcessInstance) {
        process.set_dead();
        self.gate.remove(process);
        // A shard learns of a process before it learns of its death, or it learns of neither.
        let mut endpoints = lock(&self.endpoints);
        endpoints.retain(|endpoints| !endpoints.is_dead());
        for inbox in self.inboxes.get().into_iter().flatten() {
            inbox.push(Message::DomainDown { domain: self.config.identity.number() });
        }
        drop(endpoints);
        // Must come after the gate's change, so that the next order of the same thread does not find this process.
        process.give_up_orders();
    }

    /// Stops the shards from sending to the process in service. Each reports when it has all answers.
    pub(super) fn drain(&self) {
        for inbox in self.inboxes.get().into_iter().flatten() {
            inbox.push(Message::DomainDrain { domain: self.identity().number() });
        }
    }

    /// Passes the endpoints to the shards; keeps them until there are shards.
    fn deliver(&self, new: Vec<RingEndpoints>) {
        let mut endpoints = lock(&self.endpoints);
        endpoints.extend(new);
        self.hand_over(&mut endpoints);
    }

    fn hand_over(&self, endpoints: &mut Vec<RingEndpoints>) {
        let Some(inboxes) = self.inboxes.get() else { return };
        for endpoints in endpoints.drain(..).filter(|endpoints| !endpoints.is_dead()) {
            if let Some(inbox) = inboxes.get(endpoints.shard()) {
                inbox.push(Message::DomainUp(Box::new(endpoints)));
            }
        }
    }

    /// Sets the shards' inboxes. Called once.
    pub(super) fn attach(&self, inboxes: Vec<Arc<Inbox>>) {
        // The lock ensures that endpoints created meanwhile are either in the list or passed directly.
        let mut endpoints = lock(&self.endpoints);
        let shards = inboxes.len();
        let _ = self.inboxes.set(inboxes);
        self.tell(Input::Attached { shards });
        self.hand_over(&mut endpoints);
    }

    pub(super) fn publish(&self, named: Vec<(String, u64)>) {
        let mut published = lock(&self.published);
        if *published == named {
            // The deployment was in another domain. Every process gets the list at its start, so this one has it.
            return;
        }
        *published = named;
        let Some(process) = self.current() else { return };
        let Ok(told) = process.publish(self.number(), published.clone()) else { return };
        // When this call returns, other modules see the change. A process that does not answer applies it later, and is not
        // waited for again before it has answered.
        let mut unacknowledged = lock(&self.unacknowledged);
        let is_deaf = |unacknowledged: &UnacknowledgedPublish| {
            unacknowledged.process == process.number()
                && matches!(unacknowledged.answer.try_recv(), Err(TryRecvError::Empty))
        };
        if unacknowledged.as_ref().is_some_and(is_deaf) {
            return;
        }
        let late = matches!(told.recv_timeout(PUBLISH_WAIT), Err(RecvTimeoutError::Timeout));
        *unacknowledged = late.then(|| UnacknowledgedPublish { process: process.number(), answer: told });
    }

    pub(super) fn published(&self) -> Vec<(String, u64)> {
        lock(&self.published).clone()
    }

    /// Registers a process, so that it ends with the server.
    pub(super) fn born(&self, process: &Arc<ProcessInstance>) {
        let mut processes = lock(&self.processes);
        processes.retain(|process| process.strong_count() > 0);
        processes.push(Arc::downgrade(process));
    }

    /// All processes that may have loaded modules.
    pub(super) fn processes(&self) -> Vec<Arc<ProcessInstance>> {
        lock(&self.processes).iter().filter_map(Weak::upgrade).collect()
    }

    /// Closes a module that is not used any more.
    pub(super) fn close(&self, id: u64) {
        if let Some(gone) = lock(&self.modules).remove(&id) {
            let mut closed = lock(&self.closed);
            closed.truncate(CLOSED_MAX - 1);
            closed.push_front((id, gone.name));
        }
        for process in self.processes() {
            self.close_in(&process, id);
        }
    }

    /// Closes the module in `process`, if it is loaded there. With a sanitizer, waits for the leak check before that.
    pub(super) fn close_in(&self, process: &ProcessInstance, id: u64) {
        if let Some(end) = self.begin_close(process, id)
            && process.wait_for_leaks(&end).is_none()
        {
            process.loader().closes(end);
        }
    }

    /// Like `close_in`, without waiting.
    pub(super) fn close_apart(&self, process: &ProcessInstance, id: u64) {
        if let Some(end) = self.begin_close(process, id) {
            process.loader().closes(end);
        }
    }

    fn begin_close(&self, process: &ProcessInstance, id: u64) -> Option<Receiver<Outcome>> {
        let is_loaded = process.forget(id);
        is_loaded.then(|| process.begin(self.number(), Order::Close { instance: id }).ok()).flatten()
    }

    /// Checks that module `id` has in `process` the same manifest as at its first load. If not, it is closed there and put
    /// into quarantine.
    ///
    /// # Errors
    /// A sentence for people: the manifest differs.
    pub(super) fn recognize(&self, process: &ProcessInstance, id: u64, manifest: &Manifest) -> Result<(), String> {
        let mut modules = lock(&self.modules);
        // A module that was removed meanwhile is closed by the code that finds that.
        let Some(module) = modules.get_mut(&id).filter(|module| *module.manifest != *manifest) else { return Ok(()) };
        let why = format!(
            "module {} is in quarantine: its config differs when it is loaded again; a new deployment lifts it",
            module.name
        );
        tracing::error!("{why}");
        module.quarantine.impose(why.clone());
        drop(modules);
        self.close_apart(process, id);
        Err(why)
    }

    pub(super) fn set_onloaded(&self, id: u64, onloaded: bool) {
        if let Some(loaded) = lock(&self.modules).get_mut(&id) {
            loaded.onloaded = onloaded;
        }
    }

    pub(super) fn add_run(&self, number: u64, run: Run) {
        lock(&self.runs).insert(number, run);
    }

    pub(super) fn remove_run(&self, number: u64) {
        let run = lock(&self.runs).remove(&number);
        if run.is_some_and(|run| run.process.is_draining()) {
            self.tell(Input::RunEnded);
        }
    }

    /// The modules whose jobs run in `process`.
    pub(super) fn running_in(&self, process: &ProcessInstance) -> Vec<u64> {
        let runs = lock(&self.runs);
        runs.values().filter(|run| run.process.number() == process.number()).map(|run| run.instance).collect()
    }

    /// The process that runs the job.
    pub(super) fn process_of_job(&self, uuid: &str) -> Option<Arc<ProcessInstance>> {
        lock(&self.runs).values().find(|run| run.uuid == uuid).map(|run| Arc::clone(&run.process))
    }

    /// Passes a question on to its run, if that is in `process`.
    pub(super) fn ask_run(&self, process: &ProcessInstance, run: u64, question: RunQuestion) -> bool {
        let runs = lock(&self.runs);
        let run = runs.get(&run).filter(|run| run.process.number() == process.number());
        run.is_some_and(|run| run.sender.send(question).is_ok())
    }

    /// Requests a replacement of `process`. Repeated requests have no effect.
    pub(super) fn want_replacement(&self, process: &ProcessInstance, why: &str) {
        if process.request_replacement() {
            self.tell(Input::Replace { process: process.number(), why: why.to_owned() });
        }
    }

    /// Ends all processes.
    pub(super) fn stop(&self) {
        self.gate.stop();
        self.tell(Input::Stop);
    }
}
