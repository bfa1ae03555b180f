//! What every engine must do.

use super::*;
use crate::jobs::blobs::MadeFile;

pub(super) fn a_job_is_stored_as_submitted<S: Subject>() {
    let fixture = Fixture::<S>::new();
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

pub(super) fn a_run_goes_from_pending_to_done<S: Subject>() {
    let fixture = Fixture::<S>::new();
    let id = fixture.add("a");
    assert_eq!(fixture.change(id, Change::Start { retries: 0 }), Changed::Applied(JobState::Running));
    let retry = Change::Retry { attempt: 1, reason: "later".to_owned(), run_at_ms: 99 };
    assert_eq!(fixture.change(id, retry), Changed::Applied(JobState::Pending));
    assert_eq!((fixture.row("a").run_at_ms, fixture.row("a").attempt), (99, 1));
    assert_eq!(fixture.change(id, Change::Start { retries: 0 }), Changed::Applied(JobState::Running));
    fixture.event_of(Run { job: id, attempt: 2 }, "a", "done");
    assert_eq!(fixture.change(id, finish_of(2, JobState::Done)), Changed::Applied(JobState::Done));
    let row = fixture.row("a");
    assert_eq!((row.state, row.attempt, row.result.as_deref(), row.error), (JobState::Done, 2, Some("7"), None));
    let events = fixture.stored_events(id);
    assert_eq!(kinds(&events), ["created", "started", "retrying", "started", "done", "done"]);
    assert_eq!(events.iter().filter(|event| event.is_final).map(|event| event.id).collect::<Vec<_>>(), [6]);
    assert_eq!(events, fixture.published());
    assert!(events.is_sorted_by_key(|event| event.ts_ms));
}

pub(super) fn a_finished_job_stays_as_it_is<S: Subject>() {
    let fixture = Fixture::<S>::new();
    for (uuid, end) in [("a", finish(JobState::Done)), ("b", finish(JobState::Failed)), ("c", Change::Cancel)] {
        let id = fixture.add(uuid);
        fixture.change(id, Change::Start { retries: 0 });
        let Changed::Applied(state) = fixture.change(id, end) else { panic!() };
        let before = (fixture.row(uuid), fixture.stored_events(id));
        let retry = Change::Retry { attempt: 1, reason: String::new(), run_at_ms: 0 };
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

pub(super) fn a_pending_job_takes_neither_end_nor_event<S: Subject>() {
    let fixture = Fixture::<S>::new();
    let id = fixture.add("a");
    assert_eq!(fixture.change(id, finish(JobState::Done)), Changed::Refused(JobState::Pending));
    fixture.event(id, "a", "early");
    fixture.settle();
    assert_eq!(kinds(&fixture.stored_events(id)), ["created"]);
}

pub(super) fn an_event_for_another_uuid_is_dropped<S: Subject>() {
    let fixture = Fixture::<S>::new();
    let id = fixture.add("a");
    fixture.change(id, Change::Start { retries: 0 });
    fixture.event(id, "b", "lost");
    fixture.settle();
    assert_eq!(kinds(&fixture.stored_events(id)), ["created", "started"]);
}

pub(super) fn a_finish_in_no_final_state_is_refused_at_once<S: Subject>() {
    let fixture = Fixture::<S>::new();
    for state in [JobState::Pending, JobState::Running, JobState::Canceled] {
        let refused = fixture.writer().try_change(1, finish(state), Box::new(|_| panic!("must not be called")));
        assert!(matches!(refused, Err(StoreError::Refused { .. })));
    }
}

pub(super) fn a_unique_key_names_one_job<S: Subject>() {
    let fixture = Fixture::<S>::new();
    let keyed = |uuid| NewJob { unique_key: Some("k".to_owned()), ..new_job(uuid) };
    let Submitted::New(first) = fixture.submit(keyed("a")).unwrap() else { panic!() };
    assert_eq!(fixture.submit(keyed("b")).unwrap(), Submitted::Existing(fixture.row("a")));
    // Holds in every state; only a deletion frees the key.
    fixture.change(first.id, Change::Cancel);
    let Submitted::Existing(existing) = fixture.submit(keyed("c")).unwrap() else { panic!() };
    assert_eq!((existing.id, existing.state), (first.id, JobState::Canceled));
    let elsewhere = NewJob { job: "other".to_owned(), ..keyed("d") };
    assert!(matches!(fixture.submit(elsewhere).unwrap(), Submitted::New(_)));
    assert_eq!(ask(|done| fixture.writer().try_delete("a".to_owned(), done)), Ok(Deleted::Done));
    assert!(matches!(fixture.submit(keyed("e")).unwrap(), Submitted::New(_)));
}

pub(super) fn two_submissions_of_one_batch_share_a_unique_key<S: Subject>() {
    let fixture = Fixture::<S>::new();
    let release = fixture.hold();
    let (answer, answers) = mpsc::channel();
    for uuid in ["a", "b"] {
        let answer = answer.clone();
        let job = NewJob { unique_key: Some("k".to_owned()), ..new_job(uuid) };
        fixture.writer().try_submit(job, Box::new(move |outcome| answer.send(outcome).unwrap())).unwrap();
    }
    drop(release);
    assert!(matches!(answers.recv().unwrap(), Ok(Submitted::New(_))));
    assert!(matches!(answers.recv().unwrap(), Ok(Submitted::Existing(row)) if row.uuid == "a"));
}

pub(super) fn only_finished_jobs_are_deleted<S: Subject>() {
    let fixture = Fixture::<S>::new();
    let id = fixture.add("a");
    let delete = || ask(|done| fixture.writer().try_delete("a".to_owned(), done)).unwrap();
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

pub(super) fn a_sweep_takes_old_finished_jobs_only<S: Subject>() {
    let fixture = Fixture::<S>::new();
    for uuid in ["a", "b", "c", "d"] {
        let id = fixture.add(uuid);
        if uuid != "d" {
            fixture.change(id, Change::Cancel);
        }
    }
    let sweep = |before_ms, limit| ask(|done| fixture.writer().try_sweep(before_ms, limit, done)).unwrap();
    assert_eq!(sweep(fixture.row("a").updated_at_ms, 10), 0);
    assert_eq!(sweep(i64::MAX, 2), 2);
    assert_eq!(sweep(i64::MAX, 2), 1);
    assert_eq!(sweep(i64::MAX, 2), 0);
    let left = fixture.reader().jobs(&JobFilter { limit: 10, ..JobFilter::default() }, usize::MAX).unwrap();
    assert_eq!(left.iter().map(|row| &*row.uuid).collect::<Vec<_>>(), ["d"]);
}

pub(super) fn what_waits_shares_a_transaction<S: Subject>() {
    let fixture = Fixture::<S>::new();
    let id = fixture.add("a");
    let stats = fixture.store().stats();
    let (commits, commands) = (stats.commits(), stats.commands());
    let release = fixture.hold();
    fixture.writer().try_change(id, Change::Start { retries: 0 }, Box::new(drop)).unwrap();
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

pub(super) fn publication_comes_after_the_commit_and_before_the_answer<S: Subject>() {
    let fixture = Fixture::<S>::new();
    let (answer, answered) = mpsc::channel();
    let (log, mut reader) = (Arc::clone(&fixture.log), fixture.reader());
    let done = Box::new(move |_| {
        // Reads what is acknowledged by this very call.
        let stored = reader.events(1, 0, 9, usize::MAX).unwrap();
        answer.send((log.lock().unwrap().clone(), stored, reader.job("a").unwrap().is_some())).unwrap();
    });
    fixture.writer().try_submit(new_job("a"), done).unwrap();
    let (published, stored, is_there) = answered.recv().unwrap();
    assert_eq!(kinds(&published), ["created"]);
    assert_eq!(published, stored);
    assert!(is_there);
}

pub(super) fn outcomes_come_in_the_order_of_the_commands<S: Subject>() {
    let fixture = Fixture::<S>::new();
    let (first, writer) = (fixture.add("first"), fixture.writer());
    let (answer, answers) = mpsc::channel();
    let release = fixture.hold();
    for n in 0..20 {
        let uuid = format!("{n}");
        let told = answer.clone();
        writer.try_submit(new_job(&uuid), Box::new(move |got| told.send((n, got.is_ok())).unwrap())).unwrap();
        let (told, change) = (answer.clone(), Change::Cancel);
        let id = if n == 0 { first } else { 999 };
        writer.try_change(id, change, Box::new(move |got| told.send((100 + n, got.is_ok())).unwrap())).unwrap();
        let told = answer.clone();
        writer.try_delete(uuid, Box::new(move |got| told.send((200 + n, got.is_ok())).unwrap())).unwrap();
    }
    drop((release, answer));
    let expected: Vec<(i32, bool)> = (0..20).flat_map(|n| [n, 100 + n, 200 + n]).map(|n| (n, true)).collect();
    assert_eq!(answers.iter().collect::<Vec<_>>(), expected);
    // A job that was still pending was not deleted; events have no gap, and lie in the order of the commands.
    let published = fixture.published();
    assert!(published.iter().map(|event| event.id).eq(1..=22));
    assert_eq!(kinds(&published)[..4], ["created", "created", "canceled", "created"]);
}

pub(super) fn a_batch_is_stored_as_a_whole_or_not_at_all<S: Subject>() {
    let fixture = Fixture::<S>::new();
    let (a, writer, stats) = (fixture.add("a"), fixture.writer(), fixture.store().stats());
    let before = fixture.published();
    let (answer, answers) = mpsc::channel();
    let release = fixture.hold();
    let told = answer.clone();
    writer.try_submit(new_job("b"), Box::new(move |got: Result<_, _>| told.send(got.map(drop)).unwrap())).unwrap();
    let told = answer.clone();
    writer.try_change(a, Change::Start { retries: 0 }, Box::new(move |got| told.send(got.map(drop)).unwrap())).unwrap();
    fixture.event(a, "a", "step");
    let jam = fixture.store().jam(&fixture.home);
    drop(release);
    wait_for("a failure", || stats.failures() >= 1);
    assert!(matches!(answers.recv().unwrap(), Err(StoreError::Unavailable { .. })), "submissions don't wait");
    assert_eq!((fixture.row("a").state, fixture.reader().job("b").unwrap()), (JobState::Pending, None));
    assert_eq!(fixture.published(), before);
    assert!(answers.try_recv().is_err(), "a change is kept");
    drop(jam);
    assert_eq!(answers.recv().unwrap(), Ok(()));
    fixture.settle();
    assert_eq!(kinds(&fixture.stored_events(a)), ["created", "started", "step"]);
    assert_eq!(fixture.published(), fixture.stored_events(a));
    assert_eq!(fixture.add("b"), a + 1, "no number is lost");
}

pub(super) fn a_command_that_cannot_work_does_no_harm_to_others<S: Subject>() {
    let fixture = Fixture::<S>::new();
    let id = fixture.add("a");
    fixture.store().poison(&fixture.home);
    let release = fixture.hold();
    let (answer, answers) = mpsc::channel();
    for uuid in ["b", "a", "c", "d"] {
        let answer = answer.clone();
        let payload = if uuid == "c" { "\"poison\"" } else { "{}" };
        let job = NewJob { payload: payload.to_owned(), ..new_job(uuid) };
        let done = Box::new(move |outcome: Result<_, _>| answer.send((uuid, outcome.is_ok())).unwrap());
        fixture.writer().try_submit(job, done).unwrap();
    }
    fixture.writer().try_change(id, Change::Start { retries: 0 }, Box::new(drop)).unwrap();
    fixture.event(id, "a", "poison");
    fixture.event(id, "a", "step");
    drop((release, answer));
    let outcomes: Vec<_> = answers.iter().collect();
    assert_eq!(outcomes, [("b", true), ("a", false), ("c", false), ("d", true)]);
    fixture.settle();
    assert_eq!(kinds(&fixture.published()), ["created", "created", "created", "started", "step"]);
    assert_eq!(fixture.stored_events(id), [&fixture.published()[..1], &fixture.published()[3..]].concat());
    assert_eq!(fixture.store().stats().failures(), 0);
}

pub(super) fn only_the_run_that_holds_a_job_changes_it<S: Subject>() {
    let fixture = Fixture::<S>::new();
    let (id, writer) = (fixture.add("a"), fixture.writer());
    fixture.start(id);
    let retry = |attempt| Change::Retry { attempt, reason: "later".to_owned(), run_at_ms: 9 };
    assert_eq!(fixture.change(id, retry(1)), Changed::Applied(JobState::Pending));
    fixture.start(id);
    let decide = |attempt| Change::Decide { attempt, state: JobState::Done, result: None, error: None };
    let checkpoint = |attempt, text: &str| {
        let run = Run { job: id, attempt };
        ask(|done| writer.checkpoint(run, "a".into(), text.as_bytes().to_vec(), done)).unwrap()
    };
    let made = |attempt, dir: &str| {
        let (run, file) = (Run { job: id, attempt }, MadeFile { name: "out".to_owned(), bytes: 3 });
        ask(|done| writer.made(run, "a".into(), dir.to_owned(), vec![file], done)).unwrap()
    };
    assert!(checkpoint(2, "mine") && made(2, "mine"));
    // The first run, which has ended, and runs that never began.
    for other in [0, 1, 3] {
        for change in
            [retry(other), finish_of(other, JobState::Failed), decide(other), Change::Return { attempt: other }]
        {
            assert_eq!(fixture.change(id, change), Changed::Refused(JobState::Running));
        }
        fixture.event_of(Run { job: id, attempt: other }, "a", "late");
        assert!(!checkpoint(other, "late") && !made(other, "late"));
    }
    fixture.event_of(Run { job: id, attempt: 2 }, "a", "step");
    let mut reader = fixture.reader();
    assert_eq!(reader.checkpoint(id).unwrap().as_deref(), Some(&b"mine"[..]));
    assert_eq!(fixture.change(id, decide(2)), Changed::Applied(JobState::Done));
    // Only the run that has decided may still emit events, until that run returns.
    assert_eq!(fixture.change(id, Change::Return { attempt: 1 }), Changed::Refused(JobState::Done));
    fixture.event_of(Run { job: id, attempt: 1 }, "a", "late");
    fixture.event_of(Run { job: id, attempt: 2 }, "a", "after");
    assert_eq!(fixture.change(id, Change::Return { attempt: 2 }), Changed::Applied(JobState::Done));
    fixture.event_of(Run { job: id, attempt: 2 }, "a", "late");
    fixture.settle();
    let told = ["created", "started", "retrying", "started", "step", "done", "after"];
    assert_eq!(kinds(&fixture.stored_events(id)), told);
    assert_eq!(reader.output_dir("a", "out").unwrap().as_deref(), Some("mine"));
}

pub(super) fn a_retry_by_request_gives_as_many_runs_as_at_first<S: Subject>() {
    let fixture = Fixture::<S>::new();
    let id = fixture.add_job(NewJob { max_attempts: 2, ..new_job("a") });
    let again = |retries| Change::Again { retries, module_hash: "def".to_owned(), run_at_ms: 88 };
    assert_eq!(fixture.change(id, again(0)), Changed::Refused(JobState::Pending));
    fixture.start(id);
    let failed = |attempt| Change::Finish { attempt, state: JobState::Failed, result: None, error: Some("no".into()) };
    fixture.change(id, failed(1));
    assert_eq!(fixture.change(id, again(1)), Changed::Refused(JobState::Failed), "one of two retries is refused");
    assert_eq!(fixture.change(id, again(0)), Changed::Applied(JobState::Pending));
    let row = fixture.row("a");
    assert_eq!((row.retries, row.attempt, row.attempts_before, row.max_attempts), (1, 1, 1, 3));
    assert_eq!((&*row.module_hash, row.run_at_ms, row.error.as_deref()), ("def", 88, Some("no")));
    // A worker that got the job before must not start it.
    assert_eq!(fixture.change(id, Change::Start { retries: 0 }), Changed::Refused(JobState::Pending));
    assert_eq!(fixture.change(id, Change::Start { retries: 1 }), Changed::Applied(JobState::Running));
    let decide = Change::Decide { attempt: 2, state: JobState::Failed, result: None, error: None };
    assert_eq!(fixture.change(id, decide), Changed::Applied(JobState::Failed));
    assert_eq!(fixture.change(id, again(1)), Changed::Refused(JobState::Failed), "the run goes on");
    fixture.change(id, Change::Return { attempt: 2 });
    assert_eq!(fixture.change(id, again(1)), Changed::Applied(JobState::Pending));
}

pub(super) fn jobs_wait_for_those_they_depend_on<S: Subject>() {
    let fixture = Fixture::<S>::new();
    let news = fixture.settled();
    let needing = |uuid: &str, needs: &[&str]| NewJob {
        depends_on: needs.iter().map(|need| (*need).to_owned()).collect(),
        ..new_job(uuid)
    };
    assert!(matches!(fixture.submit(needing("x", &["nobody"])).unwrap(), Submitted::Refused(_)));
    let (a, b) = (fixture.add("a"), fixture.add("b"));
    let Submitted::New(row) = fixture.submit(needing("c", &["a", "b", "a"])).unwrap() else { panic!() };
    assert!(!row.depends_on.is_empty());
    assert_eq!(fixture.row("c").depends_on, ["a", "b"]);
    let (d, _e) = (fixture.add_job(needing("d", &["c"])), fixture.add_job(needing("e", &["d"])));
    fixture.start(a);
    fixture.change(a, finish(JobState::Done));
    assert_eq!((fixture.row("c").depends_on, news.try_recv().is_err()), (vec!["b".to_owned()], true));
    assert_eq!(fixture.add_job(needing("f", &["a"])), d + 2, "a is done: nothing to wait for");
    fixture.start(b);
    fixture.change(b, finish(JobState::Done));
    assert_eq!(news.recv().unwrap(), [Settled::Ready { uuid: "c".into() }]);
    // A failure goes down the chain in one transaction.
    assert_eq!(fixture.change(row.id, Change::Cancel), Changed::Applied(JobState::Canceled));
    let failed = |id, uuid: &str| Settled::Failed { id, uuid: uuid.into() };
    assert_eq!(news.recv().unwrap(), [failed(d, "d"), failed(d + 1, "e")]);
    assert_eq!(fixture.row("d").error.as_deref(), Some("job c, which this one depends on, is canceled"));
    assert_eq!(fixture.row("e").error.as_deref(), Some("job d, which this one depends on, has failed"));
    assert!(matches!(fixture.submit(needing("y", &["d"])).unwrap(), Submitted::Refused(_)));
    let again = || Change::Again { retries: 0, module_hash: "abc".to_owned(), run_at_ms: 1 };
    assert_eq!(fixture.change(d, again()), Changed::Needs, "c is still canceled");
    assert_eq!(fixture.change(row.id, again()), Changed::Applied(JobState::Pending));
    assert_eq!(fixture.change(d, again()), Changed::Waits);
}

pub(super) fn what_was_acknowledged_is_there_when_the_store_opens_again<S: Subject>() {
    let mut fixture = Fixture::<S>::new();
    let keyed = NewJob { concurrency_key: Some("k".to_owned()), concurrency_limit: 2, ..new_job("a") };
    let a = fixture.add_job(NewJob { module_hash: "one".to_owned(), ..keyed });
    fixture.start(a);
    let b = fixture.add_job(NewJob { module_hash: "two".to_owned(), ..new_job("b") });
    let c = fixture.add("c");
    fixture.change(c, Change::Cancel);
    let kind = |n: usize| ("shop".to_owned(), format!("job {n}"));
    for n in [0, 1] {
        assert_eq!(ask(|done| fixture.writer().try_pause(kind(n), true, done)), Ok(Paused::Done));
    }
    assert_eq!(ask(|done| fixture.writer().try_pause(kind(0), false, done)), Ok(Paused::Done));
    let before = (fixture.row("a"), fixture.stored_events(a));
    fixture.reopen();
    assert_eq!((fixture.row("a"), fixture.stored_events(a)), before);
    let mut reader = fixture.reader();
    // These are the jobs that a starting server recovers, with their keys and the versions that they need.
    let open = reader.unfinished(0, 10).unwrap();
    let seen: Vec<_> =
        open.iter().map(|row| (row.id, row.state, &*row.module_hash, row.concurrency_key.as_deref())).collect();
    assert_eq!(seen, [(a, JobState::Running, "one", Some("k")), (b, JobState::Pending, "two", None)]);
    assert_eq!((open[0].concurrency_limit, &*open[0].payload), (2, ""));
    assert_eq!(reader.unfinished(0, 1).unwrap(), open[..1]);
    assert_eq!(reader.unfinished(a, 10).unwrap(), open[1..]);
    assert_eq!(reader.payload(a).unwrap(), Some("{}".to_owned()));
    assert_eq!(reader.paused().unwrap(), [kind(1)]);
    // The states are known again, too.
    assert_eq!(fixture.change(a, Change::Start { retries: 0 }), Changed::Refused(JobState::Running));
    assert_eq!(fixture.change(a, finish(JobState::Done)), Changed::Applied(JobState::Done));
    assert_eq!(fixture.add("d"), c + 1);
}

pub(super) fn paused_kinds_are_limited<S: Subject>() {
    let fixture = Fixture::<S>::new();
    let (writer, release) = (fixture.writer(), fixture.hold());
    for n in 0..PAUSED_MAX {
        writer.try_pause(("shop".to_owned(), format!("{n}")), true, Box::new(drop)).unwrap();
    }
    drop(release);
    let pause = |name: &str, pause| ask(|done| writer.try_pause(("shop".to_owned(), name.to_owned()), pause, done));
    assert_eq!(pause("more", true), Ok(Paused::TooMany));
    assert_eq!((pause("0", false), pause("more", true)), (Ok(Paused::Done), Ok(Paused::Done)));
    assert_eq!(fixture.reader().paused().unwrap().len(), PAUSED_MAX);
}

pub(super) fn closing_commits_what_was_accepted<S: Subject>() {
    let mut fixture = Fixture::<S>::new();
    let id = fixture.add("a");
    fixture.start(id);
    let release = fixture.hold();
    for _ in 0..500 {
        fixture.event(id, "a", "step");
    }
    drop(release);
    fixture.reopen();
    let stored = fixture.stored_events(id);
    assert_eq!(stored.len(), 502);
    assert_eq!(stored, fixture.published());
}
