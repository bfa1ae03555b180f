//! Random commands in random batches on two engines, SQLite and the one in memory: both must answer, publish and store the same.
//! The runs include held locks, commands that can't succeed, and restarts. `PROPTEST_RNG_SEED` repeats a run.

use super::*;
use crate::jobs::blobs::MadeFile;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Op {
    Submit {
        key: Option<u8>,
        needs: Vec<i64>,
        is_poisoned: bool,
    },
    Change {
        job: i64,
        change: Change,
    },
    Event {
        run: Run,
        is_poisoned: bool,
        has_blob: bool,
    },
    Checkpoint {
        run: Run,
        is_empty: bool,
    },
    Made {
        run: Run,
        dir: u8,
    },
    ForgetDirs(u8),
    Delete {
        job: i64,
    },
    Sweep {
        limit: u32,
    },
    Put {
        name: u8,
        cron: u8,
        next_ms: i64,
    },
    Fire {
        name: u8,
        revision: i64,
        at_ms: i64,
    },
    Remove {
        name: u8,
    },
    Pause {
        kind: u8,
        pause: bool,
    },
    /// Waits for all answers, and compares.
    Settle,
    /// Holds the following commands back until the next settling.
    Hold,
    /// No commit succeeds until the next settling.
    Jam,
    /// Closes and opens the stores.
    Reopen,
}

fn changes() -> impl Strategy<Value = Change> {
    let (result, error) = (Some("7".to_owned()), Some("no".to_owned()));
    let failed = move |attempt| (attempt, JobState::Failed, None, error.clone());
    let done = move |attempt| (attempt, JobState::Done, result.clone(), None);
    let ends = prop_oneof![2 => (1..4_u32).prop_map(done), 1 => (1..4_u32).prop_map(failed)];
    let finish = |(attempt, state, result, error)| Change::Finish { attempt, state, result, error };
    let decide = |(attempt, state, result, error)| Change::Decide { attempt, state, result, error };
    prop_oneof![
        6 => (0..2_u32).prop_map(|retries| Change::Start { retries }),
        2 => (1..4_u32).prop_map(|attempt| Change::Retry { attempt, reason: "busy".to_owned(), run_at_ms: 77 }),
        4 => ends.clone().prop_map(finish),
        4 => ends.prop_map(decide),
        1 => Just(Change::Cancel),
        3 => (1..4_u32).prop_map(|attempt| Change::Return { attempt }),
        4 => (0..3_u32).prop_map(|retries| Change::Again { retries, module_hash: "def".to_owned(), run_at_ms: 88 }),
    ]
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let job = || 1..12_i64;
    let run = || (job(), 1..4_u32).prop_map(|(job, attempt)| Run { job, attempt });
    let rarely = || proptest::bool::weighted(0.05);
    let needs = proptest::collection::vec(job(), 0..3);
    let op = prop_oneof![
        20 => (proptest::option::weighted(0.3, 0..3_u8), proptest::option::weighted(0.3, needs), rarely())
            .prop_map(|(key, needs, is_poisoned)| Op::Submit { key, needs: needs.unwrap_or_default(), is_poisoned }),
        60 => (job(), changes()).prop_map(|(job, change)| Op::Change { job, change }),
        40 => (run(), rarely(), any::<bool>()).prop_map(|(run, is_poisoned, has_blob)| Op::Event { run, is_poisoned, has_blob }),
        6 => (run(), rarely()).prop_map(|(run, is_empty)| Op::Checkpoint { run, is_empty }),
        6 => (run(), 0..4_u8).prop_map(|(run, dir)| Op::Made { run, dir }),
        2 => (0..4_u8).prop_map(Op::ForgetDirs),
        8 => job().prop_map(|job| Op::Delete { job }),
        1 => (0..3_u32).prop_map(|limit| Op::Sweep { limit }),
        3 => (0..2_u8, 0..2_u8, 1..4_i64).prop_map(|(name, cron, next)| Op::Put { name, cron, next_ms: next * 10 }),
        6 => (0..2_u8, 1..3_i64, 1..5_i64).prop_map(|(name, revision, at)| Op::Fire { name, revision, at_ms: at * 10 }),
        1 => (0..2_u8).prop_map(|name| Op::Remove { name }),
        3 => (0..3_u8, any::<bool>()).prop_map(|(kind, pause)| Op::Pause { kind, pause }),
        4 => Just(Op::Settle),
        4 => Just(Op::Hold),
        1 => Just(Op::Jam),
        1 => Just(Op::Reopen),
    ];
    proptest::collection::vec(op, 1..120)
}

/// One engine, with the answers and events received from it.
struct Side<S: Subject> {
    fixture: Fixture<S>,
    answers: (mpsc::Sender<String>, mpsc::Receiver<String>),
    news: Arc<Mutex<Vec<Settled>>>,
    held: Option<mpsc::Sender<()>>,
    jam: Option<S::Jam>,
}

