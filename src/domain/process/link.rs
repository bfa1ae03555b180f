//! A shard's end of what it shares with one life of a domain, and its calls there.
//!
//! | file | what it knows |
//! | --- | --- |
//! | `link` | the ends of the rings and of the memory for bodies, and who started the process behind them |
//! | `line` | what the shard has with one life: calls, sockets, parts that came ahead |
//! | `call` | one call, from its place in the queue to what it is answered to |
//! | `calls` | all calls in one domain, while its lives come and go |
//! | `send`, `receive` | records on their way there, and back |
//! | `refusal` | what is answered in the place of a module |

mod call;
mod calls;
mod line;
mod receive;
mod refusal;
mod send;

pub use calls::RemoteCalls;

#[cfg(any(test, fuzzing))]
use super::arena;
use super::arena::{Borrower, Lender, Place};
use super::identity::Identity;
use super::wire;
use crate::domain::ring::{Consumer, Producer, PushError};
#[cfg(any(test, fuzzing))]
use crate::domain::ring::{Region, RingSpec};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// One shard's rings to one life of a domain.
pub struct ShardLink {
    shard: usize,
    domain: Arc<Identity>,
    life: u64,
    producer: Producer,
    consumer: Consumer,
    record_bytes_max: usize,
    /// Large bodies of requests, and where those that are with the domain lie, by ticket.
    requests: Lender,
    lent: HashMap<u64, Place>,
    /// Large bodies of answers, and the one that the domain is to hear of next.
    answers: Borrower,
    done: Option<u64>,
    owner: Box<dyn Owner>,
}

/// Who started the process behind a link.
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
    /// Of the ring to the domain.
    pub(super) record_bytes_max: usize,
    pub(super) requests: Lender,
    pub(super) answers: Borrower,
}

#[cfg(any(test, fuzzing))]
impl Ends {
    /// The ends of one shard in a process of which only the rings are in `region`; bodies have memory of their own.
    pub(super) fn of(region: &Arc<Region>, to_domain: RingSpec, to_server: RingSpec) -> std::io::Result<Self> {
        let bodies = Arc::new(Region::create(arena::bytes(1))?);
        Ok(Self {
            producer: Producer::new(region, to_domain)?,
            consumer: Consumer::new(region, to_server)?,
            record_bytes_max: to_domain.record_bytes_max(),
            requests: Lender::new(Arc::clone(&bodies), arena::requests_part(0)),
            answers: Borrower::new(bodies, arena::answers_part(1), true),
        })
    }
}

impl fmt::Debug for ShardLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardLink").field("shard", &self.shard).field("life", &self.life).finish_non_exhaustive()
    }
}

impl ShardLink {
    pub(super) fn new(shard: usize, domain: Arc<Identity>, life: u64, ends: Ends, owner: Box<dyn Owner>) -> Self {
        let Ends { producer, consumer, record_bytes_max, requests, answers } = ends;
        let (lent, done) = (HashMap::new(), None);
        Self { shard, domain, life, producer, consumer, record_bytes_max, requests, lent, answers, done, owner }
    }

    pub(super) fn is_dead(&self) -> bool {
        self.owner.is_dead()
    }

    /// The number of its domain.
    #[must_use]
    pub fn domain(&self) -> usize {
        self.domain.number()
    }

    pub(super) fn shard(&self) -> usize {
        self.shard
    }

    /// Whether there is something to say by [`ShardLink::tell_done`].
    fn has_done(&self) -> bool {
        self.done.is_some() || self.answers.has_done()
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
        Ok(())
    }

    /// The domain has answered a request: its body is not needed any more.
    fn request_over(&mut self, ticket: u64) {
        if !self.lent.is_empty()
            && let Some(place) = self.lent.remove(&ticket)
        {
            self.requests.give_back(place.offset);
        }
    }
}

#[cfg(test)]
mod tests;
