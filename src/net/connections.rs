//! The sending half of every connection of a shard, and the application's requests to the driver.

mod held;
mod sending;

use super::CloseReason;
use super::conn_id::ConnId;
use super::outbox::{Outbox, SEND_BYTES_MAX};
use super::sys;
use super::tls::{Acceptor, Session, Tls};
use super::waker::Waker;
use super::warm::Warmer;
use std::collections::VecDeque;
use std::net::Shutdown;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::task::Waker as TaskWaker;
use std::time::{Duration, Instant};

/// How long a closed connection is kept so that the peer can read the bytes that were sent. RFC 9112 §9.6: if the server closes
/// while the peer still sends, the kernel answers with a reset, which destroys unread bytes.
const LINGER: Duration = Duration::from_secs(1);

/// Limit, in bytes, on the spare buffers kept for connections with bytes to send: a batch of some hundred small answers.
const SPARE_BYTES_MAX: usize = 256 * 1024;
/// Bytes that one turn sends before each connection gets only the smallest share. Clients with short answers wait for as long
/// as sending these bytes takes.
const TURN_BYTES: usize = 1024 * 1024;
/// The smallest share, in bytes: large enough that each system call is worth its cost.
const SHARE_BYTES_MIN: usize = 64 * 1024;

/// How far the close of a connection has proceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closing {
    No,
    /// The connection is closed when all is sent.
    AfterFlush,
    /// All bytes and FIN are sent; input from the peer is discarded until this time.
    Lingering(Instant),
    /// The connection is closed now.
    Aborted,
}

#[derive(Debug)]
struct ConnIo {
    id: ConnId,
    fd: RawFd,
    outbox: Outbox,
    /// The TLS state between outbox and socket of a TLS connection.
    tls: Option<Box<Tls>>,
    dirty: bool,
    /// The connection's share of this turn is sent; the next turn continues.
    spent: bool,
    /// The socket takes no more bytes for now; the driver waits for room.
    blocked: bool,
    /// The application waits until all is sent.
    awaited: bool,
    reading: bool,
    closing: Closing,
    /// The errno of the failed send.
    failed: Option<i32>,
    /// The connection's part of [`Connections::held_bytes`].
    held: usize,
    /// Wakes the task that waits for `reading`.
    reader: Option<TaskWaker>,
}

/// The result of a flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flushed {
    /// All is sent, or the connection is gone.
    All,
    /// The socket takes no more bytes: the driver must wait until it is writable, then flush again.
    Blocked,
    /// A thread reads the next bytes from a disk; the driver flushes again afterwards.
    Waits,
    /// The share of this turn is sent: the next turn must flush again.
    Spent,
    /// Sending failed with this errno: the connection can't be used any more.
    Failed(i32),
}

/// How the driver must treat bytes that have arrived.
#[derive(Debug)]
pub(super) enum Incoming {
    /// The connection is being closed: the bytes are discarded.
    Discarded,
    /// The bytes go to the application unchanged.
    Plain,
    /// The bytes go to this session; the driver must return it by [`Connections::put_session`].
    Sealed(Box<Session>),
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Connections {
    places: Vec<Option<ConnIo>>,
    generations: Vec<u32>,
    free: Vec<u32>,
    dirty: Vec<ConnId>,
    /// Connections whose bytes are all sent and whose application waits for that.
    sent: Vec<ConnId>,
    lingering: Vec<ConnId>,
    spares: Vec<Vec<u8>>,
    /// The sum of the capacities of `spares`.
    spare_bytes: usize,
    open: usize,
    /// Bytes of memory that unsent bytes hold, on connections whose sockets take no more bytes for now.
    held: usize,
    /// Open TLS connections.
    secured: usize,
    /// TLS connections whose handshake may still be under way, with its deadline; oldest first.
    handshake_scheduler: VecDeque<(Instant, ConnId)>,
    /// A buffer for records, passed from one connection to the next.
    sealing: Vec<u8>,
    /// Bytes that this turn may still send before each connection gets only the smallest share.
    turn_bytes: usize,
    /// Connections whose share of this turn is sent.
    spent: Vec<ConnId>,
    /// Reads files that are not in memory; without a warmer the shard reads them when it sends.
    warmer: Option<Warmer>,
}

impl Connections {
    /// Number of open connections.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open
    }

