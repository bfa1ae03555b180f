//! `http_request_t` and `http_response_t` for successive calls on one thread.
//!
//! A [`CallFrame`] keeps its memory between calls. The request's strings lie in one arena. The 8 KiB response body, which a
//! handler may `realloc` or replace, is a `malloc`ed block. The block is reused if the handler leaves it in place.

use super::copy_turns;
use super::files::{self, FileAnswer};
use super::guard::{self, Trap};
use super::handed::{self, Handed, Reading};
use super::native::{RawGiven, RawHanded};
use super::request::{RequestMemory, RoutePath};
use super::stream::{StreamCall, StreamSlot};
use super::types::{
    DECLINED, HTTP_101_SWITCHING_PROTOCOLS, HTTP_200_OK, HTTP_RESPONSE_SIZE, HttpRequest, HttpResponse, KvPair,
    KvStore, WebSocket, valid_status,
};
use crate::proto::form;
use crate::proto::http1::{Method, RequestView};
use std::ffi::{c_char, c_int, c_void};
use std::ptr;
use std::sync::Arc;

/// Free entries that a module finds in each of a request's stores.
const REQUEST_SPARE: usize = 16;
/// Limit on the header fields that a handler can set.
const RESPONSE_HEADERS_MAX: usize = 64;
/// An arena larger than this, in bytes, is freed after the call.
const ARENA_KEPT_MAX: usize = 64 * 1024;
/// Size of the empty body, in bytes. The block has room for the mark, which free(3) overwrites.
const EMPTY_BODY_BYTES: usize = 24;
/// Offset of the mark: behind the terminating zero, which is the one byte that handlers may use.
const EMPTY_MARK_AT: usize = 1;
/// The mark: while the mark is intact, no handler has freed the empty body. The mark covers the rest of the first word
/// and the second word. free(3) of glibc writes into both words if the thread's cache takes the block, and into the
/// first one only if this cache is full.
const EMPTY_MARK: [u8; 15] = *b"cweb empty body";
/// Number of bytes after the sent ones that are checked for further bytes of the handler.
const WIPE_LOOK: usize = 64;

/// One of the request's key-value stores while it is filled. Entries are offsets, because the arena moves as it grows.
#[derive(Default)]
struct Filling {
    spans: Vec<(usize, usize)>,
    pairs: Vec<KvPair>,
    /// Further values of names that occur more than once.
    repeated: Vec<KvPair>,
}

/// The memory of a call; see the module's documentation.
pub struct CallFrame {
    arena: Vec<u8>,
    stores: [Filling; 3],
    kv: [KvStore; 3],
    request: HttpRequest,
    request_body: *mut c_char,
    path_at: usize,
    response: HttpResponse,
    response_kv: KvStore,
    response_pairs: Vec<KvPair>,
    response_body: *mut c_char,
    /// An empty string, `malloc`ed because a handler may take it over: the body of requests without one.
    empty_body: *mut c_char,
    handed: Handed,
    memory: RequestMemory,
    /// The streaming functions for a handler; the address stays the same for all calls.
    stream: Option<Box<StreamSlot>>,
}

const PARAMS: usize = 0;
const HEADERS: usize = 1;
const DATA: usize = 2;
const NO_PAIR: KvPair = KvPair { key: ptr::null_mut(), value: ptr::null_mut() };
const NO_STORE: KvStore =
    KvStore { entries: ptr::null_mut(), size: 0, capacity: 0, server: 1, repeated: ptr::null_mut(), repeated_size: 0 };

/// A handler's answer, borrowed until the frame is used again.
pub struct HandlerAnswer<'a> {
    /// The handler leaves the request to another one; has an effect for fallback routes only.
    pub is_declined: bool,
    /// Status code, 200 to 599.
    pub status: u16,
    /// The number that the handler has set as the status, if HTTP has no such status; `status` is 500 then.
    pub invalid_status: Option<i32>,
    /// The handler has set the status 101, which accepts a handshake and is invalid elsewhere.
    pub switches: bool,
    /// The body.
    pub body: &'a [u8],
    /// Whether the body stays readable until [`CallFrame::finish`].
    pub is_kept: bool,
    /// The file that replaces the body.
    pub file: Option<FileAnswer>,
    handed: Option<&'a Handed>,
    /// Header fields of an answer that another process has made.
    own: &'a [Field],
}

