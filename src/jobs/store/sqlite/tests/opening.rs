//! Opening and closing, and the files that the store accepts.

use super::*;
use std::fs;

fn failure(path: &Path) -> OpenError {
    open(path, &Log::default()).err().expect("the store must not open")
}

#[test]
fn a_second_store_is_refused_while_the_first_is_open() {
    let fixture = Fixture::<Store>::new();
    assert!(matches!(failure(&path(&fixture)), OpenError::Locked { .. }));
    let Fixture { open: opened, home: dir, log } = fixture;
    let store = opened.unwrap();
    store.shutdown();
    open(&database(dir.path()), &log).unwrap();
}

#[test]
fn a_closed_store_leaves_one_file_and_refuses_commands() {
    let fixture = Fixture::<Store>::new();
    fixture.add("a");
    let Fixture { open: opened, home: dir, .. } = fixture;
    let store = opened.unwrap();
    let writer = store.writer();
    store.shutdown();
    let path = database(dir.path());
    assert!(!path.with_extension("db-wal").exists());
    let refused = writer.try_submit(new_job("b"), Box::new(|_| panic!("must not be called")));
    assert_eq!(refused, Err(StoreError::Closed));
    assert_eq!(writer.event(Run { job: 1, attempt: 1 }, "a".into(), "x".into(), "1".into()), Err(StoreError::Closed));
}

#[test]
fn what_was_acknowledged_survives_the_end_of_the_process() {
    let fixture = Fixture::<Store>::new();
    let id = fixture.add("a");
    fixture.change(id, Change::Start { retries: 0 });
    fixture.add("b");
    // The next process would find the files in their present state.
    let after = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture.home.path()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), after.path().join(entry.file_name())).unwrap();
    }
    let log = Log::default();
    let store = open(&database(after.path()), &log).unwrap();
    let reopened = Fixture { home: after, open: Some(store), log };
    let unfinished = reopened.reader().unfinished(0, 10).unwrap();
    let without_payload = |name| JobRow { payload: String::new(), ..fixture.row(name) };
    assert_eq!(unfinished, [without_payload("a"), without_payload("b")]);
    assert_eq!(reopened.reader().payload(id).unwrap(), Some(fixture.row("a").payload));
    assert_eq!(reopened.stored_events(id), fixture.stored_events(id));
    // The jobs' states are known again, too.
    assert_eq!(reopened.change(id, Change::Start { retries: 0 }), Changed::Refused(JobState::Running));
    assert_eq!(reopened.change(id + 1, Change::Start { retries: 0 }), Changed::Applied(JobState::Running));
}

#[test]
fn time_never_goes_backwards() {
    let fixture = Fixture::<Store>::new();
    fixture.add("a");
    let future = 1 << 50;
    on_writer(&fixture, "UPDATE jobs SET updated_at = 1 << 50");
    let Fixture { open: opened, home: dir, log } = fixture;
    let store = opened.unwrap();
    store.shutdown();
    let store = open(&database(dir.path()), &log).unwrap();
    let fixture = Fixture { home: dir, open: Some(store), log };
    let id = fixture.add("b");
    assert_eq!(fixture.row("b").created_at_ms, future);
    assert_eq!(fixture.stored_events(id)[0].ts_ms, future);
}

#[test]
fn a_later_format_is_refused() {
    let Fixture { open: opened, home: dir, .. } = Fixture::<Store>::new();
    let store = opened.unwrap();
    store.shutdown();
    let path = database(dir.path());
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert!(matches!(failure(&path), OpenError::Newer { found: 99, .. }));
}

#[test]
fn the_file_may_already_hold_other_tables() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(dir.path());
    let module = Connection::open(&path).unwrap();
    // A check of the whole file would report this row; only the module is responsible for it.
    module
        .execute_batch("CREATE TABLE notes (text CHECK (text = 'ok')); PRAGMA ignore_check_constraints = ON")
        .unwrap();
    module.execute_batch("INSERT INTO notes VALUES ('x')").unwrap();
    let store = open(&path, &Log::default()).unwrap();
    module.execute_batch("INSERT INTO notes VALUES ('y')").unwrap();
    store.shutdown();
    let count: i64 = module.query_row("SELECT count(*) FROM notes", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 2);
}

#[test]
fn a_file_that_is_no_database_is_corrupt() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(dir.path());
    fs::write(&path, "not a database, but long enough to have a header ".repeat(100)).unwrap();
    let error = failure(&path);
    assert!(matches!(error, OpenError::Corrupt { .. }));
    assert!(error.to_string().contains("restore it from a backup"));
}

#[test]
fn a_damaged_table_is_corrupt() {
    let fixture = Fixture::<Store>::new();
    for n in 0..200 {
        fixture.add(&format!("job {n}"));
    }
    let Fixture { open: opened, home: dir, .. } = fixture;
    let store = opened.unwrap();
    store.shutdown();
    let path = database(dir.path());
    let mut bytes = fs::read(&path).unwrap();
    let (middle, end) = (4096, bytes.len());
    bytes[middle..end].fill(0x5a);
    fs::write(&path, bytes).unwrap();
    assert!(matches!(failure(&path), OpenError::Corrupt { .. }));
}

#[test]
fn a_missing_directory_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = failure(&dir.path().join("nowhere/cweb.db"));
    assert!(matches!(error, OpenError::Open { .. }));
    assert!(error.to_string().contains("nowhere/cweb.db"));
}

#[test]
fn a_directory_in_the_files_place_does_not_open() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(database(dir.path())).unwrap();
    assert!(matches!(failure(&database(dir.path())), OpenError::Open { .. }));
}

#[test]
fn a_store_dropped_in_its_own_callback_ends() {
    let Fixture { open: opened, home: dir, log } = Fixture::<Store>::new();
    let store = opened.unwrap();
    let writer = store.writer();
    let slot = Arc::new(Mutex::new(Some(store)));
    let done = Box::new(move |_| drop(slot.lock().unwrap().take()));
    writer.try_submit(new_job("a"), done).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let reopened = loop {
        match open(&database(dir.path()), &log) {
            Err(OpenError::Locked { .. }) if Instant::now() < deadline => std::thread::yield_now(),
            other => break other.unwrap(),
        }
    };
    assert!(reopened.reader().unwrap().job("a").unwrap().is_some());
}
