//! Converts a row of `jobs` to a [`JobRow`].

use crate::jobs::store::{JobRow, JobState, Slot};
use rusqlite::Row;
use rusqlite::types::Type;

/// The columns that [`job`] expects, in its order. An optional expression replaces the payload.
macro_rules! job_columns {
    () => {
        job_columns!("payload_json")
    };
    ($payload:literal) => {
        concat!(
            "id, uuid, module_name, job_name, state, module_hash, created_at, updated_at, ",
            $payload,
            ", result_json, error_text, attempt, max_attempts, backoff_ms, timeout_ms, run_at, priority, unique_key, \
             retries, attempts_before, schedule_name, slot_at, concurrency_key, concurrency_limit, \
             (SELECT group_concat(needed.uuid) FROM job_dependencies JOIN jobs AS needed ON needed.id = needs_id \
             WHERE job_id = jobs.id)"
        )
    };
}
pub(super) use job_columns;

pub(super) fn job(row: &Row<'_>) -> rusqlite::Result<JobRow> {
    Ok(JobRow {
        id: row.get(0)?,
        uuid: row.get(1)?,
        module: row.get(2)?,
        job: row.get(3)?,
        state: state(row, 4)?,
        module_hash: row.get(5)?,
        created_at_ms: row.get(6)?,
        updated_at_ms: row.get(7)?,
        payload: row.get(8)?,
        result: row.get(9)?,
        error: row.get(10)?,
        attempt: row.get(11)?,
        max_attempts: row.get(12)?,
        backoff_ms: row.get::<_, i64>(13)?.unsigned_abs(),
        timeout_ms: row.get::<_, i64>(14)?.unsigned_abs(),
        run_at_ms: row.get(15)?,
        priority: row.get(16)?,
        unique_key: row.get(17)?,
        retries: row.get(18)?,
        attempts_before: row.get(19)?,
        slot: slot(row.get(20)?, row.get(21)?),
        concurrency_key: row.get(22)?,
        concurrency_limit: row.get(23)?,
        depends_on: row
            .get::<_, Option<String>>(24)?
            .iter()
            .flat_map(|list| list.split(','))
            .map(str::to_owned)
            .collect(),
    })
}

fn slot(schedule: Option<String>, at_ms: Option<i64>) -> Option<Slot> {
    Some(Slot { schedule: schedule?, at_ms: at_ms? })
}

pub(super) fn state(row: &Row<'_>, column: usize) -> rusqlite::Result<JobState> {
    let name = row.get_ref(column)?.as_str()?;
    JobState::parse(name).ok_or_else(|| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, format!("no job state is called {name:?}").into())
    })
}

/// SQLite's integers end at `i64::MAX`; a limit that high has no effect anyway.
pub(super) fn saturated(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
