//! Full disks, held locks, callbacks that panic.

use super::*;

/// Keeps the file from growing; only a few small rows may still fit into its pages.
fn fill_disk(fixture: &Fixture) {
    on_writer(fixture, "PRAGMA max_page_count = 1");
}

fn free_disk(fixture: &Fixture) {
    on_writer(fixture, "PRAGMA max_page_count = 1000000");
}

fn big() -> Box<str> {
    format!("\"{}\"", "x".repeat(20_000)).into()
}

fn first_run(job: i64) -> Run {
    Run { job, attempt: 1 }
}

#[test]
fn a_full_disk_loses_no_change_and_no_event() {
    let fixture = Fixture::<Store>::new();
    let (a, b) = (fixture.add("a"), fixture.add("b"));
    fixture.change(b, Change::Start { retries: 0 });
    let before = fixture.published().len();
    let (writer, stats) = (fixture.writer(), fixture.store().stats());
    fill_disk(&fixture);
    let (answer, answers) = mpsc::channel();
    // One batch: a start, an event without room, and an end. The start must be undone in memory too.
    let release = fixture.hold();
    for (change, name) in [(Change::Start { retries: 0 }, "start"), (finish(JobState::Done), "finish")] {
        let answer = answer.clone();
        writer.try_change(a, change, Box::new(move |outcome| answer.send((name, outcome)).unwrap())).unwrap();
        writer.event(first_run(a), "a".into(), "big".into(), big()).unwrap();
    }
    writer.event(first_run(b), "b".into(), "other".into(), "2".into()).unwrap();
    drop(release);
    wait_for("failures", || stats.failures() >= 2);
    let refused = fixture.submit(NewJob { payload: big().into(), ..new_job("c") });
    assert!(
        matches!(&refused, Err(StoreError::Unavailable { why }) if why.contains("the disk is full")),
        "{refused:?}"
    );
    assert_eq!(fixture.published().len(), before, "nothing is published before it is committed");
    assert_eq!(fixture.row("a").state, JobState::Pending);
    assert!(answers.try_recv().is_err());
    free_disk(&fixture);
    assert_eq!(answers.recv().unwrap(), ("start", Ok(Changed::Applied(JobState::Running))));
    assert_eq!(answers.recv().unwrap(), ("finish", Ok(Changed::Applied(JobState::Done))));
    // The event sent after the end is dropped, as it is without faults.
    assert_eq!(kinds(&fixture.stored_events(a)), ["created", "started", "big", "done"]);
    assert_eq!(kinds(&fixture.published()[before..]), ["started", "big", "done", "other"]);
    fixture.add("c");
}

#[test]
fn bytes_that_wait_are_limited_and_events_wait_for_room() {
    let fixture = Fixture::<Store>::new();
    let id = fixture.add("a");
    fixture.change(id, Change::Start { retries: 0 });
    let large = || -> Box<str> { format!("\"{}\"", "x".repeat(8 * 1024 * 1024)).into() };
    let writer = fixture.writer();
    let release = fixture.hold();
    // The limit is 64 MiB.
    let mut taken = 0;
    let refused = loop {
        let job = NewJob { payload: large().into(), ..new_job(&format!("large {taken}")) };
        match writer.try_submit(job, Box::new(|_| {})) {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken < 20, "160 MiB wait");
    };
    assert!(matches!(refused, StoreError::Full { .. }) && taken == 7, "{taken} {refused}");
    // A command without bytes is accepted.
    writer.try_change(id, Change::Cancel, Box::new(|_| {})).unwrap();
    let (done, waited) = mpsc::channel();
    let other = writer.clone();
    std::thread::spawn(move || {
        let events = (0..20).map(|n| other.event(first_run(id), "a".into(), format!("{n}").into(), large()));
        done.send(events.collect::<Result<Vec<()>, _>>()).unwrap();
    });
    assert!(waited.recv_timeout(Duration::from_millis(50)).is_err(), "events did not wait");
    drop(release);
    assert!(waited.recv().unwrap().is_ok());
    fixture.settle();
    fixture.submit(NewJob { payload: large().into(), ..new_job("at last") }).unwrap();
    // An event larger than the whole limit is accepted alone.
    let larger: String = format!("\"{}\"", "x".repeat(70 * 1024 * 1024));
    fixture.submit(NewJob { payload: larger, ..new_job("larger") }).unwrap();
    // A waiting sender is told that the store ends.
    let release = fixture.hold();
    let other = writer.clone();
    let waiting = std::thread::spawn(move || {
        (0..20).try_for_each(|_| other.event(first_run(id), "a".into(), "e".into(), large()))
    });
    wait_for("a waiting event", || {
        writer.try_submit(NewJob { payload: large().into(), ..new_job("w") }, Box::new(|_| {})).is_err()
    });
    writer.close();
    drop(release);
    let _ = waiting.join().unwrap();
}

