//! Streams as module code sees them (`include/cweb_stream.h`): the functions it calls, and the callbacks of detached streams.
//!
//! The layer above implements a call or a detached stream, behind [`StreamCall`] and [`Streams`]. A detached stream is a number,
//! never an address: the number of an ended stream is invalid, and using it is harmless.

use super::module_token::ModuleToken;
use super::native::{RawPart, WorkFn};
use super::stream_callbacks;
use super::types::{HttpRequest, HttpResponse, KvStore, status_code};
use super::websocket::touched;
use super::work_ticket::work_admit;
use std::ffi::{CStr, c_char, c_int, c_longlong, c_void};
use std::mem::MaybeUninit;
use std::sync::{Arc, OnceLock};

pub use super::stream_callbacks::{Event, forget, notify};

/// An errno.
pub type Errno = c_int;

/// The head of a form's part: C strings, NULL for a missing field, valid until the next part is requested.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub struct PartText {
    pub name: *const c_char,
    pub file_name: *const c_char,
    pub content_type: *const c_char,
}

/// The operations on a handler's request and answer beside filling in the response. Called on the handler's thread and on any
/// thread that the handler starts.
pub trait StreamCall: Send + Sync {
    /// Whether the body arrives in pieces: the route has `CWEB_STREAM`.
    fn has_body(&self) -> bool;

    /// Waits for the next bytes of the body and copies them to `into`. 0: the body has no more bytes.
    ///
    /// # Errors
    /// See `cweb_read`.
    fn read(&self, into: &mut [MaybeUninit<u8>]) -> Result<usize, Errno>;

    /// Lends the next bytes of the body until the next call for this body. `None`: the body has no more bytes.
    ///
    /// # Errors
    /// See `cweb_read`.
    fn view(&self) -> Result<Option<(*const u8, usize)>, Errno>;

    /// Moves to the next part of the form in the body. `None`: there is none.
    ///
    /// # Errors
    /// See `cweb_next_part`.
    fn next_part(&self) -> Result<Option<PartText>, Errno>;

    /// Waits for the next bytes of that part and copies them to `into`. 0: the part has no more bytes.
    ///
    /// # Errors
    /// See `cweb_part_read`.
    fn part_read(&self, into: &mut [MaybeUninit<u8>]) -> Result<usize, Errno>;

    /// Bytes of the whole body, if the client has announced the length.
    fn length(&self) -> Option<u64>;

    /// Why the call is canceled; 0: the call is not canceled.
    fn canceled(&self) -> c_int;

    /// Milliseconds left; `None`: there is no limit.
    fn remaining_ms(&self) -> Option<u64>;

    /// Whether the answer has begun.
    fn has_begun(&self) -> bool;

    /// Begins the answer: status and header fields are final.
    ///
    /// # Errors
    /// See `cweb_begin`.
    fn begin(&self, status: u16, headers: &[(&[u8], &[u8])]) -> Result<(), Errno>;

    /// Sends bytes of the answer, and waits while the client takes none.
    ///
    /// # Errors
    /// See `cweb_write`.
    fn write(&self, bytes: &[u8]) -> Result<(), Errno>;

    /// Adds a trailer field behind the answer's last bytes.
    ///
    /// # Errors
    /// See `cweb_trailer`.
    fn trailer(&self, name: &[u8], value: &[u8]) -> Result<(), Errno>;

    /// Makes the answer continue after the handler has returned; returns its number.
    ///
    /// # Errors
    /// See `cweb_detach`.
    fn detach(&self, status: u16, headers: &[(&[u8], &[u8])]) -> Result<u64, Errno>;
}

/// The detached streams of this process, by number.
pub trait Streams: Send + Sync {
    /// Sends all bytes or none, without waiting. Returns false if the buffer has no room; `Event::Room` follows.
    ///
    /// # Errors
    /// `EBADF`: there is no such stream; `ECONNRESET`: its client is gone; `EMSGSIZE`: more than can ever be sent at once.
    fn write(&self, stream: u64, bytes: &[u8]) -> Result<bool, Errno>;

