//! Calls into modules that survive faults.
//!
//! The setjmp, the signal handlers and the jump are in C (`native/guard.c`); between the guard and the module's code lies
//! no Rust frame, so a jump skips none.

use super::context::ModuleContext;
use super::files;
use super::frame::CallFrame;
use super::handed::{Handed, Reading};
use super::module::{JobCancelFn, JobRunFn};
use super::native::{self, FAULT_EXIT, RawFault, RawGiven, RawHanded, RawRequest, Sink};
use super::types::{Callee, HandlerFn, HookFn, HttpRequest, HttpResponse, MessageFn, SocketFn, WebSocket};
use crate::proto::http1::RequestView;
use std::ffi::{c_char, c_int, c_void};
use std::io;
use std::marker::PhantomData;
use std::sync::atomic::AtomicU64;

/// How module code ended instead of returning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trap {
    /// A signal.
    Signal {
        /// Its number.
        signal: i32,
        /// The address accessed, for SIGSEGV and SIGBUS.
        address: usize,
        /// The instruction; 0 where the architecture is not known.
        instruction: usize,
        /// Whether the stack had overflowed.
        stack_overflow: bool,
    },
    /// It called exit(3) or a relative.
    Exit {
        /// What it passed.
        code: i32,
    },
}

/// Names of the registers of a [`Trace`], in their order.
#[cfg(target_arch = "x86_64")]
pub const REGISTERS: &[&str] = &[
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
    "rip", "eflags",
];
/// Names of the registers of a [`Trace`], in their order.
#[cfg(target_arch = "aarch64")]
pub const REGISTERS: &[&str] = &[
    "x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15", "x16", "x17",
    "x18", "x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27", "x28", "x29", "x30", "sp", "pc",
];
/// Names of the registers of a [`Trace`], in their order.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub const REGISTERS: &[&str] = &[];

/// Where a thread was when a signal was caught.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace {
    /// The instruction, then return addresses, as far as frame pointers lead.
    pub frames: Vec<u64>,
    /// Values of [`REGISTERS`].
    pub registers: Vec<u64>,
}

/// Where the calling thread was when the signal at `instruction` was caught; nothing if its last signal was another one.
#[must_use]
pub fn last_trace(instruction: usize) -> Trace {
    let mut raw = native::RawTrace {
        frame_count: 0,
        register_count: 0,
        frames: [0; native::FRAMES_MAX],
        registers: [0; native::REGISTERS_MAX],
    };
    // SAFETY: writes the structure, from one of the calling thread.
    unsafe { native::cwebn_last_trace(&raw mut raw) };
    let taken = |words: &[u64], count: u32| words.iter().take(count as usize).copied().collect::<Vec<u64>>();
    let frames = taken(&raw.frames, raw.frame_count);
    // A jump to nowhere has no instruction: its trace begins with the caller.
    if instruction != 0 && frames.first() != Some(&(instruction as u64)) {
        return Trace::default();
    }
    Trace { frames, registers: taken(&raw.registers, raw.register_count) }
}

const NO_FAULT: RawFault = RawFault {
    signo: 0,
    exit_code: 0,
    addr: std::ptr::null_mut(),
    pc: std::ptr::null_mut(),
    kind: 0,
    stack_overflow: 0,
};

