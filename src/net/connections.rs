//! The sending half of every connection of a shard, and what its application asks of the driver.

mod held;
mod sending;

use super::CloseReason;
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

/// Names a connection of one shard. An id is never used again: the number of its place is, its generation is not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct ConnId {
    index: u32,
    generation: u32,
}

impl ConnId {
    /// The number of its place, small and dense: for tables beside [`Connections`].
    #[must_use]
    pub fn index(self) -> usize {
        self.index as usize
    }

    /// A number that no other connection of the shard has.
    #[must_use]
    pub fn number(self) -> u64 {
        u64::from(self.index) << 32 | u64::from(self.generation)
    }
}

/// How long a closed connection is kept so that the peer can read what was sent (RFC 9112 §9.6: closing while the peer
/// still sends makes the kernel answer with a reset, which destroys what it has not read).
const LINGER: Duration = Duration::from_secs(1);

/// Memory of the spare buffers kept for connections that have something to send: a batch of some hundred small answers.
const SPARE_BYTES_MAX: usize = 256 * 1024;
/// Bytes that one turn sends before each connection has the smallest share. Clients that wait for short answers wait as long as these
/// bytes take.
const TURN_BYTES: usize = 1024 * 1024;
/// The smallest share, of which each system call is still worth its while.
const SHARE_BYTES_MIN: usize = 64 * 1024;

/// How far a connection is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closing {
    No,
    /// When all is sent.
    AfterFlush,
    /// All is sent and FIN too; what the peer still sends is thrown away until then.
    Lingering(Instant),
    /// Now.
    Aborted,
}

#[derive(Debug)]
struct ConnIo {
    id: ConnId,
    fd: RawFd,
    outbox: Outbox,
    /// What stands between the outbox and the socket of a TLS connection.
    tls: Option<Box<Tls>>,
    dirty: bool,
    /// Its share of this turn is sent; the next turn sends on.
    spent: bool,
    /// The socket takes no more for now; the driver waits for it.
    blocked: bool,
    /// The application waits for all to be sent.
    awaited: bool,
    reading: bool,
    closing: Closing,
    /// The errno that sending failed with.
    failed: Option<i32>,
    /// Its part of [`Connections::held_bytes`].
    held: usize,
    /// Wakes the task that waits for `reading`.
    reader: Option<TaskWaker>,
}

/// What a flush has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flushed {
    /// All is sent, or the connection is gone.
    All,
    /// The socket takes no more: wait until it is writable, then flush again.
    Blocked,
    /// What comes next is read from a disk; then it is flushed again.
    Waits,
    /// The share of this turn is sent: the next turn flushes again.
    Spent,
    /// Sending failed with this errno: the connection is dead.
    Failed(i32),
}

/// What happens to bytes that have arrived.
#[derive(Debug)]
pub(super) enum Incoming {
    /// The connection is being closed: they are thrown away.
    Discarded,
    /// They go to the application as they are.
    Plain,
    /// They are for this session, which is given back by [`Connections::put_session`].
    Sealed(Box<Session>),
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Connections {
    places: Vec<Option<ConnIo>>,
    generations: Vec<u32>,
    free: Vec<u32>,
    dirty: Vec<ConnId>,
    /// Connections of which all is sent and the application wanted to know.
    sent: Vec<ConnId>,
    lingering: Vec<ConnId>,
    spares: Vec<Vec<u8>>,
    /// The sum of the capacities of `spares`.
    spare_bytes: usize,
    open: usize,
    /// Bytes of memory that unsent bytes hold, on connections that take no more for now.
    held: usize,
    /// Open TLS connections.
    secured: usize,
    /// TLS connections whose handshake may still be under way, with its deadline; oldest first.
    handshake_scheduler: VecDeque<(Instant, ConnId)>,
    /// A buffer for records, handed from one connection to the next.
    sealing: Vec<u8>,
    /// Bytes that this turn may still send before each connection has the smallest share.
    turn_bytes: usize,
    /// Connections whose share of this turn is sent.
    spent: Vec<ConnId>,
    /// Reads files that are not in memory; without one they are read where they are sent.
    warmer: Option<Warmer>,
}

impl Connections {
    /// Open connections.
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

    /// What is to be sent on `conn`; it leaves when the batch ends. `None` once the connection is being closed.
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

