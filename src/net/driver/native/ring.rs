//! The submission and completion queues of one thread.

use io_uring::{IoUring, cqueue, squeue};
use std::collections::VecDeque;
use std::io;

/// Entries of the submission queue. More entries than these wait in memory.
const RING_ENTRIES: u32 = 1024;
/// Entries of the completion queue. The kernel keeps completions that find no room, and delivers them later.
const COMPLETION_ENTRIES: u32 = 4 * RING_ENTRIES;

/// `IORING_ENTER_GETEVENTS` (io_uring_enter(2)).
const GET_EVENTS: u32 = 1;

/// A ring that one thread uses.
pub(super) struct Ring {
    ring: IoUring,
    /// Entries that found the submission queue full.
    backlog: VecDeque<squeue::Entry>,
}

impl Ring {
    /// A ring for the calling thread. With these flags the kernel delivers events when the thread enters the kernel to wait,
    /// instead of interrupting it for each event.
    pub(super) fn new() -> io::Result<Self> {
        let with = |builder: &mut io_uring::Builder| builder.setup_cqsize(COMPLETION_ENTRIES).build(RING_ENTRIES);
        let ring = match with(IoUring::builder().setup_single_issuer().setup_defer_taskrun()) {
            // Linux before 6.1 does not know these flags.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => with(&mut IoUring::builder())?,
            built => built?,
        };
        Ok(Self { ring, backlog: VecDeque::new() })
    }

    /// Queues an entry that names no memory; [`Ring::enter`] submits it.
    pub(super) fn queue(&mut self, entry: squeue::Entry) {
        if !self.backlog.is_empty() || !self.push(&entry) {
            self.backlog.push_back(entry);
        }
    }

    fn push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: by the contract of `queue` the entry names no memory, so nothing has to outlive the operation.
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }

    /// Submits the queued entries, waits for an event if `sleeps`, and calls `each` with the completions.
    ///
    /// # Errors
    /// The kernel refuses the ring.
    pub(super) fn enter(&mut self, sleeps: bool, mut each: impl FnMut(cqueue::Entry)) -> io::Result<()> {
        while let Some(entry) = self.backlog.pop_front() {
            if !self.push(&entry) {
                self.backlog.push_front(entry);
                break;
            }
        }
        // Completed events and entries without room must not wait for another event.
        let has_events = !self.ring.completion().is_empty() || !self.backlog.is_empty();
        let wanted = u32::from(sleeps && !has_events);
        let queued = u32::try_from(self.ring.submission().len()).unwrap_or(u32::MAX);
        // SAFETY: no argument is passed, and the entries name no memory.
        let entered = unsafe { self.ring.submitter().enter::<libc::sigset_t>(queued, wanted, GET_EVENTS, None) };
        if let Err(error) = entered {
            // The call was interrupted, or the kernel lacks memory or room for completions. The code below takes these.
            let passes = [libc::EINTR, libc::EAGAIN, libc::EBUSY, libc::ENOMEM];
            if !error.raw_os_error().is_some_and(|code| passes.contains(&code)) {
                return Err(error);
            }
        }
        self.ring.completion().for_each(&mut each);
        Ok(())
    }
}
