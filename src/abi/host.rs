//! `struct cweb_host`: the functions a module can call in the server.

use super::crypto::Token;
use super::files::FileWish;
use super::module_token::ModuleToken;
use super::native::WorkFn;
use super::rooms::SocketServices;
use super::stream::{STREAM_TABLE, StreamTable};
use super::types::{ABI_VERSION, HttpResponse, WebSocket};
use super::uncancelled::Uncancelled;
use super::{events, guard, native, worker};
use crate::proto::ws::Kind;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;
use tracing::Level;

/// Queues a job for module code.
///
/// # Errors
/// Why the job was refused, as a text for people.
pub fn create_job(module: &ModuleToken, job: &str, payload: &str) -> Result<String, String> {
    match CREATE_JOB.get() {
        Some(create) => create(module, job, payload),
        None => Err("the server runs no jobs yet".to_owned()),
    }
}

/// Queues a job for module code; the arguments are the module, the job's name and its payload. Returns the job's UUID once the
/// job is durable.
pub type CreateJob = Box<dyn Fn(&ModuleToken, &str, &str) -> Result<String, String> + Send + Sync>;

static CREATE_JOB: OnceLock<CreateJob> = OnceLock::new();

/// Enables modules to create jobs. Only the first call has an effect.
pub fn set_create_job(create: CreateJob) {
    let _ = CREATE_JOB.set(create);
}

/// Receives a line that a module logs; the arguments are its name, the level and the text.
pub type LogLine = fn(&str, Level, &str);

static LOG: OnceLock<LogLine> = OnceLock::new();

/// Passes the lines that modules log to `log`. Only the first call has an effect.
pub fn set_log(log: LogLine) {
    let _ = LOG.set(log);
}

/// `struct cweb_host`
#[repr(C)]
pub struct HostTable {
    abi_version: u32,
    size: u32,
    jobs_create: unsafe extern "C" fn(*const c_void, *const c_char, *const c_char, *mut c_char) -> c_int,
    module_exit: unsafe extern "C" fn(*const c_void, c_int, *const c_char) -> !,
    crypto_sign: unsafe extern "C" fn(*const c_char, *mut c_char, usize) -> c_int,
    crypto_verify: unsafe extern "C" fn(*const c_char, *const c_char, usize) -> c_int,
    ws_broadcast: unsafe extern "C" fn(*const *mut WebSocket, usize, *const c_char, usize) -> c_int,
    log: unsafe extern "C" fn(*const c_void, c_int, *const c_char),
    in_call: unsafe extern "C" fn() -> c_int,
    ws_send: unsafe extern "C" fn(*const *mut WebSocket, usize, c_int, *const c_char, usize) -> c_int,
    event_add: unsafe extern "C" fn(*const c_void, c_int, c_uint, WorkFn, *mut c_void) -> c_int,
    event_del: unsafe extern "C" fn(*const c_void, *mut c_void) -> c_int,
    requests: *const native::RequestServices,
    send_file: unsafe extern "C" fn(*const c_void, *mut HttpResponse, *const FileWish) -> c_int,
    stream: &'static StreamTable,
    setting: unsafe extern "C" fn(*const c_void, *const c_char) -> *const c_char,
    sockets: *const SocketServices,
    token_sign: unsafe extern "C" fn(*const c_char, *const c_char, c_uint, *mut c_char, usize) -> c_int,
    token_verify: unsafe extern "C" fn(*const c_char, *const c_char, usize, *const c_char) -> c_int,
    reserved: [usize; 5],
}

// SAFETY: functions, and a pointer to a table of functions that no code writes.
unsafe impl Sync for HostTable {}

