//! A shard's end of a domain's rings, and the calls it has there.

#[cfg(any(test, fuzzing))]
use super::arena;
use super::arena::{Borrower, Lender, Place};
use super::identity::Identity;
use super::remote::RemoteModule;
use super::wire::{self, Body, Event, ToServer};
use crate::abi::manifest::RouteDecl;
use crate::abi::websocket::{Socket, number_of};
use crate::domain::call::{AnswerMeta, Hold, OwnedRequest, SocketEvent, Work};
use crate::domain::inbox::Message;
use crate::domain::ring::{Consumer, Producer, PushError};
#[cfg(any(test, fuzzing))]
use crate::domain::ring::{Region, RingSpec};
use crate::net::{ConnId, Lent};
use crate::proto::http1::encode_response;
use std::cell::Cell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Tickets have this bit, the keys of sockets don't: parts of both come the same way.
const TICKET_BIT: u64 = 1 << 63;
/// RFC 6455 §7.4.1: an unexpected condition.
const INTERNAL_ERROR: u16 = 1011;
/// Largest answer or frame.
const ANSWER_BYTES_MAX: usize = 1 << 30;

/// One shard's rings to one life of a domain.
pub struct ShardLink {
    shard: usize,
    domain: Arc<Identity>,
    life: u64,
    producer: Producer,
    consumer: Consumer,
    record_bytes_max: usize,
    /// Large bodies of requests, and where those that are with the domain lie, by ticket.
    requests: Lender,
    lent: HashMap<u64, Place>,
    /// Large bodies of answers, and the one that the domain is to hear of next.
    answers: Borrower,
    done: Option<u64>,
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

/// A shard's ends of the memory it shares with a process.
pub(super) struct Ends {
    pub(super) producer: Producer,
    pub(super) consumer: Consumer,
    /// Of the ring to the domain.
    pub(super) record_bytes_max: usize,
    pub(super) requests: Lender,
    pub(super) answers: Borrower,
}

#[cfg(any(test, fuzzing))]
impl Ends {
    /// The ends of one shard in a process of which only the rings are in `region`; bodies have memory of their own.
    pub(super) fn of(region: &Arc<Region>, to_domain: RingSpec, to_server: RingSpec) -> std::io::Result<Self> {
        let bodies = Arc::new(Region::create(arena::bytes(1))?);
        Ok(Self {
            producer: Producer::new(region, to_domain)?,
            consumer: Consumer::new(region, to_server)?,
            record_bytes_max: to_domain.record_bytes_max(),
            requests: Lender::new(Arc::clone(&bodies), arena::requests_part(0)),
            answers: Borrower::new(bodies, arena::answers_part(1), true),
        })
    }
}

impl fmt::Debug for ShardLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardLink").field("shard", &self.shard).field("life", &self.life).finish_non_exhaustive()
    }
}

impl ShardLink {
    pub(super) fn new(shard: usize, domain: Arc<Identity>, life: u64, ends: Ends, owner: Box<dyn Owner>) -> Self {
        let Ends { producer, consumer, record_bytes_max, requests, answers } = ends;
        let (lent, done) = (HashMap::new(), None);
        Self { shard, domain, life, producer, consumer, record_bytes_max, requests, lent, answers, done, owner }
    }

    pub(super) fn is_dead(&self) -> bool {
        self.owner.is_dead()
    }

    /// The number of its domain.
    #[must_use]
    pub fn domain(&self) -> usize {
        self.domain.number()
    }

    pub(super) fn shard(&self) -> usize {
        self.shard
    }

    /// Whether there is something to say by [`ShardLink::tell_done`].
    fn has_done(&self) -> bool {
        self.done.is_some() || self.answers.has_done()
    }

    /// Tells the domain which of its bodies have been sent, as far as the ring takes that.
    fn tell_done(&mut self) -> Result<(), PushError> {
        while let Some(offset) = self.done.take().or_else(|| self.answers.next_done()) {
            let mut record = Vec::with_capacity(16);
            wire::done(&mut record, offset);
            if let Err(error) = self.producer.try_push(&[&record]) {
                self.done = Some(offset);
                return if error == PushError::Full { Ok(()) } else { Err(error) };
            }
        }
        Ok(())
    }