    /// Ends the answer.
    ///
    /// # Errors
    /// `EBADF`: there is no such stream.
    fn close(&self, stream: u64) -> Result<(), Errno>;

    /// Why writing is useless now; 0: writing is possible.
    ///
    /// # Errors
    /// `EBADF`: there is no such stream.
    fn canceled(&self, stream: u64) -> Result<c_int, Errno>;

    /// Whether the last write had no room. `Event::Room` has followed then, or will.
    fn is_blocked(&self, stream: u64) -> bool;
}

static STREAMS: OnceLock<Box<dyn Streams>> = OnceLock::new();

/// Enables modules to use detached streams. Only the first call has an effect.
pub fn set_streams(streams: Box<dyn Streams>) {
    let _ = STREAMS.set(streams);
}

/// The target of `http_request_t.reserved[2]` and `http_response_t.reserved[0]`.
pub struct StreamSlot {
    /// The call.
    pub call: Arc<dyn StreamCall>,
}

/// `struct cweb_stream_host`
#[repr(C)]
pub(super) struct StreamTable {
    read: unsafe extern "C" fn(*const HttpRequest, *mut c_void, usize) -> isize,
    read_view: unsafe extern "C" fn(*const HttpRequest, *mut *const c_void, *mut usize) -> c_int,
    body_length: unsafe extern "C" fn(*const HttpRequest) -> c_longlong,
    canceled: unsafe extern "C" fn(*const HttpRequest) -> c_int,
    remaining_ms: unsafe extern "C" fn(*const HttpRequest) -> c_longlong,
    has_begun: unsafe extern "C" fn(*const HttpResponse) -> c_int,
    begin: unsafe extern "C" fn(*const HttpResponse, c_int) -> c_int,
    write: unsafe extern "C" fn(*const HttpResponse, *const c_void, usize) -> c_int,
    detach: unsafe extern "C" fn(*const HttpRequest, *const HttpResponse) -> *mut c_void,
    stream_write: unsafe extern "C" fn(*const c_void, *const c_void, usize) -> c_int,
    stream_close: unsafe extern "C" fn(*const c_void) -> c_int,
    stream_canceled: unsafe extern "C" fn(*const c_void) -> c_int,
    stream_on: unsafe extern "C" fn(*const c_void, *const c_void, Option<WorkFn>, Option<WorkFn>, *mut c_void) -> c_int,
    broadcast: unsafe extern "C" fn(*const *const c_void, usize, *const c_void, usize, *mut c_int) -> usize,
    next_part: unsafe extern "C" fn(*const HttpRequest, *mut RawPart) -> c_int,
    part_read: unsafe extern "C" fn(*const HttpRequest, *mut c_void, usize) -> isize,
    trailer: unsafe extern "C" fn(*const HttpResponse, *const c_char, *const c_char) -> c_int,
}

pub(super) static STREAM_TABLE: StreamTable = StreamTable {
    read,
    read_view,
    body_length,
    canceled,
    remaining_ms,
    has_begun,
    begin,
    write,
    detach,
    stream_write,
    stream_close,
    stream_canceled,
    stream_on,
    broadcast,
    next_part,
    part_read,
    trailer,
};

/// `CWEB_AGAIN`
const AGAIN: c_int = 1;

fn set_errno(errno: Errno) {
    // SAFETY: the calling thread's own errno (errno(3)).
    unsafe { *libc::__errno_location() = errno };
}

fn failed(errno: Errno) -> c_int {
    set_errno(errno);
    -1
}

fn status(result: Result<(), Errno>) -> c_int {
    result.map_or_else(failed, |()| 0)
}

/// # Safety
/// `request` is NULL or the request of a handler that has not returned, or a copy of it.
unsafe fn of_request<'a>(request: *const HttpRequest) -> Option<&'a dyn StreamCall> {
    // SAFETY: the caller's contract; the slot lives as long as the frame of the request.
    unsafe {
        let slot = request.as_ref()?.reserved[2].cast::<StreamSlot>().cast_const();
        slot.as_ref().map(|slot| &*slot.call)
    }
}

