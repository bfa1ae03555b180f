//! Tests of the store through its interface: its promises to callers.

mod faults;
mod model;
mod opening;
mod queries;
mod schedules;

use super::*;
use std::path::Path;
use std::sync::{Mutex, mpsc};
use std::time::Instant;
use tempfile::TempDir;

/// The events that `published` has received so far.
type Log = Arc<Mutex<Vec<JobEvent>>>;

struct Fixture {
    dir: TempDir,
    store: Store,
    log: Log,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::default();
        let store = open(&database(dir.path()), &log).unwrap();
        Self { dir, store, log }
    }

    fn path(&self) -> PathBuf {
        database(self.dir.path())
    }

    fn submit(&self, job: NewJob) -> Result<Submitted, StoreError> {
        ask(|done| self.store.writer().try_submit(job, done))
    }

    /// Stores a job and returns its id.
    fn add(&self, uuid: &str) -> i64 {
        match self.submit(new_job(uuid)).unwrap() {
            Submitted::New(row) => row.id,
            other => panic!("{other:?}"),
        }
    }

    fn change(&self, job: i64, change: Change) -> Changed {
        ask(|done| self.store.writer().try_change(job, change, done)).unwrap()
    }

    fn event(&self, job: i64, uuid: &str, kind: &str) {
        self.store.writer().event(job, uuid.into(), kind.into(), "1".into()).unwrap();
    }

    /// Waits until all earlier commands are committed.
    fn settle(&self) {
        assert_eq!(self.change(i64::MAX, Change::Cancel), Changed::Unknown);
    }

    fn row(&self, uuid: &str) -> JobRow {
        self.store.reader().unwrap().job(uuid).unwrap().unwrap()
    }

    fn stored_events(&self, job: i64) -> Vec<JobEvent> {
        self.store.reader().unwrap().events(job, 0, u32::MAX, usize::MAX).unwrap()
    }

    fn published(&self) -> Vec<JobEvent> {
        self.log.lock().unwrap().clone()
    }

    /// Keeps the writer busy until the returned sender is dropped, so that commands sent meanwhile share a batch.
    fn hold(&self) -> mpsc::Sender<()> {
        let (release, released) = mpsc::channel::<()>();
        let (holding, held) = mpsc::channel();
        self.store.writer().hook(move |_| {
            holding.send(()).unwrap();
            let _ = released.recv();
        });
        held.recv().unwrap();
        release
    }

    /// Runs SQL on the writing connection.
    fn on_writer(&self, sql: &'static str) {
        let (done, ran) = mpsc::channel();
        self.store.writer().hook(move |connection| {
            connection.execute_batch(sql).unwrap();
            done.send(()).unwrap();
        });
        ran.recv().unwrap();
    }
}

fn database(dir: &Path) -> PathBuf {
    dir.join("cweb.db")
}

fn open(path: &Path, log: &Log) -> Result<Store, OpenError> {
    let log = Arc::clone(log);
    // The tests don't cover a loss of power, and waiting for the disk would make them slow.
    let config = StoreConfig { durability: Durability::Normal, ..StoreConfig::new(path.to_owned()) };
    Store::open(config, Box::new(move |events| log.lock().unwrap().extend_from_slice(events)))
}

/// Longer than any command takes, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Sends a command and waits for its outcome.
fn ask<T: Send + 'static>(send: impl FnOnce(Done<T>) -> Result<(), StoreError>) -> Result<T, StoreError> {
    let (answer, answered) = mpsc::channel();
    send(Box::new(move |outcome| answer.send(outcome).unwrap()))?;
    answered.recv_timeout(PATIENCE).expect("every accepted command is answered")
}

fn new_job(uuid: &str) -> NewJob {
    NewJob {
        files: Vec::new(),
        uuid: uuid.to_owned(),
        module: "shop".to_owned(),
        job: "mail".to_owned(),
        module_hash: "abc".to_owned(),
        payload: "{}".to_owned(),
        max_attempts: 3,
        backoff_ms: 10,
        timeout_ms: u64::MAX,
        run_at_ms: 5,
        priority: -1,
        unique_key: None,
        slot: None,
        depends_on: Vec::new(),
        concurrency_key: None,
        concurrency_limit: 1,
    }
}

fn finish(state: JobState) -> Change {
    Change::Finish { state, result: Some("7".to_owned()), error: None }
}

fn kinds(events: &[JobEvent]) -> Vec<&str> {
    events.iter().map(|event| &*event.kind).collect()
}

