//! The main function of a domain's process: `cweb domain CONTROL RINGS BODIES WAKE… FILES…`, the numbers of its
//! descriptors.

mod confine;

use super::answers::Answers;
use super::arena::Parts;
use super::companion::{self, LazyPool, Pools, RequestRing, Rescuer};
use super::control::{self, CaughtFault, Order, Outcome, Question, Start, ToChild, ToParent};
use super::core_files;
use super::handed_files::HandedFiles;
use super::job_data;
use super::layout::Layout;
use super::response_ring::{ResponseOutlet, ResponseRing};
use super::streaming::ShardStreams;
use super::work::{ChildDomain, DomainRunner, RingRecord};
use super::workers::{self, WorkerHost};
use crate::abi::guard::{self, Trace, Trap};
use crate::abi::request::set_rules;
use crate::abi::rooms::set_outlets;
use crate::abi::uncancelled::Uncancelled;
use crate::abi::websocket::Outlet;
use crate::abi::{connect, crypto, exceptions, host, sanitizer, worker};
use crate::domain::Instance;
use crate::domain::executor::{self, Pool, Runner, RunnerFactory};
use crate::domain::in_process::{self, Caught, InProcess, InProcessModule, Workers};
use crate::domain::resident::ProgramPages;
use crate::domain::ring::{Consumer, Producer, Region};
use crate::domain::running;
use crate::domain::sandbox::Refusals;
use crate::jobs::code::JobCalls;
use crate::jobs::store::TableQuery;
use crate::threads::module_thread;
use confine::{close_in, confine, tell_refusals};
use core_affinity::CoreId;
use crossbeam::channel::{Sender, bounded};
use std::collections::HashMap;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The interval between two checks for the end of scheduled work, while the server waits for it.
const SETTLE_LOOK: Duration = Duration::from_millis(2);

/// The server's answer, or the reason why there is none.
type Answer = Result<String, String>;

/// The connection to the server, for questions of modules.
struct Parent {
    stream: Mutex<UnixStream>,
    /// Limit, in bytes, on a message that the server accepts.
    message_bytes_max: usize,
    waiting: Mutex<HashMap<u64, Sender<Answer>>>,
    next: AtomicU64,
    /// The server's number of each loaded instance, by the number with which the instance's code identifies itself.
    numbers: Mutex<HashMap<u64, u64>>,
    /// The running jobs: whether each must end.
    runs: Mutex<HashMap<u64, Arc<AtomicBool>>>,
    /// The open files for which jobs have asked.
    files: HandedFiles,
}

impl Parent {
    fn send(&self, message: &ToParent) {
        match control::write(&mut *lock(&self.stream), message) {
            // The server has closed the connection because it ends; this process ends, too.
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {}
            Err(error) => tracing::error!("a message to the server can't be sent: {error}"),
            Ok(()) => {}
        }
    }

    /// Sends a question to the server, and waits for the answer.
    fn ask(&self, what: Question) -> Answer {
        self.ask_as(self.next.fetch_add(1, Ordering::Relaxed), what)
    }

    /// Asks the server for an open file.
    fn ask_file(&self, what: Question) -> Result<OwnedFd, i32> {
        let call = self.next.fetch_add(1, Ordering::Relaxed);
        self.ask_as(call, what).map_err(|refusal| job_data::errno_of(&refusal))?;
        self.files.take(call)
    }

    fn ask_as(&self, call: u64, what: Question) -> Answer {
        if worker::refuses(c"a question to the server") {
            return Err("the process of a single call can't ask the server".to_owned());
        }
        let message = control::encode(&ToParent::Question { call, what }).map_err(|error| error.to_string())?;
        if message.len() > self.message_bytes_max {
            return Err("the question is larger than the server accepts".to_owned());
        }
        let _uncancelled = Uncancelled::begin();
        let (sender, receiver) = bounded(1);
        lock(&self.waiting).insert(call, sender);
        if let Err(error) = lock(&self.stream).write_all(&message) {
            // A question that was not sent gets no answer.
            lock(&self.waiting).remove(&call);
            return Err(format!("the server can't be asked: {error}"));
        }
        receiver.recv().unwrap_or_else(|_| Err("the server does not answer".to_owned()))
    }

