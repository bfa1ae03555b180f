//! Records from a domain's process. All of their content is checked as hostile input.

use super::super::arena::Borrowed;
use super::super::file_body::FileAnswer;
use super::super::wire::{Body, ToServer};
use super::call::{Caller, Pending, Stage};
use super::calls::CallTable;
use super::session::ProcessSession;
use crate::domain::call::failure;
use crate::domain::files;
use crate::domain::module_message::{Declined, ModuleMessage};
use crate::net::{Attached, Lent};
use crate::proto::http1::{ResponseHead, encode_response};
use crate::proto::ws::Encoded;
use std::time::Duration;

/// The body that a record of `session` names, if it is not in the record.
fn borrowed(session: &ProcessSession, body: &Body<'_>) -> Result<Option<Borrowed>, String> {
    match *body {
        Body::Lent(place) => match session.endpoints.answers.borrow(place) {
            None => Err("an answer or a frame lies outside its memory".to_owned()),
            lent => Ok(lent),
        },
        Body::Here(_) => Ok(None),
    }
}

/// Handles a record of `session` about rooms.
fn rooms(session: &ProcessSession, record: &ToServer<'_>, out: &mut Vec<ModuleMessage>) -> Result<(), String> {
    match *record {
        ToServer::Room { key, room, joins } if session.known.contains_key(&key) => {
            out.push(ModuleMessage::SocketRoom { socket: key, room: room.into(), joins });
        }
        ToServer::Publish { plain_bytes, room, frame } => {
            let frames: Vec<u8> = match (borrowed(session, &frame)?, frame) {
                // Copied once for all sockets of the shard.
                (Some(lent), _) => lent.copy(0..lent.len()),
                (None, Body::Here(frame)) => frame.to_vec(),
                (None, Body::Lent(_)) => return Ok(()),
            };
            let message = encoded(frames, plain_bytes).ok_or("a frame for a room is shorter than it should be")?;
            let domain = session.endpoints.domain_name().into();
            out.push(ModuleMessage::RoomPublish { domain, room: room.into(), message });
        }
        _ => {}
    }
    Ok(())
}

/// A message for a room, from `frames`: the first `plain_bytes` bytes are uncompressed, and the same message follows
/// compressed. 0: there is only the uncompressed one.
fn encoded(frames: Vec<u8>, plain_bytes: u64) -> Option<Encoded> {
    if plain_bytes == 0 {
        return Some(Encoded { plain: frames.into(), deflated: None });
    }
    let (plain, deflated) = frames.split_at_checked(usize::try_from(plain_bytes).ok()?)?;
    Some(Encoded { plain: plain.into(), deflated: Some(deflated.into()) })
}

fn tell_dropped(pending: &Pending, dropped: u32) {
    if dropped > 0 {
        let name = &pending.hold.instance().manifest().name;
        tracing::warn!("module {name}: {dropped} response header(s) that can't be sent were dropped");
    }
}

impl CallTable {
    /// Takes at most `records_max` records of each process of the domain, and returns them as messages.
    pub fn poll(&mut self, records_max: usize, out: &mut Vec<ModuleMessage>) {
        out.append(&mut self.refused);
        if let Some(mut session) = self.current.take() {
            self.poll_line(&mut session, records_max, out);
            self.current = Some(session);
        }
        let mut former = std::mem::take(&mut self.former);
        former.iter_mut().for_each(|session| self.poll_line(session, records_max, out));
        self.former = former;
    }

    fn poll_line(&mut self, session: &mut ProcessSession, records_max: usize, out: &mut Vec<ModuleMessage>) {
        if session.broken || session.endpoints.consumer.is_empty() {
            return;
        }
        let mut record = std::mem::take(&mut self.scratch);
        for _ in 0..records_max {
            record.clear();
            let popped = session.endpoints.consumer.try_pop(&mut record).map_err(|error| error.to_string());
            let taken = match popped {
                Ok(false) => break,
                Ok(true) => self.take(session, &record, out),
                Err(error) => Err(error),
            };
            if let Err(error) = taken {
                session.end(&error);
                break;
            }
        }
        if !session.broken {
            session.endpoints.consumer.release();
        }
        self.scratch = record;
    }