#[test]
fn a_job_is_stored_as_submitted() {
    let fixture = Fixture::new();
    let Submitted::New(row) = fixture.submit(new_job("a")).unwrap() else { panic!() };
    let stored = fixture.row("a");
    // Limits beyond SQLite's largest integer have no effect.
    assert_eq!(stored.timeout_ms, i64::MAX as u64);
    assert_eq!(JobRow { timeout_ms: u64::MAX, ..stored }, row);
    assert_eq!((row.state, row.attempt, row.created_at_ms), (JobState::Pending, 0, row.updated_at_ms));
    let events = fixture.stored_events(row.id);
    assert_eq!(events, fixture.published());
    assert_eq!((&*events[0].kind, &*events[0].data), ("created", "{}"));
}

#[test]
fn a_run_goes_from_pending_to_done() {
    let fixture = Fixture::new();
    let id = fixture.add("a");
    assert_eq!(fixture.change(id, Change::Start { retries: 0 }), Changed::Applied(JobState::Running));
    let retry = Change::Retry { reason: "later".to_owned(), run_at_ms: 99 };
    assert_eq!(fixture.change(id, retry), Changed::Applied(JobState::Pending));
    assert_eq!((fixture.row("a").run_at_ms, fixture.row("a").attempt), (99, 1));
    assert_eq!(fixture.change(id, Change::Start { retries: 0 }), Changed::Applied(JobState::Running));
    fixture.event(id, "a", "done");
    assert_eq!(fixture.change(id, finish(JobState::Done)), Changed::Applied(JobState::Done));
    let row = fixture.row("a");
    assert_eq!((row.state, row.attempt, row.result.as_deref(), row.error), (JobState::Done, 2, Some("7"), None));
    let events = fixture.stored_events(id);
    assert_eq!(kinds(&events), ["created", "started", "retrying", "started", "done", "done"]);
    assert_eq!(events.iter().filter(|event| event.is_final).map(|event| event.id).collect::<Vec<_>>(), [6]);
    assert_eq!(events, fixture.published());
    assert!(events.is_sorted_by_key(|event| event.ts_ms));
}

#[test]
fn a_finished_job_stays_as_it_is() {
    let fixture = Fixture::new();
    for (uuid, end) in [("a", finish(JobState::Done)), ("b", finish(JobState::Failed)), ("c", Change::Cancel)] {
        let id = fixture.add(uuid);
        fixture.change(id, Change::Start { retries: 0 });
        let Changed::Applied(state) = fixture.change(id, end) else { panic!() };
        let before = (fixture.row(uuid), fixture.stored_events(id));
        let retry = Change::Retry { reason: String::new(), run_at_ms: 0 };
        for change in
            [Change::Start { retries: 0 }, retry, finish(JobState::Done), finish(JobState::Failed), Change::Cancel]
        {
            assert_eq!(fixture.change(id, change), Changed::Refused(state));
        }
        fixture.event(id, uuid, "late");
        fixture.settle();
        assert_eq!((fixture.row(uuid), fixture.stored_events(id)), before);
    }
}

#[test]
fn a_pending_job_takes_neither_end_nor_event() {
    let fixture = Fixture::new();
    let id = fixture.add("a");
    assert_eq!(fixture.change(id, finish(JobState::Done)), Changed::Refused(JobState::Pending));
    fixture.event(id, "a", "early");
    fixture.settle();
    assert_eq!(kinds(&fixture.stored_events(id)), ["created"]);
}

#[test]
fn an_event_for_another_uuid_is_dropped() {
    let fixture = Fixture::new();
    let id = fixture.add("a");
    fixture.change(id, Change::Start { retries: 0 });
    fixture.event(id, "b", "lost");
    fixture.settle();
    assert_eq!(kinds(&fixture.stored_events(id)), ["created", "started"]);
}

#[test]
fn a_finish_in_no_final_state_is_refused_at_once() {
    let fixture = Fixture::new();
    for state in [JobState::Pending, JobState::Running, JobState::Canceled] {
        let refused = fixture.store.writer().try_change(1, finish(state), Box::new(|_| panic!("must not be called")));
        assert!(matches!(refused, Err(StoreError::Refused { .. })));
    }
}

