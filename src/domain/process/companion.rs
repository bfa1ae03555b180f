//! The threads of a domain that empty the rings: one a shard, on the shard's own core.
//!
//! A companion runs what is short itself and hands the rest to the pool. When something short turns out long, another
//! thread, the rescuer, empties the ring to the pool meanwhile.

use super::wire::ToDomain;
use super::work::{Domain, Work};
use crate::domain::executor::{Pool, Runner};
use crate::domain::ring::{Consumer, Corrupt};
use crate::numbered::Numbered;
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

/// One shard's incoming ring.
pub(super) struct Intake {
    shard: usize,
    ring: Mutex<Ring>,
    /// Where the bodies of answers are that the shard says it has sent, and sockets whose connection it says is gone.
    domain: Arc<Domain>,
    /// Start of the running call in µs since `epoch`; 0: none.
    busy_since_us: AtomicU64,
    /// End of the last call, likewise.
    last_us: AtomicU64,
    epoch: Instant,
}

struct Ring {
    consumer: Consumer,
    /// Bytes that came ahead of their records.
    early: Numbered<Vec<u8>>,
}

impl Intake {
    pub(super) fn new(shard: usize, consumer: Consumer, domain: Arc<Domain>) -> Self {
        let ring = Mutex::new(Ring { consumer, early: Numbered::default() });
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

    /// The next piece of work, and whether it is short.
    fn next(&self) -> Result<Option<(Work, bool)>, Corrupt> {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let mut record = Vec::with_capacity(512);
            if !ring.consumer.try_pop(&mut record)? {
                ring.consumer.release();
                return Ok(None);
            }
            let (ticket, short) = match ToDomain::read(&record) {
                Ok(ToDomain::Part { ticket, bytes }) => {
                    ring.early.entry(ticket).or_default().extend_from_slice(bytes);
                    ring.consumer.release();
                    continue;
                }
                Ok(ToDomain::Done { offset }) => {
                    self.domain.answers.lock().unwrap_or_else(PoisonError::into_inner).give_back(offset);
                    ring.consumer.release();
                    continue;
                }
                Ok(ToDomain::Gone { key }) => {
                    self.domain.socket_gone(self.shard, key);
                    ring.consumer.release();
                    continue;
                }
                Ok(ToDomain::Request { ticket, short, .. } | ToDomain::Socket { ticket, short, .. }) => (ticket, short),
                Err(_) => return Err(Corrupt),
            };
            let early = if ring.early.is_empty() { Vec::new() } else { ring.early.remove(&ticket).unwrap_or_default() };
            return Ok(Some((Work { shard: self.shard, record, early }, short)));
        }
    }

    fn wait(&self) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
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
pub(super) fn serve(intake: &Intake, runner: &mut dyn Runner<Work>, pool: &Pool<Work>, rescuer: &Thread) -> Corrupt {
    loop {
        match intake.next() {
            Ok(Some((work, true))) => {
                let was_quiet = intake.is_quiet();
                intake.busy_since_us.store(intake.now_us(), Ordering::Relaxed);
                if was_quiet {
                    rescuer.unpark();
                }
                runner.run(work);
                intake.busy_since_us.store(0, Ordering::Relaxed);
                intake.last_us.store(intake.now_us(), Ordering::Relaxed);
            }
            Ok(Some((work, false))) => pool.push(work),
            Ok(None) => intake.wait(),
            Err(corrupt) => return corrupt,
        }
    }
}

/// Empties the rings of companions that are stuck, to the pool.
pub(super) fn rescue(intakes: &[Arc<Intake>], pool: &Pool<Work>) {
    loop {
        if intakes.iter().all(|intake| intake.is_quiet()) {
            std::thread::park();
        } else {
            std::thread::sleep(STUCK_AFTER / 2);
        }
        for intake in intakes.iter().filter(|intake| intake.is_stuck()) {
            while let Ok(Some((work, _))) = intake.next() {
                pool.push(work);
            }
        }
    }
}