/// All data that a client could compare, without times.
#[derive(Debug, PartialEq)]
struct Seen {
    answers: Vec<String>,
    jobs: Vec<JobRow>,
    events: Vec<JobEvent>,
    stored: Vec<Vec<JobEvent>>,
    feed: Vec<(JobEvent, String, String)>,
    unfinished: Vec<JobRow>,
    schedules: Vec<ScheduleRow>,
    paused: Vec<JobKind>,
    news: Vec<String>,
    checkpoints: Vec<Option<Vec<u8>>>,
    files: Vec<Option<JobFiles>>,
    gone_dirs: Vec<String>,
    needed_blobs: Vec<bool>,
}

fn timeless(row: JobRow) -> JobRow {
    JobRow { created_at_ms: 0, updated_at_ms: 0, ..row }
}

fn timeless_event(event: &JobEvent) -> JobEvent {
    JobEvent { ts_ms: 0, ..event.clone() }
}

fn uuid_of(job: i64) -> String {
    format!("uuid {job}")
}

impl<S: Subject> Side<S> {
    fn new() -> Self {
        let mut side =
            Self { fixture: Fixture::new(), answers: mpsc::channel(), news: Arc::default(), held: None, jam: None };
        side.fixture.store().poison(&side.fixture.home);
        side.listen();
        side
    }

    fn listen(&mut self) {
        let news = Arc::clone(&self.news);
        self.fixture.writer().on_settled(Box::new(move |settled| news.lock().unwrap().extend(settled)));
    }

