//! Shared objects of modules that stay mapped after their generation has ended.
//!
//! A module can leave pointers to its code with the C library: the destructor of thread-specific data, a timer, a thread, a
//! signal handler. A call through such a pointer could come seconds after the code is unmapped, and another module would be
//! blamed for the fault. An object that imports a function that takes such pointers is therefore not closed. A process of
//! modules keeps all such objects; the number of loads limits them. The server's process keeps the last ones, limited by count
//! and bytes.

use libloading::os::unix::Library;
use std::any::Any;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Limit on the objects that stay mapped in the server's process.
const COUNT_MAX: usize = 64;
/// Limit, in bytes, on their files together.
const BYTES_MAX: u64 = 32 * 1024 * 1024;

/// An object that stays mapped; its parts are dropped in this order.
pub(super) struct Kept {
    /// The module's name.
    pub(super) module: String,
    /// Values that the module's code may still use.
    pub(super) used: Vec<Arc<dyn Any + Send + Sync>>,
    /// The shared object.
    pub(super) library: Library,
    /// The size of the object's file, in bytes.
    pub(super) bytes: u64,
}

static KEPT: Mutex<VecDeque<Kept>> = Mutex::new(VecDeque::new());
static IS_UNBOUNDED: AtomicBool = AtomicBool::new(false);

/// Keeps all objects mapped from now on: the process is replaced before they become too many.
pub fn keep_all() {
    IS_UNBOUNDED.store(true, Ordering::Relaxed);
}

/// Keeps an object mapped.
pub(super) fn keep(one: Kept) {
    let mut closed = Vec::new();
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    kept.push_back(one);
    let is_too_much =
        |kept: &VecDeque<Kept>| kept.len() > COUNT_MAX || kept.iter().map(|one| one.bytes).sum::<u64>() > BYTES_MAX;
    while !IS_UNBOUNDED.load(Ordering::Relaxed) && is_too_much(&kept) {
        closed.extend(kept.pop_front());
    }
    drop(kept);
    // Must run without the lock, because closing an object runs destructors of modules.
    for one in closed {
        tracing::debug!("the code of an old version of module {} is unmapped: {COUNT_MAX} later ones stay", one.module);
        let Kept { used, library, .. } = one;
        drop(used);
        drop(library);
    }
}
