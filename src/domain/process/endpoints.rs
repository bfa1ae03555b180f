//! A shard's side of the memory shared with one process of a domain, and its calls there.
//!
//! | file | content |
//! | --- | --- |
//! | `endpoints` | the ends of the rings and of the memory for bodies, and the owner of the process |
//! | `session` | the shard's state for one process: calls and sockets |
//! | `call` | one call, from its place in the queue to its caller |
//! | `calls` | all calls in one domain, across its processes |
//! | `send`, `large`, `receive` | records to the process, large bodies, and records from the process |
//! | `streams` | streamed bodies: the slots of calls, and answers that have begun |
//! | `refusal` | answers in place of a module's |

mod call;
mod calls;
mod large;
mod receive;
mod refusal;
mod send;
mod session;
mod streams;

pub use calls::CallTable;

#[cfg(test)]
use super::arena;
use super::arena::{Borrower, ExtentRange, Lender};
#[cfg(any(test, fuzzing))]
use super::arena::{Budgets, Parts};
use super::identity::Identity;
use super::{passing, wire};
use crate::domain::ring::{Consumer, Producer, PushError};
#[cfg(any(test, fuzzing))]
use crate::domain::ring::{Region, RingSpec};
#[cfg(any(test, fuzzing))]
use crate::domain::stream::StreamSizes;
use crate::domain::stream::slots::Part as StreamPart;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use streams::EndpointStreams;

/// One shard's rings to one process of a domain.
pub struct RingEndpoints {
    shard: usize,
    domain: Arc<Identity>,
    process: u64,
    producer: Producer,
    consumer: Consumer,
    /// The lender of large request bodies, and the places of those that the domain has, by ticket.
    requests: Lender,
    lent: HashMap<u64, ExtentRange>,
    /// The borrower of large answer bodies, and the next finished one to report to the domain.
    answers: Borrower,
    done: Option<u64>,
    /// Streamed bodies.
    streams: EndpointStreams,
    /// The files in the domain's answers.
    files: passing::Receiver,
    owner: Box<dyn Owner>,
}

/// The owner of the process behind the endpoints.
pub(super) trait Owner: Send {
    /// Ends a process that breaks the protocol.
    fn kill(&self);
    /// Asks for a new process, after this one has completed its work.
    fn recycle(&self, why: &str);
    /// Reports that this shard has nothing with the process any more, and sends nothing.
    fn drained(&self);
    /// Whether the process has died.
    fn is_dead(&self) -> bool;
}

/// A shard's ends of the memory shared with a process.
pub(super) struct Ends {
    pub(super) producer: Producer,
    pub(super) consumer: Consumer,
    pub(super) requests: Lender,
    pub(super) answers: Borrower,
    pub(super) streams: StreamPart,
    pub(super) files: passing::Receiver,
}

#[cfg(any(test, fuzzing))]
impl Ends {
    /// Small budgets of the memory for bodies, for tests.
    pub(super) const BUDGETS: Budgets = Budgets {
        requests_bytes_max: 8 << 20,
        answers_bytes_max: 8 << 20,
        streams: StreamSizes { calls_max: 4, buffer_bytes: 1 << 18, answers_max: 8 },
    };

    /// The ends of one shard for a process with only the rings in `region`; the bodies have a memory of their own, which is
    /// returned, too.
    pub(super) fn of(
        region: &Arc<Region>,
        to_domain: RingSpec,
        to_server: RingSpec,
    ) -> std::io::Result<(Self, Arc<Region>)> {
        let parts = Parts::new(1, Self::BUDGETS);
        let bodies = Arc::new(Region::create(parts.bytes())?);
        let ends = Self {
            producer: Producer::new(region, to_domain)?,
            consumer: Consumer::new(region, to_server)?,
            requests: parts.lend_requests(&bodies, 0),
            answers: parts.borrow_answers(&bodies),
            streams: parts.streams(&bodies, 0),
            // No files come through this pair.
            files: passing::Receiver::new(passing::pair()?.0),
        };
        Ok((ends, bodies))
    }
}

impl fmt::Debug for RingEndpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RingEndpoints")
            .field("shard", &self.shard)
            .field("process", &self.process)
            .finish_non_exhaustive()
    }
}

impl RingEndpoints {
    pub(super) fn new(shard: usize, domain: Arc<Identity>, process: u64, ends: Ends, owner: Box<dyn Owner>) -> Self {
        let Ends { producer, consumer, requests, answers, streams, files } = ends;
        let (lent, done) = (HashMap::new(), None);
        let streams = EndpointStreams::new(streams);
        Self { shard, domain, process, producer, consumer, requests, lent, answers, done, streams, files, owner }
    }

    pub(super) fn is_dead(&self) -> bool {
        self.owner.is_dead()
    }

    /// The name of the domain.
    pub(super) fn domain_name(&self) -> &str {
        self.domain.name()
    }

    pub(super) fn identity(&self) -> &Arc<Identity> {
        &self.domain
    }

    /// The number of the domain.
    #[must_use]
    pub fn domain(&self) -> usize {
        self.domain.number()
    }

    pub(super) fn shard(&self) -> usize {
        self.shard
    }

    /// Whether [`RingEndpoints::tell_done`] has something to report.
    fn has_done(&self) -> bool {
        self.done.is_some() || self.answers.has_done() || self.streams.has_told()
    }

    /// Reports to the domain which of its bodies have been sent, as far as the ring has room.
    fn tell_done(&mut self) -> Result<(), PushError> {
        while let Some(offset) = self.done.take().or_else(|| self.answers.next_done()) {
            let mut record = Vec::with_capacity(16);
            wire::done(&mut record, offset);
            if let Err(error) = self.producer.try_push(&[&record]) {
                self.done = Some(offset);
                return if error == PushError::Full { Ok(()) } else { Err(error) };
            }
        }
        self.streams.tell(&mut self.producer)
    }

    /// Handles the end of a call: its body is not needed any more.
    fn call_over(&mut self, ticket: u64) {
        self.streams.call_over(ticket);
        if !self.lent.is_empty()
            && let Some(place) = self.lent.remove(&ticket)
        {
            self.requests.give_back(place.offset);
        }
    }
}

#[cfg(test)]
mod tests;
