//! The system's zlib as the other end of permessage-deflate: it shares no code with the server's.

use libloading::Library;
use std::ffi::{c_char, c_int, c_uint, c_ulong, c_void};

/// `z_stream` of zlib.h.
#[repr(C)]
struct Stream {
    next_in: *const u8,
    avail_in: c_uint,
    total_in: c_ulong,
    next_out: *mut u8,
    avail_out: c_uint,
    total_out: c_ulong,
    msg: *const c_char,
    state: *mut c_void,
    zalloc: *mut c_void,
    zfree: *mut c_void,
    opaque: *mut c_void,
    data_type: c_int,
    adler: c_ulong,
    reserved: c_ulong,
}

const Z_SYNC_FLUSH: c_int = 2;
const Z_DEFLATED: c_int = 8;
const Z_BUF_ERROR: c_int = -5;

type DeflateInit = unsafe extern "C" fn(*mut Stream, c_int, c_int, c_int, c_int, c_int, *const c_char, c_int) -> c_int;
type InflateInit = unsafe extern "C" fn(*mut Stream, c_int, *const c_char, c_int) -> c_int;
type Step = unsafe extern "C" fn(*mut Stream, c_int) -> c_int;
type Reset = unsafe extern "C" fn(*mut Stream) -> c_int;

/// One direction of a client.
pub struct Zlib {
    library: Library,
    stream: Box<Stream>,
    step: &'static str,
    /// Forgets what came before a message.
    reset: Option<&'static str>,
}

impl Zlib {
    fn open() -> (Library, Box<Stream>) {
        // SAFETY: zlib has no initialisers that matter.
        let library = unsafe { Library::new("libz.so.1") }.expect("zlib, which scripts/test installs");
        // SAFETY: a z_stream of zeros is what zlib.h asks for before it is initialised.
        (library, Box::new(unsafe { std::mem::zeroed() }))
    }

    /// Compresses with a window of 2^`window_bits` bytes; with `takeover`, messages refer to those before them.
    pub fn deflater(level: i32, window_bits: i32, takeover: bool) -> Self {
        let (library, mut stream) = Self::open();
        let size = c_int::try_from(size_of::<Stream>()).unwrap();
        // SAFETY: deflateInit2_ of zlib.h; the stream lives as long as the library, at one place.
        let done = unsafe {
            let init = library.get::<DeflateInit>(b"deflateInit2_").unwrap();
            init(&raw mut *stream, level, Z_DEFLATED, -window_bits, 8, 0, c"1.2.11".as_ptr(), size)
        };
        assert_eq!(done, 0);
        Self { library, stream, step: "deflate", reset: (!takeover).then_some("deflateReset") }
    }

    /// Expands, and finds out that something refers further back than 2^`window_bits` bytes.
    pub fn inflater(window_bits: i32) -> Self {
        let (library, mut stream) = Self::open();
        let size = c_int::try_from(size_of::<Stream>()).unwrap();
        // SAFETY: inflateInit2_ of zlib.h; as above.
        let done = unsafe {
            let init = library.get::<InflateInit>(b"inflateInit2_").unwrap();
            init(&raw mut *stream, -window_bits, c"1.2.11".as_ptr(), size)
        };
        assert_eq!(done, 0);
        Self { library, stream, step: "inflate", reset: Some("inflateReset") }
    }

    fn run(&mut self, input: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        self.stream.next_in = input.as_ptr();
        self.stream.avail_in = c_uint::try_from(input.len()).unwrap();
        // zlib reads what a call has written itself whatever the window is: with little of that, a reference beyond the window fails.
        let mut chunk = vec![0; if self.step == "inflate" { 32 } else { 64 * 1024 }];
        loop {
            self.stream.next_out = chunk.as_mut_ptr();
            self.stream.avail_out = c_uint::try_from(chunk.len()).unwrap();
            // SAFETY: deflate(3) or inflate(3) with buffers that outlive the call.
            let done = unsafe {
                let step = self.library.get::<Step>(self.step.as_bytes()).unwrap();
                step(&raw mut *self.stream, Z_SYNC_FLUSH)
            };
            assert!(done >= 0 || done == Z_BUF_ERROR, "{} fails: {done}", self.step);
            let made = chunk.len() - self.stream.avail_out as usize;
            out.extend_from_slice(&chunk[..made]);
            if self.stream.avail_in == 0 && self.stream.avail_out > 0 {
                return out;
            }
        }
    }

    /// One message: RFC 7692 §7.2.1, or §7.2.2.
    pub fn message(&mut self, input: &[u8]) -> Vec<u8> {
        if let Some(reset) = self.reset {
            // SAFETY: deflateReset(3) or inflateReset(3) of a stream of that kind.
            let done = unsafe {
                let reset = self.library.get::<Reset>(reset.as_bytes()).unwrap();
                reset(&raw mut *self.stream)
            };
            assert_eq!(done, 0);
        }
        if self.step == "inflate" {
            return self.run(&[input, &[0, 0, 0xff, 0xff]].concat());
        }
        let mut out = self.run(input);
        if out.is_empty() {
            return vec![0]; // A flush of nothing after a flush: §7.2.3.6.
        }
        assert!(out.ends_with(&[0, 0, 0xff, 0xff]));
        out.truncate(out.len() - 4);
        out
    }
}

impl Drop for Zlib {
    fn drop(&mut self) {
        let end = format!("{}End", self.step);
        // SAFETY: deflateEnd(3) or inflateEnd(3), once.
        unsafe { self.library.get::<Reset>(end.as_bytes()).unwrap()(&raw mut *self.stream) };
    }
}
