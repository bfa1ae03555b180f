//! Declarations of `native/native.h`, where each function is documented.

use super::types::{
    Context, HandlerFn, HookFn, HttpRequest, HttpResponse, JobCancelFn, JobRunFn, KvPair, KvStore, MessageFn, SocketFn,
    WebSocket,
};
use std::ffi::{c_char, c_int, c_void};

/// `CWEBN_FAULT_EXIT`
pub(super) const FAULT_EXIT: c_char = b'e' as c_char;

/// `struct cwebn_fault`
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawFault {
    pub(super) signo: c_int,
    pub(super) exit_code: c_int,
    pub(super) addr: *mut c_void,
    pub(super) pc: *mut c_void,
    pub(super) kind: c_char,
    pub(super) stack_overflow: c_char,
}

/// `CWEBN_FRAMES_MAX`
pub(super) const FRAMES_MAX: usize = 32;
/// `CWEBN_REGISTERS_MAX`
pub(super) const REGISTERS_MAX: usize = 34;

/// `struct cwebn_trace`
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawTrace {
    pub(super) frame_count: u32,
    pub(super) register_count: u32,
    pub(super) frames: [u64; FRAMES_MAX],
    pub(super) registers: [u64; REGISTERS_MAX],
}

/// `CWEBN_THROWN_BYTES`
pub(super) const THROWN_BYTES: usize = 1024;

/// `CWEBN_NOTE_TRACE`
pub(super) const NOTE_TRACE: usize = 6;
/// `CWEBN_NOTE_WORDS`
pub(super) const NOTE_WORDS: usize = NOTE_TRACE + 2 + FRAMES_MAX + REGISTERS_MAX;
/// `CWEBN_EXIT_MARK`
pub(super) const EXIT_MARK: u32 = 0x6377_6500;

/// `CWEBN_BODY`
pub(super) const BODY: u32 = 1;
/// `CWEBN_FIELDS`
pub(super) const FIELDS: u32 = 2;
/// `CWEBN_SESSION`
pub(super) const SESSION: u32 = 4;
/// `CWEBN_REQUEST`
pub(super) const REQUEST: u32 = 8;
/// `CWEBN_FREED`
pub(super) const FREED: u32 = 0x100;
/// `CWEBN_REQUEST_STORES`
pub(super) const REQUEST_STORES: usize = 3;
/// `CWEBN_GIVEN_STORES`
pub(super) const GIVEN_STORES: usize = 1 + REQUEST_STORES;

/// `struct cwebn_field`
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawField {
    pub(super) name: *const c_char,
    pub(super) name_length: usize,
    pub(super) value: *const c_char,
    pub(super) value_length: usize,
}

/// `struct cwebn_handed`
#[repr(C)]
#[derive(Debug)]
pub(super) struct RawHanded {
    pub(super) own_body: *mut c_char,
    pub(super) own_store: *const KvStore,
    pub(super) own_pairs: *const KvPair,
    pub(super) lent: *const c_char,
    pub(super) lent_bytes: usize,
    pub(super) lent_body: *const c_char,
    pub(super) lent_body_bytes: usize,
    pub(super) request: *mut RawRequest,
    pub(super) lent_stores: *const KvStore,
    pub(super) lent_pairs: [*const KvPair; REQUEST_STORES],
    pub(super) lent_pairs_room: [usize; REQUEST_STORES],
    pub(super) fields: *mut RawField,
    pub(super) field_capacity: usize,
    pub(super) body: *const c_char,
    pub(super) body_length: usize,
    pub(super) field_count: usize,
    pub(super) refused: *const c_char,
    pub(super) scratch_used: usize,
    pub(super) body_kept: c_int,
    pub(super) strange: u32,
    pub(super) doing: c_int,
    pub(super) returned: c_int,
}

/// `struct cwebn_given`
#[repr(C)]
#[derive(Debug)]
pub(super) struct RawGiven {
    pub(super) store: *mut KvStore,
    pub(super) pairs: [*mut KvPair; GIVEN_STORES],
    pub(super) counts: [usize; GIVEN_STORES],
    pub(super) body: *mut c_char,
    pub(super) request_body: *mut c_char,
}

/// `cweb_part_t`
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawPart {
    pub(super) name: *const c_char,
    pub(super) file_name: *const c_char,
    pub(super) content_type: *const c_char,
    pub(super) bytes: *const c_char,
    pub(super) length: usize,
    pub(super) reserved: [*mut c_void; 3],
}

/// `struct cwebn_param`
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawParam {
    pub(super) name: *const c_char,
    pub(super) value: *const c_char,
}

