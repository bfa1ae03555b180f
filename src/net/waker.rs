//! Waking a shard's reactor from another thread.

use super::sys;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// Most calls of `epoll_wait(2)` with which one wake-up is cleared; what is left wakes the reactor again.
const CLEAR_ROUNDS_MAX: usize = 4;
/// Descriptors cleared by one call.
const CLEARED_MAX: usize = 64;

/// An eventfd and a flag that says whether a write to it is needed.
///
/// The protocol: a sender puts its message into a queue and then calls [`Waker::wake`]; the reactor calls
/// [`Waker::prepare_sleep`] and then looks at the queue once more before it blocks. Each side writes one variable and
/// then reads the other's, with a `SeqCst` fence between, so at least one of them sees the other: either the
/// reactor finds the message, or the sender finds `asleep` and writes the eventfd. While the reactor is busy, `wake`
/// is a fence and a load.
///
/// Another process gets a [`Doorbell`], an eventfd of its own. The reactor waits for an epoll set of all of them, each
/// edge-triggered, so none is ever read: what a process does to its eventfd (drains it, fills it, makes reading it block)
/// changes nothing but its own wake-ups.
#[derive(Debug)]
pub struct Waker {
    set: OwnedFd,
    own: OwnedFd,
    asleep: AtomicBool,
}

/// By which one other process wakes a reactor. Dropping it takes that away, whoever has its descriptor by then.
#[derive(Debug)]
pub struct Doorbell {
    waker: Arc<Waker>,
    fd: OwnedFd,
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Doorbell {
    fn drop(&mut self) {
        // Closing would not do: the set forgets a descriptor when the last copy is closed, and others may have one.
        let _ = epoll::delete(&self.waker.set, &self.fd);
    }
}

impl Waker {
    /// A waker whose reactor is awake.
    ///
    /// # Errors
    /// `eventfd(2)` or `epoll_create1(2)` failed: out of descriptors.
    pub fn new() -> io::Result<Self> {
        let (set, own) = (epoll::create(CreateFlags::CLOEXEC)?, sys::eventfd()?);
        watch(&set, &own)?;
        Ok(Self { set, own, asleep: AtomicBool::new(false) })
    }

    /// A way for another process to wake the reactor, by adding to the eventfd that it is given.
    ///
    /// # Errors
    /// Out of descriptors, or of what the kernel lets one user watch.
    pub fn doorbell(self: &Arc<Self>) -> io::Result<Doorbell> {
        let fd = sys::eventfd()?;
        watch(&self.set, &fd)?;
        Ok(Doorbell { waker: Arc::clone(self), fd })
    }

    /// A waker with another descriptor.
    #[cfg(test)]
    pub(super) fn with_descriptor(set: OwnedFd, own: OwnedFd) -> Self {
        Self { set, own, asleep: AtomicBool::new(false) }
    }

    /// Makes sure that the reactor looks at its queue. Call it after the message is in the queue.
    pub fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::AcqRel) {
            sys::eventfd_signal(&self.own);
        }
    }

    /// Says that the reactor is about to block. It must look at its queue after this and before it blocks.
    pub fn prepare_sleep(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Takes [`Waker::prepare_sleep`] back: the reactor found something to do, or was woken by an event.
    pub fn awake(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// A descriptor that becomes readable when the reactor is woken. For this process alone.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.set.try_clone()
    }

    /// Clears what [`Waker::descriptor`] shows. Never blocks: the eventfds are not read, and an edge is shown once.
    pub(super) fn clear(&self) {
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut seen = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; CLEARED_MAX];
        for _ in 0..CLEAR_ROUNDS_MAX {
            let cleared = epoll::wait(&self.set, &mut seen[..], Some(&at_once)).unwrap_or_default();
            if cleared < CLEARED_MAX {
                return;
            }
        }
    }
}

/// Has `set` show each write to the eventfd `fd` once.
fn watch(set: &OwnedFd, fd: &OwnedFd) -> io::Result<()> {
    epoll::add(set, fd, EventData::new_u64(0), EventFlags::IN | EventFlags::ET)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::fs::{OFlags, fcntl_setfl};

    fn is_awake(waker: &Waker) -> bool {
        let set = waker.descriptor().unwrap();
        poll(&mut [PollFd::new(&set, PollFlags::IN)], Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
    }

    fn ring(bell: &impl AsFd) -> usize {
        rustix::io::write(bell, &1_u64.to_ne_bytes()).unwrap_or_default()
    }

    #[test]
    fn each_wake_up_is_shown_and_cleared() {
        let waker = Arc::new(Waker::new().unwrap());
        let bells: Vec<Doorbell> = (0..100).map(|_| waker.doorbell().unwrap()).collect();
        assert!(!is_awake(&waker));
        for _ in 0..3 {
            waker.prepare_sleep();
            waker.wake();
            assert!(is_awake(&waker));
            waker.clear();
            assert!(!is_awake(&waker));
            bells.iter().for_each(|bell| assert_eq!(ring(bell), 8));
            assert!(is_awake(&waker));
            waker.clear();
            assert!(!is_awake(&waker), "also of more than one call shows");
        }
    }

    #[test]
    fn who_has_one_doorbell_can_neither_block_the_reactor_nor_silence_others() {
        let waker = Arc::new(Waker::new().unwrap());
        let (hostile, honest) = (waker.doorbell().unwrap(), waker.doorbell().unwrap());
        let copy = hostile.as_fd().try_clone_to_owned().unwrap();
        fcntl_setfl(&copy, OFlags::empty()).unwrap();
        for drained in [false, true] {
            ring(&copy);
            if drained {
                rustix::io::read(&copy, &mut [0_u8; 8]).unwrap();
            }
            waker.clear();
            assert!(!is_awake(&waker));
        }
        rustix::io::write(&copy, &(u64::MAX - 1 - 1).to_ne_bytes()).unwrap();
        waker.clear();
        ring(&honest);
        assert!(is_awake(&waker));
        waker.clear();
        drop(hostile);
        rustix::io::read(&copy, &mut [0_u8; 8]).unwrap();
        ring(&copy);
        assert!(!is_awake(&waker), "a process that is gone wakes nobody, whoever has its descriptor");
    }
}
