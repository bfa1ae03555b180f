//! The calls of a shard in all domains.

use super::call_target::CallTarget;
use super::endpoints::{CallTable, RingEndpoints};
use crate::domain::Instance;
use crate::domain::call::{BodyLedger, GenerationRef, NewRequest, Task};
use crate::domain::module_message::ModuleMessage;
use crate::domain::placed::PlacedBody;
use crate::domain::stream::running::Reason;
use crate::domain::stream::{CallSlot, NoSlot};
use crate::net::ConnId;
use std::sync::Arc;

/// Limit on the records taken from all domains before the sockets get their turn.
const RECORDS_PER_BATCH: usize = 4096;
/// Records taken from each domain in any case, so that a batch is worth its fences.
const RECORDS_PER_DOMAIN_MIN: usize = 256;

/// The calls by the number of their domain. Each domain has its share of a batch and its own limit of calls: a domain
/// that sends much, or answers nothing, does not delay the others.
pub struct DomainCalls {
    shard: usize,
    now_ms: u64,
    /// Indexed by domain number. Numbers are reused, so the list is as short as the limit of domains.
    domains: Vec<CallTable>,
    /// The ledger of request bodies that are not passed on, in all domains and beside them; and the ledger of messages.
    bodies: Arc<BodyLedger>,
    messages: Arc<BodyLedger>,
}

/// The number of the domain that runs `instance`; `None` if this process does.
fn number_of(instance: &dyn Instance) -> Option<usize> {
    CallTarget::of(instance).map(|module| module.domain().number())
}

impl DomainCalls {
    /// No calls, for shard number `shard`. `bodies` counts the request bodies that wait for their domain.
    #[must_use]
    pub fn new(shard: usize, bodies: &Arc<BodyLedger>) -> Self {
        Self { shard, now_ms: 0, domains: Vec::new(), bodies: Arc::clone(bodies), messages: Arc::default() }
    }

    fn domain(&mut self, number: usize) -> Option<&mut CallTable> {
        if self.domains.len() <= number {
            let (shard, now_ms) = (self.shard, self.now_ms);
            let new = || CallTable::new(shard, now_ms).counted_in(&self.bodies, &self.messages);
            self.domains.resize_with(number + 1, new);
        }
        self.domains.get_mut(number)
    }

    /// Handles the start of a domain's process: see [`CallTable::up`].
    pub fn up(&mut self, endpoints: Box<RingEndpoints>) -> Vec<ModuleMessage> {
        self.domain(endpoints.domain()).map(|calls| calls.up(endpoints)).unwrap_or_default()
    }

    /// Drains a domain's process: see [`CallTable::drain`].
    pub fn drain(&mut self, domain: usize) {
        if let Some(calls) = self.domains.get_mut(domain) {
            calls.drain();
        }
    }

    /// Handles the death of a domain's process. Returns the outcome of every call that it had.
    pub fn down(&mut self, domain: usize) -> Vec<ModuleMessage> {
        let known = self.domains.get(domain).and_then(CallTable::identity).cloned();
        let outcomes = self.domains.get_mut(domain).map(CallTable::down).unwrap_or_default();
        if let Some((identity, calls)) = known.zip(self.domains.get(domain)) {
            // After the last process, this is the only report.
            identity.set_held(self.shard, calls.held_bytes());
        }
        self.tell_ended(domain);
        while self.domains.last().is_some_and(CallTable::is_over) {
            self.domains.pop();
        }
        outcomes
    }

    /// The number of unfinished calls in the domain of `instance`.
    #[must_use]
    pub fn in_flight(&self, instance: &dyn Instance) -> usize {
        number_of(instance).and_then(|number| self.domains.get(number)).map_or(0, CallTable::in_flight)
    }

    /// Queues a call in the domain of its module; [`DomainCalls::flush`] sends it.
    pub fn submit(&mut self, hold: Arc<dyn GenerationRef>, short: bool, work: Task) {
        if let Some(calls) = number_of(hold.instance()).and_then(|number| self.domain(number)) {
            calls.submit(hold, short, work);
        }
    }

    /// Queues a request in the domain of its module, or writes it into the ring directly; [`DomainCalls::flush`] sends it.
    pub fn request(&mut self, hold: Arc<dyn GenerationRef>, short: bool, request: NewRequest<'_>) {
        if let Some(calls) = number_of(hold.instance()).and_then(|number| self.domain(number)) {
            calls.request(hold, short, request);
        }
    }

    /// Takes a place in the domain of `instance` for an arriving body of `bytes` bytes. `None`: the body gathers in the
    /// server.
    pub fn place(&mut self, instance: &dyn Instance, bytes: usize) -> Option<PlacedBody> {
        self.domain(number_of(instance)?)?.place(bytes)
    }

