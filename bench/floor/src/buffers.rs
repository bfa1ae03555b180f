//! Receive buffers that the kernel picks from a ring shared with it (io_uring_register_buf_ring(3)).

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::io;
use std::sync::atomic::{AtomicU16, Ordering};
use uring::types::BufRingEntry;
use uring::{IoUring, cqueue};

/// Size of a buffer.
pub const BUFFER_BYTES: usize = 4096;

/// Number of buffers where nothing else is asked for. All buffers of one turn are given back before the next, so this many completions
/// of one turn find a buffer.
const COUNT: usize = 256;

/// Limit on the number of buffers; also that of the kernel.
const COUNT_MAX: usize = 1 << 15;

/// Distance, in bytes, between two buffers. With a whole page the buffers' first lines would share one set of the L1 cache.
const STRIDE: usize = BUFFER_BYTES + 64;

/// The group's number; a ring may have several.
pub const GROUP: u16 = 0;

pub struct Buffers {
    entries: *mut BufRingEntry,
    memory: *mut u8,
    /// Number of buffers; a power of two.
    count: u16,
    /// The next entry to fill. The kernel sees it after [`Buffers::publish`].
    tail: u16,
}

impl Buffers {
    /// Registers the buffers; they are never unregistered, because they live as long as the process.
    pub fn register(ring: &IoUring) -> io::Result<Self> {
        Self::register_many(ring, COUNT)
    }

    /// Registers at least `wanted` buffers, and no fewer than [`Buffers::register`].
    pub fn register_many(ring: &IoUring, wanted: usize) -> io::Result<Self> {
        let count = wanted.next_power_of_two().clamp(COUNT, COUNT_MAX);
        let entries = allocate(count * size_of::<BufRingEntry>()).cast::<BufRingEntry>();
        let mut buffers = Self { entries, memory: allocate(count * STRIDE), count: count as u16, tail: 0 };
        // SAFETY: `entries` names `count` entries in memory that is aligned to a page and never freed.
        unsafe { ring.submitter().register_buf_ring_with_flags(entries as u64, buffers.count, GROUP, 0)? };
        (0..buffers.count).for_each(|id| buffers.give_back(id));
        buffers.publish();
        Ok(buffers)
    }

    /// The bytes of a completed receive, and the number to give back; `None` if the kernel has used no buffer.
    pub fn received(&self, entry: &cqueue::Entry) -> Option<(&[u8], u16)> {
        let id = cqueue::buffer_select(entry.flags())?;
        assert!(id < self.count);
        let length = usize::try_from(entry.result()).unwrap_or(0).min(BUFFER_BYTES);
        // SAFETY: the kernel has written `length` bytes of buffer `id`, and uses it again only after `give_back` and `publish`,
        // which need `&mut self`.
        Some((unsafe { std::slice::from_raw_parts(self.memory.add(usize::from(id) * STRIDE), length) }, id))
    }

    pub fn give_back(&mut self, id: u16) {
        // SAFETY: the index is below `count`. The kernel reads no entry at or after the tail that it has seen. No setter
        // writes the first entry's last two bytes, where the tail is.
        unsafe {
            let entry = &mut *self.entries.add(usize::from(self.tail % self.count));
            entry.set_addr(self.memory.add(usize::from(id) * STRIDE) as u64);
            entry.set_len(BUFFER_BYTES as u32);
            entry.set_bid(id);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    /// Lets the kernel use what was given back.
    pub fn publish(&mut self) {
        // SAFETY: the tail is an aligned u16 in memory that is never freed; both sides access it atomically. `Release`: the
        // kernel must not see the tail before the entries.
        unsafe { (*BufRingEntry::tail(self.entries).cast::<AtomicU16>()).store(self.tail, Ordering::Release) };
    }
}

fn allocate(bytes: usize) -> *mut u8 {
    let layout = Layout::from_size_align(bytes, 4096).expect("a layout");
    // SAFETY: the size is not zero.
    let memory = unsafe { alloc_zeroed(layout) };
    if memory.is_null() {
        handle_alloc_error(layout);
    }
    memory
}
