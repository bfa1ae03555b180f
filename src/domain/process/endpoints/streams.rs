//! A shard's streamed bodies in one process of a domain.

use super::super::wire::{Headers, StreamToDomain, StreamToServer};
use super::call::{Caller, Watched};
use super::calls::CallTable;
use super::session::ProcessSession;
use crate::domain::module_message::ModuleMessage;
use crate::domain::ring::{Producer, PushError};
use crate::domain::stream::running::Reason;
use crate::domain::stream::slots::{Part, Slots};
use crate::domain::stream::{Answer, CallSlot, Home, NoSlot, Pipe, StreamBegin, begin_answer};
use crate::id_map::IdMap;
use crate::net::ConnId;
use crossbeam::queue::SegQueue;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// The least duration recorded for a handler that sends its answer itself, so that it is not for a companion.
const STREAMED_AT_LEAST: Duration = Duration::from_secs(1);

/// The least time that a call waits for a process to start, in ms, however short the limit of handlers is.
const WAIT_MS_MIN: u64 = 5_000;

/// Reports about slots, for the domain.
#[derive(Default)]
struct Told {
    over: SegQueue<u32>,
    room: SegQueue<u32>,
}

impl Home for Told {
    fn over(&self, slot: u32) {
        self.over.push(slot);
    }

    fn room(&self, slot: u32) {
        self.room.push(slot);
    }
}

/// An answer that has begun and has not ended.
struct Open {
    conn: ConnId,
    seq: u64,
}

/// The streams of one process.
pub(super) struct EndpointStreams {
    part: Part,
    calls: Arc<Slots>,
    /// The slots of calls that the domain has not answered, by ticket.
    held: IdMap<Arc<CallSlot>>,
    /// The begun answers by ticket, also after the return of the handler.
    open: IdMap<Open>,
    /// The tickets of the answers in slots.
    by_slot: IdMap<u64>,
    told: Arc<Told>,
    /// Records for the domain; the first one has met a full ring.
    notes: VecDeque<Vec<u8>>,
    is_full: bool,
}

impl EndpointStreams {
    pub(super) fn new(part: Part) -> Self {
        let calls = Arc::new(part.calls());
        Self {
            part,
            calls,
            held: IdMap::default(),
            open: IdMap::default(),
            by_slot: IdMap::default(),
            told: Arc::default(),
            notes: VecDeque::new(),
            is_full: false,
        }
    }

    /// Whether [`EndpointStreams::tell`] has something to report.
    pub(super) fn has_told(&self) -> bool {
        !self.notes.is_empty() || self.is_news()
    }

    fn is_news(&self) -> bool {
        !self.told.over.is_empty() || !self.told.room.is_empty()
    }

    /// Whether [`EndpointStreams::tell`] has something to report, and has met no full ring since.
    pub(super) fn is_ready(&self) -> bool {
        !self.is_full && self.has_told()
    }

    /// The size of the record that waits for room in the ring, in bytes.
    pub(super) fn waiting_bytes(&self) -> Option<usize> {
        self.notes.front().map(Vec::len)
    }

    fn note(&mut self, record: &StreamToDomain<'_>) {
        let mut bytes = Vec::with_capacity(16);
        record.push(&mut bytes);
        self.notes.push_back(bytes);
    }