#[test]
fn commands_sent_during_a_failure_come_after_those_kept() {
    let fixture = Fixture::<Store>::new();
    let id = fixture.add("a");
    fixture.change(id, Change::Start { retries: 0 });
    fill_disk(&fixture);
    let (writer, stats) = (fixture.writer(), fixture.store().stats());
    for n in 0..50 {
        writer.event(first_run(id), "a".into(), format!("{n}").into(), big()).unwrap();
        if n % 10 == 0 {
            let failures = stats.failures();
            wait_for("another failure", || stats.failures() > failures);
        }
    }
    free_disk(&fixture);
    fixture.settle();
    let expected: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    let stored = fixture.stored_events(id);
    assert_eq!(kinds(&stored)[2..], expected);
    assert_eq!(stored, fixture.published());
}

#[test]
fn a_held_lock_delays_and_loses_nothing() {
    let fixture = Fixture::<Store>::new();
    let id = fixture.add("a");
    on_writer(&fixture, "PRAGMA busy_timeout = 1");
    let other = Connection::open(path(&fixture)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(matches!(fixture.submit(new_job("b")), Err(StoreError::Unavailable { why }) if why.contains("lock")));
    let (answer, answered) = mpsc::channel();
    fixture
        .store()
        .writer()
        .change(id, Change::Start { retries: 0 }, Box::new(move |got| answer.send(got).unwrap()))
        .unwrap();
    fixture.event(id, "a", "step");
    assert!(answered.recv_timeout(Duration::from_millis(200)).is_err());
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(answered.recv().unwrap(), Ok(Changed::Applied(JobState::Running)));
    fixture.settle();
    assert_eq!(kinds(&fixture.stored_events(id)), ["created", "started", "step"]);
}

#[test]
fn a_full_queue_is_told_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig { queue_max: 3, ..StoreConfig::new(database(dir.path())) };
    let store = Store::open(config, Box::new(|_| {})).unwrap();
    let fixture = Fixture { home: dir, open: Some(store), log: Log::default() };
    let release = fixture.hold();
    let writer = fixture.writer();
    let (answer, answers) = mpsc::channel();
    for n in 0..5 {
        let answer = answer.clone();
        let sent = writer.try_submit(new_job(&n.to_string()), Box::new(move |got| answer.send(got).unwrap()));
        assert_eq!(sent, if n < 3 { Ok(()) } else { Err(StoreError::Full { queue_max: 3 }) });
    }
    drop((release, answer));
    assert_eq!(answers.iter().filter(Result::is_ok).count(), 3, "a refused command is never answered");
}

#[test]
fn a_row_removed_behind_the_stores_back_is_unknown() {
    let fixture = Fixture::<Store>::new();
    let id = fixture.add("a");
    Connection::open(path(&fixture)).unwrap().execute("DELETE FROM jobs", []).unwrap();
    assert_eq!(fixture.change(id, Change::Start { retries: 0 }), Changed::Unknown);
    fixture.add("b");
}

#[test]
fn a_panicking_callback_does_not_end_the_writer() {
    let fixture = Fixture::<Store>::new();
    fixture.writer().try_submit(new_job("a"), Box::new(|_| panic!("on purpose"))).unwrap();
    fixture.add("b");
}

#[test]
fn a_callback_may_send_but_never_waits() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig { queue_max: 1, ..StoreConfig::new(database(dir.path())) };
    let store = Store::open(config, Box::new(|_| {})).unwrap();
    let writer = store.writer();
    let (answer, answered) = mpsc::channel();
    let inner = writer.clone();
    let done = Box::new(move |_| {
        let send = || inner.event(first_run(1), "a".into(), "x".into(), "1".into());
        answer.send([send(), send()]).unwrap();
    });
    writer.try_submit(new_job("a"), done).unwrap();
    assert_eq!(answered.recv().unwrap(), [Ok(()), Err(StoreError::Full { queue_max: 1 })]);
}

#[test]
fn closing_waits_for_space_but_not_for_ever() {
    let fixture = Fixture::<Store>::new();
    let id = fixture.add("a");
    fixture.change(id, Change::Start { retries: 0 });
    fill_disk(&fixture);
    let (answer, answered) = mpsc::channel();
    fixture.writer().event(first_run(id), "a".into(), "big".into(), big()).unwrap();
    let result = Some(big().into());
    let end = Change::Finish { attempt: 1, state: JobState::Done, result, error: None };
    fixture.writer().change(id, end, Box::new(move |outcome| answer.send(outcome).unwrap())).unwrap();
    let started = Instant::now();
    fixture.open.unwrap().shutdown();
    assert!((4..10).contains(&started.elapsed().as_secs()));
    assert!(matches!(answered.recv().unwrap(), Err(StoreError::Unavailable { .. })));
}
