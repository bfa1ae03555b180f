//! Data of a request that a handler reads through `include/cweb_request.h`, computed on demand.
//!
//! The services and the request's memory are in `native/request.c`. The functions here read the request again (its form, the
//! captures of its route, the client's address) and store the results in that memory. They follow no pointer of the module's.

use super::encoding;
use super::native::{self, RawParam, RawPart, RawRequest, RequestMakers};
use super::rooms;
use super::types::{HttpRequest, WebSocket};
use super::websocket;
use crate::proto::form::{self, MultipartError};
use crate::proto::forwarded::{ForwardedBy, TrustedProxies};
use crate::proto::http1::RequestView;
use serde::{Deserialize, Serialize};
use std::ffi::{CStr, c_char, c_void};
use std::ptr;
use std::sync::{Arc, OnceLock};

/// Limit on the parts of a form that [`cweb_form_next`](../../include/cweb_request.h) returns.
const PARTS_MAX: usize = 4096;

/// Limits and settings of requests, the same for all modules of a process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RequestRules {
    /// Limit, in bytes, on the memory that one request may get by `cweb_alloc`.
    pub memory_bytes_max: usize,
    /// The proxies whose statements about the client's address are trusted: see [`TrustedProxies::read`].
    pub trusted_proxies: Vec<String>,
    /// The name of the header field that the proxies write: see [`ForwardedBy::named`].
    pub forwarded_by: String,
    /// Limit on the rooms that a WebSocket may be in.
    pub rooms_max: usize,
    /// Limit, in bytes, on an expanded message of a WebSocket.
    pub ws_message_bytes_max: usize,
    /// Size, in bytes, of the smallest WebSocket message that is compressed.
    pub ws_compress_bytes_min: usize,
}

impl Default for RequestRules {
    fn default() -> Self {
        let forwarded_by = ForwardedBy::default().field().to_owned();
        Self {
            memory_bytes_max: 16 * 1024 * 1024,
            trusted_proxies: Vec::new(),
            forwarded_by,
            rooms_max: rooms::ROOMS_DEFAULT,
            ws_message_bytes_max: websocket::MESSAGE_BYTES_MAX,
            ws_compress_bytes_min: encoding::COMPRESSED_BYTES_MIN,
        }
    }
}

static PROXIES: OnceLock<TrustedProxies> = OnceLock::new();

/// Sets the rules of this process. For the proxies, only the first call has an effect.
pub fn set_rules(rules: &RequestRules) {
    // SAFETY: stores a number.
    unsafe { native::cwebn_request_limit(rules.memory_bytes_max) };
    rooms::limit(rules.rooms_max);
    websocket::limit(rules.ws_message_bytes_max);
    encoding::limit(rules.ws_compress_bytes_min);
    let by = ForwardedBy::named(&rules.forwarded_by).unwrap_or_default();
    let named = rules.trusted_proxies.iter().map(String::as_str);
    match TrustedProxies::read(named, by) {
        Ok(proxies) => drop(PROXIES.set(proxies)),
        Err(error) => tracing::error!("no proxy is trusted: {error}"),
    }
}

/// Finds the captures of a route's path in the path of a request.
pub trait Captures: Send + Sync {
    /// Calls `found` with the name and the bytes of each group, in order; the bytes are `None` for a group that did not match.
    fn find(&self, path: &[u8], found: &mut Found<'_>);
}

/// Receives the name and the bytes of one group.
pub type Found<'f> = dyn FnMut(Option<&str>, Option<&[u8]>) + 'f;

/// Compiles the captures of a route's path; `None` for a path without groups.
pub type CapturesOf = fn(&str) -> Option<Arc<dyn Captures>>;

static CAPTURES_OF: OnceLock<CapturesOf> = OnceLock::new();

/// Makes `reader` compile the paths of routes. Only the first call has an effect.
pub fn set_captures(reader: CapturesOf) {
    let _ = CAPTURES_OF.set(reader);
}

/// The path of a route; its captures are compiled at their first use.
pub struct RoutePath {
    path: String,
    captures: OnceLock<Option<Arc<dyn Captures>>>,
}

impl RoutePath {
    /// A route with this path.
    #[must_use]
    pub fn new(path: &str) -> Self {
        Self { path: path.to_owned(), captures: OnceLock::new() }
    }

