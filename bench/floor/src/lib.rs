//! The floors and the load generators share this code: the answer, the search for the end of a head, a loop like that of cweb's
//! driver, and buffers of a ring.

pub mod answer;
pub mod buffers;
pub mod client;
pub mod driver;

/// The answer, with the header fields that cweb sends.
pub const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\
    Access-Control-Allow-Origin: *\r\nContent-Length: 13\r\n\r\nHello, World!";

/// The number of complete heads in `bytes`, and the end of the last one. Nothing else is checked.
pub fn heads(bytes: &[u8]) -> (usize, usize) {
    let (mut count, mut end) = (0, 0);
    loop {
        let rest = &bytes[end..];
        // SAFETY: both pointers are passed with their lengths.
        let found = unsafe { libc::memmem(rest.as_ptr().cast(), rest.len(), b"\r\n\r\n".as_ptr().cast(), 4) };
        if found.is_null() {
            return (count, end);
        }
        count += 1;
        end = found as usize - bytes.as_ptr() as usize + 4;
    }
}
