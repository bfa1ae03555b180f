//! The calls of a shard in one domain, across the domain's processes.

use super::super::call_target::CallTarget;
use super::super::identity::Identity;
use super::super::wire;
use super::RingEndpoints;
use super::call::{Caller, Copying, Large, Payload, Pending, Queued, Sending, Stage, Watched, grace_ms};
use super::refusal::{barred, barred_text, refuse};
use super::session::{KnownSocket, ProcessSession};
use crate::abi::manifest::RouteDecl;
use crate::domain::call::{BodyLedger, GenerationRef, SocketEvent, Task, failure};
use crate::domain::module_message::ModuleMessage;
use crate::id_map::IdMap;
use crate::logbook::{self, Kind};
use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;

/// Tickets have this bit; keys of sockets don't.
pub(super) const TICKET_BIT: u64 = 1 << 63;

/// For at least so long, the pages of a large body are kept for the next one; at most twice as long if there is none.
const COOL_AFTER_MS: u64 = 1_000;

/// Limit on an answer's wait for memory. The domain has a lower limit.
const RETURNED_MS_MAX: u64 = 60_000;

/// How many times a handler's time limit a call may wait for a thread. A domain must not keep the memory of all its
/// calls by claiming that they wait.
const WAITS_LIMITS: u64 = 4;

/// Time limit of the callbacks of a socket, in milliseconds.
fn socket_limit_ms(stage: Stage, limit_ms: u64, callbacks: u64) -> u64 {
    let of_all = limit_ms.saturating_mul(callbacks);
    if stage == Stage::Turn { of_all.saturating_mul(WAITS_LIMITS) } else { of_all }
}

/// The calls of a shard in a domain. Calls that are not sent wait here, also while the domain's process is started again.
#[derive(Default)]
pub struct CallTable {
    pub(super) shard: usize,
    /// The process that gets the calls.
    pub(super) current: Option<ProcessSession>,
    /// Earlier processes that must still answer some calls.
    pub(super) former: Vec<ProcessSession>,
    pub(super) pending: IdMap<Pending>,
    pub(super) queue: VecDeque<Queued>,
    pub(super) sending: Option<Sending>,
    /// Calls with large bodies, which wait for a place; and the call whose body is being written.
    pub(super) large: VecDeque<Large>,
    pub(super) copying: Option<Copying>,
    /// The number of bytes that may still be written in this batch.
    pub(super) left: usize,
    /// Whether there is more to do at once.
    pub(super) more: bool,
    /// Sockets that have ended in another domain, which this domain must still learn.
    pub(super) forgotten: Vec<u64>,
    /// Sockets with a closed connection, which the current process must still learn.
    pub(super) gone: Vec<u64>,
    /// For each socket, for the current process: bytes that the shard took since the last record, and unsent bytes.
    pub(super) buffered: IdMap<(usize, usize)>,
    /// Sockets that have ended here; the caller tells the other domains.
    pub(super) ended: Vec<u64>,
    pub(super) tickets: u64,
    pub(super) scratch: Vec<u8>,
    /// The record in progress.
    pub(super) record: Vec<u8>,
    pub(super) now_ms: u64,
    /// The time of the last look at kept pages.
    cooled_ms: u64,
    /// Time limit of handlers, in milliseconds.
    pub(super) limit_ms: u64,
    /// The time since which calls of streams have found no process.
    pub(super) missed_since_ms: Option<u64>,
    /// Whether nothing is sent because the process is to end after its present work.
    pub(super) draining: bool,
    /// Bytes of waiting request bodies, and of waiting messages.
    pub(super) waiting: Arc<BodyLedger>,
    messages: Arc<BodyLedger>,
    /// Outcomes of calls that were not sent.
    pub(super) refused: Vec<ModuleMessage>,
    /// Whether the domain knows that this shard is about to sleep.
    pub(super) sleeps: Cell<bool>,
}

impl CallTable {
    /// The calls of shard number `shard`, before there is a process. `now_ms` is the shard's clock.
    #[must_use]
    pub fn new(shard: usize, now_ms: u64) -> Self {
        Self { shard, now_ms, cooled_ms: now_ms, ..Self::default() }
    }

