//! The threads of a domain that empty the rings: one a shard, on the shard's own core.
//!
//! A companion runs what is short itself and hands the rest to the pool. When something short turns out long, another
//! thread, the rescuer, empties the ring to the pool meanwhile.

use super::port::Port;
use super::wire::{StreamToDomain, ToDomain};
use super::work::{Domain, Work};
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
    pub(super) long: Pool<Work>,
    pub(super) streams: Pool<Work>,
}

impl Pools {
    fn push(&self, work: Work, lane: Lane) {
        match lane {
            Lane::Short | Lane::Long => self.long.push(work),
            Lane::Stream => self.streams.push(work),
        }
    }
}

/// One shard's incoming ring.
pub(super) struct Intake {
    shard: usize,
    ring: Mutex<Ring>,
    /// To which the shard says that it has sent bodies of answers, and that connections of sockets are gone.
    domain: Arc<Domain>,
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
    fn release(&mut self, port: Option<&Port>) {
        if self.consumer.release_told()
            && let Some(port) = port
        {
            port.ring();
        }
    }
}

impl Intake {
    pub(super) fn new(shard: usize, consumer: Consumer, domain: Arc<Domain>) -> Self {
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
    fn next(&self) -> Result<Option<(Work, Lane)>, Corrupt> {
        let port = self.domain.ports.get(self.shard).map(Arc::as_ref);
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let mut record = Vec::with_capacity(512);
            if !ring.consumer.try_pop(&mut record)? {
                ring.release(port);
                return Ok(None);
            }
            if ring.consumer.owes_much() {
                ring.release(port);
            }
            match ToDomain::read(&record) {
                Ok(ToDomain::Done { offset }) => {
                    if self.domain.answers.give_back(offset) {
                        // The pages are given back by a thread that has the time.
                        return Ok(Some((Work { shard: self.shard, record: Vec::new() }, Lane::Long)));
                    }
                }
                Ok(ToDomain::Gone { key }) => self.domain.socket_gone(self.shard, key),
                Ok(ToDomain::Request { short, .. } | ToDomain::Socket { short, .. }) => {
                    let lane = if short { Lane::Short } else { Lane::Long };
                    return Ok(Some((Work { shard: self.shard, record }, lane)));
                }
                Ok(ToDomain::Stream(StreamToDomain::Call { .. })) => {
                    return Ok(Some((Work { shard: self.shard, record }, Lane::Stream)));
                }
                Ok(ToDomain::Stream(record)) => self.domain.take_stream(self.shard, &record),
                Err(_) => return Err(Corrupt),
            }
        }
    }

    fn wait(&self) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        // Not in `wait` below: that would wake a shard by the ring's futex, where none sleeps.
        ring.release(self.domain.ports.get(self.shard).map(Arc::as_ref));
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
pub(super) fn serve(intake: &Intake, runner: &mut dyn Runner<Work>, pools: &Pools, rescuer: &Thread) -> Corrupt {
    loop {
        match intake.next() {
            Ok(Some((work, Lane::Short))) => {
                let was_quiet = intake.is_quiet();
                intake.busy_since_us.store(intake.now_us(), Ordering::Relaxed);
                if was_quiet {
                    rescuer.unpark();
                }
                runner.run(work);
                intake.busy_since_us.store(0, Ordering::Relaxed);
                intake.last_us.store(intake.now_us(), Ordering::Relaxed);
            }
            Ok(Some((work, lane))) => pools.push(work, lane),
            Ok(None) => intake.wait(),
            Err(corrupt) => return corrupt,
        }
    }
}

/// Empties the rings of companions that are stuck, to the pool.
pub(super) fn rescue(intakes: &[Arc<Intake>], pools: &Pools) {
    loop {
        if intakes.iter().all(|intake| intake.is_quiet()) {
            std::thread::park();
        } else {
            std::thread::sleep(STUCK_AFTER / 2);
        }
        for intake in intakes.iter().filter(|intake| intake.is_stuck()) {
            while let Ok(Some((work, lane))) = intake.next() {
                pools.push(work, lane);
            }
        }
    }
}
