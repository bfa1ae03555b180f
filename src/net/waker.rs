//! Waking a shard's reactor from another thread.

use super::sys;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// An eventfd and a flag that says whether a write to it is needed.
///
/// The protocol: a sender puts its message into a queue and then calls [`Waker::wake`]; the reactor calls
/// [`Waker::prepare_sleep`] and then looks at the queue once more before it blocks. Each side writes one variable and
/// then reads the other's, with a `SeqCst` fence between, so at least one of them sees the other: either the
/// reactor finds the message, or the sender finds `asleep` and writes the eventfd. While the reactor is busy, `wake`
/// is a fence and a load.
#[derive(Debug)]
pub struct Waker {
    fd: OwnedFd,
    asleep: AtomicBool,
}

impl Waker {
    /// A waker whose reactor is awake.
    ///
    /// # Errors
    /// `eventfd(2)` failed: out of descriptors.
    pub fn new() -> io::Result<Self> {
        Ok(Self { fd: sys::eventfd()?, asleep: AtomicBool::new(false) })
    }

    /// A waker with another descriptor.
    #[cfg(test)]
    pub(super) fn with_descriptor(fd: OwnedFd) -> Self {
        Self { fd, asleep: AtomicBool::new(false) }
    }

    /// Makes sure that the reactor looks at its queue. Call it after the message is in the queue.
    pub fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::AcqRel) {
            sys::eventfd_signal(&self.fd);
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

    /// A descriptor that becomes readable when the reactor is woken; another process may write to it to wake it.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }

    /// Clears what [`Waker::descriptor`] shows.
    pub(super) fn clear(&self) {
        sys::counter_clear(&self.fd);
    }
}
