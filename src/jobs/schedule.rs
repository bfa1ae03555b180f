//! Decides which job runs next: fairly between domains; within a domain by priority and fairly between modules; all within
//! their limits.
//!
//! One thread owns the queue and feeds the workers over a channel; it receives all messages over another channel. [`Schedule`]
//! is the decision alone, without threads or clocks.

use super::active::ActiveJob;
use super::run_queue::RunQueue;
use super::store::JobKind;
use std::cmp::Reverse;
use std::collections::btree_map::OccupiedEntry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Limit on the waiting jobs of a module examined for a runnable one, when earlier jobs have reached their own limit.
const SCAN_MAX: usize = 256;

/// Order within a module: higher priority first, then older jobs first.
type QueueKey = (Reverse<i32>, i64);

/// The jobs of one module.
#[derive(Default)]
struct ModuleQueue {
    /// The domain in which the module runs.
    domain: Arc<str>,
    ready: BTreeMap<QueueKey, Arc<ActiveJob>>,
    running: usize,
    /// The turn in which the module was last served.
    served: u64,
    /// Number of runs, by job name.
    running_of: HashMap<String, u32>,
}

impl ModuleQueue {
    /// The first job that has not reached its own limit.
    fn first(&self) -> Option<QueueKey> {
        let free = |job: &ActiveJob| {
            let limit = job.concurrency();
            limit == 0 || self.running_of.get(&job.job).is_none_or(|running| *running < limit)
        };
        self.ready.iter().take(SCAN_MAX).find(|(_, job)| free(job)).map(|(place, _)| *place)
    }
}

/// The running jobs of one key, and the jobs that they hold back.
#[derive(Default)]
struct KeyState {
    running: u32,
    waiting: BTreeMap<QueueKey, Arc<ActiveJob>>,
}

/// Returns the domain in which a module runs.
pub(super) type DomainOf = Box<dyn Fn(&str) -> Arc<str> + Send>;

/// Limits on simultaneous runs; 0: no limit.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RunningLimits {
    /// Limit for one module.
    pub(super) module_max: usize,
    /// Limit for the modules of one domain.
    pub(super) domain_max: usize,
}

/// Waiting and running jobs.
pub(super) struct Schedule {
    modules: HashMap<String, ModuleQueue>,
    /// Jobs whose start time has not come: time and id.
    delayed: BTreeSet<(i64, i64)>,
    later: HashMap<i64, Arc<ActiveJob>>,
    /// Paused kinds, with their ready jobs.
    paused: HashMap<JobKind, BTreeMap<QueueKey, Arc<ActiveJob>>>,
    /// Runs and waiting jobs, by kind and `concurrency_key`.
    keys: HashMap<(JobKind, Arc<str>), KeyState>,
    turn: u64,
    limits: RunningLimits,
    domain_of: DomainOf,
    /// Number of running jobs, by domain.
    domains: HashMap<Arc<str>, usize>,
}

impl Schedule {
    pub(super) fn new(limits: RunningLimits, domain_of: DomainOf) -> Self {
        Self {
            modules: HashMap::new(),
            delayed: BTreeSet::new(),
            later: HashMap::new(),
            paused: HashMap::new(),
            keys: HashMap::new(),
            turn: 0,
            limits,
            domain_of,
            domains: HashMap::new(),
        }
    }

    /// The queue of `module`.
    fn queue(&mut self, module: &str) -> &mut ModuleQueue {
        let domain_of = &self.domain_of;
        let made = || ModuleQueue { domain: domain_of(module), ..ModuleQueue::default() };
        self.modules.entry(module.to_owned()).or_insert_with(made)
    }

    fn running_in(&self, domain: &str) -> usize {
        self.domains.get(domain).copied().unwrap_or_default()
    }

    /// The queue of the job's key, if the key has as many runs as the job allows.
    fn held_back(&mut self, job: &ActiveJob) -> Option<&mut BTreeMap<QueueKey, Arc<ActiveJob>>> {
        let state = self.keys.get_mut(&key_of(job)?)?;
        (state.running >= job.concurrency_limit).then_some(&mut state.waiting)
    }

    /// Releases the next job of the key, because a run of the key has ended or a job of the key will not run.
    fn release(&mut self, job: &ActiveJob) {
        let Some(key) = key_of(job) else { return };
        let Some(state) = self.keys.get_mut(&key) else { return };
        let first = state.waiting.first_entry().filter(|first| state.running < first.get().concurrency_limit);
        if let Some(next) = first.map(OccupiedEntry::remove) {
            self.add(next, 0, 0);
        } else if state.running == 0 && state.waiting.is_empty() {
            self.keys.remove(&key);
        }
    }