/// A header field: its name and its value.
pub type Field = (Vec<u8>, Vec<u8>);

/// Memory that a handler has handed over and that must be freed.
pub struct Given(RawGiven);

impl<'a> HandlerAnswer<'a> {
    /// The header fields as bytes, unvalidated.
    pub fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let own = self.own.iter().map(|(name, value)| (name.as_slice(), value.as_slice()));
        // SAFETY: answers are made after a call that returned, and borrow the frame that would free the fields.
        self.handed.into_iter().flat_map(|handed| unsafe { handed.fields() }).chain(own)
    }

    /// Whether the handler has left the response unchanged.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        self.status == 200 && self.body.is_empty() && self.file.is_none() && self.headers().next().is_none()
    }

    /// An answer without a handler.
    #[must_use]
    pub fn of_file(file: FileAnswer) -> Self {
        Self { status: file.status, is_kept: true, file: Some(file), ..Self::of_parts(0, &[], &[]) }
    }

    /// An answer that another process has made.
    #[must_use]
    pub fn of_parts(status: u16, own: &'a [Field], body: &'a [u8]) -> Self {
        let (is_declined, switches, invalid_status) = (false, false, None);
        Self { is_declined, status, invalid_status, switches, body, is_kept: false, file: None, handed: None, own }
    }
}

impl Default for CallFrame {
    fn default() -> Self {
        Self::new()
    }
}

