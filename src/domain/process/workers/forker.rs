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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How long a zygote may take to be ready. One that waits for a lock ends itself before this.
const READY: Timespec = Timespec { tv_sec: zygote::READY_S as i64 + 5, tv_nsec: 0 };
/// Zygotes that are made in the place of one that is not ready.
const TRIES: usize = 3;
/// Spawners of a zygote that are kept for the next calls.
const IDLE_MAX: usize = 4;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Order {
    module: Arc<InProcessModule>,
    made: Sender<io::Result<Zygote>>,
}

/// See the module's documentation.
pub(in crate::domain::process) struct Forker {
    orders: Sender<Order>,
}

impl Forker {
    /// Starts the thread, while there is no filter yet that it must not have. The processes that it makes close `closes`, and run
    /// `calls_max` calls at once.
    ///
    /// # Errors
    /// The thread could not be started.
    pub(in crate::domain::process) fn start(closes: Vec<RawFd>, calls_max: usize) -> io::Result<Self> {
        // Zygotes need not be waited for. Here, because the first use of a function that keep.c hides finds the real one.
        // SAFETY: no handler, and no memory.
        unsafe {
            libc::signal(libc::SIGCHLD, libc::SIG_IGN);
            libc::alarm(0);
        }
        let (orders, received) = unbounded::<Order>();
        module_thread("forker").spawn(move || {
            executor::prepare_thread();
            running::hide();
            while let Ok(Order { module, made }) = received.recv() {
                let _ = made.send(fork(&module, &closes, calls_max));
            }
        })?;
        Ok(Self { orders })
    }

    /// Makes a zygote with the memory of `module` as it is now.
    pub(super) fn zygote(&self, module: &Arc<InProcessModule>) -> io::Result<Zygote> {
        let gone = || io::Error::other("the thread that makes processes is gone");
        for _ in 0..TRIES {
            let (made, receiver) = bounded(1);
            self.orders.send(Order { module: Arc::clone(module), made }).map_err(|_| gone())?;
            let zygote = receiver.recv().map_err(|_| gone())??;
            if zygote.is_ready() {
                return Ok(zygote);
            }
        }
        Err(io::Error::other("other threads of its domain held locks each time"))
    }
}

fn fork(module: &Arc<InProcessModule>, closes: &[RawFd], calls_max: usize) -> io::Result<Zygote> {
    // Those of calls that were killed may not be gone yet.
    let spawners_max = calls_max.saturating_mul(2).saturating_add(IDLE_MAX);
    let (control, others) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let parent = rustix::process::getpid();
    // SAFETY: the child has this thread alone. What other threads had locked stays so: `zygote::main` looks for that, and is not
    // used if it finds any. It never returns here.
    match unsafe { libc::fork() } {
        0 => {
            drop(control);
            zygote::main(Birth { module: Arc::clone(module), control: others, parent, spawners_max }, closes)
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