    /// Takes a slot for a call of a `CWEB_STREAM` route in the domain of `instance`.
    ///
    /// # Errors
    /// The reason why there is no slot.
    pub fn take_call_slot(&mut self, instance: &dyn Instance) -> Result<Arc<CallSlot>, NoSlot> {
        let calls = number_of(instance).and_then(|number| self.domain(number));
        calls.map_or(Err(NoSlot::NoProcess), CallTable::take_call_slot)
    }

    /// Tells the calls of a connection why their work may be useless.
    pub fn cancel(&mut self, conn: ConnId, reason: Reason) {
        self.domains.iter_mut().for_each(|calls| calls.cancel(conn, reason));
    }

    /// The bytes of request bodies in the memory of all domains.
    #[must_use]
    pub fn lent_bytes(&self) -> usize {
        self.domains.iter().map(CallTable::lent_bytes).sum()
    }

    /// The bytes of WebSocket messages that wait for their domain.
    #[must_use]
    pub fn messages_bytes(&self) -> usize {
        self.messages.bytes()
    }

    /// The bytes of request bodies that wait for the domain of `instance`; `None`: for any domain.
    #[must_use]
    pub fn waiting_bytes(&self, instance: Option<&dyn Instance>) -> usize {
        match instance {
            Some(instance) => {
                number_of(instance).and_then(|number| self.domains.get(number)).map_or(0, CallTable::waiting_bytes)
            }
            None => self.domains.iter().map(CallTable::waiting_bytes).sum(),
        }
    }

    /// The bytes of bodies and messages that the domain of `instance` holds, for all shards. The sum has this shard's
    /// present bytes, and those of other shards at their last tick or large body. `None`: the module runs in this
    /// process.
    #[must_use]
    pub fn held_bytes(&self, instance: &dyn Instance) -> Option<usize> {
        let module = CallTarget::of(instance)?;
        let identity = module.domain();
        identity.set_held(self.shard, self.domains.get(identity.number()).map_or(0, CallTable::held_bytes));
        Some(identity.held_bytes())
    }

    /// Publishes the bytes of each domain to the other shards.
    pub fn tell_held(&self) {
        for calls in &self.domains {
            if let Some(identity) = calls.identity() {
                identity.set_held(self.shard, calls.held_bytes());
            }
        }
    }

    /// Sends as many records as the rings take; called once a batch.
    pub fn flush(&mut self) {
        self.domains.iter_mut().for_each(CallTable::flush);
    }

    /// Takes the records of all domains and returns them as messages.
    pub fn poll(&mut self, out: &mut Vec<ModuleMessage>) {
        let share = (RECORDS_PER_BATCH / self.domains.len().max(1)).max(RECORDS_PER_DOMAIN_MIN);
        for number in 0..self.domains.len() {
            if let Some(calls) = self.domains.get_mut(number) {
                calls.poll(share, out);
            }
            self.tell_ended(number);
        }
    }

    /// Removes the sockets that have ended in `domain` from the other domains. A socket whose module has moved is in the
    /// tables of several domains, until the socket ends in the domain that serves it.
    fn tell_ended(&mut self, domain: usize) {
        let ended = self.domains.get_mut(domain).map(CallTable::take_ended).unwrap_or_default();
        for key in ended {
            self.domains.iter_mut().for_each(|calls| calls.forget(key));
        }
    }

    /// Handles a closed socket connection, while its callbacks may be running.
    pub fn gone(&mut self, key: u64) {
        self.domains.iter_mut().for_each(|calls| calls.gone(key));
    }

    /// Tells the processes that know socket `key`: `taken` further bytes of its frames are taken, `unsent` bytes are
    /// unsent.
    pub fn buffered(&mut self, key: u64, taken: usize, unsent: usize) {
        self.domains.iter_mut().for_each(|calls| calls.buffered(key, taken, unsent));
    }

    /// Handles a closed client connection: its large requests that are not passed on yet are dropped.
    pub fn leave(&mut self, conn: ConnId) {
        self.domains.iter_mut().for_each(|calls| calls.leave(conn));
    }

    /// Answers the requests that have been in their domain for longer than `limit_ms`: see [`CallTable::expire`].
    pub fn expire(&mut self, now_ms: u64, limit_ms: u64) -> Vec<ModuleMessage> {
        self.now_ms = now_ms;
        self.domains.iter_mut().flat_map(|calls| calls.expire(now_ms, limit_ms)).collect()
    }

    /// Whether a domain has sent something. If not, also announces to every domain that this shard is about to sleep: a
    /// shard sleeps only after each domain was asked.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.domains.iter().any(CallTable::has_work)
    }

    /// Announces that the shard does not sleep.
    pub fn awake(&self) {
        self.domains.iter().for_each(CallTable::awake);
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.domains.clear();
    }
}