    /// The domain has answered a request: its body is not needed any more.
    fn request_over(&mut self, ticket: u64) {
        if !self.lent.is_empty()
            && let Some(place) = self.lent.remove(&ticket)
        {
            self.requests.give_back(place.offset);
        }
    }
}

/// What a call is answered to.
enum Asker {
    Request {
        conn: ConnId,
        seq: u64,
        meta: AnswerMeta,
    },
    /// `ends`: its last event is the socket's last.
    Socket {
        key: u64,
        ends: bool,
    },
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
    /// The route's own limit of time.
    limit_ms: Option<u64>,
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
    /// The call it was made of, if it is one: a process that dies before it has the whole record has not begun it, and
    /// another gets it.
    queued: Option<Queued>,
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
    /// Sockets this life knows. Others it can neither send to nor close: they may be of other domains.
    known: HashSet<u64>,
    /// The parts that have come ahead of a record, and its ticket or key. Only one record is under way at a time, because
    /// the domain's end sends it without a break: what a hostile domain can have kept is one answer.
    early: Option<(u64, Vec<u8>)>,
    /// The owner has been told that nothing is open and nothing is sent any more.
    drained: bool,
    /// It broke the rules: nothing is taken from it.
    broken: bool,
}

impl Line {
    fn new(link: Box<ShardLink>) -> Self {
        Self { link, tickets: 0..0, open: 0, known: HashSet::new(), early: None, drained: false, broken: false }
    }

    /// Call number `ticket` goes there.
    fn begin(&mut self, ticket: u64) {
        let first = if self.tickets.is_empty() { ticket } else { self.tickets.start };
        self.tickets = first..ticket + 1;
        self.open += 1;
    }

    /// A socket has ended; false if it is not known here.
    fn forget(&mut self, key: u64) -> bool {
        self.known.remove(&key)
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
        tracing::error!("{why}: the process of domain {} is ended", self.link.domain.name());
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
    /// Sockets that have ended in another domain, which this one has yet to hear.
    forgotten: Vec<u64>,
    /// Sockets that have ended here, for who has other domains to tell.
    ended: Vec<u64>,
    tickets: u64,
    scratch: Vec<u8>,
    now_ms: u64,
    /// Nothing is sent: the process is to end when it has done what it is at.
    draining: bool,
    /// Outcomes of calls that were not sent anywhere.
    refused: Vec<Message>,
    /// The domain was told that this shard is about to sleep.
    sleeps: Cell<bool>,
}

impl RemoteCalls {
    /// The calls of shard number `shard`, before there is a domain. `now_ms` is the shard's clock.
    #[must_use]
    pub fn new(shard: usize, now_ms: u64) -> Self {
        Self { shard, now_ms, ..Self::default() }
    }

    /// Calls that have no outcome yet.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// Whether nothing is lost if this is forgotten: there is neither a domain nor a call.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.current.is_none()
            && self.former.is_empty()
            && self.pending.is_empty()
            && self.queue.is_empty()
            && self.refused.is_empty()
    }