    /// The queue of the job's kind, if the kind is paused.
    fn parked(&mut self, job: &ActiveJob) -> Option<&mut BTreeMap<QueueKey, Arc<ActiveJob>>> {
        if self.paused.is_empty() {
            return None;
        }
        self.paused.get_mut(&kind_of(job))
    }

    /// Takes out the first runnable job.
    fn candidate(&mut self, idle_only: bool) -> Option<Arc<ActiveJob>> {
        let RunningLimits { module_max, domain_max } = self.limits;
        let candidates = self.modules.iter().filter_map(|(name, queue)| {
            let in_domain = self.running_in(&queue.domain);
            let is_full = module_max > 0 && queue.running >= module_max || domain_max > 0 && in_domain >= domain_max;
            if is_full || idle_only && in_domain > 0 {
                return None;
            }
            let place = queue.first()?;
            // The domain with the fewest runs comes first, because priorities apply within a domain only. Among equal
            // priorities the module with the fewest runs comes first, then the module that has waited longest.
            Some(((in_domain, place.0, queue.running, queue.served), name, place))
        });
        let (_, name, place) = candidates.min_by_key(|(rank, ..)| *rank)?;
        let name = name.clone();
        let queue = self.modules.get_mut(&name)?;
        queue.ready.remove(&place)
    }

    fn forget_if_empty(&mut self, module: &str) {
        if self.modules.get(module).is_some_and(|queue| queue.ready.is_empty() && queue.running == 0) {
            self.modules.remove(module);
        }
    }
}

impl RunQueue for Schedule {
    fn modules_changed(&mut self) {
        self.domains.clear();
        for (module, queue) in &mut self.modules {
            queue.domain = (self.domain_of)(module);
            if queue.running > 0 {
                *self.domains.entry(Arc::clone(&queue.domain)).or_default() += queue.running;
            }
        }
    }

    fn add(&mut self, job: Arc<ActiveJob>, run_at_ms: i64, now_ms: i64) {
        if run_at_ms > now_ms {
            self.delayed.insert((run_at_ms, job.id));
            self.later.insert(job.id, job);
        } else if let Some(parked) = self.parked(&job) {
            parked.insert((Reverse(job.priority), job.id), job);
        } else if let Some(held) = self.held_back(&job) {
            held.insert((Reverse(job.priority), job.id), job);
        } else {
            let queue = self.queue(&job.module);
            queue.ready.insert((Reverse(job.priority), job.id), job);
        }
    }

    fn remove(&mut self, job: &ActiveJob) {
        let key = (Reverse(job.priority), job.id);
        if let Some(queue) = self.modules.get_mut(&job.module) {
            queue.ready.remove(&key);
        }
        if let Some(parked) = self.parked(job) {
            parked.remove(&key);
        }
        if self.later.remove(&job.id).is_some() {
            self.delayed.retain(|(_, id)| *id != job.id);
        }
        if let Some(state) = key_of(job).and_then(|key| self.keys.get_mut(&key)) {
            state.waiting.remove(&key);
        }
        self.release(job);
        self.forget_if_empty(&job.module);
    }

    fn pause(&mut self, kind: JobKind) {
        let (module, job) = &kind;
        let mut parked = BTreeMap::new();
        if let Some(queue) = self.modules.get_mut(module) {
            let of_kind: Vec<QueueKey> =
                queue.ready.iter().filter(|(_, known)| known.job == *job).map(|(key, _)| *key).collect();
            parked.extend(of_kind.into_iter().filter_map(|key| Some((key, queue.ready.remove(&key)?))));
        }
        self.forget_if_empty(&kind.0.clone());
        self.paused.entry(kind).or_default().extend(parked);
    }

    fn resume(&mut self, kind: &JobKind) {
        let Some(parked) = self.paused.remove(kind).filter(|parked| !parked.is_empty()) else { return };
        self.queue(&kind.0).ready.extend(parked);
    }

    fn paused(&self) -> impl Iterator<Item = &JobKind> {
        self.paused.keys()
    }

    fn wake(&mut self, now_ms: i64) -> Option<i64> {
        while let Some(&(run_at_ms, id)) = self.delayed.first() {
            if run_at_ms > now_ms {
                return Some(run_at_ms);
            }
            self.delayed.pop_first();
            if let Some(job) = self.later.remove(&id) {
                self.add(job, now_ms, now_ms);
            }
        }
        None
    }

    fn next(&mut self, idle_only: bool) -> Option<Arc<ActiveJob>> {
        loop {
            let job = self.candidate(idle_only)?;
            // The job has been ready since before other jobs of its key began.
            if let Some(held) = self.held_back(&job) {
                held.insert((Reverse(job.priority), job.id), job);
                continue;
            }
            if let Some(key) = key_of(&job) {
                self.keys.entry(key).or_default().running += 1;
            }
            self.turn += 1;
            let turn = self.turn;
            let queue = self.queue(&job.module);
            queue.served = turn;
            queue.running += 1;
            *queue.running_of.entry(job.job.clone()).or_default() += 1;
            let domain = Arc::clone(&queue.domain);
            *self.domains.entry(domain).or_default() += 1;
            return Some(job);
        }
    }

