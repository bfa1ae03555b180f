//! `cweb_host.send_file`: stores the file that a handler answers with until the handler returns.

use super::answer::{FileAnswer, Wishes};
use super::open;
use crate::abi::types::HttpResponse;
use crate::proto::http1::RequestView;
use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::io;

/// `CWEB_FILE_PLAIN`
const PLAIN: c_int = 1;

/// `struct cweb_file`
#[repr(C)]
#[derive(Debug)]
pub struct FileWish {
    size: u32,
    flags: c_int,
    root: *const c_char,
    path: *const c_char,
    content_type: *const c_char,
    etag: *const c_char,
}

/// The present call of the thread.
#[derive(Clone, Copy)]
struct Current {
    /// Points to a `RequestView`, valid during the call.
    view: *const c_void,
    response: *mut HttpResponse,
}

/// A file that a handler answers with, and the body of its response at that moment.
struct Sent {
    answer: FileAnswer,
    body: *mut c_char,
    content_length: c_int,
}

thread_local! {
    static CURRENT: Cell<Option<Current>> = const { Cell::new(None) };
    static SENT: RefCell<Option<Sent>> = const { RefCell::new(None) };
}

/// Creates the calling thread's own state; see [`crate::abi::websocket::ready`].
pub fn ready() {
    let _ = SENT.try_with(|_| ());
}

/// Runs `body`, a call of the handler for `view` and `response`.
pub(in crate::abi) fn during<T>(view: &RequestView<'_>, response: *mut HttpResponse, body: impl FnOnce() -> T) -> T {
    let current = Current { view: std::ptr::from_ref(view).cast(), response };
    let outer = CURRENT.replace(Some(current));
    SENT.take();
    let result = body();
    CURRENT.set(outer);
    result
}

/// The file that the handler of `response` answers with. A body that the handler has set afterwards takes precedence.
pub(in crate::abi) fn sent(response: &HttpResponse) -> Option<FileAnswer> {
    let Sent { mut answer, body, content_length } = SENT.take()?;
    if (body, content_length) != (response.body, response.content_length) {
        return None;
    }
    answer.status = crate::abi::types::status_code(response.status);
    Some(answer)
}

/// # Safety
/// NULL, or a C string.
unsafe fn text<'a>(pointer: *const c_char) -> Option<&'a CStr> {
    // SAFETY: the caller's contract.
    (!pointer.is_null()).then(|| unsafe { CStr::from_ptr(pointer) })
}

/// Makes a file the answer of the calling thread's handler; sets the status.
///
/// # Errors
/// EOPNOTSUPP: `response` does not belong to the thread's handler; EINVAL: `wish` has no path; the errors of openat2(2).
///
/// # Safety
/// `wish` must have C strings or NULL. The strings are measured before anything is allocated, because a bad pointer
/// makes the guard jump out of this frame.
pub(in crate::abi) unsafe fn send_file(response: *mut HttpResponse, wish: *const FileWish) -> io::Result<()> {
    let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
    let foreign = || io::Error::from_raw_os_error(libc::EOPNOTSUPP);
    let current = CURRENT.get().filter(|current| current.response == response).ok_or_else(foreign)?;
    // SAFETY: the caller's contract.
    let (wish, root, path, content_type, etag) = unsafe {
        let wish = wish.as_ref().ok_or_else(invalid)?;
        (wish, text(wish.root), text(wish.path), text(wish.content_type), text(wish.etag))
    };
    let path = path.filter(|_| wish.size as usize >= size_of::<FileWish>()).ok_or_else(invalid)?;
    // SAFETY: `during` keeps the view borrowed during the call.
    let view = unsafe { &*current.view.cast::<RequestView<'_>>() };
    let family = open::find(root, path)?;
    let readable = |text: Option<&'_ CStr>| text.and_then(|text| text.to_str().ok()).map(str::to_owned);
    let (content_type, etag) = (readable(content_type), readable(etag));
    let wishes =
        Wishes { content_type: content_type.as_deref(), etag: etag.as_deref(), is_plain: wish.flags & PLAIN != 0 };
    let answer = FileAnswer::new(view, &family, path.to_bytes(), wishes);
    // SAFETY: the comparison has shown that this is the response of this thread's call.
    let (body, content_length) = unsafe {
        (*response).status = c_int::from(answer.status);
        ((*response).body, (*response).content_length)
    };
    SENT.replace(Some(Sent { answer, body, content_length }));
    Ok(())
}
