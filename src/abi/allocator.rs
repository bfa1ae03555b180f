//! The allocator of this program: mimalloc, or the C library's in a process with a sanitizer.
//!
//! A sanitizer replaces malloc(3), and reports memory as lost if no pointer that it can see leads there. A table of the server
//! may hold the only pointer to a module's memory, so the server's own memory must be visible to the sanitizer. The server's
//! memory itself is never reported: Rust also keeps pointers into the middle of a block, which the sanitizer does not count.

use super::sanitizer;
use mimalloc::MiMalloc;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU8, Ordering};

/// See the module's documentation.
#[derive(Debug)]
pub struct Allocator;

const UNKNOWN: u8 = 0;
const OWN: u8 = 1;
const SYSTEM: u8 = 2;

static CHOICE: AtomicU8 = AtomicU8::new(UNKNOWN);

/// Whether the C library's allocator is used: decided at the first allocation, which is made while there is one thread.
#[inline]
fn is_system() -> bool {
    match CHOICE.load(Ordering::Relaxed) {
        OWN => false,
        UNKNOWN => decide(),
        _ => true,
    }
}

#[cold]
fn decide() -> bool {
    let is_system = sanitizer::is_named_by_environment();
    if is_system {
        sanitizer::find_ignore();
    }
    CHOICE.store(if is_system { SYSTEM } else { OWN }, Ordering::Relaxed);
    is_system
}

/// Returns memory that the calling thread has freed to the kernel. Otherwise the allocator returns the memory at the thread's
/// next large allocation, which may never come.
pub fn give_back() {
    unsafe extern "C" {
        /// `mi_collect` of mimalloc.h.
        fn mi_collect(force: bool);
    }
    if !is_system() {
        // SAFETY: the function of the allocator that is linked for `MiMalloc`; it may be called at any time by any thread.
        unsafe { mi_collect(true) }
    }
}

// SAFETY: all calls go to one of two allocators, and always to the same one.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract.
        unsafe { if is_system() { sanitizer::ignore(System.alloc(layout)) } else { MiMalloc.alloc(layout) } }
    }

    #[inline]
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract.
        unsafe { if is_system() { System.dealloc(pointer, layout) } else { MiMalloc.dealloc(pointer, layout) } }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract.
        unsafe {
            if is_system() { sanitizer::ignore(System.alloc_zeroed(layout)) } else { MiMalloc.alloc_zeroed(layout) }
        }
    }

    #[inline]
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's contract.
        unsafe {
            if is_system() {
                sanitizer::ignore(System.realloc(pointer, layout, size))
            } else {
                MiMalloc.realloc(pointer, layout, size)
            }
        }
    }
}
