//! One process of a domain, from its start to its end.

use super::arena::Parts;
use super::asked::Asked;
use super::cgroup::{Confined, OutOfMemory};
use super::control::{self, Order, Outcome, Start, ToChild};
use super::control_reader::ControlReader;
use super::control_writer::ControlWriter;
use super::core_files::{CoreFile, CoreFiles, CorePlace};
use super::endpoints::{Ends, Owner, RingEndpoints};
use super::hook::Loader;
use super::layout::Layout;
use super::orphans::Record;
use super::shared::DomainShared;
use super::{handed_files, lock, passing, reader, stdout_relay, watch};
use crate::abi::crypto;
use crate::domain::ring::{Consumer, Producer, Region};
use crate::domain::{sandbox, sanitized};
use crate::net::{self, Doorbell, Waker};
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use rustix::io::Errno;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, PipeWriter};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime};

/// How long a process with a sanitizer may take for its end.
const LEAKS_WAIT: Duration = Duration::from_secs(5);

/// One process. It is alive until [`ProcessInstance::is_dead`], and may be a spare, in service, or on its way out.
pub(super) struct ProcessInstance {
    number: u64,
    pid: u32,
    layout: Layout,
    region: Arc<Region>,
    bodies: Arc<Region>,
    parts: Parts,
    /// Over which it passes open files, one a shard; the last one, over which jobs are handed theirs.
    files: Vec<OwnedFd>,
    /// By which it wakes the shards.
    bells: Mutex<Vec<Doorbell>>,
    since: SystemTime,
    /// The process has not been waited for, so `pid` is still its own. Held while it is signalled.
    alive: Mutex<bool>,
    control_writer: ControlWriter,
    asked: Asked,
    /// Who waits for which order; `None` once the process is dead.
    waiting: Mutex<Option<HashMap<u64, Sender<Outcome>>>>,
    /// Where each loaded module begins in its memory, as it says itself.
    loaded: Mutex<BTreeMap<u64, u64>>,
    /// Modules ever loaded into it.
    loads: AtomicU64,
    loader: Loader,
    /// The module that is being brought up: whose fault it is if the process dies meanwhile.
    trying: Mutex<Option<u64>>,
    /// The server has ended it because it did not keep to the rules.
    broken: AtomicBool,
    /// Modules in which a signal was caught.
    faulted: Mutex<HashSet<u64>>,
    /// Why it was ended, if there is more to say than that it was killed.
    verdict: Mutex<Option<String>>,
    /// It is no spare any more.
    used: AtomicBool,
    /// It is to be replaced.
    doomed: AtomicBool,
    /// Its end is wanted.
    ending: AtomicBool,
    /// It has a sanitizer.
    is_sanitized: bool,
    dead: AtomicBool,
    /// A message from each shard that has nothing with the process any more.
    drained: (Sender<()>, Receiver<()>),
    /// Disconnected once it is reaped: all that is to be said about its death is.
    reaped: Receiver<()>,
    /// Disconnected once all that it has printed is in the log.
    printed: Receiver<()>,
    /// The record of this process, should it outlive the server.
    _record: Option<Record>,
    /// Its cgroup, if it has one.
    confined: Option<Confined>,
    /// Where it leaves a core file, if it may.
    core_place: Option<CorePlace>,
}

/// A process, as the endpoints to it know it.
struct LinkOwner {
    shared: Arc<DomainShared>,
    process: Arc<ProcessInstance>,
}

impl Owner for LinkOwner {
    fn kill(&self) {
        self.process.set_broken();
        self.process.kill();
    }

    fn recycle(&self, why: &str) {
        self.shared.want_replacement(&self.process, why);
    }

    fn drained(&self) {
        let _ = self.process.drained.0.send(());
    }

    fn is_dead(&self) -> bool {
        self.process.is_dead()
    }
}

