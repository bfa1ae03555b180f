//! A second engine, in memory. Its code is simple and independent of the SQLite engine, and tests choose its faults.

use super::*;
use crate::jobs::blobs::MadeFile;
use crate::jobs::store::command::{Command, OwnEvent};
use crate::jobs::store::engine::{Apply, Engine, Isolation, Outcome};
use crate::jobs::store::error::Fault;
use crate::jobs::store::types::{Checkpoint, MadeFiles};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// A fault of the next commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    /// The commit is in doubt for `questions` calls of `resolve`; then the engine knows whether the transaction is stored.
    Doubtful { questions: usize, is_stored: bool },
}

/// What survives the end of a store.
#[derive(Clone, Default)]
pub(super) struct Disk {
    pub(super) state: Arc<Mutex<State>>,
    pub(super) broken: Arc<Mutex<VecDeque<Broken>>>,
    pub(super) is_jammed: Arc<AtomicBool>,
}

/// Keeps commits from succeeding while it exists.
pub(super) struct Jam(pub(super) Arc<AtomicBool>);

impl Drop for Jam {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

#[derive(Clone)]
pub(super) struct StoredJob {
    /// `depends_on` is empty here: see `needs`.
    pub(super) row: JobRow,
    pub(super) needs: BTreeSet<i64>,
    pub(super) given: BTreeMap<String, String>,
    pub(super) made: BTreeMap<String, (String, u64)>,
    pub(super) event_blobs: BTreeSet<String>,
    pub(super) checkpoint: Option<Vec<u8>>,
}

#[derive(Clone, Default)]
pub(super) struct State {
    pub(super) jobs: BTreeMap<i64, StoredJob>,
    pub(super) events: Vec<JobEvent>,
    pub(super) schedules: BTreeMap<String, ScheduleRow>,
    pub(super) paused: BTreeSet<JobKind>,
    pub(super) gone_dirs: BTreeSet<String>,
    pub(super) last_job: i64,
    pub(super) last_event: i64,
    now_ms: i64,
}

/// A transaction: a copy of everything, which replaces the original at the commit.
#[derive(Clone, Default)]
struct Work {
    state: State,
    /// Decided jobs whose run continues: their state, run and uuid.
    going_on: BTreeMap<i64, (JobState, u32, Arc<str>)>,
    events: Vec<JobEvent>,
    settled: Vec<Settled>,
}

pub(super) struct Memory(pub(super) Disk);

pub(super) struct MemoryApplier {
    disk: Disk,
    /// The last transaction.
    work: Work,
    doubt: Option<Doubt>,
}

/// A transaction in doubt, and the number of questions until the engine knows.
struct Doubt {
    questions: usize,
    stored: Option<(Work, Vec<Outcome>)>,
}

impl Engine for Memory {
    type Applier<'e> = MemoryApplier;

    fn applier(&self) -> Result<MemoryApplier, OpenError> {
        Ok(MemoryApplier { disk: self.0.clone(), work: Work::default(), doubt: None })
    }

    fn close(self) {}
}

impl Apply for MemoryApplier {
    fn transaction(&mut self, commands: &[Command], isolation: Isolation) -> Result<Vec<Outcome>, Fault> {
        assert!(self.doubt.is_none(), "a transaction while another is in doubt");
        let state = self.disk.state.lock().unwrap().clone();
        (self.work.events, self.work.settled) = (Vec::new(), Vec::new());
        let mut work = Work { state, ..self.work.clone() };
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        work.state.now_ms = work.state.now_ms.max(since.as_millis() as i64);
        let mut outcomes = Vec::new();
        for command in commands {
            let before = work.clone();
            outcomes.push(match work.apply(command) {
                Err(Fault::Command(why)) if isolation == Isolation::Apart => {
                    work = before;
                    Outcome::Refused(why)
                }
                outcome => outcome?,
            });
        }
        if self.disk.is_jammed.load(Ordering::SeqCst) {
            return Err(Fault::Surroundings("made to order".to_owned()));
        }
        match self.disk.broken.lock().unwrap().pop_front() {
            None => {}
            Some(Broken::Doubtful { questions, is_stored }) => {
                if is_stored {
                    *self.disk.state.lock().unwrap() = work.state.clone();
                }
                self.doubt = Some(Doubt { questions, stored: is_stored.then_some((work, outcomes)) });
                return Err(Fault::InDoubt("made to order".to_owned()));
            }
        }
        self.commit(work);
        Ok(outcomes)
    }

