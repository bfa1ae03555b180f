//! Schedules in the database: a slot's job and the record of the slot are written in one transaction.

use super::applier::Applier;
use super::rows;
use crate::jobs::store::engine::Outcome;
use crate::jobs::store::error::Fault;
use crate::jobs::store::{NewJob, ScheduleChange, ScheduleOutcome, ScheduleRow, ScheduleSpec, Slot};
use rusqlite::{Connection, OptionalExtension, Row, params};

const COLUMNS: &str = "name, module_name, job_name, cron, timezone, payload_json, overlap, declared, revision, next_at, \
     last_slot, last_job, runs, skipped";

fn row(row: &Row<'_>) -> rusqlite::Result<ScheduleRow> {
    Ok(ScheduleRow {
        spec: ScheduleSpec {
            name: row.get(0)?,
            module: row.get(1)?,
            job: row.get(2)?,
            cron: row.get(3)?,
            zone: row.get(4)?,
            payload: row.get(5)?,
            overlap: row.get(6)?,
            declared: row.get(7)?,
        },
        revision: row.get(8)?,
        next_ms: row.get(9)?,
        last_slot_ms: row.get(10)?,
        last_job: row.get(11)?,
        runs: row.get(12)?,
        skipped: row.get(13)?,
    })
}

/// All schedules, by name.
pub(super) fn all(connection: &Connection) -> rusqlite::Result<Vec<ScheduleRow>> {
    connection.prepare(&format!("SELECT {COLUMNS} FROM schedules ORDER BY name"))?.query_map([], row)?.collect()
}

/// Statements are prepared on demand, because a schedule is processed at most once a second.
impl Applier<'_> {
    pub(super) fn schedule(&mut self, change: &ScheduleChange) -> Result<ScheduleOutcome, Fault> {
        match change {
            ScheduleChange::Put { spec, next_ms } => self.put(spec, *next_ms),
            ScheduleChange::Remove { name, declared } => self.remove(name, *declared),
            ScheduleChange::Fire { revision, next_ms, job } => self.fire(*revision, *next_ms, job),
        }
    }

    fn known(&self, name: &str) -> Result<Option<ScheduleRow>, Fault> {
        let sql = format!("SELECT {COLUMNS} FROM schedules WHERE name = ?1");
        Ok(self.connection().prepare(&sql)?.query_row([name], row).optional()?)
    }

    fn is(&self, name: &str) -> Result<ScheduleOutcome, Fault> {
        Ok(self.known(name)?.map_or(ScheduleOutcome::Gone, ScheduleOutcome::Is))
    }

    fn put(&mut self, spec: &ScheduleSpec, next_ms: i64) -> Result<ScheduleOutcome, Fault> {
        let known = self.known(&spec.name)?;
        let (mut revision, mut next_ms) = (1, next_ms);
        if let Some(known) = known {
            if known.spec.declared != spec.declared {
                return Ok(ScheduleOutcome::Taken);
            }
            if known.spec == *spec {
                return Ok(ScheduleOutcome::Is(known));
            }
            revision = known.revision + 1;
            let same_times = known.spec.cron == spec.cron && known.spec.zone == spec.zone;
            // A due slot is processed before the new times apply, so that a change loses no slot.
            if same_times || known.next_ms <= self.now_ms() {
                next_ms = known.next_ms;
            }
        }
        const PUT: &str = "INSERT INTO schedules (name, module_name, job_name, cron, timezone, payload_json, overlap, \
             declared, revision, next_at, created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) \
             ON CONFLICT (name) DO UPDATE SET module_name = ?2, job_name = ?3, cron = ?4, timezone = ?5, \
             payload_json = ?6, overlap = ?7, revision = ?9, next_at = ?10";
        let now_ms = self.now_ms();
        self.connection().prepare(PUT)?.execute(params![
            spec.name,
            spec.module,
            spec.job,
            spec.cron,
            spec.zone,
            spec.payload,
            spec.overlap,
            spec.declared,
            revision,
            next_ms,
            now_ms
        ])?;
        self.is(&spec.name)
    }

    fn remove(&mut self, name: &str, declared: bool) -> Result<ScheduleOutcome, Fault> {
        const REMOVE: &str = "DELETE FROM schedules WHERE name = ?1 AND declared = ?2";
        match self.connection().prepare(REMOVE)?.execute(params![name, declared])? {
            0 if self.known(name)?.is_some() => Ok(ScheduleOutcome::Taken),
            0 => Ok(ScheduleOutcome::NotFound),
            _ => Ok(ScheduleOutcome::Gone),
        }
    }

    fn fire(&mut self, revision: i64, next_ms: i64, job: &NewJob) -> Result<ScheduleOutcome, Fault> {
        let Some(slot) = &job.slot else { return Ok(ScheduleOutcome::NotFound) };
        let Some(known) = self.known(&slot.schedule)? else { return Ok(ScheduleOutcome::Gone) };
        if known.revision != revision || known.next_ms != slot.at_ms {
            return Ok(ScheduleOutcome::Is(known));
        }
        let had_turn = self.exists("SELECT 1 FROM jobs WHERE schedule_name = ?1 AND slot_at = ?2", slot)?;
        let goes_on = !known.spec.overlap && self.goes_on(known.last_job.as_deref())?;
        if had_turn || goes_on {
            const SKIP: &str =
                "UPDATE schedules SET next_at = ?2, last_slot = ?3, skipped = skipped + ?4 WHERE name = ?1";
            self.connection().prepare(SKIP)?.execute(params![slot.schedule, next_ms, slot.at_ms, goes_on])?;
            return self.is(&slot.schedule);
        }
        // The uuid is new and there is no unique key, so no other outcome is possible.
        let Outcome::Inserted(id, now_ms, _) = self.submit(job)? else { return self.is(&slot.schedule) };
        const TURN: &str =
            "UPDATE schedules SET next_at = ?2, last_slot = ?3, last_job = ?4, runs = runs + 1 WHERE name = ?1";
        self.connection().prepare(TURN)?.execute(params![slot.schedule, next_ms, slot.at_ms, job.uuid])?;
        Ok(match self.known(&slot.schedule)? {
            Some(row) => ScheduleOutcome::Fired(Box::new(job.clone().into_row(id, now_ms, false)), row),
            None => ScheduleOutcome::Gone,
        })
    }

    fn exists(&self, sql: &str, slot: &Slot) -> Result<bool, Fault> {
        Ok(self.connection().prepare(sql)?.exists(params![slot.schedule, slot.at_ms])?)
    }

    /// Whether the job with this uuid has not ended.
    fn goes_on(&self, uuid: Option<&str>) -> Result<bool, Fault> {
        const STATE: &str = "SELECT state FROM jobs WHERE uuid = ?1";
        let Some(uuid) = uuid else { return Ok(false) };
        let mut statement = self.connection().prepare(STATE)?;
        let state = statement.query_row([uuid], |row| rows::state(row, 0)).optional()?;
        Ok(state.is_some_and(|state| !state.is_final()))
    }
}
