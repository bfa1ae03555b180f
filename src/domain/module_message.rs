//! The messages of module code to a shard: answers, frames of WebSockets, and notices about both.

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
        /// The connection of the request.
        conn: ConnId,
        /// The request's number on that connection.
        seq: u64,
        /// The encoded response, or its head if the body is attached.
        bytes: Vec<u8>,
        /// The body, if it is not part of `bytes`.
        lent: Option<Attached>,
    },
    /// The handler of a fallback route has declined: the shard asks the next one.
    Declined(Box<Declined>),
    /// A streamed answer begins.
    StreamBegin(Box<StreamBegin>),
    /// The stream of request number `seq` of connection `conn` has new data or room.
    StreamNotice {
        /// The connection of the request.
        conn: ConnId,
        /// The request's number on that connection.
        seq: u64,
        /// Whether its handler reads the body for the first time.
        wants_body: bool,
    },
    /// The handler of a streamed answer has returned.
    StreamReturned {
        /// The connection of the request.
        conn: ConnId,
        /// The request's number on that connection.
        seq: u64,
    },
    /// A streamed answer can't be completed.
    StreamBroken {
        /// The connection of the request.
        conn: ConnId,
        /// The request's number on that connection.
        seq: u64,
    },
    /// The callbacks of a batch for this WebSocket have returned.
    SocketIdle {
        /// The shard's key of the socket.
        socket: u64,
    },
    /// Send an encoded frame to a WebSocket.
    SocketSend {
        /// The shard's key of the socket.
        socket: u64,
        /// A whole frame, which a broadcast shares.
        frame: Arc<[u8]>,
    },
    /// Send a frame that lies in a domain's memory to a WebSocket.
    SocketSendLent {
        /// The shard's key of the socket.
        socket: u64,
        /// A whole frame.
        frame: Box<dyn Lent>,
    },
    /// Add a WebSocket to a room, or remove it.
    SocketRoom {
        /// The shard's key of the socket.
        socket: u64,
        /// The room's name.
        room: Box<[u8]>,
        /// Whether the socket joins the room or leaves it.
        joins: bool,
    },
    /// Send an encoded message to the members of a domain's room.
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

/// A request that the handler of a fallback route has declined.
#[derive(Debug)]
pub struct Declined {
    /// The name of the module that declined.
    pub by: String,
    /// The connection of the request.
    pub conn: ConnId,
    /// The request's number on that connection.
    pub seq: u64,
    /// The request.
    pub request: OwnedRequest,
    /// Framing of the answer.
    pub meta: AnswerMeta,
}
