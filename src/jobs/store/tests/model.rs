//! Random commands in random batches, compared with a plain model in memory; with held locks, commands that can't succeed, and
//! restarts in between.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

#[derive(Debug, Clone)]
enum Op {
    Submit {
        key: Option<u8>,
        poisoned: bool,
    },
    Change {
        job: i64,
        change: Change,
    },
    Event {
        job: i64,
        poisoned: bool,
    },
    Delete {
        job: i64,
    },
    /// Waits for all answers.
    Settle,
    /// Holds the following commands back until the next settling.
    Hold,
    /// Another connection takes the write lock, and releases it at the next settling.
    Lock,
    /// Closes and opens the store.
    Reopen,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let job = 1..12_i64;
    let change = prop_oneof![
        4 => Just(Change::Start { retries: 0 }),
        3 => (1..3_u32).prop_map(|retries| Change::Start { retries }),
        1 => Just(Change::Retry { reason: "busy".to_owned(), run_at_ms: 77 }),
        2 => Just(finish(JobState::Done)),
        1 => Just(Change::Finish { state: JobState::Failed, result: None, error: Some("no".to_owned()) }),
        1 => Just(Change::Cancel),
        2 => Just(Change::Decide { state: JobState::Done, result: Some("7".to_owned()), error: None }),
        1 => Just(Change::Decide { state: JobState::Failed, result: None, error: Some("no".to_owned()) }),
        2 => Just(Change::Return),
        3 => (0..3_u32).prop_map(|retries| Change::Again { retries, module_hash: "def".to_owned(), run_at_ms: 88 }),
    ];
    let op = prop_oneof![
        20 => (proptest::option::weighted(0.3, 0..3_u8), proptest::bool::weighted(0.05))
            .prop_map(|(key, poisoned)| Op::Submit { key, poisoned }),
        40 => (job.clone(), change).prop_map(|(job, change)| Op::Change { job, change }),
        40 => (job.clone(), proptest::bool::weighted(0.05)).prop_map(|(job, poisoned)| Op::Event { job, poisoned }),
        8 => job.prop_map(|job| Op::Delete { job }),
        4 => Just(Op::Settle),
        4 => Just(Op::Hold),
        1 => Just(Op::Lock),
        1 => Just(Op::Reopen),
    ];
    proptest::collection::vec(op, 1..120)
}

/// A job as the model sees it, without times and texts.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Job {
    state: JobState,
    attempt: u32,
    run_at_ms: i64,
    result: Option<String>,
    error: Option<String>,
    key: Option<String>,
    retries: u32,
    hash: String,
    /// Number of runs left.
    left: u32,
}

/// Job, kind, data, and whether the event is final.
type Told = (i64, String, String, bool);

#[derive(Default)]
struct Model {
    jobs: BTreeMap<i64, Job>,
    /// Decided jobs whose run continues.
    going_on: BTreeSet<i64>,
    last_id: i64,
    events: Vec<Told>,
    answers: VecDeque<String>,
}

impl Model {
    fn tell(&mut self, job: i64, kind: &str, data: &str, is_final: bool) {
        self.events.push((job, kind.to_owned(), data.to_owned(), is_final));
    }

    fn submit(&mut self, key: Option<String>, poisoned: bool) {
        if let Some((id, job)) = self.jobs.iter().find(|(_, job)| key.is_some() && job.key == key) {
            return self.answers.push_back(format!("existing {id} {:?}", job.state));
        }
        if poisoned {
            return self.answers.push_back("refused".to_owned());
        }
        self.last_id += 1;
        let job = Job {
            state: JobState::Pending,
            attempt: 0,
            run_at_ms: 5,
            result: None,
            error: None,
            key,
            retries: 0,
            hash: "abc".to_owned(),
            left: new_job("").max_attempts,
        };
        self.jobs.insert(self.last_id, job);
        self.tell(self.last_id, "created", "{}", false);
        self.answers.push_back(format!("new {}", self.last_id));
    }