impl ProcessInstance {
    /// Starts a process, tells it how to begin, and has it read by a thread until it ends. To be called by a thread that
    /// stays: the kernel ends the process with the thread that started it.
    pub(super) fn start(shared: &Arc<DomainShared>) -> io::Result<Arc<Self>> {
        let layout = Layout::new(shared.wakers.len());
        let region = Arc::new(Region::create(layout.bytes())?);
        let parts = Parts::new(shared.wakers.len(), shared.config.bodies);
        let bodies = Arc::new(Region::create(parts.bytes())?);
        let (stream, theirs) = UnixStream::pair()?;
        let bells = shared.wakers.iter().map(Waker::doorbell).collect::<io::Result<Vec<_>>>()?;
        let (output, printed) = stdout_relay::collect(shared)?;
        let pairs = (0..=shared.wakers.len()).map(|_| passing::pair()).collect::<io::Result<Vec<_>>>()?;
        let (files, their_files): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let number = shared.number();
        let core_place = core_place(shared, number);
        let passed = Passed { files: &their_files, core_place: core_place.as_ref() };
        let mut child = spawn(shared, &theirs, output, [&region, &bodies], &bells, &passed)?;
        drop((theirs, their_files));
        watch::prefer_for_oom(child.id());
        let (alive, reaped) = bounded(0);
        let process = stream.try_clone().map(|ours| {
            Arc::new(Self {
                number,
                pid: child.id(),
                layout,
                region,
                bodies,
                parts,
                files,
                bells: Mutex::new(bells),
                since: SystemTime::now(),
                alive: Mutex::new(true),
                control_writer: ControlWriter::new(ours),
                asked: Asked::new(shared.config.message_bytes_max),
                waiting: Mutex::new(Some(HashMap::new())),
                loaded: Mutex::default(),
                loads: AtomicU64::new(0),
                loader: Loader::default(),
                trying: Mutex::default(),
                broken: AtomicBool::new(false),
                faulted: Mutex::default(),
                verdict: Mutex::default(),
                used: AtomicBool::new(false),
                doomed: AtomicBool::new(false),
                ending: AtomicBool::new(false),
                is_sanitized: sanitized::is_one(shared.name()),
                dead: AtomicBool::new(false),
                drained: bounded(shared.wakers.len()),
                reaped,
                printed,
                _record: record(shared, child.id()),
                // Before it is told to start: until then it runs no code of others.
                confined: confine(shared, number, &child),
                core_place,
            })
        });
        let begun = process.and_then(|process| {
            process.send(&ToChild::Start(Box::new(start_message(shared, process.core_place.is_some()))))?;
            Ok(process)
        });
        let process = begun.inspect_err(|_| end(&mut child))?;
        shared.born(&process);
        if shared.is_stopping() {
            // The stop may not have seen it.
            process.hang_up();
        }
        let (reading, shared) = (Arc::clone(&process), Arc::clone(shared));
        let control_reader = ControlReader::new(stream, child.id(), shared.config.message_bytes_max);
        let read = move || reader::attend(&shared, &reading, control_reader, child, alive);
        if let Err(error) = thread::Builder::new().name("domain-reader".to_owned()).spawn(read) {
            // Without a reader nobody waits for it; it ends with the server.
            process.kill();
            return Err(error);
        }
        Ok(process)
    }

