//! A shard's end of a domain's rings, and the calls it has there.

use super::remote::RemoteModule;
use super::wire::{self, Event, ToServer};
use crate::abi::websocket::{Socket, number_of};
use crate::domain::call::{AnswerMeta, Hold, OwnedRequest, SocketEvent, Work};
use crate::domain::inbox::Message;
use crate::domain::ring::{Consumer, Producer, PushError};
use crate::net::ConnId;
use crate::proto::http1::encode_response;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Tickets have this bit, the keys of sockets don't: parts of both come the same way.
const TICKET_BIT: u64 = 1 << 63;
/// Records taken before the sockets have their turn.
const RECORDS_PER_BATCH: usize = 4096;
/// Largest answer or frame.
const ANSWER_BYTES_MAX: usize = 1 << 30;

/// One shard's rings to one life of a domain.
pub struct ShardLink {
    shard: usize,
    producer: Producer,
    consumer: Consumer,
    record_bytes_max: usize,
    owner: Box<dyn Owner>,
}

/// Who started the process behind a link.
pub(super) trait Owner: Send {
    /// Ends a process that does not keep to the rules.
    fn kill(&self);
    /// Asks for a new process, once this one has done what it is at.
    fn recycle(&self, why: &str);
    /// This shard has nothing with the process any more, and sends nothing.
    fn drained(&self);
}

impl fmt::Debug for ShardLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardLink").field("shard", &self.shard).finish_non_exhaustive()
    }
}

impl ShardLink {
    pub(super) fn new(
        shard: usize,
        producer: Producer,
        consumer: Consumer,
        record_bytes_max: usize,
        owner: Box<dyn Owner>,
    ) -> Self {
        Self { shard, producer, consumer, record_bytes_max, owner }
    }

    pub(super) fn shard(&self) -> usize {
        self.shard
    }
}

/// What a call is answered to.
enum Asker {
    Request { conn: ConnId, seq: u64, meta: AnswerMeta },
    Socket { key: u64 },
}

impl Asker {
    fn is_request(&self) -> bool {
        matches!(self, Self::Request { .. })
    }
}

/// A call that is with the domain.
struct Pending {
    hold: Arc<dyn Hold>,
    unit: usize,
    asker: Asker,
    since_ms: u64,
}

/// What is to be sent.
enum Cargo {
    Request { route: usize, request: OwnedRequest },
    Socket { index: usize, socket: Arc<Socket>, events: Vec<SocketEvent> },
}

struct Queued {
    ticket: u64,
    instance: u64,
    short: bool,
    cargo: Cargo,
}

/// A record on its way into a ring that was full.
struct Sending {
    ticket: u64,
    fixed: Vec<u8>,
    body: Vec<u8>,
    sent: usize,
}

/// The calls a shard has in a domain. Those that have not been sent wait here, also while the domain is started again.
#[derive(Default)]
pub struct RemoteCalls {
    shard: usize,
    link: Option<Box<ShardLink>>,
    pending: HashMap<u64, Pending>,
    queue: VecDeque<Queued>,
    sending: Option<Sending>,
    /// The parts that have come ahead of a record, and its ticket or key. Only one record is under way at a time, because
    /// the domain's end sends it without a break: what a hostile domain can have kept is one answer.
    early: Option<(u64, Vec<u8>)>,
    /// Sockets this life of the domain knows.
    known: HashSet<u64>,
    tickets: u64,
    scratch: Vec<u8>,
    now_ms: u64,
    /// Nothing is sent: the process is to end when it has done what it is at.
    draining: bool,
    /// The owner has been told that it has.
    drained: bool,
}

impl RemoteCalls {
    /// The calls of shard number `shard`, before there is a domain.
    #[must_use]
    pub fn new(shard: usize) -> Self {
        Self { shard, ..Self::default() }
    }

    /// The domain is there.
    pub fn up(&mut self, link: Box<ShardLink>) {
        self.link = Some(link);
        self.known.clear();
        (self.draining, self.drained) = (false, false);
    }

