//! The polls of descriptors in the ring of this thread.

use super::ring::Ring;
use io_uring::squeue::Flags;
use io_uring::{cqueue, opcode, types};
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::task::{Poll, Waker};

thread_local! {
    /// The polls of this thread, while its shard runs.
    static POLLS: RefCell<Option<Polls>> = const { RefCell::new(None) };
}

/// A descriptor whose polls end before it is closed. Otherwise the ring would keep its file open.
pub(in crate::net::driver) struct Polled<T: AsRawFd>(pub(super) T);

impl<T: AsRawFd> AsRawFd for Polled<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl<T: AsRawFd> Drop for Polled<T> {
    fn drop(&mut self) {
        let fd = self.as_raw_fd();
        // The thread may be ending.
        let _ = POLLS.try_with(|polls| polls.borrow_mut().as_mut().map(|polls| polls.forget(fd)));
    }
}

impl<T: AsRawFd> Polled<T> {
    /// Waits until the descriptor has become ready since the last wait. One task may wait for each direction.
    ///
    /// # Errors
    /// The descriptor can't be polled.
    pub(super) async fn ready(&self, direction: Direction) -> io::Result<()> {
        let fd = self.as_raw_fd();
        poll_fn(|cx| {
            POLLS.with_borrow_mut(|polls| match polls {
                Some(polls) => polls.poll(fd, direction, cx.waker()),
                None => Poll::Ready(Err(io::Error::other("no reactor runs on this thread"))),
            })
        })
        .await
    }
}

/// Makes a new ring the one of this thread, until [`end`].
///
/// # Errors
/// The kernel refuses the ring.
pub(super) fn start() -> io::Result<()> {
    let ring = Ring::new()?;
    POLLS.set(Some(Polls::new(ring)));
    Ok(())
}

/// Ends all polls of this thread.
pub(super) fn end() {
    drop(POLLS.take());
}

/// Delivers the kernel's events by waking tasks, and waits for an event if `sleeps`.
///
/// # Errors
/// The kernel refuses the ring.
pub(super) fn deliver(sleeps: bool) -> io::Result<()> {
    POLLS.with_borrow_mut(|polls| polls.as_mut().map_or(Ok(()), |polls| polls.deliver(sleeps)))
}

/// The condition that a task waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// Bytes, a connection, the peer's FIN or an error.
    Read,
    /// Room for bytes, or an error.
    Write,
}

/// The number of the completion of a cancellation, which is no poll's.
const CANCELED: u64 = u64::MAX;
/// Set in the numbers of polls for [`Direction::Write`].
const WRITE: u64 = 1 << 63;
/// Generations of a poll: they share a number with the descriptor and with [`WRITE`].
const GENERATIONS: u32 = u32::MAX >> 1;
/// Events after which a receive may have to be repeated, though no event follows: data and the FIN behind it are one event.
const LAST_EVENTS: u32 = (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) as u32;

/// The poll of one descriptor in one direction.
#[derive(Default)]
struct Watch {
    /// Tells the completions of this poll from those of the descriptor's former owners.
    generation: u32,
    is_armed: bool,
    /// Waits that end at once: one after an event, two after one of [`LAST_EVENTS`].
    ready: u8,
    /// The errno of a poll that the kernel has refused.
    failed: Option<i32>,
    waiting: Option<Waker>,
}

/// All polls of a thread's ring.
struct Polls {
    ring: Ring,
    /// By descriptor.
    reads: Vec<Watch>,
    writes: Vec<Watch>,
}

impl Polls {
    fn new(ring: Ring) -> Self {
        Self { ring, reads: Vec::new(), writes: Vec::new() }
    }

