//! The shared mapping: a sealed memfd accessed as 64-bit words, and futexes on them.

use super::atomic::AtomicU64;
use super::copy::scatter;
use super::spec::WORD_BYTES;
use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::thread::futex;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU32;
use std::time::Duration;

/// The seals that fix the size for good.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// Memory that two processes share, initially zero. The kernel allocates pages when they are first touched.
#[derive(Debug)]
pub struct Region {
    map: MmapRaw,
    fd: OwnedFd,
}

impl Region {
    /// A new region of `bytes` bytes.
    ///
    /// # Errors
    /// `InvalidInput`: `bytes` is 0, not a multiple of 8, or more than a process can address. Also errors of
    /// `memfd_create(2)`, `ftruncate(2)` or `mmap(2)`.
    pub fn create(bytes: usize) -> io::Result<Self> {
        let size = checked(bytes)?;
        let fd = memfd_create("cweb-ring", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&fd, size)?;
        fcntl_add_seals(&fd, SEALS)?;
        Self::map(fd, bytes)
    }

    /// The region of a descriptor that another process sent, or left open for this one.
    ///
    /// # Errors
    /// `InvalidInput` as for [`Region::create`]; `InvalidData`: the file has another size, or lacks the seals without which
    /// a peer could shrink it. Also errors of the kernel; `fcntl(2)` returns `InvalidInput` for a file that can't be
    /// sealed.
    pub fn open(fd: OwnedFd, bytes: usize) -> io::Result<Self> {
        let size = checked(bytes)?;
        // The seals are checked first, because without them the size may still change.
        if !fcntl_get_seals(&fd)?.contains(SealFlags::SHRINK | SealFlags::GROW) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the shared memory is not sealed"));
        }
        let found = fstat(&fd)?.st_size;
        if u64::try_from(found) != Ok(size) {
            let what = format!("the shared memory has {found} bytes instead of {bytes}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Self::map(fd, bytes)
    }

    fn map(fd: OwnedFd, bytes: usize) -> io::Result<Self> {
        let map = MmapOptions::new().len(bytes).map_raw(&fd)?;
        Ok(Self { map, fd })
    }

    /// Excludes the memory from processes that this one forks, so that stray writes of theirs do no harm.
    ///
    /// # Errors
    /// Errors of madvise(2).
    pub fn keep_from_children(&self) -> io::Result<()> {
        // SAFETY: all of the mapping, of which this process sees nothing else.
        let result = unsafe { libc::madvise(self.map.as_mut_ptr().cast(), self.map.len(), libc::MADV_DONTFORK) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// The memfd, which the other process gets. The descriptor is close-on-exec.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// `count` words from word number `first` on, outside of any ring; `None` if they don't lie in the region. Their values
    /// are untrusted.
    #[must_use]
    pub fn words_at(&self, first: usize, count: usize) -> Option<&[AtomicU64]> {
        self.words().get(first..first.checked_add(count)?)
    }

    /// All words of the region.
    pub(in crate::domain) fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping exists as long as `self`, starts at a page, has `len` bytes, and is readable and writable;
        // the seals keep all of it backed by the file. `AtomicU64` has no invalid values, and this process accesses the
        // memory in no other way; concurrent writes of other processes act like atomic stores.
        unsafe { std::slice::from_raw_parts(self.map.as_mut_ptr().cast::<AtomicU64>(), self.map.len() / WORD_BYTES) }
    }

    /// Writes `bytes` at `offset` by `pwrite(2)`. For many bytes in absent pages this is faster than the mapping, through
    /// which each page would first be zeroed and mapped. A lack of memory is an error here, instead of a `SIGBUS`.
    ///
    /// # Errors
    /// Errors of the kernel: `ENOSPC` or `ENOMEM` for a lack of memory.
    pub(in crate::domain) fn write(&self, offset: usize, bytes: &[u8]) -> io::Result<()> {
        let (mut at, mut rest) = (offset as u64, bytes);
        while !rest.is_empty() {
            match rustix::io::pwrite(&self.fd, rest, at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    rest = rest.get(count..).unwrap_or_default();
                    at += count as u64;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The memory that the region occupies, in bytes, no matter which process wrote there.
    ///
    /// # Errors
    /// Errors of `fstat(2)`.
    pub(in crate::domain) fn resident_bytes(&self) -> io::Result<u64> {
        // `st_blocks` counts units of 512 bytes (inode(7)).
        Ok(u64::try_from(fstat(&self.fd)?.st_blocks).unwrap_or_default().saturating_mul(512))
    }

    /// A copy of the bytes at `range`, which must begin at a multiple of 8 and lie within the region.
    pub(in crate::domain) fn load(&self, range: Range<usize>) -> Vec<u8> {
        let mut bytes = Vec::new();
        scatter(self.words(), range.start / WORD_BYTES, range.len(), &mut bytes);
        bytes
    }

    /// A copy of the bytes at `range`, which must lie within the region.
    pub(in crate::domain) fn load_any(&self, range: Range<usize>) -> Vec<u8> {
        let skipped = range.start % WORD_BYTES;
        let mut bytes = self.load(range.start - skipped..range.end);
        bytes.drain(..skipped);
        bytes
    }

    /// Copies `bytes` to `offset` through the mapping. Bytes beyond the region are left out.
    pub(in crate::domain) fn copy_in(&self, offset: usize, bytes: &[u8]) {
        let count = bytes.len().min(self.map.len().saturating_sub(offset));
        let to = self.map.as_mut_ptr().wrapping_add(offset.min(self.map.len()));
        // SAFETY: the range lies within the mapping, which is writable. The memory is shared: no reference to it as bytes
        // exists, and readers treat concurrent writes of a peer as harmless garbage.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, count) };
    }

    /// Copies `count` bytes from `offset` to `into`; the range must lie within the region.
    ///
    /// # Safety
    /// `into` must be valid for writes of `count` bytes.
    pub(in crate::domain) unsafe fn copy_out(&self, offset: usize, into: *mut u8, count: usize) {
        let count = count.min(self.map.len().saturating_sub(offset));
        let from = self.map.as_mut_ptr().wrapping_add(offset.min(self.map.len()));
        // SAFETY: the source lies within the mapping; the rest is the caller's contract. As in `copy_in`.
        unsafe { std::ptr::copy_nonoverlapping(from, into, count) };
    }

    /// The address of the byte at `offset`, which must lie within the region.
    pub(in crate::domain) fn pointer(&self, offset: usize) -> *const u8 {
        std::ptr::from_ref(&self.words()[offset / WORD_BYTES]).cast::<u8>().wrapping_add(offset % WORD_BYTES)
    }

    /// Returns whole pages to the kernel (`MADV_REMOVE`), which are then zero. If the kernel refuses, they keep their
    /// content.
    pub(in crate::domain) fn discard(&self, range: Range<usize>) {
        let start = self.map.as_mut_ptr().wrapping_add(range.start.min(self.map.len()));
        let length = range.len().min(self.map.len().saturating_sub(range.start));
        // SAFETY: the range lies within the mapping. This process accesses the shared memory only as atomic words, so
        // zeroed pages act as if another process had written zeros.
        unsafe { libc::madvise(start.cast(), length, libc::MADV_REMOVE) };
    }

    /// Sleeps until [`Region::wake`] on the word, unless its low half differs from `expected`'s. Returns false after the
    /// time-out.
    pub(in crate::domain) fn wait(&self, word: usize, expected: u64, timeout: Duration) -> bool {
        let timeout = futex::Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        let low = (expected & u64::from(u32::MAX)) as u32;
        match futex::wait(self.futex(word), futex::Flags::empty(), low, Some(&timeout)) {
            Ok(()) | Err(Errno::AGAIN | Errno::INTR) => true,
            // After any other error (such as a refused system call), an immediate retry would waste CPU time.
            Err(_) => false,
        }
    }

    /// Wakes a waiter on the word, in any process.
    pub(in crate::domain) fn wake(&self, word: usize) {
        // The call fails only for unmapped addresses, and this one is mapped.
        let _ = futex::wake(self.futex(word), futex::Flags::empty(), 1);
    }

    /// The low half of a word, for the kernel.
    fn futex(&self, word: usize) -> &AtomicU32 {
        let low = usize::from(cfg!(target_endian = "big"));
        let word = std::ptr::from_ref(&self.words()[word]).cast::<AtomicU32>();
        // SAFETY: both halves lie within the word and are aligned. Only the kernel accesses memory through this reference,
        // to compare it; this process never does, so no accesses of two sizes race.
        unsafe { &*word.add(low) }
    }
}

/// The size in the kernel's type, if it is valid.
fn checked(bytes: usize) -> io::Result<u64> {
    if bytes == 0 || !bytes.is_multiple_of(WORD_BYTES) || isize::try_from(bytes).is_err() {
        let what = format!("{bytes} bytes can't be a region");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    Ok(bytes as u64)
}
