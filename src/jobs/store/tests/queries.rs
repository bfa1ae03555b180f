//! Lists, pages, and the indexes behind them.

use super::super::{rows::job_columns, statements};
use super::*;

fn filter() -> JobFilter {
    JobFilter { limit: 100, ..JobFilter::default() }
}

fn uuids(rows: &[JobRow]) -> Vec<&str> {
    rows.iter().map(|row| &*row.uuid).collect()
}

#[test]
fn lists_are_newest_first_and_filtered() {
    let fixture = Fixture::new();
    let first = fixture.add("a");
    fixture.submit(NewJob { module: "blog".to_owned(), ..new_job("b") }).unwrap();
    fixture.submit(NewJob { job: "bill".to_owned(), ..new_job("c") }).unwrap();
    fixture.change(first, Change::Cancel);
    let mut reader = fixture.store.reader().unwrap();
    let mut list = |filter: JobFilter| uuids(&reader.jobs(&filter, usize::MAX).unwrap()).join(" ");
    let (shop, mail) = (Some("shop".to_owned()), Some("mail".to_owned()));
    assert_eq!(list(filter()), "c b a");
    assert_eq!(list(JobFilter { state: Some(JobState::Pending), ..filter() }), "c b");
    assert_eq!(list(JobFilter { module: shop.clone(), ..filter() }), "c a");
    assert_eq!(list(JobFilter { module: shop, job: mail.clone(), ..filter() }), "a");
    assert_eq!(list(JobFilter { state: Some(JobState::Pending), job: mail, ..filter() }), "b");
    assert_eq!(list(JobFilter { state: Some(JobState::Done), ..filter() }), "");
    assert_eq!(list(JobFilter { limit: 1, ..filter() }), "c");
}

#[test]
fn pages_follow_each_other_while_jobs_come_in() {
    let fixture = Fixture::new();
    for n in 0..5 {
        fixture.add(&n.to_string());
    }
    let mut reader = fixture.store.reader().unwrap();
    let mut page = |before: Option<&str>| {
        let rows =
            reader.jobs(&JobFilter { limit: 2, before: before.map(Into::into), ..filter() }, usize::MAX).unwrap();
        uuids(&rows).join(" ")
    };
    assert_eq!(page(None), "4 3");
    fixture.add("5");
    assert_eq!(page(Some("3")), "2 1");
    assert_eq!(page(Some("1")), "0");
    assert_eq!(page(Some("0")), "");
    assert_eq!(page(Some("never was")), "");
}

#[test]
fn events_and_unfinished_jobs_page_by_id() {
    let fixture = Fixture::new();
    let (a, b) = (fixture.add("a"), fixture.add("b"));
    fixture.change(a, Change::Start { retries: 0 });
    fixture.event(a, "a", "step");
    fixture.change(a, finish(JobState::Done));
    let mut reader = fixture.store.reader().unwrap();
    let events = reader.events(a, 0, 2, usize::MAX).unwrap();
    assert_eq!(kinds(&events), ["created", "started"]);
    let rest = reader.events(a, events[1].id, 10, usize::MAX).unwrap();
    assert_eq!(kinds(&rest), ["step", "done"]);
    assert!(reader.events(a, rest[1].id, 10, usize::MAX).unwrap().is_empty());
    assert!(reader.events(77, 0, 10, 1).unwrap().is_empty());
    assert_eq!(uuids(&reader.unfinished(0, 10).unwrap()), ["b"]);
    assert!(reader.unfinished(b, 10).unwrap().is_empty());
}

#[test]
fn a_reader_sees_what_came_after_it() {
    let fixture = Fixture::new();
    let mut reader = fixture.store.reader().unwrap();
    assert_eq!(reader.job("a").unwrap(), None);
    fixture.add("a");
    assert!(reader.job("a").unwrap().is_some());
}

#[test]
fn every_query_has_its_index() {
    let fixture = Fixture::new();
    let connection = Connection::open(fixture.path()).unwrap();
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
