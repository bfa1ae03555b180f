//! What module code gives to a shard: answers, frames of WebSockets, and notices about both.

use super::call::{AnswerMeta, OwnedRequest};
use super::stream::StreamBegin;
use crate::net::{Attached, ConnId, Lent};
use crate::proto::ws::Encoded;
use std::sync::Arc;

/// A message to a shard about a call of a module, or about one of its WebSockets.
#[derive(Debug)]
pub enum ModuleMessage {
    /// The answer to request number `seq` of connection `conn`.
    Answer {
        /// The connection it belongs to.
        conn: ConnId,
        /// The request's number on that connection.
        seq: u64,
        /// The encoded response, or its head if the body is attached.
        bytes: Vec<u8>,
        /// The body, where it is not part of `bytes`.
        lent: Option<Attached>,
    },
    /// The handler of a fallback route has declined: the next one is asked.
    Declined(Box<Declined>),
    /// An answer that is sent piece by piece begins.
    StreamBegin(Box<StreamBegin>),
    /// There is something to do for the stream of request number `seq` of connection `conn`.
    StreamNotice {
        /// The connection it belongs to.
        conn: ConnId,
        /// The request's number on that connection.
        seq: u64,
        /// Its handler reads the body for the first time.
        wants_body: bool,
    },
    /// The handler of such an answer has returned.
    StreamReturned {
        /// The connection it belongs to.
        conn: ConnId,
        /// The request's number on that connection.
        seq: u64,
    },
    /// Such an answer can't be completed.
    StreamBroken {
        /// The connection it belongs to.
        conn: ConnId,
        /// The request's number on that connection.
        seq: u64,
    },
    /// The callbacks handed out for this WebSocket have returned.
    SocketIdle {
        /// The shard's key of the socket.
        socket: u64,
    },
    /// Send an encoded frame to a WebSocket.
    SocketSend {
        /// The shard's key of the socket.
        socket: u64,
        /// One whole frame; shared when it is a broadcast.
        frame: Arc<[u8]>,
    },
    /// The same with a frame that lies in a domain's memory.
    SocketSendLent {
        /// The shard's key of the socket.
        socket: u64,
        /// One whole frame.
        frame: Box<dyn Lent>,
    },
    /// Put a WebSocket into a room, or take it out.
    SocketRoom {
        /// The shard's key of the socket.
        socket: u64,
        /// The room's name.
        room: Box<[u8]>,
        /// In, or out.
        joins: bool,
    },
    /// Send an encoded message to the WebSockets of a domain that are in a room.
    RoomPublish {
        /// The domain's name.
        domain: Arc<str>,
        /// The room's name.
        room: Box<[u8]>,
        /// The message.
        message: Encoded,
    },
    /// Close a WebSocket.
    SocketClose {
        /// The shard's key of the socket.
        socket: u64,
        /// RFC 6455 §7.4 close code.
        code: u16,
    },
}

/// A request that the handler of a fallback route leaves to others.
#[derive(Debug)]
pub struct Declined {
    /// The name of the module that declined.
    pub by: String,
    /// The connection it came on.
    pub conn: ConnId,
    /// The request's number on that connection.
    pub seq: u64,
    /// The request.
    pub request: OwnedRequest,
    /// Framing of the answer.
    pub meta: AnswerMeta,
}
