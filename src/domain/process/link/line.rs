//! What a shard has with one life of a domain.

use super::super::identity::Identity;
use super::ShardLink;
use crate::numbered::{Numbered, Numbers};
use std::ops::Range;
use std::sync::Arc;

/// What the shard has with one life of the domain.
pub(super) struct Line {
    pub(super) link: Box<ShardLink>,
    /// The calls that were sent there have these tickets; they are sent in the order of their tickets.
    pub(super) tickets: Range<u64>,
    /// Those that it has not answered.
    pub(super) open: usize,
    /// Calls there that nobody waits for any more. What is answered and is neither open nor one of these is a lie.
    pub(super) late: Numbers,
    /// Sockets this life knows. Others it can neither send to nor close: they may be of other domains.
    pub(super) known: Numbered<Known>,
    /// The parts that have come ahead of a record. Only one record is under way at a time, because the domain's end sends
    /// it without a break.
    early: Option<Early>,
    /// The owner has been told that nothing is open and nothing is sent any more.
    pub(super) drained: bool,
    /// It broke the rules: nothing is taken from it.
    pub(super) broken: bool,
}

/// A socket, as one life has it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Known {
    /// When it last sent a frame.
    pub(super) spoke_ms: u64,
    /// The life was told that nothing can be sent any more.
    pub(super) gone: bool,
    /// It was sent the socket's last event.
    pub(super) ends: bool,
}

/// Parts of a record that is still to come. What all of a domain are together is limited.
struct Early {
    /// Its ticket or key.
    of: u64,
    bytes: Vec<u8>,
    held: usize,
    domain: Arc<Identity>,
}

impl Drop for Early {
    fn drop(&mut self) {
        self.domain.release_early(self.held);
    }
}

impl Line {
    pub(super) fn new(link: Box<ShardLink>) -> Self {
        let (late, known) = (Numbers::default(), Numbered::default());
        Self { link, tickets: 0..0, open: 0, late, known, early: None, drained: false, broken: false }
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

    pub(super) fn take_part(&mut self, ticket: u64, bytes: &[u8]) -> Result<(), String> {
        let domain = &self.link.domain;
        // Parts whose record never came: their sender gave up.
        let early = match self.early.take().filter(|early| early.of == ticket) {
            Some(early) => self.early.insert(early),
            None => self.early.insert(Early { of: ticket, bytes: Vec::new(), held: 0, domain: Arc::clone(domain) }),
        };
        if !domain.hold_early(bytes.len()) {
            return Err("the answers of modules are too large".to_owned());
        }
        early.held += bytes.len();
        early.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// The parts that have come ahead of record `of`, which is here; others are let go.
    pub(super) fn early(&mut self, of: u64) -> Option<Vec<u8>> {
        let mut early = self.early.take().filter(|early| early.of == of)?;
        Some(std::mem::take(&mut early.bytes))
    }

    /// Nobody waits for the answer to call number `ticket` any more.
    pub(super) fn give_up(&mut self, ticket: u64) {
        self.open = self.open.saturating_sub(1);
        self.late.insert(ticket);
    }

    /// The last call did not go there after all; `open`: and is not over for another reason.
    pub(super) fn take_back(&mut self, ticket: u64, open: bool) {
        self.tickets.end = ticket;
        self.late.remove(&ticket);
        self.open -= usize::from(open);
    }

    /// Nothing is sent there any more: tells the owner, once, when nothing is open either.
    pub(super) fn tell_drained(&mut self) {
        if self.open == 0 && !self.drained {
            self.drained = true;
            self.link.owner.drained();
        }
    }

    /// It does not keep to the rules.
    pub(super) fn end(&mut self, why: &str) {
        tracing::error!("{why}: the process of domain {} is ended", self.link.domain.name());
        self.broken = true;
        self.link.owner.kill();
    }
}