    /// Tells it from other processes.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn since(&self) -> SystemTime {
        self.since
    }

    /// Where it says what it runs.
    pub(super) fn board(&self) -> (&Region, usize) {
        (&self.region, self.layout.board())
    }

    /// Why it takes up more memory beside the rings than one that keeps to the rules can, if it does.
    pub(super) fn overfills(&self) -> Option<String> {
        let (resident, most) = (self.bodies.resident_bytes().ok()?, self.parts.resident_bytes_max() as u64);
        (resident > most).then(|| format!("it has filled {resident} bytes of the memory for bodies, of at most {most}"))
    }

    /// The ends of its rings, one a shard.
    pub(super) fn endpoints(self: &Arc<Self>, shared: &Arc<DomainShared>) -> io::Result<Vec<RingEndpoints>> {
        let endpoints = |shard| {
            let to_domain = self.layout.to_domain(shard);
            let ends = Ends {
                producer: Producer::new(&self.region, to_domain)?,
                consumer: Consumer::new(&self.region, self.layout.to_server(shard))?,
                requests: self.parts.lend_requests(&self.bodies, shard),
                answers: self.parts.borrow_answers(&self.bodies),
                streams: self.parts.streams(&self.bodies, shard),
                files: passing::Receiver::new(self.files.get(shard).ok_or(io::ErrorKind::NotFound)?.try_clone()?),
            };
            let owner = LinkOwner { shared: Arc::clone(shared), process: Arc::clone(self) };
            let domain = Arc::clone(shared.identity());
            Ok(RingEndpoints::new(shard, domain, self.number, ends, Box::new(owner)))
        };
        (0..shared.wakers.len()).map(endpoints).collect()
    }

    /// Sends a message and does not wait until it is taken. A process that takes nothing is ended.
    pub(super) fn send(&self, message: &ToChild) -> io::Result<()> {
        let reply = matches!(message, ToChild::Reply { .. });
        let sent = control::encode(message).and_then(|bytes| self.control_writer.send(bytes, reply));
        sent.inspect_err(|_| self.kill())
    }

    /// Hands over the open file that question number `call` has asked for, before its answer.
    ///
    /// # Errors
    /// An errno: it does not take it.
    pub(super) fn hand_over(&self, call: u64, file: &OwnedFd) -> Result<(), i32> {
        let socket = self.files.last().ok_or(libc::EIO)?;
        handed_files::send(socket, call, file).map_err(Errno::raw_os_error)
    }

    /// What its modules have asked and are not answered.
    pub(super) fn asked(&self) -> &Asked {
        &self.asked
    }

    /// Sends an order; its outcome comes over the receiver, which is disconnected if the process dies first.
    pub(super) fn begin(&self, call: u64, what: Order) -> Result<Receiver<Outcome>, String> {
        self.begin_message(call, &ToChild::Call { call, what })
    }

    /// Names the modules whose symbols others find. Done when they do.
    pub(super) fn publish(&self, call: u64, modules: Vec<(String, u64)>) -> Result<Receiver<Outcome>, String> {
        self.begin_message(call, &ToChild::Published { call, modules })
    }

    fn begin_message(&self, call: u64, message: &ToChild) -> Result<Receiver<Outcome>, String> {
        let (sender, receiver) = bounded(1);
        match lock(&self.waiting).as_mut() {
            Some(waiting) => drop(waiting.insert(call, sender)),
            None => return Err("its process died".to_owned()),
        }
        self.send(message).map_err(|error| format!("its process can't be reached: {error}"))?;
        Ok(receiver)
    }

    /// Has an order carried out, and waits for its outcome for at most `limit`; disconnected: the process died first.
    pub(super) fn call_within(&self, limit: Duration, call: u64, what: Order) -> Result<Outcome, RecvTimeoutError> {
        self.begin(call, what).map_err(|_| RecvTimeoutError::Disconnected)?.recv_timeout(limit)
    }

    /// Order number `call` has its outcome.
    pub(super) fn done(&self, call: u64, outcome: Outcome) {
        let sender = lock(&self.waiting).as_mut().and_then(|waiting| waiting.remove(&call));
        if let Some(sender) = sender {
            let _ = sender.send(outcome);
        }
    }

    /// Nobody waits for an order any more.
    pub(super) fn give_up_orders(&self) {
        drop(lock(&self.waiting).take());
    }

    pub(super) fn kill(&self) {
        let alive = lock(&self.alive);
        if *alive {
            let pid = self.pid.cast_signed();
            // SAFETY: no memory is involved; the process is not waited for while `alive` is held and true.
            unsafe {
                libc::kill(pid, libc::SIGKILL);
                // What it has forked ends with it; this is for what its modules may have forked past the rules. The filter keeps all of
                // them in its group.
                libc::kill(-pid, libc::SIGKILL);
            }
        }
    }

    /// Whether a cgroup limits its memory.
    pub(super) fn is_confined(&self) -> bool {
        self.confined.is_some()
    }

    /// Whether the kernel has killed it for memory, and for whose.
    pub(super) fn out_of_memory(&self) -> Option<OutOfMemory> {
        self.confined.as_ref()?.out_of_memory()
    }

    /// It has been waited for: its cgroup goes.
    pub(super) fn unconfine(&self) {
        if let Some(confined) = &self.confined {
            confined.remove();
        }
    }

    /// Its core file, if it has left one, under the name that `named` has for it.
    pub(super) fn core(&self, files: &CoreFiles, named: &str) -> Option<CoreFile> {
        files.keep(self.core_place.as_ref()?, named)
    }

    /// The process may be waited for from here on: its number can be another's then.
    pub(super) fn is_reaped(&self) {
        lock(&self.bells).clear();
        *lock(&self.alive) = false;
    }

    /// Ends it, as planned.
    pub(super) fn end(self: &Arc<Self>) {
        self.ending.store(true, Ordering::Release);
        if self.is_sanitized { self.end_gently() } else { self.kill() }
    }

    /// Lets it look for leaks and end by itself, within [`LEAKS_WAIT`].
    fn end_gently(self: &Arc<Self>) {
        self.control_writer.finish();
        let process = Arc::clone(self);
        let kill = move || {
            thread::sleep(LEAKS_WAIT);
            process.kill();
        };
        if thread::Builder::new().name("domain-end".to_owned()).spawn(kill).is_err() {
            self.kill();
        }
    }

    /// Ends it with the server: it goes when its control connection does.
    pub(super) fn hang_up(self: &Arc<Self>) {
        self.ending.store(true, Ordering::Release);
        if self.is_sanitized { self.end_gently() } else { self.control_writer.close() }
    }

    /// Waits, where the module has a sanitizer, until it has looked for what the module has lost: for that it needs the file.
    pub(super) fn wait_for_leaks(&self, end: &Receiver<Outcome>) -> Option<Outcome> {
        if self.is_sanitized { end.recv_timeout(LEAKS_WAIT).ok() } else { None }
    }

    /// Whether its end is wanted.
    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    pub(super) fn set_dead(&self) {
        self.dead.store(true, Ordering::Release);
    }

    /// It gets modules from now on.
    pub(super) fn set_used(&self) {
        self.used.store(true, Ordering::Release);
    }

    pub(super) fn is_spare(&self) -> bool {
        !self.used.load(Ordering::Acquire)
    }

    /// It is to be replaced: true for the first who says so.
    pub(super) fn request_replacement(&self) -> bool {
        !self.doomed.swap(true, Ordering::AcqRel)
    }

    /// Waits until all is known and done about its death.
    pub(super) fn wait_buried(&self) {
        let _ = self.reaped.recv();
    }

    /// Waits until all that it has printed is in the log, for at most `limit`. The process is over, or about to be.
    pub(super) fn wait_printed(&self, limit: Duration) {
        let _ = self.printed.recv_timeout(limit);
    }

    /// Takes the message of one shard that it has nothing here any more.
    pub(super) fn next_drained(&self) -> &Receiver<()> {
        &self.drained.1
    }

    /// What loads modules there.
    pub(super) fn loader(&self) -> &Loader {
        &self.loader
    }

    /// A module is loaded. Returns how many have been.
    pub(super) fn add(&self, instance: u64, base: u64) -> u64 {
        lock(&self.loaded).insert(instance, base);
        self.loads.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A module is to be closed; false if it is not loaded here.
    pub(super) fn forget(&self, instance: u64) -> bool {
        lock(&self.loaded).remove(&instance).is_some()
    }

    pub(super) fn has(&self, instance: u64) -> bool {
        lock(&self.loaded).contains_key(&instance)
    }

    /// The loaded modules and where each begins.
    pub(super) fn bases(&self) -> Vec<(u64, u64)> {
        lock(&self.loaded).iter().map(|(id, base)| (*id, *base)).collect()
    }

    /// The server ends it because it does not keep to the rules.
    pub(super) fn set_broken(&self) {
        self.broken.store(true, Ordering::Release);
    }

    /// Whether its end is the server's doing, for what it did.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    pub(super) fn trying(&self) -> Option<u64> {
        *lock(&self.trying)
    }

    pub(super) fn set_trying(&self, instance: Option<u64>) {
        *lock(&self.trying) = instance;
    }

    /// True when a signal was caught in this module for the first time here.
    pub(super) fn first_fault_of(&self, instance: u64) -> bool {
        let known = instance == 0 || self.has(instance) || self.trying() == Some(instance);
        known && lock(&self.faulted).insert(instance)
    }

    pub(super) fn verdict(&self) -> Option<String> {
        lock(&self.verdict).clone().or_else(|| self.control_writer.verdict().map(str::to_owned))
    }

    /// Ends it because it `hung`.
    pub(super) fn kill_because(&self, hung: String) {
        lock(&self.verdict).get_or_insert(hung);
        self.kill();
    }
}