    fn resolve(&mut self) -> Result<Option<Vec<Outcome>>, Fault> {
        let Doubt { questions, stored } = self.doubt.take().expect("a transaction is in doubt");
        if questions > 0 {
            self.doubt = Some(Doubt { questions: questions - 1, stored });
            return Err(Fault::InDoubt("still".to_owned()));
        }
        Ok(stored.map(|(work, outcomes)| {
            self.commit(work);
            outcomes
        }))
    }

    fn events(&self) -> &[JobEvent] {
        &self.work.events
    }

    fn take_settled(&mut self) -> Vec<Settled> {
        std::mem::take(&mut self.work.settled)
    }
}

impl MemoryApplier {
    fn commit(&mut self, work: Work) {
        *self.disk.state.lock().unwrap() = work.state.clone();
        self.work = work;
    }
}

impl Work {
    fn apply(&mut self, command: &Command) -> Result<Outcome, Fault> {
        Ok(match command {
            Command::Submit(job, _) => self.submit(job)?,
            Command::Change(id, change, _) => Outcome::Changed(self.change(*id, change)),
            Command::Delete(uuid, _) => Outcome::Deleted(self.delete(uuid)),
            Command::Event(event) => self.own_event(event)?,
            Command::Checkpoint(checkpoint, _) => Outcome::Kept(self.checkpoint(checkpoint)),
            Command::Made(made, _) => Outcome::Kept(self.made(made)),
            Command::ForgetDirs(dirs) => {
                self.state.gone_dirs.retain(|dir| !dirs.contains(dir));
                Outcome::Nothing
            }
            Command::Sweep { before_ms, limit, .. } => Outcome::Swept(self.sweep(*before_ms, *limit)),
            Command::Schedule(change, _) => Outcome::Schedule(Box::new(self.schedule(change)?)),
            Command::Pause(kind, pause, _) => Outcome::Paused(self.pause(kind, *pause)),
            Command::Wake | Command::Hook(_) => Outcome::Nothing,
        })
    }

    fn tell(&mut self, id: i64, kind: &str, data: &str, is_final: bool) {
        self.state.last_event += 1;
        let uuid = self.state.jobs[&id].row.uuid.as_str().into();
        let (event, ts_ms) = (self.state.last_event, self.state.now_ms);
        let event = JobEvent { job_id: id, uuid, id: event, ts_ms, kind: kind.into(), data: data.into(), is_final };
        self.state.events.push(event.clone());
        self.events.push(event);
    }

    fn submit(&mut self, job: &NewJob) -> Result<Outcome, Fault> {
        let of_key = |stored: &&StoredJob| {
            let row = &stored.row;
            job.unique_key.is_some()
                && (&row.module, &row.job, &row.unique_key) == (&job.module, &job.job, &job.unique_key)
        };
        if let Some(found) = self.state.jobs.values().find(of_key) {
            return Ok(Outcome::Existing(Box::new(self.state.row(found))));
        }
        let mut needs = BTreeSet::new();
        for uuid in &job.depends_on {
            match self.state.by_uuid(uuid).map(|needed| (needed.row.id, needed.row.state)) {
                None => return Ok(Outcome::NeedsRefused(format!("{uuid} is not there"))),
                Some((_, JobState::Failed | JobState::Canceled)) => {
                    return Ok(Outcome::NeedsRefused(format!("{uuid} has ended")));
                }
                Some((_, JobState::Done)) => {}
                Some((id, _)) => {
                    needs.insert(id);
                }
            }
        }
        if self.state.by_uuid(&job.uuid).is_some() {
            return Ok(Outcome::Refused("the uuid is taken".to_owned()));
        }
        if job.payload.contains("poison") {
            return Err(Fault::Command("poison".to_owned()));
        }
        self.state.last_job += 1;
        let (id, now_ms, waits) = (self.state.last_job, self.state.now_ms, !needs.is_empty());
        let highest = i64::MAX as u64;
        let (backoff_ms, timeout_ms) = (job.backoff_ms.min(highest), job.timeout_ms.min(highest));
        let row = NewJob { backoff_ms, timeout_ms, ..job.clone() }.into_row(id, now_ms, false);
        let (given, made, event_blobs) = (job.files.iter().cloned().collect(), BTreeMap::new(), BTreeSet::new());
        self.state.jobs.insert(id, StoredJob { row, needs, given, made, event_blobs, checkpoint: None });
        self.tell(id, "created", &job.payload, false);
        Ok(Outcome::Inserted(id, now_ms, waits))
    }

