//! The messages of other threads to a shard.
//!
//! A shard alone owns its connections. An executor, a module's thread or the control plane pushes a [`Message`] for one of
//! them here. A push costs no system call unless the shard sleeps (see [`Waker`]).

use super::DEFAULT_DOMAIN;
use super::call::{AnswerMeta, OwnedRequest};
use super::process::RingEndpoints;
use super::stream::StreamBegin;
use super::stream::here::ShardStreams;
use crate::abi::websocket::Outlet;
use crate::jobs::hub::EventSink;
use crate::jobs::{JobFrame, Replay};
use crate::net::{Attached, ConnId, Lent, Waker};
use crate::proto::ws::Encoded;
use crossbeam::queue::SegQueue;
use std::sync::Arc;

/// One message to a shard.
#[derive(Debug)]
pub enum Message {
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
    /// The answer to a request on one of the server's own paths, like [`Message::Answer`].
    OwnAnswer {
        /// The connection of the request.
        conn: ConnId,
        /// The request's number on that connection.
        seq: u64,
        /// The encoded response, or its head if the body is attached.
        bytes: Vec<u8>,
        /// The body, if it is not part of `bytes`.
        attached: Option<Attached>,
    },
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
        /// One whole frame, which a broadcast shares.
        frame: Arc<[u8]>,
    },
    /// Send a frame that lies in a domain's memory to a WebSocket.
    SocketSendLent {
        /// The shard's key of the socket.
        socket: u64,
        /// One whole frame.
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
    /// The job of a stream was looked up: its number, or a status and the reason.
    StreamFound {
        /// The shard's key of the stream.
        stream: u64,
        /// The result of the look-up.
        job: Result<i64, (u16, String)>,
    },
    /// A step of a stream's replay has been read.
    StreamReplay {
        /// The shard's key of the stream.
        stream: u64,
        /// The events, or the reason why they can't be read.
        replay: Result<Replay, String>,
    },
    /// Jobs that this shard's streams watch have new, committed events.
    JobEvents(Vec<Arc<JobFrame>>),
    /// A stream of log lines is ready: it is the answer to request number `seq` of connection `conn`.
    LogsReady {
        /// The connection of the request.
        conn: ConnId,
        /// The request's number on that connection.
        seq: u64,
        /// The shard's key of the stream.
        stream: u64,
    },
    /// Modules that this shard's streams show have new lines.
    LogLines,
    /// A domain's process has started; its rings.
    DomainUp(Box<RingEndpoints>),
    /// A domain's process is to end after its present work: send it nothing more.
    DomainDrain {
        /// The domain's number.
        domain: usize,
    },
    /// A domain's process has died.
    DomainDown {
        /// The domain's number.
        domain: usize,
    },
    /// The module table has changed: take a new snapshot and release the old one.
    TableChanged,
    /// Stop accepting, finish what is in flight, close what is idle.
    Drain,
    /// Stop now.
    Stop,
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

/// A shard's queue of messages, together with the shard's waker.
#[derive(Debug)]
pub struct Inbox {
    queue: SegQueue<Message>,
    waker: Arc<Waker>,
    /// Only where modules run in this process.
    streams: Option<Arc<ShardStreams>>,
}

impl Inbox {
    /// An empty inbox whose pushes wake `waker`.
    #[must_use]
    pub fn new(waker: Arc<Waker>) -> Self {
        Self::with_streams(waker, None)
    }

    /// An empty inbox of a shard whose modules run in this process, with its streams.
    #[must_use]
    pub fn with_streams(waker: Arc<Waker>, streams: Option<Arc<ShardStreams>>) -> Self {
        Self { queue: SegQueue::new(), waker, streams }
    }

    /// The streams of the shard's modules in this process.
    #[must_use]
    pub fn streams(&self) -> Option<&Arc<ShardStreams>> {
        self.streams.as_ref()
    }

    /// Pushes a message, and wakes the shard if it sleeps.
    pub fn push(&self, message: Message) {
        self.queue.push(message);
        self.waker.wake();
    }

    /// The oldest message, if any. Only the shard calls this.
    pub fn pop(&self) -> Option<Message> {
        self.queue.pop()
    }

    /// Whether nothing is waiting.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

impl Outlet for Inbox {
    fn send(&self, socket: u64, frame: Arc<[u8]>) {
        self.push(Message::SocketSend { socket, frame });
    }

    fn close(&self, socket: u64, code: u16) {
        self.push(Message::SocketClose { socket, code });
    }

    fn room(&self, socket: u64, room: &[u8], joins: bool) {
        self.push(Message::SocketRoom { socket, room: room.into(), joins });
    }

    fn publish(&self, room: &[u8], message: &Encoded) {
        let domain = DEFAULT_DOMAIN.into();
        self.push(Message::RoomPublish { domain, room: room.into(), message: message.clone() });
    }
}

impl EventSink for Inbox {
    fn events(&self, frames: Vec<Arc<JobFrame>>) {
        self.push(Message::JobEvents(frames));
    }
}
