//! The functions by which the tests of a module reach the test runner: `include/cweb_test.h`.
//!
//! A process runs one test, so all memory handed to the test is kept until the process ends.

use super::module::OpenModule;
use super::types::{Callee, HookFn};
use crate::proto::ws::Kind;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// Limit on the tests of a module.
const TESTS_MAX: usize = 10_000;

/// An answer, as a client receives it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TestAnswer {
    /// The answer's status.
    pub status: u16,
    /// Status line and header fields; lines end with CR LF.
    pub head: Vec<u8>,
    /// The body.
    pub body: Vec<u8>,
}

/// A job in its present state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TestJob {
    /// The job's UUID.
    pub uuid: String,
    /// The job's name.
    pub name: String,
    /// The job's payload.
    pub payload: String,
    /// `pending`, `running`, `done` or `failed`.
    pub state: &'static str,
    /// The result that the job has set, or the one that the server sets in its place.
    pub result: Option<String>,
    /// The error that the job has set, or the one that the server sets in its place.
    pub error: Option<String>,
    /// Types and data of the job's events.
    pub events: Vec<(String, Option<String>)>,
}

/// The runner of a test. Called by the test's thread, and by any thread of its module.
pub trait TestHost: Send + Sync {
    /// Makes a request and waits for the whole answer. `headers` has one field per line.
    fn request(&self, method: &[u8], target: &[u8], headers: &[u8], body: &[u8]) -> TestAnswer;
    /// Reports a failed assertion.
    fn failed(&self, file: &str, line: u32, text: &str);
    /// Reports that the test is skipped.
    fn skipped(&self, reason: &str);
    /// Sets or removes a setting. Returns false if the key is invalid.
    fn set_setting(&self, key: &str, value: Option<&str>) -> bool;
    /// Runs all waiting jobs. Returns how many have run.
    fn run_jobs(&self) -> usize;
    /// The job with this UUID.
    fn job(&self, uuid: &str) -> Option<TestJob>;
    /// The job with the index `index` in the order of creation.
    fn job_at(&self, index: usize) -> Option<TestJob>;
    /// Opens a WebSocket, and returns its number.
    ///
    /// # Errors
    /// The answer that refuses the handshake.
    fn open_socket(&self, target: &[u8], headers: &[u8]) -> Result<u64, TestAnswer>;
    /// Delivers a message to the module. Returns false if the socket is closed.
    fn send(&self, socket: u64, kind: Kind, payload: &[u8]) -> bool;
    /// Takes the oldest message that the module has sent; waits at most `wait`.
    fn receive(&self, socket: u64, wait: Duration) -> Option<(Kind, Vec<u8>)>;
    /// Whether the module has closed the socket.
    fn is_closed(&self, socket: u64) -> bool;
    /// Closes the socket from the client's side.
    fn close(&self, socket: u64);
    /// Waits until scheduled work has run, at most `wait`. Returns whether all of it has run.
    fn settle(&self, wait: Duration) -> bool;
    /// The directory of the test.
    fn dir(&self) -> &Path;
}

static HOST: OnceLock<Box<dyn TestHost>> = OnceLock::new();

/// Sets the `host` that runs the test of this process. Only the first call has an effect.
pub fn set_test_host(host: Box<dyn TestHost>) {
    let _ = HOST.set(host);
}

/// Orders one thread's actions before its [`Handoff::pass`] before another thread's actions after its own call. Tools that
/// watch pthread mutexes (ThreadSanitizer) see none of the server's atomics and futexes. Each pair of threads has a handoff of
/// its own, so that threads of different requests stay unordered.
#[derive(Debug)]
pub struct Handoff(Box<std::cell::UnsafeCell<libc::pthread_mutex_t>>);

// SAFETY: the mutex is never moved, and only used by the functions of pthread mutexes.
unsafe impl Send for Handoff {}
// SAFETY: as above.
unsafe impl Sync for Handoff {}