/// Offsets of `struct cweb_host` as Rust sees them.
#[cfg(test)]
pub(super) fn host_layout() -> Vec<(&'static str, usize)> {
    use std::mem::offset_of;
    vec![
        ("cweb_host", size_of::<HostTable>()),
        ("cweb_host.jobs_create", offset_of!(HostTable, jobs_create)),
        ("cweb_host.module_exit", offset_of!(HostTable, module_exit)),
        ("cweb_host.crypto_verify", offset_of!(HostTable, crypto_verify)),
        ("cweb_host.log", offset_of!(HostTable, log)),
        ("cweb_host.in_call", offset_of!(HostTable, in_call)),
        ("cweb_host.ws_send", offset_of!(HostTable, ws_send)),
        ("cweb_host.event_add", offset_of!(HostTable, event_add)),
        ("cweb_host.event_del", offset_of!(HostTable, event_del)),
        ("cweb_host.requests", offset_of!(HostTable, requests)),
        ("cweb_host.send_file", offset_of!(HostTable, send_file)),
        ("cweb_host.stream", offset_of!(HostTable, stream)),
        ("cweb_host.setting", offset_of!(HostTable, setting)),
        ("cweb_host.sockets", offset_of!(HostTable, sockets)),
        ("cweb_host.token_verify", offset_of!(HostTable, token_verify)),
    ]
}

static TABLE: HostTable = HostTable {
    abi_version: ABI_VERSION,
    size: size_of::<HostTable>() as u32,
    jobs_create,
    module_exit,
    crypto_sign,
    crypto_verify,
    ws_broadcast,
    log,
    in_call,
    ws_send,
    event_add,
    event_del,
    requests: &raw const native::cwebn_requests,
    send_file,
    stream: &STREAM_TABLE,
    setting,
    sockets: &raw const super::rooms::SERVICES,
    token_sign,
    token_verify,
    reserved: [0; 5],
};

/// The table of this server.
#[must_use]
pub fn table() -> *const HostTable {
    &raw const TABLE
}

/// Bytes of a UUID's text with its NUL: `cweb_uuid_t`.
const UUID_SIZE: usize = 37;

/// Limit, in bytes, on the lines that a module logs in one call.
const LOG_BYTES_MAX: usize = 4 * 1024;

/// # Safety
/// `module` is the token its module was bound with, which lives as long as the module is open.
unsafe fn module_name<'a>(module: *const c_void) -> &'a str {
    // SAFETY: the caller's contract.
    unsafe { module.cast::<ModuleToken>().as_ref() }.map_or("?", |token| token.name.as_str())
}

unsafe extern "C" fn jobs_create(
    module: *const c_void,
    job: *const c_char,
    payload_json: *const c_char,
    uuid_out: *mut c_char,
) -> c_int {
    if job.is_null() || payload_json.is_null() || uuid_out.is_null() || worker::refuses(c"jobs_create()") {
        return -1;
    }
    // The strings are measured and the output is written before anything is allocated: a bad pointer makes the guard jump out
    // of this frame.
    // SAFETY: by the contract of the table two C strings, a token, and 37 writable bytes.
    let (job, payload, token) = unsafe {
        *uuid_out = 0;
        let texts = (CStr::from_ptr(job).to_bytes(), CStr::from_ptr(payload_json).to_bytes());
        (texts.0, texts.1, module.cast::<ModuleToken>().as_ref())
    };
    let Some(token) = token else { return -1 };
    let _uncancelled = Uncancelled::begin();
    let (job, payload) = (String::from_utf8_lossy(job), String::from_utf8_lossy(payload));
    match create_job(token, &job, &payload) {
        Ok(uuid) if uuid.len() < UUID_SIZE => {
            // SAFETY: shorter than the 37 bytes of the contract; the NUL fits.
            unsafe {
                std::ptr::copy_nonoverlapping(uuid.as_ptr(), uuid_out.cast::<u8>(), uuid.len());
                *uuid_out.add(uuid.len()) = 0;
            }
            0
        }
        Ok(_) => -1,
        Err(why) => {
            tracing::warn!("module {}: jobs_create({job}): {why}", token.name);
            -1
        }
    }
}

/// Ends the module's present call. The guard jumps over this frame, so the frame must own nothing.
///
/// # Safety
/// Must be called by module code, within a guarded call.
unsafe extern "C" fn module_exit(_module: *const c_void, code: c_int, _how: *const c_char) -> ! {
    guard::exit(code)
}

unsafe extern "C" fn in_call() -> c_int {
    c_int::from(guard::in_call())
}