/// # Safety
/// As [`of_request`], for a response.
unsafe fn of_response<'a>(response: *const HttpResponse) -> Option<&'a dyn StreamCall> {
    // SAFETY: the caller's contract; the slot lives as long as the frame of the response.
    unsafe {
        let slot = response.as_ref()?.reserved[0].cast::<StreamSlot>().cast_const();
        slot.as_ref().map(|slot| &*slot.call)
    }
}

/// The call of `request`, if its route has `CWEB_STREAM`; if not, the module's log reports that.
///
/// # Safety
/// See [`of_request`].
unsafe fn streaming<'a>(request: *const HttpRequest) -> Result<&'a dyn StreamCall, Errno> {
    // SAFETY: the caller's contract.
    let call = unsafe { of_request(request) }.filter(|call| call.has_body());
    call.ok_or_else(|| {
        // SAFETY: prints a line.
        unsafe { super::native::cwebn_no_stream() };
        libc::EINVAL
    })
}

const PAGE_BYTES: usize = 4096;

/// Memory into which a module wants bytes written. Each page is written here, so that a wrong pointer faults here.
///
/// # Safety
/// As `touched`, for writing.
unsafe fn touched_mut<'a>(bytes: *mut c_void, length: usize) -> &'a mut [MaybeUninit<u8>] {
    if length == 0 {
        return &mut [];
    }
    let bytes = bytes.cast::<u8>();
    // SAFETY: the caller's contract.
    unsafe {
        for at in (0..length).step_by(PAGE_BYTES).chain([length - 1]) {
            std::ptr::write_volatile(bytes.add(at), 0);
        }
        std::slice::from_raw_parts_mut(bytes.cast::<MaybeUninit<u8>>(), length)
    }
}

unsafe extern "C" fn read(request: *const HttpRequest, into: *mut c_void, length: usize) -> isize {
    // SAFETY: by the contract of cweb_read; nothing is owned here yet.
    let (call, into) = unsafe { (streaming(request), touched_mut(into, length)) };
    match call.and_then(|call| call.read(into)) {
        Ok(count) => isize::try_from(count).unwrap_or(isize::MAX),
        Err(errno) => failed(errno) as isize,
    }
}

unsafe extern "C" fn read_view(request: *const HttpRequest, bytes: *mut *const c_void, length: *mut usize) -> c_int {
    if bytes.is_null() || length.is_null() {
        return failed(libc::EINVAL);
    }
    // SAFETY: by the contract of cweb_read_view; nothing is owned here yet.
    let call = unsafe {
        (*bytes, *length) = (std::ptr::null(), 0);
        streaming(request)
    };
    match call.and_then(StreamCall::view) {
        Ok(None) => 0,
        Ok(Some((at, count))) => {
            // SAFETY: written above.
            unsafe { (*bytes, *length) = (at.cast(), count) };
            1
        }
        Err(errno) => failed(errno),
    }
}

unsafe extern "C" fn next_part(request: *const HttpRequest, part: *mut RawPart) -> c_int {
    if part.is_null() {
        return failed(libc::EINVAL);
    }
    let null = std::ptr::null();
    let mut found = RawPart {
        name: null,
        file_name: null,
        content_type: null,
        bytes: null,
        length: 0,
        reserved: [std::ptr::null_mut(); 3],
    };
    // SAFETY: by the contract of cweb_next_part; nothing is owned here yet.
    let call = unsafe {
        part.write(found);
        streaming(request)
    };
    match call.and_then(StreamCall::next_part) {
        Ok(None) => 0,
        Ok(Some(PartText { name, file_name, content_type })) => {
            (found.name, found.file_name, found.content_type) = (name, file_name, content_type);
            // SAFETY: written above.
            unsafe { part.write(found) };
            1
        }
        Err(errno) => failed(errno),
    }
}

unsafe extern "C" fn part_read(request: *const HttpRequest, into: *mut c_void, length: usize) -> isize {
    // SAFETY: by the contract of cweb_part_read; nothing is owned here yet.
    let (call, into) = unsafe { (streaming(request), touched_mut(into, length)) };
    match call.and_then(|call| call.part_read(into)) {
        Ok(count) => isize::try_from(count).unwrap_or(isize::MAX),
        Err(errno) => failed(errno) as isize,
    }
}

