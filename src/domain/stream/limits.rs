//! How long calls may run, how many threads streams may take, what a client and a handler say of lengths and times, and the
//! answer where a body could not be read.

use crate::proto::http1::{RequestView, digits};
use std::sync::atomic::{AtomicU64, Ordering};

/// Time limit of an ordinary handler, in milliseconds; 0: unknown.
static HANDLER_TIMEOUT_MS: AtomicU64 = AtomicU64::new(0);

/// Limit on the answers that a process streams at once from threads that other handlers need, too.
static BORROWED_THREADS_MAX: AtomicU64 = AtomicU64::new(1);

/// Sets the time limit of handlers whose route sets none, and the number of threads for handlers.
pub fn configure(handler_timeout_ms: u64, executors_max: usize) {
    HANDLER_TIMEOUT_MS.store(handler_timeout_ms, Ordering::Relaxed);
    BORROWED_THREADS_MAX.store((executors_max as u64 / 2).max(1), Ordering::Relaxed);
}

pub(super) fn handler_timeout_ms() -> u64 {
    HANDLER_TIMEOUT_MS.load(Ordering::Relaxed)
}

pub(super) fn borrowed_threads_max() -> u64 {
    BORROWED_THREADS_MAX.load(Ordering::Relaxed)
}

/// The time limit that the client asks for, in milliseconds.
pub(super) fn asked_ms(view: &RequestView<'_>) -> Option<u64> {
    let number = |name: &str| digits(view.header(name)?.trim_ascii());
    let precise = number("x-request-timeout-ms");
    let coarse = number("request-timeout").map(|seconds| seconds.saturating_mul(1000));
    precise.into_iter().chain(coarse).min()
}

/// The `Content-Length` that a handler has set.
pub(super) fn declared_length(headers: &[(&[u8], &[u8])]) -> Result<Option<u64>, i32> {
    let found = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(b"content-length"));
    let Some((_, value)) = found else { return Ok(None) };
    digits(value.trim_ascii()).map(Some).ok_or(libc::EINVAL)
}

/// The status and the text for a handler that has returned an error and made no answer; `body_failure`: the errno for which it
/// could not read the body, or 0.
pub(super) fn answer_to_error(body_failure: i32) -> (u16, String) {
    let (status, text) = match body_failure {
        libc::EMSGSIZE => (413, "the body is larger than this route may take\n"),
        libc::EPROTO => (400, "the body is malformed\n"),
        libc::ECONNRESET => (400, "the client has closed its side before the end of the body\n"),
        libc::ETIMEDOUT => (408, "the body came too slowly\n"),
        libc::ECANCELED => (503, "the server stops\n"),
        _ => (500, "the handler has returned an error and no answer\n"),
    };
    (status, text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::answer_to_error;

    #[test]
    fn a_handler_is_to_blame_only_for_what_is_not_wrong_with_the_body() {
        let of = |errno| answer_to_error(errno).0;
        assert_eq!([libc::EMSGSIZE, libc::EPROTO, libc::ECONNRESET].map(of), [413, 400, 400]);
        assert_eq!([libc::ETIMEDOUT, libc::ECANCELED].map(of), [408, 503]);
        assert_eq!([0, libc::EIO].map(of), [500, 500]);
    }
}
