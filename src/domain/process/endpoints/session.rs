//! What a shard has with one process of a domain.

use super::RingEndpoints;
use crate::id_map::{IdMap, IdSet};
use std::collections::VecDeque;
use std::ops::Range;

/// What the shard has with one process of the domain.
pub(super) struct ProcessSession {
    pub(super) endpoints: Box<RingEndpoints>,
    /// The calls that were sent there have these tickets; they are sent in the order of their tickets.
    pub(super) tickets: Range<u64>,
    /// Those that it has not answered.
    pub(super) open: usize,
    /// Calls there that nobody waits for any more. What is answered and is neither open nor one of these is a lie.
    pub(super) late: IdSet,
    /// Those of them that have waited for a thread, with the times by which the domain must have answered them.
    pub(super) waited: VecDeque<(u64, u64)>,
    /// Sockets this process knows. Others it can neither send to nor close: they may be of other domains.
    pub(super) known: IdMap<KnownSocket>,
    /// The owner has been told that nothing is open and nothing is sent any more.
    pub(super) drained: bool,
    /// It broke the rules: nothing is taken from it.
    pub(super) broken: bool,
}

/// A socket, as one process has it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct KnownSocket {
    /// When it last sent a frame.
    pub(super) spoke_ms: u64,
    /// The process was told that nothing can be sent any more.
    pub(super) gone: bool,
    /// It was sent the socket's last event.
    pub(super) ends: bool,
}

impl ProcessSession {
    pub(super) fn new(endpoints: Box<RingEndpoints>) -> Self {
        let (late, known) = (IdSet::default(), IdMap::default());
        let waited = VecDeque::new();
        Self { endpoints, tickets: 0..0, open: 0, late, waited, known, drained: false, broken: false }
    }

    /// Call number `ticket` goes there.
    pub(super) fn begin(&mut self, ticket: u64) {
        let first = if self.tickets.is_empty() { ticket } else { self.tickets.start };
        self.tickets = first..ticket + 1;
        self.open += 1;
    }

    /// A socket has ended; false if it is not known here.
    pub(super) fn forget(&mut self, key: u64) -> bool {
        self.known.remove(&key).is_some()
    }

    /// Nobody waits for the answer to call number `ticket` any more.
    pub(super) fn give_up(&mut self, ticket: u64) {
        self.open = self.open.saturating_sub(1);
        self.late.insert(ticket);
    }

    /// Asks for a new process if calls that have waited for a thread are still not answered.
    pub(super) fn expire_waited(&mut self, now_ms: u64) {
        while self.waited.front().is_some_and(|(_, until_ms)| *until_ms < now_ms)
            && let Some((ticket, _)) = self.waited.pop_front()
        {
            if self.late.contains(&ticket) {
                self.endpoints.owner.recycle("calls that have waited for a thread do not end");
            }
        }
    }

    /// The last call did not go there after all; `open`: and is not over for another reason.
    pub(super) fn take_back(&mut self, ticket: u64, open: bool) {
        self.tickets.end = ticket;
        self.late.remove(&ticket);
        self.open -= usize::from(open);
    }

    /// Tells a process that nothing else is sent to any more what became of streams.
    pub(super) fn tell_streams(&mut self) {
        if self.broken || !self.endpoints.streams.has_told() {
            return;
        }
        match self.endpoints.streams.tell(&mut self.endpoints.producer) {
            Err(error) => self.end(&error.to_string()),
            Ok(()) => self.publish(),
        }
    }

    /// Shows the process what was written into its ring, and wakes it.
    pub(super) fn publish(&mut self) {
        if self.endpoints.producer.publish() {
            self.endpoints.producer.wake();
        }
    }

    /// Nothing is sent there any more: tells the owner, once, when nothing is open either.
    pub(super) fn tell_drained(&mut self) {
        if self.open == 0 && !self.drained {
            self.drained = true;
            self.endpoints.owner.drained();
        }
    }

    /// It does not keep to the rules.
    pub(super) fn end(&mut self, why: &str) {
        tracing::error!("{why}: the process of domain {} is ended", self.endpoints.domain.name());
        self.broken = true;
        self.endpoints.owner.kill();
    }
}
