//! Calls into modules that survive faults.
//!
//! The setjmp, the signal handlers and the jump are in C (`native/guard.c`). No Rust frame lies between the guard and the
//! module's code, so a jump skips none.

use super::native::{self, FAULT_EXIT, RawFault, RawGiven, RawHanded, RawRequest, Sink};
use std::ffi::{c_char, c_int, c_void};
use std::io;
use std::marker::PhantomData;
use std::sync::atomic::AtomicU64;

/// Why module code did not return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trap {
    /// A signal.
    Signal {
        /// The signal's number.
        signal: i32,
        /// The address accessed, for SIGSEGV and SIGBUS.
        address: usize,
        /// The address of the instruction; 0 if the architecture is not known.
        instruction: usize,
        /// Whether the stack had overflowed.
        stack_overflow: bool,
    },
    /// The module called exit(3) or a related function.
    Exit {
        /// The exit code that the module passed.
        code: i32,
    },
}

/// Names of the registers of a [`Trace`], in order.
#[cfg(target_arch = "x86_64")]
pub const REGISTERS: &[&str] = &[
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
    "rip", "eflags",
];
/// Names of the registers of a [`Trace`], in order.
#[cfg(target_arch = "aarch64")]
pub const REGISTERS: &[&str] = &[
    "x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15", "x16", "x17",
    "x18", "x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27", "x28", "x29", "x30", "sp", "pc",
];
/// Names of the registers of a [`Trace`], in order.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub const REGISTERS: &[&str] = &[];

/// The position of a thread when a signal was caught.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace {
    /// The instruction, then return addresses, as far as frame pointers lead.
    pub frames: Vec<u64>,
    /// Values of [`REGISTERS`].
    pub registers: Vec<u64>,
}

/// The trace of the calling thread for the signal at `instruction`; empty if its last signal was another one.
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
    // After a jump to an invalid address there is no instruction: the trace begins with the caller.
    if instruction != 0 && frames.first() != Some(&(instruction as u64)) {
        return Trace::default();
    }
    Trace { frames, registers: taken(&raw.registers, raw.register_count) }
}

pub(super) const NO_FAULT: RawFault = RawFault {
    signo: 0,
    exit_code: 0,
    addr: std::ptr::null_mut(),
    pc: std::ptr::null_mut(),
    kind: 0,
    stack_overflow: 0,
};