unsafe extern "C" fn body_length(request: *const HttpRequest) -> c_longlong {
    // SAFETY: by the contract of cweb_body_length.
    let length = unsafe { of_request(request) }.and_then(StreamCall::length);
    length.map_or(-1, |length| c_longlong::try_from(length).unwrap_or(c_longlong::MAX))
}

unsafe extern "C" fn canceled(request: *const HttpRequest) -> c_int {
    // SAFETY: by the contract of cweb_canceled.
    unsafe { of_request(request) }.map_or(0, StreamCall::canceled)
}

unsafe extern "C" fn remaining_ms(request: *const HttpRequest) -> c_longlong {
    // SAFETY: by the contract of cweb_remaining_ms.
    let left = unsafe { of_request(request) }.and_then(StreamCall::remaining_ms);
    left.map_or(-1, |left| c_longlong::try_from(left).unwrap_or(c_longlong::MAX))
}

unsafe extern "C" fn has_begun(response: *const HttpResponse) -> c_int {
    // SAFETY: by the contract of the table.
    c_int::from(unsafe { of_response(response) }.is_some_and(StreamCall::has_begun))
}

/// Most header fields of a streamed answer.
const HEADERS_MAX: usize = 1024;

/// The header fields of a response, all read before anything is owned: a bad pointer makes the guard jump out of this frame.
///
/// # Safety
/// `store` is NULL or a store as http.h has it.
unsafe fn fields<'a>(store: *const KvStore) -> Vec<(&'a [u8], &'a [u8])> {
    // SAFETY: the caller's contract: `size` pairs of C strings, each NULL or valid.
    unsafe {
        let Some(store) = store.as_ref().filter(|store| !store.entries.is_null()) else { return Vec::new() };
        let count = store.size.min(HEADERS_MAX);
        let text = |text: *const c_char| if text.is_null() { &[] } else { CStr::from_ptr(text).to_bytes() };
        let pair = |at: usize| {
            let pair = &*store.entries.add(at);
            (text(pair.key), text(pair.value))
        };
        let mut bytes = 0_usize;
        for at in 0..count {
            let (name, value) = pair(at);
            bytes = bytes.wrapping_add(name.len()).wrapping_add(value.len());
        }
        std::hint::black_box(bytes);
        (0..count).map(pair).filter(|(name, _)| !name.is_empty()).collect()
    }
}

unsafe extern "C" fn begin(response: *const HttpResponse, code: c_int) -> c_int {
    // SAFETY: by the contract of cweb_begin.
    let (call, headers) = unsafe {
        let Some(call) = of_response(response) else { return failed(libc::EINVAL) };
        (call, fields((*response).headers))
    };
    let result = call.begin(status_code(code), &headers);
    drop(headers);
    status(result)
}

unsafe extern "C" fn write(response: *const HttpResponse, bytes: *const c_void, length: usize) -> c_int {
    // SAFETY: by the contract of cweb_write; nothing is owned here yet.
    let (call, bytes) = unsafe { (of_response(response), touched(bytes.cast(), length)) };
    status(call.map_or(Err(libc::EINVAL), |call| call.write(bytes)))
}

unsafe extern "C" fn trailer(response: *const HttpResponse, name: *const c_char, value: *const c_char) -> c_int {
    if name.is_null() || value.is_null() {
        return failed(libc::EINVAL);
    }
    // SAFETY: by the contract of cweb_trailer; nothing is owned here yet.
    let (call, name, value) =
        unsafe { (of_response(response), CStr::from_ptr(name).to_bytes(), CStr::from_ptr(value).to_bytes()) };
    status(call.map_or(Err(libc::EINVAL), |call| call.trailer(name, value)))
}

