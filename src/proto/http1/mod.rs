//! HTTP/1.1 (RFC 9110, RFC 9112): requests decoded, responses encoded.

mod accept;
mod chunked;
mod conditional;
mod date;
mod decoder;
mod encoding;
mod field;
mod head;
mod packed;
mod range;
mod request_error;
mod response;
mod switching;
mod target;
mod trailers;

pub use accept::accepts;
pub use chunked::BodyPiece;
pub use conditional::{Validators, Verdict, judge};
pub use date::http_date;
pub use decoder::{Decoded, RequestDecoder};
pub use encoding::{Coding, choose_coding};
pub use head::{HEADERS_MAX, Head, Limits, Method, RequestView, digits};
pub use range::{content_range, no_range, part_head, parts_end};
pub use request_error::RequestError;
pub use response::{CONTINUE, Preflight, ResponseHead, close_after, encode_response, encode_stream_head, reason};
pub use switching::Switching;
pub use trailers::{checked_trailers, push_trailer};