/// `struct cwebn_request_makers`
#[repr(C)]
pub(super) struct RequestMakers {
    pub(super) parts:
        unsafe extern "C" fn(*mut RawRequest, *const c_void, *mut *const RawPart, *mut usize) -> *const c_char,
    pub(super) params: unsafe extern "C" fn(*mut RawRequest, *const c_void, *mut *const RawParam, *mut usize),
    pub(super) addresses: unsafe extern "C" fn(*mut RawRequest, *const c_void, *mut [*const c_char; 3]),
}

/// The beginning of a `struct cwebn_request`: its `struct cwebn_request_head`.
#[repr(C)]
pub(super) struct RawRequest {
    pub(super) request: *mut HttpRequest,
    pub(super) socket: *const WebSocket,
    pub(super) head: *const c_char,
    pub(super) head_bytes: usize,
    pub(super) asked: *const c_void,
    makers: *const RequestMakers,
    block_count: usize,
    pub(super) deferred_count: usize,
    pub(super) used: c_int,
}

/// `struct cweb_requests`: opaque, only passed on.
#[repr(C)]
pub(super) struct RequestServices {
    _opaque: [u8; 0],
}

/// `work_t`
pub(super) type WorkFn = unsafe extern "C" fn(*mut c_void);

/// `struct cwebn_rows`
#[repr(C)]
pub(super) struct RawRows {
    pub(super) table: c_int,
    pub(super) column: c_int,
    pub(super) text: *const c_char,
    pub(super) number: i64,
    pub(super) after: i64,
    pub(super) before: i64,
    pub(super) columns: u64,
    pub(super) descending: c_int,
}

/// `cwebn_services.rows`
pub(super) type RowsFn = unsafe extern "C" fn(*mut c_void, *const RawRows, *mut usize) -> *mut c_char;

/// `struct cwebn_services`
#[repr(C)]
pub(super) struct Services {
    /// A `struct cweb_host`.
    pub(super) host: *const c_void,
    pub(super) user: *mut c_void,
    pub(super) resolve: unsafe extern "C" fn(*mut c_void, *const c_char, *const c_char) -> *mut c_void,
    pub(super) work_admit: unsafe extern "C" fn(*mut c_void, WorkFn, *mut c_void) -> *mut c_void,
    pub(super) work_run: unsafe extern "C" fn(*mut c_void, WorkFn, *mut c_void, *mut c_void),
    pub(super) work_drop: unsafe extern "C" fn(*mut c_void, *mut c_void),
    pub(super) rows: Option<RowsFn>,
    pub(super) crypto_loaded: c_int,
    pub(super) warn: unsafe extern "C" fn(*mut c_void, *const c_char, *const c_char),
}

/// `struct cwebn_module`: opaque.
#[repr(C)]
#[derive(Debug)]
pub(super) struct RawModule {
    _opaque: [u8; 0],
}

/// `struct cwebn_call`
#[repr(C)]
pub(super) struct RawCall {
    module: *mut RawModule,
    lease: *mut c_void,
    outer: *mut RawCall,
    started: c_int,
    held: c_int,
    is_hook: c_int,
}

impl RawCall {
    /// A call that has not begun.
    pub(super) const NONE: Self = Self {
        module: std::ptr::null_mut(),
        lease: std::ptr::null_mut(),
        outer: std::ptr::null_mut(),
        started: 0,
        held: 0,
        is_hook: 0,
    };
}

/// `struct cwebn_layout_entry`
#[cfg(test)]
#[repr(C)]
pub(super) struct LayoutEntry {
    pub(super) name: *const c_char,
    pub(super) offset: usize,
    pub(super) size: usize,
}

pub(super) type Sink = unsafe extern "C" fn(*mut c_void, *const c_char, usize);