    /// The call that a record of `session` ends. `None`: nothing waits for it any more.
    ///
    /// # Errors
    /// There is no such call, or a record of this kind can't end it. The call stays, and is answered when the domain's
    /// process is ended because of this error.
    pub(super) fn finish(
        &mut self,
        session: &mut ProcessSession,
        ticket: u64,
        fits: fn(&Caller) -> bool,
    ) -> Result<Option<Pending>, String> {
        let pending = self.pending.get(&ticket).filter(|_| session.tickets.contains(&ticket));
        match pending {
            None if session.late.remove(&ticket) => Ok(None),
            None => Err("a call that is not open was answered".to_owned()),
            Some(pending) if !fits(&pending.caller) => {
                Err("a call was answered by a record of another kind".to_owned())
            }
            Some(_) => {
                session.open -= 1;
                Ok(self.pending.remove(&ticket))
            }
        }
    }

    /// Moves a call to its next stage, whose time limit applies from now on. A record that does not fit changes nothing, so
    /// each stage comes once: a domain can't extend its calls for ever in this way.
    fn moves_on(&mut self, session: &ProcessSession, ticket: u64, from: Stage, to: Stage) {
        let pending = self.pending.get_mut(&ticket).filter(|_| session.tickets.contains(&ticket));
        if let Some(pending) = pending.filter(|pending| pending.stage == from) {
            (pending.stage, pending.since_ms) = (to, self.now_ms);
        }
    }

    fn take(
        &mut self,
        session: &mut ProcessSession,
        record: &[u8],
        out: &mut Vec<ModuleMessage>,
    ) -> Result<(), String> {
        let record = ToServer::read(record).map_err(|error| error.to_string())?;
        match record {
            ToServer::Answer { ticket, ran_us, status, headers, body } => {
                session.endpoints.call_over(ticket);
                // Also for a call that has ended: dropping the body reports it to the domain.
                let lent = borrowed(session, &body)?;
                let Some(pending) = self.finish(session, ticket, Caller::is_request)? else { return Ok(()) };
                let body = if let Body::Here(body) = body { body } else { &[] };
                let answer_bytes = lent.as_ref().map_or(body.len(), Lent::len);
                pending.hold.ran(pending.unit, Duration::from_micros(u64::from(ran_us)), answer_bytes);
                let Caller::Request { conn, seq, meta } = &pending.caller else { return Ok(()) };
                let (conn, seq) = (*conn, *seq);
                let mut bytes = Vec::with_capacity(256 + body.len());
                let head = meta.head(status, answer_bytes);
                let dropped = encode_response(&mut bytes, &head, headers.iter(), body);
                let lent = lent.filter(|_| head.has_body()).map(|lent| Attached::Lent(Box::new(lent)));
                tell_dropped(&pending, dropped);
                out.push(ModuleMessage::Answer { conn, seq, bytes, lent });
            }
            ToServer::Stream(record) => self.take_stream(session, &record, out)?,
            ToServer::FileAnswer(answer) => {
                session.endpoints.call_over(answer.ticket);
                self.take_file(session, answer, out)?;
            }
            ToServer::Waits { ticket } => {
                let pending = self.pending.get_mut(&ticket).filter(|_| session.tickets.contains(&ticket));
                if pending.is_some_and(|pending| !std::mem::replace(&mut pending.has_waited, true)) {
                    self.moves_on(session, ticket, Stage::Running, Stage::Turn);
                }
            }
            ToServer::Turn { ticket } => self.moves_on(session, ticket, Stage::Turn, Stage::Running),
            ToServer::Returned { ticket } => self.moves_on(session, ticket, Stage::Running, Stage::Returned),
            ToServer::Fault { ticket, why } => {
                session.endpoints.call_over(ticket);
                let Some(pending) = self.finish(session, ticket, Caller::is_request)? else { return Ok(()) };
                if let Caller::Request { conn, seq, meta } = pending.caller {
                    out.push(ModuleMessage::Answer { conn, seq, bytes: meta.plain(500, &failure(why)), lent: None });
                }
            }
            ToServer::Declined { ticket, ran_us } => self.take_declined(session, ticket, ran_us, out)?,
            ToServer::Idle { ticket, ran_us } => {
                session.endpoints.call_over(ticket);
                let Some(pending) = self.finish(session, ticket, |caller| !caller.is_request())? else { return Ok(()) };
                pending.hold.ran(pending.unit, Duration::from_micros(u64::from(ran_us)), 0);
                if let Caller::Socket { key, ends, .. } = pending.caller {
                    if ends {
                        session.forget(key);
                        self.ended.push(key);
                    }
                    out.push(ModuleMessage::SocketIdle { socket: key });
                }
            }
            ToServer::Room { .. } | ToServer::Publish { .. } => return rooms(session, &record, out),
            ToServer::Close { key, .. } if !session.known.contains_key(&key) => {}
            ToServer::Send { key, frame } => {
                // Also for an unknown socket: dropping the frame reports it to the domain.
                let lent = borrowed(session, &frame)?;
                let Some(known) = session.known.get_mut(&key) else { return Ok(()) };
                if !known.gone {
                    known.spoke_ms = self.now_ms;
                }
                out.push(match (lent, frame) {
                    (Some(lent), _) => ModuleMessage::SocketSendLent { socket: key, frame: Box::new(lent) },
                    (None, Body::Here(frame)) => ModuleMessage::SocketSend { socket: key, frame: frame.into() },
                    (None, Body::Lent(_)) => return Ok(()),
                });
            }
            ToServer::Close { key, code } => {
                let code = if (1000..=4999).contains(&code) { code } else { 1000 };
                out.push(ModuleMessage::SocketClose { socket: key, code });
            }
        }
        Ok(())
    }

