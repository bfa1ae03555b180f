//! Finds the due schedules, and the time of the next one. Has no clock and no threads.

use super::cron::Cron;
use super::store::{Read, ScheduleRow, StoreError};
use std::collections::{BTreeMap, BTreeSet};

/// Delay before a slot that could not be stored is tried again, in milliseconds.
const TRY_AGAIN_MS: i64 = 1_000;

struct Entry {
    row: ScheduleRow,
    /// `None`: this server can't read the schedule's cron text or time zone.
    cron: Option<Cron>,
    /// The time when the schedule is next processed; `None`: never.
    at_ms: Option<i64>,
    /// The reason why the due slot has no job yet.
    problem: Option<String>,
}

/// A slot that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) row: ScheduleRow,
    /// The next slot in the future; the server skips missed slots before it.
    pub(super) next_ms: i64,
}

/// The schedules by name, as in the store.
#[derive(Default)]
pub(super) struct Timetable {
    entries: BTreeMap<String, Entry>,
    turns: BTreeSet<(i64, String)>,
}

impl Timetable {
    /// Reads all stored schedules.
    pub(super) fn read(reader: &mut impl Read) -> Result<Self, StoreError> {
        let mut table = Self::default();
        reader.schedules()?.into_iter().for_each(|row| table.set(row));
        Ok(table)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The schedules by name, and why a due slot is not stored.
    pub(super) fn rows(&self) -> impl Iterator<Item = (&ScheduleRow, Option<&str>)> {
        self.entries.values().map(|entry| (&entry.row, entry.problem.as_deref()))
    }

    pub(super) fn get(&self, name: &str) -> Option<&ScheduleRow> {
        self.entries.get(name).map(|entry| &entry.row)
    }

    /// Adds or replaces the schedule of `row`.
    pub(super) fn set(&mut self, row: ScheduleRow) {
        let name = row.spec.name.clone();
        self.remove(&name);
        let (cron, problem) = match Cron::parse(&row.spec.cron, &row.spec.zone) {
            Ok(cron) => (Some(cron), None),
            Err(why) => (None, Some(why)),
        };
        let at_ms = cron.as_ref().map(|_| row.next_ms);
        self.turns.extend(at_ms.map(|at_ms| (at_ms, name.clone())));
        self.entries.insert(name, Entry { row, cron, at_ms, problem });
    }

    pub(super) fn remove(&mut self, name: &str) {
        if let Some(Entry { at_ms: Some(at_ms), .. }) = self.entries.remove(name) {
            self.turns.remove(&(at_ms, name.to_owned()));
        }
    }

    /// Time at which the next schedule is due.
    pub(super) fn wake(&self) -> Option<i64> {
        self.turns.first().map(|(at_ms, _)| *at_ms)
    }

    /// Takes a schedule that is due. The schedule is not due again before [`Timetable::set`] or [`Timetable::held`].
    pub(super) fn due(&mut self, now_ms: i64) -> Option<Due> {
        let (at_ms, name) = self.turns.first()?.clone();
        if at_ms > now_ms {
            return None;
        }
        self.turns.pop_first();
        let entry = self.entries.get_mut(&name)?;
        entry.at_ms = None;
        let slot_ms = entry.row.next_ms;
        let next_ms = entry.cron.as_ref().and_then(|cron| cron.next_ms(now_ms.max(slot_ms))).unwrap_or(i64::MAX);
        Some(Due { row: entry.row.clone(), next_ms })
    }

    /// Records that the slot of that schedule was not stored: the slot stays due, and is tried again shortly.
    pub(super) fn held(&mut self, name: &str, now_ms: i64, why: String) {
        if let Some(entry) = self.entries.get_mut(name).filter(|entry| entry.at_ms.is_none() && entry.cron.is_some()) {
            let at_ms = now_ms.saturating_add(TRY_AGAIN_MS);
            entry.problem = Some(why);
            entry.at_ms = Some(at_ms);
            self.turns.insert((at_ms, name.to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::store::ScheduleSpec;

    const MINUTE: i64 = 60_000;

    fn row(name: &str, cron: &str, next_ms: i64) -> ScheduleRow {
        let spec = ScheduleSpec {
            name: name.into(),
            module: "m".into(),
            job: "j".into(),
            cron: cron.into(),
            zone: "UTC".into(),
            payload: "{}".into(),
            overlap: false,
            declared: false,
        };
        ScheduleRow { spec, revision: 1, next_ms, last_slot_ms: None, last_job: None, runs: 0, skipped: 0 }
    }

    /// Processes every due slot, as the store would.
    fn fire(table: &mut Timetable, now_ms: i64) -> Vec<(String, i64)> {
        let mut fired = Vec::new();
        while let Some(Due { row, next_ms }) = table.due(now_ms) {
            fired.push((row.spec.name.clone(), row.next_ms));
            table.set(ScheduleRow { next_ms, ..row });
        }
        fired
    }

    #[test]
    fn each_slot_has_one_turn_in_the_order_of_time() {
        let mut table = Timetable::default();
        table.set(row("b", "* * * * *", MINUTE));
        table.set(row("a", "*/2 * * * *", 2 * MINUTE));
        assert_eq!((table.wake(), fire(&mut table, MINUTE - 1)), (Some(MINUTE), vec![]));
        assert_eq!(fire(&mut table, MINUTE), [("b".to_owned(), MINUTE)]);
        assert_eq!(fire(&mut table, MINUTE), []);
        assert_eq!(fire(&mut table, 2 * MINUTE + 5), [("a".to_owned(), 2 * MINUTE), ("b".to_owned(), 2 * MINUTE)]);
        table.remove("b");
        assert_eq!((table.wake(), table.len()), (Some(4 * MINUTE), 1));
    }

    #[test]
    fn what_was_slept_through_has_one_turn_and_a_clock_set_back_none_again() {
        let mut table = Timetable::default();
        table.set(row("a", "* * * * *", MINUTE));
        assert_eq!(fire(&mut table, 500 * MINUTE + 7), [("a".to_owned(), MINUTE)]);
        assert_eq!(table.wake(), Some(501 * MINUTE));
        // The clock goes back by 100 minutes: all of these slots are in the past of the schedule.
        assert_eq!(fire(&mut table, 400 * MINUTE), []);
        assert_eq!(fire(&mut table, 501 * MINUTE), [("a".to_owned(), 501 * MINUTE)]);
    }

    #[test]
    fn a_slot_that_is_not_stored_stays_due_and_tells_why() {
        let mut table = Timetable::default();
        table.set(row("a", "* * * * *", MINUTE));
        assert_eq!(table.due(MINUTE).unwrap().next_ms, 2 * MINUTE);
        assert_eq!((table.due(9 * MINUTE), table.wake()), (None, None));
        table.held("a", MINUTE, "no module".into());
        assert_eq!(table.rows().next().unwrap().1, Some("no module"));
        assert_eq!(table.wake(), Some(MINUTE + 1000));
        assert_eq!(table.due(5 * MINUTE).unwrap(), Due { row: row("a", "* * * * *", MINUTE), next_ms: 6 * MINUTE });
        table.held("gone", MINUTE, String::new());
        // A schedule with a time zone unknown to this server is shown, and never due.
        let mut lost = row("lost", "* * * * *", 0);
        lost.spec.zone = "Europe/Atlantis".into();
        table.set(lost);
        assert_eq!(table.wake(), None);
        assert!(table.rows().nth(1).unwrap().1.unwrap().contains("Atlantis"));
    }
}
