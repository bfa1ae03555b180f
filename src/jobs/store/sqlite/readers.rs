//! The readers: each has a read-only connection of its own.

use super::rows::{self, job_columns};
use super::{event_feed, pages, schedules, schema};
use crate::jobs::blobs::MadeFile;
use crate::jobs::store::{
    FeedFilter, FeedPage, JobEvent, JobFiles, JobFilter, JobKind, JobRow, JobState, Read, ScheduleRow, StoreError,
    TableQuery,
};
use rusqlite::types::{ToSql, Value};
use rusqlite::{Connection, OptionalExtension, Statement, params};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

/// A read-only connection.
pub struct Reader {
    connection: Connection,
}

impl Reader {
    pub(in crate::jobs::store) fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Self { connection: schema::open_reading(path)? })
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

    fn prepare(&self, sql: &str) -> Result<Statement<'_>, StoreError> {
        Ok(self.connection.prepare(sql)?)
    }
}

impl Read for Reader {
    fn job(&mut self, uuid: &str) -> Result<Option<JobRow>, StoreError> {
        let mut statement = self.prepare(concat!("SELECT ", job_columns!(), " FROM jobs WHERE uuid = ?1"))?;
        Ok(statement.query_row([uuid], rows::job).optional()?)
    }

    fn jobs(&mut self, filter: &JobFilter, bytes_max: usize) -> Result<Vec<JobRow>, StoreError> {
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

    fn id(&mut self, uuid: &str) -> Result<Option<i64>, StoreError> {
        self.id_of(uuid)
    }

    fn payload(&mut self, job_id: i64) -> Result<Option<String>, StoreError> {
        let mut statement = self.prepare("SELECT payload_json FROM jobs WHERE id = ?1")?;
        Ok(statement.query_row([job_id], |row| row.get(0)).optional()?)
    }

    fn state(&mut self, job_id: i64) -> Result<Option<JobState>, StoreError> {
        let mut statement = self.prepare("SELECT state FROM jobs WHERE id = ?1")?;
        Ok(statement.query_row([job_id], |row| rows::state(row, 0)).optional()?)
    }

    fn events(&mut self, job_id: i64, after: i64, limit: u32, bytes_max: usize) -> Result<Vec<JobEvent>, StoreError> {
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

    fn unfinished(&mut self, after_id: i64, limit: u32) -> Result<Vec<JobRow>, StoreError> {
        const SQL: &str = concat!(
            "SELECT ",
            job_columns!("''"),
            " FROM jobs WHERE state IN ('pending', 'running') AND id > ?1 ORDER BY id LIMIT ?2"
        );
        self.collect(SQL, params![after_id, limit], usize::MAX)
    }

    fn event_count(&mut self, job_id: i64) -> Result<u64, StoreError> {
        let mut statement = self.prepare("SELECT count(*) FROM job_events WHERE job_id = ?1")?;
        Ok(statement.query_row([job_id], |row| row.get::<_, i64>(0))?.unsigned_abs())
    }

    fn feed(&mut self, filter: &FeedFilter, after: i64, limit: u32, bytes_max: usize) -> Result<FeedPage, StoreError> {
        event_feed::page(&self.connection, filter, after, limit, bytes_max)
    }

    fn paused(&mut self) -> Result<Vec<JobKind>, StoreError> {
        let mut statement = self.prepare("SELECT module_name, job_name FROM paused_jobs")?;
        let found = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
        Ok(found)
    }

    fn schedules(&mut self) -> Result<Vec<ScheduleRow>, StoreError> {
        Ok(schedules::all(&self.connection)?)
    }

    fn page(&mut self, query: &TableQuery, modules: Option<&[String]>) -> Result<String, StoreError> {
        pages::page(&self.connection, query, modules)
    }

    fn checkpoint(&mut self, job_id: i64) -> Result<Option<Vec<u8>>, StoreError> {
        let mut statement = self.prepare("SELECT bytes FROM job_checkpoints WHERE job_id = ?1")?;
        Ok(statement.query_row([job_id], |row| row.get(0)).optional()?)
    }

    fn files_given(&mut self, job_id: i64) -> Result<Vec<(String, String)>, StoreError> {
        let mut statement = self.prepare("SELECT name, blob FROM job_files WHERE job_id = ?1 ORDER BY name")?;
        let found = statement.query_map([job_id], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(found.collect::<rusqlite::Result<_>>()?)
    }

    fn files(&mut self, uuid: &str) -> Result<Option<JobFiles>, StoreError> {
        let Some(id) = self.id(uuid)? else { return Ok(None) };
        let Some(state) = self.state(id)? else { return Ok(None) };
        let given = self.files_given(id)?;
        let mut statement = self.prepare("SELECT name, bytes FROM job_outputs WHERE job_id = ?1 ORDER BY name")?;
        let made = statement
            .query_map([id], |row| Ok(MadeFile { name: row.get(0)?, bytes: row.get::<_, i64>(1)?.unsigned_abs() }))?;
        let made = made.collect::<rusqlite::Result<Vec<_>>>()?;
        Ok(Some(JobFiles { state, given, made: if state == JobState::Done { made } else { Vec::new() } }))
    }

    fn output_dir(&mut self, uuid: &str, name: &str) -> Result<Option<String>, StoreError> {
        let mut statement = self.prepare(
            "SELECT dir FROM job_outputs WHERE name = ?2 AND \
             job_id = (SELECT id FROM jobs WHERE uuid = ?1 AND state = 'done')",
        )?;
        Ok(statement.query_row([uuid, name], |row| row.get(0)).optional()?)
    }

    fn is_blob_needed(&mut self, blob: &str) -> Result<bool, StoreError> {
        let mut statement = self.prepare(
            "SELECT 1 FROM job_files WHERE blob = ?1 UNION ALL SELECT 1 FROM job_event_blobs WHERE blob = ?1 LIMIT 1",
        )?;
        Ok(statement.exists([blob])?)
    }

    fn output_dirs(&mut self) -> Result<HashSet<String>, StoreError> {
        let mut statement = self.prepare("SELECT DISTINCT dir FROM job_outputs")?;
        let found = statement.query_map([], |row| row.get(0))?;
        Ok(found.collect::<rusqlite::Result<_>>()?)
    }

    fn gone_dirs(&mut self, limit: u32) -> Result<Vec<String>, StoreError> {
        let mut statement = self.prepare("SELECT dir FROM job_dirs_gone LIMIT ?1")?;
        let found = statement.query_map([limit], |row| row.get(0))?;
        Ok(found.collect::<rusqlite::Result<_>>()?)
    }
}
