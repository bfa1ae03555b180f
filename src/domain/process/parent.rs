//! The server's side of a domain: starts its process, speaks with it, starts it again when it dies.

use super::control::{self, Order, Outcome, Question, Start, ToChild, ToParent};
use super::layout::Layout;
use super::link::{Owner, ShardLink};
use super::remote::RemoteModule;
use crate::abi::manifest::Manifest;
use crate::abi::{crypto, host};
use crate::domain::inbox::{Inbox, Message};
use crate::domain::ring::{Consumer, Producer, Region};
use crate::domain::sandbox::Policy;
use crate::domain::{Host, Instance, LoadError, inspect};
use crate::net::{self, Waker};
use crossbeam::channel::{Receiver, Sender, bounded};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long an order waits for a domain that is being started again.
const UP_WAIT: Duration = Duration::from_secs(20);
/// Modules loaded into one process before it is replaced.
const LOADS_MAX: u64 = 1_000;
/// How long a replacement waits for running jobs.
const JOBS_WAIT: Duration = Duration::from_secs(60);
/// How long it waits for running requests.
const DRAIN_WAIT: Duration = Duration::from_secs(10);
/// Deaths in [`CRASH_WINDOW`] after which a domain is started again more slowly.
const CRASHES_MAX: usize = 5;
const CRASH_WINDOW: Duration = Duration::from_secs(10);
/// The pause then.
const CRASH_PAUSE: Duration = Duration::from_secs(1);

/// What a domain needs to know.
#[derive(Debug, Clone)]
pub struct DomainConfig {
    /// Core of each shard; `None` where a shard is not pinned.
    pub cores: Vec<Option<usize>>,
    /// Cores of the executor pool; empty for all.
    pub free_cores: Vec<usize>,
    /// Executors that are always there.
    pub threads_min: usize,
    /// Executors at most.
    pub threads_max: usize,
    /// The modules' database.
    pub database: PathBuf,
    /// The database of jobs, for modules to read.
    pub jobs_database: PathBuf,
    /// What the process may do.
    pub policy: Policy,
    /// Where modules may keep files of a moment; also in the environment as `TMPDIR`.
    pub scratch: PathBuf,
    /// The filter of the log (`CWEB_LOG`), if it is not the environment's.
    pub log: Option<String>,
}

/// Modules in a process of their own. Dropping it leaves the process; [`Process::stop`] ends it.
pub struct Process {
    shared: Arc<Shared>,
}

/// A domain's process.
struct Connection {
    pid: u32,
    /// The process has not been waited for, so `pid` is still its own. Held while it is signalled.
    alive: Mutex<bool>,
    stream: Mutex<UnixStream>,
    /// Who waits for which order; `None` once the process is dead.
    waiting: Mutex<Option<HashMap<u64, Sender<Outcome>>>>,
}

/// A module to load again when the process is started again.
struct Loaded {
    path: PathBuf,
    onloaded: bool,
}

/// What the supervisor and the modules share.
pub(super) struct Shared {
    config: DomainConfig,
    wakers: Vec<Arc<Waker>>,
    inboxes: OnceLock<Vec<Arc<Inbox>>>,
    /// Links made before the shards were there.
    links: Mutex<Vec<ShardLink>>,
    current: Mutex<Option<Arc<Connection>>>,
    changed: Condvar,
    modules: Mutex<BTreeMap<u64, Loaded>>,
    published: Mutex<Vec<(String, u64)>>,
    runs: Mutex<HashMap<u64, Sender<(u64, Question)>>>,
    next: AtomicU64,
    stopping: AtomicBool,
    restarts: AtomicU64,
    /// The process is being replaced on purpose.
    recycling: AtomicBool,
    /// Modules loaded into this process.
    loads: AtomicU64,
    /// Tells that a shard has nothing with the process any more.
    drained: Mutex<Option<Sender<()>>>,
}

/// The supervisor, as the links of one process know it.
struct LinkOwner {
    shared: Arc<Shared>,
    connection: Arc<Connection>,
}

impl Owner for LinkOwner {
    fn kill(&self) {
        self.connection.kill();
    }

    fn recycle(&self, why: &str) {
        self.shared.recycle(why);
    }

