//! Records on their way to a domain.

use super::super::arena::{ExtentRange, LENT_BYTES_MIN, Lender};
use super::super::call_target::CallTarget;
use super::super::extents::SMALL_BYTES_MAX;
use super::super::wire::{self, Event, StreamToDomain};
use super::call::{Caller, Payload, Pending, Queued, Sending, Stage, grace_ms};
use super::calls::{CallTable, TICKET_BIT};
use super::large::COPIED_BYTES_MAX;
use super::session::{KnownSocket, ProcessSession};
use crate::abi::websocket::Socket;
use crate::domain::call::{GenerationRef, NewRequest, SocketEvent, message_in};
use crate::domain::ring::PushError;
use crate::domain::stream::StreamStart;
use std::sync::Arc;

impl CallTable {
    /// Queues a request. A small request goes into the ring directly if none waits before it, and is not copied elsewhere;
    /// [`CallTable::flush`] publishes it.
    pub fn request(&mut self, hold: Arc<dyn GenerationRef>, short: bool, request: NewRequest<'_>) {
        if let Some((ticket, limit_ms, grace_ms)) = self.push_now(&*hold, short, &request) {
            let NewRequest { conn, seq, route, meta, .. } = request;
            let caller = Caller::Request { conn, seq, meta };
            let new = Pending::new(hold, route, caller, self.now_ms);
            let pending = Pending { limit_ms, grace_ms, stage: Stage::Running, ..new };
            self.pending.insert(ticket, pending);
        } else {
            let copied = request.copied(&self.waiting);
            self.submit(hold, short, copied);
        }
    }

    /// Writes a request into the ring, and returns its ticket, the route's own time limit, and the additional time, in ms.
    /// `None`: the request must wait, its module must not be called, or the table needs more than the record.
    fn push_now(
        &mut self,
        hold: &dyn GenerationRef,
        short: bool,
        request: &NewRequest<'_>,
    ) -> Option<(u64, Option<u64>, u64)> {
        let waits = self.draining || self.sending.is_some() || !self.queue.is_empty();
        let session = self.current.as_mut().filter(|session| !session.broken && !waits)?;
        let module = CallTarget::of(hold.instance())?;
        let route = module.manifest().routes.get(request.route)?;
        if route.is_serial()
            || route.is_fallback()
            || request.view.body.len() >= LENT_BYTES_MIN
            || module.barred().is_some()
        {
            return None;
        }
        let ticket = (self.tickets + 1) | TICKET_BIT;
        // C code counts routes with an int.
        let number = u32::try_from(request.route).unwrap_or(u32::MAX);
        self.record.clear();
        let (view, of) = (request.view, (module.id(), number));
        wire::request_head(&mut self.record, ticket, of, short, view);
        if session.endpoints.producer.try_push(&[&self.record, view.body]).is_err() {
            // The ring is full, or broken; the queue's own attempt finds out which.
            return None;
        }
        self.tickets += 1;
        session.begin(ticket);
        module.domain().count_request(self.shard);
        Some((ticket, route.timeout_ms(), grace_ms(Some(route))))
    }

    /// Sends as many records as the ring takes, and writes a bounded part of the bodies beside it; called once a batch.
    pub fn flush(&mut self) {
        self.more = false;
        for session in &mut self.former {
            session.tell_streams();
            session.tell_drained();
            if session.endpoints.requests.has_unused() {
                session.endpoints.requests.reclaim();
                self.more |= session.endpoints.requests.has_unused();
            }
        }
        let Some(mut session) = self.current.take() else { return };
        let nothing = self.sending.is_none() && self.queue.is_empty() && self.forgotten.is_empty() && !self.draining;
        let nothing = nothing
            && self.gone.is_empty()
            && self.buffered.is_empty()
            && self.large.is_empty()
            && self.copying.is_none();
        let nothing = nothing && session.endpoints.producer.is_published();
        if nothing && !session.endpoints.has_done() && !session.endpoints.requests.has_unused() {
            self.current = Some(session);
            return;
        }
        if let Err(error) = session.endpoints.tell_done() {
            session.end(&error.to_string());
        }
        self.left = COPIED_BYTES_MAX;
        self.send_queue(&mut session);
        // This share is separate, so that many smaller bodies do not delay the large ones.
        self.left = COPIED_BYTES_MAX;
        session.endpoints.requests.reclaim();
        let mut waits = false;
        if self.draining {
            self.stop_copying(Some(&mut session));
        } else if !session.broken {
            waits = self.send_large(&mut session);
        }
        if self.draining && self.sending.is_none() {
            session.tell_drained();
        }
        session.publish();
        let may_send = !self.draining && self.sending.is_none();
        let copies = !waits && (self.copying.is_some() || !self.large.is_empty()) || !self.queue.is_empty();
        self.more |= !session.broken
            && (may_send && copies || session.endpoints.requests.has_unused() || self.has_room(&mut session));
        self.current = Some(session);
    }