#[test]
fn a_unique_key_names_one_job() {
    let fixture = Fixture::new();
    let keyed = |uuid| NewJob { unique_key: Some("k".to_owned()), ..new_job(uuid) };
    let Submitted::New(first) = fixture.submit(keyed("a")).unwrap() else { panic!() };
    assert_eq!(fixture.submit(keyed("b")).unwrap(), Submitted::Existing(fixture.row("a")));
    // Holds in every state; only a deletion frees the key.
    fixture.change(first.id, Change::Cancel);
    let Submitted::Existing(existing) = fixture.submit(keyed("c")).unwrap() else { panic!() };
    assert_eq!((existing.id, existing.state), (first.id, JobState::Canceled));
    let elsewhere = NewJob { job: "other".to_owned(), ..keyed("d") };
    assert!(matches!(fixture.submit(elsewhere).unwrap(), Submitted::New(_)));
    assert_eq!(ask(|done| fixture.store.writer().try_delete("a".to_owned(), done)), Ok(Deleted::Done));
    assert!(matches!(fixture.submit(keyed("e")).unwrap(), Submitted::New(_)));
}

#[test]
fn two_submissions_of_one_batch_share_a_unique_key() {
    let fixture = Fixture::new();
    let release = fixture.hold();
    let (answer, answers) = mpsc::channel();
    for uuid in ["a", "b"] {
        let answer = answer.clone();
        let job = NewJob { unique_key: Some("k".to_owned()), ..new_job(uuid) };
        fixture.store.writer().try_submit(job, Box::new(move |outcome| answer.send(outcome).unwrap())).unwrap();
    }
    drop(release);
    assert!(matches!(answers.recv().unwrap(), Ok(Submitted::New(_))));
    assert!(matches!(answers.recv().unwrap(), Ok(Submitted::Existing(row)) if row.uuid == "a"));
}

#[test]
fn only_finished_jobs_are_deleted() {
    let fixture = Fixture::new();
    let id = fixture.add("a");
    let delete = || ask(|done| fixture.store.writer().try_delete("a".to_owned(), done)).unwrap();
    assert_eq!(delete(), Deleted::NotFinished(JobState::Pending));
    fixture.change(id, Change::Start { retries: 0 });
    assert_eq!(delete(), Deleted::NotFinished(JobState::Running));
    fixture.change(id, finish(JobState::Failed));
    assert_eq!(delete(), Deleted::Done);
    assert_eq!(delete(), Deleted::Unknown);
    assert_eq!(fixture.change(id, Change::Start { retries: 0 }), Changed::Unknown);
    assert!(fixture.stored_events(id).is_empty());
    assert_eq!(fixture.add("b"), id + 1, "an id is never used again");
}

#[test]
fn a_sweep_takes_old_finished_jobs_only() {
    let fixture = Fixture::new();
    for uuid in ["a", "b", "c", "d"] {
        let id = fixture.add(uuid);
        if uuid != "d" {
            fixture.change(id, Change::Cancel);
        }
    }
    let sweep = |before_ms, limit| ask(|done| fixture.store.writer().try_sweep(before_ms, limit, done)).unwrap();
    assert_eq!(sweep(fixture.row("a").updated_at_ms, 10), 0);
    assert_eq!(sweep(i64::MAX, 2), 2);
    assert_eq!(sweep(i64::MAX, 2), 1);
    assert_eq!(sweep(i64::MAX, 2), 0);
    let left =
        fixture.store.reader().unwrap().jobs(&JobFilter { limit: 10, ..JobFilter::default() }, usize::MAX).unwrap();
    assert_eq!(left.iter().map(|row| &*row.uuid).collect::<Vec<_>>(), ["d"]);
}

#[test]
fn what_waits_shares_a_transaction() {
    let fixture = Fixture::new();
    let id = fixture.add("a");
    let stats = fixture.store.stats();
    let (commits, commands) = (stats.commits(), stats.commands());
    let release = fixture.hold();
    fixture.store.writer().try_change(id, Change::Start { retries: 0 }, Box::new(drop)).unwrap();
    for _ in 0..98 {
        fixture.event(id, "a", "step");
    }
    assert_eq!(stats.queue_length(), 99);
    drop(release);
    fixture.settle();
    // The last command may have arrived while the batch was open, or later.
    assert!(stats.commits() - commits <= 2);
    assert_eq!((stats.commands() - commands, stats.events(), stats.queue_length()), (100, 100, 0));
}

#[test]
fn publication_comes_after_the_commit_and_before_the_answer() {
    let fixture = Fixture::new();
    let (answer, answered) = mpsc::channel();
    let (log, path) = (Arc::clone(&fixture.log), fixture.path());
    let done = Box::new(move |_| {
        let stored = Reader::open(&path).unwrap().events(1, 0, 9, usize::MAX).unwrap();
        answer.send((log.lock().unwrap().clone(), stored)).unwrap();
    });
    fixture.store.writer().try_submit(new_job("a"), done).unwrap();
    let (published, stored) = answered.recv().unwrap();
    assert_eq!(kinds(&published), ["created"]);
    assert_eq!(published, stored);
}