    /// A callback that records its answer as a text.
    fn told<T: Send + 'static>(&self, text: impl FnOnce(T) -> String + Send + 'static) -> Done<T> {
        let answer = self.answers.0.clone();
        Box::new(move |got| {
            let text = match got {
                Ok(got) => text(got),
                Err(StoreError::Refused { .. }) => "refused".to_owned(),
                Err(error) => format!("{error:?}"),
            };
            answer.send(text).unwrap();
        })
    }

    /// `next`: the number of submissions so far, of which the uuid is made.
    fn submit(&self, next: i64, key: Option<u8>, needs: &[i64], is_poisoned: bool) {
        let job = NewJob {
            unique_key: key.map(|key| key.to_string()),
            depends_on: needs.iter().copied().map(uuid_of).collect(),
            payload: if is_poisoned { "\"poison\"" } else { "{}" }.to_owned(),
            files: vec![("in".to_owned(), format!("blob {}", next % 3))],
            concurrency_key: key.map(|key| key.to_string()),
            ..new_job(&uuid_of(next))
        };
        let done = self.told(|got| match got {
            Submitted::New(row) => format!("new {:?}", timeless(row)),
            // While the store goes on, the row may have changed before it is compared.
            Submitted::Existing(row) => format!("existing {:?}", timeless(row)),
            Submitted::Refused(_) => "needs".to_owned(),
        });
        self.fixture.writer().try_submit(job, done).unwrap();
    }

    fn schedule(&self, change: ScheduleChange) {
        let done = self.told(|got| match got {
            ScheduleOutcome::Fired(job, row) => format!("fired {:?} {row:?}", timeless(*job)),
            other => format!("{other:?}"),
        });
        self.fixture.writer().try_schedule(change, done).unwrap();
    }

    fn step(&mut self, op: &Op, next: i64) {
        let writer = self.fixture.writer();
        // While nothing can be committed, these commands are answered Unavailable; another test covers that.
        let is_kept = matches!(op, Op::Change { .. } | Op::Event { .. } | Op::Made { .. });
        let is_command = !matches!(op, Op::Settle | Op::Hold | Op::Jam | Op::Reopen);
        if self.jam.is_some() && is_command && !is_kept {
            return;
        }
        match op {
            Op::Submit { key, needs, is_poisoned } => self.submit(next, *key, needs, *is_poisoned),
            Op::Change { job, change } => {
                writer.change(*job, change.clone(), self.told(|got: Changed| format!("{got:?}"))).unwrap();
            }
            Op::Event { run, is_poisoned, has_blob } => {
                let (uuid, kind) = (uuid_of(run.job).into(), if *is_poisoned { "poison" } else { "done" });
                let blob = event_blob("blob 3");
                if *has_blob {
                    writer.event_with_blob(*run, uuid, kind.into(), "1".into(), blob).unwrap();
                } else {
                    writer.event(*run, uuid, kind.into(), "1".into()).unwrap();
                }
            }
            Op::Checkpoint { run, is_empty } => {
                let bytes = if *is_empty { Vec::new() } else { vec![run.attempt as u8] };
                let done = self.told(|kept| format!("checkpoint {kept}"));
                writer.checkpoint(*run, uuid_of(run.job).into(), bytes, done).unwrap();
            }
            Op::Made { run, dir } => {
                let files = vec![MadeFile { name: "out".to_owned(), bytes: 9 }];
                let done = self.told(|kept| format!("made {kept}"));
                writer.made(*run, uuid_of(run.job).into(), dir.to_string(), files, done).unwrap();
            }
            Op::ForgetDirs(dir) => writer.forget_dirs(vec![dir.to_string()]).unwrap(),
            Op::Delete { job } => {
                writer.try_delete(uuid_of(*job), self.told(|got: Deleted| format!("{got:?}"))).unwrap();
            }
            Op::Sweep { limit } => {
                writer.try_sweep(i64::MAX, *limit, self.told(|count| format!("{count} swept"))).unwrap();
            }
            Op::Put { name, cron, next_ms } => {
                let spec = ScheduleSpec { cron: cron.to_string(), ..super::schedules::spec(&name.to_string()) };
                self.schedule(ScheduleChange::Put { spec, next_ms: *next_ms });
            }
            Op::Fire { name, revision, at_ms } => {
                let slot = Some(Slot { schedule: name.to_string(), at_ms: *at_ms });
                let job = Box::new(NewJob { slot, ..new_job(&uuid_of(next)) });
                self.schedule(ScheduleChange::Fire { revision: *revision, next_ms: at_ms + 10, job });
            }
            Op::Remove { name } => {
                self.schedule(ScheduleChange::Remove { name: name.to_string(), declared: false });
            }
            Op::Pause { kind, pause } => {
                let done = self.told(|got: Paused| format!("{got:?}"));
                writer.try_pause(("shop".to_owned(), kind.to_string()), *pause, done).unwrap();
            }
            Op::Settle => {}
            Op::Hold => self.held = self.held.take().or_else(|| Some(self.fixture.hold())),
            Op::Jam => {
                self.settle();
                self.jam = Some(self.fixture.store().jam(&self.fixture.home));
            }
            Op::Reopen => {
                self.settle();
                self.fixture.reopen();
                self.listen();
            }
        }
    }

    fn settle(&mut self) {
        (self.held, self.jam) = (None, None);
        // The second call is needed, because the writer reports settled jobs after the answers of their batch and before the
        // next batch.
        self.fixture.settle();
        self.fixture.settle();
    }

    /// `count`: the number of submissions so far.
    fn seen(&mut self, count: i64) -> Seen {
        self.settle();
        let mut reader = self.fixture.reader();
        let published = self.fixture.published();
        assert!(published.iter().map(|event| event.id).eq(1..=published.len() as i64), "a gap in the events");
        assert!(published.is_sorted_by_key(|event| event.ts_ms));
        let (mut paused, mut gone_dirs) = (reader.paused().unwrap(), reader.gone_dirs(99).unwrap());
        paused.sort();
        gone_dirs.sort();
        let mut news: Vec<String> = self.news.lock().unwrap().iter().map(|news| format!("{news:?}")).collect();
        news.sort();
        let filter = JobFilter { limit: u32::MAX, ..JobFilter::default() };
        let events = |events: Vec<JobEvent>| events.iter().map(timeless_event).collect::<Vec<_>>();
        let feed = reader.feed(&FeedFilter::default(), 0, u32::MAX, usize::MAX).unwrap().events;
        let uuids: Vec<String> = (0..count).map(uuid_of).collect();
        let mut of_uuids: Vec<JobRow> = uuids.iter().filter_map(|uuid| reader.job(uuid).unwrap()).collect();
        of_uuids.extend(reader.jobs(&filter, usize::MAX).unwrap());
        Seen {
            answers: self.answers.1.try_iter().collect(),
            jobs: of_uuids.into_iter().map(timeless).collect(),
            stored: (1..=count).map(|id| events(reader.events(id, 0, u32::MAX, usize::MAX).unwrap())).collect(),
            events: events(published),
            feed: feed.into_iter().map(|(event, module, job)| (timeless_event(&event), module, job)).collect(),
            unfinished: reader.unfinished(0, u32::MAX).unwrap().into_iter().map(timeless).collect(),
            schedules: reader.schedules().unwrap(),
            paused,
            news,
            checkpoints: (1..=count).map(|id| reader.checkpoint(id).unwrap()).collect(),
            files: uuids.iter().map(|uuid| reader.files(uuid).unwrap()).collect(),
            gone_dirs,
            needed_blobs: (0..4).map(|n| reader.is_blob_needed(&format!("blob {n}")).unwrap()).collect(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_engines_agree(ops in ops()) {
        let (mut sqlite, mut memory) = (Side::<Store>::new(), Side::<MemoryStore>::new());
        let mut count = 0;
        for op in ops.iter().chain([&Op::Settle, &Op::Reopen]) {
            count += i64::from(matches!(op, Op::Submit { .. } | Op::Fire { .. }));
            sqlite.step(op, count);
            memory.step(op, count);
            if matches!(op, Op::Settle | Op::Reopen) {
                assert_eq!(sqlite.seen(count + 1), memory.seen(count + 1));
            }
        }
    }
}