    fn answered(&self, call: u64, answer: Answer) {
        if let Some(sender) = lock(&self.waiting).remove(&call) {
            let _ = sender.send(answer);
        }
    }
}

/// A running job's connection to the server.
struct ParentJobCalls<'a> {
    parent: &'a Parent,
    run: u64,
    must_end: Arc<AtomicBool>,
    /// The end of the run's time, if it is limited.
    deadline: Option<Instant>,
}

impl JobCalls for ParentJobCalls<'_> {
    fn emit_event(&self, kind: &str, data: Option<&str>) -> bool {
        let (kind, data) = (kind.to_owned(), data.map(str::to_owned));
        !self.is_canceled() && self.parent.ask(Question::Emit { run: self.run, kind, data }).is_ok()
    }

    fn set_result(&self, result: &str) -> bool {
        self.parent.ask(Question::SetResult { run: self.run, text: result.to_owned() }).is_ok()
    }

    fn set_error(&self, error: &str) -> bool {
        self.parent.ask(Question::SetError { run: self.run, text: error.to_owned() }).is_ok()
    }

    fn is_canceled(&self) -> bool {
        self.must_end.load(Ordering::Acquire)
    }

    fn remaining_ms(&self) -> Option<u64> {
        let left = self.deadline?.saturating_duration_since(Instant::now());
        Some(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
    }

    fn checkpoint(&self, bytes: &[u8]) -> Result<(), i32> {
        let run = self.run;
        let ask = |bytes| self.parent.ask(Question::Checkpoint { run, bytes });
        job_data::store(bytes, self.parent.message_bytes_max, ask)
    }

    fn emit_bytes(&self, kind: &str, bytes: &[u8]) -> Result<(), i32> {
        let (run, kind) = (self.run, kind.to_owned());
        let ask = |bytes| self.parent.ask(Question::EmitBytes { run, kind, bytes });
        job_data::store(bytes, self.parent.message_bytes_max, ask)
    }

    fn resume(&self) -> Result<Option<Vec<u8>>, i32> {
        job_data::resume(self.run, |what| self.parent.ask(what))
    }

    fn file(&self, name: &str) -> Result<OwnedFd, i32> {
        self.parent.ask_file(Question::File { run: self.run, name: name.to_owned() })
    }

    fn output(&self, name: &str) -> Result<OwnedFd, i32> {
        self.parent.ask_file(Question::Output { run: self.run, name: name.to_owned() })
    }
}