    /// The process is to end: nothing more is sent to it, and its owner is told when it has answered what was.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Answers the requests that have been with the domain for longer than `limit_ms`, and asks for a new process.
    pub fn expire(&mut self, now_ms: u64, limit_ms: u64) -> Vec<Message> {
        self.now_ms = now_ms;
        let late = |pending: &Pending| {
            matches!(pending.asker, Asker::Request { .. }) && now_ms.saturating_sub(pending.since_ms) > limit_ms
        };
        let late: Vec<u64> =
            self.pending.iter().filter(|(_, pending)| late(pending)).map(|(ticket, _)| *ticket).collect();
        let mut answers = Vec::new();
        for ticket in late {
            let queued = self.queue.iter().position(|queued| queued.ticket == ticket);
            match queued {
                Some(at) => drop(self.queue.remove(at)),
                None => {
                    if let Some(link) = &self.link {
                        link.owner.recycle("a handler runs for longer than --handler-timeout-ms");
                    }
                }
            }
            let Some(Pending { hold, asker: Asker::Request { conn, seq, meta }, .. }) = self.pending.remove(&ticket)
            else {
                continue;
            };
            let name = &hold.instance().manifest().name;
            let text = format!("module {name} did not answer within {limit_ms} ms\n");
            answers.push(Message::Answer { conn, seq, bytes: plain(504, &meta, &text) });
        }
        answers
    }

    /// The domain has died. Gives the outcome of every call that was with it.
    pub fn down(&mut self) -> Vec<Message> {
        self.link = None;
        self.sending = None;
        self.known.clear();
        self.early = None;
        let queued: HashSet<u64> = self.queue.iter().map(|queued| queued.ticket).collect();
        let lost: Vec<u64> = self.pending.keys().filter(|ticket| !queued.contains(ticket)).copied().collect();
        let lost = lost.into_iter().filter_map(|ticket| self.pending.remove(&ticket));
        lost.map(|pending| match pending.asker {
            Asker::Request { conn, seq, meta } => {
                let name = &pending.hold.instance().manifest().name;
                let text = format!("module {name} was interrupted: the process it ran in died\n");
                Message::Answer { conn, seq, bytes: plain(502, &meta, &text) }
            }
            Asker::Socket { key } => Message::SocketIdle { socket: key },
        })
        .collect()
    }

    /// Queues a call; [`RemoteCalls::flush`] sends it.
    pub fn submit(&mut self, hold: Arc<dyn Hold>, short: bool, work: Work) {
        let Some(instance) = hold.instance().as_any().downcast_ref::<RemoteModule>() else { return };
        let instance = crate::domain::Instance::id(instance);
        self.tickets += 1;
        let ticket = self.tickets | TICKET_BIT;
        let (unit, asker, cargo) = match work {
            Work::Request { conn, seq, route, request, meta } => {
                (route, Asker::Request { conn, seq, meta }, Cargo::Request { route, request })
            }
            Work::Socket { socket, index, events } => {
                let unit = hold.instance().manifest().routes.len() + index;
                (unit, Asker::Socket { key: socket.key() }, Cargo::Socket { index, socket, events })
            }
        };
        let since_ms = self.now_ms;
        self.pending.insert(ticket, Pending { hold, unit, asker, since_ms });
        self.queue.push_back(Queued { ticket, instance, short, cargo });
    }

    /// Sends what the ring takes; once a batch.
    pub fn flush(&mut self) {
        let Some(mut link) = self.link.take() else { return };
        while self.sending.is_some() || !self.queue.is_empty() {
            if self.sending.is_none()
                && !self.draining
                && let Some(queued) = self.queue.pop_front()
            {
                self.sending = Some(self.encode(queued));
            }
            let Some(sending) = &mut self.sending else { break };
            match push(&mut link, sending) {
                Ok(()) => self.sending = None,
                Err(PushError::Full) => break,
                Err(error) => {
                    tracing::error!("{error}: the domain is ended");
                    link.owner.kill();
                    break;
                }
            }
        }
        if self.draining && !self.drained && self.sending.is_none() && self.pending.len() == self.queue.len() {
            self.drained = true;
            link.owner.drained();
        }
        if link.producer.publish() {
            link.producer.wake();
        }
        self.link = Some(link);
    }

