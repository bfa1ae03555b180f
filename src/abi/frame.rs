//! `http_request_t` and `http_response_t` for one call after another on one thread.
//!
//! A [`CallFrame`] keeps its memory between calls: the request's strings lie in one arena, and the 8 KiB response
//! body that a handler may `realloc` or replace is a `malloc`ed block that is used again when it comes back as it was.

use super::types::{HTTP_200_OK, HTTP_RESPONSE_SIZE, HttpRequest, HttpResponse, KvPair, KvStore, status_code};
use crate::proto::form;
use crate::proto::http1::{Method, RequestView};
use std::ffi::{CStr, c_char, c_int};
use std::ops::RangeInclusive;
use std::ptr;

/// Free places a module finds in each of a request's stores.
const REQUEST_SPARE: usize = 16;
/// Header fields a handler can set.
const RESPONSE_HEADERS_MAX: usize = 64;
/// An arena that a large form has grown beyond this is given back after the call.
const ARENA_KEPT_MAX: usize = 64 * 1024;
/// What malloc may have made of the response's body, as it was asked for. One that a handler has resized is not kept.
const BODY_KEPT: RangeInclusive<usize> = HTTP_RESPONSE_SIZE + 1..=HTTP_RESPONSE_SIZE + 64;
/// How far behind what was sent is looked for more that a handler wrote.
const WIPE_LOOK: usize = 64;

/// One of the request's key-value stores while it is filled: offsets, because the arena moves as it grows.
#[derive(Default)]
struct Filling {
    spans: Vec<(usize, usize)>,
    pairs: Vec<KvPair>,
    /// Further values of names that come more than once.
    repeated: Vec<KvPair>,
}

/// See the module's documentation.
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
}

const PARAMS: usize = 0;
const HEADERS: usize = 1;
const DATA: usize = 2;
const NO_PAIR: KvPair = KvPair { key: ptr::null_mut(), value: ptr::null_mut() };
const NO_STORE: KvStore =
    KvStore { entries: ptr::null_mut(), size: 0, capacity: 0, server: 1, repeated: ptr::null_mut(), repeated_size: 0 };

/// What a handler left in its response, borrowed until the frame is used again.
pub struct HandlerAnswer<'a> {
    /// Status code, 100 to 599.
    pub status: u16,
    /// Header fields, unvalidated.
    pub headers: &'a [KvPair],
    /// The body.
    pub body: &'a [u8],
}