    /// Whether a record that met a full ring may fit now. If not, the domain wakes this shard when it does.
    fn has_room(&self, session: &mut ProcessSession) -> bool {
        let record = self.sending.as_ref().map(|sending| sending.fixed.len() + sending.body.len());
        let done = session.endpoints.done.map(|_| wire::DONE_BYTES);
        record
            .max(done)
            .max(session.endpoints.streams.waiting_bytes())
            .is_some_and(|bytes| session.endpoints.producer.await_room(bytes))
    }

    /// Sends records until none is left or the ring is full.
    pub(super) fn send_queue(&mut self, session: &mut ProcessSession) {
        while !session.broken {
            if self.sending.is_none() {
                self.sending = self.next_record(session);
            }
            let Some(sending) = &self.sending else { return };
            match session.endpoints.producer.try_push(&[&sending.fixed, &sending.body]) {
                Ok(()) => self.is_sent(session),
                Err(PushError::Full) => return,
                Err(error) => session.end(&error.to_string()),
            }
        }
    }

    /// Records that the domain has the whole call: the time of its handler begins, or of the wait for its turn. The request
    /// of a handler that may decline is kept until the answer.
    fn is_sent(&mut self, session: &mut ProcessSession) {
        let Some(Sending { ticket, mut queued, place, .. }) = self.sending.take() else { return };
        if let Some(Queued { payload: Payload::Request { request, .. }, .. }) = &mut queued
            && let Some(body) = request.take_placed()
        {
            session.endpoints.requests.hand_over(body);
        }
        if let Some(place) = place {
            self.is_lent(session, ticket, place);
        }
        if let Some(Queued { payload: Payload::Socket { events, placed_bytes: 1.., .. }, .. }) = &mut queued {
            for event in std::mem::take(events) {
                if let SocketEvent::Placed { body, .. } = event
                    && let Some(place) = session.endpoints.requests.place_of(&body)
                {
                    session.endpoints.requests.hand_over(*body);
                    self.is_lent(session, ticket, place);
                }
            }
        }
        let (Some(queued), Some(pending)) = (queued, self.pending.get_mut(&ticket)) else { return };
        (pending.stage, pending.since_ms) = (Stage::Running, self.now_ms);
        let Payload::Request { route, request, stream } = queued.payload else { return };
        if let Some(stream) = stream {
            session.endpoints.streams.hold(ticket, &stream.slot);
        }
        let Some(route) = pending.hold.instance().manifest().routes.get(route) else { return };
        if route.is_serial() {
            pending.stage = Stage::Turn;
        }
        if route.is_fallback() {
            pending.kept = Some(Box::new(request));
        }
    }

    /// Records that the domain has a record that names `place`.
    fn is_lent(&self, session: &mut ProcessSession, ticket: u64, place: ExtentRange) {
        // The domain may have answered before it had the record; then no later report frees the place.
        if self.pending.contains_key(&ticket) || session.late.contains(&ticket) {
            session.endpoints.lent.insert((ticket, place.offset));
        } else {
            session.endpoints.requests.give_back(place.offset);
        }
    }

    fn next_record(&mut self, session: &mut ProcessSession) -> Option<Sending> {
        if let Some(key) = self.gone.pop() {
            return Some(encode_gone(key));
        }
        if let Some(key) = self.buffered.keys().next().copied()
            && let Some((taken, unsent)) = self.buffered.remove(&key)
        {
            return Some(encode_buffered(key, taken, unsent));
        }
        while !self.draining {
            let Some(mut queued) = self.queue.pop_front() else { break };
            if self.left == 0 && self.is_left_behind(session, &queued) {
                self.queue.push_front(queued);
                break;
            }
            if let Some((fixed, place)) = self.placed_record(session, &mut queued) {
                let (ticket, body) = (queued.ticket, Vec::new());
                session.begin(ticket);
                return Some(Sending { ticket, queued: Some(queued), fixed, body, place: Some(place) });
            }
            let bytes = queued.payload.bytes();
            if bytes < LENT_BYTES_MIN {
                session.begin(queued.ticket);
                return Some(self.encode(session, queued));
            }
            if bytes <= SMALL_BYTES_MAX && self.left == 0 {
                self.queue.push_front(queued);
                break;
            }
            if bytes <= SMALL_BYTES_MAX
                && let Ok(place) = session.endpoints.requests.take(bytes + self.events_bytes(&queued))
            {
                session.begin(queued.ticket);
                let copying = self.prepare(session, queued, None, place);
                if let Some(sending) = self.copy_now(session, copying) {
                    return Some(sending);
                }
                continue;
            }
            self.set_aside(queued);
        }
        self.forgotten.pop().map(|key| self.encode_forgotten(key, session))
    }

    fn encode(&mut self, session: &mut ProcessSession, queued: Queued) -> Sending {
        let mut body = Vec::new();
        let fixed = self.encode_head(&queued);
        match &queued.payload {
            Payload::Request { request, .. } => body.extend_from_slice(request.view().body),
            Payload::Socket { socket, events, .. } => {
                self.introduce(session, &queued, &mut body);
                for event in events {
                    push_event(&mut body, event, socket, &session.endpoints.requests);
                }
            }
        }
        Sending { ticket: queued.ticket, queued: Some(queued), fixed, body, place: None }
    }