/// Gives a process the cgroup that it is to have. One that can't be made now keeps no domain down: it was possible at the
/// start of the server.
fn confine(shared: &DomainShared, number: u64, child: &Child) -> Option<Confined> {
    let confined = shared.config.cgroups.as_ref()?.confine(number, child.id());
    confined
        .inspect_err(|error| {
            tracing::warn!("no cgroup limits the memory of a process of domain {}: {error}", shared.name());
        })
        .ok()
}

/// A process without a record is one that the next server would not end.
fn record(shared: &DomainShared, pid: u32) -> Option<Record> {
    let record = Record::new(&shared.config.records, pid);
    record.inspect_err(|error| tracing::warn!("process {pid} of domain {} has no record: {error}", shared.name())).ok()
}

/// Where process `number` may leave a core file, if it may.
fn core_place(shared: &DomainShared, number: u64) -> Option<CorePlace> {
    // A sanitizer ends its process itself.
    let files = shared.config.core_files.as_ref().filter(|_| !sanitized::is_one(shared.name()))?;
    files.place(&shared.config.scratch, number, shared.config.policy.user)
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

fn start_message(shared: &DomainShared, leaves_core: bool) -> Start {
    let config = &shared.config;
    let shards = shared.wakers.len();
    let mut policy = config.policy.clone();
    // The addresses of the memory for bodies are the server's doing: they are not of what modules may have.
    policy.core_bytes_max = config.core_files.as_ref().filter(|_| leaves_core).map(CoreFiles::bytes_max);
    let bodies = Parts::new(shards, config.bodies).bytes() as u64;
    policy.memory_bytes_max = policy.memory_bytes_max.map(|bytes| bytes.saturating_add(bodies));
    Start {
        shards,
        bodies: config.bodies,
        cores: config.cores.clone(),
        free_cores: config.free_cores.clone(),
        threads_min: config.threads_min,
        threads_max: config.threads_max,
        module_threads_max: config.allowance.module_threads_max,
        killable_calls_max: config.allowance.killable_calls_max,
        handler_timeout_ms: config.handler_timeout_ms,
        database: config.database.display().to_string(),
        crypto: crypto::is_loaded(),
        requests: config.requests.clone(),
        message_bytes_max: config.message_bytes_max,
        codings: config.codings.clone(),
        policy,
        leaves_core,
    }
}

/// Descriptors and the core directory that a process inherits beside its rings.
struct Passed<'a> {
    files: &'a [OwnedFd],
    core_place: Option<&'a CorePlace>,
}

