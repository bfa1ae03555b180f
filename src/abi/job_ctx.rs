//! `job_ctx_t` and `struct cweb_job_data`, which a job's code gets, and the server's data behind them.

use crate::jobs::code::JobCalls;
use std::ffi::{c_char, c_int, c_longlong, c_void};
use std::sync::OnceLock;

/// `job_ctx_t`
#[repr(C)]
pub(super) struct JobCtx {
    pub(super) job_uuid: *const c_char,
    pub(super) emit_event: unsafe extern "C" fn(*mut JobCtx, *const c_char, *const c_char) -> c_int,
    pub(super) set_result: unsafe extern "C" fn(*mut JobCtx, *const c_char) -> c_int,
    pub(super) set_error: unsafe extern "C" fn(*mut JobCtx, *const c_char) -> c_int,
    pub(super) is_canceled: unsafe extern "C" fn(*mut JobCtx) -> c_int,
    /// A `*const RunData`.
    pub(super) server: *const c_void,
    pub(super) remaining_ms: unsafe extern "C" fn(*mut JobCtx) -> c_longlong,
    pub(super) checkpoint: unsafe extern "C" fn(*mut JobCtx, *const c_void, usize) -> c_int,
    pub(super) data: *const JobData,
    pub(super) reserved: [*mut c_void; 1],
}

/// `struct cweb_job_data`
#[repr(C)]
pub(super) struct JobData {
    pub(super) size: usize,
    pub(super) checkpoint: unsafe extern "C" fn(*mut JobCtx, *const c_void, usize) -> c_int,
    pub(super) resume: unsafe extern "C" fn(*mut JobCtx, *mut *const c_void, *mut usize) -> c_int,
    pub(super) file: unsafe extern "C" fn(*mut JobCtx, *const c_char) -> c_int,
    pub(super) output: unsafe extern "C" fn(*mut JobCtx, *const c_char) -> c_int,
    pub(super) emit_bytes: unsafe extern "C" fn(*mut JobCtx, *const c_char, *const c_void, usize) -> c_int,
}

/// The server's data of one run; lives as long as the run.
pub(super) struct RunData<'a> {
    calls: &'a dyn JobCalls,
    /// The checkpoint at the start of the run, once the module has asked for it. The module has the address of these bytes.
    resumed: OnceLock<Option<Vec<u8>>>,
}

impl<'a> RunData<'a> {
    pub(super) fn new(calls: &'a dyn JobCalls) -> Self {
        Self { calls, resumed: OnceLock::new() }
    }

    pub(super) fn calls(&self) -> &'a dyn JobCalls {
        self.calls
    }

    pub(super) fn resumed(&self) -> Result<Option<&[u8]>, c_int> {
        if self.resumed.get().is_none() {
            // Two threads may both ask the server; the bytes of the first thread are kept.
            let _ = self.resumed.set(self.calls.resume()?);
        }
        Ok(self.resumed.get().and_then(Option::as_deref))
    }
}

/// Returns the server's data of a run.
///
/// # Safety
/// `job` is NULL or the structure of a run that has not returned.
pub(super) unsafe fn data_of<'a>(job: *mut JobCtx) -> Option<&'a RunData<'a>> {
    // SAFETY: the caller's contract: `server` points to the `RunData` of the run.
    unsafe { job.as_ref().and_then(|job| job.server.cast::<RunData<'a>>().as_ref()) }
}