/// Installs the signal handlers, once for the process. A sanitizer, if there is one, keeps its own.
///
/// # Errors
/// `sigaction(2)` failed.
pub fn install() -> io::Result<()> {
    if super::sanitizer::is_active() {
        // Its report of a signal knows more than ours.
        return Ok(());
    }
    // SAFETY: installs handlers that chain to those before them.
    if unsafe { native::cwebn_guard_init() } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Bytes of a note of a refused call.
pub const REFUSAL_BYTES: usize = 16;

/// Has the system calls that a filter refuses by SIGSYS return their error, and be noted in `descriptor`, which does not block and
/// stays open: see [`refusal`].
///
/// # Errors
/// `sigaction(2)` failed.
pub fn note_refusals(descriptor: i32) -> io::Result<()> {
    // SAFETY: writes a variable of the C code, atomically, and installs a handler that needs nothing else.
    if unsafe { native::cwebn_guard_refusals(descriptor) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A note of a refused call: the number of the module, 0 where it is not known, and that of the call.
#[must_use]
pub fn refusal(note: [u8; REFUSAL_BYTES]) -> (u64, i64) {
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |word, byte| word << 8 | u64::from(*byte));
    let (module, call) = note.split_at(REFUSAL_BYTES / 2);
    (word(module), word(call).cast_signed())
}

/// What exit_group(2) is called with, apart from its lowest byte, by the server's own code in a process of modules.
pub const EXIT_MARK: u32 = native::EXIT_MARK;

/// Words that a deadly signal is written to: see [`note_deaths`].
pub const NOTE_WORDS: usize = native::NOTE_WORDS;

/// Where a thread was, as the words of a deadly signal say: hints, since module code can write there too.
#[must_use]
pub fn noted_trace(word: impl Fn(usize) -> u64) -> Trace {
    let taken = |count: u64, first: usize, most: usize| {
        let count = usize::try_from(count).unwrap_or(most).min(most);
        (first..first + count).map(&word).collect::<Vec<u64>>()
    };
    let counts = native::NOTE_TRACE;
    Trace {
        frames: taken(word(counts), counts + 2, native::FRAMES_MAX),
        registers: taken(word(counts + 1), counts + 2 + native::FRAMES_MAX, native::REGISTERS_MAX),
    }
}

/// From now on a signal in module code ends the process with a core file in `directory`, a descriptor that stays open.
pub fn leave_cores(directory: i32) {
    // SAFETY: writes a variable of the C code, atomically.
    unsafe { native::cwebn_guard_cores(directory) };
}

/// Has a signal that ends the process be written to the first [`NOTE_WORDS`] of `words`: see `cwebn_guard_note`.
pub fn note_deaths(words: &'static [AtomicU64]) {
    if words.len() >= native::NOTE_WORDS {
        // SAFETY: as many aligned words, which live for ever and are only accessed as atomics, here and there.
        unsafe { native::cwebn_guard_note(words.as_ptr().cast_mut().cast::<u64>()) };
    }
}

/// Names the module whose code the calling thread runs from now on; 0: none. Returns the one before.
pub fn enter_module(number: u64) -> u64 {
    // SAFETY: writes a variable of the calling thread.
    unsafe { native::cwebn_module_enter(number) }
}

/// Has `pthread_create(3)` and `thrd_create(3)` fail for modules that have started `most` threads that have not ended.
pub fn limit_threads(most: usize) {
    // SAFETY: writes a variable of the C code, atomically.
    unsafe { native::cwebn_threads_limit(most) };
}

/// Sends what modules print through stdio to `sink`.
///
/// # Errors
/// The streams could not be made.
pub fn capture_output(sink: Sink) -> io::Result<()> {
    // SAFETY: `sink` is a function of this process and needs no user pointer.
    if unsafe { native::cwebn_stdio_capture(sink, std::ptr::null_mut()) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Undoes [`capture_output`]. To be called before main returns: what modules left for exit(3) may print, and the sink is
/// not to run on a thread whose thread-local storage is gone.
pub fn return_output() {
    // SAFETY: sets two pointers of the C library to what they were.
    unsafe { native::cwebn_stdio_restore() };
}

/// The calling thread's signal stack, so that a stack overflow can be caught on it. Belongs to that thread.
#[derive(Debug)]
pub struct ThreadGuard {
    not_send: PhantomData<*mut ()>,
}

impl ThreadGuard {
    /// Gives the calling thread a signal stack. Without one (out of memory) all but stack overflows are still caught.
    #[must_use]
    pub fn new() -> Self {
        // SAFETY: affects the calling thread only; calling it twice is harmless.
        if unsafe { native::cwebn_thread_init() } != 0 {
            tracing::warn!("no signal stack for this thread: {}", io::Error::last_os_error());
        }
        Self { not_send: PhantomData }
    }
}

impl Default for ThreadGuard {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for ThreadGuard {
    fn drop(&mut self) {
        // SAFETY: on the thread that got the stack (the type is not Send), outside any guarded call.
        unsafe { native::cwebn_thread_exit() };
    }
}

/// Ends the process at once, with this code, without destructors.
pub fn end_process(code: u8) -> ! {
    // SAFETY: ends the process; no memory is involved.
    unsafe { native::cwebn_exit(c_int::from(code)) }
}

/// Ends the module call that the thread is in.
pub(super) fn exit(code: c_int) -> ! {
    // SAFETY: called from host::module_exit, whose frame owns nothing; all frames below are the module's.
    unsafe { native::cwebn_guard_exit(code) }
}

/// Whether the thread is in a module call that the server made.
pub(super) fn in_call() -> bool {
    // SAFETY: reads a variable of the calling thread.
    unsafe { native::cwebn_guard_active() != 0 }
}

fn outcome(faulted: c_int, fault: &RawFault) -> Result<(), Trap> {
    if faulted == 0 {
        Ok(())
    } else if fault.kind == FAULT_EXIT {
        Err(Trap::Exit { code: fault.exit_code })
    } else {
        let (address, instruction) = (fault.addr as usize, fault.pc as usize);
        Err(Trap::Signal { signal: fault.signo, address, instruction, stack_overflow: fault.stack_overflow != 0 })
    }
}

/// Calls a route's handler, and reads what it left in the response of `frame`.
///
/// # Errors
/// The handler did not return, or what it left can't be read: see [`CallFrame::reading`].
///
/// # Safety
/// `handler` is a function of a module that stays open during the call; the pointers are those of one
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
    // SAFETY: the caller's contract; the function takes the context or not as `with` says.
    let call = || unsafe { native::cwebn_call_handler(handler, context, request, response, handed, &raw mut fault) };
    let faulted = files::during(view, response, call);
    outcome(faulted, &fault)
}

/// Frees what a module has handed over.
///
/// # Errors
/// A part of it can't be freed.
///
/// # Safety
/// `handed` is that of the call, and all in `given` belongs to it.
pub(super) unsafe fn release(handed: *mut RawHanded, given: &mut RawGiven) -> Result<(), Trap> {
    let mut fault = NO_FAULT;
    // SAFETY: the caller's contract.
    let faulted = unsafe { native::cwebn_handed_release(handed, given, &raw mut fault) };
    outcome(faulted, &fault)
}

/// Runs the functions that a handler has deferred to the end of its request, each in a guard of its own.
///
/// # Errors
/// One of them did not return: how the first of those ended.
///
/// # Safety
/// `request` is that of a call that is over, with all that the functions may use.
pub(super) unsafe fn end_request(request: *mut RawRequest) -> Result<(), Trap> {
    let mut fault = NO_FAULT;
    // SAFETY: the caller's contract.
    let faulted = unsafe { native::cwebn_request_end(request, &raw mut fault) };
    outcome(faulted, &fault)
}

/// Frees `block` if it comes from malloc(3).
///
/// # Errors
/// It is no block that can be freed.
pub(super) fn free(block: *mut c_char) -> Result<(), Trap> {
    let mut fault = NO_FAULT;
    // SAFETY: a pointer that a module has handed over; a wrong one is caught.
    let faulted = unsafe { native::cwebn_handed_free(block.cast(), &raw mut fault) };
    outcome(faulted, &fault)
}

/// How a callback of a WebSocket ended.
#[derive(Debug)]
pub struct SocketOutcome {
    /// Whether it returned.
    pub result: Result<(), Trap>,
    /// Where a fault was, if not in the callback itself.
    pub reading: Option<Reading>,
    /// What it left that is not from malloc(3): bits for [`super::handed::Thing::of`].
    pub strange: u32,
}

/// What happens on a WebSocket.
pub enum SocketCall<'f> {
    /// `on_open`, and the frame with the request that opened the socket.
    Open(Option<Callee<SocketFn>>, Option<&'f mut CallFrame>),
    /// `on_message`: the message.
    Message(Option<Callee<MessageFn>>, Vec<u8>),
    /// `on_close`. The socket's session is freed.
    Close(Option<Callee<SocketFn>>),
}

/// Calls a callback of a WebSocket, if there is one; behind a message stands a NUL.
///
/// # Safety
/// The callback is a function of a module that stays open during the call; `ws` is the pointer of a
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
            SocketCall::Message(callback, mut message) => {
                let length = message.len();
                message.push(0);
                handed.lend(&message);
                let text = message.as_ptr().cast();
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

/// Calls a job's run function and returns what it returned.
///
/// # Errors
/// The function did not return.
///
/// # Safety
/// `run` is a function of a module that stays open during the call; the pointers are a `job_payload_t` and a `job_ctx_t`.
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

/// Calls a scheduled work.
pub(super) fn call_work(work: native::WorkFn, data: *mut c_void) -> Result<(), Trap> {
    let mut fault = NO_FAULT;
    // SAFETY: `work` lies in an object that the work's ticket keeps open; `data` is between the module and itself.
    let faulted = unsafe { native::cwebn_call_work(work, data, &raw mut fault) };
    outcome(faulted, &fault)
}
