//! The writer's statements, each prepared once.

use super::rows::job_columns;
use rusqlite::{Connection, Result, Statement};

/// The statements; they borrow the writing connection.
pub(super) struct Statements<'c> {
    pub(super) begin: Statement<'c>,
    pub(super) commit: Statement<'c>,
    pub(super) rollback: Statement<'c>,
    pub(super) savepoint: Statement<'c>,
    pub(super) release: Statement<'c>,
    pub(super) rollback_to: Statement<'c>,
    pub(super) insert_job: Statement<'c>,
    pub(super) insert_event: Statement<'c>,
    pub(super) change: Statement<'c>,
    pub(super) again: Statement<'c>,
    pub(super) by_unique_key: Statement<'c>,
    pub(super) ended: Statement<'c>,
    pub(super) state_by_id: Statement<'c>,
    pub(super) state_by_uuid: Statement<'c>,
    pub(super) delete: Statement<'c>,
    pub(super) sweep: Statement<'c>,
    pub(super) keep_checkpoint: Statement<'c>,
    pub(super) drop_checkpoint: Statement<'c>,
    pub(super) insert_file: Statement<'c>,
    pub(super) insert_event_blob: Statement<'c>,
    pub(super) drop_outputs: Statement<'c>,
    pub(super) insert_output: Statement<'c>,
    pub(super) forget_dir: Statement<'c>,
}

pub(super) const BY_UNIQUE_KEY: &str =
    concat!("SELECT ", job_columns!(), " FROM jobs WHERE module_name = ?1 AND job_name = ?2 AND unique_key = ?3");

/// SQLite would otherwise use the index by state and sort. The condition on the state must equal that of the partial index word
/// for word, because SQLite otherwise can't use that index.
pub(super) const SWEEP: &str = "DELETE FROM jobs WHERE id IN (SELECT id FROM jobs INDEXED BY jobs_by_end \
     WHERE state IN ('done', 'failed', 'canceled') AND updated_at < ?1 ORDER BY updated_at LIMIT ?2)";

/// Results and errors belong to the last change only (an end, or a retry), so every change may write all of these columns.
const CHANGE: &str = "UPDATE jobs SET state = ?2, updated_at = ?3, attempt = ?4, run_at = coalesce(?5, run_at), \
     result_json = ?6, error_text = ?7 WHERE id = ?1";

/// The right sides are the row's old values. The error stays, because it belongs to the last run.
const AGAIN: &str = "UPDATE jobs SET state = 'pending', updated_at = ?2, module_hash = ?3, run_at = ?4, \
     result_json = NULL, retries = retries + 1, attempts_before = attempt, \
     max_attempts = min(attempt + max_attempts - attempts_before, 4294967295) WHERE id = ?1";

const INSERT_JOB: &str = "INSERT INTO jobs (uuid, module_name, job_name, state, module_hash, created_at, updated_at, \
     payload_json, max_attempts, backoff_ms, timeout_ms, run_at, priority, unique_key, schedule_name, slot_at, concurrency_key, concurrency_limit) \
     VALUES (?1, ?2, ?3, 'pending', ?4, ?5, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)";

impl<'c> Statements<'c> {
    pub(super) fn prepare(connection: &'c Connection) -> Result<Self> {
        let prepare = |sql| connection.prepare(sql);
        Ok(Self {
            // Takes the write lock at once: a transaction that begins with a read could not wait for the lock later.
            begin: prepare("BEGIN IMMEDIATE")?,
            commit: prepare("COMMIT")?,
            rollback: prepare("ROLLBACK")?,
            savepoint: prepare("SAVEPOINT command")?,
            release: prepare("RELEASE command")?,
            rollback_to: prepare("ROLLBACK TO command")?,
            insert_job: prepare(INSERT_JOB)?,
            insert_event: prepare(
                "INSERT INTO job_events (job_id, ts, type, data_json, final) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?,
            change: prepare(CHANGE)?,
            again: prepare(AGAIN)?,
            by_unique_key: prepare(BY_UNIQUE_KEY)?,
            ended: prepare("SELECT uuid, state, attempt, retries FROM jobs WHERE id = ?1")?,
            state_by_id: prepare("SELECT state FROM jobs WHERE id = ?1")?,
            state_by_uuid: prepare("SELECT id, state FROM jobs WHERE uuid = ?1")?,
            delete: prepare("DELETE FROM jobs WHERE id = ?1")?,
            sweep: prepare(SWEEP)?,
            keep_checkpoint: prepare(
                "INSERT OR REPLACE INTO job_checkpoints (job_id, saved_at, bytes) VALUES (?1, ?2, ?3)",
            )?,
            drop_checkpoint: prepare("DELETE FROM job_checkpoints WHERE job_id = ?1")?,
            insert_file: prepare("INSERT INTO job_files (job_id, name, blob) VALUES (?1, ?2, ?3)")?,
            insert_event_blob: prepare("INSERT OR IGNORE INTO job_event_blobs (job_id, blob) VALUES (?1, ?2)")?,
            drop_outputs: prepare("DELETE FROM job_outputs WHERE job_id = ?1")?,
            insert_output: prepare("INSERT INTO job_outputs (job_id, name, dir, bytes) VALUES (?1, ?2, ?3, ?4)")?,
            forget_dir: prepare("DELETE FROM job_dirs_gone WHERE dir = ?1")?,
        })
    }
}
