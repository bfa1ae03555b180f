//! WebSocket (RFC 6455): the handshake, frames to send, and the protocol of a session.

mod frame;
mod handshake;
mod inspect;
mod session;
mod utf8;
mod whole;

pub use frame::{Kind, encode_frame, kind_of};
pub use handshake::{HandshakeError, check, encode_accept};
pub use session::{Event, Session, WsLimits};