    /// Handles a handler that declines its request.
    fn take_declined(
        &mut self,
        session: &mut ProcessSession,
        ticket: u64,
        ran_us: u32,
        out: &mut Vec<ModuleMessage>,
    ) -> Result<(), String> {
        // Before the call is closed: it is answered when the process is ended because of this error.
        if self.pending.get(&ticket).is_some_and(|pending| pending.kept.is_none()) {
            return Err("a handler declined that must answer".to_owned());
        }
        session.endpoints.call_over(ticket);
        let Some(mut pending) = self.finish(session, ticket, Caller::is_request)? else { return Ok(()) };
        pending.hold.ran(pending.unit, Duration::from_micros(u64::from(ran_us)), 0);
        let (Some(request), Caller::Request { conn, seq, meta }) = (pending.kept.take(), pending.caller) else {
            return Ok(());
        };
        let by = pending.hold.instance().manifest().name.clone();
        out.push(ModuleMessage::Declined(Box::new(Declined { by, conn, seq, request: *request, meta })));
        Ok(())
    }

    /// Handles an answer with a file.
    fn take_file(
        &mut self,
        session: &mut ProcessSession,
        answer: FileAnswer<'_>,
        out: &mut Vec<ModuleMessage>,
    ) -> Result<(), String> {
        let FileAnswer { ticket, ran_us, status, headers, file } = answer;
        // Also for a call that has ended, because the next file comes after this one.
        let descriptor = session.endpoints.files.find(file.file)?;
        let Some(pending) = self.finish(session, ticket, Caller::is_request)? else { return Ok(()) };
        let Caller::Request { conn, seq, meta } = &pending.caller else { return Ok(()) };
        let Some(descriptor) = descriptor else {
            // The domain takes the file for passed, so its state is wrong; the next process begins with an empty state.
            session.endpoints.owner.recycle("an open file could not be taken from it: too many are open");
            let bytes = meta.plain(503, "the server has too many open files\n");
            out.push(ModuleMessage::Answer { conn: *conn, seq: *seq, bytes, lent: None });
            return Ok(());
        };
        let mut bytes = Vec::with_capacity(512);
        let head = meta.head(status, usize::try_from(file.bytes()).unwrap_or(usize::MAX));
        let dropped = encode_response(&mut bytes, &ResponseHead { head_only: true, ..head }, headers.iter(), &[]);
        pending.hold.ran(pending.unit, Duration::from_micros(u64::from(ran_us)), bytes.len());
        tell_dropped(&pending, dropped);
        let lent = head.has_body().then(|| files::pieces(&descriptor, file.pieces.into_iter()));
        out.push(ModuleMessage::Answer { conn: *conn, seq: *seq, bytes, lent });
        Ok(())
    }

    /// Whether the domain has sent something. If not, also announces that this shard is about to sleep, so that the domain
    /// wakes it (see [`Waker`](crate::net::Waker)).
    #[must_use]
    pub fn has_work(&self) -> bool {
        let mut work = self.more || !self.refused.is_empty();
        for session in self.current.iter().chain(&self.former).filter(|session| !session.broken) {
            session.endpoints.consumer.prepare_sleep();
            self.sleeps.set(true);
            work |= !session.endpoints.consumer.is_empty() || session.endpoints.streams.is_ready();
        }
        work
    }

    /// Announces that the shard does not sleep.
    pub fn awake(&self) {
        if !self.sleeps.replace(false) {
            return;
        }
        for session in self.current.iter().chain(&self.former) {
            session.endpoints.consumer.awake();
        }
    }
}