    /// Whether no connection is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open == 0
    }

    fn get(&self, id: ConnId) -> Option<&ConnIo> {
        self.places.get(id.index())?.as_ref().filter(|entry| entry.id == id)
    }

    fn get_mut(&mut self, id: ConnId) -> Option<&mut ConnIo> {
        self.places.get_mut(id.index())?.as_mut().filter(|entry| entry.id == id)
    }

    /// Copies some unsent bytes of `conn` that lie in the memory of an ended process.
    pub fn leave_ended(&mut self, conn: ConnId) {
        if let Some(entry) = self.get_mut(conn) {
            entry.outbox.leave_ended();
        }
    }

    /// The outbox of `conn`; its bytes are sent when the batch ends. `None` once the connection is being closed.
    pub fn outbox(&mut self, conn: ConnId) -> Option<&mut Outbox> {
        let entry = self.places.get_mut(conn.index())?.as_mut().filter(|entry| entry.id == conn)?;
        if entry.closing != Closing::No {
            return None;
        }
        if !entry.dirty {
            entry.dirty = true;
            self.dirty.push(conn);
        }
        if !entry.outbox.has_buffer() {
            let spare = self.spares.pop().unwrap_or_default();
            self.spare_bytes -= spare.capacity();
            entry.outbox.give_spare(spare);
        }
        Some(&mut entry.outbox)
    }

    /// Sends `bytes` on `conn` at once, if nothing is queued there. Returns how many bytes the socket has taken; the caller
    /// must queue the rest. The result is also 0 if the connection has failed; the end of the batch detects the failure.
    pub fn send_now(&mut self, conn: ConnId, bytes: &[u8]) -> usize {
        let Some(entry) = self.get_mut(conn) else { return 0 };
        let is_idle = !entry.dirty && !entry.blocked && entry.closing == Closing::No && entry.tls.is_none();
        if !is_idle || !entry.outbox.is_empty() || bytes.len() > SEND_BYTES_MAX {
            return 0;
        }
        let taken = sys::send(entry.fd, bytes).unwrap_or(0);
        entry.outbox.sent_past(taken);
        self.turn_bytes = self.turn_bytes.saturating_sub(taken);
        taken
    }

    /// Bytes queued on `conn` that the socket has not taken.
    #[must_use]
    pub fn unsent(&self, conn: ConnId) -> usize {
        self.get(conn).map_or(0, |entry| {
            // Sealed bytes are slightly longer than the plaintext; no limit needs the exact length.
            entry.outbox.len() + entry.tls.as_ref().map_or(0, |tls| tls.len())
        })
    }

    /// How many bytes of `conn` the socket has taken so far, wrapping.
    #[must_use]
    pub fn sent_total(&self, conn: ConnId) -> usize {
        self.get(conn).map_or(0, |entry| entry.outbox.sent_total())
    }

    /// Makes the driver call [`Application::drained`](super::Application::drained) once all bytes queued on `conn` are sent,
    /// even if the socket takes them at once.
    pub fn await_sent(&mut self, conn: ConnId) {
        if let Some(entry) = self.get_mut(conn) {
            entry.awaited = true;
        }
        self.mark(conn);
    }

    /// Closes `conn` once all queued bytes are sent.
    pub fn close(&mut self, conn: ConnId) {
        let Some(entry) = self.get_mut(conn).filter(|entry| entry.closing == Closing::No) else { return };
        entry.closing = Closing::AfterFlush;
        entry.reading = true; // Input that still arrives is read and discarded.
        if let Some(reader) = &entry.reader {
            reader.wake_by_ref();
        }
        self.mark(conn);
    }

    /// Marks `conn` to be flushed when the batch ends.
    fn mark(&mut self, conn: ConnId) {
        if let Some(entry) = self.get_mut(conn)
            && !std::mem::replace(&mut entry.dirty, true)
        {
            self.dirty.push(conn);
        }
    }

    /// Closes `conn` now; its queued bytes are lost.
    pub fn abort(&mut self, conn: ConnId) {
        if let Some(entry) = self.get_mut(conn).filter(|entry| entry.closing != Closing::Aborted) {
            entry.closing = Closing::Aborted;
            entry.reading = true;
            // The shutdown ends the driver's pending receive with 0; the owner of the descriptor closes it.
            sys::shutdown(entry.fd, Shutdown::Both);
            if let Some(reader) = entry.reader.take() {
                reader.wake();
            }
        }
    }

    /// Closes `conn` now by a reset; its queued bytes are lost. No client takes a reset for the regular end of an answer.
    pub fn reset(&mut self, conn: ConnId) {
        if let Some(entry) = self.get_mut(conn).filter(|entry| entry.closing != Closing::Aborted) {
            sys::reset_when_closed(entry.fd);
            entry.closing = Closing::Aborted;
            entry.reading = true;
            // Shuts down the receiving half only: no FIN may be sent before the reset.
            sys::shutdown(entry.fd, Shutdown::Read);
            if let Some(reader) = entry.reader.take() {
                reader.wake();
            }
        }
    }

    /// While `reading` is false the driver does not receive from `conn`. Bytes of a receive already under way still arrive.
    pub fn set_reading(&mut self, conn: ConnId, reading: bool) {
        if let Some(entry) = self.get_mut(conn).filter(|entry| entry.closing == Closing::No) {
            entry.reading = reading;
            // The waiting task stays registered while reading is off, because it may also wait for the connection's end.
            if reading && let Some(reader) = entry.reader.take() {
                reader.wake();
            }
        }
    }

    // ---- The driver's side ----

    /// The connections of a driver; `waker` wakes the driver's thread.
    pub(super) fn woken_by(waker: &Arc<Waker>) -> Self {
        Self { warmer: Some(Warmer::new(waker)), ..Self::default() }
    }

    /// Resumes connections that have waited for a disk.
    fn resume_warmed(&mut self) {
        while let Some((conn, end)) = self.warmer.as_ref().and_then(Warmer::next) {
            if let Some(entry) = self.get_mut(conn) {
                entry.blocked = false;
                entry.outbox.warmed(end);
                self.mark(conn);
            }
        }
    }

    /// Whether a connection that has waited for a disk can be resumed.
    pub(super) fn has_warmed(&self) -> bool {
        self.warmer.as_ref().is_some_and(|warmer| !warmer.is_empty())
    }

    /// Adds a connection on `fd`, which must stay open until [`Connections::remove`].
    pub(super) fn insert(&mut self, fd: RawFd) -> ConnId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.generations.push(0);
            u32::try_from(self.places.len() - 1).unwrap_or(u32::MAX)
        });
        let generation = self.generations.get(index as usize).copied().unwrap_or_default();
        let id = ConnId::new(index, generation);
        let entry = ConnIo {
            id,
            fd,
            outbox: Outbox::default(),
            tls: None,
            dirty: false,
            spent: false,
            blocked: false,
            awaited: false,
            reading: true,
            closing: Closing::No,
            failed: None,
            held: 0,
            reader: None,
        };
        if let Some(place) = self.places.get_mut(id.index()) {
            *place = Some(entry);
        }
        self.open += 1;
        id
    }

    /// Makes the new connection `conn` a TLS connection. Returns whether that succeeded.
    pub(super) fn secure(&mut self, conn: ConnId, acceptor: &Acceptor) -> bool {
        let session = Session::new(acceptor);
        if let (Some(entry), Ok(session)) = (self.get_mut(conn), session) {
            entry.tls = Some(Box::new(Tls::new(session)));
            self.secured += 1;
            self.handshake_scheduler.push_back((Instant::now() + acceptor.handshake_timeout, conn));
            return true;
        }
        false
    }

    /// How the driver must treat bytes that have arrived on `conn`.
    pub(super) fn incoming(&mut self, conn: ConnId) -> Incoming {
        match self.get_mut(conn) {
            Some(ConnIo { closing: Closing::No, tls: None, .. }) => Incoming::Plain,
            Some(ConnIo { closing: Closing::No, tls: Some(tls), .. }) => {
                tls.take_session().map_or(Incoming::Discarded, Incoming::Sealed)
            }
            _ => Incoming::Discarded,
        }
    }

    /// Returns the session from [`Connections::incoming`]; the bytes `made` are sent.
    pub(super) fn put_session(&mut self, conn: ConnId, session: Box<Session>, made: &[u8]) {
        let Some(tls) = self.get_mut(conn).and_then(|entry| entry.tls.as_mut()) else { return };
        tls.put_session(session);
        if !made.is_empty() {
            tls.push(made);
            self.mark(conn);
        }
    }

    /// Ends `conn` after sending `last_words` and nothing else. The driver has taken its session and does not return it.
    pub(super) fn refuse(&mut self, conn: ConnId, last_words: &[u8]) {
        let Some(entry) = self.get_mut(conn) else { return };
        entry.outbox.clear();
        if let Some(tls) = &mut entry.tls {
            tls.push(last_words);
        }
        self.close(conn);
    }

    /// Whether bytes that arrive on `conn` are part of a handshake.
    pub(super) fn is_handshaking(&self, conn: ConnId) -> bool {
        let tls = self.get(conn).filter(|entry| entry.closing == Closing::No).and_then(|entry| entry.tls.as_ref());
        tls.is_some_and(|tls| tls.is_handshaking())
    }

    /// Whether the client of `conn` has begun a handshake that is not complete. The driver ends a handshake that takes too
    /// long.
    #[must_use]
    pub fn is_greeted(&self, conn: ConnId) -> bool {
        self.get(conn).and_then(|entry| entry.tls.as_ref()).is_some_and(|tls| tls.is_greeted())
    }

    /// Ends connections whose handshake takes too long.
    pub(super) fn end_handshakes(&mut self, now: Instant) {
        while let Some(&(deadline, conn)) = self.handshake_scheduler.front() {
            let handshaking =
                self.get(conn).and_then(|entry| entry.tls.as_ref()).is_some_and(|tls| tls.is_handshaking());
            if handshaking && now < deadline {
                return;
            }
            if handshaking {
                self.abort(conn);
            }
            self.handshake_scheduler.pop_front();
        }
    }

    /// Removes `conn`; its id is invalid afterwards.
    pub(super) fn remove(&mut self, conn: ConnId) {
        let Some(entry) = self.get(conn) else { return };
        (self.held, self.secured) = (self.held - entry.held, self.secured - usize::from(entry.tls.is_some()));
        if let Some(place) = self.places.get_mut(conn.index()) {
            *place = None;
        }
        if let Some(generation) = self.generations.get_mut(conn.index()) {
            *generation = generation.wrapping_add(1);
        }
        self.free.push(conn.place());
        self.open -= 1;
    }

    /// Whether input of `conn` is discarded: the application has asked for its end, or the connection is gone.
    pub(super) fn is_closing(&self, conn: ConnId) -> bool {
        self.get(conn).is_none_or(|entry| entry.closing != Closing::No)
    }

    /// Why `conn` ended. A failed send and the application's close take precedence over `received`, the result of the last
    /// receive.
    pub(super) fn close_reason(&self, conn: ConnId, received: CloseReason) -> CloseReason {
        match self.get(conn) {
            Some(ConnIo { failed: Some(errno), .. }) => CloseReason::Error(*errno),
            Some(entry) if entry.closing != Closing::No => CloseReason::Application,
            _ => received,
        }
    }

    /// Whether the driver may receive from `conn`; if not, `waker` is woken when the driver may.
    pub(super) fn poll_reading(&mut self, conn: ConnId, waker: &TaskWaker) -> bool {
        let Some(entry) = self.get_mut(conn) else { return true };
        if !entry.reading {
            entry.reader = Some(waker.clone());
        }
        entry.reading
    }

    /// Whether a connection whose peer has sent FIN can be closed: nothing is left to send or to wait for.
    pub(super) fn is_finished(&self, conn: ConnId) -> bool {
        self.get(conn).is_none_or(|entry| matches!(entry.closing, Closing::Lingering(_) | Closing::Aborted))
    }

    /// Whether `conn` must be closed without waiting.
    pub(super) fn is_aborted(&self, conn: ConnId) -> bool {
        self.get(conn).is_none_or(|entry| entry.closing == Closing::Aborted)
    }

    /// Wakes `waker` when [`Connections::is_finished`] or [`Connections::is_aborted`] may have become true.
    pub(super) fn watch(&mut self, conn: ConnId, waker: &TaskWaker) {
        if let Some(entry) = self.get_mut(conn) {
            entry.reader = Some(waker.clone());
        }
    }

    /// The connections to flush at the end of a batch.
    pub(super) fn take_dirty(&mut self) -> Vec<ConnId> {
        self.resume_warmed();
        std::mem::take(&mut self.dirty)
    }

    /// Returns the list of [`Connections::take_dirty`], so that its memory is reused.
    pub(super) fn give_dirty(&mut self, mut list: Vec<ConnId>) {
        if self.dirty.is_empty() {
            list.clear();
            self.dirty = list;
        }
    }

    /// The connections whose bytes have all been sent since the last call; only connections with [`Connections::await_sent`].
    pub(super) fn take_sent(&mut self) -> Vec<ConnId> {
        std::mem::take(&mut self.sent)
    }

    /// Moves at most `room` bytes queued on `conn` to `out`, in the way a socket takes them. Returns whether no byte is left.
    #[cfg(any(test, fuzzing))]
    pub(super) fn flush_into(&mut self, conn: ConnId, room: usize, out: &mut Vec<u8>) -> bool {
        let place = self.places.get_mut(conn.index()).and_then(Option::as_mut);
        let Some(entry) = place.filter(|entry| entry.id == conn) else { return true };
        entry.dirty = false;
        let end = out.len().saturating_add(room);
        while out.len() < end && !entry.outbox.is_empty() {
            let front = entry.outbox.front();
            let count = front.len().min(end - out.len());
            out.extend_from_slice(&front[..count]);
            entry.outbox.advance(count);
        }
        let all = entry.outbox.is_empty();
        if all && std::mem::take(&mut entry.awaited) {
            self.sent.push(conn);
        }
        all
    }

    /// Whether `conn` names a connection.
    pub(super) fn knows(&self, conn: ConnId) -> bool {
        self.get(conn).is_some()
    }

    /// Ends connections whose time for lingering is over.
    pub(super) fn end_lingering(&mut self, now: Instant) {
        let late = |connections: &Self, id: ConnId| match connections.get(id).map(|entry| entry.closing) {
            Some(Closing::Lingering(until)) => Some(now >= until),
            _ => None,
        };
        let waiting = std::mem::take(&mut self.lingering);
        for id in waiting {
            match late(self, id) {
                Some(true) => self.abort(id),
                Some(false) => self.lingering.push(id),
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