impl CallFrame {
    /// A frame that holds no memory yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            arena: Vec::new(),
            stores: Default::default(),
            kv: [NO_STORE; 3],
            request: HttpRequest {
                method: -1,
                version: 1,
                status: HTTP_200_OK,
                path: ptr::null_mut(),
                body: ptr::null_mut(),
                content_length: 0,
                keep_alive: 0,
                close: 0,
                // SAFETY: pthread_self(3) always succeeds. A frame stays on the thread that made it.
                tid: unsafe { libc::pthread_self() },
                params: ptr::null_mut(),
                headers: ptr::null_mut(),
                data: ptr::null_mut(),
                websocket: 0,
                transfer_encoding_chunked: 0,
                server: ptr::null_mut(),
                reserved: [ptr::null_mut(); 3],
            },
            request_body: ptr::null_mut(),
            path_at: 0,
            response: HttpResponse {
                status: HTTP_200_OK,
                headers: ptr::null_mut(),
                body: ptr::null_mut(),
                content_length: 0,
                server: ptr::null_mut(),
                reserved: [ptr::null_mut(); 3],
            },
            response_kv: NO_STORE,
            response_pairs: vec![NO_PAIR; RESPONSE_HEADERS_MAX],
            response_body: ptr::null_mut(),
            empty_body: ptr::null_mut(),
            handed: Handed::for_answers(),
            memory: RequestMemory::new(),
            stream: None,
        }
    }

    /// Sets the streaming functions for the handlers of this frame to `call`.
    #[must_use]
    pub fn with_stream(mut self, call: Arc<dyn StreamCall>) -> Self {
        self.stream = Some(Box::new(StreamSlot { call }));
        self
    }

    fn stream_slot(&self) -> *mut c_void {
        self.stream.as_ref().map_or(ptr::null_mut(), |slot| ptr::from_ref::<StreamSlot>(slot).cast_mut().cast())
    }

    /// Fills the frame for `view`, a request of a route with the path `route`. Returns the two pointers for the handler, valid
    /// until [`CallFrame::release`], or `None` when memory is short.
    ///
    /// # Safety
    /// `view` and `route` must live, and the frame must not move, until [`CallFrame::finish`] or [`CallFrame::abandon`].
    pub unsafe fn prepare(
        &mut self,
        view: &RequestView<'_>,
        route: &RoutePath,
    ) -> Option<(*mut HttpRequest, *mut HttpResponse)> {
        self.arena.clear();
        self.path_at = self.push_text(view.path());
        self.fill_params(view);
        self.fill_headers(view);
        self.fill_data(view);
        self.seal_stores();
        let base = self.arena.as_mut_ptr().cast::<c_char>();
        // SAFETY: the offset was returned by `push_text` and lies within the arena, which does not move from here on.
        let path = unsafe { base.add(self.path_at) };
        self.request_body = if view.body.is_empty() { self.empty_body()? } else { copy_body(view.body)? };
        let keep_alive = view.keep_alive();
        self.request = HttpRequest {
            method: method_number(view.method()),
            version: c_int::from(!view.http_1_0()),
            status: HTTP_200_OK,
            path,
            body: self.request_body,
            content_length: c_int::try_from(view.body.len()).unwrap_or(c_int::MAX),
            keep_alive: c_char::from(keep_alive),
            close: c_char::from(!keep_alive),
            tid: self.request.tid,
            params: &raw mut self.kv[PARAMS],
            headers: &raw mut self.kv[HEADERS],
            data: &raw mut self.kv[DATA],
            websocket: 0,
            transfer_encoding_chunked: c_int::from(view.is_chunked()),
            server: ptr::null_mut(),
            // The received head and its length: the WAFer glue builds an app's arguments from them.
            reserved: [
                view.bytes.as_ptr().cast_mut().cast(),
                ptr::without_provenance_mut(view.bytes.len()),
                self.stream_slot(),
            ],
        };
        self.prepare_response()?;
        self.memory.begin(&raw mut self.request, view, route)?;
        self.handed.lend_request(view.body, self.memory.as_raw());
        Some((&raw mut self.request, &raw mut self.response))
    }

    fn empty_body(&mut self) -> Option<*mut c_char> {
        if self.empty_body.is_null() {
            self.empty_body = zeroed(EMPTY_BODY_BYTES)?;
        }
        // SAFETY: the block has room for the byte that an earlier handler may have written, and the mark behind it.
        unsafe {
            *self.empty_body = 0;
            self.empty_body.add(EMPTY_MARK_AT).cast::<[u8; 15]>().write(EMPTY_MARK);
        }
        Some(self.empty_body)
    }

    fn prepare_response(&mut self) -> Option<()> {
        if self.response_body.is_null() {
            // One byte more than a handler may write, so that a full buffer is still NUL-terminated.
            self.response_body = zeroed(HTTP_RESPONSE_SIZE + 1)?;
        }
        self.response_kv =
            KvStore { entries: self.response_pairs.as_mut_ptr(), capacity: self.response_pairs.len(), ..NO_STORE };
        self.response = HttpResponse {
            status: HTTP_200_OK,
            headers: &raw mut self.response_kv,
            body: self.response_body,
            content_length: 0,
            server: ptr::null_mut(),
            reserved: [self.stream_slot(), ptr::null_mut(), ptr::null_mut()],
        };
        self.handed.begin(self.response_body, &raw const self.response_kv, self.response_pairs.as_ptr());
        self.handed.lend(&self.arena);
        self.handed.lend_stores(&self.kv, self.stores.each_ref().map(|filled| filled.pairs.as_slice()));
        Some(())
    }

    /// For [`call_handler`](super::module_calls::call_handler): the C side records the handler's results here.
    pub(super) fn handed(&mut self) -> *mut RawHanded {
        self.handed.as_raw()
    }

    /// The return value of the last handler; it matters only for answers in pieces.
    #[must_use]
    pub fn returned(&self) -> i32 {
        self.handed.returned()
    }

    /// The place of the last call's fault, if the fault was not in the handler itself.
    #[must_use]
    pub fn reading(&self) -> Option<Reading> {
        self.handed.reading()
    }

    /// Which things of the last call were not from malloc(3): bits for [`handed::Thing::of`].
    #[must_use]
    pub fn strange(&self) -> u32 {
        self.handed.strange()
    }

    /// The handler's answer, after a call without a fault.
    ///
    /// # Errors
    /// Why the answer can't be sent, as a text for people.
    pub fn answer(&self) -> Result<HandlerAnswer<'_>, &'static str> {
        if let Some(why) = self.handed.refused() {
            return Err(why);
        }
        if self.is_empty_body_freed() {
            return Err("req->body was freed; set it to NULL or to another block then");
        }
        // SAFETY: the handler has returned, and nothing is freed before `release`, which needs the frame.
        let body = unsafe { self.handed.body() };
        let (given, is_kept) = (self.response.status, self.handed.is_own_body());
        let is_declined = given == DECLINED;
        let switches = matches!(given, HTTP_101_SWITCHING_PROTOCOLS | 101);
        let status = valid_status(given);
        let invalid_status = (status.is_none() && !is_declined && !switches).then_some(given);
        let (status, file) = (status.unwrap_or(500), files::sent(&self.response));
        let (handed, own) = (Some(&self.handed), [].as_slice());
        Ok(HandlerAnswer { is_declined, status, invalid_status, switches, body, is_kept, file, handed, own })
    }

    /// Whether the handler has freed the empty body of its request and kept the pointer to it.
    fn is_empty_body_freed(&self) -> bool {
        if self.request_body != self.empty_body || self.request.body != self.request_body {
            return false;
        }
        // SAFETY: within a block of `EMPTY_BODY_BYTES`. Only a handler that broke its contract has freed the block; small
        // blocks stay mapped, so the bytes are readable then too.
        let mark = unsafe { self.empty_body.add(EMPTY_MARK_AT).cast::<[u8; 15]>().read() };
        mark != EMPTY_MARK && !ptr::eq(self.response.body, self.request_body)
    }

    /// The body of the answer, if it is the frame's own block: readable until [`CallFrame::finish`].
    #[must_use]
    pub fn kept_body(&self) -> Option<&[u8]> {
        // SAFETY: `release` frees no block that is kept.
        self.handed.is_own_body().then(|| unsafe { self.handed.body() })
    }

    /// Records that the prepared request is the one that opened `socket`, for its `on_open`. `handed` is the record of the
    /// call.
    pub(super) fn opens(&mut self, socket: *const WebSocket, handed: &mut Handed) {
        self.memory.opens(socket);
        handed.lend(&self.arena);
        handed.lend_request(&[], self.memory.as_raw());
    }

    /// Whether the handler has deferred functions to the end of its request.
    #[must_use]
    pub fn has_deferred(&self) -> bool {
        self.memory.has_deferred()
    }

    /// Runs the deferred functions, the last one first. The request's memory and the memory that the handler has handed over
    /// are still there.
    ///
    /// # Errors
    /// One of the functions did not return.
    pub fn run_deferred(&mut self) -> Result<(), Trap> {
        // SAFETY: the call is over, and its request is there until `finish` or `abandon`.
        unsafe { guard::end_request(self.memory.as_raw()) }
    }

    /// Collects the memory that the handler has handed over; [`CallFrame::release`] frees it under a guard. `None`: there is
    /// none.
    pub fn given(&mut self) -> Option<Given> {
        let mut given = handed::nothing_given();
        let own_store = ptr::eq(self.response.headers, &raw const self.response_kv);
        given.store = if own_store { ptr::null_mut() } else { self.response.headers };
        given.counts[0] = self.response_kv.size.min(self.response_pairs.len());
        given.pairs[0] = self.response_pairs.as_mut_ptr();
        let body = self.response.body;
        if !self.handed.is_own_body() {
            given.body = body;
            self.response_body = ptr::null_mut();
        }
        // The response has taken over the body, or the handler has: then the request has another pointer.
        let taken = body == self.request_body || self.request.body != self.request_body;
        if self.request_body == self.empty_body {
            if taken {
                self.empty_body = ptr::null_mut();
            }
        } else if !taken {
            given.request_body = self.request_body;
        }
        self.request_body = ptr::null_mut();
        for (at, (store, filled)) in self.kv.iter_mut().zip(&mut self.stores).enumerate() {
            let inserted = store.server.saturating_sub(1)..store.size.min(filled.pairs.len());
            let pairs = filled.pairs.get_mut(inserted).unwrap_or_default();
            (given.pairs[at + 1], given.counts[at + 1]) = (pairs.as_mut_ptr(), pairs.len());
            store.size = 0;
        }
        self.response_kv.size = 0;
        let nothing = given.store.is_null() && given.body.is_null() && given.request_body.is_null();
        (!nothing || given.counts.iter().any(|&count| count != 0)).then_some(Given(given))
    }

    /// Frees the memory that the handler has handed over.
    ///
    /// # Errors
    /// A block can't be freed, which is a fault of the module. The caller must then call [`CallFrame::abandon`].
    pub fn release(&mut self, mut given: Given) -> Result<(), Trap> {
        // SAFETY: blocks and pairs of this frame's last call, each named once.
        unsafe { guard::release(self.handed.as_raw(), &mut given.0) }
    }

    /// Prepares the frame for the next call, after all memory of this call is freed; reusable memory stays.
    pub fn finish(&mut self) {
        if !self.response_body.is_null() && self.handed.is_own_body() {
            let sent = self.kept_body().map_or(0, <[u8]>::len);
            // SAFETY: the frame's own block has `HTTP_RESPONSE_SIZE + 1` bytes, as the call has verified.
            wipe(unsafe { std::slice::from_raw_parts_mut(self.response_body.cast::<u8>(), HTTP_RESPONSE_SIZE) }, sent);
        }
        if self.arena.capacity() > ARENA_KEPT_MAX {
            self.arena = Vec::new();
        }
        self.memory.reset();
    }

    /// Leaks the handler's blocks and resets the frame: after a fault, nothing that the handler touched can be trusted.
    pub fn abandon(&mut self) {
        (self.response_body, self.empty_body) = (ptr::null_mut(), ptr::null_mut());
        let stream = self.stream.take();
        *self = Self::new();
        self.stream = stream;
    }

    fn push_text(&mut self, text: &[u8]) -> usize {
        let at = self.arena.len();
        self.arena.extend_from_slice(text);
        self.arena.push(0);
        at
    }

    fn fill_params(&mut self, view: &RequestView<'_>) {
        let Some(query) = view.query() else { return };
        let (arena, store) = (&mut self.arena, &mut self.stores[PARAMS]);
        form::urlencoded(query, |name, value| push_pair(arena, store, name, value));
    }

    fn fill_headers(&mut self, view: &RequestView<'_>) {
        let (arena, store) = (&mut self.arena, &mut self.stores[HEADERS]);
        for (name, value) in view.headers() {
            push_pair(arena, store, name, value);
        }
    }

    fn fill_data(&mut self, view: &RequestView<'_>) {
        if view.body.is_empty() {
            return;
        }
        let Some(content_type) = view.header("content-type") else { return };
        let (arena, store) = (&mut self.arena, &mut self.stores[DATA]);
        if form::is_urlencoded(content_type) {
            form::urlencoded(view.body, |name, value| push_pair(arena, store, name, value));
        } else if let Some(boundary) = form::multipart_boundary(content_type) {
            // A truncated form keeps the fields before the fault; the handler has the raw body as well.
            let _ = form::multipart(view.body, boundary, form::FIELDS_MAX, |part| {
                push_pair(arena, store, part.name.as_ref(), part.body);
            });
        }
    }

    /// Converts offsets to pointers, after the arena has reached its final place.
    fn seal_stores(&mut self) {
        let base = self.arena.as_mut_ptr().cast::<c_char>();
        for (filled, store) in self.stores.iter_mut().zip(&mut self.kv) {
            filled.pairs.clear();
            filled.repeated.clear();
            for &(key, value) in &filled.spans {
                // SAFETY: the offsets were taken from this arena's length while it was filled.
                let pair = unsafe { KvPair { key: base.add(key), value: base.add(value) } };
                let first = !filled.pairs.iter().any(|known| same_key(known.key, pair.key));
                if first { filled.pairs.push(pair) } else { filled.repeated.push(pair) }
            }
            filled.spans.clear();
            let given = filled.pairs.len();
            filled.pairs.resize(given + REQUEST_SPARE, NO_PAIR);
            *store = KvStore {
                entries: filled.pairs.as_mut_ptr(),
                size: given,
                capacity: filled.pairs.len(),
                server: given + 1,
                repeated: filled.repeated.as_mut_ptr(),
                repeated_size: filled.repeated.len(),
            };
        }
    }
}