/// Runs the domain until the server closes the control connection.
#[must_use]
pub fn main(descriptors: &[i32]) -> ExitCode {
    let result = run(descriptors);
    crate::abi::guard::return_output();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("a domain could not start: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Takes a descriptor that the server left open for this process.
fn take(number: i32) -> OwnedFd {
    // SAFETY: the server names each descriptor once, and no code here has opened one before.
    unsafe { OwnedFd::from_raw_fd(number) }
}

fn run(descriptors: &[i32]) -> io::Result<()> {
    let [control, rings, bodies, wakes @ ..] = descriptors else {
        return Err(io::Error::other("a domain is started by the server, not by hand"));
    };
    let mut stream = UnixStream::from(take(*control));
    let (rings, bodies) = (take(*rings), take(*bodies));
    let mut wakes: Vec<OwnedFd> = wakes.iter().map(|&number| take(number)).collect();
    let ToChild::Start(start) = control::read(&mut stream)? else {
        return Err(io::Error::other("the first message of the server is not its start message"));
    };
    // Each shard has one wake descriptor and one file descriptor.
    let mut files = wakes.split_off(start.shards.min(wakes.len()));
    let core_dir = if start.leaves_core { files.pop() } else { None };
    if core_dir.is_some() {
        core_files::leave_shared_memory_out();
    }
    let handed = files.pop().ok_or_else(|| io::Error::other("the server has left out a descriptor"))?;
    let program_pages = ProgramPages::find();
    confine(&start, core_dir)?;
    let layout = Layout::new(start.shards);
    let region = Arc::new(Region::open(rings, layout.bytes())?);
    running::show(&region, layout.board());
    crate::domain::stream::configure(start.handler_timeout_ms, start.threads_max);
    for signal in [signal_hook::consts::SIGPIPE, signal_hook::consts::SIGXFSZ] {
        // The handler keeps the signal from ending the process: only the call that causes the signal fails.
        signal_hook::flag::register(signal, Arc::default())?;
    }
    let for_all_threads = stream.try_clone()?;
    let refusals = Refusals::new(start.policy.clone())?;
    let kept = [descriptors, &[for_all_threads.as_raw_fd()], &refusals.descriptors()].concat();
    let parent = Arc::new(Parent {
        stream: Mutex::new(for_all_threads),
        message_bytes_max: start.message_bytes_max,
        waiting: Mutex::default(),
        next: AtomicU64::new(1),
        numbers: Mutex::default(),
        runs: Mutex::default(),
        files: HandedFiles::new(handed),
    });
    crate::domain::set_codings(&start.codings);
    crate::abi::manifest::set_server_limits(start.handler_timeout_ms, start.codings.body_bytes_max);
    set_rules(&start.requests);
    connect_services(&parent, start.crypto);
    if start.policy.connects {
        let server = Arc::clone(&parent);
        connect::serve(Box::new(move |address| server.ask_file(Question::Connect { address })));
    }
    let server = Arc::clone(&parent);
    let rows = move |query: &TableQuery| server.ask(Question::Rows(query.clone()));
    // This process may be a spare, which must stay small, so the threads start at the first order. Damage to the database
    // up to then is noticed, too.
    program_pages.drop_from_process();
    wait_readable(&stream);
    let workers = close_in(&start, &kept, &parent, &refusals)?;
    let host = InProcess::start(Path::new(&start.database), Some(Box::new(rows)))?;
    let domain = start_threads(&start, &region, bodies, wakes, files)?;
    tell_refusals(&domain, refusals)?;
    parent.send(&ToParent::Started);
    program_pages.drop_from_process();
    // Closes the list of mappings before there are modules.
    drop(program_pages);
    let child = Arc::new(Child { parent, domain, host, workers });
    Child::serve(&child, &mut stream);
    child.look_for_leaks();
    // Threads of modules may be running, so destructors must not run.
    // SAFETY: this ends the process at once.
    unsafe { libc::_exit(0) }
}

/// Waits until the server has sent something, or has closed the connection.
fn wait_readable(stream: &UnixStream) {
    let mut poll = libc::pollfd { fd: stream.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd, of which the kernel writes only `revents`.
    while unsafe { libc::poll(&raw mut poll, 1, -1) } < 0 && io::Error::last_os_error().kind() == ErrorKind::Interrupted
    {
    }
}

/// Reports a signal that was caught in module code to the server. A call of exit(3) is no fault, so it is not reported.
fn tell_fault(parent: &Parent, caught: &Caught<'_>) {
    if let Trap::Signal { signal, address, instruction, stack_overflow } = caught.trap {
        let Trace { frames, registers } = guard::last_trace(instruction);
        let fault = CaughtFault {
            frames,
            registers,
            instance: caught.number,
            signal,
            address: address as u64,
            instruction: instruction as u64,
            stack_overflow,
            place: caught.place.to_owned(),
            thrown: exceptions::last(),
        };
        // The process of a single call must not use the connection to the server.
        if worker::is_on() {
            return workers::keep_fault(fault);
        }
        parent.send(&ToParent::Fault(fault));
    }
}

/// Connects module code with the server's services.
fn connect_services(parent: &Arc<Parent>, crypto: bool) {
    let teller = Arc::clone(parent);
    in_process::observe_faults(Box::new(move |caught| tell_fault(&teller, caught)));
    let server = Arc::clone(parent);
    host::set_create_job(Box::new(move |module, job, payload| {
        let instance = lock(&server.numbers).get(&module.id).copied().unwrap_or_default();
        server.ask(Question::CreateJob { instance, job: job.to_owned(), payload: payload.to_owned() })
    }));
    if crypto {
        let (signer, verifier) = (Arc::clone(parent), Arc::clone(parent));
        crypto::set_remote(
            Box::new(move |token| signer.ask(Question::Sign { token: token.clone() }).ok()),
            Box::new(move |signed, token| {
                let (signed, token) = (signed.to_vec(), token.clone());
                verifier.ask(Question::Verify { signed, token }).is_ok()
            }),
        );
    }
}

fn start_threads(
    start: &Start,
    region: &Arc<Region>,
    bodies: OwnedFd,
    wakes: Vec<OwnedFd>,
    files: Vec<OwnedFd>,
) -> io::Result<Arc<ChildDomain>> {
    let layout = Layout::new(start.shards);
    let parts = Parts::new(start.shards, start.bodies);
    let bodies = Arc::new(Region::open(bodies, parts.bytes())?);
    for shared in [region, &bodies] {
        shared.keep_from_children()?;
    }
    let mut response_rings = Vec::new();
    for (shard, (wake, files)) in wakes.into_iter().zip(files).enumerate().take(start.shards) {
        let spec = layout.to_server(shard);
        response_rings.push(Arc::new(ResponseRing::new(
            Producer::new(region, spec)?,
            wake,
            spec.record_bytes_max(),
            files,
        )));
    }
    let answers = Arc::new(Answers::new(parts.lend_answers(&bodies)));
    let outlet = |responses: &Arc<ResponseRing>| {
        Arc::new(ResponseOutlet { responses: Arc::clone(responses), answers: Arc::clone(&answers) }) as Arc<dyn Outlet>
    };
    set_outlets(response_rings.iter().map(outlet).collect());
    let requests = (0..start.shards).map(|shard| parts.borrow_requests(&bodies, shard)).collect();
    let domain = Arc::new(ChildDomain {
        instances: RwLock::default(),
        response_rings,
        answers,
        requests,
        streams: (0..start.shards).map(|shard| Arc::new(ShardStreams::new(parts.streams(&bodies, shard)))).collect(),
        sockets: (0..start.shards).map(|_| Mutex::default()).collect(),
        gone: (0..start.shards).map(|_| Mutex::default()).collect(),
        has_workers: AtomicBool::new(false),
    });
    let maker = Arc::clone(&domain);
    let factory: RunnerFactory<RingRecord> =
        Arc::new(move || Box::new(DomainRunner::new(&maker)) as Box<dyn Runner<RingRecord>>);
    let free_cores: Vec<CoreId> = start.free_cores.iter().map(|&id| CoreId { id }).collect();
    let streams_max = start.bodies.streams.calls_max.saturating_mul(start.shards);
    let pools = Arc::new(Pools {
        long: Pool::start(start.threads_min, start.threads_max, free_cores.clone(), Arc::clone(&factory))?,
        streams: Pool::start(1, streams_max, free_cores.clone(), Arc::clone(&factory))?,
        workers: LazyPool {
            // Calls beyond the limit must start, too, to report that they exceed it.
            threads_max: start.killable_calls_max.saturating_add(2),
            cores: free_cores,
            factory: Arc::clone(&factory),
            pool: OnceLock::new(),
        },
    });
    let request_rings = (0..start.shards)
        .map(|shard| {
            let consumer = Consumer::new(region, layout.to_domain(shard))?;
            Ok(Arc::new(RequestRing::new(shard, consumer, Arc::clone(&domain))))
        })
        .collect::<io::Result<Vec<_>>>()?;
    let rescuer = Arc::new(Rescuer::start(request_rings.clone(), Arc::clone(&pools))?);
    for (shard, request_ring) in request_rings.into_iter().enumerate() {
        let core = start.cores.get(shard).copied().flatten().map(|id| CoreId { id });
        let (factory, pool, rescuer) = (Arc::clone(&factory), Arc::clone(&pools), Arc::clone(&rescuer));
        module_thread(format!("exec-{shard}")).spawn(move || {
            if let Some(core) = core {
                core_affinity::set_for_current(core);
            }
            executor::prepare_thread();
            let corrupt = companion::serve(&request_ring, &mut *factory(), &pool, &rescuer);
            tracing::error!("{corrupt}; this domain ends");
            std::process::abort();
        })?;
    }
    Ok(domain)
}

/// The domain, from the view of the control connection.
struct Child {
    parent: Arc<Parent>,
    domain: Arc<ChildDomain>,
    host: InProcess,
    /// Runs calls in processes of their own.
    workers: Option<Arc<WorkerHost>>,
}

impl Child {
    fn serve(child: &Arc<Self>, stream: &mut UnixStream) {
        loop {
            match control::read(stream) {
                Ok(ToChild::Call { call, what }) => {
                    let carrier = Arc::clone(child);
                    // A hook or a job may take long, and may itself ask the server, so each has a thread of its own.
                    let spawned = module_thread("control").spawn(move || {
                        let outcome = carrier.carry_out(what);
                        carrier.parent.send(&ToParent::Done { call, outcome });
                    });
                    if let Err(error) = spawned {
                        let outcome = Outcome::Exhausted(
                            "the threads that it may have".to_owned(),
                            format!("its domain could not start a thread for it: {error}"),
                        );
                        child.parent.send(&ToParent::Done { call, outcome });
                    }
                }
                Ok(ToChild::Reply { call, result }) => child.parent.answered(call, result),
                Ok(ToChild::MustEnd { run }) => {
                    if let Some(must_end) = lock(&child.parent.runs).get(&run) {
                        must_end.store(true, Ordering::Release);
                    }
                }
                Ok(ToChild::Published { call, modules }) => {
                    // Runs on this thread, because the last message must take effect last.
                    child.published(&modules);
                    child.parent.send(&ToParent::Done { call, outcome: Outcome::Done });
                }
                Ok(ToChild::Start(_)) => {}
                Err(_) => return,
            }
        }
    }

    fn instance(&self, id: u64) -> Option<Arc<InProcessModule>> {
        self.domain.instances.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    fn published(&self, modules: &[(String, u64)]) {
        let found: Vec<Arc<dyn Instance>> =
            modules.iter().filter_map(|(_, id)| Some(self.instance(*id)? as Arc<dyn Instance>)).collect();
        self.host.published(found.iter());
    }

    /// Makes a sanitizer report leaked memory of modules, while their code and its line numbers are available.
    fn look_for_leaks(&self) {
        let is_empty = self.domain.instances.read().unwrap_or_else(PoisonError::into_inner).is_empty();
        if sanitizer::is_active() && !is_empty {
            // The sanitizer has printed the report.
            let _ = sanitizer::has_leaks();
        }
    }

    fn close(&self, id: u64) {
        self.look_for_leaks();
        let gone = self.domain.instances.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
        if let Some(module) = gone {
            module.workers().inspect(|workers| workers.end());
            lock(&self.parent.numbers).remove(&module.id());
        }
    }

    fn carry_out(&self, order: Order) -> Outcome {
        let hook = |instance: u64, run: fn(&InProcessModule) -> Result<(), crate::domain::Fault>| match self
            .instance(instance)
        {
            None => Outcome::Host("the module is not loaded in its domain".to_owned()),
            Some(module) => run(&module).map_or_else(|fault| Outcome::Fault(fault.what), |()| Outcome::Done),
        };
        match order {
            Order::Load { instance, path } => self.load(instance, Path::new(&path)),
            Order::Configure { instance, settings } => match self.instance(instance) {
                None => Outcome::Host("the module is not loaded in its domain".to_owned()),
                Some(module) => {
                    let configured = module.configure(&settings);
                    self.with_workers(instance, |workers| workers.refresh());
                    configured.map_or_else(|fault| Outcome::Fault(fault.what), |()| Outcome::Done)
                }
            },
            Order::SettingChanged { instance, key } => match self.instance(instance) {
                None => Outcome::Done,
                Some(module) => {
                    let changed = module.setting_changed(&key);
                    self.with_workers(instance, |workers| workers.refresh());
                    changed.map_or_else(|fault| Outcome::Fault(fault.what), |()| Outcome::Done)
                }
            },
            Order::Onload { instance } => {
                let outcome = hook(instance, InProcessModule::onload);
                self.with_workers(instance, |workers| workers.renew());
                outcome
            }
            Order::Unload { instance } => {
                self.with_workers(instance, |workers| workers.end());
                hook(instance, InProcessModule::unload)
            }
            Order::RunJob { run, instance, job, uuid, payload, limit_ms } => {
                let deadline = limit_ms.and_then(|limit| Instant::now().checked_add(Duration::from_millis(limit)));
                self.run_job(run, instance, job, (&uuid, &payload), deadline)
            }
            Order::Close { instance } => {
                self.close(instance);
                Outcome::Done
            }
            Order::Settle => {
                while self.host.context().has_work() {
                    thread::sleep(SETTLE_LOOK);
                }
                Outcome::Done
            }
            Order::CancelJob { instance, job, uuid } => match self.instance(instance) {
                None => Outcome::Done,
                Some(module) => {
                    module.cancel_job(job, &uuid).map_or_else(|fault| Outcome::Fault(fault.what), |()| Outcome::Done)
                }
            },
        }
    }

    fn with_workers(&self, instance: u64, act: impl FnOnce(&dyn Workers)) {
        if let Some(module) = self.instance(instance)
            && let Some(workers) = module.workers()
        {
            act(workers);
        }
    }

    fn load(&self, instance: u64, path: &Path) -> Outcome {
        match self.host.open(path, instance) {
            Ok(module) => {
                let loaded = Outcome::Loaded(module.manifest().clone(), module.base() as u64);
                lock(&self.parent.numbers).insert(module.id(), instance);
                let is_ready = !module.manifest().has_onload;
                if workers::attach(&module, self.workers.as_ref()) {
                    self.domain.has_workers.store(true, Ordering::Relaxed);
                    // A module without `onload` has set up its state by now.
                    module.workers().filter(|_| is_ready).inspect(|workers| workers.renew());
                }
                self.domain.instances.write().unwrap_or_else(PoisonError::into_inner).insert(instance, module);
                loaded
            }
            Err(crate::domain::LoadError::Loader(text)) => Outcome::Loader(text),
            Err(crate::domain::LoadError::Exhausted { what, text }) => Outcome::Exhausted(what, text),
            Err(crate::domain::LoadError::Manifest(text)) => Outcome::Refused(text),
            Err(other) => Outcome::Host(other.to_string()),
        }
    }

    /// Runs a job with this UUID and payload.
    fn run_job(
        &self,
        run: u64,
        instance: u64,
        job: usize,
        (uuid, payload): (&str, &str),
        deadline: Option<Instant>,
    ) -> Outcome {
        let Some(module) = self.instance(instance) else {
            return Outcome::Host("the module is not loaded in its domain".to_owned());
        };
        let must_end = Arc::<AtomicBool>::default();
        lock(&self.parent.runs).insert(run, Arc::clone(&must_end));
        let calls = ParentJobCalls { parent: &self.parent, run, must_end, deadline };
        let outcome = module.run_job(job, uuid, payload, &calls);
        lock(&self.parent.runs).remove(&run);
        outcome.map_or_else(|fault| Outcome::Fault(fault.what), Outcome::Returned)
    }
}

#[cfg(test)]
mod tests;
