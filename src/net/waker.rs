//! Wakes a shard's reactor from another thread.

use super::sys;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// Limit on the calls of `epoll_wait(2)` that clear one wake-up; events left over wake the reactor again.
const CLEAR_ROUNDS_MAX: usize = 4;
/// Descriptors that one call clears.
const CLEARED_MAX: usize = 64;

/// An eventfd and a flag that tells whether a write to it is needed.
///
/// The protocol: a sender puts its message into a queue and then calls [`Waker::wake`]; the reactor calls
/// [`Waker::prepare_sleep`] and then looks at the queue once more before it blocks. Each side writes one variable and then
/// reads the other's, with a `SeqCst` fence between. So at least one side sees the other's write: either the reactor finds the
/// message, or the sender finds `asleep` and writes the eventfd. Without the fences both could miss the other's write, and the
/// message would wait. While the reactor is busy, `wake` is a fence and a load.
///
/// Another process gets a [`Doorbell`], an eventfd of its own. The reactor waits for an epoll set of all eventfds, each
/// edge-triggered, so none is ever read. A process that drains or fills its eventfd, or makes reading it block, changes only
/// its own wake-ups.
#[derive(Debug)]
pub struct Waker {
    set: OwnedFd,
    own: OwnedFd,
    asleep: AtomicBool,
}

/// The eventfd by which one other process wakes a reactor. Dropping it removes that ability, whichever process has the
/// descriptor by then.
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
        // Closing is not enough: the set forgets a descriptor when its last copy is closed, and other processes may have a
        // copy.
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

    /// Creates an eventfd by which another process can wake the reactor.
    ///
    /// # Errors
    /// The process has no more descriptors, or the user has reached the kernel's limit on watches.
    pub fn doorbell(self: &Arc<Self>) -> io::Result<Doorbell> {
        let fd = sys::eventfd()?;
        watch(&self.set, &fd)?;
        Ok(Doorbell { waker: Arc::clone(self), fd })
    }

    /// Creates a waker with another descriptor.
    #[cfg(test)]
    pub(super) fn with_descriptor(set: OwnedFd, own: OwnedFd) -> Self {
        Self { set, own, asleep: AtomicBool::new(false) }
    }

    /// Makes the reactor look at its queue. The caller must put the message into the queue first.
    pub fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::AcqRel) {
            sys::eventfd_signal(&self.own);
        }
    }

    /// Announces that the reactor is about to block. The reactor must look at its queue after this call and before it blocks.
    pub fn prepare_sleep(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Takes [`Waker::prepare_sleep`] back: the reactor found work, or an event woke it.
    pub fn awake(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// A descriptor that becomes readable when the reactor is woken. Only this process may use it.
    ///
    /// # Errors
    /// The process has no more descriptors.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.set.try_clone()
    }

    /// Clears the events of [`Waker::descriptor`]. Never blocks: the eventfds are not read, and each edge is reported once.
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

/// Makes `set` report each write to the eventfd `fd` once.
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
            assert!(!is_awake(&waker), "one call to clear covers several wake-ups");
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
        assert!(!is_awake(&waker), "a dropped doorbell wakes no reactor, even if another process has its descriptor");
    }
}
