//! The domain's end of one shard's rings.

use super::wire;
use crate::abi::websocket::Outlet;
use crate::domain::ring::{Producer, PushError};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a thread waits for room in a full ring before it gives what it has up. The shard empties its ring all the
/// time: if it does not, the server is ending.
const ROOM_WAIT: Duration = Duration::from_secs(10);

/// Writes to one shard; shared by all threads of the domain.
pub(super) struct Port {
    producer: Mutex<Producer>,
    /// An eventfd that the shard waits for.
    wake: OwnedFd,
    record_bytes_max: usize,
}

impl Port {
    pub(super) fn new(producer: Producer, wake: OwnedFd, record_bytes_max: usize) -> Self {
        Self { producer: Mutex::new(producer), wake, record_bytes_max }
    }

    fn lock(&self) -> MutexGuard<'_, Producer> {
        self.producer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a record of a fixed part and `body`; what does not fit into one record goes ahead in parts of their own,
    /// under `ticket`. Wakes the shard.
    pub(super) fn send(&self, ticket: u64, fixed: &[u8], body: &[u8]) {
        let mut producer = self.lock();
        let room = self.record_bytes_max.saturating_sub(fixed.len());
        let early = body.len().saturating_sub(room);
        let (early, last) = body.split_at_checked(early).unwrap_or((&[], body));
        let mut head = Vec::with_capacity(16);
        wire::part_head(&mut head, ticket);
        let part_bytes = self.record_bytes_max.saturating_sub(head.len()).max(1);
        let sent = early.chunks(part_bytes).all(|part| self.push(&mut producer, &[&head, part]));
        if sent {
            self.push(&mut producer, &[fixed, last]);
        }
        self.publish(&mut producer);
    }

    fn push(&self, producer: &mut Producer, parts: &[&[u8]]) -> bool {
        let bytes = parts.iter().map(|part| part.len()).sum();
        loop {
            match producer.try_push(parts) {
                Ok(()) => return true,
                Err(PushError::Full) => {
                    self.publish(producer);
                    if !producer.wait_room(bytes, ROOM_WAIT) {
                        tracing::error!("the server takes nothing from this domain");
                        return false;
                    }
                }
                Err(error) => {
                    tracing::error!("a record could not be sent: {error}");
                    return false;
                }
            }
        }
    }

    fn publish(&self, producer: &mut Producer) {
        if producer.publish() {
            // Full is as good as written: the shard has a wake-up waiting.
            let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        }
    }
}

/// Frames of one shard's sockets.
pub(super) struct PortOutlet(pub(super) Arc<Port>);

impl Outlet for PortOutlet {
    fn send(&self, socket: u64, frame: Arc<[u8]>) {
        let mut fixed = Vec::with_capacity(16);
        wire::send_head(&mut fixed, socket);
        self.0.send(socket, &fixed, &frame);
    }

    fn close(&self, socket: u64, code: u16) {
        let mut record = Vec::with_capacity(16);
        wire::close(&mut record, socket, code);
        self.0.send(socket, &record, &[]);
    }
}
