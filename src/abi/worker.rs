//! The process of one call of a route with `CWEB_KILLABLE`: what does not work there is refused where modules call it.
//!
//! The process is a copy of a domain's, with one of its threads. What needs the others, or memory that both share, would wait for
//! ever or harm the domain: it fails with `ENOTSUP`, and the module's log says so.

use super::context::ModuleContext;
use super::native;
use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, Ordering};

static IS_ON: AtomicBool = AtomicBool::new(false);

/// This process runs single calls from here on. Takes each lock of the services once: a lock that another thread held when the
/// process was made is held for ever, and the caller is to find it now.
pub fn enter(context: &ModuleContext) {
    // SAFETY: the context is alive.
    unsafe { native::cwebn_worker_enter(context.as_ptr()) };
    IS_ON.store(true, Ordering::Relaxed);
}

/// Whether it does.
#[must_use]
pub fn is_on() -> bool {
    IS_ON.load(Ordering::Relaxed)
}

/// The same, for what a module calls `what`: then sets `errno` to `ENOTSUP`, and the module's log says that it fails.
#[must_use]
pub fn refuses(what: &CStr) -> bool {
    // SAFETY: a C string; prints a line at most.
    is_on() && unsafe { native::cwebn_worker_refuses(what.as_ptr()) != 0 }
}
