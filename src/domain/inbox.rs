//! What other threads send to a shard.
//!
//! A shard owns its connections alone; an executor, a module's thread or the control plane that has something for one
//! of them leaves a [`Message`] here. The push costs no syscall unless the shard sleeps (see [`Waker`]).

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
    /// What module code, or the domain that it runs in, gives to its clients.
    Module(ModuleMessage),
    /// The answer to a request on one of the server's own paths, like [`ModuleMessage::Answer`].
    OwnAnswer {
        /// The connection it belongs to.
        conn: ConnId,
        /// The request's number on that connection.
        seq: u64,
        /// The encoded response, or its head if the body is attached.
        bytes: Vec<u8>,
        /// The body, where it is not part of `bytes`.
        attached: Option<Attached>,
    },
    /// The job of a stream has been looked up: its number, or a status and why not.
    StreamFound {
        /// The shard's key of the stream.
        stream: u64,
        /// What was found.
        job: Result<i64, (u16, String)>,
    },
    /// A step of a stream's replay has been read.
    StreamReplay {
        /// The shard's key of the stream.
        stream: u64,
        /// The events, or why they can't be read.
        replay: Result<Replay, String>,
    },
    /// Events of jobs that this shard's streams watch were committed.
    JobEvents(Vec<Arc<JobFrame>>),
    /// A stream of a module's lines takes its place: the answer to request number `seq` of connection `conn`.
    LogsReady {
        /// The connection it belongs to.
        conn: ConnId,
        /// The request's number on that connection.
        seq: u64,
        /// The shard's key of the stream.
        stream: u64,
    },
    /// Modules that this shard's streams show have new lines.
    LogLines,
    /// A domain is there: the rings to it.
    DomainUp(Box<RingEndpoints>),
    /// A domain is to end when it has done what it is at: send it nothing more.
    DomainDrain {
        /// Its number.
        domain: usize,
    },
    /// A domain has died.
    DomainDown {
        /// Its number.
        domain: usize,
    },
    /// The module table has changed: take a new snapshot and let go of the old one.
    TableChanged,
    /// Stop accepting, finish what is in flight, close what is idle.
    Drain,
    /// Stop now.
    Stop,
}

impl From<ModuleMessage> for Message {
    fn from(message: ModuleMessage) -> Self {
        Self::Module(message)
    }
}

/// A shard's queue of messages, with the wake that goes with it.
#[derive(Debug)]
pub struct Inbox {
    queue: SegQueue<Message>,
    waker: Arc<Waker>,
    /// Where modules run in this process.
    streams: Option<Arc<ShardStreams>>,
}

impl Inbox {
    /// An empty inbox whose pushes wake `waker`.
    #[must_use]
    pub fn new(waker: Arc<Waker>) -> Self {
        Self::with_streams(waker, None)
    }

    /// The same of a shard whose modules run in this process, with its streams.
    #[must_use]
    pub fn with_streams(waker: Arc<Waker>, streams: Option<Arc<ShardStreams>>) -> Self {
        Self { queue: SegQueue::new(), waker, streams }
    }

    /// The streams of the shard's modules in this process.
    #[must_use]
    pub fn streams(&self) -> Option<&Arc<ShardStreams>> {
        self.streams.as_ref()
    }

    /// Leaves a message and wakes the shard if it sleeps.
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
