//! A shard's end of what it shares with one process of a domain, and its calls there.
//!
//! | file | what it knows |
//! | --- | --- |
//! | `endpoints` | the ends of the rings and of the memory for bodies, and who started the process behind them |
//! | `session` | what the shard has with one process: calls and sockets |
//! | `call` | one call, from its place in the queue to what it is answered to |
//! | `calls` | all calls in one domain, while its processes come and go |
//! | `send`, `large`, `receive` | records on their way there, large bodies first, and back |
//! | `streams` | bodies in pieces: the slots of calls, and answers that have begun |
//! | `refusal` | what is answered in the place of a module |

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
use streams::LinkStreams;

/// One shard's rings to one process of a domain.
pub struct RingEndpoints {
    shard: usize,
    domain: Arc<Identity>,
    process: u64,
    producer: Producer,
    consumer: Consumer,
    /// Large bodies of requests, and where those that are with the domain lie, by ticket.
    requests: Lender,
    lent: HashMap<u64, ExtentRange>,
    /// Large bodies of answers, and the one that the domain is to hear of next.
    answers: Borrower,
    done: Option<u64>,
    /// Bodies in pieces.
    streams: LinkStreams,
    /// The files that the domain answers with.
    files: passing::Receiver,
    owner: Box<dyn Owner>,
}

/// Who started the process behind the endpoints.
pub(super) trait Owner: Send {
    /// Ends a process that does not keep to the rules.
    fn kill(&self);
    /// Asks for a new process, once this one has done what it is at.
    fn recycle(&self, why: &str);
    /// This shard has nothing with the process any more, and sends nothing.
    fn drained(&self);
    /// Whether the process has died.
    fn is_dead(&self) -> bool;
}

/// A shard's ends of the memory it shares with a process.
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
    /// Budgets of the memory for bodies there: what is large need not be so in a test.
    pub(super) const BUDGETS: Budgets = Budgets {
        requests_bytes_max: 8 << 20,
        answers_bytes_max: 8 << 20,
        streams: StreamSizes { calls_max: 4, buffer_bytes: 1 << 18, answers_max: 8 },
    };

    /// The ends of one shard in a process of which only the rings are in `region`; bodies have memory of their own, which is
    /// given too.
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
            // Nothing comes of it.
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
        let streams = LinkStreams::new(streams);
        Self { shard, domain, process, producer, consumer, requests, lent, answers, done, streams, files, owner }
    }

    pub(super) fn is_dead(&self) -> bool {
        self.owner.is_dead()
    }

    /// The name of its domain.
    pub(super) fn domain_name(&self) -> &str {
        self.domain.name()
    }

    pub(super) fn identity(&self) -> &Arc<Identity> {
        &self.domain
    }

    /// The number of its domain.
    #[must_use]
    pub fn domain(&self) -> usize {
        self.domain.number()
    }

    pub(super) fn shard(&self) -> usize {
        self.shard
    }

    /// Whether there is something to say by [`RingEndpoints::tell_done`].
    fn has_done(&self) -> bool {
        self.done.is_some() || self.answers.has_done() || self.streams.has_told()
    }

    /// Tells the domain which of its bodies have been sent, as far as the ring takes that.
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

    /// The domain has answered a call: its body is not needed any more.
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
