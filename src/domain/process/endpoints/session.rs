//! A shard's state for one process of a domain.

use super::RingEndpoints;
use crate::id_map::{IdMap, IdSet};
use std::collections::VecDeque;
use std::ops::Range;

/// A shard's state for one process of the domain.
pub(super) struct ProcessSession {
    pub(super) endpoints: Box<RingEndpoints>,
    /// The tickets of the calls that were sent to the process; they are sent in order.
    pub(super) tickets: Range<u64>,
    /// The number of calls that the process has not answered.
    pub(super) open: usize,
    /// Calls whose answers are no longer needed. An answer to a call that is neither open nor late breaks the protocol.
    pub(super) late: IdSet,
    /// The late calls that have waited for a thread, with the times by which the domain must have answered them.
    pub(super) waited: VecDeque<(u64, u64)>,
    /// Sockets that this process knows. The process can neither send to other sockets nor close them, because these may
    /// belong to other domains.
    pub(super) known: IdMap<KnownSocket>,
    /// Whether the owner knows that nothing is open and nothing is sent any more.
    pub(super) drained: bool,
    /// Whether the process broke the protocol, so that nothing is taken from it.
    pub(super) broken: bool,
}

/// A socket in one process.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct KnownSocket {
    /// The time of its last frame.
    pub(super) spoke_ms: u64,
    /// Whether the process knows that nothing can be sent any more.
    pub(super) gone: bool,
    /// Whether the process got the socket's last event.
    pub(super) ends: bool,
}

impl ProcessSession {
    pub(super) fn new(endpoints: Box<RingEndpoints>) -> Self {
        let (late, known) = (IdSet::default(), IdMap::default());
        let waited = VecDeque::new();
        Self { endpoints, tickets: 0..0, open: 0, late, waited, known, drained: false, broken: false }
    }

    /// Records that call number `ticket` goes to the process.
    pub(super) fn begin(&mut self, ticket: u64) {
        let first = if self.tickets.is_empty() { ticket } else { self.tickets.start };
        self.tickets = first..ticket + 1;
        self.open += 1;
    }

    /// Handles the end of a socket; returns false if it is unknown here.
    pub(super) fn forget(&mut self, key: u64) -> bool {
        self.known.remove(&key).is_some()
    }

    /// Records that nothing waits for the answer to call number `ticket` any more.
    pub(super) fn give_up(&mut self, ticket: u64) {
        self.open = self.open.saturating_sub(1);
        self.late.insert(ticket);
    }

    /// Asks for a new process if calls that have waited for a thread are still unanswered.
    pub(super) fn expire_waited(&mut self, now_ms: u64) {
        while self.waited.front().is_some_and(|(_, until_ms)| *until_ms < now_ms)
            && let Some((ticket, _)) = self.waited.pop_front()
        {
            if self.late.contains(&ticket) {
                self.endpoints.owner.recycle("calls that have waited for a thread do not end");
            }
        }
    }

    /// Takes back the last call, which did not go to the process after all; `open`: the call has not ended for another
    /// reason.
    pub(super) fn take_back(&mut self, ticket: u64, open: bool) {
        self.tickets.end = ticket;
        self.late.remove(&ticket);
        self.open -= usize::from(open);
    }

    /// Reports finished streams to a process that gets nothing else any more.
    pub(super) fn tell_streams(&mut self) {
        if self.broken || !self.endpoints.streams.has_told() {
            return;
        }
        match self.endpoints.streams.tell(&mut self.endpoints.producer) {
            Err(error) => self.end(&error.to_string()),
            Ok(()) => self.publish(),
        }
    }

    /// Publishes the records in the ring, and wakes the process.
    pub(super) fn publish(&mut self) {
        if self.endpoints.producer.publish() {
            self.endpoints.producer.wake();
        }
    }

    /// Once nothing is sent any more: tells the owner, once, when nothing is open either.
    pub(super) fn tell_drained(&mut self) {
        if self.open == 0 && !self.drained {
            self.drained = true;
            self.endpoints.owner.drained();
        }
    }

    /// Ends a process that broke the protocol.
    pub(super) fn end(&mut self, why: &str) {
        tracing::error!("{why}: the process of domain {} is ended", self.endpoints.domain.name());
        self.broken = true;
        self.endpoints.owner.kill();
    }
}
