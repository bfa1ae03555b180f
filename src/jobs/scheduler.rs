//! Runs the schedules on the dispatcher's thread: creates a job for each due slot, and stores the schedules that modules
//! declare. The store's writer owns the schedules; the timetable here is a copy, updated in the order of the writer's commits.

use super::active::{ActiveJob, ActiveJobs};
use super::answer::shared_answer;
use super::code::{CodeSource, Declared};
use super::cron::Cron;
use super::notice::{Asked, Notice, Told, now_ms};
use super::store::{Done, NewJob, ScheduleChange, ScheduleOutcome, ScheduleSpec, Slot, StoreError, Writer};
use super::timetable::{Due, Timetable};
use crossbeam::channel::Sender;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Limit on the schedules of a server.
pub(super) const SCHEDULES_MAX: usize = 1_000;
/// Limit on the slots processed before the dispatcher does its other work.
const TURNS_MAX: usize = 64;

pub(super) struct Scheduler {
    pub(super) timetable: Timetable,
    pub(super) source: Arc<dyn CodeSource>,
    pub(super) active: Arc<ActiveJobs>,
    pub(super) writer: Writer,
    pub(super) own: Sender<Notice>,
    pub(super) unfinished_max: usize,
    /// See [`JobsConfig::timeout_ms`](super::JobsConfig::timeout_ms).
    pub(super) timeout_ms: u64,
}

impl Scheduler {
    /// Processes the due slots. Returns the time of the next slot.
    pub(super) fn wake(&mut self) -> Option<i64> {
        for _ in 0..TURNS_MAX {
            let Some(due) = self.timetable.due(now_ms()) else { break };
            let name = due.row.spec.name.clone();
            if let Err(why) = self.fire(due) {
                self.held(&name, why);
            }
        }
        self.timetable.wake()
    }

    /// Handles the store's answer: the schedule is changed, or the change was refused.
    pub(super) fn told(&mut self, name: &str, told: Told) {
        match told {
            Told::Is(row) => self.timetable.set(*row),
            Told::Gone => self.timetable.remove(name),
            Told::Failed(why) => self.held(name, why),
        }
    }

    fn held(&mut self, name: &str, why: String) {
        tracing::debug!("the slot of schedule {name} waits: {why}");
        self.timetable.held(name, now_ms(), why);
    }

    fn fire(&self, due: Due) -> Result<(), String> {
        let Due { row, next_ms } = due;
        let ScheduleSpec { name, module, job, payload, .. } = row.spec;
        if self.active.len() >= self.unfinished_max {
            return Err(format!("{} jobs wait already (--job-pending-max)", self.unfinished_max));
        }
        let Declared { hash, defaults, code, .. } =
            self.source.resolve(Some(&module), &job).map_err(|error| error.to_string())?;
        let job = NewJob {
            uuid: uuid::Uuid::now_v7().to_string(),
            module,
            job,
            module_hash: hash,
            payload,
            max_attempts: defaults.max_attempts.max(1),
            backoff_ms: u64::from(defaults.backoff_ms),
            timeout_ms: defaults.timeout_or(self.timeout_ms),
            run_at_ms: now_ms(),
            priority: defaults.priority,
            unique_key: None,
            depends_on: Vec::new(),
            concurrency_key: None,
            concurrency_limit: 1,
            files: Vec::new(),
            slot: Some(Slot { schedule: name.clone(), at_ms: row.next_ms }),
        };
        let (own, active) = (self.own.clone(), Arc::clone(&self.active));
        let done = move |outcome: Result<ScheduleOutcome, StoreError>| {
            if let Ok(ScheduleOutcome::Fired(row, _)) = &outcome {
                let job = Arc::new(ActiveJob::new(row, Some((code, defaults))));
                active.insert(&job);
                let _ = own.send(Notice::Ready { job, run_at_ms: row.run_at_ms });
            }
            tell(&own, name, &outcome, false);
        };
        let change = ScheduleChange::Fire { revision: row.revision, next_ms, job: Box::new(job) };
        self.writer.try_schedule(change, Box::new(done)).map_err(|error| error.to_string())
    }

