//! The tables for modules that query them by SQL from a process without the file: pages of rows, by id.
//!
//! A page is one short read of bounded size, so no reader keeps the log from being moved into the database. Two pages may show
//! the tables at two different moments.

use super::{StoreError, schema};
use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, ToSql, params};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Limit on the rows of a page.
const ROWS_MAX: usize = 256;
/// A page ends with the row that brings it to this many bytes.
const PAGE_BYTES: usize = 256 * 1024;

/// A table; its columns are in the order of `abi/native/tables.c`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Table {
    /// `jobs`
    Jobs,
    /// `job_events`
    Events,
}

const JOBS: [&str; 18] = [
    "id",
    "uuid",
    "module_name",
    "job_name",
    "state",
    "module_hash",
    "created_at",
    "updated_at",
    "payload_json",
    "result_json",
    "error_text",
    "attempt",
    "max_attempts",
    "backoff_ms",
    "timeout_ms",
    "run_at",
    "priority",
    "unique_key",
];
const EVENTS: [&str; 6] = ["id", "job_id", "ts", "type", "data_json", "final"];
/// Columns that can be long: they are sent only if the query reads them.
const LONG: [&str; 4] = ["payload_json", "result_json", "error_text", "data_json"];
/// Columns with an index, so that the cost of a page depends on its own rows only.
const INDEXED: [&str; 5] = ["id", "uuid", "module_name", "state", "job_id"];

impl Table {
    fn name(self) -> &'static str {
        match self {
            Self::Jobs => "jobs",
            Self::Events => "job_events",
        }
    }

    fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Jobs => &JOBS,
            Self::Events => &EVENTS,
        }
    }
}

/// The value that a column must equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Key {
    /// A number.
    Number(i64),
    /// A text.
    Text(String),
}

impl ToSql for Key {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Number(number) => ToSqlOutput::Owned(Value::Integer(*number)),
            Self::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
        })
    }
}

/// A query for rows; hostile input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableQuery {
    /// The table.
    pub table: Table,
    /// Only rows whose column of this number equals the key; ignored for a column without an index.
    pub equal: Option<(usize, Key)>,
    /// Only rows with a higher id.
    pub after: i64,
    /// Only rows with a lower id.
    pub before: i64,
    /// Bit n: column n is read.
    pub columns: u64,
    /// True: the highest id comes first.
    pub descending: bool,
}

/// Reads for one process with modules.
pub struct Tables {
    path: PathBuf,
    connection: Option<Connection>,
}

impl Tables {
    /// Reads the database at `path`; it is opened for the first page.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), connection: None }
    }

    /// The first matching rows: `m` if there may be more, or `e`, followed by the values, row by row: `n` for NULL, `u` for a
    /// column that is not read, `i…;` a number, `tN:` a text of N bytes. With `modules`, only rows of their jobs.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    /// [`StoreError::Read`].
    pub fn page(&mut self, query: &TableQuery, modules: Option<&[String]>) -> Result<String, StoreError> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => schema::open_reading(&self.path)?,
        };
        read(self.connection.insert(connection), query, modules)
    }
}

fn read(connection: &Connection, query: &TableQuery, modules: Option<&[String]>) -> Result<String, StoreError> {
    let columns = query.table.columns();
    let is_read =
        |at: usize, name: &str| !LONG.contains(&name) || query.columns.checked_shr(at as u32).unwrap_or(0) & 1 == 1;
    let list: Vec<&str> =
        columns.iter().enumerate().map(|(at, name)| if is_read(at, name) { *name } else { "NULL" }).collect();
    let equal = query.equal.as_ref().and_then(|(at, key)| Some((*columns.get(*at)?, key)));
    let (filter, key) = match equal.filter(|(name, _)| INDEXED.contains(name)) {
        Some((name, key)) => (format!(" AND {name} = ?3"), key.clone()),
        None => (" AND ?3 IS NOT NULL".to_owned(), Key::Number(0)),
    };
    let of_modules = match (modules, query.table) {
        (None, _) => " AND ?4 IS NULL",
        (Some(_), Table::Jobs) => " AND module_name IN (SELECT value FROM json_each(?4))",
        (Some(_), Table::Events) => {
            " AND job_id IN (SELECT id FROM jobs WHERE module_name IN (SELECT value FROM json_each(?4)))"
        }
    };
    let modules = modules.map(|names| serde_json::Value::from(names).to_string());
    let order = if query.descending { "DESC" } else { "ASC" };
    let sql = format!(
        "SELECT {} FROM {} WHERE id > ?1 AND id < ?2{filter}{of_modules} ORDER BY id {order} LIMIT {ROWS_MAX}",
        list.join(", "),
        query.table.name()
    );
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query(params![query.after, query.before, key, modules])?;
    let (mut page, mut count) = ("m".to_owned(), 0);
    while page.len() < PAGE_BYTES {
        let Some(row) = rows.next()? else {
            if count < ROWS_MAX {
                page.replace_range(..1, "e");
            }
            break;
        };
        count += 1;
        for (at, name) in columns.iter().enumerate() {
            if is_read(at, name) { append(&mut page, row.get_ref(at)?) } else { page.push('u') }
        }
    }
    Ok(page)
}

fn append(page: &mut String, value: ValueRef<'_>) {
    let mut text = |text: &str| {
        let _ = write!(page, "t{}:{text}", text.len());
    };
    match value {
        ValueRef::Null => page.push('n'),
        ValueRef::Integer(number) => {
            let _ = write!(page, "i{number};");
        }
        ValueRef::Real(number) => text(&number.to_string()),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => text(&String::from_utf8_lossy(bytes)),
    }
}
