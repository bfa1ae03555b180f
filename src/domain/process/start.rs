//! Starts a process: its memory, sockets and limits, and the threads for it.

use super::arena::Parts;
use super::asked::Asked;
use super::cgroup::Confined;
use super::control::{Start, ToChild};
use super::control_reader::ControlReader;
use super::control_writer::ControlWriter;
use super::core_files::{CoreFiles, CorePlace};
use super::endpoints::{Ends, Owner, RingEndpoints};
use super::events::Event;
use super::instance::{ProcessInstance, Stage};
use super::layout::Layout;
use super::lifecycle::Input;
use super::loader::Loader;
use super::orphans::Record;
use super::reader::{self, Attended};
use super::shared::DomainShared;
use super::{passing, stdout_relay, watch};
use crate::abi::crypto;
use crate::domain::ring::{Consumer, Producer, Region};
use crate::domain::{sandbox, sanitized};
use crate::net::{self, Doorbell, Waker};
use std::collections::HashMap;
use std::io::{self, PipeWriter};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

/// The owner of a process, for its endpoints.
struct EndpointOwner {
    shared: Arc<DomainShared>,
    process: Arc<ProcessInstance>,
}

impl Owner for EndpointOwner {
    fn kill(&self) {
        self.process.set_broken();
        self.process.kill();
    }

    fn recycle(&self, why: &str) {
        self.shared.want_replacement(&self.process, why);
    }

    fn drained(&self) {
        self.shared.tell(Input::Drained { process: self.process.number() });
    }

    fn is_dead(&self) -> bool {
        self.process.is_dead()
    }
}

/// Starts a process, sends its start message, tells the supervisor of it, and passes the process to a thread that reads its
/// messages until it ends. The calling thread must stay: the kernel ends the process with the thread that started it.
///
/// # Errors
/// No process was started, or the process was ended and reaped. The supervisor was told nothing.
pub(super) fn start(shared: &Arc<DomainShared>) -> io::Result<()> {
    // The thread is started first, so that a failure leaves no process behind.
    let attend = reader::start(shared)?;
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
    let process = stream.try_clone().map(|ours| {
        Arc::new(ProcessInstance {
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
            trying: AtomicU64::new(0),
            broken: AtomicBool::new(false),
            faulted: Mutex::default(),
            verdict: Mutex::default(),
            started: AtomicBool::new(false),
            is_replacement_requested: AtomicBool::new(false),
            is_sanitized: sanitized::is_one(shared.name()),
            stage: AtomicU8::new(Stage::Alive as u8),
            printed,
            _record: record(shared, child.id()),
            // Must come before the start message: until then the process runs no foreign code.
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
    // Must come before the reader gets the process: the reader reports the end, which must come after the start.
    let _ = shared.events.send(Event::Started(Ok(Arc::clone(&process))));
    let control_reader = ControlReader::new(stream, child.id(), shared.config.message_bytes_max);
    // The thread waits for this message, so it exists.
    let _ = attend.send(Attended { process, control_reader, child });
    Ok(())
}

/// The ends of the rings of `process`, one for each shard.
pub(super) fn endpoints(shared: &Arc<DomainShared>, process: &Arc<ProcessInstance>) -> io::Result<Vec<RingEndpoints>> {
    let endpoints = |shard| {
        let to_domain = process.layout.to_domain(shard);
        let ends = Ends {
            producer: Producer::new(&process.region, to_domain)?,
            consumer: Consumer::new(&process.region, process.layout.to_server(shard))?,
            requests: process.parts.lend_requests(&process.bodies, shard),
            answers: process.parts.borrow_answers(&process.bodies),
            streams: process.parts.streams(&process.bodies, shard),
            files: passing::Receiver::new(process.files.get(shard).ok_or(io::ErrorKind::NotFound)?.try_clone()?),
        };
        let owner = EndpointOwner { shared: Arc::clone(shared), process: Arc::clone(process) };
        let domain = Arc::clone(shared.identity());
        Ok(RingEndpoints::new(shard, domain, process.number, ends, Box::new(owner)))
    };
    (0..shared.wakers.len()).map(endpoints).collect()
}

/// Moves a process into its cgroup. A failure does not stop the domain; cgroups were possible at the start of the server.
fn confine(shared: &DomainShared, number: u64, child: &Child) -> Option<Confined> {
    let confined = shared.config.cgroups.as_ref()?.confine(number, child.id());
    confined
        .inspect_err(|error| {
            tracing::warn!("no cgroup limits the memory of a process of domain {}: {error}", shared.name());
        })
        .ok()
}

/// Writes the record of a process, without which the next server would not end it.
fn record(shared: &DomainShared, pid: u32) -> Option<Record> {
    let record = Record::new(&shared.config.records, pid);
    record.inspect_err(|error| tracing::warn!("process {pid} of domain {} has no record: {error}", shared.name())).ok()
}

/// The directory for the core file of process `number`, if it may leave one.
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
    // The address space of the memory for bodies does not count against the modules' limit.
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
    command.arg("domain").args(passed.iter().map(ToString::to_string)).stdin(Stdio::null());
    command.env_clear().envs(sandbox::environment()).env("TMPDIR", &shared.config.scratch);
    if sanitized::is_one(shared.name()) {
        command.envs(sanitized::environment(&shared.config.preload, None));
    }
    if shared.config.policy.connects {
        // Makes libc's resolver use TCP, which is all that is permitted.
        command.env("RES_OPTIONS", "use-vc");
    }
    if let Some(log) = &shared.config.log {
        command.env("CWEB_LOG", log);
    }
    command.stdout(output.try_clone()?).stderr(output);
    net::keep_descriptors_from(&mut command);
    let has_session = watch::has_session(shared.name());
    let pass = move || {
        for &fd in &passed {
            // SAFETY: system calls without memory, on descriptors of the child only.
            if unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } == -1 {
                return Err(io::Error::last_os_error());
            }
        }
        // The process gets a process group of its own, with or without a session.
        // SAFETY: as above.
        if unsafe { if has_session { libc::setsid() } else { libc::setpgid(0, 0) } } == -1 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: as above. The domain must not outlive the server, however that ends.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        Ok(())
    };
    // SAFETY: `pass` makes only system calls and allocates nothing, so it may run between fork(2) and exec(3).
    unsafe { command.pre_exec(pass) };
    command.spawn()
}
