//! Calls with large bodies. A large body waits for a place beside the rings. The shard then writes a part of it in each
//! batch, so that the body delays neither the other calls of the domain nor the shard's other connections.
//!
//! Such a call gets its ticket when its record is sent, and only while no other call waits to be sent, because tickets are
//! sent in order.

use super::super::arena::ExtentRange;
use super::super::extents::NoRoom;
use super::super::extents::SMALL_BYTES_MAX;
use super::super::wire;
use super::call::{Caller, Copying, Large, Payload, Pending, Piece, Queued, Sending};
use super::calls::{CallTable, TICKET_BIT};
use super::refusal::refuse;
use super::send::encoded;
use super::session::ProcessSession;
use crate::domain::call::SocketEvent;
use crate::domain::placed::PlacedBody;
use crate::domain::ring::Region;
use crate::net::ConnId;
use std::collections::VecDeque;
use std::io;

/// Limit on the bytes written in a batch, which take some hundred microseconds. The reactor looks at its events after 16
/// batches at the latest.
pub(super) const COPIED_BYTES_MAX: usize = 512 * 1024;
/// Messages of at least this many bytes are written from their place; smaller ones are joined first.
const PIECE_BYTES_MIN: usize = 16 * 1024;
/// Limit, in bytes, on an event beside its message, or its session and request: an `Open` with an IPv6 address.
const EVENT_BYTES: usize = 40;

impl CallTable {
    /// Takes a place for an arriving body of `bytes` bytes. `None`: there is no room, or the body is not large; it gathers
    /// in the server.
    pub(in crate::domain::process) fn place(&mut self, bytes: usize) -> Option<PlacedBody> {
        if self.draining || bytes <= SMALL_BYTES_MAX {
            return None;
        }
        let session = self.current.as_mut().filter(|session| !session.broken)?;
        session.endpoints.requests.take_arriving(bytes)
    }

    /// Whether the body of a call lies in the memory of a replaced process. Copying it takes a batch of its own.
    pub(super) fn is_left_behind(&self, session: &ProcessSession, queued: &Queued) -> bool {
        let Payload::Request { request, .. } = &queued.payload else { return false };
        request.placed().is_some_and(|body| session.endpoints.requests.place_of(body).is_none())
    }

    /// The record of a call whose body already lies in its place, in the memory of `session`'s process.
    pub(super) fn placed_record(
        &mut self,
        session: &mut ProcessSession,
        queued: &mut Queued,
    ) -> Option<(Vec<u8>, ExtentRange)> {
        let Payload::Request { request, .. } = &mut queued.payload else { return None };
        let Some(place) = session.endpoints.requests.place_of(request.placed()?) else {
            request.gather();
            self.left = 0;
            return None;
        };
        let mut fixed = self.encode_head(queued);
        wire::lend(&mut fixed, place);
        Some((fixed, place))
    }

    /// Queues a call with a large body for a place.
    pub(super) fn set_aside(&mut self, queued: Queued) {
        // A call that has ended meanwhile is dropped.
        if let Some(pending) = self.pending.remove(&queued.ticket) {
            self.large.push_back(Large { queued, pending });
        }
    }

    /// An upper bound on the bytes that events take beside their messages.
    pub(super) fn events_bytes(&self, queued: &Queued) -> usize {
        match &queued.payload {
            Payload::Request { .. } => 0,
            Payload::Socket { socket, events, .. } => {
                let head = |event: &SocketEvent| match event {
                    SocketEvent::Open { handshake: Some(handshake) } => handshake.head.len(),
                    _ => 0,
                };
                let heads: usize = events.iter().map(head).sum();
                2 * (EVENT_BYTES + socket.session().map_or(0, <[u8]>::len)) + events.len() * EVENT_BYTES + heads
            }
        }
    }

    /// Continues to write bodies, and sends the records of complete ones. Returns whether all remaining calls wait for
    /// memory.
    pub(super) fn send_large(&mut self, session: &mut ProcessSession) -> bool {
        while self.left > 0 && !session.broken {
            if self.copying.is_none() {
                let Some(Large { queued, pending }) = self.large.pop_front() else { return false };
                match session.endpoints.requests.take(queued.payload.bytes() + self.events_bytes(&queued)) {
                    Ok(place) => self.copying = Some(self.prepare(session, queued, Some(pending), place)),
                    Err(NoRoom::Now) => {
                        self.large.push_front(Large { queued, pending });
                        return true;
                    }
                    Err(NoRoom::Ever) => {
                        let most = session.endpoints.requests.budget();
                        let why = format!("bodies of requests may take {most} bytes in total (--bodies-bytes-max)");
                        refuse(pending.caller, &why, &mut self.refused);
                        continue;
                    }
                }
            }
            let Some(mut copying) = self.copying.take() else { return false };
            match copying.write(session.endpoints.requests.memory(), &mut self.left) {
                Ok(false) => self.copying = Some(copying),
                Ok(true) if self.sending.is_some() || !self.queue.is_empty() => {
                    self.copying = Some(copying);
                    return false;
                }
                Ok(true) => {
                    self.sending = Some(self.written(session, copying));
                    self.send_queue(session);
                }
                Err(error) => self.unwritten(session, copying, &error),
            }
        }
        false
    }