    fn encode(&mut self, queued: Queued) -> Sending {
        let Queued { ticket, instance, short, cargo } = queued;
        let (mut fixed, mut body) = (Vec::with_capacity(512), Vec::new());
        match cargo {
            Cargo::Request { route, request } => {
                let view = request.view();
                // Routes are counted by C's int.
                let route = u32::try_from(route).unwrap_or(u32::MAX);
                wire::request_head(&mut fixed, ticket, instance, route, short, view.bytes);
                body.extend_from_slice(view.body);
            }
            Cargo::Socket { index, socket, events } => {
                let (key, session) = (socket.key(), socket.session());
                let index = u32::try_from(index).unwrap_or(u32::MAX);
                wire::socket_head(&mut fixed, ticket, instance, index, short, key);
                let number = number_of(key, self.shard);
                if self.known.insert(key) && !matches!(events.first(), Some(SocketEvent::Open)) {
                    wire::push_event(&mut body, &Event::Known { session, number });
                }
                for event in &events {
                    let event = match event {
                        SocketEvent::Open => Event::Open { session, number },
                        SocketEvent::Message(bytes) => Event::Message(bytes),
                        SocketEvent::Close => {
                            self.known.remove(&key);
                            Event::Close { gone: !socket.is_open() }
                        }
                    };
                    wire::push_event(&mut body, &event);
                }
            }
        }
        Sending { ticket, fixed, body, sent: 0 }
    }

    /// Takes what the domain has sent and gives what it means.
    pub fn poll(&mut self, out: &mut Vec<Message>) {
        let Some(mut link) = self.link.take() else { return };
        let mut record = std::mem::take(&mut self.scratch);
        for _ in 0..RECORDS_PER_BATCH {
            record.clear();
            let popped = link.consumer.try_pop(&mut record).map_err(|error| error.to_string());
            let taken = match popped {
                Ok(false) => break,
                Ok(true) => self.take(&record, out),
                Err(error) => Err(error),
            };
            if let Err(error) = taken {
                tracing::error!("{error}: the domain is ended");
                link.owner.kill();
                self.scratch = record;
                return; // Without its link nothing is taken from it any more.
            }
        }
        link.consumer.release();
        self.scratch = record;
        self.link = Some(link);
    }

    fn take(&mut self, record: &[u8], out: &mut Vec<Message>) -> Result<(), String> {
        let record = ToServer::read(record).map_err(|error| error.to_string())?;
        if let ToServer::Part { ticket, bytes } = record {
            return self.take_part(ticket, bytes);
        }
        let early = self.early.take();
        let early = |of: u64| early.filter(|(ticket, _)| *ticket == of).map(|(_, bytes)| bytes);
        match record {
            ToServer::Part { .. } => {}
            ToServer::Answer { ticket, ran_us, status, headers, body } => {
                let Some(pending) = self.ended(ticket, Asker::is_request)? else { return Ok(()) };
                pending.hold.ran(pending.unit, Duration::from_micros(u64::from(ran_us)));
                let Asker::Request { conn, seq, meta } = pending.asker else { return Ok(()) };
                let whole = early(ticket).map(|early| [early.as_slice(), body].concat());
                let body = whole.as_deref().unwrap_or(body);
                let mut bytes = Vec::with_capacity(256 + body.len());
                let dropped = encode_response(&mut bytes, &meta.head(status, body.len()), headers.iter(), body);
                if dropped > 0 {
                    let name = &pending.hold.instance().manifest().name;
                    tracing::warn!("module {name}: {dropped} response header(s) that can't be sent were dropped");
                }
                out.push(Message::Answer { conn, seq, bytes });
            }
            ToServer::Fault { ticket, why } => {
                let Some(pending) = self.ended(ticket, Asker::is_request)? else { return Ok(()) };
                if let Asker::Request { conn, seq, meta } = pending.asker {
                    out.push(Message::Answer { conn, seq, bytes: plain(500, &meta, why) });
                }
            }
            ToServer::Idle { ticket, ran_us } => {
                let Some(pending) = self.ended(ticket, |asker| !asker.is_request())? else { return Ok(()) };
                pending.hold.ran(pending.unit, Duration::from_micros(u64::from(ran_us)));
                if let Asker::Socket { key } = pending.asker {
                    out.push(Message::SocketIdle { socket: key });
                }
            }
            ToServer::Send { key, frame } => {
                let frame = early(key).map_or_else(|| frame.into(), |early| [early.as_slice(), frame].concat().into());
                out.push(Message::SocketSend { socket: key, frame });
            }
            ToServer::Close { key, code } => {
                let code = if (1000..=4999).contains(&code) { code } else { 1000 };
                out.push(Message::SocketClose { socket: key, code });
            }
        }
        Ok(())
    }

