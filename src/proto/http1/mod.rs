//! HTTP/1.1 (RFC 9110, RFC 9112): requests decoded, responses encoded.

mod accept;
mod chunked;
mod date;
mod decoder;
mod head;
mod response;
mod switching;
mod target;

pub use accept::accepts;
pub use date::http_date;
pub use decoder::{Decoded, RequestDecoder};
pub use head::{HEADERS_MAX, Head, Limits, Method, RequestError, RequestView};
pub use response::{CONTINUE, Preflight, ResponseHead, close_after, encode_response, encode_stream_head, reason};
pub use switching::Switching;