    /// Prepares the writing of a call's body to its place.
    pub(super) fn prepare(
        &mut self,
        session: &mut ProcessSession,
        queued: Queued,
        pending: Option<Pending>,
        place: ExtentRange,
    ) -> Copying {
        let mut pieces = Vec::new();
        match &queued.payload {
            Payload::Request { .. } => pieces.push(Piece::Body),
            Payload::Socket { socket, events, .. } => {
                let mut own = Vec::new();
                self.introduce(session, &queued, &mut own);
                for (at, event) in events.iter().enumerate() {
                    match event {
                        SocketEvent::Message { kind, payload, deflated } if payload.len() >= PIECE_BYTES_MIN => {
                            socket.received(*kind);
                            wire::message_head(&mut own, *kind, *deflated, payload.len());
                            pieces.push(Piece::Own(std::mem::take(&mut own)));
                            pieces.push(Piece::Message(at));
                        }
                        event => wire::push_event(&mut own, &encoded(event, socket)),
                    }
                }
                pieces.push(Piece::Own(own));
            }
        }
        let fixed = self.encode_head(&queued);
        Copying { queued, pending, fixed, pieces, place, done: 0, within: 0, written: 0 }
    }

    /// Writes a whole body that is too small to be written in parts. `None`: writing failed.
    pub(super) fn copy_now(&mut self, session: &mut ProcessSession, mut copying: Copying) -> Option<Sending> {
        let mut unbounded = usize::MAX;
        let written = copying.write(session.endpoints.requests.memory(), &mut unbounded);
        self.left = self.left.saturating_sub(copying.written);
        match written {
            Ok(_) => Some(self.written(session, copying)),
            Err(error) => {
                session.take_back(copying.queued.ticket, true);
                self.unwritten(session, copying, &error);
                None
            }
        }
    }

    /// The record of a call whose body lies in its place.
    fn written(&mut self, session: &mut ProcessSession, copying: Copying) -> Sending {
        let Copying { mut queued, pending, mut fixed, place, written, .. } = copying;
        if let Some(pending) = pending {
            self.tickets += 1;
            queued.ticket = self.tickets | TICKET_BIT;
            fixed = self.encode_head(&queued);
            self.pending.insert(queued.ticket, pending);
            session.begin(queued.ticket);
        }
        let place = ExtentRange { bytes: written as u64, ..place };
        wire::lend(&mut fixed, place);
        Sending { ticket: queued.ticket, queued: Some(queued), fixed, body: Vec::new(), place: Some(place) }
    }

    fn unwritten(&mut self, session: &mut ProcessSession, copying: Copying, error: &io::Error) {
        session.endpoints.requests.give_back(copying.place.offset);
        let pending = copying.pending.or_else(|| self.pending.remove(&copying.queued.ticket));
        if let Some(pending) = pending {
            let why = format!("there is no memory for the request: {error}");
            refuse(pending.caller, &why, &mut self.refused);
        }
    }

    /// Stops writing the current body. Its call is started again later, in another process.
    pub(super) fn stop_copying(&mut self, session: Option<&mut ProcessSession>) {
        let Some(Copying { queued, pending: Some(pending), place, .. }) = self.copying.take() else { return };
        if let Some(session) = session {
            session.endpoints.requests.give_back(place.offset);
        }
        self.large.push_front(Large { queued, pending });
    }

    /// The number of calls that wait for a place or whose bodies are being written.
    pub(super) fn large_calls(&self) -> usize {
        self.large.len() + usize::from(self.copying.is_some())
    }

    /// Drops the waiting requests of a closed connection.
    pub(in crate::domain::process) fn leave(&mut self, conn: ConnId) {
        self.drop_large(
            "its client has left",
            |caller, _| matches!(caller, Caller::Request { conn: of, .. } if *of == conn),
        );
    }

    /// Answers the requests that have waited for a place since before `since_ms`, in milliseconds of the shard's clock.
    pub(super) fn expire_large(&mut self, since_ms: u64) {
        self.drop_large(
            "the requests before it take all the memory for bodies (--bodies-bytes-max), or its process is not running",
            |caller, waits_since_ms| caller.is_request() && waits_since_ms < since_ms,
        );
    }

    fn drop_large(&mut self, why: &str, drops: impl Fn(&Caller, u64) -> bool) {
        if self.large.is_empty() && self.copying.is_none() {
            return;
        }
        let is_dropped = |pending: &Pending| drops(&pending.caller, pending.since_ms);
        if self.copying.as_ref().and_then(|copying| copying.pending.as_ref()).is_some_and(is_dropped) {
            let mut session = self.current.take();
            self.stop_copying(session.as_mut());
            self.current = session;
        }
        let large = std::mem::take(&mut self.large).into_iter();
        let (dropped, kept): (VecDeque<Large>, _) = large.partition(|large| is_dropped(&large.pending));
        self.large = kept;
        for Large { pending, .. } in dropped {
            let name = &pending.hold.instance().manifest().name;
            let why = format!("a request to module {name} was not delivered: {why}");
            refuse(pending.caller, &why, &mut self.refused);
        }
    }
}

impl Copying {
    /// Writes at most `left` bytes, and subtracts their number from it. Returns whether the whole body is written.
    fn write(&mut self, memory: &Region, left: &mut usize) -> io::Result<bool> {
        let offset = usize::try_from(self.place.offset).unwrap_or(usize::MAX);
        while let Some(piece) = self.pieces.get(self.done) {
            let bytes = piece.bytes(&self.queued.payload).get(self.within..).unwrap_or_default();
            if bytes.is_empty() {
                (self.done, self.within) = (self.done + 1, 0);
                continue;
            }
            if *left == 0 {
                return Ok(false);
            }
            let part = bytes.get(..bytes.len().min(*left)).unwrap_or_default();
            debug_assert!((self.written + part.len()) as u64 <= self.place.bytes, "beyond the place");
            memory.write(offset + self.written, part)?;
            (self.within, self.written, *left) =
                (self.within + part.len(), self.written + part.len(), *left - part.len());
        }
        Ok(true)
    }
}
