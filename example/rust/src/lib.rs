//! A module in Rust, served by a cweb whose operator allows ready shared objects:
//!
//!     cargo build --release --manifest-path example/rust/Cargo.toml
//!     cweb serve --allow-binary
//!     cweb deploy example/rust/target/release/libsquare.so
//!     curl http://127.0.0.1:8080/rust/12
//!
//! The structures are those of include/cweb.h and include/http.h; the server checks the size of `config` and the two version
//! numbers before it runs anything. The functions of cweb.h are inline functions of C, so a module in another language uses the
//! structures themselves, and the table that `cweb_bind_host` is given (include/cweb_host.h).

use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::{offset_of, size_of};
use std::panic::catch_unwind;
use std::ptr::{copy_nonoverlapping, null};

/// The beginning of `http_request_t`: it is read behind a pointer only.
#[repr(C)]
pub struct Request {
    method: c_int,
    version: c_int,
    status: c_int,
    path: *const c_char,
}

/// The beginning of `http_response_t`.
#[repr(C)]
pub struct Response {
    status: c_int,
    headers: *mut c_void,
    body: *mut c_char,
    content_length: c_int,
}

/// `entry_t`
type Handler = extern "C" fn(*mut c_void, *const Request, *mut Response) -> c_int;

/// `route_info_t`
#[repr(C)]
struct Route {
    path: *const c_char,
    method: *const c_char,
    handler: Option<Handler>,
    flags: c_int,
    regex: [u64; 8],
    regex_compiled: c_int,
}

/// `module_t`. What this module does not use are words of the right number.
#[repr(C)]
pub struct Module {
    name: [u8; 128],
    author: [u8; 128],
    routes: [Route; 64],
    size: c_int,
    websockets: [[usize; 5]; 64],
    ws_size: c_int,
    jobs: [[usize; 10]; 64],
    job_size: c_int,
    onload: usize,
    unload: usize,
    mounts: [[usize; 2]; 16],
    mount_size: c_int,
    on_setting: usize,
}

// As a C compiler lays them out for a 64-bit machine.
const _: () = assert!(size_of::<Module>() == 14904 && offset_of!(Module, size) == 6912);
const _: () = assert!(offset_of!(Module, jobs) == 9488 && offset_of!(Module, mounts) == 14632);
const _: () = assert!(offset_of!(Request, path) == 16 && offset_of!(Response, body) == 16);

// SAFETY: the pointers are to constant texts, and nobody writes to it.
unsafe impl Sync for Module {}

const UNUSED: Route =
    Route { path: null(), method: null(), handler: None, flags: 0, regex: [0; 8], regex_compiled: 0 };

const fn text(text: &str) -> [u8; 128] {
    let (mut field, mut at) = ([0; 128], 0);
    while at < text.len() {
        field[at] = text.as_bytes()[at];
        at += 1;
    }
    field
}

/// Bytes of the buffer that a response begins with (`HTTP_RESPONSE_SIZE`).
const RESPONSE_BYTES: usize = 8 * 1024;

/// The version of the interface (`CWEB_ABI_VERSION`).
#[unsafe(no_mangle)]
pub static cweb_module_abi: u32 = 2;

/// Version of the functions' parameters: 3, the context first.
#[unsafe(no_mangle)]
pub static cweb_module_api: u32 = 3;

/// Routes and other declarations of the module.
#[unsafe(no_mangle)]
pub static config: Module = Module {
    name: text("square"),
    author: text("cweb"),
    routes: {
        let mut routes = [UNUSED; 64];
        routes[0].path = c"/rust/[0-9]+".as_ptr();
        routes[0].method = c"GET".as_ptr();
        routes[0].handler = Some(square);
        routes
    },
    size: 1,
    websockets: [[0; 5]; 64],
    ws_size: 0,
    jobs: [[0; 10]; 64],
    job_size: 0,
    onload: 0,
    unload: 0,
    mounts: [[0; 2]; 16],
    mount_size: 0,
    on_setting: 0,
};

/// The loader hands over the table of the server's functions, which this module does not use.
#[unsafe(no_mangle)]
pub extern "C" fn cweb_bind_host(_host: *const c_void, _module: *const c_void) {}

/// The answer to a path. Panics if the square is beyond 64 bits.
fn answer(path: &str) -> String {
    let number: u64 = path.trim_start_matches("/rust/").parse().expect("a number of 64 bits");
    format!("{}\n", number.checked_mul(number).expect("the square has more than 64 bits"))
}

extern "C" fn square(_context: *mut c_void, request: *const Request, response: *mut Response) -> c_int {
    // SAFETY: the server gives valid pointers for the time of the call, and the path is a C string.
    let (path, response) = unsafe { (CStr::from_ptr((*request).path), &mut *response) };
    // A panic must not leave a function that C calls: it would end the process.
    let (status, text) = match catch_unwind(|| answer(path.to_str().unwrap_or_default())) {
        Ok(text) => (200, text),
        Err(_) => (422, "the number is too large\n".to_owned()),
    };
    let length = text.len().min(RESPONSE_BYTES - 1);
    // SAFETY: the body begins as a buffer of RESPONSE_BYTES of the server's.
    unsafe { copy_nonoverlapping(text.as_ptr(), response.body.cast(), length) };
    response.content_length = length as c_int;
    response.status = status;
    0
}
