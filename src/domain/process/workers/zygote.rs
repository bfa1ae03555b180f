//! The processes below a domain's: zygote, spawner, worker. Each has one thread, so each can fork.
//!
//! A zygote is forked from the domain's process when a module has been set up. For each concurrent call it forks a spawner,
//! and a spawner forks a worker for each of its calls, one after the other. The kernel kills each of these processes when
//! its parent ends (`PR_SET_PDEATHSIG`), and they can't prevent that. So even a worker that no signal of the domain can
//! reach ends with its spawner, which ends itself when the domain's process shuts its socket down.

use super::call::{Ask, Ended, Reply};
use super::packets::{self, Incoming, PACKET_BYTES, Received};
use crate::abi::guard;
use crate::abi::stream::Errno as ErrorNumber;
use crate::domain::in_process::{Executor, InProcessModule};
use crate::domain::process::control::CaughtFault;
use crate::domain::sandbox;
use crate::domain::stream::call::{Facts, Pipes};
use crate::domain::stream::running::{self, Key, Reason};
use crate::domain::stream::{Begun, Pipe, StreamAddress, Uplink};
use crate::proto::http1::{Head, RequestView};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, Shutdown, recvmsg, shutdown};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, pidfd_open, setrlimit};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Limit on the time in which a zygote finds out that it can run calls. Otherwise it waits for a lock that no thread will
/// release, and ends.
pub(super) const READY_S: u32 = 1;

/// The start data of a zygote.
pub(super) struct Birth {
    pub(super) module: Arc<InProcessModule>,
    pub(super) control: OwnedFd,
    /// The process that has forked it.
    pub(super) parent: Pid,
    /// Limit on concurrent spawners, since module code could request more.
    pub(super) spawners_max: usize,
    /// The system calls that the operator grants, by name.
    pub(super) named: Vec<String>,
}

/// Makes the kernel end this process with `parent`, and ends it if `parent` has ended already.
fn end_with(parent: Pid) {
    sandbox::end_with_parent();
    if rustix::process::getppid() != Some(parent) {
        guard::end_process(1);
    }
}

/// The words of a deadly signal, which a spawner and its worker share.
fn death_note() -> Option<&'static [AtomicU64]> {
    let (bytes, access) = (guard::NOTE_WORDS * 8, libc::PROT_READ | libc::PROT_WRITE);
    // SAFETY: new memory, initially zero, that is never unmapped and only accessed as atomic words.
    unsafe {
        let map = libc::mmap(std::ptr::null_mut(), bytes, access, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0);
        (map != libc::MAP_FAILED).then(|| std::slice::from_raw_parts(map.cast::<AtomicU64>(), guard::NOTE_WORDS))
    }
}

/// The main function of a zygote: see the module's documentation.
pub(super) fn main(birth: Birth, closes: &[RawFd]) -> ! {
    let Birth { module, control, parent, spawners_max, named } = birth;
    // SAFETY: system calls without memory. The descriptors are the server's, and this process uses none of them.
    unsafe {
        libc::alarm(READY_S);
        libc::prctl(libc::PR_SET_NAME, c"cweb-zygote".as_ptr());
        // Workers whose spawner has ended become children of this process, which need not reap them.
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
        for &number in closes {
            libc::close(number);
        }
    }
    end_with(parent);
    // The memory that the domain's process shares with the server does not exist here.
    if let Some(note) = death_note() {
        guard::note_deaths(note);
    }
    // The directory for core files is for the domain's own process.
    guard::leave_cores(-1);
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    // Any lock may have been held by another thread at the fork.
    running::cancel(Key(u64::MAX, 0), Reason::Draining);
    // SAFETY: looks up any function, to take the dynamic loader's lock.
    unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"malloc".as_ptr()) };
    let executor = module.become_worker();
    tracing::debug!("calls of module {} can be forked", module.name());
    drop(std::io::Write::flush(&mut std::io::stderr().lock()));
    // SAFETY: no memory is involved.
    unsafe { libc::alarm(0) };
    if rustix::io::write(&control, &[1]) != Ok(1) {
        guard::end_process(1);
    }
    let template = Template { module, executor, named };
    fork_spawners(template, control, spawners_max)
}

