//! Dependencies between jobs: updated in the transaction that ends a dependency.

use super::applier::Applier;
use super::rows;
use crate::jobs::store::error::Fault;
use crate::jobs::store::types::Needs;
use crate::jobs::store::{Change, Changed, JobState, Settled};
use rusqlite::{OptionalExtension, params};
use std::sync::Arc;

impl Applier<'_> {
    /// Looks up the dependencies of a submission.
    pub(super) fn needs(&self, uuids: &[String]) -> Result<Needs, Fault> {
        let mut open = Vec::new();
        if uuids.is_empty() {
            return Ok(Needs::Open(open));
        }
        let mut statement = self.connection().prepare("SELECT id, state FROM jobs WHERE uuid = ?1")?;
        for uuid in uuids {
            let found = statement.query_row([uuid], |row| Ok((row.get::<_, i64>(0)?, rows::state(row, 1)?)));
            match found.optional()? {
                None => return Ok(Needs::Refused(format!("there is no job {uuid}, which \"depends_on\" names"))),
                Some((_, state @ (JobState::Failed | JobState::Canceled))) => {
                    let state = state.as_str();
                    return Ok(Needs::Refused(format!("job {uuid}, which \"depends_on\" names, is {state} already")));
                }
                Some((_, JobState::Done)) => {}
                Some((id, _)) => open.push(id),
            }
        }
        Ok(Needs::Open(open))
    }

    /// Records that job number `id` waits for `needs`.
    pub(super) fn add_needs(&mut self, id: i64, needs: &[i64]) -> Result<(), Fault> {
        if needs.is_empty() {
            return Ok(());
        }
        self.has_dependencies = true;
        // A dependency that is named twice counts once.
        let mut statement =
            self.connection().prepare("INSERT OR IGNORE INTO job_dependencies (job_id, needs_id) VALUES (?1, ?2)")?;
        for need in needs {
            statement.execute(params![id, need])?;
        }
        Ok(())
    }

    /// Whether a retried job must wait for dependencies; `None`: one of them has failed, is canceled or deleted.
    pub(super) fn waits_again(&self, id: i64) -> Result<Option<bool>, Fault> {
        const NEEDS: &str = "SELECT coalesce((SELECT state FROM jobs WHERE id = needs_id), 'failed') \
             FROM job_dependencies WHERE job_id = ?1";
        let mut statement = self.connection().prepare(NEEDS)?;
        let states: Vec<JobState> = statement.query_map([id], |row| rows::state(row, 0))?.collect::<Result<_, _>>()?;
        Ok(states.iter().all(|state| !state.is_final()).then_some(!states.is_empty()))
    }

    /// Handles the end of job number `id`: makes its dependents ready, or fails them and their own dependents.
    pub(super) fn settle(&mut self, id: i64, state: JobState, uuid: &Arc<str>) -> Result<(), Fault> {
        if !self.has_dependencies {
            return Ok(());
        }
        if state == JobState::Done {
            for job in self.column("DELETE FROM job_dependencies WHERE needs_id = ?1 RETURNING job_id", id)? {
                let waits =
                    !self.column("SELECT needs_id FROM job_dependencies WHERE job_id = ?1 LIMIT 1", job)?.is_empty();
                if let Some(uuid) = self.pending_uuid(job).filter(|_| !waits) {
                    self.settled.push(Settled::Ready { uuid });
                }
            }
            return Ok(());
        }
        // Not recursive, because a chain may be as long as the number of jobs.
        let mut ended = vec![(id, Arc::clone(uuid), state)];
        while let Some((id, uuid, state)) = ended.pop() {
            for job in self.column("SELECT job_id FROM job_dependencies WHERE needs_id = ?1", id)? {
                let Some(waiting) = self.pending_uuid(job) else { continue };
                let reason = if state == JobState::Canceled { "is canceled" } else { "has failed" };
                let error = format!("job {uuid}, which this one depends on, {reason}");
                if let Changed::Applied(state) = self.step(job, &Change::Fail { error })? {
                    self.settled.push(Settled::Failed { id: job, uuid: Arc::clone(&waiting) });
                    ended.push((job, waiting, state));
                }
            }
        }
        Ok(())
    }

    fn pending_uuid(&self, id: i64) -> Option<Arc<str>> {
        let job = self.live(id)?;
        (job.state == JobState::Pending).then(|| Arc::clone(&job.uuid))
    }

    /// The numbers that `sql` returns for `id`.
    fn column(&self, sql: &str, id: i64) -> Result<Vec<i64>, Fault> {
        let mut statement = self.connection().prepare(sql)?;
        let found = statement.query_map([id], |row| row.get(0))?.collect::<Result<_, _>>()?;
        Ok(found)
    }
}