impl Drop for CallFrame {
    fn drop(&mut self) {
        // SAFETY: each pointer is NULL, or a block that was allocated here and that `release` kept.
        unsafe {
            libc::free(self.response_body.cast());
            libc::free(self.empty_body.cast());
        }
    }
}

/// A `malloc`ed block of zeros, so that no earlier content can be sent by mistake. `None` when memory is short.
fn zeroed(size: usize) -> Option<*mut c_char> {
    // SAFETY: plain allocation.
    let block = unsafe { libc::calloc(1, size) }.cast::<c_char>();
    (!block.is_null()).then_some(block)
}

/// Clears a buffer that was sent up to `sent`, so that the next handler finds none of its bytes. Clearing the whole
/// buffer takes as long as the rest of a short call. If the bytes right after the string are zero, the function
/// therefore assumes that the handler wrote nothing else.
fn wipe(buffer: &mut [u8], sent: usize) {
    let (string, rest) = buffer.split_at_mut(buffer.len().min(sent.saturating_add(1)));
    let ended = string.last() == Some(&0);
    string.fill(0);
    let near = rest.get(..WIPE_LOOK).unwrap_or(rest);
    // The loop has no early end: it compiles to a few vector instructions.
    if !ended || near.iter().fold(0, |all, byte| all | byte) != 0 {
        rest.fill(0);
    }
}

