//! The threads of a domain that empty the rings: one for each shard, on the shard's core.
//!
//! A companion runs short calls itself and passes other calls to the pool. When a short call turns out to be long, another
//! thread, the rescuer, empties the ring to the pool meanwhile.

use super::response_ring::ResponseRing;
use super::streaming;
use super::wire::{StreamToDomain, ToDomain};
use super::work::{ChildDomain, RingRecord};
use crate::domain::executor::{Pool, Runner, RunnerFactory};
use crate::domain::ring::{Consumer, Corrupt};
use core_affinity::CoreId;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;

/// A call that has occupied a companion for one to two times this long is not short.
const STUCK_AFTER: Duration = Duration::from_millis(2);
/// The longest interval between two looks of the rescuer; the interval grows while calls are short.
const LOOK_EVERY_MAX: Duration = Duration::from_millis(16);
/// The number of looks without a running call after which the rescuer sleeps until a companion runs a call.
const QUIET_LOOKS: u32 = 3;
/// Waits end regularly, so that a lost wake does no harm.
const WAIT: Duration = Duration::from_millis(200);
/// The same for the rescuer. It misses a call only if that call begins in the nanoseconds in which the rescuer falls asleep.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// The thread for a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    /// The companion itself.
    Short,
    /// The pool.
    Long,
    /// The pool for calls of `CWEB_STREAM` routes, which wait for their clients.
    Stream,
    /// The pool for calls of `CWEB_KILLABLE` routes, which wait for another process.
    Worker,
}

/// The threads besides the companions.
pub(super) struct Pools {
    pub(super) long: Pool<RingRecord>,
    pub(super) streams: Pool<RingRecord>,
    pub(super) workers: LazyPool,
}

/// A pool that has no threads until it is used.
pub(super) struct LazyPool {
    pub(super) threads_max: usize,
    pub(super) cores: Vec<CoreId>,
    pub(super) factory: RunnerFactory<RingRecord>,
    pub(super) pool: OnceLock<Option<Pool<RingRecord>>>,
}

impl LazyPool {
    fn get(&self) -> Option<&Pool<RingRecord>> {
        let start = || Pool::start(1, self.threads_max, self.cores.clone(), Arc::clone(&self.factory));
        let started =
            || start().inspect_err(|error| tracing::warn!("a pool of threads can't be started: {error}")).ok();
        self.pool.get_or_init(started).as_ref()
    }
}

impl Pools {
    fn push(&self, mut work: RingRecord, lane: Lane, domain: &ChildDomain) {
        let pool = match lane {
            Lane::Short | Lane::Long => &self.long,
            Lane::Stream => &self.streams,
            Lane::Worker => self.workers.get().unwrap_or(&self.long),
        };
        if pool.is_busy() {
            work.tell_wait(domain);
        }
        pool.push(work);
    }
}

/// One shard's incoming ring.
pub(super) struct RequestRing {
    shard: usize,
    ring: Mutex<Ring>,
    /// Gets the shard's reports that it has sent bodies of answers, and that connections of sockets are closed.
    domain: Arc<ChildDomain>,
    /// The number of starts and ends of short calls: odd while a call is running.
    steps: AtomicU64,
}

struct Ring {
    consumer: Consumer,
}

impl Ring {
    /// Returns the room of popped records, and wakes the shard if it waits for room.
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
        Self { shard, ring, domain, steps: AtomicU64::new(0) }
    }

    /// The next task and its lane. `spare` is memory for its record.
    fn next(&self, spare: &mut Option<RingRecord>) -> Result<Option<(RingRecord, Lane)>, Corrupt> {
        let responses = self.domain.response_rings.get(self.shard).map(Arc::as_ref);
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let mut record = spare.take().map_or_else(|| Vec::with_capacity(512), |work| work.record);
            record.clear();
            if !ring.consumer.try_pop(&mut record)? {
                *spare = Some(RingRecord::new(self.shard, record));
                ring.release(responses);
                return Ok(None);
            }
            if ring.consumer.owes_much() {
                ring.release(responses);
            }
            match ToDomain::read(&record) {
                Ok(ToDomain::Done { offset }) => {
                    if self.domain.answers.give_back(offset) {
                        // A thread of the pool has the time to return the pages.
                        return Ok(Some((RingRecord::new(self.shard, Vec::new()), Lane::Long)));
                    }
                }
                Ok(ToDomain::Gone { key }) => self.domain.socket_gone(self.shard, key),
                Ok(ToDomain::Buffered { key, taken, unsent }) => {
                    self.domain.socket_buffered(self.shard, key, taken, unsent);
                }
                Ok(ToDomain::Request { short: false, instance, route, .. })
                    if self.domain.is_elsewhere(instance, route) =>
                {
                    return Ok(Some((RingRecord::new(self.shard, record), Lane::Worker)));
                }
                Ok(ToDomain::Request { short, .. } | ToDomain::Socket { short, .. }) => {
                    let lane = if short { Lane::Short } else { Lane::Long };
                    return Ok(Some((RingRecord::new(self.shard, record), lane)));
                }
                Ok(ToDomain::Stream(StreamToDomain::Call { .. })) => {
                    return Ok(Some((RingRecord::new(self.shard, record), Lane::Stream)));
                }
                Ok(ToDomain::Stream(record)) => streaming::take_record(&self.domain.streams, self.shard, &record),
                Err(_) => return Err(Corrupt),
            }
        }
    }

    fn wait(&self) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        // `wait` below must not do this: it would wake a shard through the ring's futex, on which no shard sleeps.
        ring.release(self.domain.response_rings.get(self.shard).map(Arc::as_ref));
        ring.consumer.wait(WAIT);
    }

    /// Runs all waiting calls, short or long, on the calling thread.
    #[cfg(test)]
    pub(super) fn run_waiting(&self, runner: &mut dyn Runner<RingRecord>, spare: &mut Option<RingRecord>) {
        while let Ok(Some((work, _))) = self.next(spare) {
            self.step();
            *spare = runner.run_and_return(work);
            self.step();
        }
    }

    /// Only the companion steps, so a load and a store suffice.
    fn step(&self) {
        self.steps.store(self.steps.load(Ordering::Relaxed) + 1, Ordering::Release);
    }
}