    fn change(&mut self, id: i64, change: &Change) -> Changed {
        if let Some((state, attempt, _)) = self.going_on.get(&id).cloned() {
            if *change != (Change::Return { attempt }) {
                return Changed::Refused(state);
            }
            self.going_on.remove(&id);
            return Changed::Applied(state);
        }
        let Some(job) = self.state.jobs.get(&id) else { return Changed::Unknown };
        let (state, attempt, retries) = (job.row.state, job.row.attempt, job.row.retries);
        let quoted = |text: &Option<String>| text.as_ref().map_or("null".to_owned(), |text| format!("\"{text}\""));
        let (next, kind, data) = match (state, change) {
            (JobState::Pending, Change::Start { retries: known }) if *known == retries => {
                (JobState::Running, "started", format!("{{\"attempt\":{}}}", attempt + 1))
            }
            (JobState::Pending, Change::Fail { error }) => (JobState::Failed, "failed", format!("\"{error}\"")),
            (JobState::Pending | JobState::Running, Change::Cancel) => {
                (JobState::Canceled, "canceled", "{}".to_owned())
            }
            (JobState::Running, Change::Retry { attempt: run, reason, run_at_ms }) if *run == attempt => {
                let data = format!("{{\"attempt\":{attempt},\"reason\":\"{reason}\",\"run_at\":{run_at_ms}}}");
                (JobState::Pending, "retrying", data)
            }
            (
                JobState::Running,
                Change::Finish { attempt: run, state, result, error }
                | Change::Decide { attempt: run, state, result, error },
            ) if *run == attempt => match state {
                JobState::Done => (JobState::Done, "done", result.clone().unwrap_or("null".to_owned())),
                _ => (JobState::Failed, "failed", quoted(error)),
            },
            (JobState::Failed | JobState::Canceled, Change::Again { retries: known, module_hash, run_at_ms })
                if *known == retries =>
            {
                return self.again(id, module_hash, *run_at_ms);
            }
            _ => return Changed::Refused(state),
        };
        self.set(id, next, change);
        self.tell(id, kind, &data, next.is_final());
        if next.is_final() {
            self.settle(id);
        }
        Changed::Applied(next)
    }

    fn set(&mut self, id: i64, next: JobState, change: &Change) {
        let now_ms = self.state.now_ms;
        let job = self.state.jobs.get_mut(&id).unwrap();
        (job.row.state, job.row.updated_at_ms, job.row.result, job.row.error) = (next, now_ms, None, None);
        match change {
            Change::Start { .. } => job.row.attempt += 1,
            Change::Retry { reason, run_at_ms, .. } => {
                (job.row.error, job.row.run_at_ms) = (Some(reason.clone()), *run_at_ms);
            }
            Change::Fail { error } => job.row.error = Some(error.clone()),
            Change::Finish { result, error, .. } | Change::Decide { result, error, .. } => {
                (job.row.result, job.row.error) = (result.clone(), error.clone());
            }
            Change::Cancel | Change::Return { .. } | Change::Again { .. } => {}
        }
        if next == JobState::Done {
            job.checkpoint = None;
        }
        if let Change::Decide { attempt, .. } = change {
            self.going_on.insert(id, (next, *attempt, job.row.uuid.as_str().into()));
        }
    }

    fn again(&mut self, id: i64, module_hash: &str, run_at_ms: i64) -> Changed {
        let needs = self.state.jobs[&id].needs.clone();
        let has_ended = |need: &i64| self.state.jobs.get(need).is_none_or(|needed| needed.row.state.is_final());
        if needs.iter().any(has_ended) {
            return Changed::Needs;
        }
        let now_ms = self.state.now_ms;
        let row = &mut self.state.jobs.get_mut(&id).unwrap().row;
        (row.state, row.updated_at_ms, row.result) = (JobState::Pending, now_ms, None);
        (row.module_hash, row.run_at_ms) = (module_hash.to_owned(), run_at_ms);
        row.max_attempts = row.attempt + row.max_attempts - row.attempts_before;
        (row.attempts_before, row.retries) = (row.attempt, row.retries + 1);
        let data = format!("{{\"attempt\":{},\"reason\":\"asked for\",\"run_at\":{run_at_ms}}}", row.attempt);
        self.tell(id, "retrying", &data, false);
        if needs.is_empty() { Changed::Applied(JobState::Pending) } else { Changed::Waits }
    }

