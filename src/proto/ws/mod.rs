//! WebSocket (RFC 6455): the handshake, frames to send, and the protocol of a session.

mod deflate;
mod extension;
mod frame;
mod handshake;
mod head;
mod reader;
mod session;
mod utf8;

pub use deflate::{Deflater, Inflater};
pub use extension::{Deflate, WINDOW_BITS_MAX};
pub use frame::{Encoded, Kind, encode_frame, kind_of};
pub use handshake::{HandshakeError, check, encode_accept};
pub use session::{Event, Session, WsLimits};