fn push_pair(arena: &mut Vec<u8>, store: &mut Filling, name: &[u8], value: &[u8]) {
    let key_at = arena.len();
    arena.extend_from_slice(name);
    if let Some(key) = arena.get_mut(key_at..) {
        key.make_ascii_lowercase();
    }
    arena.push(0);
    let value_at = arena.len();
    arena.extend_from_slice(value);
    arena.push(0);
    store.spans.push((key_at, value_at));
}

fn same_key(a: *const c_char, b: *const c_char) -> bool {
    // SAFETY: both are NUL-terminated strings in the arena (`push_pair` ends each with a NUL).
    unsafe { libc::strcasecmp(a, b) == 0 }
}

/// A NUL-terminated `malloc`ed copy that a handler may take over. `None` when memory is short.
fn copy_body(body: &[u8]) -> Option<*mut c_char> {
    let _turn = copy_turns::turn(body.len());
    // SAFETY: the block has room for the body and its NUL.
    unsafe {
        let block = libc::malloc(body.len() + 1).cast::<u8>();
        if block.is_null() {
            return None;
        }
        ptr::copy_nonoverlapping(body.as_ptr(), block, body.len());
        *block.add(body.len()) = 0;
        Some(block.cast())
    }
}

/// `http_method_t`
fn method_number(method: Method) -> c_int {
    match method {
        Method::Get => 0,
        Method::Post => 1,
        Method::Put => 2,
        Method::Delete => 3,
        Method::Options => 4,
        Method::Head => 5,
        Method::Patch => 6,
    }
}
