//! Applies a batch of commands in one transaction: all commands, or none.

use super::live::Live;
use super::statements::Statements;
use super::{faults, rows, schema};
use crate::jobs::store::command::{Command, OwnEvent};
use crate::jobs::store::engine::{Apply, Isolation, Outcome};
use crate::jobs::store::error::Fault;
use crate::jobs::store::transition::{self, LiveJob, Step};
use crate::jobs::store::types::{Needs, Run};
use crate::jobs::store::{Change, Changed, Deleted, JobEvent, JobState, NewJob, Settled};
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// The database side of the writer.
pub(in crate::jobs::store) struct Applier<'c> {
    connection: &'c Connection,
    sql: Statements<'c>,
    live: Live,
    now_ms: i64,
    events: Vec<JobEvent>,
    /// Whether a job may depend on another.
    pub(super) has_dependencies: bool,
    pub(super) settled: Vec<Settled>,
}

impl Apply for Applier<'_> {
    fn transaction(&mut self, commands: &[Command], isolation: Isolation) -> Result<Vec<Outcome>, Fault> {
        self.events.clear();
        self.settled.clear();
        self.tick();
        let done = self.apply_all(commands, isolation);
        match done {
            Ok(_) => self.live.commit(),
            Err(_) => self.undo(),
        }
        done
    }

    /// The rollback has undone the transaction for every connection, but its pages may be in the log with their commit record: a
    /// crash would bring them back. The next commit overwrites them, so an empty commit ends the doubt.
    fn resolve(&mut self) -> Result<Option<Vec<Outcome>>, Fault> {
        let done = self.overwrite_log();
        if done.is_err() {
            self.undo();
        }
        done.map(|()| None)
    }

    fn events(&self) -> &[JobEvent] {
        &self.events
    }

    fn take_settled(&mut self) -> Vec<Settled> {
        std::mem::take(&mut self.settled)
    }

    #[cfg(test)]
    fn inside(&self) -> &dyn std::any::Any {
        self.connection
    }
}

impl<'c> Applier<'c> {
    pub(super) fn new(connection: &'c Connection) -> rusqlite::Result<Self> {
        // Sweeping removes events with their jobs, so neither table alone has the latest time.
        let now_ms = connection.query_row(
            "SELECT max((SELECT coalesce(max(updated_at), 0) FROM jobs), \
             coalesce((SELECT ts FROM job_events ORDER BY id DESC LIMIT 1), 0))",
            [],
            |row| row.get(0),
        )?;
        Ok(Self {
            connection,
            sql: Statements::prepare(connection)?,
            live: Live::load(connection)?,
            now_ms,
            events: Vec::new(),
            has_dependencies: connection.prepare("SELECT 1 FROM job_dependencies LIMIT 1")?.exists([])?,
            settled: Vec::new(),
        })
    }

