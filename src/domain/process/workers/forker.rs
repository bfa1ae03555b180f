//! The thread of a domain's process that makes other processes, and the zygotes that it makes.
//!
//! The filter of system calls that refuses fork(2) to modules holds for every thread but this one, which runs none of their code.

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

/// How long a zygote may take to be ready. One that waits for a lock ends itself before this.
const READY: Timespec = Timespec { tv_sec: zygote::READY_S as i64 + 1, tv_nsec: 0 };
/// Zygotes that are made in the place of one that is not ready.
const TRIES: usize = 2;
/// Spawners of a zygote that are kept for the next calls.
const IDLE_MAX: usize = 4;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Order {
    module: Arc<InProcessModule>,
    /// Takes the module back too: its last owner runs its destructors, and must not be the thread that has no filter.
    made: Sender<(io::Result<Zygote>, Arc<InProcessModule>)>,
}

/// What the processes have in common.
struct Common {
    /// Descriptors that they close.
    closes: Vec<RawFd>,
    /// Calls at once.
    calls_max: usize,
    /// System calls that the operator grants, by their names.
    named: Vec<String>,
    /// The signals that the domain's threads block, which is none but by accident.
    signals: libc::sigset_t,
}

/// See the module's documentation.
pub(in crate::domain::process) struct Forker {
    orders: Sender<Order>,
}

impl Forker {
    /// Starts the thread, while there is no filter yet that it must not have. The processes that it makes close `closes`, run
    /// `calls_max` calls at once, and grant modules the system calls `named` besides those that all have.
    ///
    /// # Errors
    /// The thread could not be started.
    pub(in crate::domain::process) fn start(
        closes: Vec<RawFd>,
        calls_max: usize,
        named: Vec<String>,
    ) -> io::Result<Self> {
        // Zygotes need not be waited for. Here, because the first use of a function that keep.c hides finds the real one.
        // SAFETY: no handler, and no memory.
        unsafe {
            libc::signal(libc::SIGCHLD, libc::SIG_IGN);
            libc::alarm(0);
        }
        // A handler of a module must not run on this thread, which may fork: it takes no signal, from its first moment on.
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
        // SAFETY: the set is the one that the call above has written.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const signals, std::ptr::null_mut()) };
        spawned?;
        Ok(Self { orders })
    }

    /// Makes a zygote with the memory of `module` as it is now, in [`TRIES`] times [`READY`] at most.
    pub(super) fn zygote(&self, module: &Weak<InProcessModule>) -> io::Result<Zygote> {
        let gone = || io::Error::other("the thread that makes processes is gone");
        for _ in 0..TRIES {
            let module = module.upgrade().ok_or_else(|| io::Error::other("the module is being closed"))?;
            let (made, receiver) = bounded(1);
            self.orders.send(Order { module, made }).map_err(|_| gone())?;
            let (zygote, module) = receiver.recv().map_err(|_| gone())?;
            // It may be closed while this one waits.
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
    // Those of calls that were killed may not be gone yet.
    let spawners_max = common.calls_max.saturating_mul(2).saturating_add(IDLE_MAX);
    let (control, others) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let parent = rustix::process::getpid();
    // Here, not in the child, which may find the allocator locked before it looks for that.
    let named = common.named.clone();
    // SAFETY: the child has this thread alone. What other threads had locked stays so: `zygote::main` looks for that, and is not
    // used if it finds any. It never returns here.
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

/// A process with one thread and the memory of a module, of which the processes of calls are forked. It ends when this is dropped,
/// and they with it.
pub(super) struct Zygote {
    control: OwnedFd,
    /// The spawners that have no call.
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

    /// A spawner without a call.
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

    /// The call of a spawner is over, and another may follow.
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

/// Ends the spawner at the other end, and its worker with it. Closing is not enough: a zygote that was forked later has the
/// descriptor too.
pub(super) fn end(socket: &OwnedFd) {
    let _ = shutdown(socket, Shutdown::Both);
}

impl Drop for Zygote {
    fn drop(&mut self) {
        lock(&self.idle).iter().for_each(|spawner| end(&spawner.socket));
        end(&self.control);
    }
}