    /// Job number `id` has ended: jobs that need it are ready, or fail.
    fn settle(&mut self, id: i64) {
        let ended = self.state.jobs[&id].row.clone();
        let waiting: Vec<i64> =
            self.state.jobs.iter().filter(|(_, job)| job.needs.contains(&id)).map(|(other, _)| *other).collect();
        let mut failed = Vec::new();
        for other in waiting {
            let job = self.state.jobs.get_mut(&other).unwrap();
            let (uuid, is_pending) = (job.row.uuid.as_str().into(), job.row.state == JobState::Pending);
            if ended.state == JobState::Done {
                job.needs.remove(&id);
                if is_pending && job.needs.is_empty() {
                    self.settled.push(Settled::Ready { uuid });
                }
            } else if is_pending {
                let word = if ended.state == JobState::Canceled { "is canceled" } else { "has failed" };
                let error = format!("job {}, which this one depends on, {word}", ended.uuid);
                self.set(other, JobState::Failed, &Change::Fail { error: error.clone() });
                self.tell(other, "failed", &format!("\"{error}\""), true);
                self.settled.push(Settled::Failed { id: other, uuid });
                failed.push(other);
            }
        }
        // The last one first, like the other engine.
        failed.into_iter().rev().for_each(|other| self.settle(other));
    }

    /// Whether the run holds the job, and whether the job is decided.
    fn holds(&self, run: Run, uuid: &Arc<str>) -> Option<bool> {
        if let Some((_, attempt, of)) = self.going_on.get(&run.job) {
            return (*attempt == run.attempt && of == uuid).then_some(true);
        }
        let row = &self.state.jobs.get(&run.job)?.row;
        (row.state == JobState::Running && row.attempt == run.attempt && row.uuid == **uuid).then_some(false)
    }

    fn own_event(&mut self, event: &OwnEvent) -> Result<Outcome, Fault> {
        let id = event.run.job;
        if self.holds(event.run, &event.uuid).is_some() && self.state.jobs.contains_key(&id) {
            if &*event.kind == "poison" {
                return Err(Fault::Command("poison".to_owned()));
            }
            self.tell(id, &event.kind, &event.data, false);
            let blob = event.blob.as_ref().map(|blob| blob.name.clone());
            self.state.jobs.get_mut(&id).unwrap().event_blobs.extend(blob);
        }
        Ok(Outcome::Nothing)
    }

    fn checkpoint(&mut self, checkpoint: &Checkpoint) -> bool {
        let runs = self.holds(checkpoint.run, &checkpoint.uuid) == Some(false);
        if runs {
            let bytes = Some(checkpoint.bytes.clone()).filter(|bytes| !bytes.is_empty());
            self.state.jobs.get_mut(&checkpoint.run.job).unwrap().checkpoint = bytes;
        }
        runs
    }

    fn made(&mut self, made: &MadeFiles) -> bool {
        let runs = self.holds(made.run, &made.uuid) == Some(false);
        if runs {
            let files = made.files.iter().map(|MadeFile { name, bytes }| (name.clone(), (made.dir.clone(), *bytes)));
            let job = self.state.jobs.get_mut(&made.run.job).unwrap();
            let before = std::mem::replace(&mut job.made, files.collect());
            self.state.gone_dirs.extend(before.into_values().map(|(dir, _)| dir));
        }
        runs
    }

    fn remove(&mut self, id: i64) {
        if let Some(job) = self.state.jobs.remove(&id) {
            self.state.events.retain(|event| event.job_id != id);
            self.state.gone_dirs.extend(job.made.into_values().map(|(dir, _)| dir));
        }
    }

    fn delete(&mut self, uuid: &str) -> Deleted {
        match self.state.by_uuid(uuid).map(|job| (job.row.id, job.row.state)) {
            None => Deleted::Unknown,
            Some((id, state)) if state.is_final() => {
                self.remove(id);
                self.going_on.remove(&id);
                Deleted::Done
            }
            Some((_, state)) => Deleted::NotFinished(state),
        }
    }

