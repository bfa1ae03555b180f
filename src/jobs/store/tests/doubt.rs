//! Commits in doubt: the engine can't say at once whether a transaction is stored.

use super::memory::Broken;
use super::*;

type Memory = Fixture<MemoryStore>;

fn doubt(fixture: &Memory, questions: usize, is_stored: bool) {
    fixture.home.broken.lock().unwrap().push_back(Broken::Doubtful { questions, is_stored });
}

/// A submission, the start of a job and an event of it in one batch, whose commit is in doubt; the answers by name.
fn batch_in_doubt(fixture: &Memory, questions: usize, is_stored: bool) -> (i64, Vec<(&'static str, String)>) {
    let (a, writer) = (fixture.add("a"), fixture.writer());
    let (answer, answers) = mpsc::channel();
    let release = fixture.hold();
    let told = answer.clone();
    let submitted = move |got: Result<Submitted, StoreError>| {
        let text = match got {
            Ok(Submitted::New(row)) => format!("new {}", row.id),
            other => format!("{other:?}"),
        };
        told.send(("submit", text)).unwrap();
    };
    writer.try_submit(new_job("b"), Box::new(submitted)).unwrap();
    let started = move |got: Result<Changed, StoreError>| answer.send(("start", format!("{got:?}"))).unwrap();
    writer.try_change(a, Change::Start { retries: 0 }, Box::new(started)).unwrap();
    fixture.event(a, "a", "step");
    doubt(fixture, questions, is_stored);
    drop(release);
    let mut answers: Vec<_> = answers.iter().collect();
    answers.sort();
    fixture.settle();
    (a, answers)
}

const STARTED: &str = "Ok(Applied(Running))";

#[test]
fn a_batch_that_was_stored_is_answered_as_if_nothing_had_happened() {
    let fixture = Memory::new();
    let (a, answers) = batch_in_doubt(&fixture, 2, true);
    assert_eq!(answers, [("start", STARTED.to_owned()), ("submit", format!("new {}", a + 1))]);
    // Each event is there once, and published once.
    assert_eq!(kinds(&fixture.published()), ["created", "created", "started", "step"]);
    assert_eq!(kinds(&fixture.stored_events(a)), ["created", "started", "step"]);
    assert_eq!(fixture.store().stats().failures(), 1);
    assert!(fixture.change(a, finish(JobState::Done)) == Changed::Applied(JobState::Done));
}

#[test]
fn a_batch_that_was_not_stored_is_like_any_that_failed() {
    let fixture = Memory::new();
    let (a, answers) = batch_in_doubt(&fixture, 2, false);
    assert_eq!(answers[0], ("start", STARTED.to_owned()), "changes are tried again");
    assert!(answers[1].1.contains("Unavailable"), "{answers:?}");
    assert_eq!(kinds(&fixture.stored_events(a)), ["created", "started", "step"]);
    assert_eq!(kinds(&fixture.published()), ["created", "started", "step"]);
    assert_eq!(fixture.reader().job("b").unwrap(), None);
}

/// The questions take longer than a client waits.
const MANY: usize = 6;

#[test]
fn a_client_waits_for_a_second_and_its_job_runs_if_it_was_stored() {
    let fixture = Memory::new();
    let news = fixture.settled();
    let (a, answers) = batch_in_doubt(&fixture, MANY, true);
    assert_eq!(answers[0], ("start", STARTED.to_owned()));
    assert!(answers[1].1.contains("InDoubt"), "{answers:?}");
    let [Settled::Stored(row)] = &news.recv().unwrap()[..] else { panic!("the job was not reported") };
    assert_eq!((row.id, &**row), (a + 1, &JobRow { timeout_ms: u64::MAX, ..fixture.row("b") }));
    assert_eq!(kinds(&fixture.published()), ["created", "created", "started", "step"]);
    // The same holds for the slot of a schedule: its job is reported, and the next attempt finds the slot processed.
    let spec = super::schedules::spec("s");
    ask(|done| fixture.writer().try_schedule(ScheduleChange::Put { spec, next_ms: 100 }, done)).unwrap();
    doubt(&fixture, MANY, true);
    let fire = |uuid: &str| {
        let slot = Some(Slot { schedule: "s".into(), at_ms: 100 });
        let job = Box::new(NewJob { slot, ..new_job(uuid) });
        ask(|done| fixture.writer().try_schedule(ScheduleChange::Fire { revision: 1, next_ms: 110, job }, done))
    };
    assert!(matches!(fire("c"), Err(StoreError::InDoubt { .. })));
    assert!(matches!(&news.recv().unwrap()[..], [Settled::Stored(row)] if row.uuid == "c"));
    doubt(&fixture, MANY, true);
    let kind = ("shop".to_owned(), "mail".to_owned());
    let paused = ask(|done| fixture.writer().try_pause(kind.clone(), true, done));
    assert!(matches!(paused, Err(StoreError::InDoubt { .. })));
    assert_eq!(news.recv().unwrap(), [Settled::Paused(kind, true)]);
    assert!(matches!(fire("d"), Ok(ScheduleOutcome::Is(row)) if (row.next_ms, row.runs) == (110, 1)));
}

#[test]
fn a_client_that_was_told_of_the_doubt_has_no_job_if_it_was_not_stored() {
    let fixture = Memory::new();
    let news = fixture.settled();
    let (a, answers) = batch_in_doubt(&fixture, MANY, false);
    assert!(answers[0].1 == STARTED && answers[1].1.contains("InDoubt"), "{answers:?}");
    assert_eq!(fixture.reader().job("b").unwrap(), None);
    assert!(news.try_recv().is_err());
    assert_eq!(fixture.add("b"), a + 1);
}

#[test]
fn what_comes_during_a_doubt_is_refused_at_once_or_comes_after() {
    let fixture = Memory::new();
    let (id, writer) = (fixture.add("a"), fixture.writer());
    doubt(&fixture, MANY, true);
    writer.try_change(id, Change::Start { retries: 0 }, Box::new(drop)).unwrap();
    wait_for("the commit in doubt", || fixture.store().stats().failures() > 0);
    fixture.event(id, "a", "step");
    let refused = fixture.submit(new_job("b"));
    assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
    assert_eq!(fixture.published().len(), 1, "the commit is still in doubt");
    fixture.settle();
    assert_eq!(kinds(&fixture.stored_events(id)), ["created", "started", "step"]);
    assert_eq!(fixture.published(), fixture.stored_events(id));
}

#[test]
fn a_store_that_closes_in_doubt_says_so() {
    let fixture = Memory::new();
    let (id, writer) = (fixture.add("a"), fixture.writer());
    doubt(&fixture, usize::MAX, false);
    let (answer, answered) = mpsc::channel();
    writer.change(id, Change::Start { retries: 0 }, Box::new(move |got| answer.send(got).unwrap())).unwrap();
    wait_for("the commit in doubt", || fixture.store().stats().failures() > 0);
    let begun = Instant::now();
    drop(fixture.open);
    assert!(begun.elapsed() >= Duration::from_secs(4), "the store tries for a while");
    assert!(matches!(answered.recv().unwrap(), Err(StoreError::InDoubt { .. })));
}