    fn change(&mut self, id: i64, change: &Change) {
        let Some(job) = self.jobs.get_mut(&id) else { return self.answers.push_back("Unknown".to_owned()) };
        if *change == Change::Return && self.going_on.remove(&id) {
            return self.answers.push_back(format!("Applied({:?})", job.state));
        }
        if job.state == JobState::Running && matches!(change, Change::Decide { .. }) {
            self.going_on.insert(id);
        }
        let starts = matches!(change, Change::Start { retries } if *retries == job.retries);
        if job.state == JobState::Pending && (starts || *change == Change::Cancel) {
            job.error = None;
        }
        let (kind, data) = match (job.state, change) {
            (JobState::Pending, Change::Start { .. }) if starts => {
                job.attempt += 1;
                job.left = job.left.saturating_sub(1);
                job.state = JobState::Running;
                ("started", format!("{{\"attempt\":{}}}", job.attempt))
            }
            (JobState::Running, Change::Retry { run_at_ms, .. }) => {
                job.run_at_ms = *run_at_ms;
                job.error = Some("busy".to_owned());
                job.state = JobState::Pending;
                ("retrying", format!("{{\"attempt\":{},\"reason\":\"busy\",\"run_at\":77}}", job.attempt))
            }
            (JobState::Running, Change::Finish { state, result, error } | Change::Decide { state, result, error }) => {
                (job.state, job.result, job.error) = (*state, result.clone(), error.clone());
                if *state == JobState::Done { ("done", "7".to_owned()) } else { ("failed", r#""no""#.to_owned()) }
            }
            (JobState::Pending | JobState::Running, Change::Cancel) => {
                job.state = JobState::Canceled;
                ("canceled", "{}".to_owned())
            }
            (JobState::Failed | JobState::Canceled, Change::Again { retries, module_hash, run_at_ms })
                if *retries == job.retries && !self.going_on.contains(&id) =>
            {
                (job.state, job.run_at_ms, job.result) = (JobState::Pending, *run_at_ms, None);
                (job.retries, job.hash, job.left) = (job.retries + 1, module_hash.clone(), new_job("").max_attempts);
                ("retrying", format!("{{\"attempt\":{},\"reason\":\"asked for\",\"run_at\":88}}", job.attempt))
            }
            (state, _) => return self.answers.push_back(format!("Refused({state:?})")),
        };
        let state = job.state;
        self.tell(id, kind, &data, state.is_final());
        self.answers.push_back(format!("Applied({state:?})"));
    }

    fn event(&mut self, id: i64, poisoned: bool) {
        let runs = self.going_on.contains(&id) || self.jobs.get(&id).is_some_and(|job| job.state == JobState::Running);
        if !poisoned && runs {
            self.tell(id, "done", "1", false);
        }
    }

    fn delete(&mut self, id: i64) {
        let answer = match self.jobs.get(&id).map(|job| job.state) {
            None => "Unknown".to_owned(),
            Some(state) if state.is_final() => {
                self.jobs.remove(&id);
                self.going_on.remove(&id);
                "Done".to_owned()
            }
            Some(state) => format!("NotFinished({state:?})"),
        };
        self.answers.push_back(answer);
    }
}

struct Driver {
    fixture: Fixture,
    model: Model,
    /// The uuid for which each id was assigned.
    uuids: Vec<String>,
    answers: (mpsc::Sender<String>, mpsc::Receiver<String>),
    held: Option<mpsc::Sender<()>>,
    lock: Option<Connection>,
    submissions: usize,
}

impl Driver {
    fn new() -> Self {
        let fixture = Fixture::new();
        Connection::open(fixture.path()).unwrap().execute_batch(faults::POISON).unwrap();
        fixture.on_writer("PRAGMA busy_timeout = 1");
        let (held, lock) = (None, None);
        let (model, uuids) = (Model::default(), Vec::new());
        Self { fixture, model, uuids, answers: mpsc::channel(), held, lock, submissions: 0 }
    }

    fn uuid(&self, job: i64) -> String {
        self.uuids.get(job as usize - 1).cloned().unwrap_or_else(|| "nobody".to_owned())
    }

    fn step(&mut self, op: Op) {
        match op {
            // While another connection holds the lock, these commands are answered Unavailable; another test covers that.
            Op::Submit { .. } | Op::Delete { .. } if self.lock.is_some() => {}
            Op::Submit { key, poisoned } => self.submit(key, poisoned),
            Op::Change { job, change } => {
                self.model.change(job, &change);
                let answer = self.answers.0.clone();
                let done = Box::new(move |got: Result<Changed, _>| answer.send(format!("{:?}", got.unwrap())).unwrap());
                self.fixture.store.writer().change(job, change, done).unwrap();
            }
            Op::Event { job, poisoned } => {
                self.model.event(job, poisoned);
                let (uuid, kind) = (self.uuid(job).into(), if poisoned { "poison" } else { "done" });
                self.fixture.store.writer().event(job, uuid, kind.into(), "1".into()).unwrap();
            }
            Op::Delete { job } => {
                self.model.delete(job);
                let answer = self.answers.0.clone();
                let done = Box::new(move |got: Result<Deleted, _>| answer.send(format!("{:?}", got.unwrap())).unwrap());
                self.fixture.store.writer().try_delete(self.uuid(job), done).unwrap();
            }
            Op::Settle => self.settle(),
            Op::Hold => self.held = self.held.take().or_else(|| Some(self.fixture.hold())),
            Op::Lock => {
                self.settle();
                let lock = Connection::open(self.fixture.path()).unwrap();
                lock.execute_batch("BEGIN IMMEDIATE").unwrap();
                self.lock = Some(lock);
            }
            Op::Reopen => self.reopen(),
        }
    }

    fn submit(&mut self, key: Option<u8>, poisoned: bool) {
        let uuid = format!("uuid {}", self.submissions);
        self.submissions += 1;
        let key = key.map(|key| key.to_string());
        let ids = self.model.last_id;
        self.model.submit(key.clone(), poisoned);
        if self.model.last_id > ids {
            self.uuids.push(uuid.clone());
        }
        let hash = "abc".to_owned();
        let job = NewJob { unique_key: key, module_hash: hash, ..new_job(&uuid) };
        // A search by key must still find the same module and job.
        let job = if poisoned && self.model.answers.back().is_some_and(|answer| answer == "refused") {
            NewJob { payload: "\"poison\"".to_owned(), ..job }
        } else {
            job
        };
        let answer = self.answers.0.clone();
        let done = Box::new(move |got: Result<Submitted, _>| {
            let text = match got {
                Ok(Submitted::New(row)) => format!("new {}", row.id),
                Ok(Submitted::Existing(row)) => format!("existing {} {:?}", row.id, row.state),
                Ok(Submitted::Refused(why)) => why,
                Err(StoreError::Refused { .. }) => "refused".to_owned(),
                Err(error) => format!("{error:?}"),
            };
            answer.send(text).unwrap();
        });
        self.fixture.store.writer().try_submit(job, done).unwrap();
    }

    /// Checks that every answer has arrived in order, and that the store equals the model.
    fn settle(&mut self) {
        self.held = None;
        self.lock = None;
        self.fixture.settle();
        let answers: Vec<String> = self.answers.1.try_iter().collect();
        assert_eq!(answers, self.model.answers.drain(..).collect::<Vec<_>>());
        self.compare();
    }

    fn compare(&self) {
        let mut reader = self.fixture.store.reader().unwrap();
        let rows = reader.jobs(&JobFilter { limit: u32::MAX, ..JobFilter::default() }, usize::MAX).unwrap();
        let jobs: BTreeMap<i64, Job> = rows.into_iter().map(|row| (row.id, as_model(row))).collect();
        assert_eq!(jobs, self.model.jobs);
        let published = self.fixture.published();
        let told: Vec<Told> = published.iter().map(as_told).collect();
        assert_eq!(told, self.model.events);
        assert!(published.iter().map(|event| event.id).eq(1..=published.len() as i64), "a gap in the events");
        assert!(published.is_sorted_by_key(|event| event.ts_ms));
        for id in 1..=self.model.last_id {
            let stored = reader.events(id, 0, u32::MAX, usize::MAX).unwrap();
            let is_there = self.model.jobs.contains_key(&id);
            let expected = published.iter().filter(|event| is_there && event.job_id == id);
            assert!(stored.iter().eq(expected), "job {id}: what is stored isn't what was published");
        }
    }

    fn reopen(&mut self) {
        self.settle();
        self.model.going_on.clear();
        let path = self.fixture.path();
        // The old store must be gone before the file can be opened again, so another store replaces it meanwhile.
        let aside = tempfile::tempdir().unwrap();
        self.fixture.store = open(&database(aside.path()), &Log::default()).unwrap();
        self.fixture.store = open(&path, &self.fixture.log).unwrap();
        self.fixture.on_writer("PRAGMA busy_timeout = 1");
        self.compare();
    }
}

fn as_model(row: JobRow) -> Job {
    let JobRow { state, attempt, run_at_ms, result, error, unique_key: key, retries, module_hash: hash, .. } = row;
    let left = row.max_attempts.saturating_sub(attempt);
    Job { state, attempt, run_at_ms, result, error, key, retries, hash, left }
}

fn as_told(event: &JobEvent) -> Told {
    (event.job_id, event.kind.to_string(), event.data.to_string(), event.is_final)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_is_what_a_plain_model_says(ops in ops()) {
        let mut driver = Driver::new();
        for op in ops {
            driver.step(op);
        }
        driver.settle();
        driver.reopen();
    }
}
