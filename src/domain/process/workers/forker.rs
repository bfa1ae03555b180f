//! The thread of a domain's process that forks processes, and the zygotes that it makes.
//!
//! The system call filter that refuses fork(2) to modules applies to every thread but this one, which runs no module code.

use super::call::SpawnerEnd;
use super::zygote::{self, Birth};
use crate::domain::in_process::InProcessModule;
use crate::domain::{executor, running};
use crate::threads::module_thread;
use crossbeam::channel::{Sender, bounded, unbounded};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketFlags, SocketType, sendmsg,
    shutdown, socketpair,
};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Limit on the time until a zygote is ready. A zygote that waits for a lock ends itself before that.
const READY: Timespec = Timespec { tv_sec: zygote::READY_S as i64 + 1, tv_nsec: 0 };
/// The number of attempts to make a zygote that becomes ready.
const TRIES: usize = 2;
/// Limit on the idle spawners of a zygote that are kept for further calls.
const IDLE_MAX: usize = 4;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Order {
    module: Arc<InProcessModule>,
    /// Returns the module, too: its last owner runs its destructors, and must not be the thread without the filter.
    made: Sender<(io::Result<Zygote>, Arc<InProcessModule>)>,
}

/// The settings that all processes share.
struct Common {
    /// The descriptors that they close.
    closes: Vec<RawFd>,
    /// Limit on concurrent calls.
    calls_max: usize,
    /// The system calls that the operator grants, by name.
    named: Vec<String>,
    /// The signal mask of the domain's threads, which is usually empty.
    signals: libc::sigset_t,
}

/// The handle to the forking thread.
pub(in crate::domain::process) struct Forker {
    orders: Sender<Order>,
}

impl Forker {
    /// Starts the thread, before any filter applies that it must not have. The processes that it forks close `closes`, run
    /// `calls_max` concurrent calls, and grant modules the system calls `named` in addition.
    ///
    /// # Errors
    /// The thread can't be started.
    pub(in crate::domain::process) fn start(
        closes: Vec<RawFd>,
        calls_max: usize,
        named: Vec<String>,
    ) -> io::Result<Self> {
        // Zygotes need not be reaped. This is done here, because the first use of a function that keep.c hides finds the
        // real one.
        // SAFETY: no handler, and no memory.
        unsafe {
            libc::signal(libc::SIGCHLD, libc::SIG_IGN);
            libc::alarm(0);
        }
        // A module's signal handler must not run on this thread, which may fork: it takes no signal, from its start on.
        let mut signals = std::mem::MaybeUninit::uninit();
        let mut all = std::mem::MaybeUninit::uninit();
        // SAFETY: both sets are written before they are read, by calls that can't fail with these arguments.
        let signals = unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), signals.as_mut_ptr());
            signals.assume_init()
        };
        let common = Common { closes, calls_max, named, signals };
        let (orders, received) = unbounded::<Order>();
        let spawned = module_thread("forker").spawn(move || {
            executor::prepare_thread();
            running::hide();
            while let Ok(Order { module, made }) = received.recv() {
                let zygote = fork(&module, &common);
                let _ = made.send((zygote, module));
            }
        });
        // SAFETY: the call above has written the set.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const signals, std::ptr::null_mut()) };
        spawned?;
        Ok(Self { orders })
    }

    /// Makes a zygote with the present memory of `module`, in at most [`TRIES`] times [`READY`].
    pub(super) fn zygote(&self, module: &Weak<InProcessModule>) -> io::Result<Zygote> {
        let gone = || io::Error::other("the thread that makes processes is gone");
        for _ in 0..TRIES {
            let module = module.upgrade().ok_or_else(|| io::Error::other("the module is being closed"))?;
            let (made, receiver) = bounded(1);
            self.orders.send(Order { module, made }).map_err(|_| gone())?;
            let (zygote, module) = receiver.recv().map_err(|_| gone())?;
            // The module may be closed while this thread waits.
            drop(module);
            let zygote = zygote?;
            if zygote.is_ready() {
                return Ok(zygote);
            }
        }
        Err(io::Error::other("other threads of its domain held locks each time"))
    }
}

fn fork(module: &Arc<InProcessModule>, common: &Common) -> io::Result<Zygote> {
    // The spawners of killed calls may still exist.
    let spawners_max = common.calls_max.saturating_mul(2).saturating_add(IDLE_MAX);
    let (control, others) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let parent = rustix::process::getpid();
    // Cloned here and not in the child, which may find the allocator locked before it checks for that.
    let named = common.named.clone();
    // SAFETY: the child has only this thread. Locks of other threads stay locked there: `zygote::main` checks for that, and
    // the zygote is not used if it finds any. The child never returns here.
    match unsafe { libc::fork() } {
        0 => {
            // SAFETY: the set is the one that the domain's first thread had.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const common.signals, std::ptr::null_mut()) };
            drop(control);
            zygote::main(
                Birth { module: Arc::clone(module), control: others, parent, spawners_max, named },
                &common.closes,
            )
        }
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(Zygote { control, idle: Mutex::default() }),
    }
}

/// A process with one thread and the memory of a module, from which the processes of calls are forked. Dropping this value
/// ends it and them.
pub(super) struct Zygote {
    control: OwnedFd,
    /// The spawners without a call.
    idle: Mutex<Vec<SpawnerEnd>>,
}

impl Zygote {
    fn is_ready(&self) -> bool {
        let mut polled = [PollFd::new(&self.control, PollFlags::IN)];
        let mut byte = [0; 1];
        loop {
            match poll(&mut polled, Some(&READY)) {
                Err(rustix::io::Errno::INTR) => {}
                Ok(1..) => return rustix::io::read(&self.control, &mut byte) == Ok(1),
                _ => return false,
            }
        }
    }

    /// Takes a spawner without a call.
    pub(super) fn take(&self) -> io::Result<SpawnerEnd> {
        if let Some(spawner) = lock(&self.idle).pop() {
            return Ok(spawner);
        }
        let (socket, others) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [others.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        sendmsg(&self.control, &[IoSlice::new(&[1])], &mut control, SendFlags::NOSIGNAL)?;
        Ok(SpawnerEnd { socket, calls: 0 })
    }

    /// Returns a spawner after its call, for another one.
    pub(super) fn give_back(&self, spawner: SpawnerEnd) {
        let mut idle = lock(&self.idle);
        if idle.len() < IDLE_MAX {
            idle.push(spawner);
        } else {
            drop(idle);
            end(&spawner.socket);
        }
    }
}

/// Ends the spawner at the other end, and its worker with it. Closing the socket does not suffice: a zygote that was forked
/// later has the descriptor, too.
pub(super) fn end(socket: &OwnedFd) {
    let _ = shutdown(socket, Shutdown::Both);
}

impl Drop for Zygote {
    fn drop(&mut self) {
        lock(&self.idle).iter().for_each(|spawner| end(&spawner.socket));
        end(&self.control);
    }
}
