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
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Tickets have this bit, the keys of sockets don't: parts of both come the same way.
const TICKET_BIT: u64 = 1 << 63;
/// Records taken before the sockets have their turn.
const RECORDS_PER_BATCH: usize = 4096;
/// RFC 6455 §7.4.1: an unexpected condition.
const INTERNAL_ERROR: u16 = 1011;
/// Largest answer or frame.
const ANSWER_BYTES_MAX: usize = 1 << 30;

/// One shard's rings to one life of a domain.
pub struct ShardLink {
    shard: usize,
    life: u64,
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
    /// Whether the process has died.
    fn is_dead(&self) -> bool;
}

impl fmt::Debug for ShardLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardLink").field("shard", &self.shard).field("life", &self.life).finish_non_exhaustive()
    }
}

impl ShardLink {
    pub(super) fn new(
        shard: usize,
        life: u64,
        producer: Producer,
        consumer: Consumer,
        record_bytes_max: usize,
        owner: Box<dyn Owner>,
    ) -> Self {
        Self { shard, life, producer, consumer, record_bytes_max, owner }
    }

    pub(super) fn is_dead(&self) -> bool {
        self.owner.is_dead()
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

/// A call that is with the domain.
struct Pending {
    hold: Arc<dyn Hold>,
    unit: usize,
    asker: Asker,
    /// The part of the answer's body that has come.
    body: Vec<u8>,
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
    /// What it was made of: a process that dies before it has the whole record has not begun it, and another gets it.
    queued: Queued,
    fixed: Vec<u8>,
    body: Vec<u8>,
    sent: usize,
}

/// What the shard has with one life of the domain.
struct Line {
    link: Box<ShardLink>,
    /// The calls that were sent there have these tickets; they are sent in the order of their tickets.
    tickets: Range<u64>,
    /// Those that it has not answered.
    open: usize,
    /// Frames that come in parts, by socket.
    frames: HashMap<u64, Vec<u8>>,
    /// The owner has been told that nothing is open and nothing is sent any more.
    drained: bool,
    /// It broke the rules: nothing is taken from it.
    broken: bool,
}

impl Line {
    fn new(link: Box<ShardLink>) -> Self {
        Self { link, tickets: 0..0, open: 0, frames: HashMap::new(), drained: false, broken: false }
    }

    /// Call number `ticket` goes there.
    fn begin(&mut self, ticket: u64) {
        let first = if self.tickets.is_empty() { ticket } else { self.tickets.start };
        self.tickets = first..ticket + 1;
        self.open += 1;
    }

    /// The last call did not go there after all; `open`: and is not over for another reason.
    fn take_back(&mut self, ticket: u64, open: bool) {
        self.tickets.end = ticket;
        self.open -= usize::from(open);
    }

    /// Nothing is sent there any more: tells the owner, once, when nothing is open either.
    fn tell_drained(&mut self) {
        if self.open == 0 && !self.drained {
            self.drained = true;
            self.link.owner.drained();
        }
    }

    /// It does not keep to the rules.
    fn end(&mut self, why: &str) {
        tracing::error!("{why}: the domain is ended");
        self.broken = true;
        self.link.owner.kill();
    }
}

/// The calls a shard has in a domain. Those that have not been sent wait here, also while the domain is started again.
#[derive(Default)]
pub struct RemoteCalls {
    shard: usize,
    /// The life that calls are sent to.
    current: Option<Line>,
    /// Lives before it that have still to answer some.
    former: Vec<Line>,
    pending: HashMap<u64, Pending>,
    queue: VecDeque<Queued>,
    sending: Option<Sending>,
    /// Sockets that the current life knows.
    known: HashSet<u64>,
    tickets: u64,
    scratch: Vec<u8>,
    now_ms: u64,
    /// Nothing is sent: the process is to end when it has done what it is at.
    draining: bool,
    /// Outcomes of calls that were not sent anywhere.
    refused: Vec<Message>,
}

impl RemoteCalls {
    /// The calls of shard number `shard`, before there is a domain.
    #[must_use]
    pub fn new(shard: usize) -> Self {
        Self { shard, ..Self::default() }
    }

    /// A life of the domain is there, and gets what waits. One before it may still answer. Gives the outcome of the calls
    /// that nobody gets, because their module is in quarantine by now.
    pub fn up(&mut self, link: Box<ShardLink>) -> Vec<Message> {
        self.take_back();
        self.former.extend(self.current.replace(Line::new(link)));
        self.known.clear();
        self.draining = false;
        let (barred, queue) = std::mem::take(&mut self.queue).into_iter().partition(|queued| {
            self.pending.get(&queued.ticket).is_none_or(|pending| barred(&*pending.hold).is_some())
        });
        self.queue = queue;
        let barred: VecDeque<Queued> = barred;
        let mut outcomes = Vec::new();
        for pending in barred.iter().filter_map(|queued| self.pending.remove(&queued.ticket)) {
            let why = barred_text(&*pending.hold);
            refuse(pending.asker, &why, &mut outcomes);
        }
        outcomes
    }

    /// A record that has not been sent whole waits again.
    fn take_back(&mut self) {
        let Some(Sending { queued, .. }) = self.sending.take() else { return };
        // It may have been answered meanwhile, because its time was over.
        let open = self.pending.contains_key(&queued.ticket);
        if let Some(line) = &mut self.current {
            line.take_back(queued.ticket, open);
        }
        if open {
            self.queue.push_front(queued);
        }
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
            if let Some(at) = self.queue.iter().position(|queued| queued.ticket == ticket) {
                self.queue.remove(at);
            } else if let Some(line) =
                self.current.iter_mut().chain(&mut self.former).find(|line| line.tickets.contains(&ticket))
            {
                line.open -= 1;
                line.link.owner.recycle("a handler runs for longer than --handler-timeout-ms");
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

    /// A life of the domain has died. Gives the outcome of every call that was with it.
    pub fn down(&mut self) -> Vec<Message> {
        let mut dead: Vec<Line> = self.former.extract_if(.., |line| line.link.is_dead()).collect();
        if self.current.as_ref().is_some_and(|line| line.link.is_dead()) {
            self.take_back();
            dead.extend(self.current.take());
            self.known.clear();
            self.draining = false;
        }
        let was_there = |ticket: &u64| dead.iter().any(|line| line.tickets.contains(ticket));
        let lost: Vec<u64> = self.pending.keys().filter(|ticket| was_there(ticket)).copied().collect();
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
        let Some(module) = hold.instance().as_any().downcast_ref::<RemoteModule>() else { return };
        if let Some(why) = module.barred() {
            let asker = match work {
                Work::Request { conn, seq, meta, .. } => Asker::Request { conn, seq, meta },
                Work::Socket { socket, .. } => Asker::Socket { key: socket.key() },
            };
            return refuse(asker, &why, &mut self.refused);
        }
        let instance = crate::domain::Instance::id(module);
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
        self.pending.insert(ticket, Pending { hold, unit, asker, body: Vec::new(), since_ms });
        self.queue.push_back(Queued { ticket, instance, short, cargo });
    }

    /// Sends what the ring takes; once a batch.
    pub fn flush(&mut self) {
        self.former.iter_mut().for_each(Line::tell_drained);
        let Some(mut line) = self.current.take() else { return };
        while !line.broken {
            if self.sending.is_none()
                && !self.draining
                && let Some(queued) = self.queue.pop_front()
            {
                line.begin(queued.ticket);
                self.sending = Some(self.encode(queued));
            }
            let Some(sending) = &mut self.sending else { break };
            match push(&mut line.link, sending) {
                Ok(()) => self.sending = None,
                Err(PushError::Full) => break,
                Err(error) => line.end(&error.to_string()),
            }
        }
        if self.draining && self.sending.is_none() {
            line.tell_drained();
        }
        if line.link.producer.publish() {
            line.link.producer.wake();
        }
        self.current = Some(line);
    }

    fn encode(&mut self, queued: Queued) -> Sending {
        let Queued { ticket, instance, short, .. } = queued;
        let (mut fixed, mut body) = (Vec::with_capacity(512), Vec::new());
        match &queued.cargo {
            Cargo::Request { route, request } => {
                let view = request.view();
                // Routes are counted by C's int.
                let route = u32::try_from(*route).unwrap_or(u32::MAX);
                wire::request_head(&mut fixed, ticket, instance, route, short, view.bytes);
                body.extend_from_slice(view.body);
            }
            Cargo::Socket { index, socket, events } => {
                let (key, session) = (socket.key(), socket.session());
                let index = u32::try_from(*index).unwrap_or(u32::MAX);
                wire::socket_head(&mut fixed, ticket, instance, index, short, key);
                let number = number_of(key, self.shard);
                if self.known.insert(key) && !matches!(events.first(), Some(SocketEvent::Open)) {
                    wire::push_event(&mut body, &Event::Known { session, number });
                }
                for event in events {
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
        Sending { queued, fixed, body, sent: 0 }
    }

    /// Takes what the domain has sent and gives what it means.
    pub fn poll(&mut self, out: &mut Vec<Message>) {
        out.append(&mut self.refused);
        if let Some(mut line) = self.current.take() {
            self.poll_line(&mut line, out);
            self.current = Some(line);
        }
        let mut former = std::mem::take(&mut self.former);
        former.iter_mut().for_each(|line| self.poll_line(line, out));
        self.former = former;
    }

    fn poll_line(&mut self, line: &mut Line, out: &mut Vec<Message>) {
        if line.broken {
            return;
        }
        let mut record = std::mem::take(&mut self.scratch);
        for _ in 0..RECORDS_PER_BATCH {
            record.clear();
            let popped = line.link.consumer.try_pop(&mut record).map_err(|error| error.to_string());
            let taken = match popped {
                Ok(false) => break,
                Ok(true) => self.take(line, &record, out),
                Err(error) => Err(error),
            };
            if let Err(error) = taken {
                line.end(&error);
                break;
            }
        }
        if !line.broken {
            line.link.consumer.release();
        }
        self.scratch = record;
    }

    /// A call that was sent there is over. `None`: it was sent elsewhere, or has been over.
    fn finish(&mut self, line: &mut Line, ticket: u64) -> Option<Pending> {
        let pending = if line.tickets.contains(&ticket) { self.pending.remove(&ticket)? } else { return None };
        line.open -= 1;
        Some(pending)
    }

    fn take(&mut self, line: &mut Line, record: &[u8], out: &mut Vec<Message>) -> Result<(), String> {
        match ToServer::read(record).map_err(|error| error.to_string())? {
            ToServer::Part { ticket, bytes } => {
                let pending = self.pending.get_mut(&ticket).filter(|_| line.tickets.contains(&ticket));
                let whole = match pending {
                    Some(pending) => &mut pending.body,
                    None if ticket & TICKET_BIT != 0 => return Ok(()), // Its call is over.
                    None => line.frames.entry(ticket).or_default(),
                };
                if whole.len() + bytes.len() > ANSWER_BYTES_MAX {
                    return Err("an answer of a module is too large".to_owned());
                }
                whole.extend_from_slice(bytes);
            }
            ToServer::Answer { ticket, ran_us, status, headers, body } => {
                let Some(pending) = self.finish(line, ticket) else { return Ok(()) };
                pending.hold.ran(pending.unit, Duration::from_micros(u64::from(ran_us)));
                let Asker::Request { conn, seq, meta } = pending.asker else { return Ok(()) };
                let whole;
                let body = if pending.body.is_empty() {
                    body
                } else {
                    whole = [pending.body.as_slice(), body].concat();
                    &whole
                };
                let mut bytes = Vec::with_capacity(256 + body.len());
                let dropped = encode_response(&mut bytes, &meta.head(status, body.len()), headers.iter(), body);
                if dropped > 0 {
                    let name = &pending.hold.instance().manifest().name;
                    tracing::warn!(
                        "module {name}: {dropped} response header(s) with a forbidden character were dropped"
                    );
                }
                out.push(Message::Answer { conn, seq, bytes });
            }
            ToServer::Fault { ticket, why } => {
                let Some(pending) = self.finish(line, ticket) else { return Ok(()) };
                if let Asker::Request { conn, seq, meta } = pending.asker {
                    out.push(Message::Answer { conn, seq, bytes: plain(500, &meta, why) });
                }
            }
            ToServer::Idle { ticket, ran_us } => {
                let Some(pending) = self.finish(line, ticket) else { return Ok(()) };
                pending.hold.ran(pending.unit, Duration::from_micros(u64::from(ran_us)));
                if let Asker::Socket { key } = pending.asker {
                    out.push(Message::SocketIdle { socket: key });
                }
            }
            ToServer::Send { key, frame } => {
                let frame = match line.frames.remove(&key) {
                    Some(early) => [early.as_slice(), frame].concat().into(),
                    None => frame.into(),
                };
                out.push(Message::SocketSend { socket: key, frame });
            }
            ToServer::Close { key, code } => {
                let code = if (1000..=4999).contains(&code) { code } else { 1000 };
                out.push(Message::SocketClose { socket: key, code });
            }
        }
        Ok(())
    }

    /// Whether the domain has sent something. Says at the same time that this shard is about to sleep, so that the
    /// domain wakes it for what comes after (see [`Waker`](crate::net::Waker)).
    #[must_use]
    pub fn has_work(&self) -> bool {
        let mut work = !self.refused.is_empty();
        for line in self.current.iter().chain(&self.former).filter(|line| !line.broken) {
            line.link.consumer.prepare_sleep();
            work |= !line.link.consumer.is_empty();
        }
        work
    }

    /// The shard does not sleep.
    pub fn awake(&self) {
        for line in self.current.iter().chain(&self.former) {
            line.link.consumer.awake();
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
    wire::part_head(&mut part, sending.queued.ticket);
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

/// Why the module must not be called, if so.
fn barred(hold: &dyn Hold) -> Option<String> {
    hold.instance().as_any().downcast_ref::<RemoteModule>().and_then(RemoteModule::barred)
}

/// The same for one that must not, unless that has just changed.
fn barred_text(hold: &dyn Hold) -> String {
    barred(hold).unwrap_or_else(|| format!("module {} was in quarantine; try again", hold.instance().manifest().name))
}

/// The outcome of a call that must not be made: 503, or the end of the socket.
fn refuse(asker: Asker, why: &str, out: &mut Vec<Message>) {
    match asker {
        Asker::Request { conn, seq, meta } => {
            out.push(Message::Answer { conn, seq, bytes: plain(503, &meta, &format!("{why}\n")) });
        }
        Asker::Socket { key } => {
            out.push(Message::SocketIdle { socket: key });
            out.push(Message::SocketClose { socket: key, code: INTERNAL_ERROR });
        }
    }
}

fn plain(status: u16, meta: &AnswerMeta, text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    let headers = [(b"Content-Type".as_slice(), b"text/plain; charset=utf-8".as_slice())];
    encode_response(&mut bytes, &meta.head(status, text.len()), headers.into_iter(), text.as_bytes());
    bytes
}
