//! Tests of the store: its contract with callers, which every engine must hold, run on SQLite and on an engine in memory.

mod agree;
mod contract;
mod doubt;
mod memory;
mod memory_store;
mod reading;
mod schedules;

use super::*;
use crate::jobs::blobs::{Blobs, BlobsConfig};
use memory_store::MemoryStore;
use std::sync::{Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};

/// The events that `published` has received so far.
pub(super) type Log = Arc<Mutex<Vec<JobEvent>>>;

/// An open store on one engine.
pub(super) trait Subject: Sized + 'static {
    /// Place of the stored jobs while no store is open.
    type Home;
    type Reader: Read + 'static;
    type Jam;

    fn home() -> Self::Home;
    fn open_at(home: &Self::Home, published: Published) -> Self;
    fn writer(&self) -> Writer;
    fn stats(&self) -> Arc<StoreStats>;
    fn read(&self) -> Self::Reader;
    /// From here on jobs and events with the word "poison" fail, through their own fault.
    fn poison(&self, home: &Self::Home);
    /// No commit succeeds while the returned value exists.
    fn jam(&self, home: &Self::Home) -> Self::Jam;
}

pub(super) struct Fixture<S: Subject = Store> {
    pub(super) home: S::Home,
    /// `None` only while the store is opened again.
    pub(super) open: Option<S>,
    pub(super) log: Log,
}

impl<S: Subject> Fixture<S> {
    pub(super) fn new() -> Self {
        let (home, log) = (S::home(), Log::default());
        let mut fixture = Self { home, open: None, log };
        fixture.reopen();
        fixture
    }

    /// Closes the store, and opens it again on the same jobs.
    pub(super) fn reopen(&mut self) {
        self.open = None;
        let log = Arc::clone(&self.log);
        let published = move |events: &[JobEvent]| log.lock().unwrap().extend_from_slice(events);
        self.open = Some(S::open_at(&self.home, Box::new(published)));
    }

    pub(super) fn store(&self) -> &S {
        self.open.as_ref().unwrap()
    }

    pub(super) fn writer(&self) -> Writer {
        self.store().writer()
    }

    pub(super) fn reader(&self) -> S::Reader {
        self.store().read()
    }

    pub(super) fn submit(&self, job: NewJob) -> Result<Submitted, StoreError> {
        ask(|done| self.writer().try_submit(job, done))
    }

    /// Stores a job and returns its id.
    pub(super) fn add(&self, uuid: &str) -> i64 {
        self.add_job(new_job(uuid))
    }

