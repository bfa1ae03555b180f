//! Schedules: a slot is processed once, whatever happens in between.

use super::*;

pub(super) fn spec(name: &str) -> ScheduleSpec {
    ScheduleSpec {
        name: name.into(),
        module: "shop".into(),
        job: "mail".into(),
        cron: "* * * * *".into(),
        zone: "UTC".into(),
        payload: "{}".into(),
        overlap: false,
        declared: false,
    }
}

fn change<S: Subject>(fixture: &Fixture<S>, change: ScheduleChange) -> ScheduleOutcome {
    ask(|done| fixture.writer().try_schedule(change, done)).unwrap()
}

fn put<S: Subject>(fixture: &Fixture<S>, spec: ScheduleSpec, next_ms: i64) -> ScheduleOutcome {
    change(fixture, ScheduleChange::Put { spec, next_ms })
}

fn is(outcome: ScheduleOutcome) -> ScheduleRow {
    match outcome {
        ScheduleOutcome::Is(row) | ScheduleOutcome::Fired(_, row) => row,
        other => panic!("{other:?}"),
    }
}

/// Processes the slot at `at_ms`.
fn fire<S: Subject>(fixture: &Fixture<S>, uuid: &str, at_ms: i64, revision: i64) -> ScheduleOutcome {
    let slot = Some(Slot { schedule: "s".into(), at_ms });
    let job = Box::new(NewJob { slot, ..new_job(uuid) });
    change(fixture, ScheduleChange::Fire { revision, next_ms: at_ms + 10, job })
}

pub(super) fn a_slot_has_one_turn_and_the_job_before_has_to_have_ended<S: Subject>() {
    let fixture = Fixture::<S>::new();
    put(&fixture, spec("s"), 100);
    assert!(matches!(fire(&fixture, "wrong", 90, 1), ScheduleOutcome::Is(row) if row.next_ms == 100 && row.runs == 0));
    let ScheduleOutcome::Fired(job, row) = fire(&fixture, "a", 100, 1) else { panic!("not fired") };
    assert_eq!((row.next_ms, row.last_slot_ms, row.last_job.as_deref(), row.runs), (110, Some(100), Some("a"), 1));
    assert_eq!((job.state, &job.uuid), (JobState::Pending, &fixture.row("a").uuid));
    assert_eq!(fixture.row("a").slot, Some(Slot { schedule: "s".into(), at_ms: 100 }));
    assert!(matches!(fire(&fixture, "again", 100, 1), ScheduleOutcome::Is(_)), "the slot was processed before");
    let skipped = is(fire(&fixture, "b", 110, 1));
    assert_eq!((skipped.next_ms, skipped.runs, skipped.skipped), (120, 1, 1));
    fixture.change(job.id, Change::Cancel);
    assert!(matches!(fire(&fixture, "c", 120, 1), ScheduleOutcome::Fired(..)));
    // With overlap the previous run would not have mattered.
    let again = put(&fixture, ScheduleSpec { overlap: true, ..spec("s") }, 500);
    assert_eq!((is(again.clone()).next_ms, is(again).revision), (130, 2), "the times are unchanged");
    assert!(matches!(fire(&fixture, "d", 130, 1), ScheduleOutcome::Is(_)), "the revision is old");
    assert!(matches!(fire(&fixture, "d", 130, 2), ScheduleOutcome::Fired(..)));
    // The schedule is created again after the clock was set back: processed slots are not processed again.
    assert_eq!(change(&fixture, ScheduleChange::Remove { name: "s".into(), declared: false }), ScheduleOutcome::Gone);
    put(&fixture, spec("s"), 120);
    let passed = is(fire(&fixture, "e", 120, 1));
    assert_eq!((passed.next_ms, passed.runs, passed.skipped), (130, 0, 0));
    assert_eq!(fixture.reader().schedules().unwrap(), [passed]);
    assert!(matches!(fire(&fixture, "f", 7, 1), ScheduleOutcome::Is(_)));
}

pub(super) fn a_change_keeps_the_slot_that_is_due_and_each_kind_to_itself<S: Subject>() {
    let fixture = Fixture::<S>::new();
    let far = i64::MAX - 5;
    let hourly = ScheduleSpec { cron: "0 * * * *".into(), ..spec("s") };
    assert_eq!(is(put(&fixture, spec("s"), 100)).next_ms, 100);
    assert_eq!(is(put(&fixture, hourly.clone(), far)).next_ms, 100, "due");
    is(fire(&fixture, "a", 100, 2));
    let ahead = is(put(&fixture, spec("s"), far));
    assert_eq!((ahead.next_ms, ahead.runs), (110, 1), "due still");
    put(&fixture, spec("later"), far);
    assert_eq!(is(put(&fixture, ScheduleSpec { name: "later".into(), ..hourly }, far - 1)).next_ms, far - 1);
    let same = is(put(&fixture, spec("s"), 7));
    assert_eq!((same.revision, same.next_ms), (ahead.revision, 110), "nothing has changed");
    let declared = ScheduleSpec { declared: true, ..spec("s") };
    assert_eq!(put(&fixture, declared, 1), ScheduleOutcome::Taken);
    let remove = |name: &str, declared| change(&fixture, ScheduleChange::Remove { name: name.into(), declared });
    assert_eq!(remove("s", true), ScheduleOutcome::Taken);
    assert_eq!(remove("t", true), ScheduleOutcome::NotFound);
    assert_eq!(remove("s", false), ScheduleOutcome::Gone);
    let slot = Some(Slot { schedule: "s".into(), at_ms: 110 });
    let fire = ScheduleChange::Fire { revision: 3, next_ms: 200, job: Box::new(NewJob { slot, ..new_job("x") }) };
    assert_eq!(change(&fixture, fire), ScheduleOutcome::Gone, "the schedule was deleted meanwhile");
}

/// The slot of a fire and its job are one transaction: after a failure both are as before, and the same fire does both.
pub(super) fn a_slot_and_its_job_are_stored_together<S: Subject>() {
    let mut fixture = Fixture::<S>::new();
    put(&fixture, spec("s"), 100);
    let jam = fixture.store().jam(&fixture.home);
    let slot = || Some(Slot { schedule: "s".into(), at_ms: 100 });
    let fire = || {
        let job = Box::new(NewJob { slot: slot(), ..new_job("a") });
        ScheduleChange::Fire { revision: 1, next_ms: 110, job }
    };
    let failed = ask(|done| fixture.writer().try_schedule(fire(), done));
    assert!(matches!(failed, Err(StoreError::Unavailable { .. })), "{failed:?}");
    let row = fixture.reader().schedules().unwrap().remove(0);
    assert_eq!((row.next_ms, row.runs, fixture.reader().job("a").unwrap()), (100, 0, None));
    drop(jam);
    assert!(matches!(change(&fixture, fire()), ScheduleOutcome::Fired(..)));
    fixture.reopen();
    let row = fixture.reader().schedules().unwrap().remove(0);
    assert_eq!((row.next_ms, row.runs, fixture.row("a").slot), (110, 1, slot()));
}
