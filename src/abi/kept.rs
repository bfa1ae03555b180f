//! Shared objects of modules that stay mapped after their generation has ended.
//!
//! A module can leave pointers to its code with the C library: the destructor of thread-specific data, a timer, a thread, a signal
//! handler. The call through such a pointer would come seconds after the code is gone, and be charged to another module. So an
//! object that imports a function that takes such pointers is not closed: in a process of modules for as long as that lives, which
//! the number of loads bounds; in the server's process the last ones stay, bounded by count and bytes.

use libloading::os::unix::Library;
use std::any::Any;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Objects that stay mapped in a process that is not replaced.
const COUNT_MAX: usize = 64;
/// Bytes of their files.
const BYTES_MAX: u64 = 32 * 1024 * 1024;

/// One of them; its parts are dropped in this order.
pub(super) struct Kept {
    /// The module's name.
    pub(super) module: String,
    /// What its code may still use.
    pub(super) used: Vec<Arc<dyn Any + Send + Sync>>,
    /// The object.
    pub(super) library: Library,
    /// The size of its file.
    pub(super) bytes: u64,
}

static KEPT: Mutex<VecDeque<Kept>> = Mutex::new(VecDeque::new());
static IS_UNBOUNDED: AtomicBool = AtomicBool::new(false);

/// Nothing is unmapped from here on to keep a bound: the process is replaced before there is too much.
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
    // Without the lock: closing runs destructors of modules.
    for one in closed {
        tracing::debug!("the code of an old version of module {} is unmapped: {COUNT_MAX} later ones stay", one.module);
        let Kept { used, library, .. } = one;
        drop(used);
        drop(library);
    }
}
