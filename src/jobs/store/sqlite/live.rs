//! The unfinished jobs in memory, always equal to the database.

use crate::jobs::store::JobState;
use crate::jobs::store::transition::LiveJob;
use rusqlite::Connection;
use std::collections::HashMap;

/// Pending and running jobs by id, and decided jobs whose run continues; with an undo list for a rollback.
#[derive(Default)]
pub(super) struct Live {
    jobs: HashMap<i64, LiveJob>,
    /// The earlier value of each changed entry since the transaction began, oldest change first.
    undo: Vec<(i64, Option<LiveJob>)>,
}

impl Live {
    /// Reads the unfinished jobs from the database; must be called before the first transaction.
    pub(super) fn load(connection: &Connection) -> rusqlite::Result<Self> {
        let mut live = Self::default();
        let mut statement = connection
            .prepare("SELECT id, uuid, state, attempt, retries FROM jobs WHERE state IN ('pending', 'running')")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let state = if row.get_ref(2)?.as_str()? == "running" { JobState::Running } else { JobState::Pending };
            let (uuid, attempt, retries) = (row.get::<_, String>(1)?.into(), row.get(3)?, row.get(4)?);
            let job = LiveJob { uuid, state, attempt, retries };
            live.jobs.insert(row.get(0)?, job);
        }
        Ok(live)
    }

    pub(super) fn get(&self, id: i64) -> Option<&LiveJob> {
        self.jobs.get(&id)
    }

    /// Sets or, with `None`, removes an entry.
    pub(super) fn set(&mut self, id: i64, job: Option<LiveJob>) {
        let before = match job {
            Some(job) => self.jobs.insert(id, job),
            None => self.jobs.remove(&id),
        };
        self.undo.push((id, before));
    }

    /// A point within the transaction to which `roll_back` can return.
    pub(super) fn mark(&self) -> usize {
        self.undo.len()
    }

    /// Undoes all changes since `mark`; 0 is the start of the transaction.
    pub(super) fn roll_back(&mut self, mark: usize) {
        for (id, before) in self.undo.drain(mark..).rev() {
            match before {
                Some(job) => self.jobs.insert(id, job),
                None => self.jobs.remove(&id),
            };
        }
    }

    /// Forgets the undo list, because the transaction is committed.
    pub(super) fn commit(&mut self) {
        self.undo.clear();
    }
}