impl Default for Handoff {
    fn default() -> Self {
        Self(Box::new(std::cell::UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER)))
    }
}

impl Handoff {
    /// Passes the order on; see the type.
    pub fn pass(&self) {
        // SAFETY: an initialised mutex; locked and unlocked by the same thread.
        unsafe {
            libc::pthread_mutex_lock(self.0.get());
            libc::pthread_mutex_unlock(self.0.get());
        }
    }
}

impl Drop for Handoff {
    fn drop(&mut self) {
        // SAFETY: no thread holds the lock.
        unsafe { libc::pthread_mutex_destroy(self.0.get()) };
    }
}

/// The address of a module's test function.
#[derive(Debug, Clone, Copy)]
pub struct TestFn(HookFn);

/// A test that a module declares. Its function may be called while the module is open.
#[derive(Debug, Clone)]
pub struct TestCase {
    /// The test's name.
    pub name: String,
    /// The test's source file, as the compiler names it.
    pub file: String,
    /// The line in the source file.
    pub line: u32,
    /// The test's function.
    pub run: TestFn,
}

/// `struct cweb_test_case`
#[repr(C)]
struct RawCase {
    name: *const c_char,
    file: *const c_char,
    line: c_int,
    run: Option<HookFn>,
    next: *mut RawCase,
}

/// `struct cweb_test_response`
#[repr(C)]
struct RawAnswer {
    status: c_int,
    body: *const c_char,
    length: usize,
    head: *const c_char,
}

/// `struct cweb_test_event`
#[repr(C)]
struct RawEvent {
    kind: *const c_char,
    data: *const c_char,
}

/// `struct cweb_test_job`
#[repr(C)]
struct RawJob {
    uuid: *const c_char,
    name: *const c_char,
    payload: *const c_char,
    state: *const c_char,
    result: *const c_char,
    error: *const c_char,
    events: *const RawEvent,
    event_count: usize,
}

/// `struct cweb_test_message`
#[repr(C)]
struct RawMessage {
    kind: c_int,
    data: *const c_char,
    length: usize,
}

/// `struct cweb_test_host`
#[repr(C)]
struct TestTable {
    size: u32,
    request:
        unsafe extern "C" fn(*const c_char, *const c_char, *const c_char, *const c_void, usize) -> *const RawAnswer,
    failed: unsafe extern "C" fn(*const c_char, c_int, *const c_char),
    skipped: unsafe extern "C" fn(*const c_char),
    setting: unsafe extern "C" fn(*const c_char, *const c_char) -> c_int,
    run_jobs: unsafe extern "C" fn() -> usize,
    job: unsafe extern "C" fn(*const c_char) -> *const RawJob,
    job_at: unsafe extern "C" fn(usize) -> *const RawJob,
    ws_open: unsafe extern "C" fn(*const c_char, *const c_char, *mut *const RawAnswer) -> *mut c_void,
    ws_send: unsafe extern "C" fn(*mut c_void, c_int, *const c_void, usize) -> c_int,
    ws_receive: unsafe extern "C" fn(*mut c_void, c_int) -> *const RawMessage,
    ws_is_closed: unsafe extern "C" fn(*mut c_void) -> c_int,
    ws_close: unsafe extern "C" fn(*mut c_void),
    settle: unsafe extern "C" fn(c_int) -> c_int,
    dir: unsafe extern "C" fn() -> *const c_char,
    header: unsafe extern "C" fn(*const RawAnswer, *const c_char) -> *const c_char,
}

static TABLE: TestTable = TestTable {
    size: size_of::<TestTable>() as u32,
    request,
    failed,
    skipped,
    setting,
    run_jobs,
    job,
    job_at,
    ws_open,
    ws_send,
    ws_receive,
    ws_is_closed,
    ws_close,
    settle,
    dir,
    header,
};