    /// The sockets that have ended here since the last time.
    pub(super) fn take_ended(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.ended)
    }

    /// A socket has ended in another domain: if this one knows it from before, it is told to let go of it.
    pub(super) fn forget(&mut self, key: u64) {
        let forgotten = self.current.as_mut().is_some_and(|line| line.forget(key));
        self.forgotten.extend(forgotten.then_some(key));
        for line in &mut self.former {
            line.forget(key);
        }
    }

    /// A life of the domain is there, and gets what waits. One before it may still answer. Gives the outcome of the calls
    /// that nobody gets, because their module is in quarantine by now.
    pub fn up(&mut self, link: Box<ShardLink>) -> Vec<Message> {
        self.take_back();
        self.former.extend(self.current.replace(Line::new(link)));
        self.forgotten.clear();
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
        let Some(Sending { queued: Some(queued), .. }) = self.sending.take() else { return };
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
            matches!(pending.asker, Asker::Request { .. })
                && now_ms.saturating_sub(pending.since_ms) > pending.limit_ms.unwrap_or(limit_ms)
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
                line.link.owner.recycle("a handler runs for longer than it may");
            }
            let Some(Pending { hold, asker: Asker::Request { conn, seq, meta }, limit_ms: own_ms, .. }) =
                self.pending.remove(&ticket)
            else {
                continue;
            };
            let limit_ms = own_ms.unwrap_or(limit_ms);
            let name = &hold.instance().manifest().name;
            let text = format!("module {name} did not answer within {limit_ms} ms\n");
            answers.push(Message::Answer { conn, seq, bytes: plain(504, &meta, &text), lent: None });
        }
        answers
    }

    /// A life of the domain has died. Gives the outcome of every call that was with it.
    pub fn down(&mut self) -> Vec<Message> {
        let mut dead: Vec<Line> = self.former.extract_if(.., |line| line.link.is_dead()).collect();
        if self.current.as_ref().is_some_and(|line| line.link.is_dead()) {
            self.take_back();
            dead.extend(self.current.take());
            self.draining = false;
        }
        let was_there = |ticket: &u64| dead.iter().any(|line| line.tickets.contains(ticket));
        let lost: Vec<u64> = self.pending.keys().filter(|ticket| was_there(ticket)).copied().collect();
        let lost: Vec<Pending> = lost.into_iter().filter_map(|ticket| self.pending.remove(&ticket)).collect();
        let outcome = |pending: Pending| match pending.asker {
            Asker::Request { conn, seq, meta } => {
                let name = &pending.hold.instance().manifest().name;
                let text = format!("module {name} was interrupted: the process it ran in died\n");
                Message::Answer { conn, seq, bytes: plain(502, &meta, &text), lent: None }
            }
            Asker::Socket { key, ends } => {
                self.ended.extend(ends.then_some(key));
                Message::SocketIdle { socket: key }
            }
        };
        lost.into_iter().map(outcome).collect()
    }

    /// Queues a call; [`RemoteCalls::flush`] sends it.
    pub fn submit(&mut self, hold: Arc<dyn Hold>, short: bool, work: Work) {
        let Some(module) = hold.instance().as_any().downcast_ref::<RemoteModule>() else { return };
        if let Some(why) = module.barred() {
            let asker = match work {
                Work::Request { conn, seq, meta, .. } => Asker::Request { conn, seq, meta },
                Work::Socket { socket, .. } => Asker::Socket { key: socket.key(), ends: false },
            };
            return refuse(asker, &why, &mut self.refused);
        }
        if matches!(work, Work::Request { .. }) {
            module.domain().count_request(self.shard);
        }
        let instance = crate::domain::Instance::id(module);
        self.tickets += 1;
        let ticket = self.tickets | TICKET_BIT;
        let mut limit_ms = None;
        let (unit, asker, cargo) = match work {
            Work::Request { conn, seq, route, request, meta } => {
                limit_ms = hold.instance().manifest().routes.get(route).and_then(RouteDecl::timeout_ms);
                (route, Asker::Request { conn, seq, meta }, Cargo::Request { route, request })
            }
            Work::Socket { socket, index, events } => {
                let unit = hold.instance().manifest().routes.len() + index;
                let ends = matches!(events.last(), Some(SocketEvent::Close));
                (unit, Asker::Socket { key: socket.key(), ends }, Cargo::Socket { index, socket, events })
            }
        };
        let since_ms = self.now_ms;
        self.pending.insert(ticket, Pending { hold, unit, asker, since_ms, limit_ms });
        self.queue.push_back(Queued { ticket, instance, short, cargo });
    }

    /// Sends what the ring takes; once a batch.
    pub fn flush(&mut self) {
        self.former.iter_mut().for_each(Line::tell_drained);
        let Some(mut line) = self.current.take() else { return };
        let nothing = self.sending.is_none() && self.queue.is_empty() && self.forgotten.is_empty() && !self.draining;
        if nothing && !line.link.has_done() {
            self.current = Some(line);
            return;
        }
        if let Err(error) = line.link.tell_done() {
            line.end(&error.to_string());
        }
        while !line.broken {
            if self.sending.is_none()
                && !self.draining
                && let Some(queued) = self.queue.pop_front()
            {
                line.begin(queued.ticket);
                self.sending = Some(self.encode(&mut line, queued));
            } else if self.sending.is_none()
                && let Some(key) = self.forgotten.pop()
            {
                self.sending = Some(self.encode_forgotten(key));
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

    fn encode(&mut self, line: &mut Line, queued: Queued) -> Sending {
        let Queued { ticket, instance, short, .. } = queued;
        let (mut fixed, mut body) = (Vec::with_capacity(512), Vec::new());
        match &queued.cargo {
            Cargo::Request { route, request } => {
                let view = request.view();
                // Routes are counted by C's int.
                let route = u32::try_from(*route).unwrap_or(u32::MAX);
                wire::request_head(&mut fixed, ticket, instance, route, short, view.bytes);
                match line.link.requests.lend(view.body) {
                    Some(place) => {
                        wire::lend(&mut fixed, place);
                        line.link.lent.insert(ticket, place);
                    }
                    None => body.extend_from_slice(view.body),
                }
            }
            Cargo::Socket { index, socket, events } => {
                let (key, session) = (socket.key(), socket.session());
                let index = u32::try_from(*index).unwrap_or(u32::MAX);
                wire::socket_head(&mut fixed, ticket, instance, index, short, key);
                let number = number_of(key, self.shard);
                if line.known.insert(key) && !matches!(events.first(), Some(SocketEvent::Open)) {
                    wire::push_event(&mut body, &Event::Known { session, number });
                }
                for event in events {
                    let event = match event {
                        SocketEvent::Open => Event::Open { session, number },
                        SocketEvent::Message(bytes) => Event::Message(bytes),
                        SocketEvent::Close => Event::Close { gone: !socket.is_open() },
                    };
                    wire::push_event(&mut body, &event);
                }
            }
        }
        Sending { ticket, queued: Some(queued), fixed, body, sent: 0 }
    }

    /// Has the domain's process let go of a socket, by an event that calls nothing and whose answer nobody waits for.
    fn encode_forgotten(&mut self, key: u64) -> Sending {
        self.tickets += 1;
        let ticket = self.tickets | TICKET_BIT;
        let (mut fixed, mut body) = (Vec::with_capacity(64), Vec::new());
        wire::socket_head(&mut fixed, ticket, 0, 0, true, key);
        wire::push_event(&mut body, &Event::Forget);
        Sending { ticket, queued: None, fixed, body, sent: 0 }
    }

    /// Takes at most `records_max` of the records that each life of the domain has sent, and gives what they mean.
    pub fn poll(&mut self, records_max: usize, out: &mut Vec<Message>) {
        out.append(&mut self.refused);
        if let Some(mut line) = self.current.take() {
            self.poll_line(&mut line, records_max, out);
            self.current = Some(line);
        }
        let mut former = std::mem::take(&mut self.former);
        former.iter_mut().for_each(|line| self.poll_line(line, records_max, out));
        self.former = former;
    }

    fn poll_line(&mut self, line: &mut Line, records_max: usize, out: &mut Vec<Message>) {
        if line.broken || line.link.consumer.is_empty() {
            return;
        }
        let mut record = std::mem::take(&mut self.scratch);
        for _ in 0..records_max {
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

    /// The call that a record of `line` ends. `None`: it was sent elsewhere, or is over already.
    ///
    /// # Errors
    /// A record of this kind can't end it. It stays, to be answered when the domain is ended for that.
    fn finish(&mut self, line: &mut Line, ticket: u64, fits: fn(&Asker) -> bool) -> Result<Option<Pending>, String> {
        let pending = self.pending.get(&ticket).filter(|_| line.tickets.contains(&ticket));
        match pending {
            None => Ok(None),
            Some(pending) if !fits(&pending.asker) => Err("a call was answered by a record of another kind".to_owned()),
            Some(_) => {
                line.open -= 1;
                Ok(self.pending.remove(&ticket))
            }
        }
    }

    fn take(&mut self, line: &mut Line, record: &[u8], out: &mut Vec<Message>) -> Result<(), String> {
        let record = ToServer::read(record).map_err(|error| error.to_string())?;
        if let ToServer::Part { ticket, bytes } = record {
            return line.take_part(ticket, bytes);
        }
        let early = line.early.take();
        let early = |of: u64| early.filter(|(ticket, _)| *ticket == of).map(|(_, bytes)| bytes);
        match record {
            ToServer::Part { .. } => {}
            ToServer::Answer { ticket, ran_us, status, headers, body } => {
                line.link.request_over(ticket);
                // Also for a call that is over: its drop tells the domain.
                let lent = match body {
                    Body::Lent(place) => {
                        Some(line.link.answers.borrow(place).ok_or("an answer lies outside its memory")?)
                    }
                    Body::Here(_) => None,
                };
                let Some(pending) = self.finish(line, ticket, Asker::is_request)? else { return Ok(()) };
                let here = if let Body::Here(body) = body { body } else { &[] };
                let whole = early(ticket).map(|early| [early.as_slice(), here].concat());
                let body = whole.as_deref().unwrap_or(here);
                let answer_bytes = lent.as_ref().map_or(body.len(), Lent::len);
                pending.hold.ran(pending.unit, Duration::from_micros(u64::from(ran_us)), answer_bytes);
                let Asker::Request { conn, seq, meta } = pending.asker else { return Ok(()) };
                let body = if lent.is_some() { &[] } else { body };
                let mut bytes = Vec::with_capacity(256 + body.len());
                let head = meta.head(status, lent.as_ref().map_or(body.len(), Lent::len));
                let dropped = encode_response(&mut bytes, &head, headers.iter(), body);
                let lent = lent.filter(|_| head.has_body()).map(|lent| Box::new(lent) as Box<dyn Lent>);
                if dropped > 0 {
                    let name = &pending.hold.instance().manifest().name;
                    tracing::warn!("module {name}: {dropped} response header(s) that can't be sent were dropped");
                }
                out.push(Message::Answer { conn, seq, bytes, lent });
            }
            ToServer::Fault { ticket, why } => {
                line.link.request_over(ticket);
                let Some(pending) = self.finish(line, ticket, Asker::is_request)? else { return Ok(()) };
                if let Asker::Request { conn, seq, meta } = pending.asker {
                    out.push(Message::Answer { conn, seq, bytes: plain(500, &meta, why), lent: None });
                }
            }
            ToServer::Idle { ticket, ran_us } => {
                let Some(pending) = self.finish(line, ticket, |asker| !asker.is_request())? else { return Ok(()) };
                pending.hold.ran(pending.unit, Duration::from_micros(u64::from(ran_us)), 0);
                if let Asker::Socket { key, ends } = pending.asker {
                    if ends {
                        line.forget(key);
                        self.ended.push(key);
                    }
                    out.push(Message::SocketIdle { socket: key });
                }
            }
            ToServer::Send { key, .. } | ToServer::Close { key, .. } if !line.known.contains(&key) => {}
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

    /// Whether the domain has sent something. Says at the same time that this shard is about to sleep, so that the
    /// domain wakes it for what comes after (see [`Waker`](crate::net::Waker)).
    #[must_use]
    pub fn has_work(&self) -> bool {
        let mut work = !self.refused.is_empty();
        for line in self.current.iter().chain(&self.former).filter(|line| !line.broken) {
            line.link.consumer.prepare_sleep();
            self.sleeps.set(true);
            work |= !line.link.consumer.is_empty();
        }
        work
    }

    /// The shard does not sleep.
    pub fn awake(&self) {
        if !self.sleeps.replace(false) {
            return;
        }
        for line in self.current.iter().chain(&self.former) {
            line.link.consumer.awake();
        }
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
            out.push(Message::Answer { conn, seq, bytes: plain(503, &meta, &format!("{why}\n")), lent: None });
        }
        Asker::Socket { key, .. } => {
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

#[cfg(test)]
mod tests;
