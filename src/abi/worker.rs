//! The process of one call of a route with `CWEB_KILLABLE`: services that can't work there are refused when a module calls
//! them.
//!
//! The process is a copy of a domain's process, with one of its threads. A service that needs the other threads, or memory that
//! both processes share, would wait for ever or harm the domain. Such a service therefore fails with `ENOTSUP`, and the
//! module's log reports that.

use super::{copy_turns, native};
use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, Ordering};

static IS_ON: AtomicBool = AtomicBool::new(false);

/// Makes this process refuse services from now on.
pub(super) fn set_on() {
    copy_turns::forget();
    IS_ON.store(true, Ordering::Relaxed);
}

/// Whether this process runs single calls.
#[must_use]
pub fn is_on() -> bool {
    IS_ON.load(Ordering::Relaxed)
}

/// Whether this process refuses the service `what`, because it runs single calls. If so, sets `errno` to `ENOTSUP`, and the
/// module's log reports the refusal.
#[must_use]
pub fn refuses(what: &CStr) -> bool {
    // SAFETY: a C string; prints a line at most.
    is_on() && unsafe { native::cwebn_worker_refuses(what.as_ptr()) != 0 }
}