    fn ended(&mut self, job: &ActiveJob) {
        if let Some(queue) = self.modules.get_mut(&job.module) {
            queue.running = queue.running.saturating_sub(1);
            if let Some(running) = self.domains.get_mut(&queue.domain) {
                *running = running.saturating_sub(1);
                if *running == 0 {
                    self.domains.remove(&queue.domain);
                }
            }
            if let Some(running) = queue.running_of.get_mut(&job.job) {
                *running = running.saturating_sub(1);
                if *running == 0 {
                    queue.running_of.remove(&job.job);
                }
            }
        }
        if let Some(state) = key_of(job).and_then(|key| self.keys.get_mut(&key)) {
            state.running = state.running.saturating_sub(1);
        }
        self.release(job);
        self.forget_if_empty(&job.module);
    }
}

fn key_of(job: &ActiveJob) -> Option<(JobKind, Arc<str>)> {
    job.concurrency_key.as_ref().map(|key| (kind_of(job), Arc::clone(key)))
}

fn kind_of(job: &ActiveJob) -> JobKind {
    (job.module.clone(), job.job.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(id: i64, module: &str, name: &str, priority: i32, concurrency: u32) -> Arc<ActiveJob> {
        Arc::new(crate::jobs::active::tests::job(id, module, name, priority, concurrency))
    }

    /// Each module is in the domain of its first letter.
    fn schedule_with(module_max: usize, domain_max: usize) -> Schedule {
        let domain_of = |module: &str| module.get(..1).unwrap_or_default().into();
        Schedule::new(RunningLimits { module_max, domain_max }, Box::new(domain_of))
    }

    fn take(schedule: &mut Schedule) -> Vec<i64> {
        std::iter::from_fn(|| schedule.next(false).map(|job| job.id)).collect()
    }

    #[test]
    fn higher_priority_first_then_older() {
        let mut schedule = schedule_with(0, 0);
        for (id, priority) in [(1, 0), (2, 5), (3, 0), (4, 5), (5, -1)] {
            schedule.add(job(id, "m", "j", priority, 0), 0, 0);
        }
        assert_eq!(take(&mut schedule), [2, 4, 1, 3, 5]);
    }

    #[test]
    fn a_paused_kind_waits_whenever_it_becomes_ready() {
        let mut schedule = schedule_with(0, 0);
        let kind = || ("m".to_owned(), "j".to_owned());
        schedule.add(job(1, "m", "j", 0, 0), 0, 0);
        schedule.add(job(2, "m", "other", 0, 0), 0, 0);
        schedule.pause(kind());
        schedule.add(job(3, "m", "j", 5, 0), 0, 0);
        schedule.add(job(4, "m", "j", 0, 0), 10, 0);
        let gone = job(5, "m", "j", 0, 0);
        schedule.add(Arc::clone(&gone), 0, 0);
        assert_eq!((schedule.wake(10), take(&mut schedule)), (None, vec![2]));
        schedule.pause(kind());
        schedule.remove(&gone);
        assert_eq!(schedule.paused().collect::<Vec<_>>(), [&kind()]);
        schedule.resume(&kind());
        schedule.resume(&kind());
        assert_eq!(take(&mut schedule), [3, 1, 4]);
    }

    #[test]
    fn jobs_of_one_key_run_as_many_at_once_as_they_say() {
        let keyed = |id: i64, priority: i32, key: &str, limit: u32| {
            let mut keyed = Arc::into_inner(job(id, "m", "j", priority, 0)).unwrap();
            (keyed.concurrency_key, keyed.concurrency_limit) = (Some(key.into()), limit);
            Arc::new(keyed)
        };
        let mut schedule = schedule_with(0, 0);
        let jobs: Vec<_> = (0..5).map(|id| keyed(id, 0, "k", 1)).collect();
        for job in &jobs {
            schedule.add(Arc::clone(job), 0, 0);
        }
        schedule.add(keyed(10, 0, "other", 1), 0, 0);
        schedule.add(job(11, "m", "j", 0, 0), 0, 0);
        assert_eq!(take(&mut schedule), [0, 10, 11]);
        schedule.add(keyed(12, 9, "k", 1), 0, 0);
        schedule.ended(&jobs[0]);
        assert_eq!(take(&mut schedule), [12], "the first by priority");
        // The next job is ready, and is canceled: the job behind it runs.
        schedule.ended(&keyed(12, 9, "k", 1));
        schedule.remove(&jobs[1]);
        assert_eq!(take(&mut schedule), [2]);
        // The job is canceled while its kind is paused: the jobs behind it wait for the end of the pause, not for ever.
        schedule.pause(("m".to_owned(), "j".to_owned()));
        schedule.ended(&jobs[2]);
        schedule.remove(&jobs[3]);
        assert_eq!(take(&mut schedule), Vec::<i64>::new());
        schedule.resume(&("m".to_owned(), "j".to_owned()));
        assert_eq!(take(&mut schedule), [4]);
        schedule.remove(&jobs[3]);
        schedule.ended(&jobs[4]);
        schedule.ended(&keyed(10, 0, "other", 1));
        assert!(schedule.keys.is_empty());
        // A job whose limit is two runs beside a job whose limit is one.
        schedule.add(keyed(20, 0, "k", 1), 0, 0);
        schedule.add(keyed(21, 0, "k", 2), 0, 0);
        schedule.add(keyed(22, 0, "k", 2), 0, 0);
        assert_eq!(take(&mut schedule), [20, 21]);
    }

    #[test]
    fn modules_take_turns() {
        let mut schedule = schedule_with(0, 0);
        for id in 0..4 {
            schedule.add(job(id, "a", "j", 0, 0), 0, 0);
        }
        schedule.add(job(10, "b", "j", 0, 0), 0, 0);
        schedule.add(job(11, "b", "j", 0, 0), 0, 0);
        let first_four: Vec<i64> = (0..4).filter_map(|_| schedule.next(false).map(|job| job.id)).collect();
        assert_eq!(first_four.iter().filter(|id| **id >= 10).count(), 2, "{first_four:?}");
        assert_eq!(take(&mut schedule).len(), 2);
    }

    #[test]
    fn no_domain_keeps_others_waiting() {
        let mut schedule = schedule_with(0, 0);
        let flood: Vec<_> = (0..6).map(|id| job(id, "a1", "j", 1_000, 0)).collect();
        flood.iter().for_each(|job| schedule.add(Arc::clone(job), 0, 0));
        let first: Vec<i64> = (0..3).filter_map(|_| schedule.next(false)).map(|job| job.id).collect();
        assert_eq!((first, schedule.next(true).map(|job| job.id)), (vec![0, 1, 2], None), "the reserve is for others");
        schedule.add(job(10, "b", "j", -5, 0), 0, 0);
        schedule.add(job(11, "a2", "j", 2_000, 0), 0, 0);
        assert_eq!(schedule.next(true).map(|job| job.id), Some(10));
        // Between modules of one domain the higher priority wins; between two domains the domain with fewer runs wins.
        schedule.add(job(12, "b", "j", -5, 0), 0, 0);
        assert_eq!((0..2).filter_map(|_| schedule.next(false)).map(|job| job.id).collect::<Vec<_>>(), [12, 11]);
        for job in &flood[..3] {
            schedule.ended(job);
        }
        schedule.modules_changed();
        assert_eq!((schedule.running_in("a"), schedule.running_in("b")), (1, 2));
        let mut bounded = schedule_with(0, 2);
        flood.iter().for_each(|job| bounded.add(Arc::clone(job), 0, 0));
        bounded.add(job(10, "b", "j", 0, 0), 0, 0);
        assert_eq!(take(&mut bounded), [0, 10, 1]);
    }

    #[test]
    fn limits_of_a_job_and_of_a_module_hold() {
        let mut schedule = schedule_with(2, 0);
        let one_at_a_time: Vec<_> = (0..3).map(|id| job(id, "m", "slow", 9, 1)).collect();
        for job in &one_at_a_time {
            schedule.add(Arc::clone(job), 0, 0);
        }
        schedule.add(job(7, "m", "other", 0, 0), 0, 0);
        schedule.add(job(8, "m", "other", 0, 0), 0, 0);
        assert_eq!(take(&mut schedule), [0, 7]);
        schedule.ended(&one_at_a_time[0]);
        assert_eq!(take(&mut schedule), [1]);
    }

    #[test]
    fn jobs_wait_for_their_time_and_can_be_taken_out() {
        let mut schedule = schedule_with(0, 0);
        let (soon, late, gone) = (job(1, "m", "j", 0, 0), job(2, "m", "j", 0, 0), job(3, "m", "j", 0, 0));
        schedule.add(Arc::clone(&soon), 10, 0);
        schedule.add(late, 20, 0);
        schedule.add(Arc::clone(&gone), 10, 0);
        assert_eq!((schedule.wake(9), take(&mut schedule)), (Some(10), vec![]));
        schedule.remove(&gone);
        assert_eq!((schedule.wake(10), take(&mut schedule)), (Some(20), vec![1]));
        assert_eq!((schedule.wake(20), take(&mut schedule)), (None, vec![2]));
        schedule.ended(&soon);
        schedule.ended(&job(2, "m", "j", 0, 0));
        assert!(schedule.modules.is_empty());
    }
}