    /// The fixed part of a call's record.
    pub(super) fn encode_head(&self, queued: &Queued) -> Vec<u8> {
        let Queued { ticket, instance, .. } = *queued;
        let short = queued.short && queued.payload.bytes() <= SHORT_BYTES_MAX;
        let mut fixed = Vec::with_capacity(512);
        match &queued.payload {
            Payload::Request { route, request, stream: Some(stream) } => {
                let route = u32::try_from(*route).unwrap_or(u32::MAX);
                let StreamStart { slot, length, expects_continue } = &**stream;
                let (slot, length, expects_continue) = (slot.number(), *length, *expects_continue);
                let view = request.view();
                let (peer, head) = (view.peer, &*view.packed());
                let call = StreamToDomain::Call { ticket, instance, route, slot, length, expects_continue, peer, head };
                call.push(&mut fixed);
            }
            Payload::Request { route, request, stream: None } => {
                // C code counts routes with an int.
                let route = u32::try_from(*route).unwrap_or(u32::MAX);
                let view = request.view();
                wire::request_head(&mut fixed, ticket, (instance, route), short, &view);
            }
            Payload::Socket { index, socket, .. } => {
                let index = u32::try_from(*index).unwrap_or(u32::MAX);
                wire::socket_head(&mut fixed, ticket, instance, index, short, socket.key());
            }
        }
        fixed
    }

    /// Records that `session` is about to get events of a socket, and prepends the events that it must know before.
    pub(super) fn introduce(&mut self, session: &mut ProcessSession, queued: &Queued, events_before: &mut Vec<u8>) {
        let Payload::Socket { socket, events, .. } = &queued.payload else { return };
        let (key, socket_session, number) = (socket.key(), socket.session(), socket.number());
        let ends = matches!(events.last(), Some(SocketEvent::Close));
        let gone = !socket.is_open();
        if gone && !ends {
            self.gone.push(key);
        }
        let known = KnownSocket { spoke_ms: self.now_ms, gone, ends };
        let is_new = session.known.insert(key, known).is_none();
        if is_new && !matches!(events.first(), Some(SocketEvent::Open { .. })) {
            wire::push_event(
                events_before,
                &Event::Known { session: socket_session, number, deflate: socket.deflate(), last: socket.last_kind() },
            );
        }
    }

    /// Makes the domain's process forget a socket, by an event that calls nothing and whose answer is ignored.
    fn encode_forgotten(&mut self, key: u64, session: &mut ProcessSession) -> Sending {
        self.tickets += 1;
        let ticket = self.tickets | TICKET_BIT;
        session.late.insert(ticket);
        let (mut fixed, mut body) = (Vec::with_capacity(64), Vec::new());
        wire::socket_head(&mut fixed, ticket, 0, 0, true, key);
        wire::push_event(&mut body, &Event::Forget);
        Sending { ticket, queued: None, fixed, body, place: None }
    }
}

/// A call with a larger body is not for a companion, because copying the body for the handler takes too long.
const SHORT_BYTES_MAX: usize = 256 * 1024;

/// Appends the domain's form of an event of `socket`. A placed message lies in the memory of `requests`.
pub(super) fn push_event(out: &mut Vec<u8>, event: &SocketEvent, socket: &Socket, requests: &Lender) {
    match event {
        SocketEvent::Open { handshake } => {
            let opened = Event::Open {
                session: socket.session(),
                number: socket.number(),
                deflate: socket.deflate(),
                peer: handshake.as_ref().and_then(|handshake| handshake.peer),
                head: handshake.as_ref().map_or(&[][..], |handshake| &*handshake.head),
            };
            wire::push_event(out, &opened);
        }
        SocketEvent::Message { kind, payload, deflated } => {
            socket.received(*kind);
            wire::push_message(out, *kind, *deflated, payload);
        }
        SocketEvent::Placed { kind, body } => {
            socket.received(*kind);
            match requests.place_of(body) {
                Some(place) => wire::push_event(out, &Event::Placed { kind: *kind, place }),
                None => wire::push_message(out, *kind, false, &message_in(body)),
            }
        }
        SocketEvent::Close => wire::push_event(out, &Event::Close { gone: !socket.is_open() }),
    }
}

/// The record of a socket's taken and unsent bytes.
fn encode_buffered(key: u64, taken: usize, unsent: usize) -> Sending {
    let mut fixed = Vec::with_capacity(32);
    wire::buffered(&mut fixed, key, taken as u64, unsent as u64);
    Sending { ticket: 0, queued: None, fixed, body: Vec::new(), place: None }
}

/// The record that tells running callbacks of a socket that its connection is closed.
fn encode_gone(key: u64) -> Sending {
    let mut fixed = Vec::with_capacity(16);
    wire::gone(&mut fixed, key);
    Sending { ticket: 0, queued: None, fixed, body: Vec::new(), place: None }
}