/// Installs the signal handlers, once for the process. A sanitizer keeps its own handlers.
///
/// # Errors
/// `sigaction(2)` failed.
pub fn install() -> io::Result<()> {
    if super::sanitizer::is_active() {
        // The sanitizer's report of a signal has more details than the server's.
        return Ok(());
    }
    // SAFETY: installs handlers that chain to those before them.
    if unsafe { native::cwebn_guard_init() } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Bytes of a note about a refused call.
pub const REFUSAL_BYTES: usize = 16;

/// Makes system calls that a filter refuses by SIGSYS return their error, and notes them in `descriptor`. The descriptor must
/// be non-blocking and stay open: see [`refusal`].
///
/// # Errors
/// `sigaction(2)` failed.
pub fn note_refusals(descriptor: i32) -> io::Result<()> {
    // SAFETY: writes a variable of the C code, atomically, and installs a handler that needs nothing else.
    if unsafe { native::cwebn_guard_refusals(descriptor) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Decodes a note about a refused call: the number of the module, 0 if it is not known, and the number of the call.
#[must_use]
pub fn refusal(note: [u8; REFUSAL_BYTES]) -> (u64, i64) {
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |word, byte| word << 8 | u64::from(*byte));
    let (module, call) = note.split_at(REFUSAL_BYTES / 2);
    (word(module), word(call).cast_signed())
}

/// The exit code, without its lowest byte, that the server's own code passes to exit_group(2) in a process of modules.
pub const EXIT_MARK: u32 = native::EXIT_MARK;

/// Number of words that describe a deadly signal: see [`note_deaths`].
pub const NOTE_WORDS: usize = native::NOTE_WORDS;

/// The trace in the words about a deadly signal. The words are only hints, because module code can overwrite them.
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

/// Makes a signal in module code end the process with a core file in `directory`, a descriptor that must stay open.
pub fn leave_cores(directory: i32) {
    // SAFETY: writes a variable of the C code, atomically.
    unsafe { native::cwebn_guard_cores(directory) };
}

/// Makes a signal that ends the process be recorded in the first [`NOTE_WORDS`] of `words`: see `cwebn_guard_note`.
pub fn note_deaths(words: &'static [AtomicU64]) {
    if words.len() >= native::NOTE_WORDS {
        // SAFETY: the array has enough aligned words, which live for ever and are accessed as atomics only, in Rust and in C.
        unsafe { native::cwebn_guard_note(words.as_ptr().cast_mut().cast::<u64>()) };
    }
}

/// Sets the module whose code the calling thread runs; 0: none. Returns the previous one.
pub fn enter_module(number: u64) -> u64 {
    // SAFETY: writes a variable of the calling thread.
    unsafe { native::cwebn_module_enter(number) }
}

/// Makes `pthread_create(3)` and `thrd_create(3)` fail for modules with `most` running threads.
pub fn limit_threads(most: usize) {
    // SAFETY: writes a variable of the C code, atomically.
    unsafe { native::cwebn_threads_limit(most) };
}

/// Redirects the stdio output of modules to `sink`.
///
/// # Errors
/// The streams could not be created.
pub fn capture_output(sink: Sink) -> io::Result<()> {
    // SAFETY: `sink` is a function of this process and needs no user pointer.
    if unsafe { native::cwebn_stdio_capture(sink, std::ptr::null_mut()) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Undoes [`capture_output`]. The caller must do that before main returns. Functions that modules registered with
/// atexit(3) may print, and the sink must not run on a thread whose thread-local storage is gone.
pub fn return_output() {
    // SAFETY: restores two pointers of the C library.
    unsafe { native::cwebn_stdio_restore() };
}

/// The calling thread's signal stack, on which a stack overflow can be caught. The value belongs to that thread.
#[derive(Debug)]
pub struct ThreadGuard {
    not_send: PhantomData<*mut ()>,
}

impl ThreadGuard {
    /// Gives the calling thread a signal stack. Without one (out of memory), all faults except stack overflows are still
    /// caught.
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

/// Ends the process at once with this code, without running destructors.
pub fn end_process(code: u8) -> ! {
    // SAFETY: ends the process; no memory is involved.
    unsafe { native::cwebn_exit(c_int::from(code)) }
}

/// Ends the present module call of the thread.
pub(super) fn exit(code: c_int) -> ! {
    // SAFETY: called from host::module_exit, whose frame owns nothing; all frames below are the module's.
    unsafe { native::cwebn_guard_exit(code) }
}

/// Whether the thread is in a module call made by the server.
pub(super) fn in_call() -> bool {
    // SAFETY: reads a variable of the calling thread.
    unsafe { native::cwebn_guard_active() != 0 }
}

pub(super) fn outcome(faulted: c_int, fault: &RawFault) -> Result<(), Trap> {
    if faulted == 0 {
        Ok(())
    } else if fault.kind == FAULT_EXIT {
        Err(Trap::Exit { code: fault.exit_code })
    } else {
        let (address, instruction) = (fault.addr as usize, fault.pc as usize);
        Err(Trap::Signal { signal: fault.signo, address, instruction, stack_overflow: fault.stack_overflow != 0 })
    }
}

/// Frees the memory that a module has handed over.
///
/// # Errors
/// A part of the memory can't be freed.
///
/// # Safety
/// `handed` must be the record of the call, and all memory in `given` must belong to that call.
pub(super) unsafe fn release(handed: *mut RawHanded, given: &mut RawGiven) -> Result<(), Trap> {
    let mut fault = NO_FAULT;
    // SAFETY: the caller's contract.
    let faulted = unsafe { native::cwebn_handed_release(handed, given, &raw mut fault) };
    outcome(faulted, &fault)
}

/// Runs the functions that a handler has deferred to the end of its request, each under its own guard.
///
/// # Errors
/// At least one function did not return: how the first of these ended.
///
/// # Safety
/// `request` must belong to a call that is over, and all memory that the functions may use must still exist.
pub(super) unsafe fn end_request(request: *mut RawRequest) -> Result<(), Trap> {
    let mut fault = NO_FAULT;
    // SAFETY: the caller's contract.
    let faulted = unsafe { native::cwebn_request_end(request, &raw mut fault) };
    outcome(faulted, &fault)
}

/// Frees `block` if it comes from malloc(3).
///
/// # Errors
/// The block can't be freed.
pub(super) fn free(block: *mut c_char) -> Result<(), Trap> {
    let mut fault = NO_FAULT;
    // SAFETY: a pointer that a module has handed over; a wrong pointer is caught.
    let faulted = unsafe { native::cwebn_handed_free(block.cast(), &raw mut fault) };
    outcome(faulted, &fault)
}

/// Calls a scheduled work.
pub(super) fn call_work(work: native::WorkFn, data: *mut c_void) -> Result<(), Trap> {
    let mut fault = NO_FAULT;
    // SAFETY: `work` lies in an object that the work's ticket keeps open; only the module interprets `data`.
    let faulted = unsafe { native::cwebn_call_work(work, data, &raw mut fault) };
    outcome(faulted, &fault)
}
