//! Processes whose modules are compiled with a sanitizer: `cweb test --asan`, `cweb deploy --sanitize`.
//!
//! The code that starts the process preloads the sanitizer's library and sets [`VARIABLE`]. The sanitizer catches deadly
//! signals itself, so that its report is complete; the guard (`guard.c`) then catches none.

use std::ffi::{CStr, c_int, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

/// Set in the environment of a process with a sanitizer.
pub const VARIABLE: &str = "CWEB_SANITIZED";
const C_VARIABLE: &CStr = c"CWEB_SANITIZED";

/// Whether the environment names a sanitizer for this process. Allocates nothing.
pub(super) fn is_named_by_environment() -> bool {
    // SAFETY: a C string; the value is only compared with NULL, before other threads exist.
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

/// Finds the function that [`ignore`] calls.
pub(super) fn find_ignore() {
    // SAFETY: the symbol is only called as what sanitizer/lsan_interface.h declares it.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__lsan_ignore_object".as_ptr()) };
    IGNORE.store(found, Ordering::Relaxed);
}

/// Keeps the sanitizer from reporting a block of malloc(3), and memory to which the block points, as lost. Returns the block.
pub(super) fn ignore(block: *mut u8) -> *mut u8 {
    type IgnoreFn = unsafe extern "C" fn(*const c_void);
    let ignore = IGNORE.load(Ordering::Relaxed);
    if !ignore.is_null() && !block.is_null() {
        // SAFETY: the function of sanitizer/lsan_interface.h, which takes any block of malloc(3).
        unsafe { std::mem::transmute::<*mut c_void, IgnoreFn>(ignore)(block.cast()) };
    }
    block
}

/// Lets this process's own threads trace it, which the search for leaks needs. A process that has changed its user can't be
/// traced even by itself.
pub fn open_to_itself() {
    // SAFETY: no memory is involved.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) };
}

/// Searches for malloc(3) memory to which no pointer leads any more; the sanitizer reports it on standard error. Returns false
/// also if no sanitizer can search.
#[must_use]
pub fn has_leaks() -> bool {
    type CheckFn = unsafe extern "C" fn() -> c_int;
    // SAFETY: the symbol, if it is there, is the function of sanitizer/lsan_interface.h.
    unsafe {
        let check = libc::dlsym(libc::RTLD_DEFAULT, c"__lsan_do_recoverable_leak_check".as_ptr());
        !check.is_null() && std::mem::transmute::<*mut libc::c_void, CheckFn>(check)() != 0
    }
}