unsafe extern "C" fn detach(_request: *const HttpRequest, response: *const HttpResponse) -> *mut c_void {
    // SAFETY: by the contract of cweb_detach.
    let (call, code, headers) = unsafe {
        let Some(call) = of_response(response) else {
            set_errno(libc::EINVAL);
            return std::ptr::null_mut();
        };
        (call, (*response).status, fields((*response).headers))
    };
    let result = call.detach(status_code(code), &headers);
    drop(headers);
    match result {
        Ok(number) => std::ptr::without_provenance_mut(usize::try_from(number).unwrap_or_default()),
        Err(errno) => {
            set_errno(errno);
            std::ptr::null_mut()
        }
    }
}

fn number(stream: *const c_void) -> u64 {
    stream.addr() as u64
}

fn streams() -> Result<&'static dyn Streams, Errno> {
    if super::worker::refuses(c"a detached answer") {
        return Err(libc::ENOTSUP);
    }
    STREAMS.get().map(|streams| &**streams).ok_or(libc::ENOSYS)
}

unsafe extern "C" fn stream_write(stream: *const c_void, bytes: *const c_void, length: usize) -> c_int {
    // SAFETY: by the contract of cweb_stream_write; nothing is owned here yet.
    let bytes = unsafe { touched(bytes.cast(), length) };
    match streams().and_then(|streams| streams.write(number(stream), bytes)) {
        Ok(true) => 0,
        Ok(false) => AGAIN,
        Err(errno) => failed(errno),
    }
}

unsafe extern "C" fn stream_close(stream: *const c_void) -> c_int {
    status(streams().and_then(|streams| streams.close(number(stream))))
}

unsafe extern "C" fn stream_canceled(stream: *const c_void) -> c_int {
    streams().and_then(|streams| streams.canceled(number(stream))).unwrap_or_else(failed)
}

unsafe extern "C" fn stream_on(
    module: *const c_void,
    stream: *const c_void,
    room: Option<WorkFn>,
    gone: Option<WorkFn>,
    argument: *mut c_void,
) -> c_int {
    // SAFETY: by the contract of the table a token.
    let Some(token) = (unsafe { module.cast::<ModuleToken>().as_ref() }) else { return failed(libc::EINVAL) };
    let stream = number(stream);
    let all = match streams().and_then(|streams| streams.canceled(stream).map(|_| streams)) {
        Ok(all) => all,
        Err(errno) => return failed(errno),
    };
    let Some(function) = room.or(gone) else {
        forget(stream);
        return 0;
    };
    // SAFETY: a function of the calling module, which is loaded.
    let ticket = unsafe { work_admit(std::ptr::null_mut(), function, std::ptr::null_mut()) };
    stream_callbacks::set(token, stream, [room, gone], argument, ticket);
    // The events before this point have found no callback, or the one before; so they are told again. The end of the client
    // may be among them, or come now: a callback is called for it once.
    match all.canceled(stream) {
        Ok(0) if room.is_some() && all.is_blocked(stream) => notify(stream, Event::Room),
        Ok(0) => {}
        Ok(_) => notify(stream, Event::Gone),
        Err(errno) => {
            forget(stream);
            return failed(errno);
        }
    }
    0
}

/// How many streams took the bytes. `results`, if given, receives the result for each stream that did not.
unsafe extern "C" fn broadcast(
    all: *const *const c_void,
    count: usize,
    bytes: *const c_void,
    length: usize,
    results: *mut c_int,
) -> usize {
    if all.is_null() || count == 0 {
        return 0;
    }
    // SAFETY: by the contract of cweb_stream_broadcast: `count` streams, and room for as many results or NULL. Nothing is
    // owned here.
    unsafe {
        let bytes = touched(bytes.cast(), length);
        let all = std::slice::from_raw_parts(all, count);
        let mut taken = 0;
        for (at, &stream) in all.iter().enumerate() {
            let result = match streams().and_then(|streams| streams.write(number(stream), bytes)) {
                Ok(true) => 0,
                Ok(false) => AGAIN,
                Err(_) => -1,
            };
            taken += usize::from(result == 0);
            if !results.is_null() {
                *results.add(at) = result;
            }
        }
        taken
    }
}
