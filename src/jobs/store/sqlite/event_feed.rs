//! The events of many jobs, a page at a time.

use crate::jobs::store::{FeedFilter, FeedPage, JobEvent, StoreError};
use rusqlite::types::{ToSql, Value};
use rusqlite::{Connection, OptionalExtension};

/// Limit on the events that one page examines: a filter may match few of them.
const WINDOW: i64 = 20_000;

/// See [`Read::feed`](crate::jobs::store::Read::feed).
pub(super) fn page(
    connection: &Connection,
    filter: &FeedFilter,
    after: i64,
    limit: u32,
    bytes_max: usize,
) -> Result<FeedPage, StoreError> {
    // Numbers of deleted events are not reused, and SQLite remembers the highest number.
    let mut last = connection.prepare("SELECT seq FROM sqlite_sequence WHERE name = 'job_events'")?;
    let last: i64 = last.query_row([], |row| row.get(0)).optional()?.unwrap_or(0);
    if after < 0 || after >= last {
        // A cursor beyond the last number is older than the database's restore from a backup: its reader waits.
        return Ok(FeedPage { events: Vec::new(), read_to: after.max(last), at_end: true });
    }
    let end = last.min(after.saturating_add(WINDOW));
    // CROSS: SQLite must scan the events in their order, and look up each event's job.
    let mut sql = "SELECT e.job_id, j.uuid, e.id, e.ts, e.type, e.data_json, e.final, j.module_name, j.job_name \
         FROM job_events AS e CROSS JOIN jobs AS j ON j.id = e.job_id WHERE e.id > ? AND e.id <= ?"
        .to_owned();
    let mut values = vec![Value::from(after), Value::from(end)];
    if let Some(module) = &filter.module {
        sql.push_str(" AND j.module_name = ?");
        values.push(Value::from(module.clone()));
    }
    if let Some(state) = filter.state {
        sql.push_str(" AND e.final = 1 AND e.type = ?");
        values.push(Value::from(state.as_str().to_owned()));
    }
    sql.push_str(" ORDER BY e.id LIMIT ?");
    values.push(Value::from(limit));
    let values: Vec<&dyn ToSql> = values.iter().map(|value| value as &dyn ToSql).collect();
    let mut statement = connection.prepare(&sql)?;
    let found = statement.query_map(values.as_slice(), |row| {
        let event = JobEvent {
            job_id: row.get(0)?,
            uuid: row.get::<_, String>(1)?.into(),
            id: row.get(2)?,
            ts_ms: row.get(3)?,
            kind: row.get(4)?,
            data: row.get(5)?,
            is_final: row.get(6)?,
        };
        Ok((event, row.get(7)?, row.get(8)?))
    })?;
    let (mut events, mut bytes) = (Vec::new(), 0);
    for event in found {
        let event: (JobEvent, String, String) = event?;
        bytes += event.0.data.len();
        events.push(event);
        if bytes >= bytes_max {
            break;
        }
    }
    let is_cut = events.len() >= limit as usize || bytes >= bytes_max;
    let read_to = if is_cut { events.last().map_or(after, |(event, ..)| event.id) } else { end };
    Ok(FeedPage { events, read_to, at_end: !is_cut && end == last })
}
