//! `struct cweb_job_data`: checkpoints and files of a running job.

use super::job_ctx::{JobCtx, JobData, data_of};
use super::uncancelled::Uncancelled;
use super::websocket::touched;
use crate::jobs::code::JobCalls;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::os::fd::{IntoRawFd, OwnedFd};

pub(super) static TABLE: JobData = JobData { size: size_of::<JobData>(), checkpoint, resume, file, output, emit_bytes };

/// Offsets of the structure as Rust sees them.
#[cfg(test)]
pub(super) fn layout() -> Vec<(&'static str, usize)> {
    use std::mem::offset_of;
    vec![
        ("cweb_job_data.size", offset_of!(JobData, size)),
        ("cweb_job_data.checkpoint", offset_of!(JobData, checkpoint)),
        ("cweb_job_data.resume", offset_of!(JobData, resume)),
        ("cweb_job_data.file", offset_of!(JobData, file)),
        ("cweb_job_data.output", offset_of!(JobData, output)),
        ("cweb_job_data.emit_bytes", offset_of!(JobData, emit_bytes)),
    ]
}

/// Sets `errno` and returns -1.
fn fail(errno: c_int) -> c_int {
    // SAFETY: the calling thread's own errno (errno(3)).
    unsafe { *libc::__errno_location() = errno };
    -1
}

/// Larger than any limit, in bytes, on a checkpoint or on the bytes of an event.
const STORED_BYTES_CEILING: usize = 1 << 30;

/// # Safety
/// By the contract of `cweb_job_checkpoint`: a running job's structure, and `length` readable bytes or NULL.
pub(super) unsafe extern "C" fn checkpoint(job: *mut JobCtx, bytes: *const c_void, length: usize) -> c_int {
    if bytes.is_null() && length > 0 {
        return fail(libc::EINVAL);
    }
    // No limit is larger. The memory behind a wrong length need not exist, so the length is checked first.
    if length > STORED_BYTES_CEILING {
        return fail(libc::EMSGSIZE);
    }
    // The bytes are read before this frame owns anything: a bad pointer makes the guard jump out of it.
    // SAFETY: the caller's contract.
    let (data, bytes) = unsafe { (data_of(job), touched(bytes.cast(), length)) };
    let _uncancelled = Uncancelled::begin();
    let Some(data) = data else { return fail(libc::ENOSYS) };
    match data.calls().checkpoint(bytes) {
        Ok(()) => 0,
        Err(errno) => fail(errno),
    }
}

/// # Safety
/// By the contract of `cweb_job_emit_bytes`: a running job's structure, a C string or NULL, and `length` readable bytes or NULL.
unsafe extern "C" fn emit_bytes(job: *mut JobCtx, kind: *const c_char, bytes: *const c_void, length: usize) -> c_int {
    if kind.is_null() || bytes.is_null() && length > 0 {
        return fail(libc::EINVAL);
    }
    if length > STORED_BYTES_CEILING {
        return fail(libc::EMSGSIZE);
    }
    // Read before anything is owned, as in `checkpoint`.
    // SAFETY: the caller's contract.
    let (data, kind, bytes) = unsafe { (data_of(job), CStr::from_ptr(kind), touched(bytes.cast(), length)) };
    let _uncancelled = Uncancelled::begin();
    let Some(data) = data else { return fail(libc::ENOSYS) };
    let Ok(kind) = kind.to_str() else { return fail(libc::EINVAL) };
    match data.calls().emit_bytes(kind, bytes) {
        Ok(()) => 0,
        Err(errno) => fail(errno),
    }
}

/// # Safety
/// By the contract of `cweb_job_resume`: a running job's structure, two writable places or NULL.
unsafe extern "C" fn resume(job: *mut JobCtx, bytes: *mut *const c_void, length: *mut usize) -> c_int {
    if bytes.is_null() || length.is_null() {
        return fail(libc::EINVAL);
    }
    // Written before anything is owned, as in `checkpoint`.
    // SAFETY: the caller's contract.
    let data = unsafe {
        (*bytes, *length) = (std::ptr::null(), 0);
        data_of(job)
    };
    let _uncancelled = Uncancelled::begin();
    let Some(data) = data else { return fail(libc::ENOSYS) };
    match data.resumed() {
        Ok(None) => 0,
        Ok(Some(saved)) => {
            // SAFETY: the caller's contract; `saved` stays until the run has returned.
            unsafe { (*bytes, *length) = (saved.as_ptr().cast(), saved.len()) };
            1
        }
        Err(errno) => fail(errno),
    }
}

/// Opens a file by name; the module owns the returned descriptor.
///
/// # Safety
/// `job` is a running job's structure, `name` a C string or NULL.
unsafe fn opened(
    job: *mut JobCtx,
    name: *const c_char,
    open: impl FnOnce(&dyn JobCalls, &str) -> Result<OwnedFd, i32>,
) -> c_int {
    if name.is_null() {
        return fail(libc::EINVAL);
    }
    // Measured before anything is owned, as in `checkpoint`.
    // SAFETY: the caller's contract.
    let (data, name) = unsafe { (data_of(job), CStr::from_ptr(name)) };
    let _uncancelled = Uncancelled::begin();
    let Some(data) = data else { return fail(libc::ENOSYS) };
    let Ok(name) = name.to_str() else { return fail(libc::EINVAL) };
    match open(data.calls(), name) {
        Ok(file) => file.into_raw_fd(),
        Err(errno) => fail(errno),
    }
}

/// # Safety
/// By the contract of `cweb_job_file`: a running job's structure, and a C string or NULL.
unsafe extern "C" fn file(job: *mut JobCtx, name: *const c_char) -> c_int {
    // SAFETY: the contract is the same.
    unsafe { opened(job, name, |calls, name| calls.file(name)) }
}

/// # Safety
/// By the contract of `cweb_job_output`: a running job's structure, and a C string or NULL.
unsafe extern "C" fn output(job: *mut JobCtx, name: *const c_char) -> c_int {
    // SAFETY: the contract is the same.
    unsafe { opened(job, name, |calls, name| calls.output(name)) }
}
