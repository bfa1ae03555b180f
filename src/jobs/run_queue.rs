//! The seam to the decision which job runs next. The dispatcher knows only this trait.

use super::active::ActiveJob;
use super::store::JobKind;
use std::sync::Arc;

/// Waiting and running jobs. One thread owns them; there are no clocks in here.
///
/// A job may run if its time has come, its kind is not paused, and the limits of its key, name, module and domain have room. Of
/// those that may run in one module, the highest priority comes first, then the lowest id.
pub(super) trait RunQueue: Send {
    /// Adds a waiting job, which must not run before `run_at_ms`.
    fn add(&mut self, job: Arc<ActiveJob>, run_at_ms: i64, now_ms: i64);

    /// Removes a waiting job, wherever it waits; does nothing if the job does not wait.
    fn remove(&mut self, job: &ActiveJob);

    /// Makes the jobs ready whose start time has come. Returns the start time of the next job.
    fn wake(&mut self, now_ms: i64) -> Option<i64>;

    /// Takes the job to run next, if any may run; the job counts as running until [`RunQueue::ended`]. `idle_only`: only of a
    /// domain without a running job.
    fn next(&mut self, idle_only: bool) -> Option<Arc<ActiveJob>>;

    /// Records that a run of the job has ended.
    fn ended(&mut self, job: &ActiveJob);

    /// Pauses a kind: none of its runs begins any more.
    fn pause(&mut self, kind: JobKind);

    /// Resumes a kind: its runs begin again.
    fn resume(&mut self, kind: &JobKind);

    /// The paused kinds.
    fn paused(&self) -> impl Iterator<Item = &JobKind>;

    /// Looks up the modules' domains again, after modules were deployed or removed.
    fn modules_changed(&mut self);
}

#[cfg(test)]
mod tests {
    //! Random calls, checked against the rules after each step: any queue must pass.

    use super::*;
    use crate::jobs::schedule::{RunningLimits, Schedule};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[derive(Debug, Clone)]
    enum Op {
        Add { module: u8, name: u8, priority: i32, key: Option<u8>, run_at_ms: i64 },
        Remove(usize),
        Next { idle_only: bool },
        Ended(usize),
        Pause { module: u8, name: u8 },
        Resume { module: u8, name: u8 },
        Wake,
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let (module, name) = (|| 0..4_u8, || 0..2_u8);
        let key = proptest::option::weighted(0.4, 0..2_u8);
        let op = prop_oneof![
            8 => (module(), name(), 0..3_i32, key, 0..40_i64).prop_map(|(module, name, priority, key, run_at_ms)| {
                Op::Add { module, name, priority, key, run_at_ms }
            }),
            2 => (0..40_usize).prop_map(Op::Remove),
            8 => proptest::bool::weighted(0.2).prop_map(|idle_only| Op::Next { idle_only }),
            5 => (0..8_usize).prop_map(Op::Ended),
            1 => (module(), name()).prop_map(|(module, name)| Op::Pause { module, name }),
            2 => (module(), name()).prop_map(|(module, name)| Op::Resume { module, name }),
            3 => Just(Op::Wake),
        ];
        proptest::collection::vec(op, 1..80)
    }

    /// Two modules share each domain.
    fn domain_of(module: &str) -> Arc<str> {
        if module < "2" { "a" } else { "b" }.into()
    }

    const LIMITS: RunningLimits = RunningLimits { module_max: 3, domain_max: 4 };
    /// Limit on the runs of a key.
    const KEY_MAX: u32 = 2;
    /// Limit on the runs of jobs with the name 1.
    const NAME_MAX: u32 = 1;

    /// The rules, without any order of their own.
    #[derive(Default)]
    struct Rules {
        /// Jobs with their start times.
        waiting: Vec<(Arc<ActiveJob>, i64)>,
        running: Vec<Arc<ActiveJob>>,
        paused: BTreeSet<JobKind>,
        now_ms: i64,
    }

    impl Rules {
        fn running(&self, of: impl Fn(&ActiveJob) -> bool) -> usize {
            self.running.iter().filter(|job| of(job)).count()
        }

        fn in_domain(&self, module: &str) -> usize {
            self.running(|job| domain_of(&job.module) == domain_of(module))
        }

