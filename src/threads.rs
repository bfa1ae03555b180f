//! Threads that may run module code.

use std::thread;

/// Size of the stack of every thread that runs module code: as in a C program, so that local variables of some MiB fit. Only
/// touched pages use memory.
const MODULE_STACK_BYTES: usize = 8 * 1024 * 1024;

/// Returns the builder of a thread that may run module code.
pub fn module_thread(name: impl Into<String>) -> thread::Builder {
    thread::Builder::new().name(name.into()).stack_size(MODULE_STACK_BYTES)
}