impl OpenModule {
    /// The tests that the module declares, in order. Empty if it was compiled without tests.
    #[must_use]
    pub fn tests(&self) -> Vec<TestCase> {
        let mut found = Vec::new();
        // SAFETY: in a module that was compiled for tests the symbol is a variable of this type, of cweb_test.h, and each
        // case lies in the module, which is open.
        unsafe {
            let first = self.symbol("cweb_test_cases\0").cast::<*mut RawCase>();
            let mut next = first.as_ref().copied().unwrap_or(std::ptr::null_mut());
            while let Some(case) = next.as_ref().filter(|_| found.len() < TESTS_MAX) {
                let text = |text: *const c_char| CStr::from_ptr(text).to_string_lossy().into_owned();
                let line = u32::try_from(case.line).unwrap_or_default();
                let run = case.run.map(TestFn);
                found.extend(run.map(|run| TestCase { name: text(case.name), file: text(case.file), line, run }));
                next = case.next;
            }
        }
        found
    }

    /// Connects the module's tests with the host.
    pub fn bind_tests(&self) {
        type BindFn = unsafe extern "C" fn(*const TestTable);
        let bind = self.symbol("cweb_bind_tests\0");
        if !bind.is_null() {
            // SAFETY: the symbol is a function of this type, of cweb_test.h; the table lives for ever.
            unsafe { std::mem::transmute::<*mut c_void, BindFn>(bind)(&raw const TABLE) };
        }
    }

    /// A test as a function that is called like a hook.
    pub(crate) fn test_hook(&self, test: TestFn) -> Callee<HookFn> {
        // Tests always take the context, even if the module's own functions do not.
        Callee::new(test.0, super::manifest::Api::ThreeArguments)
    }
}

/// Memory handed to the test, kept until the process ends.
static KEPT: Mutex<Vec<Kept>> = Mutex::new(Vec::new());