    pub(super) fn sql(&mut self) -> &mut Statements<'c> {
        &mut self.sql
    }

    pub(super) fn live(&self, id: i64) -> Option<&LiveJob> {
        self.live.get(id)
    }

    /// The job, if it is the one called `uuid` and `run` holds it: running, or decided by that run, which continues.
    pub(super) fn held_by(&self, run: Run, uuid: &Arc<str>) -> Option<&LiveJob> {
        let is_held =
            |job: &&LiveJob| job.state != JobState::Pending && job.attempt == run.attempt && job.uuid == *uuid;
        self.live.get(run.job).filter(is_held)
    }

    pub(super) fn now_ms(&self) -> i64 {
        self.now_ms
    }

    pub(super) fn connection(&self) -> &'c Connection {
        self.connection
    }

    /// Reads the clock. If the clock was set back, the time stands still until the clock has caught up.
    fn tick(&mut self) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.now_ms = self.now_ms.max(i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
    }

    fn apply_all(&mut self, commands: &[Command], isolation: Isolation) -> Result<Vec<Outcome>, Fault> {
        self.sql.begin.execute([])?;
        let mut outcomes = Vec::with_capacity(commands.len());
        for command in commands {
            outcomes.push(match isolation {
                Isolation::Together => self.apply(command)?,
                Isolation::Apart => self.apply_apart(command)?,
            });
        }
        self.sql.commit.execute([]).map_err(faults::of_commit)?;
        Ok(outcomes)
    }

    fn overwrite_log(&self) -> Result<(), Fault> {
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        schema::touch(self.connection)?;
        self.connection.execute_batch("COMMIT").map_err(faults::of_commit)
    }

    fn undo(&mut self) {
        self.events.clear();
        self.settled.clear();
        self.live.roll_back(0);
        // SQLite has already rolled back after some errors. If rolling back fails, the next BEGIN fails too and control returns
        // here.
        if !self.connection.is_autocommit()
            && let Err(error) = self.sql.rollback.execute([])
        {
            tracing::debug!(%error, "job transaction could not be rolled back yet");
        }
    }

    fn apply_apart(&mut self, command: &Command) -> Result<Outcome, Fault> {
        let (live_mark, events_mark, settled_mark) = (self.live.mark(), self.events.len(), self.settled.len());
        self.sql.savepoint.execute([])?;
        let outcome = match self.apply(command) {
            Err(Fault::Command(why)) => {
                self.sql.rollback_to.execute([])?;
                self.live.roll_back(live_mark);
                self.events.truncate(events_mark);
                self.settled.truncate(settled_mark);
                tracing::error!(%why, "a job command was refused by the database");
                Outcome::Refused(why)
            }
            other => other?,
        };
        self.sql.release.execute([])?;
        Ok(outcome)
    }

    fn apply(&mut self, command: &Command) -> Result<Outcome, Fault> {
        match command {
            Command::Submit(job, _) => self.submit(job),
            Command::Change(id, change, _) => Ok(Outcome::Changed(self.change(*id, change)?)),
            Command::Event(event) => self.own_event(event),
            Command::Delete(uuid, _) => Ok(Outcome::Deleted(self.delete(uuid)?)),
            Command::Checkpoint(checkpoint, _) => Ok(Outcome::Kept(self.keep_checkpoint(checkpoint)?)),
            Command::Made(made, _) => Ok(Outcome::Kept(self.keep_made(made)?)),
            Command::ForgetDirs(dirs) => {
                self.forget_dirs(dirs)?;
                Ok(Outcome::Nothing)
            }
            Command::Sweep { before_ms, limit, .. } => {
                Ok(Outcome::Swept(self.sql.sweep.execute(params![before_ms, limit])?))
            }
            Command::Schedule(change, _) => Ok(Outcome::Schedule(Box::new(self.schedule(change)?))),
            Command::Pause(kind, pause, _) => Ok(Outcome::Paused(self.pause(kind, *pause)?)),
            _ => Ok(Outcome::Nothing),
        }
    }

    pub(super) fn submit(&mut self, job: &NewJob) -> Result<Outcome, Fault> {
        if let Some(key) = &job.unique_key {
            let found = self.sql.by_unique_key.query_row([&job.module, &job.job, key], rows::job).optional()?;
            if let Some(row) = found {
                return Ok(Outcome::Existing(Box::new(row)));
            }
        }
        let needs = match self.needs(&job.depends_on)? {
            Needs::Open(needs) => needs,
            Needs::Refused(why) => return Ok(Outcome::NeedsRefused(why)),
        };
        let inserted = self.sql.insert_job.execute(params![
            job.uuid,
            job.module,
            job.job,
            job.module_hash,
            self.now_ms,
            job.payload,
            job.max_attempts,
            rows::saturated(job.backoff_ms),
            rows::saturated(job.timeout_ms),
            job.run_at_ms,
            job.priority,
            job.unique_key,
            job.slot.as_ref().map(|slot| &slot.schedule),
            job.slot.as_ref().map(|slot| slot.at_ms),
            job.concurrency_key,
            job.concurrency_limit,
        ]);
        if let Err(error) = inserted {
            // The statement undid itself, and no earlier statement of this command ran.
            return match error.sqlite_error_code() {
                Some(ErrorCode::ConstraintViolation) => Ok(Outcome::Refused(format!("job {}: {error}", job.uuid))),
                _ => Err(error.into()),
            };
        }
        let id = self.connection.last_insert_rowid();
        self.insert_files(id, &job.files)?;
        let uuid: Arc<str> = job.uuid.as_str().into();
        self.live.set(id, Some(LiveJob::new(Arc::clone(&uuid))));
        self.add_needs(id, &needs)?;
        let data = transition::created_data(&job.payload);
        self.insert_event(JobEvent {
            job_id: id,
            uuid,
            id: 0,
            ts_ms: 0,
            kind: "created".into(),
            data,
            is_final: false,
        })?;
        Ok(Outcome::Inserted(id, self.now_ms, !needs.is_empty()))
    }

    fn change(&mut self, id: i64, change: &Change) -> Result<Changed, Fault> {
        let changed = self.step(id, change)?;
        if let Changed::Applied(state) = changed
            && state.is_final()
            && self.has_dependencies
            && !matches!(change, Change::Return { .. })
        {
            let uuid = self.events.last().map(|event| Arc::clone(&event.uuid)).unwrap_or_default();
            self.settle(id, state, &uuid)?;
        }
        Ok(changed)
    }

    /// Applies the change itself.
    pub(super) fn step(&mut self, id: i64, change: &Change) -> Result<Changed, Fault> {
        let Some(job) = self.live.get(id) else {
            return match change {
                Change::Again { retries, module_hash, run_at_ms } => self.again(id, *retries, module_hash, *run_at_ms),
                _ => self.change_of_ended(id),
            };
        };
        if matches!(change, Change::Return { attempt } if *attempt == job.attempt) && job.state.is_final() {
            let state = job.state;
            self.live.set(id, None);
            return Ok(Changed::Applied(state));
        }
        let Some(Step { state, attempt, kind, data }) = transition::step(job, change) else {
            return Ok(Changed::Refused(job.state));
        };
        let (uuid, retries) = (Arc::clone(&job.uuid), job.retries);
        let (run_at, result, error) = match change {
            Change::Retry { run_at_ms, reason, .. } => (Some(run_at_ms), None, Some(reason)),
            Change::Fail { error } => (None, None, Some(error)),
            Change::Finish { result, error, .. } | Change::Decide { result, error, .. } => {
                (None, result.as_ref(), error.as_ref())
            }
            Change::Start { .. } | Change::Cancel | Change::Return { .. } | Change::Again { .. } => (None, None, None),
        };
        let changed =
            self.sql.change.execute(params![id, state.as_str(), self.now_ms, attempt, run_at, result, error])?;
        if changed == 0 {
            // Another connection, for instance a module, removed the row: the writer must forget the job.
            self.live.set(id, None);
            return Ok(Changed::Unknown);
        }
        let is_final = state.is_final();
        if state == JobState::Done {
            // A failed job keeps its checkpoint: a retry by request resumes from it.
            self.drop_checkpoint(id)?;
        }
        let goes_on = !is_final || matches!(change, Change::Decide { .. });
        self.live.set(id, goes_on.then(|| LiveJob { uuid: Arc::clone(&uuid), state, attempt, retries }));
        self.insert_event(JobEvent { job_id: id, uuid, id: 0, ts_ms: 0, kind: kind.into(), data, is_final })?;
        Ok(Changed::Applied(state))
    }

    fn change_of_ended(&mut self, id: i64) -> Result<Changed, Fault> {
        let state = self.sql.state_by_id.query_row([id], |row| rows::state(row, 0)).optional()?;
        Ok(state.map_or(Changed::Unknown, Changed::Refused))
    }

    /// Makes an ended job pending again.
    fn again(&mut self, id: i64, retries: u32, module_hash: &str, run_at_ms: i64) -> Result<Changed, Fault> {
        let found = self.sql.ended.query_row([id], |row| {
            Ok((row.get::<_, String>(0)?, rows::state(row, 1)?, row.get::<_, u32>(2)?, row.get::<_, u32>(3)?))
        });
        let Some((uuid, state, attempt, known)) = found.optional()? else { return Ok(Changed::Unknown) };
        if !matches!(state, JobState::Failed | JobState::Canceled) || known != retries {
            return Ok(Changed::Refused(state));
        }
        let Some(waits) = self.waits_again(id)? else { return Ok(Changed::Needs) };
        self.sql.again.execute(params![id, self.now_ms, module_hash, run_at_ms])?;
        let uuid: Arc<str> = uuid.into();
        let live = LiveJob { uuid: Arc::clone(&uuid), state: JobState::Pending, attempt, retries: retries + 1 };
        self.live.set(id, Some(live));
        let data = transition::again_data(attempt, run_at_ms);
        self.insert_event(JobEvent {
            job_id: id,
            uuid,
            id: 0,
            ts_ms: 0,
            kind: "retrying".into(),
            data,
            is_final: false,
        })?;
        Ok(if waits { Changed::Waits } else { Changed::Applied(JobState::Pending) })
    }

    fn own_event(&mut self, event: &OwnEvent) -> Result<Outcome, Fault> {
        let id = event.run.job;
        let Some(job) = self.held_by(event.run, &event.uuid) else { return Ok(Outcome::Nothing) };
        // A job that has ended while its run continues may have been deleted or swept.
        if !job.state.is_final() || self.sql.state_by_id.exists([id])? {
            self.insert_event(JobEvent {
                job_id: id,
                uuid: Arc::clone(&event.uuid),
                id: 0,
                ts_ms: 0,
                kind: event.kind.clone(),
                data: event.data.clone(),
                is_final: false,
            })?;
            if let Some(blob) = &event.blob {
                self.sql.insert_event_blob.execute(params![id, blob.name])?;
            }
        }
        Ok(Outcome::Nothing)
    }

    fn delete(&mut self, uuid: &str) -> Result<Deleted, Fault> {
        let found = self.sql.state_by_uuid.query_row([uuid], |row| Ok((row.get::<_, i64>(0)?, rows::state(row, 1)?)));
        match found.optional()? {
            None => Ok(Deleted::Unknown),
            Some((_, state)) if !state.is_final() => Ok(Deleted::NotFinished(state)),
            Some((id, _)) => {
                self.sql.delete.execute([id])?;
                if self.live.get(id).is_some() {
                    self.live.set(id, None);
                }
                Ok(Deleted::Done)
            }
        }
    }

    /// Writes an event and keeps it for publication, with its id and time.
    fn insert_event(&mut self, mut event: JobEvent) -> Result<(), Fault> {
        event.ts_ms = self.now_ms;
        self.sql.insert_event.execute(params![event.job_id, event.ts_ms, event.kind, event.data, event.is_final])?;
        event.id = self.connection.last_insert_rowid();
        self.events.push(event);
        Ok(())
    }
}
