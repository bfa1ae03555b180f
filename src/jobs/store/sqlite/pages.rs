//! Pages of the tables that modules query.

use crate::jobs::store::{Key, StoreError, Table, TableQuery};
use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, ToSql, params};
use std::fmt::Write;

/// Limit on the rows of a page.
const ROWS_MAX: usize = 256;
/// A page ends with the row that brings it to this many bytes.
const PAGE_BYTES: usize = 256 * 1024;
/// Columns with an index, so that the cost of a page depends on its own rows only.
const INDEXED: [&str; 5] = ["id", "uuid", "module_name", "state", "job_id"];

impl ToSql for Key {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Number(number) => ToSqlOutput::Owned(Value::Integer(*number)),
            Self::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
        })
    }
}

/// See [`Tables::page`](crate::jobs::store::Tables::page).
pub(super) fn page(
    connection: &Connection,
    query: &TableQuery,
    modules: Option<&[String]>,
) -> Result<String, StoreError> {
    let columns = query.table.columns();
    // The next page begins behind the id of the last row.
    let is_read = |at: usize| at == 0 || query.columns.checked_shr(at as u32).unwrap_or(0) & 1 == 1;
    let list: Vec<&str> =
        columns.iter().enumerate().map(|(at, name)| if is_read(at) { *name } else { "NULL" }).collect();
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
        for at in 0..columns.len() {
            if is_read(at) { append(&mut page, row.get_ref(at)?) } else { page.push('u') }
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