    /// The same table, whose waiting request bodies and WebSocket messages count in these ledgers.
    #[must_use]
    pub fn counted_in(mut self, bodies: &Arc<BodyLedger>, messages: &Arc<BodyLedger>) -> Self {
        (self.waiting, self.messages) = (BodyLedger::within(bodies), BodyLedger::within(messages));
        self
    }

    /// The number of unfinished calls.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.pending.len() + self.large_calls()
    }

    /// Bytes of request bodies in the memory of the domain's processes.
    #[must_use]
    pub fn lent_bytes(&self) -> usize {
        self.current.iter().chain(&self.former).map(|session| session.endpoints.requests.used()).sum()
    }

    /// Bytes of free memory of the domain's processes that keep their pages for the next large bodies.
    #[must_use]
    pub fn warm_bytes(&self) -> usize {
        self.current.iter().chain(&self.former).map(|session| session.endpoints.requests.warm()).sum()
    }

    /// Returns this memory to the kernel.
    pub(in crate::domain::process) fn drop_warm(&mut self) {
        for session in self.current.iter_mut().chain(&mut self.former) {
            session.endpoints.requests.drop_warm();
        }
    }

    /// Once in [`COOL_AFTER_MS`]: gives up the pages of large bodies that no other body has used meanwhile.
    fn cool(&mut self) {
        if self.now_ms.saturating_sub(self.cooled_ms) < COOL_AFTER_MS {
            return;
        }
        self.cooled_ms = self.now_ms;
        for session in self.current.iter_mut().chain(&mut self.former) {
            session.endpoints.requests.cool();
        }
    }

    /// Bytes of request bodies that wait here.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.waiting.bytes()
    }

    /// Bytes of bodies and messages that the domain holds in the server and its processes.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.lent_bytes().saturating_add(self.waiting.bytes()).saturating_add(self.messages.bytes())
    }

    /// The domain's identity, if one of its processes is known here.
    pub(in crate::domain::process) fn identity(&self) -> Option<&Arc<Identity>> {
        self.current.iter().chain(&self.former).map(|session| session.endpoints.identity()).next()
    }

    /// Whether this table can be dropped: there is neither a process nor a call.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.current.is_none()
            && self.former.is_empty()
            && self.pending.is_empty()
            && self.queue.is_empty()
            && self.large_calls() == 0
            && self.refused.is_empty()
    }

    /// Takes the sockets that have ended here since the last call.
    pub(in crate::domain::process) fn take_ended(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.ended)
    }

    /// Handles the end of a socket in another domain: if this domain knows the socket from before, it is told to forget it.
    pub(in crate::domain::process) fn forget(&mut self, key: u64) {
        let forgotten = self.current.as_mut().is_some_and(|session| session.forget(key));
        self.forgotten.extend(forgotten.then_some(key));
        for session in &mut self.former {
            session.forget(key);
        }
    }

    /// Handles a closed socket connection: running callbacks learn it now, long before the socket's last event.
    pub(in crate::domain::process) fn gone(&mut self, key: u64) {
        let unaware = |session: &mut ProcessSession| {
            let known = session.known.get_mut(&key).filter(|known| !known.gone && !known.ends);
            known.map(|known| known.gone = true).is_some()
        };
        if self.current.as_mut().is_some_and(unaware) {
            self.gone.push(key);
        }
        let mut record = Vec::with_capacity(16);
        wire::gone(&mut record, key);
        for session in self.former.iter_mut().filter(|session| !session.broken) {
            // A process that does not take the record is ending anyway.
            if unaware(session) && session.endpoints.producer.try_push(&[&record]).is_ok() {
                session.publish();
            }
        }
    }

    /// Adds to the next record of socket `key`, if the current process knows the socket: bytes taken, and bytes unsent.
    pub(in crate::domain::process) fn buffered(&mut self, key: u64, taken: usize, unsent: usize) {
        let listens = |known: &KnownSocket| !known.gone && !known.ends;
        if self.current.as_ref().and_then(|session| session.known.get(&key)).is_some_and(listens) {
            let told = self.buffered.entry(key).or_default();
            *told = (told.0.saturating_add(taken), unsent);
        }
    }

    /// Handles a new process of the domain, which gets the waiting calls. The previous one may still answer. Returns the
    /// outcome of calls that are dropped because their module is in quarantine by now.
    pub fn up(&mut self, endpoints: Box<RingEndpoints>) -> Vec<ModuleMessage> {
        self.take_back();
        if let Some(session) = &mut self.current {
            // Requests of this batch are in the ring of that process, and no other call will publish them.
            session.publish();
        }
        self.former.extend(self.current.replace(ProcessSession::new(endpoints)));
        self.forgotten.clear();
        self.gone.clear();
        self.buffered.clear();
        self.draining = false;
        let (barred, queue) = std::mem::take(&mut self.queue).into_iter().partition(|queued| {
            // The memory of a stream has gone with the previous process.
            let is_barred = |pending: &Pending| barred(&*pending.hold).is_some() || pending.watched.is_some();
            self.pending.get(&queued.ticket).is_none_or(is_barred)
        });
        self.queue = queue;
        let barred: VecDeque<Queued> = barred;
        let mut outcomes = Vec::new();
        for pending in barred.iter().filter_map(|queued| self.pending.remove(&queued.ticket)) {
            let why = match pending.watched {
                Some(_) => "the module's process was replaced; try again".to_owned(),
                None => barred_text(&*pending.hold),
            };
            refuse(pending.caller, &why, &mut outcomes);
        }
        let large = std::mem::take(&mut self.large).into_iter();
        let (refused, large): (VecDeque<Large>, _) =
            large.partition(|large| super::refusal::barred(&*large.pending.hold).is_some());
        self.large = large;
        for Large { pending, .. } in refused {
            let why = barred_text(&*pending.hold);
            refuse(pending.caller, &why, &mut outcomes);
        }
        outcomes
    }

    /// Puts a call whose record was not completely sent back into the queue.
    fn take_back(&mut self) {
        self.stop_copying(None);
        let Some(Sending { queued: Some(queued), .. }) = self.sending.take() else { return };
        // The call may have been answered meanwhile, because its time was over.
        let open = self.pending.contains_key(&queued.ticket);
        if let Some(session) = &mut self.current {
            session.take_back(queued.ticket, open);
        }
        if open {
            self.queue.push_front(queued);
        }
    }

    /// Drains the process: nothing more is sent to it, and its owner is told when it has answered everything. The calls
    /// that wait for the end of this batch are sent before. A call with a stream can't wait for the next process,
    /// because its memory belongs to this one.
    pub fn drain(&mut self) {
        self.flush();
        self.draining = true;
        self.cancel_all();
    }

    /// Answers the requests that have been with the domain for longer than `limit_ms`, and asks for a new process. Also
    /// asks for one if the callbacks of a socket neither return nor send for so long.
    pub fn expire(&mut self, now_ms: u64, limit_ms: u64) -> Vec<ModuleMessage> {
        (self.now_ms, self.limit_ms) = (now_ms, limit_ms);
        self.cool();
        self.look_at_streams();
        let limit_of = |pending: &Pending| match pending.stage {
            // The handler is not responsible for a call that it has not got.
            Stage::Waiting | Stage::Turn => limit_ms,
            // For a stream, the limit applies to the time without progress: its handler may work for so long between two
            // pieces.
            Stage::Running if pending.watched.is_some() => pending.limit_ms.map_or(limit_ms, |own| own.max(limit_ms)),
            Stage::Running => pending.limit_ms.unwrap_or(limit_ms).saturating_add(pending.grace_ms),
            Stage::Returned => RETURNED_MS_MAX,
        };
        let late = |pending: &Pending| {
            matches!(pending.caller, Caller::Request { .. })
                && now_ms.saturating_sub(pending.since_ms) > limit_of(pending)
        };
        let late: Vec<u64> =
            self.pending.iter().filter(|(_, pending)| late(pending)).map(|(ticket, _)| *ticket).collect();
        let mut answers = Vec::new();
        for ticket in late {
            if let Some(at) = self.queue.iter().position(|queued| queued.ticket == ticket) {
                self.queue.remove(at);
            } else if let Some(session) =
                self.current.iter_mut().chain(&mut self.former).find(|session| session.tickets.contains(&ticket))
            {
                session.give_up(ticket);
                if self.pending.get(&ticket).is_some_and(|pending| pending.has_waited) {
                    session.waited.push_back((ticket, now_ms.saturating_add(limit_ms.saturating_mul(WAITS_LIMITS))));
                }
                // A call without its turn has no running handler; the call that it waits for has a limit of its own.
                if let Some(pending) = self.pending.get(&ticket).filter(|pending| pending.stage != Stage::Turn) {
                    let name = &pending.hold.instance().manifest().name;
                    session.endpoints.owner.recycle(&format!("a handler of module {name} runs for longer than it may"));
                }
            }
            let Some(pending) = self.pending.remove(&ticket) else { continue };
            // The additional time is the domain's, not the route's.
            let grace_ms = if matches!(pending.stage, Stage::Running) { pending.grace_ms } else { 0 };
            let limit_ms = limit_of(&pending).saturating_sub(grace_ms);
            let manifest = pending.hold.instance().manifest();
            let name = &manifest.name;
            let (status, text) = match pending.stage {
                Stage::Running => (504, format!("module {name} did not answer within {limit_ms} ms\n")),
                Stage::Turn => {
                    let is_serial = manifest.routes.get(pending.unit).is_some_and(RouteDecl::is_serial);
                    let why = if is_serial { "runs one call at a time" } else { "has no thread left" };
                    (503, format!("module {name} {why}: this call had no turn within {limit_ms} ms\n"))
                }
                Stage::Waiting => (503, format!("the process of module {name} took no request within {limit_ms} ms\n")),
                Stage::Returned => (503, format!("the answer of module {name} got no memory within {limit_ms} ms\n")),
            };
            let route = manifest.routes.get(pending.unit).map(|route| format!("{} {}", route.method, route.path));
            let what = route.as_deref().unwrap_or("a request");
            logbook::add(name, Kind::Error, &format!("{what} is answered {status}: {}", text.trim_end()));
            let Caller::Request { conn, seq, meta } = pending.caller else { continue };
            answers.push(ModuleMessage::Answer { conn, seq, bytes: meta.plain(status, &text), lent: None });
        }
        for session in self.current.iter_mut().chain(&mut self.former) {
            session.expire_waited(now_ms);
        }
        self.expire_large(now_ms.saturating_sub(limit_ms));
        answers.append(&mut self.refused);
        self.expire_sockets(limit_ms, &mut answers);
        answers
    }

    /// Asks for a new process if the callbacks of a socket run for too long. Once nothing is sent to the old process
    /// any more, the socket continues without these callbacks. The socket must not continue before, because callbacks
    /// of one socket run one at a time.
    fn expire_sockets(&mut self, limit_ms: u64, out: &mut Vec<ModuleMessage>) {
        let now_ms = self.now_ms;
        let sockets = self.pending.iter().filter_map(|(ticket, pending)| match pending.caller {
            Caller::Socket { key, callbacks, .. }
                if now_ms.saturating_sub(pending.since_ms) > socket_limit_ms(pending.stage, limit_ms, callbacks) =>
            {
                Some((*ticket, key, socket_limit_ms(pending.stage, limit_ms, callbacks)))
            }
            _ => None,
        });
        let long: Vec<(u64, u64, u64)> = sockets.collect();
        let draining = self.draining;
        let current = self.current.iter_mut().map(|session| (session, draining));
        let mut sessions: Vec<(&mut ProcessSession, bool)> =
            current.chain(self.former.iter_mut().map(|session| (session, true))).collect();
        for (ticket, key, limit_ms) in long {
            let Some((session, over)) = sessions.iter_mut().find(|(session, _)| session.tickets.contains(&ticket))
            else {
                continue;
            };
            let spoke_ms = session.known.get(&key).map_or(0, |known| known.spoke_ms);
            if now_ms.saturating_sub(spoke_ms) <= limit_ms {
                continue;
            }
            let Some(pending) = self.pending.get(&ticket) else { continue };
            if !*over {
                let name = &pending.hold.instance().manifest().name;
                session
                    .endpoints
                    .owner
                    .recycle(&format!("a WebSocket callback of module {name} runs for longer than it may"));
                continue;
            }
            session.give_up(ticket);
            session.forget(key);
            if let Some(Pending { caller: Caller::Socket { key, ends, .. }, .. }) = self.pending.remove(&ticket) {
                self.ended.extend(ends.then_some(key));
                out.push(ModuleMessage::SocketIdle { socket: key });
            }
        }
    }

    /// Handles the death of a process. Returns the outcome of every call that it had.
    pub fn down(&mut self) -> Vec<ModuleMessage> {
        let mut dead: Vec<ProcessSession> = self.former.extract_if(.., |session| session.endpoints.is_dead()).collect();
        if self.current.as_ref().is_some_and(|session| session.endpoints.is_dead()) {
            self.take_back();
            dead.extend(self.current.take());
            self.draining = false;
        }
        let was_there = |ticket: &u64| dead.iter().any(|session| session.tickets.contains(ticket));
        let lost: Vec<u64> = self.pending.keys().filter(|ticket| was_there(ticket)).copied().collect();
        let lost: Vec<Pending> = lost.into_iter().filter_map(|ticket| self.pending.remove(&ticket)).collect();
        let outcome = |pending: Pending| match pending.caller {
            Caller::Request { conn, seq, meta } => {
                let name = &pending.hold.instance().manifest().name;
                let text = format!("module {name} was interrupted: the process it ran in died\n");
                ModuleMessage::Answer { conn, seq, bytes: meta.plain(502, &failure(&text)), lent: None }
            }
            Caller::Socket { key, ends, .. } => {
                self.ended.extend(ends.then_some(key));
                ModuleMessage::SocketIdle { socket: key }
            }
        };
        let mut outcomes: Vec<ModuleMessage> = lost.into_iter().map(outcome).collect();
        let broken = dead.iter().flat_map(|session| session.endpoints.streams.open());
        outcomes.extend(broken.map(|(conn, seq)| ModuleMessage::StreamBroken { conn, seq }));
        outcomes
    }

    /// Queues a call; [`CallTable::flush`] sends it.
    pub fn submit(&mut self, hold: Arc<dyn GenerationRef>, short: bool, work: Task) {
        let Some(module) = CallTarget::of(hold.instance()) else { return };
        if let Some(why) = module.barred() {
            let caller = match work {
                Task::Request { conn, seq, meta, .. } => Caller::Request { conn, seq, meta },
                Task::Socket { socket, .. } => Caller::Socket { key: socket.key(), ends: false, callbacks: 1 },
            };
            return refuse(caller, &why, &mut self.refused);
        }
        if matches!(work, Task::Request { .. }) {
            module.domain().count_request(self.shard);
        }
        let instance = module.id();
        self.tickets += 1;
        let ticket = self.tickets | TICKET_BIT;
        let (mut limit_ms, mut grace, mut watched) = (None, 0, None);
        let (unit, caller, payload) = match work {
            Task::Request { conn, seq, route, request, meta, stream } => {
                watched = stream.as_ref().map(|stream| Box::new(Watched::Call(Arc::clone(&stream.slot))));
                let declared = hold.instance().manifest().routes.get(route);
                (limit_ms, grace) = (declared.and_then(RouteDecl::timeout_ms), grace_ms(declared));
                // A call that another domain has declined counts here from now on.
                let request = request.charged(&self.waiting);
                (route, Caller::Request { conn, seq, meta }, Payload::Request { route, request, stream })
            }
            Task::Socket { socket, index, events } => {
                let unit = hold.instance().manifest().routes.len() + index;
                let ends = matches!(events.last(), Some(SocketEvent::Close));
                (
                    unit,
                    Caller::Socket { key: socket.key(), ends, callbacks: events.len() as u64 },
                    Payload::of_socket(index, socket, events),
                )
            }
        };
        let new = Pending::new(hold, unit, caller, self.now_ms);
        let pending = Pending { limit_ms, grace_ms: grace, watched, ..new };
        self.pending.insert(ticket, pending);
        let _charge = match &payload {
            Payload::Request { .. } => None,
            Payload::Socket { placed_bytes, other_bytes, .. } => self.messages.charge(placed_bytes + other_bytes),
        };
        self.queue.push_back(Queued { ticket, instance, short, payload, _charge });
    }
}