/// Forks a spawner for each socket that comes over `control`, until that is shut down.
fn fork_spawners(template: Template, control: OwnedFd, most: usize) -> ! {
    let own = rustix::process::getpid();
    // The living spawners: the descriptor of a process becomes readable when the process ends.
    let mut spawners: Vec<OwnedFd> = Vec::new();
    loop {
        let ends = spawners.iter().map(|spawner| PollFd::new(spawner, PollFlags::IN));
        let mut polled: Vec<PollFd<'_>> = [PollFd::new(&control, PollFlags::IN)].into_iter().chain(ends).collect();
        wait_for(&mut polled);
        let mut is_ready = polled.iter().map(|polled| polled.revents().contains(PollFlags::IN)).collect::<Vec<_>>();
        drop(polled);
        let is_asked = is_ready.remove(0);
        let mut has_ended = is_ready.into_iter();
        spawners.retain(|_| !has_ended.next().unwrap_or_default());
        if !is_asked {
            continue;
        }
        let Some(socket) = next_socket(&control) else { guard::end_process(0) };
        if spawners.len() >= most {
            refuse(&socket, "the processes of earlier calls have not ended yet");
            continue;
        }
        // SAFETY: this process has one thread. The child does not return.
        match unsafe { libc::fork() } {
            0 => {
                end_with(own);
                drop(control);
                Spawner { template, socket }.run();
            }
            -1 => refuse(&socket, &std::io::Error::last_os_error().to_string()),
            child => match Pid::from_raw(child).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) {
                Some(process) => spawners.push(process),
                // A spawner that can't be watched is ended in this way.
                None => {
                    let _ = shutdown(&socket, Shutdown::Both);
                }
            },
        }
    }
}

/// Answers the call that comes over `socket`, because there is no spawner for it.
fn refuse(socket: &OwnedFd, why: &str) {
    let reply = Reply::refused(503, format!("there is no process for the call: {why}\n"));
    // If that fails, the end of the socket reports it.
    let _ = serde_json::to_vec(&reply).map(|meta| packets::send_all(socket.as_fd(), &meta, &[]));
}

/// The socket of the next spawner; `None`: no further one is wanted.
fn next_socket(control: &OwnedFd) -> Option<OwnedFd> {
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        match recvmsg(control, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => continue,
            Ok(received) if received.bytes > 0 => {}
            _ => return None,
        }
        let sockets = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
            _ => None,
        });
        if sockets.is_some() {
            return sockets;
        }
    }
}

/// The start data of a worker.
struct Template {
    module: Arc<InProcessModule>,
    executor: Executor,
    /// See [`Birth`].
    named: Vec<String>,
}

struct Spawner {
    template: Template,
    socket: OwnedFd,
}

impl Spawner {
    /// Forks a worker for each call until the socket is shut down.
    fn run(self) -> ! {
        // SAFETY: no handler, and no memory: a worker is reaped.
        unsafe {
            libc::signal(libc::SIGCHLD, libc::SIG_DFL);
            libc::prctl(libc::PR_SET_NAME, c"cweb-spawner".as_ptr());
        }
        let note = death_note().unwrap_or_default();
        guard::note_deaths(note);
        let own = rustix::process::getpid();
        let Self { mut template, socket } = self;
        for call in 1.. {
            wait_for(&mut [PollFd::new(&socket, PollFlags::IN)]);
            note.iter().for_each(|word| word.store(0, Ordering::Relaxed));
            // SAFETY: this process has one thread. The child does not return.
            let child = match unsafe { libc::fork() } {
                0 => {
                    end_with(own);
                    run_call(&mut template, socket.as_fd());
                }
                -1 => guard::end_process(1),
                child => child,
            };
            let status = attend(child, &socket);
            if status != 0 {
                let ended = Ended { call, status, fault: noted(&template.module, note) };
                let told = serde_json::to_vec(&ended).map(|how| packets::send_ended(socket.as_fd(), &how));
                if !matches!(told, Ok(Ok(()))) {
                    guard::end_process(1);
                }
            }
        }
        guard::end_process(0)
    }
}

