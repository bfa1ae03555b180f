//! Structures that C code sees, field by field as `include/` declares them.
//!
//! `tests` compares every size and offset with the C compiler's layout (see `native::layout`).

#![allow(missing_docs)] // The fields are documented in include/, which is their definition.

use super::manifest::Api;
use std::ffi::{c_char, c_int, c_void};

/// `CWEB_ABI_VERSION`
pub const ABI_VERSION: u32 = 2;

/// `http_kv_pair_t`
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct KvPair {
    pub key: *mut c_char,
    pub value: *mut c_char,
}

/// `http_kv_store_t`
#[repr(C)]
#[derive(Debug)]
pub struct KvStore {
    pub entries: *mut KvPair,
    pub size: usize,
    pub capacity: usize,
    /// 1, and one more for each of the first pairs whose strings are the server's; 0 in a module's own store.
    pub server: usize,
    /// Further values of repeated keys, `repeated_size` of them.
    pub repeated: *mut KvPair,
    pub repeated_size: usize,
}

/// `http_request_t`
#[repr(C)]
#[derive(Debug)]
pub struct HttpRequest {
    pub method: c_int,
    pub version: c_int,
    pub status: c_int,
    pub path: *mut c_char,
    pub body: *mut c_char,
    pub content_length: c_int,
    pub keep_alive: c_char,
    pub close: c_char,
    pub tid: libc::pthread_t,
    pub params: *mut KvStore,
    pub headers: *mut KvStore,
    pub data: *mut KvStore,
    pub websocket: c_int,
    pub transfer_encoding_chunked: c_int,
    pub server: *mut c_void,
    pub reserved: [*mut c_void; 3],
}

/// `http_response_t`
#[repr(C)]
#[derive(Debug)]
pub struct HttpResponse {
    pub status: c_int,
    pub headers: *mut KvStore,
    pub body: *mut c_char,
    pub content_length: c_int,
    pub server: *mut c_void,
    pub reserved: [*mut c_void; 3],
}

/// `websocket_t`
#[repr(C)]
pub struct WebSocket {
    pub session: *mut c_char,
    pub client_fd: c_int,
    pub send: Option<unsafe extern "C" fn(*mut WebSocket, *const c_char, usize) -> c_int>,
    pub close: Option<unsafe extern "C" fn(*mut WebSocket) -> c_int>,
    /// The server's own field: the [`super::websocket::Socket`] to which this structure belongs.
    pub server: *const c_void,
    pub server_id: u64,
    pub reserved: [*mut c_void; 2],
}

/// `struct cweb_context`: opaque here, made by `native::cwebn_context_create`.
#[repr(C)]
pub struct Context {
    _opaque: [u8; 0],
    /// Not Send, not Sync, not Unpin: the type is used only behind a pointer.
    _marker: std::marker::PhantomData<(*mut u8, std::marker::PhantomPinned)>,
}

/// `entry_t`
pub type HandlerFn = unsafe extern "C" fn(*mut Context, *mut HttpRequest, *mut HttpResponse) -> c_int;
/// `on_open`, `on_close`
pub type SocketFn = unsafe extern "C" fn(*mut Context, *mut WebSocket);
/// `on_message`
pub type MessageFn = unsafe extern "C" fn(*mut Context, *mut WebSocket, *const c_char, usize);
/// `onload`, `unload`
pub type HookFn = unsafe extern "C" fn(*mut Context);

/// `job_run_t`; its payload and job structures belong to the jobs room.
pub type JobRunFn = unsafe extern "C" fn(*mut Context, *const c_void, *mut c_void) -> c_int;
/// `job_info_t.cancel`
pub type JobCancelFn = unsafe extern "C" fn(*mut Context, *const c_char);

/// A function of a module and the arguments that it takes, so that it can't be called with others.
#[derive(Debug, Clone, Copy)]
pub struct Callee<F> {
    function: F,
    api: Api,
}

impl<F: Copy> Callee<F> {
    /// `function` of a module whose functions take the arguments in `api`.
    pub(super) fn new(function: F, api: Api) -> Self {
        Self { function, api }
    }

    /// The function, and the context for its call: NULL if the function takes none; the C part of the call
    /// (`src/abi/native/call.c`) handles that.
    pub(super) fn with(self, context: *mut Context) -> (F, *mut Context) {
        match self.api {
            Api::TwoArguments => (self.function, std::ptr::null_mut()),
            Api::ThreeArguments | Api::Wafer => (self.function, context),
        }
    }

    /// [`Callee::with`] for an optional function.
    pub(super) fn unpack(callee: Option<Self>, context: *mut Context) -> (Option<F>, *mut Context) {
        match callee.map(|callee| callee.with(context)) {
            Some((function, context)) => (Some(function), context),
            None => (None, context),
        }
    }
}

/// `http_error_t` values below 100 stand for these statuses, in this order.
pub const STATUS_OF_ENUM: [u16; 15] = [500, 101, 200, 302, 400, 401, 403, 404, 405, 409, 413, 414, 426, 500, 501];

/// `HTTP_101_SWITCHING_PROTOCOLS`
pub const HTTP_101_SWITCHING_PROTOCOLS: c_int = 1;

/// `HTTP_200_OK`
pub const HTTP_200_OK: c_int = 2;

/// The status by which a handler of a fallback route leaves the request to the next route (`include/wafer/wafer_glue.c`).
pub const DECLINED: c_int = -404;

/// `HTTP_RESPONSE_SIZE`: bytes of the body in a handler's response.
pub const HTTP_RESPONSE_SIZE: usize = 8 * 1024;

/// The status for a handler's `response->status`: an `http_error_t`, or a plain number. None for an invalid number, and for an
/// interim status (1xx), which is no answer to a request (RFC 9110 §15.2).
#[must_use]
pub fn valid_status(status: c_int) -> Option<u16> {
    let code = match usize::try_from(status) {
        Ok(index) => STATUS_OF_ENUM.get(index).copied().or_else(|| u16::try_from(index).ok()),
        Err(_) => None,
    };
    code.filter(|code| (200..=599).contains(code))
}

/// As [`valid_status`]; an invalid status becomes 500.
#[must_use]
pub fn status_code(status: c_int) -> u16 {
    valid_status(status).unwrap_or(500)
}
