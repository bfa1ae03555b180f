//! The unfinished jobs in memory, always as the database has them.

use super::JobState;
use rusqlite::Connection;
use std::collections::HashMap;
use std::sync::Arc;

/// What the writer has to know of a job to guard its changes without a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LiveJob {
    pub(super) uuid: Arc<str>,
    pub(super) state: JobState,
    pub(super) attempt: u32,
    /// How often it was retried by request.
    pub(super) retries: u32,
}

impl LiveJob {
    /// A job that was submitted.
    pub(super) fn new(uuid: Arc<str>) -> Self {
        Self { uuid, state: JobState::Pending, attempt: 0, retries: 0 }
    }
}

/// Pending and running jobs by id, and those that are decided while their run goes on, with what it takes to follow a
/// rollback.
#[derive(Default)]
pub(super) struct Live {
    jobs: HashMap<i64, LiveJob>,
    /// What each changed entry was before, oldest change first, since the transaction began.
    undo: Vec<(i64, Option<LiveJob>)>,
}

impl Live {
    /// Reads what the database has; to be called before the first transaction.
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

    /// A point to return to within the transaction.
    pub(super) fn mark(&self) -> usize {
        self.undo.len()
    }

    /// Undoes everything since `mark`; 0 is the start of the transaction.
    pub(super) fn roll_back(&mut self, mark: usize) {
        for (id, before) in self.undo.drain(mark..).rev() {
            match before {
                Some(job) => self.jobs.insert(id, job),
                None => self.jobs.remove(&id),
            };
        }
    }

    /// The transaction is committed.
    pub(super) fn commit(&mut self) {
        self.undo.clear();
    }
}