    fn take_part(&mut self, ticket: u64, bytes: &[u8]) -> Result<(), String> {
        // Parts whose record never came: their sender gave up.
        let (_, whole) = match self.early.take().filter(|(of, _)| *of == ticket) {
            Some(early) => self.early.insert(early),
            None => self.early.insert((ticket, Vec::new())),
        };
        if whole.len() + bytes.len() > ANSWER_BYTES_MAX {
            return Err("an answer of a module is too large".to_owned());
        }
        whole.extend_from_slice(bytes);
        Ok(())
    }

    /// The call that a record ends; `None` if it is over already.
    ///
    /// # Errors
    /// A record of this kind can't end it. It stays, to be answered when the domain is ended for that.
    fn ended(&mut self, ticket: u64, fits: fn(&Asker) -> bool) -> Result<Option<Pending>, String> {
        match self.pending.get(&ticket) {
            Some(pending) if !fits(&pending.asker) => Err("a call was answered by a record of another kind".to_owned()),
            _ => Ok(self.pending.remove(&ticket)),
        }
    }

    /// Whether the domain has sent something. Says at the same time that this shard is about to sleep, so that the
    /// domain wakes it for what comes after (see [`Waker`](crate::net::Waker)).
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.link.as_ref().is_some_and(|link| {
            link.consumer.prepare_sleep();
            !link.consumer.is_empty()
        })
    }

    /// The shard does not sleep.
    pub fn awake(&self) {
        if let Some(link) = &self.link {
            link.consumer.awake();
        }
    }

    /// Lets go of everything.
    pub fn clear(&mut self) {
        *self = Self::new(self.shard);
    }
}

/// Pushes what is left of a record; what does not fit into one goes ahead in parts.
fn push(link: &mut ShardLink, sending: &mut Sending) -> Result<(), PushError> {
    let mut part = Vec::with_capacity(16);
    wire::part_head(&mut part, sending.ticket);
    let room = link.record_bytes_max.saturating_sub(sending.fixed.len());
    if room == 0 {
        return Err(PushError::TooLarge);
    }
    loop {
        let rest = sending.body.get(sending.sent..).unwrap_or_default();
        if rest.len() <= room {
            return link.producer.try_push(&[&sending.fixed, rest]);
        }
        let piece = rest.get(..(rest.len() - room).min(link.record_bytes_max - part.len())).unwrap_or_default();
        link.producer.try_push(&[&part, piece])?;
        sending.sent += piece.len();
    }
}

fn plain(status: u16, meta: &AnswerMeta, text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    let headers = [(b"Content-Type".as_slice(), b"text/plain; charset=utf-8".as_slice())];
    encode_response(&mut bytes, &meta.head(status, text.len()), headers.into_iter(), text.as_bytes());
    bytes
}
