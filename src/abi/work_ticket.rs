//! Tickets of scheduled work: references to the shared objects that have its functions.

use super::native::WorkFn;
use std::ffi::c_void;

/// The ticket of a work: one more reference to the shared object of its function. The code stays mapped until the work has run,
/// even if the generation ends.
pub(super) unsafe extern "C" fn work_admit(_user: *mut c_void, work: WorkFn, _data: *mut c_void) -> *mut c_void {
    // SAFETY: zeroed is a valid Dl_info; dladdr fills it for any address; RTLD_NOLOAD only counts a reference of an
    // object that is loaded already, found by the very name it was loaded by.
    unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        if libc::dladdr(work as *const c_void, &raw mut info) == 0 || info.dli_fname.is_null() {
            return std::ptr::null_mut();
        }
        libc::dlopen(info.dli_fname, libc::RTLD_NOW | libc::RTLD_NOLOAD)
    }
}

/// # Safety
/// `ticket` is NULL or from [`work_admit`], and given back once.
pub(super) unsafe extern "C" fn work_drop(_user: *mut c_void, ticket: *mut c_void) {
    if !ticket.is_null() {
        // SAFETY: a handle of dlopen that no other code closes.
        unsafe { libc::dlclose(ticket) };
    }
}