    fn drained(&self) {
        if let Some(drained) = &*lock(&self.shared.drained) {
            let _ = drained.send(());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connection {
    fn send(&self, message: &ToChild) -> io::Result<()> {
        control::write(&mut *lock(&self.stream), message)
    }

    /// Sends an order; its outcome comes over the receiver, which is disconnected if the process dies first.
    fn begin(&self, call: u64, what: Order) -> Result<Receiver<Outcome>, String> {
        let (sender, receiver) = bounded(1);
        match lock(&self.waiting).as_mut() {
            Some(waiting) => drop(waiting.insert(call, sender)),
            None => return Err("its process died".to_owned()),
        }
        self.send(&ToChild::Call { call, what }).map_err(|error| format!("its process can't be reached: {error}"))?;
        Ok(receiver)
    }

    fn kill(&self) {
        let alive = lock(&self.alive);
        if *alive {
            // SAFETY: no memory is involved; the process is not waited for while `alive` is held and true.
            unsafe { libc::kill(self.pid.cast_signed(), libc::SIGKILL) };
        }
    }
}

impl Process {
    /// Starts the process, and waits until it is ready. `wakers` are those of the shards.
    ///
    /// # Errors
    /// The process could not be started.
    pub fn start(config: DomainConfig, wakers: Vec<Arc<Waker>>) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(config, wakers));
        let supervised = Arc::clone(&shared);
        thread::Builder::new().name("domain".to_owned()).spawn(move || supervised.supervise())?;
        shared.connection().map_err(io::Error::other)?;
        Ok(Self { shared })
    }

    /// Names the shards' inboxes, in the order of their numbers, once.
    pub fn attach(&self, inboxes: Vec<Arc<Inbox>>) {
        // Under the lock: a link made meanwhile goes one way or the other.
        let mut waiting = lock(&self.shared.links);
        let _ = self.shared.inboxes.set(inboxes);
        let links = std::mem::take(&mut *waiting);
        drop(waiting);
        self.shared.deliver(links);
    }

    /// Names the modules whose symbols others can resolve from now on.
    pub fn published<'a>(&self, instances: impl Iterator<Item = &'a Arc<dyn Instance>>) {
        let named: Vec<(String, u64)> =
            instances.map(|instance| (instance.manifest().name.clone(), instance.id())).collect();
        (*lock(&self.shared.published)).clone_from(&named);
        if let Some(connection) = &*lock(&self.shared.current) {
            let _ = connection.send(&ToChild::Published(named));
        }
    }

    /// How often the process has been started again, and its id now.
    #[must_use]
    pub fn status(&self) -> (u64, Option<u32>) {
        let pid = lock(&self.shared.current).as_ref().map(|connection| connection.pid);
        (self.shared.restarts.load(Ordering::Relaxed), pid)
    }

    /// Ends the process.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.changed.notify_all();
        if let Some(connection) = &*lock(&self.shared.current) {
            // It ends when its control connection does.
            let _ = lock(&connection.stream).shutdown(std::net::Shutdown::Both);
        }
    }
}

impl Host for Process {
    fn inspect(&self, path: &Path, limit: Duration) -> Result<Manifest, LoadError> {
        inspect::inspect(path, limit)
    }

    fn load(&self, path: &Path) -> Result<Arc<dyn Instance>, LoadError> {
        let id = self.shared.number();
        let order = Order::Load { instance: id, path: path.display().to_string() };
        match self.shared.call(order) {
            Ok(Outcome::Loaded(manifest)) => {
                lock(&self.shared.modules).insert(id, Loaded { path: path.to_path_buf(), onloaded: false });
                if self.shared.loads.fetch_add(1, Ordering::Relaxed) + 1 == LOADS_MAX {
                    self.shared
                        .recycle("many modules have been loaded into it, and unloading gives not everything back");
                }
                Ok(Arc::new(RemoteModule::new(Arc::clone(&self.shared), id, manifest)))
            }
            Ok(Outcome::Loader(text)) => Err(LoadError::Loader(text)),
            Ok(Outcome::Refused(text)) => Err(LoadError::Manifest(text)),
            Ok(Outcome::Host(text) | Outcome::Fault(text)) | Err(text) => Err(LoadError::Host(text)),
            Ok(_) => Err(LoadError::Host("its domain gave a wrong answer".to_owned())),
        }
    }
}

