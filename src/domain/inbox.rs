//! The messages of other threads to a shard.
//!
//! A shard alone owns its connections. An executor, a module's thread or the control plane pushes a [`Message`] for one of
//! them here. A push costs no system call unless the shard sleeps (see [`Waker`]).

use super::DEFAULT_DOMAIN;
use super::module_message::ModuleMessage;
use super::process::RingEndpoints;
use super::stream::here::ShardStreams;
use crate::abi::websocket::Outlet;
use crate::jobs::hub::EventSink;
use crate::jobs::{JobFrame, Replay};
use crate::net::{Attached, ConnId, Waker};
use crate::proto::ws::Encoded;
use crossbeam::queue::SegQueue;
use std::sync::Arc;

/// One message to a shard.
#[derive(Debug)]
pub enum Message {
    /// A message of module code, or of its domain, for clients of the module.
    Module(ModuleMessage),
    /// The answer to a request on one of the server's own paths, like [`ModuleMessage::Answer`].
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
    /// A domain's process has started: this shard's ends of its rings.
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
    /// Stop accepting, finish the running requests, and close idle connections.
    Drain,
    /// Stop now.
    Stop,
}

impl From<ModuleMessage> for Message {
    fn from(message: ModuleMessage) -> Self {
        Self::Module(message)
    }
}

/// A shard's queue of messages, together with the shard's waker.
#[derive(Debug)]
pub struct Inbox {
    queue: SegQueue<Message>,
    waker: Arc<Waker>,
    /// `None` unless modules run in this process.
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
    pub fn push(&self, message: impl Into<Message>) {
        self.queue.push(message.into());
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
        self.push(ModuleMessage::SocketSend { socket, frame });
    }

    fn close(&self, socket: u64, code: u16) {
        self.push(ModuleMessage::SocketClose { socket, code });
    }

    fn room(&self, socket: u64, room: &[u8], joins: bool) {
        self.push(ModuleMessage::SocketRoom { socket, room: room.into(), joins });
    }

    fn publish(&self, room: &[u8], message: &Encoded) {
        let domain = DEFAULT_DOMAIN.into();
        self.push(ModuleMessage::RoomPublish { domain, room: room.into(), message: message.clone() });
    }
}

impl EventSink for Inbox {
    fn events(&self, frames: Vec<Arc<JobFrame>>) {
        self.push(Message::JobEvents(frames));
    }
}
