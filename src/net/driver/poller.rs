//! Waits for descriptors in a thread of its own, for a runtime that can't wait for them.

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::thread::{self, JoinHandle};

/// Descriptors that one call can report.
const EVENTS_MAX: usize = 256;

/// The number of the descriptor that ends the thread.
const STOP: u64 = 0;

/// The condition that a task waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interest {
    Readable,
    Writable,
}

/// Waits for descriptors in a thread; see the module's documentation. Dropping the poller ends the thread.
pub(super) struct Poller {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    set: OwnedFd,
    stop: OwnedFd,
    waits: Mutex<Waits>,
}

#[derive(Default)]
struct Waits {
    last: u64,
    /// By number: the waiting task, or `None` once the descriptor is ready.
    waiting: HashMap<u64, Option<Waker>>,
}

impl Shared {
    fn waits(&self) -> MutexGuard<'_, Waits> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut seen = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; EVENTS_MAX];
        loop {
            let Ok(count) = epoll::wait(&self.set, &mut seen[..], None) else { continue };
            for event in seen.iter().take(count) {
                let number = event.data.u64();
                if number == STOP {
                    return;
                }
                let task = self.waits().waiting.get_mut(&number).and_then(Option::take);
                task.into_iter().for_each(Waker::wake);
            }
        }
    }
}

impl Poller {
    /// Starts the thread.
    ///
    /// # Errors
    /// The process has no more descriptors or threads.
    pub(super) fn start() -> io::Result<Self> {
        let (set, stop) = (epoll::create(CreateFlags::CLOEXEC)?, crate::net::sys::eventfd()?);
        epoll::add(&set, &stop, EventData::new_u64(STOP), EventFlags::IN)?;
        let shared = Arc::new(Shared { set, stop, waits: Mutex::default() });
        let its = Arc::clone(&shared);
        let thread = thread::Builder::new().name("poller".to_owned()).spawn(move || its.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Waits for `fd`. The caller must keep `fd` open meanwhile, and only one task may wait for `fd` at a time. An error or a
    /// hang-up ends the wait too.
    pub(super) fn wait(&self, fd: RawFd, interest: Interest) -> impl Future<Output = io::Result<()>> + use<> {
        let mut wait = Wait { shared: Arc::clone(&self.shared), fd, interest, number: None };
        poll_fn(move |cx| wait.poll(cx.waker()))
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        crate::net::sys::eventfd_signal(&self.shared.stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One wait. Dropping it removes all of its state.
struct Wait {
    shared: Arc<Shared>,
    fd: RawFd,
    interest: Interest,
    /// The wait's number, once the wait has begun.
    number: Option<u64>,
}

impl Wait {
    fn poll(&mut self, task: &Waker) -> Poll<io::Result<()>> {
        let mut waits = self.shared.waits();
        if let Some(number) = self.number {
            return match waits.waiting.get_mut(&number) {
                Some(Some(known)) => {
                    known.clone_from(task);
                    Poll::Pending
                }
                Some(None) | None => Poll::Ready(Ok(())),
            };
        }
        waits.last += 1;
        let number = waits.last;
        waits.waiting.insert(number, Some(task.clone()));
        self.number = Some(number);
        drop(waits);
        let flags = match self.interest {
            Interest::Readable => EventFlags::IN,
            Interest::Writable => EventFlags::OUT,
        };
        match epoll::add(&self.shared.set, self.fd(), EventData::new_u64(number), flags | EventFlags::ONESHOT) {
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the waiting caller keeps the descriptor open (see `Poller::wait`), and the borrow ends with its call.
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.shared.waits().waiting.remove(&number);
            let _ = epoll::delete(&self.shared.set, self.fd());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::Context;
    use std::time::Duration;

    /// Wakes the thread that created this.
    struct Unpark(thread::Thread);

    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    #[test]
    fn a_wait_ends_when_its_descriptor_is_ready_and_leaves_nothing() {
        use std::os::fd::AsRawFd;
        let poller = Poller::start().unwrap();
        let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut cx = Context::from_waker(&waker);
        for round in 0..2 {
            let mut wait = pin!(poller.wait(one.as_raw_fd(), Interest::Readable));
            if round == 0 {
                assert!(wait.as_mut().poll(&mut cx).is_pending());
                rustix::io::write(&other, b"x").unwrap();
            }
            while wait.as_mut().poll(&mut cx).is_pending() {
                thread::park_timeout(Duration::from_secs(10));
            }
        }
        let mut dropped = Box::pin(poller.wait(other.as_raw_fd(), Interest::Readable));
        assert!(dropped.as_mut().poll(&mut cx).is_pending());
        drop(dropped);
        assert!(poller.shared.waits().waiting.is_empty());
        let mut room = pin!(poller.wait(other.as_raw_fd(), Interest::Writable));
        while room.as_mut().poll(&mut cx).is_pending() {
            thread::park_timeout(Duration::from_secs(10));
        }
    }
}