/// Empties a ring until it is found corrupt.
pub(super) fn serve(
    request_ring: &RequestRing,
    runner: &mut dyn Runner<RingRecord>,
    pools: &Pools,
    rescuer: &Rescuer,
) -> Corrupt {
    let mut spare = None;
    // Whether the next short call comes after a pause.
    let mut paused = true;
    loop {
        match request_ring.next(&mut spare) {
            Ok(Some((work, Lane::Short))) => {
                request_ring.step();
                rescuer.wake(std::mem::take(&mut paused));
                spare = runner.run_and_return(work);
                request_ring.step();
            }
            Ok(Some((work, lane))) => {
                pools.push(work, lane, &request_ring.domain);
                paused = true;
            }
            Ok(None) => {
                request_ring.wait();
                paused = true;
            }
            Err(corrupt) => return corrupt,
        }
    }
}

/// The thread that empties the rings of stuck companions.
pub(super) struct Rescuer {
    thread: Thread,
    /// Whether the thread sleeps until a companion has a call.
    sleeps: Arc<AtomicBool>,
}

impl Rescuer {
    /// Starts the thread, which empties `request_rings` to `pools`.
    pub(super) fn start(request_rings: Vec<Arc<RequestRing>>, pools: Arc<Pools>) -> io::Result<Self> {
        let sleeps = Arc::new(AtomicBool::new(false));
        let says = Arc::clone(&sleeps);
        let run = move || rescue(&request_rings, &pools, &says);
        let thread = thread::Builder::new().name("rescuer".to_owned()).spawn(run)?.thread().clone();
        Ok(Self { thread, sleeps })
    }

    /// Called when a companion begins a short call; `paused`: it does not follow at once on another short call.
    fn wake(&self, paused: bool) {
        // Pairs with the fence of `rescue`: either the rescuer's look after that fence finds the call, or this load
        // finds that the rescuer sleeps. While one short call follows another, the rescuer falls asleep only if this
        // thread is preempted between two calls: the load alone finds that nearly always, and a fence is dear.
        if paused {
            fence(Ordering::SeqCst);
        }
        if self.sleeps.load(Ordering::Relaxed) {
            self.sleeps.store(false, Ordering::Relaxed);
            self.thread.unpark();
        }
    }
}

/// Empties the rings of stuck companions to the pool. A companion is stuck if two looks find it in the same call.
fn rescue(request_rings: &[Arc<RequestRing>], pools: &Pools, sleeps: &AtomicBool) {
    let steps = || request_rings.iter().map(|ring| ring.steps.load(Ordering::Acquire)).collect::<Vec<_>>();
    let (mut seen, mut pause, mut quiet) = (steps(), STUCK_AFTER, 0);
    loop {
        if quiet >= QUIET_LOOKS {
            sleeps.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            while sleeps.load(Ordering::Relaxed) && steps() == seen {
                thread::park_timeout(SLEEP_MAX);
            }
            sleeps.store(false, Ordering::Relaxed);
            (pause, quiet) = (STUCK_AFTER, 0);
            seen = steps();
        }
        thread::sleep(pause);
        let now = steps();
        let mut has_stuck = false;
        for ((ring, before), now) in request_rings.iter().zip(&seen).zip(&now) {
            if now % 2 == 1 && before == now {
                has_stuck = true;
                while let Ok(Some((work, lane))) = ring.next(&mut None) {
                    pools.push(work, lane, &ring.domain);
                }
            }
        }
        quiet = if seen == now && !has_stuck { quiet + 1 } else { 0 };
        pause = if has_stuck { STUCK_AFTER } else { (pause * 2).min(LOOK_EVERY_MAX) };
        seen = now;
    }
}