/// Memory that no code writes any more, and the structure that points to it.
enum Kept {
    Text(#[allow(dead_code)] Vec<u8>),
    Answer(#[allow(dead_code)] Box<RawAnswer>),
    Events(#[allow(dead_code)] Box<[RawEvent]>),
    Job(#[allow(dead_code)] Box<RawJob>),
    Message(#[allow(dead_code)] Box<RawMessage>),
}

// SAFETY: the pointers lead to other kept memory, which no code writes.
unsafe impl Send for Kept {}

fn keep(kept: Kept) {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner).push(kept);
}

/// A copy of `text` with a NUL behind it.
fn text_of(text: &[u8]) -> *const c_char {
    let mut copy = Vec::with_capacity(text.len() + 1);
    copy.extend_from_slice(text);
    copy.push(0);
    let pointer = copy.as_ptr().cast();
    keep(Kept::Text(copy));
    pointer
}

fn optional(text: Option<&String>) -> *const c_char {
    text.map_or(std::ptr::null(), |text| text_of(text.as_bytes()))
}

fn keep_answer(answer: &TestAnswer) -> *const RawAnswer {
    let raw = Box::new(RawAnswer {
        status: c_int::from(answer.status),
        body: text_of(&answer.body),
        length: answer.body.len(),
        head: text_of(&answer.head),
    });
    let pointer = &raw const *raw;
    keep(Kept::Answer(raw));
    pointer
}

fn keep_job(job: &TestJob) -> *const RawJob {
    let event = |(kind, data): &(String, Option<String>)| RawEvent {
        kind: text_of(kind.as_bytes()),
        data: optional(data.as_ref()),
    };
    let events: Box<[RawEvent]> = job.events.iter().map(event).collect();
    let raw = Box::new(RawJob {
        uuid: text_of(job.uuid.as_bytes()),
        name: text_of(job.name.as_bytes()),
        payload: text_of(job.payload.as_bytes()),
        state: text_of(job.state.as_bytes()),
        result: optional(job.result.as_ref()),
        error: optional(job.error.as_ref()),
        events: events.as_ptr(),
        event_count: events.len(),
    });
    let pointer = &raw const *raw;
    keep(Kept::Events(events));
    keep(Kept::Job(raw));
    pointer
}

/// The bytes of a C string, empty for NULL. Read before anything is owned: a wrong pointer makes the guard jump out of this
/// frame.
///
/// # Safety
/// `text` is NULL or a C string that outlives the value.
unsafe fn bytes<'a>(text: *const c_char) -> &'a [u8] {
    // SAFETY: the caller's contract.
    if text.is_null() { &[] } else { unsafe { CStr::from_ptr(text) }.to_bytes() }
}

/// # Safety
/// By the contract of the table: C strings or NULL, and `length` readable bytes.
unsafe extern "C" fn request(
    method: *const c_char,
    target: *const c_char,
    headers: *const c_char,
    body: *const c_void,
    length: usize,
) -> *const RawAnswer {
    // SAFETY: the caller's contract.
    let (method, target, headers, body) = unsafe {
        let body = if body.is_null() { &[] } else { super::websocket::touched(body.cast(), length) };
        (bytes(method), bytes(target), bytes(headers), body)
    };
    let answer = HOST.get().map(|host| host.request(method, target, headers, body)).unwrap_or_default();
    keep_answer(&answer)
}

/// # Safety
/// By the contract of the table: C strings.
unsafe extern "C" fn failed(file: *const c_char, line: c_int, text: *const c_char) {
    // SAFETY: the caller's contract.
    let (file, text) = unsafe { (bytes(file), bytes(text)) };
    if let Some(host) = HOST.get() {
        let line = u32::try_from(line).unwrap_or_default();
        host.failed(&String::from_utf8_lossy(file), line, &String::from_utf8_lossy(text));
    }
}

/// # Safety
/// By the contract of the table: a C string or NULL.
unsafe extern "C" fn skipped(reason: *const c_char) {
    // SAFETY: the caller's contract.
    let reason = unsafe { bytes(reason) };
    if let Some(host) = HOST.get() {
        host.skipped(&String::from_utf8_lossy(reason));
    }
}

/// # Safety
/// By the contract of the table: C strings, the value or NULL.
unsafe extern "C" fn setting(key: *const c_char, value: *const c_char) -> c_int {
    // SAFETY: the caller's contract.
    let (key, has_value, value) = unsafe { (bytes(key), !value.is_null(), bytes(value)) };
    let (key, value) = (String::from_utf8_lossy(key), String::from_utf8_lossy(value));
    let is_set = HOST.get().is_some_and(|host| host.set_setting(&key, has_value.then_some(&*value)));
    if is_set { 0 } else { -1 }
}

unsafe extern "C" fn run_jobs() -> usize {
    HOST.get().map_or(0, |host| host.run_jobs())
}

/// # Safety
/// By the contract of the table: a C string or NULL.
unsafe extern "C" fn job(uuid: *const c_char) -> *const RawJob {
    // SAFETY: the caller's contract.
    let uuid = unsafe { bytes(uuid) };
    let found = HOST.get().and_then(|host| host.job(&String::from_utf8_lossy(uuid)));
    found.map_or(std::ptr::null(), |job| keep_job(&job))
}

unsafe extern "C" fn job_at(index: usize) -> *const RawJob {
    let found = HOST.get().and_then(|host| host.job_at(index));
    found.map_or(std::ptr::null(), |job| keep_job(&job))
}

/// A socket's number as the pointer that tests hold. The pointer is never followed, so a wrong pointer only names no socket.
fn handle(socket: u64) -> *mut c_void {
    std::ptr::without_provenance_mut(usize::try_from(socket).unwrap_or_default())
}

fn number(handle: *mut c_void) -> u64 {
    handle.addr() as u64
}

/// # Safety
/// By the contract of the table: C strings or NULL; `refusal` is NULL or writable.
unsafe extern "C" fn ws_open(
    target: *const c_char,
    headers: *const c_char,
    refusal: *mut *const RawAnswer,
) -> *mut c_void {
    // SAFETY: the caller's contract.
    let (target, headers) = unsafe {
        if !refusal.is_null() {
            *refusal = std::ptr::null();
        }
        (bytes(target), bytes(headers))
    };
    let opened = HOST.get().map_or_else(|| Err(TestAnswer::default()), |host| host.open_socket(target, headers));
    match opened {
        Ok(socket) => handle(socket),
        Err(answer) => {
            let answer = keep_answer(&answer);
            if !refusal.is_null() {
                // SAFETY: the caller's contract; `refusal` was written above.
                unsafe { *refusal = answer };
            }
            std::ptr::null_mut()
        }
    }
}

/// `CWEB_WS_BINARY`
const BINARY: c_int = 2;
/// `CWEB_WS_TEXT`
const TEXT: c_int = 1;

/// # Safety
/// By the contract of the table: `length` readable bytes.
unsafe extern "C" fn ws_send(socket: *mut c_void, kind: c_int, data: *const c_void, length: usize) -> c_int {
    // SAFETY: the caller's contract.
    let payload = if data.is_null() { &[] } else { unsafe { super::websocket::touched(data.cast(), length) } };
    let kind = if kind == BINARY { Kind::Binary } else { Kind::Text };
    if HOST.get().is_some_and(|host| host.send(number(socket), kind, payload)) { 0 } else { -1 }
}

unsafe extern "C" fn ws_receive(socket: *mut c_void, wait_ms: c_int) -> *const RawMessage {
    let wait = Duration::from_millis(u64::try_from(wait_ms).unwrap_or_default());
    let Some((kind, payload)) = HOST.get().and_then(|host| host.receive(number(socket), wait)) else {
        return std::ptr::null();
    };
    let kind = if kind == Kind::Binary { BINARY } else { TEXT };
    let raw = Box::new(RawMessage { kind, data: text_of(&payload), length: payload.len() });
    let pointer = &raw const *raw;
    keep(Kept::Message(raw));
    pointer
}

unsafe extern "C" fn ws_is_closed(socket: *mut c_void) -> c_int {
    c_int::from(HOST.get().is_none_or(|host| host.is_closed(number(socket))))
}

unsafe extern "C" fn ws_close(socket: *mut c_void) {
    if let Some(host) = HOST.get() {
        host.close(number(socket));
    }
}

unsafe extern "C" fn settle(wait_ms: c_int) -> c_int {
    let wait = Duration::from_millis(u64::try_from(wait_ms).unwrap_or_default());
    if HOST.get().is_some_and(|host| host.settle(wait)) { 0 } else { -1 }
}

unsafe extern "C" fn dir() -> *const c_char {
    static DIR: OnceLock<CString> = OnceLock::new();
    let text = || HOST.get().map(|host| host.dir().as_os_str().as_encoded_bytes().to_vec()).unwrap_or_default();
    DIR.get_or_init(|| CString::new(text()).unwrap_or_default()).as_ptr()
}

/// # Safety
/// By the contract of the table: an answer that was handed out, and a C string.
unsafe extern "C" fn header(answer: *const RawAnswer, name: *const c_char) -> *const c_char {
    // SAFETY: the caller's contract; the head is kept.
    let (head, name) = unsafe {
        let Some(answer) = answer.as_ref() else { return std::ptr::null() };
        (bytes(answer.head), bytes(name))
    };
    let fields = head.split(|byte| *byte == b'\n').skip(1);
    for field in fields {
        let Some(colon) = field.iter().position(|byte| *byte == b':') else { continue };
        let (found, value) = field.split_at(colon);
        if found.eq_ignore_ascii_case(name) {
            return text_of(value.get(1..).unwrap_or_default().trim_ascii());
        }
    }
    std::ptr::null()
}
