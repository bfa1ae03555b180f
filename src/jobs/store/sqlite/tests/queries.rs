//! The indexes behind the queries.

use super::super::{rows::job_columns, statements};
use super::*;

#[test]
fn every_query_has_its_index() {
    let fixture = Fixture::<Store>::new();
    let connection = Connection::open(path(&fixture)).unwrap();
    let plan = |sql: &str| -> String {
        let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let count = statement.parameter_count();
        let rows = statement.query_map(rusqlite::params_from_iter(vec![1; count]), |row| row.get::<_, String>(3));
        rows.unwrap().collect::<rusqlite::Result<Vec<_>>>().unwrap().join("; ")
    };
    let list = |condition: &str| {
        let sql = concat!("SELECT ", job_columns!(), " FROM jobs WHERE id < ?");
        plan(&format!("{sql} {condition} ORDER BY id DESC LIMIT ?"))
    };
    for (plan, index) in [
        (list(""), "INTEGER PRIMARY KEY"),
        (list("AND state = ?"), "jobs_by_state"),
        (list("AND module_name = ?"), "jobs_by_module"),
        (plan(statements::BY_UNIQUE_KEY), "jobs_by_unique_key"),
        (plan(statements::SWEEP), "jobs_by_end"),
        (plan("SELECT * FROM job_events WHERE job_id = ? AND id > ? ORDER BY id LIMIT ?"), "job_events_by_job"),
    ] {
        assert!(plan.contains(index), "{plan} doesn't use {index}");
        assert!(!plan.contains("TEMP B-TREE"), "{plan} sorts");
        assert!(!plan.contains("SCAN"), "{plan} scans");
    }
}
