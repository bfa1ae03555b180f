//! Calls of a module's handlers, callbacks, hooks and jobs, each under the guard.

use super::context::ModuleContext;
use super::files;
use super::frame::CallFrame;
use super::guard::{NO_FAULT, Trap, outcome};
use super::handed::{Handed, Reading};
use super::native;
use super::terminated::Terminated;
use super::types::{
    Callee, HandlerFn, HookFn, HttpRequest, HttpResponse, JobCancelFn, JobRunFn, MessageFn, SocketFn, WebSocket,
};
use crate::proto::http1::RequestView;
use std::ffi::{c_char, c_int, c_void};

/// Calls a route's handler, and reads its answer from the response of `frame`.
///
/// # Errors
/// The handler did not return, or its answer can't be read: see [`CallFrame::reading`].
///
/// # Safety
/// `handler` must be a function of a module that stays open during the call. The pointers must be those of one
/// [`CallFrame::prepare`] of `frame`, not yet released.
pub unsafe fn call_handler(
    handler: Callee<HandlerFn>,
    context: &ModuleContext,
    (request, response): (*mut HttpRequest, *mut HttpResponse),
    (frame, view): (&mut CallFrame, &RequestView<'_>),
) -> Result<(), Trap> {
    let mut fault = NO_FAULT;
    let handed = frame.handed();
    let (handler, context) = handler.with(context.as_ptr());
    // SAFETY: the caller's contract; `with` determines whether the function takes the context.
    let call = || unsafe { native::cwebn_call_handler(handler, context, request, response, handed, &raw mut fault) };
    let faulted = files::during(view, response, call);
    outcome(faulted, &fault)
}

/// How a callback of a WebSocket ended.
#[derive(Debug)]
pub struct SocketOutcome {
    /// Whether the callback returned.
    pub result: Result<(), Trap>,
    /// The place of a fault, if the fault was not in the callback itself.
    pub reading: Option<Reading>,
    /// Which things of the callback are not from malloc(3): bits for [`super::handed::Thing::of`].
    pub strange: u32,
}

/// An event of a WebSocket.
pub enum SocketCall<'f> {
    /// `on_open`, and the frame with the request that opened the socket.
    Open(Option<Callee<SocketFn>>, Option<&'f mut CallFrame>),
    /// `on_message`, and the message.
    Message(Option<Callee<MessageFn>>, Terminated<'f>),
    /// `on_close`. The socket's session is freed.
    Close(Option<Callee<SocketFn>>),
}

/// Calls a callback of a WebSocket, if there is one; a message is followed by a NUL.
///
/// # Safety
/// The callback must be a function of a module that stays open during the call; `ws` must be the pointer of a
/// [`Socket`](super::websocket::Socket) that the caller holds.
pub unsafe fn call_socket(call: SocketCall<'_>, context: &ModuleContext, ws: *mut WebSocket) -> SocketOutcome {
    if matches!(call, SocketCall::Open(None, _) | SocketCall::Message(None, _)) {
        return SocketOutcome { result: Ok(()), reading: None, strange: 0 };
    }
    let (mut fault, mut handed, context) = (NO_FAULT, Handed::new(), context.as_ptr());
    let fault_at = &raw mut fault;
    // SAFETY: the caller's contract, and as in `call_handler`; a message has its length, and a NUL, and outlives the call.
    let faulted = unsafe {
        match call {
            SocketCall::Open(open, frame) => {
                if let Some(frame) = frame {
                    frame.opens(ws, &mut handed);
                }
                let (open, context) = Callee::unpack(open, context);
                native::cwebn_call_ws_open(open, context, ws, handed.as_raw(), fault_at)
            }
            SocketCall::Close(close) => {
                let (close, context) = Callee::unpack(close, context);
                native::cwebn_call_ws_close(close, context, ws, handed.as_raw(), fault_at)
            }
            SocketCall::Message(callback, message) => {
                let with_nul = message.with_nul();
                let length = with_nul.len().saturating_sub(1);
                handed.lend(with_nul);
                let text = with_nul.as_ptr().cast();
                let (callback, context) = Callee::unpack(callback, context);
                native::cwebn_call_ws_message(callback, context, ws, text, length, handed.as_raw(), fault_at)
            }
        }
    };
    SocketOutcome { result: outcome(faulted, &fault), reading: handed.reading(), strange: handed.strange() }
}

/// Calls `onload` or `unload`.
///
/// # Errors
/// The hook did not return.
pub fn call_hook(hook: Callee<HookFn>, context: &ModuleContext) -> Result<(), Trap> {
    let mut fault = NO_FAULT;
    let (hook, context) = hook.with(context.as_ptr());
    // SAFETY: as in `call_handler`.
    let faulted = unsafe { native::cwebn_call_hook(hook, context, &raw mut fault) };
    outcome(faulted, &fault)
}

/// Calls a job's run function and returns its return value.
///
/// # Errors
/// The function did not return.
///
/// # Safety
/// `run` must be a function of a module that stays open during the call; the pointers must be a `job_payload_t` and a
/// `job_ctx_t`.
pub(super) unsafe fn call_job_run(
    run: JobRunFn,
    context: &ModuleContext,
    payload: *const c_void,
    job: *mut c_void,
) -> Result<c_int, Trap> {
    let (mut fault, mut returned) = (NO_FAULT, -1);
    // SAFETY: the caller's contract.
    let faulted =
        unsafe { native::cwebn_call_job_run(run, context.as_ptr(), payload, job, &raw mut returned, &raw mut fault) };
    outcome(faulted, &fault).map(|()| returned)
}

/// Calls a job's cancel callback.
///
/// # Errors
/// The callback did not return.
///
/// # Safety
/// `cancel` is a function of a module that stays open during the call; `uuid` is a C string.
pub(super) unsafe fn call_job_cancel(
    cancel: JobCancelFn,
    context: &ModuleContext,
    uuid: *const c_char,
) -> Result<(), Trap> {
    let mut fault = NO_FAULT;
    // SAFETY: the caller's contract.
    let faulted = unsafe { native::cwebn_call_job_cancel(cancel, context.as_ptr(), uuid, &raw mut fault) };
    outcome(faulted, &fault)
}