    pub(super) fn asked(&self, asked: Asked) {
        match asked {
            Asked::List(name, answer) => {
                let rows =
                    self.timetable.rows().filter(|(row, _)| name.as_ref().is_none_or(|name| row.spec.name == *name));
                answer(rows.map(|(row, why)| (row.clone(), why.map(str::to_owned))).collect());
            }
            Asked::Put(spec, answer) => {
                if self.timetable.get(&spec.name).is_none() && self.timetable.len() >= SCHEDULES_MAX {
                    let why = format!("there are {SCHEDULES_MAX} schedules already: remove one first");
                    return answer(Err(StoreError::Refused { why }));
                }
                self.put(spec, Some(answer));
            }
            Asked::Remove(name, answer) => self.remove(name, false, Some(answer)),
        }
    }

    fn put(&self, spec: ScheduleSpec, answer: Option<Done<ScheduleOutcome>>) {
        let name = spec.name.clone();
        let cron = match Cron::parse(&spec.cron, &spec.zone) {
            Ok(cron) => cron,
            Err(why) => {
                tracing::error!("schedule {name}: {why}");
                return answer.map_or((), |answer| answer(Err(StoreError::Refused { why })));
            }
        };
        let next_ms = cron.next_ms(now_ms()).unwrap_or(i64::MAX);
        self.change(name, ScheduleChange::Put { spec, next_ms }, answer);
    }

    fn remove(&self, name: String, declared: bool, answer: Option<Done<ScheduleOutcome>>) {
        self.change(name.clone(), ScheduleChange::Remove { name, declared }, answer);
    }

    fn change(&self, name: String, change: ScheduleChange, answer: Option<Done<ScheduleOutcome>>) {
        let (own, is_own) = (self.own.clone(), answer.is_none());
        let (done, refused) = shared_answer(answer.unwrap_or_else(|| Box::new(|_| {})));
        let changed = move |outcome: Result<ScheduleOutcome, StoreError>| {
            tell(&own, name, &outcome, true);
            if is_own && outcome.is_err() {
                // No client repeats this change, so the dispatcher must.
                let _ = own.send(Notice::ModulesLater);
            }
            done(outcome);
        };
        if let Err(error) = self.writer.try_schedule(change, Box::new(changed)) {
            if is_own {
                let _ = self.own.send(Notice::ModulesLater);
            }
            refused(Err(error));
        }
    }

    /// Stores the schedules that the served modules declare, and deletes those of removed modules. A deployed module that could
    /// not be loaded keeps its schedules.
    pub(super) fn reconcile(&self) {
        let declared: HashMap<String, Vec<ScheduleSpec>> = self.source.schedules().into_iter().collect();
        let mut kept: HashMap<&str, bool> = HashMap::new();
        for (row, _) in self.timetable.rows() {
            let ScheduleSpec { name, module, declared: by_module, .. } = &row.spec;
            let stays = match declared.get(module) {
                Some(specs) => !by_module || specs.iter().any(|spec| spec.name == *name),
                None => *kept.entry(module).or_insert_with(|| self.source.is_kept(module)),
            };
            if !stays {
                tracing::info!("schedule {name} is deleted: module {module} is removed, or declares it no longer");
                self.remove(name.clone(), *by_module, None);
            }
        }
        let known: HashSet<&str> = self.timetable.rows().map(|(row, _)| row.spec.name.as_str()).collect();
        let mut room = SCHEDULES_MAX.saturating_sub(known.len());
        for spec in declared.into_values().flatten() {
            match self.timetable.get(&spec.name) {
                Some(row) if row.spec == spec => {}
                Some(_) => self.put(spec, None),
                None if room > 0 => {
                    room -= 1;
                    self.put(spec, None);
                }
                None => {
                    tracing::error!(
                        "schedule {} is not stored: there are already {SCHEDULES_MAX} schedules",
                        spec.name
                    );
                }
            }
        }
    }
}

/// `again`: the declarations of modules may have changed since the request, so the dispatcher reads them again.
fn tell(own: &Sender<Notice>, name: String, outcome: &Result<ScheduleOutcome, StoreError>, again: bool) {
    let told = match outcome {
        Ok(ScheduleOutcome::Is(row) | ScheduleOutcome::Fired(_, row)) => Told::Is(Box::new(row.clone())),
        Ok(ScheduleOutcome::Gone) => Told::Gone,
        Ok(ScheduleOutcome::NotFound | ScheduleOutcome::Taken) => return,
        Err(error) => Told::Failed(error.to_string()),
    };
    let _ = own.send(Notice::Schedule(name, told, again));
}
