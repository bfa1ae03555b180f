//! The domain's side of one shard's rings.

use super::answers::{Answers, Lent};
use super::{passing, wire};
use crate::abi::files::OpenFile;
use crate::abi::websocket::Outlet;
use crate::domain::ring::{Producer, PushError};
use crate::proto::ws::Encoded;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a thread waits for room in a full ring before it drops its record. The shard empties its ring all the time; if
/// it does not, the server is ending.
const ROOM_WAIT: Duration = Duration::from_secs(10);

/// IANA registry of WebSocket close codes: try again later.
const TRY_AGAIN_LATER: u16 = 1013;

/// The writer to one shard, shared by all threads of the domain.
pub(super) struct ResponseRing {
    producer: Mutex<Producer>,
    /// An eventfd that wakes the shard.
    wake: OwnedFd,
    record_bytes_max: usize,
    /// Passes open files to the shard. Locked until the record that names a file is in the ring, so that the shard finds
    /// both in the same order.
    files: Mutex<passing::Sender>,
}

impl ResponseRing {
    pub(super) fn new(producer: Producer, wake: OwnedFd, record_bytes_max: usize, files: OwnedFd) -> Self {
        let files = Mutex::new(passing::Sender::new(files));
        Self { producer: Mutex::new(producer), wake, record_bytes_max, files }
    }

    fn lock(&self) -> MutexGuard<'_, Producer> {
        self.producer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Limit, in bytes, on a record's body beside a fixed part of `fixed` bytes.
    pub(super) fn room(&self, fixed: usize) -> usize {
        self.record_bytes_max.saturating_sub(fixed)
    }

    /// Sends a record of a fixed part and `body`, and wakes the shard.
    pub(super) fn send(&self, fixed: &[u8], body: &[u8]) {
        let mut producer = self.lock();
        self.push(&mut producer, &[fixed, body]);
        self.publish(&mut producer);
    }

    /// Sends `file`, and then a record that names it.
    ///
    /// # Errors
    /// The file can't be passed; nothing is sent.
    pub(super) fn send_file(&self, record: &[u8], file: &OpenFile) -> std::io::Result<()> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.pass(file)?;
        self.send(record, &[]);
        Ok(())
    }

    /// Wakes the shard.
    pub(super) fn ring(&self) {
        // A full counter is already readable, so the shard will wake up.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    fn push(&self, producer: &mut Producer, parts: &[&[u8]]) {
        let bytes = parts.iter().map(|part| part.len()).sum();
        loop {
            match producer.try_push(parts) {
                Ok(()) => return,
                Err(PushError::Full) => {
                    self.publish(producer);
                    if !producer.wait_room(bytes, ROOM_WAIT) {
                        return tracing::error!("a record is lost, because the server takes nothing from this domain");
                    }
                }
                Err(error) => {
                    return tracing::error!("a record could not be sent: {error}");
                }
            }
        }
    }

    fn publish(&self, producer: &mut Producer) {
        if producer.publish() {
            self.ring();
        }
    }
}

/// The outlet for frames of one shard's sockets.
pub(super) struct ResponseOutlet {
    pub(super) responses: Arc<ResponseRing>,
    /// The lender for large frames.
    pub(super) answers: Arc<Answers>,
}

impl Outlet for ResponseOutlet {
    fn send(&self, socket: u64, frame: Arc<[u8]>) {
        let mut fixed = Vec::with_capacity(32);
        wire::send_head(&mut fixed, socket);
        let fits = frame.len() <= self.responses.room(fixed.len());
        match self.answers.lend(&frame, fits, || {}) {
            Lent::At(place) => {
                wire::lend(&mut fixed, place);
                self.responses.send(&fixed, &[]);
            }
            Lent::Here => self.responses.send(&fixed, &frame),
            Lent::Refused(_, why) => {
                tracing::warn!("a WebSocket is closed, because a frame of {} bytes can't be sent: {why}", frame.len());
                self.close(socket, TRY_AGAIN_LATER);
            }
        }
    }

    fn close(&self, socket: u64, code: u16) {
        let mut record = Vec::with_capacity(16);
        wire::close(&mut record, socket, code);
        self.responses.send(&record, &[]);
    }

    fn room(&self, socket: u64, room: &[u8], joins: bool) {
        let mut record = Vec::with_capacity(64);
        wire::room(&mut record, socket, room, joins);
        self.responses.send(&record, &[]);
    }

    fn publish(&self, room: &[u8], message: &Encoded) {
        let mut fixed = Vec::with_capacity(64);
        let both = message.deflated.as_ref().map(|deflated| [&*message.plain, deflated].concat());
        wire::publish_head(&mut fixed, both.as_ref().map_or(0, |_| message.plain.len() as u64), room);
        let frame = both.as_deref().unwrap_or(&message.plain);
        let fits = frame.len() <= self.responses.room(fixed.len());
        match self.answers.lend(frame, fits, || {}) {
            Lent::At(place) => {
                wire::lend(&mut fixed, place);
                self.responses.send(&fixed, &[]);
            }
            Lent::Here => self.responses.send(&fixed, frame),
            Lent::Refused(_, why) => {
                tracing::warn!("a frame of {} bytes for a room can't be sent: {why}", frame.len());
            }
        }
    }
}