        fn may_run(&self, job: &ActiveJob, run_at_ms: i64, idle_only: bool) -> bool {
            let of_kind = |other: &ActiveJob| (&other.module, &other.job) == (&job.module, &job.job);
            let of_key = |other: &ActiveJob| of_kind(other) && other.concurrency_key == job.concurrency_key;
            let limit = job.concurrency() as usize;
            run_at_ms <= self.now_ms
                && !self.paused.contains(&(job.module.clone(), job.job.clone()))
                && (limit == 0 || self.running(of_kind) < limit)
                && (job.concurrency_key.is_none() || self.running(of_key) < job.concurrency_limit as usize)
                && self.running(|other| other.module == job.module) < LIMITS.module_max
                && self.in_domain(&job.module) < if idle_only { 1 } else { LIMITS.domain_max }
        }

        /// The order of jobs that may run: domains by their runs, then by priority, then modules by their runs.
        fn rank(&self, job: &ActiveJob) -> (usize, i32, usize) {
            let of_module = self.running(|other| other.module == job.module);
            (self.in_domain(&job.module), -job.priority, of_module)
        }

        /// Checks the queue's choice.
        fn took(&mut self, chosen: Option<Arc<ActiveJob>>, idle_only: bool) {
            let allowed: Vec<&Arc<ActiveJob>> = self
                .waiting
                .iter()
                .filter(|(job, run_at_ms)| self.may_run(job, *run_at_ms, idle_only))
                .map(|(job, _)| job)
                .collect();
            let Some(chosen) = chosen else {
                assert!(allowed.is_empty(), "job {} may run", allowed[0].id);
                return;
            };
            assert!(allowed.iter().any(|job| job.id == chosen.id), "job {} must not run", chosen.id);
            let best = allowed.iter().map(|job| self.rank(job)).min();
            assert_eq!(Some(self.rank(&chosen)), best, "job {} is not the first", chosen.id);
            let of_module = allowed.iter().filter(|job| job.module == chosen.module);
            assert_eq!(of_module.map(|job| (-job.priority, job.id)).min(), Some((-chosen.priority, chosen.id)));
            self.waiting.retain(|(job, _)| job.id != chosen.id);
            self.running.push(chosen);
        }
    }

    fn job(id: i64, module: u8, name: u8, priority: i32, key: Option<u8>) -> Arc<ActiveJob> {
        let concurrency = if name == 1 { NAME_MAX } else { 0 };
        let mut job =
            crate::jobs::active::tests::job(id, &module.to_string(), &name.to_string(), priority, concurrency);
        (job.concurrency_key, job.concurrency_limit) = (key.map(|key| key.to_string().into()), KEY_MAX);
        Arc::new(job)
    }

    fn check(mut queue: impl RunQueue, ops: &[Op]) {
        let (mut rules, mut last) = (Rules::default(), 0);
        let kind = |module: &u8, name: &u8| (module.to_string(), name.to_string());
        for op in ops {
            match op {
                Op::Add { module, name, priority, key, run_at_ms } => {
                    last += 1;
                    let job = job(last, *module, *name, *priority, *key);
                    rules.waiting.push((Arc::clone(&job), *run_at_ms));
                    queue.add(job, *run_at_ms, rules.now_ms);
                }
                Op::Remove(at) if *at < rules.waiting.len() => queue.remove(&rules.waiting.remove(*at).0),
                Op::Ended(at) if *at < rules.running.len() => queue.ended(&rules.running.remove(*at)),
                Op::Remove(_) | Op::Ended(_) => {}
                Op::Next { idle_only } => rules.took(queue.next(*idle_only), *idle_only),
                Op::Pause { module, name } => {
                    rules.paused.insert(kind(module, name));
                    queue.pause(kind(module, name));
                }
                Op::Resume { module, name } => {
                    rules.paused.remove(&kind(module, name));
                    queue.resume(&kind(module, name));
                }
                Op::Wake => {
                    rules.now_ms += 10;
                    let later = rules.waiting.iter().map(|(_, at)| *at).filter(|at| *at > rules.now_ms);
                    assert_eq!(queue.wake(rules.now_ms), later.min());
                }
            }
            assert!(queue.paused().collect::<BTreeSet<_>>().into_iter().eq(&rules.paused));
        }
        // Nothing waits for ever: everything runs once limits, pauses and times are over.
        rules.now_ms = i64::MAX;
        queue.wake(i64::MAX);
        std::mem::take(&mut rules.paused).iter().for_each(|kind| queue.resume(kind));
        while !(rules.waiting.is_empty() && rules.running.is_empty()) {
            rules.running.drain(..).for_each(|job| queue.ended(&job));
            rules.took(queue.next(false), false);
        }
        assert!(queue.next(false).is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_schedule_keeps_the_rules(ops in ops()) {
            check(Schedule::new(LIMITS, Box::new(domain_of)), &ops);
        }
    }
}
