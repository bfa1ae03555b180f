//! Records that cross between the server and a domain, over the rings in shared memory.
//!
//! Sans-IO: bytes in, values out. Records from a domain are hostile input: every length is checked against the record, and
//! a record with any error is refused as a whole.

mod streams;
#[cfg(test)]
mod tests;

pub(super) use super::record_parts::{Body, Headers};
pub(super) use streams::{StreamToDomain, StreamToServer, begin, notice, stream_returned};

use super::arena::ExtentRange;
use super::file_body::{FileAnswer, FileBody};
use super::record_parts::{HEADERS_MAX, Reader, kind, push_address, push_block, push_length};
use crate::proto::http1::RequestView;
use crate::proto::ws::{Deflate, Kind};
use std::net::IpAddr;

/// A record can't be read: the other side is faulty or hostile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a record between the server and a domain can't be read: {0}")]
pub(super) struct Malformed(pub(super) &'static str);

/// A record to a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ToDomain<'a> {
    /// An HTTP request: the head, packed, and the body without its framing.
    Request {
        ticket: u64,
        instance: u64,
        route: u32,
        short: bool,
        peer: Option<IpAddr>,
        head: &'a [u8],
        body: Body<'a>,
    },
    /// Events of a WebSocket, encoded by [`push_event`].
    Socket { ticket: u64, instance: u64, index: u32, short: bool, key: u64, events: Body<'a> },
    /// The body of an answer or the frame at this offset has been sent.
    Done { offset: u64 },
    /// Nothing can be sent on a socket any more. Its last event is still to come.
    Gone { key: u64 },
    /// The server has taken `taken` further bytes of a socket's frames, and `unsent` bytes are unsent.
    Buffered { key: u64, taken: u64, unsent: u64 },
    /// A record about a stream.
    Stream(StreamToDomain<'a>),
}

/// A record from a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ToServer<'a> {
    /// A handler's answer, and the handler's run time.
    Answer { ticket: u64, ran_us: u32, status: u16, headers: Headers<'a>, body: Body<'a> },
    /// An answer with a file as its body.
    FileAnswer(FileAnswer<'a>),
    /// A call waits for a thread, because all are busy.
    Waits { ticket: u64 },
    /// A call that has waited for a thread, or for earlier calls, has its turn: its handler begins.
    Turn { ticket: u64 },
    /// A handler has returned, and its answer waits for memory.
    Returned { ticket: u64 },
    /// A handler faulted; the reason.
    Fault { ticket: u64, why: &'a str },
    /// A handler declines the request; the handler's run time.
    Declined { ticket: u64, ran_us: u32 },
    /// The callbacks of a batch of socket events have returned.
    Idle { ticket: u64, ran_us: u32 },
    /// An encoded frame for a socket.
    Send { key: u64, frame: Body<'a> },
    /// Close a socket.
    Close { key: u64, code: u16 },
    /// Add a socket to a room, or remove it.
    Room { key: u64, room: &'a [u8], joins: bool },
    /// An encoded frame for the domain's sockets in a room: `plain_bytes` bytes of it, and after them the same message
    /// compressed; 0: there is only the uncompressed frame.
    Publish { plain_bytes: u64, room: &'a [u8], frame: Body<'a> },
    /// A record about a stream.
    Stream(StreamToServer<'a>),
}

/// Turns the fixed part of a record into a whole record with its body at `place`.
pub(super) fn lend(fixed: &mut Vec<u8>, place: ExtentRange) {
    if let Some(kind) = fixed.first_mut() {
        *kind = match *kind {
            kind::REQUEST => kind::REQUEST_LENT,
            kind::SOCKET => kind::SOCKET_LENT,
            kind::SEND => kind::SEND_LENT,
            kind::PUBLISH => kind::PUBLISH_LENT,
            _ => kind::ANSWER_LENT,
        };
    }
    fixed.extend_from_slice(&place.offset.to_le_bytes());
    fixed.extend_from_slice(&place.bytes.to_le_bytes());
}

/// The bytes of a record that [`done`] makes.
pub(super) const DONE_BYTES: usize = 9;

/// The record of an answer's body that has been sent.
pub(super) fn done(out: &mut Vec<u8>, offset: u64) {
    out.push(kind::DONE);
    out.extend_from_slice(&offset.to_le_bytes());
}

/// The record of a socket on which nothing can be sent any more.
pub(super) fn gone(out: &mut Vec<u8>, key: u64) {
    out.push(kind::GONE);
    out.extend_from_slice(&key.to_le_bytes());
}

/// The record of socket `key`: bytes that the shard has taken since the last record, and unsent bytes.
pub(super) fn buffered(out: &mut Vec<u8>, key: u64, taken: u64, unsent: u64) {
    out.push(kind::BUFFERED);
    for number in [key, taken, unsent] {
        out.extend_from_slice(&number.to_le_bytes());
    }
}

/// The fixed part of a request and its head; the body follows it.
pub(super) fn request_head(
    out: &mut Vec<u8>,
    ticket: u64,
    (instance, route): (u64, u32),
    short: bool,
    view: &RequestView<'_>,
) {
    out.push(kind::REQUEST);
    out.extend_from_slice(&ticket.to_le_bytes());
    out.extend_from_slice(&instance.to_le_bytes());
    out.extend_from_slice(&route.to_le_bytes());
    out.push(u8::from(short));
    push_address(out, view.peer);
    push_length(out, view.packed_bytes());
    view.pack(out);
}

/// The fixed part of socket events; the events follow it.
pub(super) fn socket_head(out: &mut Vec<u8>, ticket: u64, instance: u64, index: u32, short: bool, key: u64) {
    out.push(kind::SOCKET);
    out.extend_from_slice(&ticket.to_le_bytes());
    out.extend_from_slice(&instance.to_le_bytes());
    out.extend_from_slice(&index.to_le_bytes());
    out.push(u8::from(short));
    out.extend_from_slice(&key.to_le_bytes());
}

/// The offset of the run time in an answer: after its kind and its ticket.
const RAN_US_AT: usize = 9;

/// The fixed part of an answer and its header fields; the body follows it.
pub(super) fn answer_head<'h>(
    out: &mut Vec<u8>,
    ticket: u64,
    ran_us: u32,
    status: u16,
    headers: impl Iterator<Item = (&'h [u8], &'h [u8])>,
) {
    out.push(kind::ANSWER);
    out.extend_from_slice(&ticket.to_le_bytes());
    out.extend_from_slice(&ran_us.to_le_bytes());
    out.extend_from_slice(&status.to_le_bytes());
    let at = out.len();
    out.extend_from_slice(&[0; 2]);
    let mut count = 0_u16;
    for (name, value) in headers.take(HEADERS_MAX) {
        push_block(out, name);
        push_block(out, value);
        count += 1;
    }
    if let Some(place) = out.get_mut(at..at + 2) {
        place.copy_from_slice(&count.to_le_bytes());
    }
}

/// Replaces the run time in the fixed part of an answer.
pub(super) fn set_ran_us(fixed: &mut [u8], ran_us: u32) {
    if let Some(place) = fixed.get_mut(RAN_US_AT..RAN_US_AT + 4) {
        place.copy_from_slice(&ran_us.to_le_bytes());
    }
}

/// The record of a call that waits for a thread.
pub(super) fn waits(out: &mut Vec<u8>, ticket: u64) {
    out.push(kind::WAITS);
    out.extend_from_slice(&ticket.to_le_bytes());
}

/// The record of a call that has its turn.
pub(super) fn turn(out: &mut Vec<u8>, ticket: u64) {
    out.push(kind::TURN);
    out.extend_from_slice(&ticket.to_le_bytes());
}

/// The record of a returned handler, whose answer is still to come.
pub(super) fn returned(out: &mut Vec<u8>, ticket: u64) {
    out.push(kind::RETURNED);
    out.extend_from_slice(&ticket.to_le_bytes());
}

/// The record of a handler that faulted.
pub(super) fn fault(out: &mut Vec<u8>, ticket: u64, why: &str) {
    out.push(kind::FAULT);
    out.extend_from_slice(&ticket.to_le_bytes());
    out.extend_from_slice(why.as_bytes());
}

/// The record of a handler that declines its request.
pub(super) fn declined(out: &mut Vec<u8>, ticket: u64, ran_us: u32) {
    out.push(kind::DECLINED);
    out.extend_from_slice(&ticket.to_le_bytes());
    out.extend_from_slice(&ran_us.to_le_bytes());
}

/// The record of callbacks that have returned.
pub(super) fn idle(out: &mut Vec<u8>, ticket: u64, ran_us: u32) {
    out.push(kind::IDLE);
    out.extend_from_slice(&ticket.to_le_bytes());
    out.extend_from_slice(&ran_us.to_le_bytes());
}

/// The fixed part of a frame; the frame follows it.
pub(super) fn send_head(out: &mut Vec<u8>, key: u64) {
    out.push(kind::SEND);
    out.extend_from_slice(&key.to_le_bytes());
}

/// The record that closes a socket.
pub(super) fn close(out: &mut Vec<u8>, key: u64, code: u16) {
    out.push(kind::CLOSE);
    out.extend_from_slice(&key.to_le_bytes());
    out.extend_from_slice(&code.to_le_bytes());
}

/// The record of a socket that joins or leaves a room.
pub(super) fn room(out: &mut Vec<u8>, key: u64, room: &[u8], joins: bool) {
    out.push(if joins { kind::JOIN } else { kind::LEAVE });
    out.extend_from_slice(&key.to_le_bytes());
    push_block(out, room);
}

/// The fixed part of a frame for a room; the frame follows it. If `plain_bytes` is the frame's length, a compressed one
/// follows that.
pub(super) fn publish_head(out: &mut Vec<u8>, plain_bytes: u64, room: &[u8]) {
    out.push(kind::PUBLISH);
    out.extend_from_slice(&plain_bytes.to_le_bytes());
    push_block(out, room);
}

impl<'a> ToDomain<'a> {
    /// Reads a record.
    pub(super) fn read(record: &'a [u8]) -> Result<Self, Malformed> {
        Self::parse(&mut Reader { bytes: record }).ok_or(Malformed("to the domain"))
    }

    fn parse(reader: &mut Reader<'a>) -> Option<Self> {
        let (kind, ticket) = (reader.u8()?, reader.u64()?);
        Some(match kind {
            kind::REQUEST | kind::REQUEST_LENT => Self::Request {
                ticket,
                instance: reader.u64()?,
                route: reader.u32()?,
                short: reader.u8()? != 0,
                peer: reader.address()?,
                head: reader.block()?,
                body: reader.body(kind == kind::REQUEST)?,
            },
            kind::DONE => Self::Done { offset: ticket },
            kind::GONE => Self::Gone { key: ticket },
            kind::BUFFERED => Self::Buffered { key: ticket, taken: reader.u64()?, unsent: reader.u64()? },
            kind::SOCKET | kind::SOCKET_LENT => Self::Socket {
                ticket,
                instance: reader.u64()?,
                index: reader.u32()?,
                short: reader.u8()? != 0,
                key: reader.u64()?,
                events: reader.body(kind == kind::SOCKET)?,
            },
            kind => Self::Stream(StreamToDomain::parse(kind, ticket, reader)?),
        })
    }
}

impl<'a> ToServer<'a> {
    /// Reads a record.
    pub(super) fn read(record: &'a [u8]) -> Result<Self, Malformed> {
        Self::parse(&mut Reader { bytes: record }).ok_or(Malformed("to the server"))
    }

    fn parse(reader: &mut Reader<'a>) -> Option<Self> {
        let (kind, ticket) = (reader.u8()?, reader.u64()?);
        Some(match kind {
            kind::ANSWER | kind::ANSWER_LENT => {
                let (ran_us, status, headers) = reader.answer_head()?;
                let body = reader.body(kind == kind::ANSWER)?;
                Self::Answer { ticket, ran_us, status, headers, body }
            }
            kind::ANSWER_FILE => {
                let (ran_us, status, headers) = reader.answer_head()?;
                Self::FileAnswer(FileAnswer { ticket, ran_us, status, headers, file: FileBody::parse(reader)? })
            }
            kind::FAULT => Self::Fault { ticket, why: std::str::from_utf8(reader.rest()).ok()? },
            kind::DECLINED => Self::Declined { ticket, ran_us: reader.u32()? },
            kind::IDLE => Self::Idle { ticket, ran_us: reader.u32()? },
            kind::WAITS => Self::Waits { ticket },
            kind::TURN => Self::Turn { ticket },
            kind::RETURNED => Self::Returned { ticket },
            kind::SEND | kind::SEND_LENT => Self::Send { key: ticket, frame: reader.body(kind == kind::SEND)? },
            kind::CLOSE => Self::Close { key: ticket, code: reader.u16()? },
            kind::JOIN | kind::LEAVE => Self::Room { key: ticket, room: reader.block()?, joins: kind == kind::JOIN },
            kind::PUBLISH | kind::PUBLISH_LENT => {
                Self::Publish { plain_bytes: ticket, room: reader.block()?, frame: reader.body(kind == kind::PUBLISH)? }
            }
            kind => Self::Stream(StreamToServer::parse(kind, ticket, reader)?),
        })
    }
}

/// One event of a WebSocket on its way to a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event<'a> {
    /// The socket is open: the values of `websocket_t.session` and `client_fd`, and the request that opened it.
    Open { session: Option<&'a [u8]>, number: u64, deflate: Option<Deflate>, peer: Option<IpAddr>, head: &'a [u8] },
    /// A socket that was opened in an earlier process, where `on_open` has been called.
    Known {
        session: Option<&'a [u8]>,
        number: u64,
        deflate: Option<Deflate>,
        /// The type of the last message.
        last: Kind,
    },
    Message {
        kind: Kind,
        /// Whether the bytes are compressed.
        deflated: bool,
        bytes: &'a [u8],
    },
    /// `gone`: nothing can be sent any more.
    Close { gone: bool },
    /// The socket has ended in another domain; no callback is called.
    Forget,
}

fn kind_byte(kind: Kind) -> u8 {
    match kind {
        Kind::Text => 0,
        Kind::Binary => 1,
    }
}

/// Appends the part of [`Event::Message`] before its `length` bytes.
pub(super) fn message_head(out: &mut Vec<u8>, kind: Kind, deflated: bool, length: usize) {
    out.extend_from_slice(&[if deflated { 9 } else { 3 }, kind_byte(kind)]);
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
}

/// Appends an event.
pub(super) fn push_event(out: &mut Vec<u8>, event: &Event<'_>) {
    match event {
        Event::Open { session, number, deflate, peer, head } => {
            out.push(1 + u8::from(session.is_some()));
            out.extend_from_slice(&number.to_le_bytes());
            out.push(deflate.map_or(0, Deflate::window_bits));
            push_block(out, session.unwrap_or_default());
            push_address(out, *peer);
            push_block(out, head);
        }
        Event::Known { session, number, deflate, last } => {
            out.push(5 + u8::from(session.is_some()));
            out.extend_from_slice(&number.to_le_bytes());
            out.push(deflate.map_or(0, Deflate::window_bits));
            out.push(kind_byte(*last));
            push_block(out, session.unwrap_or_default());
        }
        Event::Message { kind, deflated, bytes } => {
            message_head(out, *kind, *deflated, bytes.len());
            out.extend_from_slice(bytes);
        }
        Event::Close { gone } => out.push(if *gone { 7 } else { 4 }),
        Event::Forget => out.push(8),
    }
}

/// Reads events that [`push_event`] wrote, one after the other.
pub(super) fn read_events(bytes: &[u8]) -> Result<Vec<Event<'_>>, Malformed> {
    let mut reader = Reader { bytes };
    let mut events = Vec::new();
    while !reader.bytes.is_empty() {
        events.push(read_event(&mut reader).ok_or(Malformed("socket events"))?);
    }
    Ok(events)
}

fn read_event<'a>(reader: &mut Reader<'a>) -> Option<Event<'a>> {
    Some(match reader.u8()? {
        kind @ (1 | 2) => {
            let (number, deflate) = (reader.u64()?, Deflate::with_window(reader.u8()?));
            let session = reader.block()?;
            let (peer, head) = (reader.address()?, reader.block()?);
            Event::Open { session: (kind == 2).then_some(session), number, deflate, peer, head }
        }
        kind @ (5 | 6) => {
            let (number, deflate, last) = (reader.u64()?, Deflate::with_window(reader.u8()?), reader.kind()?);
            let session = reader.block()?;
            Event::Known { session: (kind == 6).then_some(session), number, deflate, last }
        }
        kind @ (3 | 9) => Event::Message { deflated: kind == 9, kind: reader.kind()?, bytes: reader.block()? },
        kind @ (4 | 7) => Event::Close { gone: kind == 7 },
        8 => Event::Forget,
        _ => return None,
    })
}
