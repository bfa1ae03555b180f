//! Requests: mainly heads, with bodies behind them.

use super::requests::{Found, Outcome, decode};
use super::{pieces, ways_to_cut};
use crate::proto::http1::{Limits, RequestError};

/// Limits that short inputs reach.
const LOW: Limits = Limits { head_bytes_max: 300, headers_max: 8, uri_bytes_max: 60, body_bytes_max: 100 };

/// Any bytes must be requests or refused. The requests must not depend on how the bytes are cut, and an accepted request must
/// stay the same when it is encoded again.
pub fn request_head(data: &[u8]) {
    for limits in [Limits { body_bytes_max: 5000, ..Limits::default() }, LOW] {
        let whole = decode(&[data], &limits);
        for cuts in ways_to_cut(data) {
            same(&decode(&pieces(data, &cuts), &limits), &whole);
        }
        for request in &whole.requests {
            let written = write(request);
            let again = decode(&[&written], &limits);
            assert_eq!(again.error, None, "{}", String::from_utf8_lossy(&written));
            assert_eq!((again.consumed, again.requests.as_slice()), (written.len(), std::slice::from_ref(request)));
        }
    }
}

/// Requests and verdict must be the same. The reported fault may depend on how much input has arrived: a head that is too long
/// is refused before its faults are found.
fn same(cut: &Outcome, whole: &Outcome) {
    assert_eq!(cut.requests, whole.requests);
    match (cut.error, whole.error) {
        (None, None) => assert_eq!(cut.consumed, whole.consumed),
        (Some(RequestError::HeadTooLarge | RequestError::UriTooLong), Some(_)) => {}
        (one, other) => assert_eq!(one, other),
    }
}

/// Encodes the request in the simplest form.
fn write(request: &Found) -> Vec<u8> {
    let mut out = [request.method.as_str().as_bytes(), b" ", &request.path].concat();
    if let Some(query) = &request.query {
        out.extend_from_slice(&[b"?", query.as_slice()].concat());
    }
    out.extend_from_slice(if request.http_1_0 { b" HTTP/1.0\r\n" } else { b" HTTP/1.1\r\n" });
    for (name, value) in &request.headers {
        out.extend_from_slice(&[name, b":".as_slice(), value, b"\r\n"].concat());
    }
    out.extend_from_slice(b"\r\n");
    if !request.chunked {
        out.extend_from_slice(&request.body);
        return out;
    }
    if !request.body.is_empty() {
        out.extend_from_slice(format!("{:X}\r\n", request.body.len()).as_bytes());
        out.extend_from_slice(&request.body);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}