/// Waits for one of `polled`. Ends the process when the other end of a socket is closed.
fn wait_for(polled: &mut [PollFd<'_>]) {
    loop {
        match poll(polled, None) {
            Err(Errno::INTR) => continue,
            Err(_) => guard::end_process(1),
            Ok(_) => {}
        }
        let over = PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR | PollFlags::NVAL;
        if polled.first().is_some_and(|socket| socket.revents().intersects(over)) {
            // The kernel then kills the worker, if there is one.
            guard::end_process(0);
        }
        return;
    }
}

/// Waits for the end of worker `child`, and returns its status as in waitpid(2).
fn attend(child: i32, socket: &OwnedFd) -> i32 {
    let process = Pid::from_raw(child).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let Some(process) = process else { guard::end_process(1) };
    let mut polled = [PollFd::new(socket, PollFlags::RDHUP), PollFd::new(&process, PollFlags::IN)];
    while !polled[1].revents().contains(PollFlags::IN) {
        wait_for(&mut polled);
    }
    let mut status = 0;
    // SAFETY: `status` is writable.
    while unsafe { libc::waitpid(child, &raw mut status, 0) } < 0 {
        if std::io::Error::last_os_error().kind() != std::io::ErrorKind::Interrupted {
            guard::end_process(1);
        }
    }
    status
}

/// The deadly signal that a worker has recorded.
fn noted(module: &InProcessModule, note: &[AtomicU64]) -> Option<CaughtFault> {
    let word = |at: usize| note.get(at).map_or(0, |word| word.load(Ordering::Relaxed));
    let signal = i32::try_from(word(0)).ok().filter(|signal| *signal != 0)?;
    let trace = guard::noted_trace(word);
    Some(CaughtFault {
        instance: module.number(),
        signal,
        address: word(1),
        instruction: word(2),
        stack_overflow: false,
        place: String::new(),
        frames: trace.frames,
        registers: trace.registers,
        thrown: None,
    })
}

/// The fault of the call in this process.
static FAULT: Mutex<Option<CaughtFault>> = Mutex::new(None);

/// Keeps a fault for the answer, in the process of a call.
pub(in crate::domain::process) fn keep(fault: CaughtFault) {
    *FAULT.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
}

/// Runs the call that comes over `socket`, answers it, and ends the process.
fn run_call(template: &mut Template, socket: BorrowedFd<'_>) -> ! {
    // SAFETY: a C string.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"cweb-worker".as_ptr()) };
    let Template { module, executor, named } = template;
    let Some((ask, bytes)) = receive(socket) else { guard::end_process(1) };
    // In this order, because no filter can follow the last one.
    if sandbox::no_forks().and_then(|()| sandbox::no_pidfds(named)).is_err() {
        guard::end_process(1);
    }
    let (reply, body) = answer(module, executor, &ask, &bytes);
    let sent = serde_json::to_vec(&reply).map(|meta| packets::send_all(socket, &meta, &body));
    guard::end_process(u8::from(!matches!(sent, Ok(Ok(())))));
}

fn receive(socket: BorrowedFd<'_>) -> Option<(Ask, Vec<u8>)> {
    let (mut incoming, mut packet) = (Incoming::default(), vec![0; PACKET_BYTES]);
    loop {
        let count = match rustix::io::read(socket, &mut packet) {
            Err(Errno::INTR) => continue,
            count => count.ok().filter(|count| *count > 0)?,
        };
        match incoming.take(packet.get(..count)?).ok()? {
            Received::Some => {}
            Received::Message(meta, body) => return Some((serde_json::from_slice(&meta).ok()?, body)),
            Received::Ended(_) => return None,
        }
    }
}

/// The answer of a call's handler.
fn answer(module: &InProcessModule, executor: &mut Executor, ask: &Ask, bytes: &[u8]) -> (Reply, Vec<u8>) {
    let (packed, body) = bytes.split_at(ask.head_bytes.min(bytes.len()));
    let mut head = Head::default();
    let Some(bytes) = head.unpack(packed) else {
        return (Reply::refused(500, "the head of the request can't be read\n".to_owned()), Vec::new());
    };
    let view = RequestView { head: &head, bytes, body, shared: None, peer: ask.peer };
    let (uplink, stream) = (Nowhere, None::<Pipes>);
    let mut facts = Facts {
        key: Key(u64::MAX, 1),
        module: module.name(),
        uplink: &uplink,
        view: &view,
        start: Instant::now(),
        compresses: false,
        is_handshake: false,
        limit_ms: ask.limit_ms,
        stream,
    };
    let (mut reply, mut answered) = (Reply::default(), Vec::new());
    let result = executor.handler(module, ask.route, &view, Some(&mut facts), |answer, _| {
        let fields = answer.headers().map(|(name, value)| (name.to_vec(), value.to_vec()));
        reply = Reply { status: answer.status, fields: fields.collect(), ..Reply::default() };
        answered.extend_from_slice(answer.body);
    });
    if let Err(none) = result {
        (reply, answered) = (Reply::refused(none.status, none.text), Vec::new());
    }
    reply.fault = FAULT.lock().unwrap_or_else(PoisonError::into_inner).take();
    (reply, answered)
}

/// The uplink of a call that must answer as a whole.
struct Nowhere;

impl Uplink for Nowhere {
    fn take_slot(&self) -> Option<(u32, Pipe)> {
        None
    }

    fn no_slot(&self) -> ErrorNumber {
        let _ = crate::abi::worker::refuses(c"an answer in pieces");
        libc::ENOTSUP
    }

    fn give_slot(&self, _slot: u32) {}

    fn begin(&self, _begun: &Begun<'_>) -> Result<(), i32> {
        Err(libc::ENOTSUP)
    }

    fn notice(&self, _wants_body: bool) {}

    fn leave_slot(&self, _slot: u32) {}

    fn place(&self, slot: u32) -> StreamAddress {
        StreamAddress { shard: 0, slot }
    }

    fn share(&self) -> Arc<dyn Uplink> {
        Arc::new(Self)
    }
}