    /// Sends `bytes` on `conn` at once, if nothing is queued there. Returns how many bytes the socket has taken: the caller queues
    /// the rest. 0 also if the connection has failed, which the end of the batch finds out.
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
            // What is sealed is a few bytes longer than it was, which no limit minds.
            entry.outbox.len() + entry.tls.as_ref().map_or(0, |tls| tls.len())
        })
    }

    /// Bytes of `conn` that the socket has taken so far, wrapping.
    #[must_use]
    pub fn sent_total(&self, conn: ConnId) -> usize {
        self.get(conn).map_or(0, |entry| entry.outbox.sent_total())
    }

    /// Has [`Application::drained`](super::Application::drained) called once all that is queued on `conn` is sent, even if
    /// the socket takes it at once.
    pub fn await_sent(&mut self, conn: ConnId) {
        if let Some(entry) = self.get_mut(conn) {
            entry.awaited = true;
        }
        self.mark(conn);
    }

    /// Closes `conn` once everything queued is sent.
    pub fn close(&mut self, conn: ConnId) {
        let Some(entry) = self.get_mut(conn).filter(|entry| entry.closing == Closing::No) else { return };
        entry.closing = Closing::AfterFlush;
        entry.reading = true; // What still comes is read and thrown away.
        if let Some(reader) = &entry.reader {
            reader.wake_by_ref();
        }
        self.mark(conn);
    }

    /// Has `conn` flushed when the batch ends.
    fn mark(&mut self, conn: ConnId) {
        if let Some(entry) = self.get_mut(conn)
            && !std::mem::replace(&mut entry.dirty, true)
        {
            self.dirty.push(conn);
        }
    }

    /// Closes `conn` now; what is queued is lost.
    pub fn abort(&mut self, conn: ConnId) {
        if let Some(entry) = self.get_mut(conn).filter(|entry| entry.closing != Closing::Aborted) {
            entry.closing = Closing::Aborted;
            entry.reading = true;
            // Ends the driver's pending receive with 0; the descriptor is closed by its owner.
            sys::shutdown(entry.fd, Shutdown::Both);
            if let Some(reader) = entry.reader.take() {
                reader.wake();
            }
        }
    }

    /// Closes `conn` now by a reset, which no client takes for the end of what it was sent; what is queued is lost.
    pub fn reset(&mut self, conn: ConnId) {
        if let Some(entry) = self.get_mut(conn).filter(|entry| entry.closing != Closing::Aborted) {
            sys::reset_when_closed(entry.fd);
            entry.closing = Closing::Aborted;
            entry.reading = true;
            // Only what is received: a FIN must not leave before the reset.
            sys::shutdown(entry.fd, Shutdown::Read);
            if let Some(reader) = entry.reader.take() {
                reader.wake();
            }
        }
    }

    /// While `reading` is false the driver does not receive from `conn`. What it is receiving already still arrives.
    pub fn set_reading(&mut self, conn: ConnId, reading: bool) {
        if let Some(entry) = self.get_mut(conn).filter(|entry| entry.closing == Closing::No) {
            entry.reading = reading;
            // The task that waits stays known while reading is off: it may wait for the connection's end as well.
            if reading && let Some(reader) = entry.reader.take() {
                reader.wake();
            }
        }
    }

    // ---- The driver's side ----

    /// For a driver whose thread `waker` wakes.
    pub(super) fn woken_by(waker: &Arc<Waker>) -> Self {
        Self { warmer: Some(Warmer::new(waker)), ..Self::default() }
    }

    /// Goes on with connections that have waited for a disk.
    fn resume_warmed(&mut self) {
        while let Some((conn, end)) = self.warmer.as_ref().and_then(Warmer::next) {
            if let Some(entry) = self.get_mut(conn) {
                entry.blocked = false;
                entry.outbox.warmed(end);
                self.mark(conn);
            }
        }
    }

    /// Whether a connection that has waited for a disk can go on.
    pub(super) fn has_warmed(&self) -> bool {
        self.warmer.as_ref().is_some_and(|warmer| !warmer.is_empty())
    }

    /// A new connection on `fd`, which must stay open until [`Connections::remove`].
    pub(super) fn insert(&mut self, fd: RawFd) -> ConnId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.generations.push(0);
            u32::try_from(self.places.len() - 1).unwrap_or(u32::MAX)
        });
        let generation = self.generations.get(index as usize).copied().unwrap_or_default();
        let id = ConnId { index, generation };
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

    /// Makes `conn`, which is new, a TLS connection. Returns whether that could be done.
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

    /// What to do with bytes that have arrived on `conn`.
    pub(super) fn incoming(&mut self, conn: ConnId) -> Incoming {
        match self.get_mut(conn) {
            Some(ConnIo { closing: Closing::No, tls: None, .. }) => Incoming::Plain,
            Some(ConnIo { closing: Closing::No, tls: Some(tls), .. }) => {
                tls.take_session().map_or(Incoming::Discarded, Incoming::Sealed)
            }
            _ => Incoming::Discarded,
        }
    }

    /// Gives the session of [`Connections::incoming`] back; `made` is sent.
    pub(super) fn put_session(&mut self, conn: ConnId, session: Box<Session>, made: &[u8]) {
        let Some(tls) = self.get_mut(conn).and_then(|entry| entry.tls.as_mut()) else { return };
        tls.put_session(session);
        if !made.is_empty() {
            tls.push(made);
            self.mark(conn);
        }
    }

    /// Ends `conn`, whose session is taken and does not come back: it is sent `last_words` and nothing else.
    pub(super) fn refuse(&mut self, conn: ConnId, last_words: &[u8]) {
        let Some(entry) = self.get_mut(conn) else { return };
        entry.outbox.clear();
        if let Some(tls) = &mut entry.tls {
            tls.push(last_words);
        }
        self.close(conn);
    }

    /// Whether what arrives on `conn` is part of a handshake.
    pub(super) fn is_handshaking(&self, conn: ConnId) -> bool {
        let tls = self.get(conn).filter(|entry| entry.closing == Closing::No).and_then(|entry| entry.tls.as_ref());
        tls.is_some_and(|tls| tls.is_handshaking())
    }

    /// Whether the client of `conn` is in the middle of a handshake. The driver ends one that takes too long.
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

    /// Forgets `conn`; its id names nothing from here on.
    pub(super) fn remove(&mut self, conn: ConnId) {
        let Some(entry) = self.get(conn) else { return };
        (self.held, self.secured) = (self.held - entry.held, self.secured - usize::from(entry.tls.is_some()));
        if let Some(place) = self.places.get_mut(conn.index()) {
            *place = None;
        }
        if let Some(generation) = self.generations.get_mut(conn.index()) {
            *generation = generation.wrapping_add(1);
        }
        self.free.push(conn.index);
        self.open -= 1;
    }

    /// Whether the application asked for the end of `conn` (or it is gone), so that what arrives is thrown away.
    pub(super) fn is_closing(&self, conn: ConnId) -> bool {
        self.get(conn).is_none_or(|entry| entry.closing != Closing::No)
    }

    /// Why `conn` ended, given how its last receive did: a failed send and the application's wish come first.
    pub(super) fn close_reason(&self, conn: ConnId, received: CloseReason) -> CloseReason {
        match self.get(conn) {
            Some(ConnIo { failed: Some(errno), .. }) => CloseReason::Error(*errno),
            Some(entry) if entry.closing != Closing::No => CloseReason::Application,
            _ => received,
        }
    }

    /// Whether the driver may receive; if not, `waker` is woken when it may.
    pub(super) fn poll_reading(&mut self, conn: ConnId, waker: &TaskWaker) -> bool {
        let Some(entry) = self.get_mut(conn) else { return true };
        if !entry.reading {
            entry.reader = Some(waker.clone());
        }
        entry.reading
    }

    /// Whether a connection whose peer has sent FIN has nothing left to wait for.
    pub(super) fn is_finished(&self, conn: ConnId) -> bool {
        self.get(conn).is_none_or(|entry| matches!(entry.closing, Closing::Lingering(_) | Closing::Aborted))
    }

    /// Whether `conn` is to be closed without waiting for anything.
    pub(super) fn is_aborted(&self, conn: ConnId) -> bool {
        self.get(conn).is_none_or(|entry| entry.closing == Closing::Aborted)
    }

    /// Wakes `waker` when [`Connections::is_finished`] or [`Connections::is_aborted`] may have become true.
    pub(super) fn watch(&mut self, conn: ConnId, waker: &TaskWaker) {
        if let Some(entry) = self.get_mut(conn) {
            entry.reader = Some(waker.clone());
        }
    }

    /// Connections with something to do at the end of a batch.
    pub(super) fn take_dirty(&mut self) -> Vec<ConnId> {
        self.resume_warmed();
        std::mem::take(&mut self.dirty)
    }

    /// Gives the list of [`Connections::take_dirty`] back for its memory.
    pub(super) fn give_dirty(&mut self, mut list: Vec<ConnId>) {
        if self.dirty.is_empty() {
            list.clear();
            self.dirty = list;
        }
    }

    /// The connections of which all has been sent since the last call, as far as [`Connections::await_sent`] asked.
    pub(super) fn take_sent(&mut self) -> Vec<ConnId> {
        std::mem::take(&mut self.sent)
    }

    /// Moves at most `room` of the bytes queued on `conn` to `out`, as a socket would take them. Returns whether none is
    /// left.
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

    /// Ends connections that have lingered long enough.
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