unsafe extern "C" {
    pub(super) fn cwebn_guard_init() -> c_int;
    pub(super) fn cwebn_guard_refusals(descriptor: c_int) -> c_int;
    pub(super) fn cwebn_guard_connects(serve: extern "C" fn(c_int, *const u8, usize) -> c_int);
    pub(super) fn cwebn_guard_note(words: *mut u64);
    pub(super) fn cwebn_guard_cores(directory: c_int);
    pub(super) fn cwebn_module_enter(number: u64) -> u64;
    pub(super) fn cwebn_threads_limit(most: usize);
    pub(super) fn cwebn_no_stream();
    pub(super) fn cwebn_worker_enter(ctx: *mut Context);
    pub(super) fn cwebn_worker_refuses(what: *const c_char) -> c_int;
    pub(super) fn cwebn_exit(code: c_int) -> !;
    pub(super) fn cwebn_thread_init() -> c_int;
    pub(super) fn cwebn_thread_exit();
    pub(super) fn cwebn_last_trace(out: *mut RawTrace);
    pub(super) fn cwebn_open(path: *const c_char, flags: c_int) -> *mut c_void;
    pub(super) fn cwebn_exceptions_watch(is_needed: c_int);
    pub(super) fn cwebn_exceptions_observe(told: unsafe extern "C" fn(*const c_char));
    pub(super) fn cwebn_last_thrown(text: *mut c_char, size: usize) -> usize;
    pub(super) fn cwebn_demangle(name: *const c_char) -> *mut c_char;
    pub(super) fn cwebn_guard_exit(code: c_int) -> !;
    pub(super) fn cwebn_guard_active() -> c_int;
    pub(super) fn cwebn_cancel_forbid() -> c_int;
    pub(super) fn cwebn_cancel_restore(before: c_int);
    pub(super) fn cwebn_legacy_services() -> *const c_void;
    pub(super) fn cwebn_call_handler(
        handler: HandlerFn,
        ctx: *mut Context,
        req: *mut HttpRequest,
        res: *mut HttpResponse,
        handed: *mut RawHanded,
        fault: *mut RawFault,
    ) -> c_int;
    pub(super) static cwebn_requests: RequestServices;
    pub(super) fn cwebn_request_limit(bytes: usize);
    pub(super) fn cwebn_request_new(makers: *const RequestMakers) -> *mut RawRequest;
    pub(super) fn cwebn_request_free(request: *mut RawRequest);
    pub(super) fn cwebn_request_take(request: *mut RawRequest, size: usize) -> *mut c_void;
    pub(super) fn cwebn_request_end(request: *mut RawRequest, fault: *mut RawFault) -> c_int;
    pub(super) fn cwebn_request_reset(request: *mut RawRequest);
    pub(super) fn cwebn_handed_release(handed: *mut RawHanded, given: *mut RawGiven, fault: *mut RawFault) -> c_int;
    pub(super) fn cwebn_handed_free(block: *mut c_void, fault: *mut RawFault) -> c_int;
    pub(super) fn cwebn_call_ws_open(
        f: Option<SocketFn>,
        ctx: *mut Context,
        ws: *mut WebSocket,
        handed: *mut RawHanded,
        fault: *mut RawFault,
    ) -> c_int;
    pub(super) fn cwebn_call_ws_close(
        f: Option<SocketFn>,
        ctx: *mut Context,
        ws: *mut WebSocket,
        handed: *mut RawHanded,
        fault: *mut RawFault,
    ) -> c_int;
    pub(super) fn cwebn_call_ws_message(
        f: Option<MessageFn>,
        ctx: *mut Context,
        ws: *mut WebSocket,
        message: *const c_char,
        length: usize,
        handed: *mut RawHanded,
        fault: *mut RawFault,
    ) -> c_int;
    pub(super) fn cwebn_call_hook(f: HookFn, ctx: *mut Context, fault: *mut RawFault) -> c_int;
    pub(super) fn cwebn_call_job_run(
        run: JobRunFn,
        ctx: *mut Context,
        payload: *const c_void,
        job: *mut c_void,
        rc: *mut c_int,
        fault: *mut RawFault,
    ) -> c_int;
    pub(super) fn cwebn_call_job_cancel(
        cancel: JobCancelFn,
        ctx: *mut Context,
        job_uuid: *const c_char,
        fault: *mut RawFault,
    ) -> c_int;
    pub(super) fn cwebn_call_work(work: WorkFn, data: *mut c_void, fault: *mut RawFault) -> c_int;
    pub(super) fn cwebn_context_create(
        db_path: *const c_char,
        services: *const Services,
        error: *mut c_char,
        error_size: usize,
    ) -> *mut Context;
    pub(super) fn cwebn_module_open(ctx: *mut Context, name: *const c_char, code: *const c_void) -> *mut RawModule;
    pub(super) fn cwebn_leaves_pointers(code: *const c_void) -> *const c_char;
    pub(super) fn cwebn_module_close(module: *mut RawModule);
    pub(super) fn cwebn_module_retire(module: *mut RawModule);
    pub(super) fn cwebn_module_of(code: *const c_void) -> *mut RawModule;
    pub(super) fn cwebn_module_release(module: *mut RawModule);
    pub(super) fn cwebn_call_begin(module: *mut RawModule, call: *mut RawCall, is_hook: c_int);
    pub(super) fn cwebn_call_end(call: *mut RawCall, faulted: c_int);
    pub(super) fn cwebn_call_context(module: *mut RawModule) -> *mut Context;
    pub(super) fn cwebn_context_pending(ctx: *mut Context) -> c_int;
    pub(super) fn cwebn_context_after_fault(ctx: *mut Context);
    pub(super) fn cwebn_stdio_capture(sink: Sink, user: *mut c_void) -> c_int;
    pub(super) fn cwebn_stdio_restore();
}

#[cfg(test)]
unsafe extern "C" {
    pub(super) static cwebn_layout: LayoutEntry;
    #[cfg(test)]
    pub(super) static cwebn_layout_legacy: LayoutEntry;
}
