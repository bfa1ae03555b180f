//! Running a job's C code, and the functions it calls while it runs.

use super::context::ModuleContext;
use super::guard::Trap;
use super::job_ctx::{JobCtx, RunData, data_of};
use super::job_data;
use super::module_calls;
use super::types::{JobCancelFn, JobRunFn};
use super::uncancelled::Uncancelled;
use crate::jobs::code::JobCalls;
use std::ffi::{CStr, CString, c_char, c_int, c_longlong};

/// `job_payload_t`
#[repr(C)]
struct JobPayload {
    json: *const c_char,
    json_len: usize,
}

/// Offsets of the structures above as Rust sees them.
#[cfg(test)]
pub(super) fn job_layout() -> Vec<(&'static str, usize)> {
    use std::mem::offset_of;
    vec![
        ("job_payload_t", size_of::<JobPayload>()),
        ("job_payload_t.json_len", offset_of!(JobPayload, json_len)),
        ("job_ctx_t", size_of::<JobCtx>()),
        ("job_ctx_t.emit_event", offset_of!(JobCtx, emit_event)),
        ("job_ctx_t.set_result", offset_of!(JobCtx, set_result)),
        ("job_ctx_t.set_error", offset_of!(JobCtx, set_error)),
        ("job_ctx_t.is_canceled", offset_of!(JobCtx, is_canceled)),
        ("job_ctx_t.server", offset_of!(JobCtx, server)),
        ("job_ctx_t.remaining_ms", offset_of!(JobCtx, remaining_ms)),
        ("job_ctx_t.checkpoint", offset_of!(JobCtx, checkpoint)),
        ("job_ctx_t.data", offset_of!(JobCtx, data)),
        ("job_ctx_t.reserved", offset_of!(JobCtx, reserved)),
    ]
}

/// Runs a job. `uuid` and `payload` must have no NUL; the job does not see text behind a NUL.
///
/// # Errors
/// The run function did not return.
///
/// # Safety
/// `run` must be a function of a module that stays open during the call.
pub unsafe fn run(
    run: JobRunFn,
    context: &ModuleContext,
    uuid: &str,
    payload: &str,
    calls: &dyn JobCalls,
) -> Result<c_int, Trap> {
    let (uuid, payload) = (c_text(uuid), c_text(payload));
    let payload = JobPayload { json: payload.as_ptr(), json_len: payload.as_bytes().len() };
    let data = RunData::new(calls);
    let mut job = JobCtx {
        job_uuid: uuid.as_ptr(),
        emit_event,
        set_result,
        set_error,
        is_canceled,
        server: (&raw const data).cast(),
        remaining_ms,
        checkpoint: job_data::checkpoint,
        data: &raw const job_data::TABLE,
        reserved: [std::ptr::null_mut(); 1],
    };
    // SAFETY: the caller's contract; all structures outlive the call.
    unsafe { module_calls::call_job_run(run, context, (&raw const payload).cast(), (&raw mut job).cast()) }
}

/// Calls a job's cancel callback.
///
/// # Errors
/// The callback did not return.
///
/// # Safety
/// `cancel` is a function of a module that stays open during the call.
pub unsafe fn cancel(cancel: JobCancelFn, context: &ModuleContext, uuid: &str) -> Result<(), Trap> {
    let uuid = c_text(uuid);
    // SAFETY: the caller's contract.
    unsafe { module_calls::call_job_cancel(cancel, context, uuid.as_ptr()) }
}

fn c_text(text: &str) -> CString {
    let bytes: Vec<u8> = text.bytes().take_while(|&byte| byte != 0).collect();
    CString::new(bytes).unwrap_or_default()
}

/// The server's calls for a job.
///
/// # Safety
/// As for [`data_of`].
unsafe fn calls_of<'a>(job: *mut JobCtx) -> Option<&'a dyn JobCalls> {
    // SAFETY: the caller's contract.
    unsafe { data_of(job) }.map(RunData::calls)
}

/// The bytes of a C string, read before anything is allocated: a bad pointer makes the guard jump out of this frame.
///
/// # Safety
/// `text` is a C string.
unsafe fn measured<'a>(text: *const c_char) -> &'a [u8] {
    // SAFETY: the caller's contract.
    unsafe { CStr::from_ptr(text).to_bytes() }
}

fn status(accepted: bool) -> c_int {
    if accepted { 0 } else { -1 }
}

unsafe extern "C" fn emit_event(job: *mut JobCtx, kind: *const c_char, data: *const c_char) -> c_int {
    // SAFETY: by the contract of job_ctx_t a running job's structure and C strings; data may be NULL.
    let (calls, kind, data) = unsafe {
        if kind.is_null() {
            return -1;
        }
        (calls_of(job), measured(kind), (!data.is_null()).then(|| measured(data)))
    };
    let _uncancelled = Uncancelled::begin();
    let Some(calls) = calls else { return -1 };
    let data = data.map(String::from_utf8_lossy);
    status(calls.emit_event(&String::from_utf8_lossy(kind), data.as_deref()))
}

unsafe extern "C" fn set_result(job: *mut JobCtx, result: *const c_char) -> c_int {
    if result.is_null() {
        return -1;
    }
    // SAFETY: as in emit_event.
    let (calls, result) = unsafe { (calls_of(job), measured(result)) };
    let _uncancelled = Uncancelled::begin();
    status(calls.is_some_and(|calls| calls.set_result(&String::from_utf8_lossy(result))))
}

unsafe extern "C" fn set_error(job: *mut JobCtx, error: *const c_char) -> c_int {
    if error.is_null() {
        return -1;
    }
    // SAFETY: as in emit_event.
    let (calls, error) = unsafe { (calls_of(job), measured(error)) };
    let _uncancelled = Uncancelled::begin();
    status(calls.is_some_and(|calls| calls.set_error(&String::from_utf8_lossy(error))))
}

unsafe extern "C" fn is_canceled(job: *mut JobCtx) -> c_int {
    // SAFETY: as in emit_event.
    c_int::from(unsafe { calls_of(job) }.is_some_and(JobCalls::is_canceled))
}

unsafe extern "C" fn remaining_ms(job: *mut JobCtx) -> c_longlong {
    // SAFETY: as in emit_event.
    let left = unsafe { calls_of(job) }.and_then(JobCalls::remaining_ms);
    left.map_or(-1, |left| c_longlong::try_from(left).unwrap_or(c_longlong::MAX))
}