/// The result of functions like event_add(3): 0, or -1 and `errno`.
fn with_errno(result: std::io::Result<()>) -> c_int {
    let Err(error) = result else { return 0 };
    // SAFETY: the calling thread's own errno (errno(3)).
    unsafe { *libc::__errno_location() = error.raw_os_error().unwrap_or(libc::EIO) };
    -1
}

/// # Safety
/// By the contract of the table: `module` is a token, `run` a function of that module. `event` is only passed on.
unsafe extern "C" fn event_add(
    module: *const c_void,
    fd: c_int,
    wanted: c_uint,
    run: WorkFn,
    event: *mut c_void,
) -> c_int {
    // SAFETY: the caller's contract.
    let Some(token) = (unsafe { module.cast::<ModuleToken>().as_ref() }) else { return -1 };
    if worker::refuses(c"event_add()") {
        return -1;
    }
    let _uncancelled = Uncancelled::begin();
    with_errno(events::add(token, fd, wanted, run, event))
}

/// # Safety
/// By the contract of the table: `module` is a token. `event` is only compared.
unsafe extern "C" fn event_del(module: *const c_void, event: *mut c_void) -> c_int {
    // SAFETY: the caller's contract.
    let Some(token) = (unsafe { module.cast::<ModuleToken>().as_ref() }) else { return -1 };
    let _uncancelled = Uncancelled::begin();
    with_errno(events::remove(token, event))
}

/// # Safety
/// By the contract of the table: `wish` has C strings or NULL. `response` is only compared.
unsafe extern "C" fn send_file(_module: *const c_void, response: *mut HttpResponse, wish: *const FileWish) -> c_int {
    let _uncancelled = Uncancelled::begin();
    if worker::is_on() {
        // Without a root, the caller sends the content of the file as the body instead.
        return with_errno(Err(std::io::Error::from_raw_os_error(libc::ENOTSUP)));
    }
    // SAFETY: the caller's contract.
    with_errno(unsafe { super::files::send_file(response, wish) })
}

/// # Safety
/// By the contract of the table: `token` is a C string, `out` has `out_len` writable bytes.
unsafe extern "C" fn crypto_sign(token: *const c_char, out: *mut c_char, out_len: usize) -> c_int {
    // SAFETY: the contract is the same.
    unsafe { token_sign(token, std::ptr::null(), 0, out, out_len) }
}

/// The domain of modules in this process, if this process is the server. The server names the domain of a process of modules.
const OWN_DOMAIN: &str = "default";

/// # Safety
/// By the contract of the table: `token` is a C string, `audience` NULL or a C string, `out` has `out_len` writable bytes.
unsafe extern "C" fn token_sign(
    token: *const c_char,
    audience: *const c_char,
    valid_s: c_uint,
    out: *mut c_char,
    out_len: usize,
) -> c_int {
    if token.is_null() || out.is_null() || out_len == 0 || worker::refuses(c"a signature of the server") {
        return -1;
    }
    // SAFETY: C strings by the contract of the table.
    let (text, audience) = unsafe { (CStr::from_ptr(token).to_bytes(), text_or_empty(audience)) };
    let token = Token { text: text.to_vec(), audience: audience.to_string_lossy().into_owned(), valid_s };
    let _uncancelled = Uncancelled::begin();
    let Some(signed) = super::crypto::sign(OWN_DOMAIN, &token) else { return -1 };
    let Ok(length) = c_int::try_from(signed.len()) else { return -1 };
    if signed.len() >= out_len {
        return -1;
    }
    // SAFETY: `out` has `out_len` writable bytes by the contract, more than the text and its NUL need.
    unsafe {
        std::ptr::copy_nonoverlapping(signed.as_ptr(), out.cast::<u8>(), signed.len());
        *out.add(signed.len()) = 0;
    }
    length
}

/// # Safety
/// `text` is NULL or a C string.
unsafe fn text_or_empty<'a>(text: *const c_char) -> &'a CStr {
    // SAFETY: the caller's contract.
    if text.is_null() { c"" } else { unsafe { CStr::from_ptr(text) } }
}

