//! Reads, each on a read-only connection of its own.

use super::rows::{self, job_columns};
use super::{JobEvent, JobFilter, JobRow, JobState, StoreError, schema};
use rusqlite::types::{ToSql, Value};
use rusqlite::{Connection, OptionalExtension, Statement, params};
use std::path::Path;
use std::sync::Arc;

/// A read-only connection; it sees every command that was acknowledged before the call.
pub struct Reader {
    connection: Connection,
}

impl Reader {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Self { connection: schema::open_reading(path)? })
    }

    /// The job with this uuid.
    ///
    /// # Errors
    /// [`StoreError::Read`], as for every method here: the database can't be read, or has invalid content.
    pub fn job(&mut self, uuid: &str) -> Result<Option<JobRow>, StoreError> {
        let mut statement = self.prepare(concat!("SELECT ", job_columns!(), " FROM jobs WHERE uuid = ?1"))?;
        Ok(statement.query_row([uuid], rows::job).optional()?)
    }

    /// Jobs, newest first, without their payloads. The list has at most the filter's limit of jobs, and ends with the job that
    /// brings the bytes of their results to `bytes_max` or more.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    pub fn jobs(&mut self, filter: &JobFilter, bytes_max: usize) -> Result<Vec<JobRow>, StoreError> {
        let Some(before) = self.cursor(filter.before.as_deref())? else { return Ok(Vec::new()) };
        let mut sql = concat!("SELECT ", job_columns!("''"), " FROM jobs WHERE id < ?").to_owned();
        let mut values = vec![Value::from(before)];
        let conditions = [
            (" AND state = ?", filter.state.map(JobState::as_str)),
            (" AND module_name = ?", filter.module.as_deref()),
            (" AND job_name = ?", filter.job.as_deref()),
        ];
        for (condition, value) in conditions {
            if let Some(value) = value {
                sql.push_str(condition);
                values.push(Value::from(value.to_owned()));
            }
        }
        if !filter.among.is_empty() {
            let names: Vec<String> = filter.among.iter().map(|state| format!("'{}'", state.as_str())).collect();
            sql.push_str(&format!(" AND state IN ({})", names.join(", ")));
        }
        sql.push_str(" ORDER BY id DESC LIMIT ?");
        values.push(Value::from(filter.limit));
        let values: Vec<&dyn ToSql> = values.iter().map(|value| value as &dyn ToSql).collect();
        self.collect(&sql, &values, bytes_max)
    }

    /// The number of the job with this uuid.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    pub fn id(&mut self, uuid: &str) -> Result<Option<i64>, StoreError> {
        self.id_of(uuid)
    }

    /// The payload of a job; `None` if there is no such job.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    pub fn payload(&mut self, job_id: i64) -> Result<Option<String>, StoreError> {
        let mut statement = self.prepare("SELECT payload_json FROM jobs WHERE id = ?1")?;
        Ok(statement.query_row([job_id], |row| row.get(0)).optional()?)
    }

    /// The state of a job; `None` if there is no such job.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    pub fn state(&mut self, job_id: i64) -> Result<Option<JobState>, StoreError> {
        let mut statement = self.prepare("SELECT state FROM jobs WHERE id = ?1")?;
        Ok(statement.query_row([job_id], |row| rows::state(row, 0)).optional()?)
    }

    /// The job's events with ids above `after`, in order: at most `limit`. The list ends with the event that brings the bytes
    /// of their data to `bytes_max` or more.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    pub fn events(
        &mut self,
        job_id: i64,
        after: i64,
        limit: u32,
        bytes_max: usize,
    ) -> Result<Vec<JobEvent>, StoreError> {
        let mut uuid = self.prepare("SELECT uuid FROM jobs WHERE id = ?1")?;
        let Some(uuid) = uuid.query_row([job_id], |row| row.get::<_, String>(0)).optional()? else {
            return Ok(Vec::new());
        };
        let uuid: Arc<str> = uuid.into();
        let mut statement = self.prepare(
            "SELECT id, ts, type, data_json, final FROM job_events WHERE job_id = ?1 AND id > ?2 ORDER BY id LIMIT ?3",
        )?;
        let found = statement.query_map(params![job_id, after, limit], |row| {
            Ok(JobEvent {
                job_id,
                uuid: Arc::clone(&uuid),
                id: row.get(0)?,
                ts_ms: row.get(1)?,
                kind: row.get(2)?,
                data: row.get(3)?,
                is_final: row.get(4)?,
            })
        })?;
        let (mut events, mut bytes) = (Vec::new(), 0);
        for event in found {
            let event: JobEvent = event?;
            bytes += event.data.len();
            events.push(event);
            if bytes >= bytes_max {
                break;
            }
        }
        Ok(events)
    }

    /// Pending and running jobs with ids above `after_id`, in order and without their payloads: the jobs that a starting server
    /// must recover.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    pub fn unfinished(&mut self, after_id: i64, limit: u32) -> Result<Vec<JobRow>, StoreError> {
        const SQL: &str = concat!(
            "SELECT ",
            job_columns!("''"),
            " FROM jobs WHERE state IN ('pending', 'running') AND id > ?1 ORDER BY id LIMIT ?2"
        );
        self.collect(SQL, params![after_id, limit], usize::MAX)
    }

    /// The id below which a page begins; `None` if its job does not exist any more.
    fn cursor(&self, before: Option<&str>) -> Result<Option<i64>, StoreError> {
        match before {
            None => Ok(Some(i64::MAX)),
            Some(uuid) => self.id_of(uuid),
        }
    }

    fn id_of(&self, uuid: &str) -> Result<Option<i64>, StoreError> {
        let mut statement = self.prepare("SELECT id FROM jobs WHERE uuid = ?1")?;
        Ok(statement.query_row([uuid], |row| row.get(0)).optional()?)
    }

    fn collect(&self, sql: &str, values: &[&dyn ToSql], bytes_max: usize) -> Result<Vec<JobRow>, StoreError> {
        let mut statement = self.prepare(sql)?;
        let (mut jobs, mut bytes) = (Vec::new(), 0);
        for job in statement.query_map(values, rows::job)? {
            let job = job?;
            bytes += [&job.result, &job.error].into_iter().flatten().map(String::len).sum::<usize>();
            jobs.push(job);
            if bytes >= bytes_max {
                break;
            }
        }
        Ok(jobs)
    }

    /// Prepares a statement; all reads use this function.
    pub(super) fn prepare(&self, sql: &str) -> Result<Statement<'_>, StoreError> {
        Ok(self.connection.prepare(sql)?)
    }
}