impl Shared {
    /// The state before there is a process.
    pub(super) fn new(config: DomainConfig, wakers: Vec<Arc<Waker>>) -> Self {
        Self {
            config,
            wakers,
            inboxes: OnceLock::new(),
            links: Mutex::default(),
            current: Mutex::default(),
            changed: Condvar::new(),
            modules: Mutex::default(),
            published: Mutex::default(),
            runs: Mutex::default(),
            next: AtomicU64::new(1),
            stopping: AtomicBool::new(false),
            restarts: AtomicU64::new(0),
            recycling: AtomicBool::new(false),
            loads: AtomicU64::new(0),
            drained: Mutex::default(),
        }
    }

    /// A number nobody has had.
    pub(super) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The process, which may have to be waited for.
    fn connection(&self) -> Result<Arc<Connection>, String> {
        let deadline = Instant::now() + UP_WAIT;
        let mut current = lock(&self.current);
        loop {
            if let Some(connection) = &*current {
                return Ok(Arc::clone(connection));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.stopping.load(Ordering::Acquire) {
                return Err("the process of the modules is not there".to_owned());
            }
            current = self.changed.wait_timeout(current, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(super) fn begin(&self, order: Order) -> Result<Receiver<Outcome>, String> {
        self.connection()?.begin(self.number(), order)
    }

    /// Has an order carried out, and waits for its outcome.
    pub(super) fn call(&self, order: Order) -> Result<Outcome, String> {
        self.begin(order)?.recv().map_err(|_| "its process died".to_owned())
    }

    fn tell(&self, message: &ToChild) {
        let current = lock(&self.current).clone();
        if let Some(connection) = current {
            let _ = connection.send(message);
        }
    }

    pub(super) fn reply(&self, call: u64, result: Result<String, String>) {
        self.tell(&ToChild::Reply { call, result });
    }

    pub(super) fn must_end(&self, run: u64) {
        self.tell(&ToChild::MustEnd { run });
    }

    pub(super) fn add_run(&self, run: u64, sender: Sender<(u64, Question)>) {
        lock(&self.runs).insert(run, sender);
    }

    pub(super) fn remove_run(&self, run: u64) {
        lock(&self.runs).remove(&run);
    }

    pub(super) fn set_onloaded(&self, id: u64, onloaded: bool) {
        if let Some(loaded) = lock(&self.modules).get_mut(&id) {
            loaded.onloaded = onloaded;
        }
    }

    pub(super) fn close(&self, id: u64) {
        lock(&self.modules).remove(&id);
        self.tell(&ToChild::Close { instance: id });
    }

    /// Replaces the process once jobs and requests are done with it; what comes meanwhile waits, a moment. One that has not
    /// done by then is ended all the same.
    fn recycle(self: &Arc<Self>, why: &str) {
        if self.recycling.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::info!("the process of the modules is replaced: {why}");
        let shared = Arc::clone(self);
        let spawned = thread::Builder::new().name("recycle".to_owned()).spawn(move || shared.replace());
        if let Err(error) = spawned {
            tracing::error!("it could not be: {error}");
            self.recycling.store(false, Ordering::Release);
        }
    }

    fn replace(&self) {
        let deadline = Instant::now() + JOBS_WAIT;
        while !lock(&self.runs).is_empty() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
        let (sender, drained) = bounded(self.wakers.len());
        *lock(&self.drained) = Some(sender);
        for inbox in self.inboxes.get().into_iter().flatten() {
            inbox.push(Message::DomainDrain);
        }
        let deadline = Instant::now() + DRAIN_WAIT;
        for _ in 0..self.wakers.len() {
            if drained.recv_deadline(deadline).is_err() {
                break;
            }
        }
        *lock(&self.drained) = None;
        let current = lock(&self.current).clone();
        if let Some(connection) = current {
            connection.kill();
        }
    }

    /// Starts the process again and again until the server stops.
    fn supervise(self: &Arc<Self>) {
        let mut deaths: Vec<Instant> = Vec::new();
        while !self.stopping.load(Ordering::Acquire) {
            if let Err(error) = self.run_once() {
                tracing::error!("the process of the modules could not be started: {error}");
                thread::sleep(CRASH_PAUSE);
            }
            if self.stopping.load(Ordering::Acquire) {
                return;
            }
            self.restarts.fetch_add(1, Ordering::Relaxed);
            self.loads.store(0, Ordering::Relaxed);
            if self.recycling.swap(false, Ordering::AcqRel) {
                continue;
            }
            deaths.retain(|at| at.elapsed() < CRASH_WINDOW);
            deaths.push(Instant::now());
            if deaths.len() > CRASHES_MAX {
                tracing::warn!("the process of the modules keeps dying: it is started again after a pause");
                thread::sleep(CRASH_PAUSE);
            }
        }
    }

    /// One life of the process.
    fn run_once(self: &Arc<Self>) -> io::Result<()> {
        let layout = Layout::new(self.wakers.len());
        let region = Arc::new(Region::create(layout.bytes())?);
        let (mut stream, theirs) = UnixStream::pair()?;
        let mut child = self.spawn(&theirs, &region)?;
        drop(theirs);
        let connection = Arc::new(Connection {
            pid: child.id(),
            alive: Mutex::new(true),
            stream: Mutex::new(stream.try_clone()?),
            waiting: Mutex::new(Some(HashMap::new())),
        });
        let begun = self.begin_life(&connection, &region, layout);
        if begun.is_ok() {
            self.read(&mut stream, &connection);
        }
        self.buried(&connection, &mut child);
        begun
    }

    /// Tells a new process how to start, and has it brought up.
    fn begin_life(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        region: &Arc<Region>,
        layout: Layout,
    ) -> io::Result<()> {
        connection.send(&ToChild::Start(Box::new(self.start_message())))?;
        let mut links = Vec::new();
        for shard in 0..self.wakers.len() {
            let producer = Producer::new(region, layout.to_domain(shard))?;
            let consumer = Consumer::new(region, layout.to_server(shard))?;
            let owner = LinkOwner { shared: Arc::clone(self), connection: Arc::clone(connection) };
            links.push(ShardLink::new(
                shard,
                producer,
                consumer,
                layout.to_domain(shard).record_bytes_max(),
                Box::new(owner),
            ));
        }
        let (shared, up) = (Arc::clone(self), Arc::clone(connection));
        thread::Builder::new().name("domain-up".to_owned()).spawn(move || shared.bring_up(&up, links)).map(|_| ())
    }

    fn start_message(&self) -> Start {
        Start {
            shards: self.wakers.len(),
            cores: self.config.cores.clone(),
            free_cores: self.config.free_cores.clone(),
            threads_min: self.config.threads_min,
            threads_max: self.config.threads_max,
            database: self.config.database.display().to_string(),
            jobs_database: self.config.jobs_database.display().to_string(),
            crypto: crypto::is_loaded(),
            policy: self.config.policy.clone(),
        }
    }

    fn spawn(&self, control: &UnixStream, region: &Region) -> io::Result<Child> {
        let wakes = self.wakers.iter().map(|waker| waker.descriptor()).collect::<io::Result<Vec<OwnedFd>>>()?;
        let mut passed: Vec<RawFd> = vec![control.as_raw_fd(), region.fd().as_raw_fd()];
        passed.extend(wakes.iter().map(AsRawFd::as_raw_fd));
        let mut command = Command::new("/proc/self/exe");
        command.arg("domain").args(passed.iter().map(ToString::to_string)).stdin(Stdio::null()).process_group(0);
        command.env_remove("CWEB_ADMIN_KEY").env("TMPDIR", &self.config.scratch);
        if let Some(log) = &self.config.log {
            command.env("CWEB_LOG", log);
        }
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

    /// Loads the modules again, and then lets everybody use the process.
    fn bring_up(self: &Arc<Self>, connection: &Arc<Connection>, links: Vec<ShardLink>) {
        let modules: Vec<(u64, PathBuf, bool)> =
            lock(&self.modules).iter().map(|(id, loaded)| (*id, loaded.path.clone(), loaded.onloaded)).collect();
        for (id, path, onloaded) in modules {
            let mut orders = vec![Order::Load { instance: id, path: path.display().to_string() }];
            orders.extend(onloaded.then_some(Order::Onload { instance: id }));
            for order in orders {
                let outcome =
                    connection.begin(self.number(), order).and_then(|done| done.recv().map_err(|e| e.to_string()));
                match outcome {
                    Ok(Outcome::Loaded(_) | Outcome::Done) => {}
                    Ok(other) => tracing::error!("a module could not be loaded again: {other:?}"),
                    Err(_) => return, // Dead again.
                }
            }
        }
        let published = lock(&self.published).clone();
        let _ = connection.send(&ToChild::Published(published));
        // An order that the child has answered shows that it is ready, also when there was no module.
        if connection
            .begin(self.number(), Order::Onload { instance: 0 })
            .and_then(|done| done.recv().map_err(|e| e.to_string()))
            .is_err()
        {
            return;
        }
        // Under this lock, which the burial takes after it has closed `waiting`: a shard hears of a dead process that it was
        // there before it hears of its death, or not at all.
        let mut current = lock(&self.current);
        if lock(&connection.waiting).is_none() {
            return;
        }
        *current = Some(Arc::clone(connection));
        self.changed.notify_all();
        self.deliver(links);
    }

    fn deliver(&self, links: Vec<ShardLink>) {
        let mut waiting = lock(&self.links);
        match self.inboxes.get() {
            None => *waiting = links,
            Some(inboxes) => {
                for link in links {
                    if let Some(inbox) = inboxes.get(link.shard()) {
                        inbox.push(Message::DomainUp(Box::new(link)));
                    }
                }
            }
        }
    }

    /// Reads what the process says until it ends.
    fn read(self: &Arc<Self>, stream: &mut UnixStream, connection: &Arc<Connection>) {
        loop {
            match control::read(stream) {
                Ok(ToParent::Done { call, outcome }) => {
                    let sender = lock(&connection.waiting).as_mut().and_then(|waiting| waiting.remove(&call));
                    if let Some(sender) = sender {
                        let _ = sender.send(outcome);
                    }
                }
                Ok(ToParent::Question { call, what }) => self.answer(connection, call, what),
                Err(error) => {
                    if error.kind() != io::ErrorKind::UnexpectedEof && !self.stopping.load(Ordering::Acquire) {
                        tracing::error!("the process of the modules can't be understood: {error}");
                    }
                    return;
                }
            }
        }
    }

    fn answer(self: &Arc<Self>, connection: &Arc<Connection>, call: u64, what: Question) {
        let reply = |result| {
            let _ = connection.send(&ToChild::Reply { call, result });
        };
        let run = match what {
            Question::CreateJob { instance, job, payload } => {
                // It is answered once it is durable: not here, where everybody else's answers pass.
                let connection = Arc::clone(connection);
                let create = move || {
                    let name = host::ModuleToken { name: String::new(), id: instance };
                    let result = host::create_job(&name, &job, &payload);
                    let _ = connection.send(&ToChild::Reply { call, result });
                };
                if let Err(error) = thread::Builder::new().name("create-job".to_owned()).spawn(create) {
                    reply(Err(error.to_string()));
                }
                return;
            }
            Question::Sign { token } => return reply(crypto::sign(&token).ok_or_else(|| "no key".to_owned())),
            Question::Verify { signed, token } => {
                let valid = crypto::verify(&signed, &token);
                return reply(if valid { Ok(String::new()) } else { Err("no signature of this server".to_owned()) });
            }
            Question::Emit { run, .. } | Question::SetResult { run, .. } | Question::SetError { run, .. } => run,
        };
        let sender = lock(&self.runs).get(&run).cloned();
        if sender.is_none_or(|sender| sender.send((call, what)).is_err()) {
            reply(Err("there is no such run".to_owned()));
        }
    }

    /// The process is dead: everybody who waits for it learns it.
    fn buried(&self, connection: &Arc<Connection>, child: &mut Child) {
        connection.kill();
        drop(lock(&connection.waiting).take());
        *lock(&self.current) = None;
        // A shard or a replacement may still have this connection: from here on its number can be another process's.
        *lock(&connection.alive) = false;
        let status = child.wait();
        let wanted = self.stopping.load(Ordering::Acquire) || self.recycling.load(Ordering::Acquire);
        if !wanted {
            match status {
                Ok(status) => tracing::error!("the process of the modules died ({status}); it is started again"),
                Err(error) => tracing::error!("the process of the modules is lost: {error}"),
            }
        }
        for inbox in self.inboxes.get().into_iter().flatten() {
            inbox.push(Message::DomainDown);
        }
    }
}