unsafe extern "C" fn crypto_verify(signed: *const c_char, token: *const c_char, token_len: usize) -> c_int {
    // SAFETY: the contract is the same.
    unsafe { token_verify(signed, token, token_len, std::ptr::null()) }
}

unsafe extern "C" fn token_verify(
    signed: *const c_char,
    token: *const c_char,
    token_len: usize,
    audience: *const c_char,
) -> c_int {
    if signed.is_null() || token.is_null() || worker::refuses(c"checking a signature") {
        return -1;
    }
    // SAFETY: C strings, and `token_len` readable bytes, by the contract of the table; nothing is owned here yet.
    let (signed, audience, text) = unsafe {
        (CStr::from_ptr(signed).to_bytes(), text_or_empty(audience), super::websocket::touched(token, token_len))
    };
    let token = Token { text: text.to_vec(), audience: audience.to_string_lossy().into_owned(), valid_s: 0 };
    let _uncancelled = Uncancelled::begin();
    if super::crypto::verify(OWN_DOMAIN, signed, &token) { 0 } else { -1 }
}

unsafe extern "C" fn ws_broadcast(
    sockets: *const *mut WebSocket,
    count: usize,
    message: *const c_char,
    length: usize,
) -> c_int {
    // SAFETY: the contract is the same.
    unsafe { ws_send(sockets, count, SEND_LIKE_LAST, message, length) }
}

/// `CWEB_WS_TEXT`
const SEND_TEXT: c_int = 1;
/// `CWEB_WS_BINARY`
const SEND_BINARY: c_int = 2;
/// Any other type: the type that `websocket_t.send` would choose.
const SEND_LIKE_LAST: c_int = 0;

/// # Safety
/// `count` pointers, each NULL or an open `websocket_t`; `message` has `length` readable bytes.
unsafe extern "C" fn ws_send(
    sockets: *const *mut WebSocket,
    count: usize,
    kind: c_int,
    message: *const c_char,
    length: usize,
) -> c_int {
    if sockets.is_null() || count == 0 {
        return 0;
    }
    let asked = match kind {
        SEND_TEXT => Some(Kind::Text),
        SEND_BINARY => Some(Kind::Binary),
        _ => None,
    };
    // SAFETY: `count` pointers by the contract of the table, each NULL or an open websocket_t.
    let sockets = unsafe { std::slice::from_raw_parts(sockets, count) };
    // `send_as` keeps the last encoded frame of each thread, so the loop encodes the message once.
    let sent = sockets.iter().filter(|&&ws| {
        // SAFETY: by the contract of websocket_t; `send_as` checks the rest.
        unsafe { super::websocket::send_as(ws, asked, message, length) == 0 }
    });
    c_int::try_from(sent.count()).unwrap_or(c_int::MAX)
}

/// # Safety
/// By the contract of the table: `module` is a token, `key` a C string.
unsafe extern "C" fn setting(module: *const c_void, key: *const c_char) -> *const c_char {
    if key.is_null() {
        return std::ptr::null();
    }
    // The string is measured before anything is held: a bad pointer makes the guard jump out of this frame.
    // SAFETY: the caller's contract.
    let (key, token) = unsafe {
        let key = CStr::from_ptr(key);
        (key, module.cast::<ModuleToken>().as_ref())
    };
    token.map_or(std::ptr::null(), |token| token.settings.get(key))
}

unsafe extern "C" fn log(module: *const c_void, level: c_int, message: *const c_char) {
    if message.is_null() {
        return;
    }
    // SAFETY: a token and a C string by the contract of the table.
    let (name, text) = unsafe { (module_name(module), CStr::from_ptr(message).to_bytes()) };
    let _uncancelled = Uncancelled::begin();
    let text = String::from_utf8_lossy(text.get(..LOG_BYTES_MAX).unwrap_or(text));
    // Each line is logged separately, so that a module's text can't imitate a line of the server.
    for line in text.lines() {
        let level = match level {
            ..=1 => Level::ERROR,
            2 => Level::WARN,
            3 => Level::INFO,
            _ => Level::DEBUG,
        };
        if let Some(log) = LOG.get() {
            log(name, level, line);
        }
    }
}