impl HandlerAnswer<'_> {
    /// The header fields as bytes.
    pub fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.headers.iter().filter(|pair| !pair.key.is_null() && !pair.value.is_null()).map(|pair| {
            // SAFETY: http_kv_insert copies the key as a C string and owns the value, a C string by its contract; both
            // live until `CallFrame::release`, which needs the frame that this answer borrows.
            unsafe { (CStr::from_ptr(pair.key).to_bytes(), CStr::from_ptr(pair.value).to_bytes()) }
        })
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
                // SAFETY: always succeeds (pthread_self(3)). A frame stays on the thread that made it.
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
        }
    }

    /// Fills the frame for `view`. Returns the two pointers for the handler, valid until [`CallFrame::release`], or
    /// `None` when memory is short.
    pub fn prepare(&mut self, view: &RequestView<'_>) -> Option<(*mut HttpRequest, *mut HttpResponse)> {
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
            reserved: [ptr::null_mut(); 3],
        };
        self.prepare_response()?;
        Some((&raw mut self.request, &raw mut self.response))
    }

    fn empty_body(&mut self) -> Option<*mut c_char> {
        if self.empty_body.is_null() {
            self.empty_body = zeroed(1)?;
        }
        // SAFETY: the block's only byte, which an earlier handler may have written.
        unsafe { *self.empty_body = 0 };
        Some(self.empty_body)
    }

    fn prepare_response(&mut self) -> Option<()> {
        if self.response_body.is_null() {
            // One more than a handler may write: what fills its buffer is a string still.
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
            reserved: [ptr::null_mut(); 3],
        };
        Some(())
    }

    /// What the handler left.
    #[must_use]
    pub fn answer(&self) -> HandlerAnswer<'_> {
        let response = &self.response;
        let body = if response.body.is_null() {
            &[]
        } else {
            // SAFETY: by the contract of http_response_t the body has `content_length` bytes, or is NUL-terminated.
            unsafe {
                let len = match usize::try_from(response.content_length) {
                    Ok(len) if len > 0 => len,
                    _ => libc::strlen(response.body),
                };
                std::slice::from_raw_parts(response.body.cast::<u8>(), len)
            }
        };
        let size = self.response_kv.size.min(self.response_pairs.len());
        let headers = if ptr::eq(response.headers, &raw const self.response_kv) {
            self.response_pairs.get(..size).unwrap_or_default()
        } else {
            // SAFETY: a handler may set another store, which by the contract of http_response_t is whole, or NULL.
            unsafe { pairs_of(response.headers) }
        };
        HandlerAnswer { status: status_code(response.status), headers, body }
    }

    /// Frees what the call allocated; memory that can serve the next call stays.
    pub fn release(&mut self) {
        let sent = self.answer().body.len();
        let size = self.response_kv.size.min(self.response_pairs.len());
        // SAFETY: all pointers freed here were malloc'd: keys and values by http_kv_insert and its callers, bodies and
        // stores by us or, if replaced, by the handler, as the contract of http_response_t has it. Each is freed once,
        // because the stores' sizes are reset or the pointers overwritten right after.
        unsafe {
            if !ptr::eq(self.response.headers, &raw const self.response_kv) {
                free_store(self.response.headers);
            }
            for pair in self.response_pairs.iter_mut().take(size) {
                libc::free(pair.key.cast());
                libc::free(pair.value.cast());
                *pair = NO_PAIR;
            }
            self.response_kv.size = 0;
            let body = self.response.body;
            if body == self.response_body && BODY_KEPT.contains(&libc::malloc_usable_size(body.cast())) {
                wipe(std::slice::from_raw_parts_mut(body.cast::<u8>(), HTTP_RESPONSE_SIZE), sent);
            } else {
                libc::free(body.cast());
                self.response_body = ptr::null_mut();
            }
            // Taken over by the response, or by the handler, which says so by another pointer here.
            let taken = body == self.request_body || self.request.body != self.request_body;
            if self.request_body == self.empty_body {
                self.empty_body = if taken { ptr::null_mut() } else { self.empty_body };
            } else if !taken {
                libc::free(self.request_body.cast());
            }
            self.request_body = ptr::null_mut();
            for (store, filled) in self.kv.iter_mut().zip(&self.stores) {
                let inserted = store.server.saturating_sub(1)..store.size.min(filled.pairs.len());
                for pair in filled.pairs.get(inserted).unwrap_or_default() {
                    libc::free(pair.key.cast());
                    libc::free(pair.value.cast());
                }
                store.size = 0;
            }
        }
        if self.arena.capacity() > ARENA_KEPT_MAX {
            self.arena = Vec::new();
        }
    }

    /// After a fault nothing the handler touched can be trusted: its blocks are left alone, and the frame starts anew.
    pub fn abandon(&mut self) {
        (self.response_body, self.empty_body) = (ptr::null_mut(), ptr::null_mut());
        *self = Self::new();
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
        let essence = content_type.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
        if essence.eq_ignore_ascii_case(b"application/x-www-form-urlencoded") {
            form::urlencoded(view.body, |name, value| push_pair(arena, store, name, value));
        } else if let Some(boundary) = form::multipart_boundary(content_type) {
            // A form that breaks off keeps the fields before the break; the handler has the raw body as well.
            let _ = form::multipart(view.body, boundary, |part| push_pair(arena, store, part.name.as_ref(), part.body));
        }
    }

    /// Turns offsets into pointers, now that the arena has its final place.
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
        // SAFETY: each NULL, or a block that was allocated here and that `release` kept.
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

/// The pairs of a store that a handler set.
///
/// # Safety
/// NULL, or a store as `http_kv_create` makes it, which lives as long as the pairs are used.
unsafe fn pairs_of<'a>(store: *const KvStore) -> &'a [KvPair] {
    // SAFETY: the caller's contract.
    let Some(store) = (unsafe { store.as_ref() }) else { return &[] };
    if store.entries.is_null() {
        return &[];
    }
    // SAFETY: the caller's contract; `capacity` pairs lie at `entries`.
    unsafe { std::slice::from_raw_parts(store.entries, store.size.min(store.capacity)) }
}

/// Frees a store that a handler set, unless it is one of a frame's.
///
/// # Safety
/// As [`pairs_of`]; the store is not used any more.
unsafe fn free_store(store: *mut KvStore) {
    // SAFETY: the caller's contract: a store, its array, its keys and its values each come from malloc(3).
    unsafe {
        if store.is_null() || (*store).server != 0 {
            return;
        }
        for pair in pairs_of(store) {
            libc::free(pair.key.cast());
            libc::free(pair.value.cast());
        }
        for at in 0..(*store).repeated_size {
            let pair = (*store).repeated.add(at);
            libc::free((*pair).key.cast());
            libc::free((*pair).value.cast());
        }
        libc::free((*store).repeated.cast());
        libc::free((*store).entries.cast());
        libc::free(store.cast());
    }
}

/// Empties a buffer that was sent up to `sent`, so that the next handler finds none of it. Clearing all of it takes as long
/// as the rest of a short call, so a string that nothing is seen to follow is taken for all that was written.
fn wipe(buffer: &mut [u8], sent: usize) {
    let (string, rest) = buffer.split_at_mut(buffer.len().min(sent.saturating_add(1)));
    let ended = string.last() == Some(&0);
    string.fill(0);
    let near = rest.get(..WIPE_LOOK).unwrap_or(rest);
    // No early end: this is a few vector instructions.
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

/// A NUL-terminated `malloc`ed copy, so that a handler may take it over. `None` when memory is short.
fn copy_body(body: &[u8]) -> Option<*mut c_char> {
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