    pub(super) fn add_job(&self, job: NewJob) -> i64 {
        match self.submit(job).unwrap() {
            Submitted::New(row) => row.id,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn change(&self, job: i64, change: Change) -> Changed {
        ask(|done| self.writer().try_change(job, change, done)).unwrap()
    }

    /// Starts the job, which was not retried by request.
    pub(super) fn start(&self, job: i64) {
        assert_eq!(self.change(job, Change::Start { retries: 0 }), Changed::Applied(JobState::Running));
    }

    pub(super) fn event(&self, job: i64, uuid: &str, kind: &str) {
        self.event_of(Run { job, attempt: 1 }, uuid, kind);
    }

    pub(super) fn event_of(&self, run: Run, uuid: &str, kind: &str) {
        self.writer().event(run, uuid.into(), kind.into(), "1".into()).unwrap();
    }

    /// Receives the news of jobs that no caller waits for, commit by commit.
    pub(super) fn settled(&self) -> mpsc::Receiver<Vec<Settled>> {
        let (tell, told) = mpsc::channel();
        let tell = Mutex::new(tell);
        self.writer().on_settled(Box::new(move |settled| tell.lock().unwrap().send(settled).unwrap()));
        told
    }

    /// Waits until all earlier commands are committed.
    pub(super) fn settle(&self) {
        assert_eq!(self.change(i64::MAX, Change::Cancel), Changed::Unknown);
    }

    pub(super) fn row(&self, uuid: &str) -> JobRow {
        self.reader().job(uuid).unwrap().unwrap()
    }

    pub(super) fn stored_events(&self, job: i64) -> Vec<JobEvent> {
        self.reader().events(job, 0, u32::MAX, usize::MAX).unwrap()
    }

    pub(super) fn published(&self) -> Vec<JobEvent> {
        self.log.lock().unwrap().clone()
    }

    /// Keeps the writer busy until the returned sender is dropped, so that commands sent meanwhile share a batch.
    pub(super) fn hold(&self) -> mpsc::Sender<()> {
        let (release, released) = mpsc::channel::<()>();
        let (holding, held) = mpsc::channel();
        self.writer().hook(move |_| {
            holding.send(()).unwrap();
            let _ = released.recv();
        });
        held.recv().unwrap();
        release
    }
}

/// Longer than any command takes, also on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// Sends a command and waits for its outcome.
pub(super) fn ask<T: Send + 'static>(send: impl FnOnce(Done<T>) -> Result<(), StoreError>) -> Result<T, StoreError> {
    let (answer, answered) = mpsc::channel();
    send(Box::new(move |outcome| answer.send(outcome).unwrap()))?;
    answered.recv_timeout(PATIENCE).expect("every accepted command is answered")
}

pub(super) fn new_job(uuid: &str) -> NewJob {
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

/// The end of the first run.
pub(super) fn finish(state: JobState) -> Change {
    finish_of(1, state)
}

pub(super) fn finish_of(attempt: u32, state: JobState) -> Change {
    Change::Finish { attempt, state, result: Some("7".to_owned()), error: None }
}

pub(super) fn kinds(events: &[JobEvent]) -> Vec<&str> {
    events.iter().map(|event| &*event.kind).collect()
}

/// A blob that an event names.
pub(super) fn event_blob(name: &str) -> EventBlob {
    static BLOBS: OnceLock<Blobs> = OnceLock::new();
    let blobs = BLOBS.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let config = BlobsConfig {
            dir: dir.path().join("blobs"),
            outputs_dir: dir.path().join("outputs"),
            blob_bytes_max: 1,
            bytes_max: 1,
            retention: Duration::ZERO,
            is_written: |_| false,
        };
        Blobs::open(config).unwrap()
    });
    EventBlob { name: name.to_owned(), _pins: blobs.pin(Vec::new()).unwrap() }
}

pub(super) fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Makes a test of each function for each engine.
macro_rules! contract {
    ($($file:ident: $($name:ident),+;)+) => {
        mod on_sqlite {
            $($(#[test]
            fn $name() {
                super::$file::$name::<super::Store>();
            })+)+
        }
        mod in_memory {
            $($(#[test]
            fn $name() {
                super::$file::$name::<super::MemoryStore>();
            })+)+
        }
    };
}

contract! {
    contract:
        a_job_is_stored_as_submitted,
        a_run_goes_from_pending_to_done,
        a_finished_job_stays_as_it_is,
        a_pending_job_takes_neither_end_nor_event,
        an_event_for_another_uuid_is_dropped,
        a_finish_in_no_final_state_is_refused_at_once,
        a_unique_key_names_one_job,
        two_submissions_of_one_batch_share_a_unique_key,
        only_finished_jobs_are_deleted,
        a_sweep_takes_old_finished_jobs_only,
        what_waits_shares_a_transaction,
        publication_comes_after_the_commit_and_before_the_answer,
        outcomes_come_in_the_order_of_the_commands,
        a_batch_is_stored_as_a_whole_or_not_at_all,
        a_command_that_cannot_work_does_no_harm_to_others,
        only_the_run_that_holds_a_job_changes_it,
        a_retry_by_request_gives_as_many_runs_as_at_first,
        jobs_wait_for_those_they_depend_on,
        what_was_acknowledged_is_there_when_the_store_opens_again,
        paused_kinds_are_limited,
        closing_commits_what_was_accepted;
    schedules:
        a_slot_has_one_turn_and_the_job_before_has_to_have_ended,
        a_change_keeps_the_slot_that_is_due_and_each_kind_to_itself,
        a_slot_and_its_job_are_stored_together;
    reading:
        lists_are_newest_first_and_filtered,
        pages_follow_each_other_while_jobs_come_in,
        events_and_unfinished_jobs_page_by_id,
        a_reader_sees_what_came_after_it,
        the_feed_has_all_events_in_the_order_of_the_commits,
        files_and_checkpoints_belong_to_their_job,
        modules_see_the_rows_of_their_jobs,
        no_page_waits_for_another_and_readers_are_used_again;
}
