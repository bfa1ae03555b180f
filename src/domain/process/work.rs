//! Runs the tasks from the rings on the domain's executor threads.

use super::answers::{Answers, Lent};
use super::arena::{Borrower, LENT_BYTES_MIN};
use super::file_body::{self, FileBody};
use super::response_ring::{ResponseOutlet, ResponseRing};
use super::streaming::{RingUplink, ShardStreams, key};
use super::wire::{self, Body, Event, StreamToDomain, ToDomain};
use crate::abi::files::{FileAnswer, FileParts};
use crate::abi::frame::HandlerAnswer;
use crate::abi::manifest::RouteDecl;
use crate::abi::websocket::Socket;
use crate::domain::call::{Handshake, SocketEvent, plain_headers};
use crate::domain::compress;
use crate::domain::executor::Runner;
use crate::domain::in_process::{BUSY, Executor, InProcess, InProcessModule};
use crate::domain::serial::{Turn, Turns};
use crate::domain::stream::call::{Facts, Pipes, Used};
use crate::domain::{Instance, NoAnswer};
use crate::id_map::{IdMap, IdSet};
use crate::proto::http1::{Head, RequestView};
use crate::proto::ws::Deflate;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// A record from a ring. An empty one stands for returning pages of answers to the kernel.
pub(super) struct RingRecord {
    pub(super) shard: usize,
    pub(super) record: Vec<u8>,
    /// Whether the server knows that the call waits for a thread.
    pub(super) waits: bool,
}

impl RingRecord {
    pub(super) fn new(shard: usize, record: Vec<u8>) -> Self {
        Self { shard, record, waits: false }
    }

    /// The ticket of the record's call.
    fn ticket(&self) -> Option<u64> {
        match ToDomain::read(&self.record) {
            Ok(
                ToDomain::Request { ticket, .. }
                | ToDomain::Socket { ticket, .. }
                | ToDomain::Stream(StreamToDomain::Call { ticket, .. }),
            ) => Some(ticket),
            _ => None,
        }
    }

    /// Tells the server that the call waits because all threads are busy, so that the time of its handler has not begun.
    pub(super) fn tell_wait(&mut self, domain: &ChildDomain) {
        if let Some((ticket, responses)) = self.ticket().zip(domain.response_rings.get(self.shard)) {
            say(responses, |record| wire::waits(record, ticket));
            self.waits = true;
        }
    }
}

/// The bytes that the place of a body takes in a record.
const LENT_FIXED_BYTES: usize = 16;

/// State that all threads of the domain share.
pub(super) struct ChildDomain {
    pub(super) instances: RwLock<IdMap<Arc<InProcessModule>>>,
    pub(super) response_rings: Vec<Arc<ResponseRing>>,
    /// The lender for large answer bodies and large frames.
    pub(super) answers: Arc<Answers>,
    /// The borrowers of large request bodies and large messages, one for each shard.
    pub(super) requests: Vec<Borrower>,
    /// The streamed bodies of each shard.
    pub(super) streams: Vec<Arc<ShardStreams>>,
    /// The open sockets of each shard, by its key.
    pub(super) sockets: Vec<Mutex<IdMap<Arc<Socket>>>>,
    /// The sockets of each shard whose end came before their beginning.
    pub(super) gone: Vec<Mutex<IdSet>>,
    /// Whether a module has had calls that run in processes of their own.
    pub(super) has_workers: AtomicBool,
}

fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ChildDomain {
    pub(super) fn instance(&self, id: u64) -> Option<Arc<InProcessModule>> {
        self.instances.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// Whether the calls of a route run in processes of their own.
    pub(super) fn is_elsewhere(&self, instance: u64, route: u32) -> bool {
        // Relaxed: the store happens before the server knows that the module is loaded.
        self.has_workers.load(Ordering::Relaxed)
            && self.instance(instance).is_some_and(|module| module.workers_of(route as usize).is_some())
    }

    fn sockets_of(&self, shard: usize) -> Option<MutexGuard<'_, IdMap<Arc<Socket>>>> {
        Some(self.sockets.get(shard)?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn socket(&self, shard: usize, key: u64) -> Option<Arc<Socket>> {
        self.sockets_of(shard)?.get(&key).cloned()
    }

    fn open_socket(&self, shard: usize, key: u64, number: u64, deflate: Option<Deflate>, session: Option<&[u8]>) {
        let Some(responses) = self.response_rings.get(shard) else { return };
        let outlet = Arc::new(ResponseOutlet { responses: Arc::clone(responses), answers: Arc::clone(&self.answers) });
        // The shard limits unsent bytes; here bytes wait only in the ring and the memory beside it.
        let socket = Socket::numbered(key, number, session, deflate, outlet, usize::MAX);
        if let Some(mut sockets) = self.sockets_of(shard) {
            if self.gone.get(shard).is_some_and(|gone| unpoisoned(gone).remove(&key)) {
                socket.mark_closed();
            }
            sockets.insert(key, socket);
        }
    }

    /// Handles a closed socket connection: its running callbacks must learn of it.
    pub(super) fn socket_gone(&self, shard: usize, key: u64) {
        let Some(sockets) = self.sockets_of(shard) else { return };
        match (sockets.get(&key), self.gone.get(shard)) {
            (Some(socket), _) => socket.mark_closed(),
            // The server reports this only for sockets that it has opened here, so the opening is still in progress.
            (None, Some(gone)) => drop(unpoisoned(gone).insert(key)),
            (None, None) => {}
        }
    }

    /// Handles the server's record of a socket's taken and unsent bytes.
    pub(super) fn socket_buffered(&self, shard: usize, key: u64, taken: u64, unsent: u64) {
        if let Some(socket) = self.socket(shard, key) {
            socket.taken(usize::try_from(taken).unwrap_or(usize::MAX));
            socket.set_unsent(usize::try_from(unsent).unwrap_or(usize::MAX));
        }
    }

    fn forget_socket(&self, shard: usize, key: u64) {
        let socket = self.sockets_of(shard).and_then(|mut sockets| sockets.remove(&key));
        if let Some(socket) = socket {
            socket.mark_closed();
        }
    }
}

/// The result of a handler.
struct Made {
    lent: Lent,
    declined: bool,
    /// The file that is the body.
    file: Option<FileParts>,
    /// Whether the body lies in the executor's own memory.
    is_kept: bool,
    start: Instant,
    /// Whether the handler runs in another process.
    is_elsewhere: bool,
}

/// The recorded run time of a handler: one that keeps a thread waiting is not for a companion.
fn ran_us(start: Instant, is_elsewhere: bool) -> u32 {
    let least = if is_elsewhere { ELSEWHERE_AT_LEAST } else { Duration::ZERO };
    u32::try_from(start.elapsed().max(least).as_micros()).unwrap_or(u32::MAX)
}

/// The least recorded time of a handler that runs in a process of its own.
const ELSEWHERE_AT_LEAST: Duration = Duration::from_secs(1);

/// Runs tasks on one thread, and sends the results.
pub(super) struct DomainRunner {
    domain: Arc<ChildDomain>,
    executor: Executor,
    head: Head,
    fixed: Vec<u8>,
    /// The body of an answer while the module's block with it is freed.
    copied: Vec<u8>,
}

impl DomainRunner {
    pub(super) fn new(domain: &Arc<ChildDomain>) -> Self {
        let executor = InProcess::executor();
        Self {
            domain: Arc::clone(domain),
            executor,
            head: Head::default(),
            fixed: Vec::with_capacity(512),
            copied: Vec::new(),
        }
    }

    /// Runs a handler. If its module's calls run one at a time and the call has no turn, returns the turns instead.
    fn request(&mut self, responses: &Arc<ResponseRing>, mut asked: Asked<'_>, body: &[u8]) -> Option<Arc<Turns>> {
        let start = Instant::now();
        let Asked { shard, ticket, instance, route, has_turn, waits, peer, head, .. } = asked;
        let Some(module) = self.domain.instance(instance) else {
            fail(responses, ticket, "the module is not loaded in its domain\n");
            return None;
        };
        if !has_turn && let Some(turns) = module.turns(route as usize) {
            return Some(Arc::clone(turns));
        }
        if has_turn || waits {
            say(responses, |record| wire::turn(record, ticket));
        }
        let Some(bytes) = self.head.unpack(head) else {
            fail(responses, ticket, "the head of the request can't be read\n");
            return None;
        };
        let view = RequestView { head: &self.head, bytes, body, shared: None, peer };
        let (fixed, copied, answers) = (&mut self.fixed, &mut self.copied, &self.domain.answers);
        fixed.clear();
        copied.clear();
        let is_elsewhere = module.workers_of(route as usize).is_some();
        let ran_us = || ran_us(start, is_elsewhere);
        let (mut lent, mut declined, mut file, mut is_kept) = (Lent::Here, false, None, false);
        let compresses = module.route(route as usize).is_some_and(RouteDecl::may_compress);
        let uplink = RingUplink { streams: &self.domain.streams, responses, shard, ticket };
        let declared = module.manifest().routes.get(route as usize);
        let limit_ms = declared.and_then(RouteDecl::timeout_ms);
        let is_handshake = declared.is_some_and(RouteDecl::is_handshake);
        let stream = asked.stream.take();
        let name = &module.manifest().name;
        let mut facts = Facts {
            key: key(shard, ticket),
            module: name,
            uplink: &uplink,
            view: &view,
            start,
            compresses,
            is_handshake,
            limit_ms,
            stream,
        };
        let result = self.executor.handler(&module, route as usize, &view, Some(&mut facts), |answer, is_streamed| {
            if is_streamed {
                return;
            }
            if answer.is_declined && module.may_decline(route as usize) {
                declined = true;
                return wire::declined(fixed, ticket, ran_us());
            }
            if let Some(answered) = &answer.file {
                file.clone_from(&answered.parts);
                return file_answer(fixed, ticket, ran_us(), &answer, answered);
            }
            let changed = if compresses { compress::changed(&view, &answer) } else { None };
            match &changed {
                Some(changed) => wire::answer_head(fixed, ticket, ran_us(), answer.status, changed.fields()),
                None => wire::answer_head(fixed, ticket, ran_us(), answer.status, answer.headers()),
            }
            let encoded = changed.as_ref().and_then(|changed| changed.body.as_deref());
            let body = encoded.unwrap_or(answer.body);
            let room = responses.room(fixed.len() + LENT_FIXED_BYTES);
            let waits = || say(responses, |record| wire::returned(record, ticket));
            lent = answers.lend(body, body.len() <= room, waits);
            is_kept = answer.is_kept && encoded.is_none();
            if matches!(lent, Lent::Here) && !is_kept {
                copied.extend_from_slice(body);
            }
        });
        let made = Made { lent, declined, file, is_kept, start, is_elsewhere };
        self.answer(responses, ticket, result, made);
        None
    }

    /// Sends the answer of a handler, or the answer in its place.
    fn answer(&mut self, responses: &ResponseRing, ticket: u64, result: Result<(), NoAnswer>, made: Made) {
        let Made { lent, declined, file, is_kept, start, is_elsewhere } = made;
        let (fixed, copied, answers) = (&mut self.fixed, &mut self.copied, &self.domain.answers);
        let ran_us = || ran_us(start, is_elsewhere);
        let fits = responses.room(fixed.len() + LENT_FIXED_BYTES) > 0;
        let too_large = || NoAnswer::failed("the header fields of the answer are too large\n");
        let used = self.executor.finish_stream(result.is_ok());
        match (result.and_then(|()| fits.then_some(()).ok_or_else(too_large)), lent) {
            (Ok(()), _) if used != Used::Whole => {
                say(responses, |record| wire::stream_returned(record, ticket, ran_us()));
            }
            (Ok(()), _) if declined => responses.send(fixed, &[]),
            (Ok(()), _) if file.is_some() => send_file(responses, ticket, fixed, file.as_ref()),
            (Ok(()), Lent::Here) => {
                responses.send(fixed, self.executor.kept_body().filter(|_| is_kept).unwrap_or(copied));
            }
            (Ok(()), Lent::At(place)) => {
                // Includes the time of the copy, so that a route with large answers is not for a companion.
                wire::set_ran_us(fixed, ran_us());
                wire::lend(fixed, place);
                responses.send(fixed, &[]);
            }
            (Ok(()), Lent::Refused(status, why)) => {
                tracing::warn!("an answer can't be sent: {why}");
                fixed.clear();
                wire::answer_head(fixed, ticket, ran_us(), status, plain_headers(status));
                responses.send(fixed, format!("the answer can't be sent: {why}\n").as_bytes());
            }
            (Err(NoAnswer { status, text }), lent) => {
                if let Lent::At(place) = lent
                    && answers.give_back(place.offset)
                {
                    answers.reclaim();
                }
                if status == 500 {
                    fail(responses, ticket, &text);
                } else {
                    fixed.clear();
                    wire::answer_head(fixed, ticket, ran_us(), status, plain_headers(status));
                    responses.send(fixed, text.as_bytes());
                }
            }
        }
        self.executor.finish();
        if self.copied.capacity() > LENT_BYTES_MIN {
            self.copied = Vec::new();
        }
    }

    fn socket(&mut self, responses: &ResponseRing, shard: usize, work: &ToDomain<'_>, events: &[u8]) {
        let ToDomain::Socket { ticket, instance, index, key, .. } = *work else { return };
        let start = Instant::now();
        let mut queue = Vec::new();
        let (mut closes, mut closed) = (false, false);
        for event in wire::read_events(events).unwrap_or_default() {
            match event {
                Event::Open { session, number, deflate, peer, head } => {
                    self.domain.open_socket(shard, key, number, deflate, session);
                    let handshake = Some(Box::new(Handshake { head: head.into(), peer }));
                    queue.push(SocketEvent::Open { handshake });
                }
                Event::Known { session, number, deflate, last } => {
                    self.domain.open_socket(shard, key, number, deflate, session);
                    if let Some(socket) = self.domain.socket(shard, key) {
                        socket.received(last);
                    }
                }
                Event::Message { kind, deflated, bytes } => {
                    queue.push(SocketEvent::Message { kind, payload: bytes.to_vec(), deflated });
                }
                Event::Close { gone } => {
                    (closes, closed) = (true, gone);
                    queue.push(SocketEvent::Close);
                }
                Event::Forget => closes = true,
            }
        }
        let count = u32::try_from(queue.len()).unwrap_or(u32::MAX).max(1);
        if let (Some(module), Some(socket)) = (self.domain.instance(instance), self.domain.socket(shard, key)) {
            if closed {
                socket.mark_closed();
            }
            self.executor.callbacks(&module, &socket, index as usize, queue);
        }
        if closes {
            self.domain.forget_socket(shard, key);
        }
        let mut record = Vec::with_capacity(16);
        wire::idle(&mut record, ticket, u32::try_from((start.elapsed() / count).as_micros()).unwrap_or(u32::MAX));
        responses.send(&record, &[]);
    }
}

/// Sends a short record.
fn say(responses: &ResponseRing, encode: impl FnOnce(&mut Vec<u8>)) {
    let mut record = Vec::with_capacity(16);
    encode(&mut record);
    responses.send(&record, &[]);
}

/// Writes the record of an answer with a file, or of the answer that a condition demands.
fn file_answer(fixed: &mut Vec<u8>, ticket: u64, ran_us: u32, answer: &HandlerAnswer<'_>, file: &FileAnswer) {
    let fields = file.fields(answer.headers());
    let fields = fields.iter().map(|(name, value)| (name.as_ref(), value.as_ref()));
    wire::answer_head(fixed, ticket, ran_us, answer.status, fields);
    if let Some(parts) = &file.parts {
        file_body::attach_file(fixed, &FileBody { file: parts.file.id(), pieces: parts.pieces.clone() });
    }
}

fn send_file(responses: &ResponseRing, ticket: u64, record: &[u8], parts: Option<&FileParts>) {
    let sent = parts.map(|parts| responses.send_file(record, &parts.file));
    if let Some(Err(error)) = sent {
        tracing::error!("a file can't be handed to the server: {error}");
        fail(responses, ticket, "the file can't be sent\n");
    }
}

fn fail(responses: &ResponseRing, ticket: u64, why: &str) {
    let mut record = Vec::with_capacity(64);
    wire::fault(&mut record, ticket, why);
    responses.send(&record, &[]);
}

impl Runner<RingRecord> for DomainRunner {
    fn run(&mut self, work: RingRecord) {
        self.run_and_return(work);
    }

    fn run_and_return(&mut self, work: RingRecord) -> Option<RingRecord> {
        if work.record.is_empty() {
            self.domain.answers.reclaim();
            return None;
        }
        let Some(turns) = self.work(&work, false) else { return Some(work) };
        match turns.enter(work) {
            Turn::Now(work) => {
                let mut next = Some(work);
                while let Some(work) = next {
                    self.work(&work, true);
                    next = turns.next();
                }
            }
            Turn::Later => {}
            Turn::Stuck(works) => works.iter().for_each(|work| self.refuse(work)),
        }
        None
    }
}

/// The call that a record contains.
struct Asked<'a> {
    shard: usize,
    ticket: u64,
    instance: u64,
    route: u32,
    has_turn: bool,
    /// Whether the server knows that the call waits for a thread.
    waits: bool,
    peer: Option<IpAddr>,
    /// The packed head.
    head: &'a [u8],
    /// Set for a call of a `CWEB_STREAM` route.
    stream: Option<Pipes>,
}

impl DomainRunner {
    /// Runs `work`. If it is a call that needs a turn and has none, returns the turns instead.
    fn work(&mut self, work: &RingRecord, has_turn: bool) -> Option<Arc<Turns>> {
        let RingRecord { shard, record, waits } = work;
        let responses = self.domain.response_rings.get(*shard).map(Arc::clone)?;
        let Ok(read) = ToDomain::read(record) else {
            tracing::error!("the server sent a record that can't be read");
            return None;
        };
        if let ToDomain::Stream(call) = &read {
            return self.stream_call(&responses, *shard, call, (has_turn, *waits));
        }
        let (ToDomain::Request { body, .. } | ToDomain::Socket { events: body, .. }) = &read else { return None };
        let domain = Arc::clone(&self.domain);
        let lent = match *body {
            Body::Here(_) => None,
            Body::Lent(place) => domain.requests.get(*shard).and_then(|part| part.borrow(place)),
        };
        let body = match (&lent, *body) {
            (_, Body::Here(body)) => body,
            // SAFETY: the server writes to a place again only after the call was answered, which is the last step of
            // `request` and `socket`.
            (Some(lent), Body::Lent(_)) => unsafe { lent.as_slice() },
            (None, Body::Lent(_)) => {
                tracing::error!("the server lent a body outside its memory");
                return None;
            }
        };
        match &read {
            &ToDomain::Request { ticket, instance, route, peer, head, .. } => {
                let asked =
                    Asked { shard: *shard, ticket, instance, route, has_turn, waits: *waits, peer, head, stream: None };
                self.request(&responses, asked, body)
            }
            work => {
                if let ToDomain::Socket { ticket, .. } = work
                    && *waits
                {
                    say(&responses, |record| wire::turn(record, *ticket));
                }
                self.socket(&responses, *shard, work, body);
                None
            }
        }
    }

    /// Runs a handler that reads the body in pieces.
    fn stream_call(
        &mut self,
        responses: &Arc<ResponseRing>,
        shard: usize,
        call: &StreamToDomain<'_>,
        (has_turn, waits): (bool, bool),
    ) -> Option<Arc<Turns>> {
        let StreamToDomain::Call { ticket, instance, route, slot, length, expects_continue, peer, head } = *call else {
            return None;
        };
        let stream = self.domain.streams.get(shard).and_then(|streams| streams.pipes(slot, length, expects_continue));
        if stream.is_none() {
            fail(responses, ticket, "the memory of the stream is not there\n");
            return None;
        }
        self.request(responses, Asked { shard, ticket, instance, route, has_turn, waits, peer, head, stream }, &[])
    }

    /// Answers a call whose turn does not come.
    fn refuse(&self, work: &RingRecord) {
        if let (Some(responses), Ok(ToDomain::Request { ticket, .. })) =
            (self.domain.response_rings.get(work.shard), ToDomain::read(&work.record))
        {
            let mut record = Vec::with_capacity(128);
            wire::answer_head(&mut record, ticket, 0, 503, plain_headers(503));
            responses.send(&record, format!("the module is busy: {BUSY}\n").as_bytes());
        }
    }
}