    fn captures(&self) -> Option<&dyn Captures> {
        let made = self.captures.get_or_init(|| CAPTURES_OF.get().and_then(|reader| reader(&self.path)));
        made.as_deref()
    }
}

/// The inputs of the makers: valid while the thread serves the request.
#[derive(Clone, Copy)]
struct Asked {
    view: *const RequestView<'static>,
    route: *const RoutePath,
}

/// The memory of successive requests on one thread, and the inputs of its makers.
pub(super) struct RequestMemory {
    raw: *mut RawRequest,
    asked: Asked,
}

static MAKERS: RequestMakers = RequestMakers { parts, params, addresses };

impl RequestMemory {
    pub(super) const fn new() -> Self {
        Self { raw: ptr::null_mut(), asked: Asked { view: ptr::null(), route: ptr::null() } }
    }

    /// Begins a request. `view` and `route` must live until [`RequestMemory::reset`] or the next call of this function, and
    /// `self` must not move. Returns `None` when memory is short.
    pub(super) fn begin(&mut self, request: *mut HttpRequest, view: &RequestView<'_>, route: &RoutePath) -> Option<()> {
        if self.raw.is_null() {
            // SAFETY: the makers live for ever.
            self.raw = unsafe { native::cwebn_request_new(&raw const MAKERS) };
        }
        self.asked = Asked { view: ptr::from_ref(view).cast(), route: ptr::from_ref(route) };
        // SAFETY: NULL, or made above and freed in drop; used by this thread only.
        let head = unsafe { self.raw.as_mut() }?;
        (head.request, head.socket) = (request, ptr::null());
        (head.head, head.head_bytes) = (view.bytes.as_ptr().cast(), view.bytes.len());
        head.asked = (&raw const self.asked).cast();
        Some(())
    }

    pub(super) fn as_raw(&self) -> *mut RawRequest {
        self.raw
    }

    /// Records that the request is the one that opened `socket`.
    pub(super) fn opens(&mut self, socket: *const WebSocket) {
        // SAFETY: as in `begin`.
        if let Some(head) = unsafe { self.raw.as_mut() } {
            head.socket = socket;
        }
    }

    /// Whether the handler has deferred functions to the end of the request.
    pub(super) fn has_deferred(&self) -> bool {
        // SAFETY: as in `begin`.
        unsafe { self.raw.as_ref() }.is_some_and(|head| head.deferred_count > 0)
    }

    /// Frees the memory. No pointer into it may be left.
    pub(super) fn reset(&mut self) {
        // SAFETY: as in `begin`.
        unsafe {
            if let Some(head) = self.raw.as_mut() {
                (head.request, head.socket) = (ptr::null_mut(), ptr::null());
                if head.used != 0 {
                    native::cwebn_request_reset(self.raw);
                }
            }
        }
    }
}

impl Drop for RequestMemory {
    fn drop(&mut self) {
        // SAFETY: NULL, or made in `begin`; the thread does not serve the request any more.
        unsafe { native::cwebn_request_free(self.raw) };
    }
}

/// Zeroed memory of a request: `bytes` bytes.
///
/// # Safety
/// The calling thread must serve `request`.
unsafe fn take(request: *mut RawRequest, bytes: usize) -> Option<*mut c_char> {
    // SAFETY: the caller's contract.
    let memory = unsafe { native::cwebn_request_take(request, bytes) }.cast::<c_char>();
    (!memory.is_null()).then_some(memory)
}

/// A copy of `bytes` with a NUL behind it, in the request's memory.
///
/// # Safety
/// See [`take`].
unsafe fn copy(request: *mut RawRequest, bytes: &[u8]) -> Option<*const c_char> {
    // SAFETY: the memory has room for the bytes, and the NUL is there.
    unsafe {
        let memory = take(request, bytes.len() + 1)?;
        ptr::copy_nonoverlapping(bytes.as_ptr(), memory.cast(), bytes.len());
        Some(memory.cast_const())
    }
}

/// Copies `items` into the request's memory.
///
/// # Safety
/// As [`take`]. `T` needs no larger alignment than that of malloc(3).
unsafe fn place<T: Copy>(request: *mut RawRequest, items: &[T]) -> Option<*const T> {
    // SAFETY: the memory has room for the items, aligned for every type.
    unsafe {
        let memory = take(request, size_of_val(items))?.cast::<T>();
        ptr::copy_nonoverlapping(items.as_ptr(), memory, items.len());
        Some(memory.cast_const())
    }
}

const TOO_LARGE: &CStr = c"the parts of the form do not fit into the request's memory (--request-memory-bytes-max)";
const HAS_NUL: &CStr = c"a name or a content type of the form has a NUL";

fn sentence(error: MultipartError) -> &'static CStr {
    match error {
        MultipartError::NoBoundary => c"the boundary of the Content-Type does not occur in the form",
        MultipartError::Truncated => c"the form breaks off: its closing boundary is missing",
        MultipartError::PartHead => c"the head of a part of the form is malformed or too long",
        MultipartError::TooManyParts => c"the form has more than 4096 parts",
    }
}

