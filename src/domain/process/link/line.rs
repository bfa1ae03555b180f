//! What a shard has with one life of a domain.

use super::ShardLink;
use crate::numbered::Numbers;
use std::ops::Range;

/// Largest answer or frame.
const ANSWER_BYTES_MAX: usize = 1 << 30;

/// What the shard has with one life of the domain.
pub(super) struct Line {
    pub(super) link: Box<ShardLink>,
    /// The calls that were sent there have these tickets; they are sent in the order of their tickets.
    pub(super) tickets: Range<u64>,
    /// Those that it has not answered.
    pub(super) open: usize,
    /// Sockets this life knows. Others it can neither send to nor close: they may be of other domains.
    pub(super) known: Numbers,
    /// The parts that have come ahead of a record, and its ticket or key. Only one record is under way at a time, because
    /// the domain's end sends it without a break: what a hostile domain can have kept is one answer.
    pub(super) early: Option<(u64, Vec<u8>)>,
    /// The owner has been told that nothing is open and nothing is sent any more.
    pub(super) drained: bool,
    /// It broke the rules: nothing is taken from it.
    pub(super) broken: bool,
}

impl Line {
    pub(super) fn new(link: Box<ShardLink>) -> Self {
        Self { link, tickets: 0..0, open: 0, known: Numbers::default(), early: None, drained: false, broken: false }
    }

    /// Call number `ticket` goes there.
    pub(super) fn begin(&mut self, ticket: u64) {
        let first = if self.tickets.is_empty() { ticket } else { self.tickets.start };
        self.tickets = first..ticket + 1;
        self.open += 1;
    }

    /// A socket has ended; false if it is not known here.
    pub(super) fn forget(&mut self, key: u64) -> bool {
        self.known.remove(&key)
    }

    pub(super) fn take_part(&mut self, ticket: u64, bytes: &[u8]) -> Result<(), String> {
        // Parts whose record never came: their sender gave up.
        let (_, whole) = match self.early.take().filter(|(of, _)| *of == ticket) {
            Some(early) => self.early.insert(early),
            None => self.early.insert((ticket, Vec::new())),
        };
        if whole.len() + bytes.len() > ANSWER_BYTES_MAX {
            return Err("an answer of a module is too large".to_owned());
        }
        whole.extend_from_slice(bytes);
        Ok(())
    }

    /// The last call did not go there after all; `open`: and is not over for another reason.
    pub(super) fn take_back(&mut self, ticket: u64, open: bool) {
        self.tickets.end = ticket;
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