fn spawn(
    shared: &DomainShared,
    control: &UnixStream,
    output: PipeWriter,
    [region, bodies]: [&Region; 2],
    bells: &[Doorbell],
    others: &Passed<'_>,
) -> io::Result<Child> {
    let mut passed: Vec<RawFd> = vec![control.as_raw_fd(), region.fd().as_raw_fd(), bodies.fd().as_raw_fd()];
    passed.extend(bells.iter().map(|bell| bell.as_fd().as_raw_fd()));
    passed.extend(others.files.iter().map(AsRawFd::as_raw_fd));
    passed.extend(others.core_place.map(CorePlace::descriptor));
    let mut command = Command::new("/proc/self/exe");
    command.arg("domain").args(passed.iter().map(ToString::to_string)).stdin(Stdio::null()).process_group(0);
    command.env_clear().envs(sandbox::environment()).env("TMPDIR", &shared.config.scratch);
    if sanitized::is_one(shared.name()) {
        command.envs(sanitized::environment(&shared.config.preload, None));
    }
    if let Some(log) = &shared.config.log {
        command.env("CWEB_LOG", log);
    }
    command.stdout(output.try_clone()?).stderr(output);
    net::keep_descriptors_from(&mut command);
    let pass = move || {
        for &fd in &passed {
            // SAFETY: system calls without memory, on descriptors of the child only.
            if unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } == -1 {
                return Err(io::Error::last_os_error());
            }
        }
        // SAFETY: as above. Whatever becomes of the server, the domain must not outlive it.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        Ok(())
    };
    // SAFETY: `pass` makes system calls and allocates nothing, so it may run between fork(2) and exec(3).
    unsafe { command.pre_exec(pass) };
    command.spawn()
}
