//! The threads of a domain that empty the rings: one a shard, on the shard's own core.
//!
//! A companion runs what is short itself and hands the rest to the pool. When something short turns out long, another
//! thread, the rescuer, empties the ring to the pool meanwhile.

use super::response_ring::ResponseRing;
use super::wire::{StreamToDomain, ToDomain};
use super::work::{ChildDomain, RingRecord};
use crate::domain::executor::{Pool, Runner};
use crate::domain::ring::{Consumer, Corrupt};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// A call that has kept a companion busy this long is no short one.
const STUCK_AFTER: Duration = Duration::from_millis(2);
/// Waits end now and then, so that nothing is lost to a wake that did not come.
const WAIT: Duration = Duration::from_millis(200);
/// The rescuer sleeps until a companion works again once all have been idle this long.
const QUIET_AFTER_US: u64 = 50_000;

/// Who runs a piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    /// The companion itself.
    Short,
    /// The pool.
    Long,
    /// The pool for calls of routes of `CWEB_STREAM`, which wait for their clients.
    Stream,
}

/// The threads beside the companions.
pub(super) struct Pools {
    pub(super) long: Pool<RingRecord>,
    pub(super) streams: Pool<RingRecord>,
}

impl Pools {
    fn push(&self, work: RingRecord, lane: Lane) {
        match lane {
            Lane::Short | Lane::Long => self.long.push(work),
            Lane::Stream => self.streams.push(work),
        }
    }
}

/// One shard's incoming ring.
pub(super) struct RequestRing {
    shard: usize,
    ring: Mutex<Ring>,
    /// To which the shard says that it has sent bodies of answers, and that connections of sockets are gone.
    domain: Arc<ChildDomain>,
    /// Start of the running call in µs since `epoch`; 0: none.
    busy_since_us: AtomicU64,
    /// End of the last call, likewise.
    last_us: AtomicU64,
    epoch: Instant,
}

struct Ring {
    consumer: Consumer,
}

impl Ring {
    /// Gives the room of what was popped back, and wakes the shard if that waits for it.
    fn release(&mut self, responses: Option<&ResponseRing>) {
        if self.consumer.release_told()
            && let Some(responses) = responses
        {
            responses.ring();
        }
    }
}

impl RequestRing {
    pub(super) fn new(shard: usize, consumer: Consumer, domain: Arc<ChildDomain>) -> Self {
        let ring = Mutex::new(Ring { consumer });
        Self {
            shard,
            ring,
            domain,
            busy_since_us: AtomicU64::new(0),
            last_us: AtomicU64::new(0),
            epoch: Instant::now(),
        }
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX).max(1)
    }

    /// The next piece of work, and who runs it.
    fn next(&self) -> Result<Option<(RingRecord, Lane)>, Corrupt> {
        let responses = self.domain.response_rings.get(self.shard).map(Arc::as_ref);
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let mut record = Vec::with_capacity(512);
            if !ring.consumer.try_pop(&mut record)? {
                ring.release(responses);
                return Ok(None);
            }
            if ring.consumer.owes_much() {
                ring.release(responses);
            }
            match ToDomain::read(&record) {
                Ok(ToDomain::Done { offset }) => {
                    if self.domain.answers.give_back(offset) {
                        // The pages are given back by a thread that has the time.
                        return Ok(Some((RingRecord { shard: self.shard, record: Vec::new() }, Lane::Long)));
                    }
                }
                Ok(ToDomain::Gone { key }) => self.domain.socket_gone(self.shard, key),
                Ok(ToDomain::Request { short, .. } | ToDomain::Socket { short, .. }) => {
                    let lane = if short { Lane::Short } else { Lane::Long };
                    return Ok(Some((RingRecord { shard: self.shard, record }, lane)));
                }
                Ok(ToDomain::Stream(StreamToDomain::Call { .. })) => {
                    return Ok(Some((RingRecord { shard: self.shard, record }, Lane::Stream)));
                }
                Ok(ToDomain::Stream(record)) => self.domain.take_stream(self.shard, &record),
                Err(_) => return Err(Corrupt),
            }
        }
    }

    fn wait(&self) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        // Not in `wait` below: that would wake a shard by the ring's futex, where none sleeps.
        ring.release(self.domain.response_rings.get(self.shard).map(Arc::as_ref));
        ring.consumer.wait(WAIT);
    }

    fn is_stuck(&self) -> bool {
        let since = self.busy_since_us.load(Ordering::Relaxed);
        since != 0 && self.now_us().saturating_sub(since) > STUCK_AFTER.as_micros() as u64
    }

    fn is_quiet(&self) -> bool {
        self.busy_since_us.load(Ordering::Relaxed) == 0
            && self.now_us().saturating_sub(self.last_us.load(Ordering::Relaxed)) > QUIET_AFTER_US
    }
}

/// Empties a ring for as long as it is whole.
pub(super) fn serve(
    request_ring: &RequestRing,
    runner: &mut dyn Runner<RingRecord>,
    pools: &Pools,
    rescuer: &Thread,
) -> Corrupt {
    loop {
        match request_ring.next() {
            Ok(Some((work, Lane::Short))) => {
                let was_quiet = request_ring.is_quiet();
                request_ring.busy_since_us.store(request_ring.now_us(), Ordering::Relaxed);
                if was_quiet {
                    rescuer.unpark();
                }
                runner.run(work);
                request_ring.busy_since_us.store(0, Ordering::Relaxed);
                request_ring.last_us.store(request_ring.now_us(), Ordering::Relaxed);
            }
            Ok(Some((work, lane))) => pools.push(work, lane),
            Ok(None) => request_ring.wait(),
            Err(corrupt) => return corrupt,
        }
    }
}

/// Empties the rings of companions that are stuck, to the pool.
pub(super) fn rescue(request_rings: &[Arc<RequestRing>], pools: &Pools) {
    loop {
        if request_rings.iter().all(|request_ring| request_ring.is_quiet()) {
            std::thread::park();
        } else {
            std::thread::sleep(STUCK_AFTER / 2);
        }
        for request_ring in request_rings.iter().filter(|request_ring| request_ring.is_stuck()) {
            while let Ok(Some((work, lane))) = request_ring.next() {
                pools.push(work, lane);
            }
        }
    }
}