/// The parts collected so far.
struct Collected {
    request: *mut RawRequest,
    parts: Vec<RawPart>,
    wrong: Option<&'static CStr>,
}

impl Collected {
    /// Adds one part, unless an earlier part was wrong. `content` must not move.
    fn add(&mut self, name: &[u8], file_name: Option<&[u8]>, content_type: Option<&[u8]>, content: &[u8]) {
        let texts = [Some(name), file_name, content_type];
        if self.wrong.is_none() && self.parts.len() >= PARTS_MAX {
            self.wrong = Some(sentence(MultipartError::TooManyParts));
        } else if texts.iter().flatten().any(|text| text.contains(&0)) {
            self.wrong = self.wrong.or(Some(HAS_NUL));
        }
        if self.wrong.is_some() {
            return;
        }
        // SAFETY: the request is the one for which the maker collects.
        let copied = texts.map(|text| text.map(|text| unsafe { copy(self.request, text) }));
        let [Some(Some(name)), file_name, content_type] = copied else { return self.wrong = Some(TOO_LARGE) };
        let (Ok(file_name), Ok(content_type)) = (some(file_name), some(content_type)) else {
            return self.wrong = Some(TOO_LARGE);
        };
        let bytes = content.as_ptr().cast();
        let reserved = [ptr::null_mut(); 3];
        self.parts.push(RawPart { name, file_name, content_type, bytes, length: content.len(), reserved });
    }
}

/// NULL for a missing text; `Err` for a text that could not be copied.
fn some(copied: Option<Option<*const c_char>>) -> Result<*const c_char, ()> {
    copied.map_or(Ok(ptr::null()), |copy| copy.ok_or(()))
}

/// `cwebn_request_makers.parts`
unsafe extern "C" fn parts(
    request: *mut RawRequest,
    asked: *const c_void,
    parts: *mut *const RawPart,
    count: *mut usize,
) -> *const c_char {
    // SAFETY: the contract of the makers: `asked` is that of `begin`, whose view lives; the two places are the caller's.
    let view = unsafe { &*(*asked.cast::<Asked>()).view };
    let mut all = Collected { request, parts: Vec::new(), wrong: None };
    let content_type = view.header("content-type").unwrap_or_default();
    if form::is_urlencoded(content_type) {
        form::urlencoded(view.body, |name, value| {
            // SAFETY: as above. The value is decoded, so that it needs a place of its own.
            match unsafe { copy(request, value) } {
                Some(copy) => {
                    // SAFETY: the copy has the value's length.
                    let copied = unsafe { std::slice::from_raw_parts(copy.cast(), value.len()) };
                    all.add(name, None, None, copied);
                }
                None => all.wrong = Some(TOO_LARGE),
            }
        });
    } else if let Some(boundary) = form::multipart_boundary(content_type) {
        let read = form::multipart(view.body, boundary, PARTS_MAX, |part| {
            all.add(&part.name, part.filename.as_deref(), part.content_type, part.body);
        });
        all.wrong = all.wrong.or(read.err().map(sentence));
    } else {
        all.wrong = Some(c"the request has no form: its Content-Type is neither multipart/form-data nor urlencoded");
    }
    // SAFETY: as above.
    match unsafe { place(request, &all.parts) } {
        // SAFETY: as above.
        Some(placed) => unsafe { (*parts, *count) = (placed, all.parts.len()) },
        None => all.wrong = Some(TOO_LARGE),
    }
    all.wrong.map_or(ptr::null(), CStr::as_ptr)
}

