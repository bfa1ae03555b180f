//! Processes whose modules are compiled with a sanitizer: `cweb test --asan`, `cweb deploy --sanitize`.
//!
//! The sanitizer's library is preloaded by whoever starts the process, who also sets [`VARIABLE`]. It catches deadly signals
//! itself, so that its report has what it knows; the guard (`guard.c`) then catches none.

use std::ffi::{CStr, c_int, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

/// Set in the environment of a process with a sanitizer.
pub const VARIABLE: &str = "CWEB_SANITIZED";
const C_VARIABLE: &CStr = c"CWEB_SANITIZED";

/// Whether the environment says that this process has a sanitizer. Allocates nothing.
pub(super) fn is_named_by_environment() -> bool {
    // SAFETY: a C string; the value is only compared with NULL, before other threads are there.
    unsafe { !libc::getenv(C_VARIABLE.as_ptr()).is_null() }
}

/// Whether this process has a sanitizer.
#[must_use]
pub fn is_active() -> bool {
    static ACTIVE: OnceLock<bool> = OnceLock::new();
    *ACTIVE.get_or_init(is_named_by_environment)
}

/// `__lsan_ignore_object`, or NULL.
static IGNORE: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

/// Finds what [`ignore`] calls.
pub(super) fn find_ignore() {
    // SAFETY: the symbol is only called as what sanitizer/lsan_interface.h declares it.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__lsan_ignore_object".as_ptr()) };
    IGNORE.store(found, Ordering::Relaxed);
}

/// Has a block of malloc(3) not be told as lost, nor what it points to. Returns the block.
pub(super) fn ignore(block: *mut u8) -> *mut u8 {
    type IgnoreFn = unsafe extern "C" fn(*const c_void);
    let ignore = IGNORE.load(Ordering::Relaxed);
    if !ignore.is_null() && !block.is_null() {
        // SAFETY: the function of sanitizer/lsan_interface.h, which takes any block of malloc(3).
        unsafe { std::mem::transmute::<*mut c_void, IgnoreFn>(ignore)(block.cast()) };
    }
    block
}

/// Lets this process be looked at by its own threads, which looking for leaks needs: a process that has changed its user is
/// closed even to itself.
pub fn open_to_itself() {
    // SAFETY: no memory is involved.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) };
}

/// Looks for memory of malloc(3) that nothing points to any more, and has the sanitizer report it on standard error. False
/// also where no sanitizer can look.
#[must_use]
pub fn has_leaks() -> bool {
    type CheckFn = unsafe extern "C" fn() -> c_int;
    // SAFETY: the symbol, if it is there, is the function of sanitizer/lsan_interface.h.
    unsafe {
        let check = libc::dlsym(libc::RTLD_DEFAULT, c"__lsan_do_recoverable_leak_check".as_ptr());
        !check.is_null() && std::mem::transmute::<*mut libc::c_void, CheckFn>(check)() != 0
    }
}