    fn sweep(&mut self, before_ms: i64, limit: u32) -> usize {
        let rows = self.state.jobs.values().map(|job| &job.row);
        let mut old: Vec<(i64, i64)> = rows
            .filter(|row| row.state.is_final() && row.updated_at_ms < before_ms)
            .map(|row| (row.updated_at_ms, row.id))
            .collect();
        old.sort_unstable();
        old.truncate(limit as usize);
        old.iter().for_each(|(_, id)| self.remove(*id));
        old.len()
    }

    fn schedule(&mut self, change: &ScheduleChange) -> Result<ScheduleOutcome, Fault> {
        Ok(match change {
            ScheduleChange::Put { spec, next_ms } => self.put(spec, *next_ms),
            ScheduleChange::Remove { name, declared } => match self.state.schedules.get(name) {
                None => ScheduleOutcome::NotFound,
                Some(row) if row.spec.declared != *declared => ScheduleOutcome::Taken,
                Some(_) => {
                    self.state.schedules.remove(name);
                    ScheduleOutcome::Gone
                }
            },
            ScheduleChange::Fire { revision, next_ms, job } => self.fire(*revision, *next_ms, job)?,
        })
    }

    fn put(&mut self, spec: &ScheduleSpec, next_ms: i64) -> ScheduleOutcome {
        let fresh = ScheduleRow {
            spec: spec.clone(),
            revision: 0,
            next_ms,
            last_slot_ms: None,
            last_job: None,
            runs: 0,
            skipped: 0,
        };
        let mut row = self.state.schedules.get(&spec.name).cloned().unwrap_or(fresh);
        if row.spec.declared != spec.declared {
            return ScheduleOutcome::Taken;
        }
        if row.revision > 0 && row.spec == *spec {
            return ScheduleOutcome::Is(row);
        }
        let is_due = row.next_ms <= self.state.now_ms;
        if row.revision > 0 && (&row.spec.cron, &row.spec.zone) != (&spec.cron, &spec.zone) && !is_due {
            row.next_ms = next_ms;
        }
        (row.spec, row.revision) = (spec.clone(), row.revision + 1);
        self.state.schedules.insert(spec.name.clone(), row.clone());
        ScheduleOutcome::Is(row)
    }

    fn fire(&mut self, revision: i64, next_ms: i64, job: &NewJob) -> Result<ScheduleOutcome, Fault> {
        let slot = job.slot.clone().unwrap();
        let Some(mut row) = self.state.schedules.get(&slot.schedule).cloned() else { return Ok(ScheduleOutcome::Gone) };
        if (row.revision, row.next_ms) != (revision, slot.at_ms) {
            return Ok(ScheduleOutcome::Is(row));
        }
        let mut jobs = self.state.jobs.values().map(|job| &job.row);
        let had_turn = jobs.clone().any(|row| row.slot.as_ref() == Some(&slot));
        let goes_on = jobs.any(|job| Some(&job.uuid) == row.last_job.as_ref() && !job.state.is_final());
        let goes_on = goes_on && !row.spec.overlap;
        (row.next_ms, row.last_slot_ms) = (next_ms, Some(slot.at_ms));
        let mut outcome = None;
        if had_turn || goes_on {
            row.skipped += i64::from(goes_on);
        } else if let Outcome::Inserted(id, now_ms, _) = self.submit(job)? {
            (row.runs, row.last_job) = (row.runs + 1, Some(job.uuid.clone()));
            outcome = Some(Box::new(job.clone().into_row(id, now_ms, false)));
        } else {
            return Ok(ScheduleOutcome::Is(self.state.schedules[&slot.schedule].clone()));
        }
        self.state.schedules.insert(slot.schedule, row.clone());
        Ok(outcome.map_or(ScheduleOutcome::Is(row.clone()), |job| ScheduleOutcome::Fired(job, row)))
    }

    fn pause(&mut self, kind: &JobKind, pause: bool) -> Paused {
        if !pause {
            self.state.paused.remove(kind);
        } else if self.state.paused.len() >= PAUSED_MAX {
            return Paused::TooMany;
        } else {
            self.state.paused.insert(kind.clone());
        }
        Paused::Done
    }
}