/// Percent-decodes a part of a path. `%00` stays, because a C string would end there.
fn decoded(part: &[u8]) -> Vec<u8> {
    let hex = |byte: Option<&u8>| byte.and_then(|&byte| char::from(byte).to_digit(16));
    let mut out = Vec::with_capacity(part.len());
    let mut at = 0;
    while let Some(&byte) = part.get(at) {
        match (byte, hex(part.get(at + 1)), hex(part.get(at + 2))) {
            (b'%', Some(high), Some(low)) if high + low > 0 => {
                out.push(u8::try_from(high * 16 + low).unwrap_or_default());
                at += 3;
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

/// `cwebn_request_makers.params`
unsafe extern "C" fn params(
    request: *mut RawRequest,
    asked: *const c_void,
    params: *mut *const RawParam,
    count: *mut usize,
) {
    // SAFETY: as in `parts`; the route lives as long as the view.
    let (view, route) = unsafe {
        let asked = *asked.cast::<Asked>();
        (&*asked.view, &*asked.route)
    };
    let mut all: Vec<RawParam> = Vec::new();
    // SAFETY: as in `parts`.
    let text = |bytes: &[u8]| unsafe { copy(request, bytes) }.unwrap_or(ptr::null());
    let mut found = |name: Option<&str>, value: Option<&[u8]>| {
        let name = name.map_or(ptr::null(), |name| text(name.as_bytes()));
        all.push(RawParam { name, value: value.map_or(ptr::null(), |value| text(&decoded(value))) });
    };
    found(None, Some(view.path()));
    if let Some(captures) = route.captures() {
        captures.find(view.path(), &mut found);
    }
    // SAFETY: as in `parts`.
    unsafe {
        if let Some(placed) = place(request, &all) {
            (*params, *count) = (placed, all.len());
        }
    }
}

/// `cwebn_request_makers.addresses`
unsafe extern "C" fn addresses(request: *mut RawRequest, asked: *const c_void, addresses: *mut [*const c_char; 3]) {
    // SAFETY: as in `parts`; `addresses` has three places.
    let (view, addresses) = unsafe { (&*(*asked.cast::<Asked>()).view, &mut *addresses) };
    let client = match PROXIES.get() {
        Some(proxies) => proxies.client(view.peer, view.headers()),
        None => view.peer,
    };
    for (place, address) in addresses.iter_mut().zip([client, view.peer]) {
        // SAFETY: as in `parts`.
        let text = address.and_then(|address| unsafe { copy(request, address.to_string().as_bytes()) });
        *place = text.unwrap_or(ptr::null());
    }
    // SAFETY: as in `parts`. The name has no NUL.
    let name = view.client_name().and_then(|name| unsafe { copy(request, name) });
    addresses[2] = name.unwrap_or(ptr::null());
}

#[cfg(test)]
mod tests {
    use super::decoded;

    #[test]
    fn paths_are_decoded_but_for_nul_and_what_is_no_escape() {
        for (part, expected) in
            [("a%20b", "a b"), ("%2F%2f", "//"), ("a%00b", "a%00b"), ("%", "%"), ("%4", "%4"), ("%zz+", "%zz+")]
        {
            assert_eq!(decoded(part.as_bytes()), expected.as_bytes());
        }
    }
}
