//! Threads that may run module code.

use std::thread;

/// Stack of every thread that runs module code: what a thread of a C program has, so that locals of some MiB fit. Only
/// pages that were touched take memory.
const MODULE_STACK_BYTES: usize = 8 * 1024 * 1024;

/// Begins a thread that may run module code.
pub fn module_thread(name: impl Into<String>) -> thread::Builder {
    thread::Builder::new().name(name.into()).stack_size(MODULE_STACK_BYTES)
}