    /// Reports finished slots and calls to the domain, as far as the ring has room.
    pub(super) fn tell(&mut self, producer: &mut Producer) -> Result<(), PushError> {
        while let Some(slot) = self.told.room.pop() {
            self.note(&StreamToDomain::Room { slot });
        }
        while let Some(slot) = self.told.over.pop() {
            if let Some(ticket) = self.by_slot.remove(&u64::from(slot)) {
                self.open.remove(&ticket);
            }
            if self.part.is_for_answers(slot) {
                self.note(&StreamToDomain::Over { slot });
            }
        }
        self.is_full = false;
        while let Some(record) = self.notes.front() {
            match producer.try_push(&[record]) {
                Ok(()) => drop(self.notes.pop_front()),
                Err(PushError::Full) => {
                    self.is_full = true;
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Records that the domain has a call, with its slot.
    pub(super) fn hold(&mut self, ticket: u64, slot: &Arc<CallSlot>) {
        self.held.insert(ticket, Arc::clone(slot));
    }

    /// Handles the domain's answer to a call.
    pub(super) fn call_over(&mut self, ticket: u64) {
        if !self.held.is_empty() {
            self.held.remove(&ticket);
        }
    }

    /// The pipe for the answer of call `ticket`, in `slot` or in the call's own slot, and the number of that slot.
    ///
    /// # Errors
    /// The domain must not use that memory.
    fn down(&self, ticket: u64, slot: Option<u32>) -> Result<(Pipe, u32, Option<Arc<CallSlot>>), String> {
        let lie = || "an answer begins in memory that is not its own".to_owned();
        let (pipe, number, call) = match slot {
            Some(slot) if self.part.is_for_answers(slot) => (self.part.down(slot).ok_or_else(lie)?, slot, None),
            Some(_) => return Err(lie()),
            None => {
                let call = self.held.get(&ticket).ok_or_else(lie)?;
                (call.down().clone(), call.number(), Some(Arc::clone(call)))
            }
        };
        if self.by_slot.contains_key(&u64::from(number)) || self.open.contains_key(&ticket) {
            return Err("an answer begins twice, or in the memory of another call".to_owned());
        }
        Ok((pipe, number, call))
    }

    /// The answers that have begun and have not ended.
    pub(super) fn open(&self) -> impl Iterator<Item = (ConnId, u64)> {
        self.open.values().map(|open| (open.conn, open.seq))
    }
}

impl CallTable {
    /// Takes a slot for a call of a `CWEB_STREAM` route.
    ///
    /// # Errors
    /// The reason why there is no slot. Without a process a call may wait as long as any other; the time counts from the
    /// first such call.
    pub(in crate::domain::process) fn take_call_slot(&mut self) -> Result<Arc<CallSlot>, NoSlot> {
        let Some(session) = self.current.as_ref().filter(|session| !session.broken && !self.draining) else {
            let since_ms = *self.missed_since_ms.get_or_insert(self.now_ms);
            let is_late = self.now_ms.saturating_sub(since_ms) > self.limit_ms.max(WAIT_MS_MIN);
            return Err(if is_late { NoSlot::NoProcess } else { NoSlot::NotYet });
        };
        self.missed_since_ms = None;
        let streams = &session.endpoints.streams;
        CallSlot::take(&streams.part, &streams.calls).ok_or(NoSlot::Taken)
    }

    /// Tells the calls of a connection why their work may be useless.
    pub(in crate::domain::process) fn cancel(&mut self, conn: ConnId, reason: Reason) {
        let of_conn = |caller: &Caller| matches!(caller, Caller::Request { conn: of, .. } if *of == conn);
        let tickets: Vec<u64> =
            self.pending.iter().filter(|(_, pending)| of_conn(&pending.caller)).map(|(ticket, _)| *ticket).collect();
        for ticket in tickets {
            let former = self.former.iter_mut().find(|session| session.tickets.contains(&ticket));
            if let Some(session) = former.or(self.current.as_mut()) {
                session.endpoints.streams.note(&StreamToDomain::Cancel { ticket, reason: reason as u8 });
            }
        }
    }

    /// Tells all calls of the process that it will be replaced.
    pub(super) fn cancel_all(&mut self) {
        let Some(session) = &mut self.current else { return };
        let reason = Reason::Draining as u8;
        for (ticket, pending) in &self.pending {
            if pending.caller.is_request() && session.tickets.contains(ticket) {
                session.endpoints.streams.note(&StreamToDomain::Cancel { ticket: *ticket, reason });
            }
        }
    }

    /// Restarts the time of streams that make progress or wait for their clients.
    pub(super) fn look_at_streams(&mut self) {
        let now_ms = self.now_ms;
        for pending in self.pending.values_mut() {
            let Some(watched) = &mut pending.watched else { continue };
            let (progress, waits) = watched.progress();
            if waits || progress != pending.progress {
                (pending.progress, pending.since_ms) = (progress, now_ms);
            }
        }
    }

    /// Handles a record about a stream.
    ///
    /// # Errors
    /// The domain broke the protocol.
    pub(super) fn take_stream(
        &mut self,
        session: &mut ProcessSession,
        record: &StreamToServer<'_>,
        out: &mut Vec<ModuleMessage>,
    ) -> Result<(), String> {
        match *record {
            StreamToServer::Begin { ticket, slot, status, length, headers } => {
                self.stream_begins(session, ticket, slot, status, length, headers, out)
            }
            StreamToServer::Notice { ticket, wants_body } => {
                let pending = self.pending.get(&ticket).filter(|_| session.tickets.contains(&ticket));
                let of_call = pending.and_then(|pending| match pending.caller {
                    Caller::Request { conn, seq, .. } => Some((conn, seq)),
                    Caller::Socket { .. } => None,
                });
                let open = session.endpoints.streams.open.get(&ticket);
                // A record about an ended stream is late and has no meaning.
                if let Some((conn, seq)) = of_call.or_else(|| open.map(|open| (open.conn, open.seq))) {
                    out.push(ModuleMessage::StreamNotice { conn, seq, wants_body });
                }
                Ok(())
            }
            StreamToServer::Returned { ticket, ran_us } => {
                let begun = self.pending.get(&ticket).is_none_or(|pending| pending.begun);
                if !begun {
                    return Err("a handler returned without an answer".to_owned());
                }
                session.endpoints.call_over(ticket);
                let Some(pending) = self.finish(session, ticket, Caller::is_request)? else { return Ok(()) };
                let ran = Duration::from_micros(u64::from(ran_us)).max(STREAMED_AT_LEAST);
                pending.hold.ran(pending.unit, ran, 0);
                if let Caller::Request { conn, seq, .. } = pending.caller {
                    out.push(ModuleMessage::StreamReturned { conn, seq });
                }
                Ok(())
            }
        }
    }

    #[allow(clippy::too_many_arguments)] // The parts of one record.
    fn stream_begins(
        &mut self,
        session: &mut ProcessSession,
        ticket: u64,
        slot: Option<u32>,
        status: u16,
        length: Option<u64>,
        headers: Headers<'_>,
        out: &mut Vec<ModuleMessage>,
    ) -> Result<(), String> {
        let pending = self.pending.get_mut(&ticket).filter(|_| session.tickets.contains(&ticket));
        if pending.is_none() && !session.late.contains(&ticket) {
            return Err("a call that is not open began an answer".to_owned());
        }
        let streams = &mut session.endpoints.streams;
        let (pipe, number, call) = streams.down(ticket, slot)?;
        streams.by_slot.insert(u64::from(number), ticket);
        let home: Arc<dyn Home> = Arc::clone(&streams.told) as _;
        let answer = Answer::new(pipe.clone(), number, call, home);
        // Dropping the answer ends an answer that nothing waits for.
        let Some(pending) = pending else { return Ok(()) };
        let Caller::Request { conn, seq, meta } = &pending.caller else {
            return Err("a WebSocket began an answer".to_owned());
        };
        let (conn, seq) = (*conn, *seq);
        pending.begun = true;
        pending.watched.get_or_insert(Box::new(Watched::Answer(pipe)));
        let (head, framing, keep_alive, dropped) = begin_answer(meta, status, headers.iter(), length);
        if dropped > 0 {
            let name = &pending.hold.instance().manifest().name;
            tracing::warn!("module {name}: {dropped} response header(s) that can't be sent were dropped");
        }
        streams.open.insert(ticket, Open { conn, seq });
        out.push(ModuleMessage::StreamBegin(Box::new(StreamBegin { conn, seq, head, framing, keep_alive, answer })));
        Ok(())
    }
}
