//! The tables as modules query them.

use serde::{Deserialize, Serialize};

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

impl Table {
    /// The table's name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Jobs => "jobs",
            Self::Events => "job_events",
        }
    }

    /// The table's columns, in the order in which modules see them.
    pub(super) fn columns(self) -> &'static [&'static str] {
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
    /// Bit n: column n is read. The id is always read.
    pub columns: u64,
    /// True: the highest id comes first.
    pub descending: bool,
}