    /// Whether `fd` has become ready since the last `Ready`; if not, `task` will be woken.
    fn poll(&mut self, fd: RawFd, direction: Direction, task: &Waker) -> Poll<io::Result<()>> {
        let Ok(index) = usize::try_from(fd) else { return Poll::Ready(Err(io::ErrorKind::InvalidInput.into())) };
        let watches = match direction {
            Direction::Read => &mut self.reads,
            Direction::Write => &mut self.writes,
        };
        if watches.len() <= index {
            watches.resize_with(index + 1, Watch::default);
        }
        let Some(watch) = watches.get_mut(index) else { return Poll::Pending };
        if let Some(errno) = watch.failed.take() {
            return Poll::Ready(Err(io::Error::from_raw_os_error(errno)));
        }
        if watch.ready > 0 {
            watch.ready -= 1;
            return Poll::Ready(Ok(()));
        }
        if !std::mem::replace(&mut watch.is_armed, true) {
            let number = number(fd, direction, watch.generation);
            let entry = match direction {
                Direction::Read => {
                    let events = (libc::POLLIN | libc::POLLRDHUP) as u32;
                    opcode::PollAdd::new(types::Fd(fd), events).multi(true).build()
                }
                // Waits for room are rare, and a poll that stays armed would report each acknowledgement of the peer.
                Direction::Write => opcode::PollAdd::new(types::Fd(fd), libc::POLLOUT as u32).build(),
            };
            self.ring.queue(entry.user_data(number));
        }
        match &mut watch.waiting {
            Some(known) => known.clone_from(task),
            waiting => *waiting = Some(task.clone()),
        }
        Poll::Pending
    }

    /// Ends the polls of `fd`, which is closed next. The kernel ends them before the thread sleeps, and keeps the file open
    /// until then.
    fn forget(&mut self, fd: RawFd) {
        for (watches, direction) in [(&mut self.reads, Direction::Read), (&mut self.writes, Direction::Write)] {
            let watch = usize::try_from(fd).ok().and_then(|index| watches.get_mut(index));
            let Some(watch) = watch else { continue };
            let generation = watch.generation;
            let was_armed = watch.is_armed;
            *watch = Watch { generation: (generation + 1) & GENERATIONS, ..Watch::default() };
            if was_armed {
                // The poll is cancelled and not removed, because a removal misses a poll whose event is just being delivered.
                let cancel = opcode::AsyncCancel::new(number(fd, direction, generation)).build();
                self.ring.queue(cancel.user_data(CANCELED).flags(Flags::SKIP_SUCCESS));
            }
        }
    }

    fn deliver(&mut self, sleeps: bool) -> io::Result<()> {
        let (reads, writes) = (&mut self.reads, &mut self.writes);
        self.ring.enter(sleeps, |entry| {
            let number = entry.user_data();
            if number == CANCELED {
                return;
            }
            let watches = if number & WRITE == 0 { &mut *reads } else { &mut *writes };
            let generation = ((number & !WRITE) >> 32) as u32;
            let watch = watches.get_mut((number & u64::from(u32::MAX)) as usize);
            let Some(watch) = watch.filter(|watch| watch.generation == generation) else { return };
            watch.is_armed = cqueue::more(entry.flags());
            match u32::try_from(entry.result()) {
                Ok(events) => watch.ready = if events & LAST_EVENTS == 0 { watch.ready.max(1) } else { 2 },
                Err(_) => watch.failed = Some(-entry.result()),
            }
            if let Some(task) = watch.waiting.take() {
                task.wake();
            }
        })
    }
}

/// The number of a poll in the ring.
fn number(fd: RawFd, direction: Direction, generation: u32) -> u64 {
    let direction = if direction == Direction::Write { WRITE } else { 0 };
    direction | u64::from(generation) << 32 | u64::from(fd.unsigned_abs())
}

/// Checks that a poll of `ring` stays armed (Linux 5.13).
pub(super) fn probe(ring: Ring) -> io::Result<()> {
    let counter = crate::net::sys::eventfd()?;
    crate::net::sys::eventfd_signal(&counter);
    let mut polls = Polls::new(ring);
    let _ = polls.poll(counter.as_raw_fd(), Direction::Read, Waker::noop());
    polls.deliver(true)?;
    let watch = usize::try_from(counter.as_raw_fd()).ok().and_then(|index| polls.reads.get(index));
    match watch {
        Some(Watch { is_armed: true, .. }) => Ok(()),
        Some(Watch { failed: Some(errno), .. }) => Err(io::Error::from_raw_os_error(*errno)),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}
