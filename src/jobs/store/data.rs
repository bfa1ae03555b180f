//! Checkpoints and files of jobs in the database: the code of the writer and of the readers.

use super::batch::Applier;
use super::command::{Command, Reply};
use super::error::Fault;
use super::types::{Checkpoint, MadeFiles};
use super::{Done, JobFiles, JobState, Reader, StoreError, Writer, rows};
use crate::jobs::blobs::MadeFile;
use rusqlite::{OptionalExtension, params};
use std::collections::HashSet;
use std::sync::Arc;

impl Writer {
    /// Stores `bytes` as the checkpoint of a running job in place of the earlier one; empty `bytes` remove it. Waits while the
    /// channel or the budget of bytes is full. `done` is called with whether the job is still running.
    ///
    /// # Errors
    /// [`StoreError::Full`] only on the writer's own thread. Through `done`: [`StoreError::Unavailable`].
    pub fn checkpoint(&self, job: i64, uuid: Arc<str>, bytes: Vec<u8>, done: Done<bool>) -> Result<(), StoreError> {
        let weight = self.wait_for_room(bytes.len())?;
        let reply = Reply::new(done, self.no_weight());
        self.send(Command::Checkpoint(Checkpoint { job, uuid, bytes, _weight: weight }, reply))
    }

    /// Stores the list of a running job's outputs in the directory `dir`. Must precede the change that ends the job. Waits
    /// while the channel is full. `done` is called with whether the job was still running; if not, nothing is stored.
    ///
    /// # Errors
    /// [`StoreError::Full`] only on the writer's own thread.
    pub fn made(
        &self,
        job: i64,
        uuid: Arc<str>,
        dir: String,
        files: Vec<MadeFile>,
        done: Done<bool>,
    ) -> Result<(), StoreError> {
        let reply = Reply::new(done, self.no_weight());
        self.send(Command::Made(MadeFiles { job, uuid, dir, files }, reply))
    }

    /// Forgets the directories of deleted jobs after they have been removed.
    ///
    /// # Errors
    /// [`StoreError::Full`] only on the writer's own thread.
    pub fn forget_dirs(&self, dirs: Vec<String>) -> Result<(), StoreError> {
        self.send(Command::ForgetDirs(dirs))
    }
}

impl Applier<'_> {
    /// Stores a checkpoint, if its job is still running.
    pub(super) fn keep_checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<bool, Fault> {
        let Checkpoint { job, uuid, bytes, .. } = checkpoint;
        let runs = self.live(*job).is_some_and(|live| live.state == JobState::Running && live.uuid == *uuid);
        if runs && bytes.is_empty() {
            self.drop_checkpoint(*job)?;
        } else if runs {
            let now_ms = self.now_ms();
            self.sql().keep_checkpoint.execute(params![job, now_ms, bytes])?;
        }
        Ok(runs)
    }

    /// Stores the list of a job's outputs, if the job is still running.
    pub(super) fn keep_made(&mut self, made: &MadeFiles) -> Result<bool, Fault> {
        let runs = self.live(made.job).is_some_and(|live| live.state == JobState::Running && live.uuid == made.uuid);
        if runs {
            // Removes the rows of an earlier run that was canceled just before it was done.
            self.sql().drop_outputs.execute([made.job])?;
            for file in &made.files {
                let bytes = rows::saturated(file.bytes);
                self.sql().insert_output.execute(params![made.job, file.name, made.dir, bytes])?;
            }
        }
        Ok(runs)
    }

    pub(super) fn forget_dirs(&mut self, dirs: &[String]) -> Result<(), Fault> {
        for dir in dirs {
            self.sql().forget_dir.execute([dir])?;
        }
        Ok(())
    }

    pub(super) fn insert_files(&mut self, job: i64, files: &[(String, String)]) -> Result<(), Fault> {
        for (name, blob) in files {
            self.sql().insert_file.execute(params![job, name, blob])?;
        }
        Ok(())
    }

    /// Removes the checkpoint of a job that is done or begins anew.
    pub(super) fn drop_checkpoint(&mut self, job: i64) -> Result<(), Fault> {
        self.sql().drop_checkpoint.execute([job])?;
        Ok(())
    }
}

impl Reader {
    /// The job's last checkpoint.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    pub fn checkpoint(&mut self, job_id: i64) -> Result<Option<Vec<u8>>, StoreError> {
        let mut statement = self.prepare("SELECT bytes FROM job_checkpoints WHERE job_id = ?1")?;
        Ok(statement.query_row([job_id], |row| row.get(0)).optional()?)
    }

    /// Names and blobs of the job's inputs.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    pub fn files_given(&mut self, job_id: i64) -> Result<Vec<(String, String)>, StoreError> {
        let mut statement = self.prepare("SELECT name, blob FROM job_files WHERE job_id = ?1 ORDER BY name")?;
        let found = statement.query_map([job_id], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(found.collect::<rusqlite::Result<_>>()?)
    }

    /// The files of the job with this uuid; `None` if there is no such job.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    pub fn files(&mut self, uuid: &str) -> Result<Option<JobFiles>, StoreError> {
        let Some(id) = self.id(uuid)? else { return Ok(None) };
        let Some(state) = self.state(id)? else { return Ok(None) };
        let given = self.files_given(id)?;
        let mut statement = self.prepare("SELECT name, bytes FROM job_outputs WHERE job_id = ?1 ORDER BY name")?;
        let made = statement
            .query_map([id], |row| Ok(MadeFile { name: row.get(0)?, bytes: row.get::<_, i64>(1)?.unsigned_abs() }))?;
        let made = made.collect::<rusqlite::Result<Vec<_>>>()?;
        Ok(Some(JobFiles { state, given, made: if state == JobState::Done { made } else { Vec::new() } }))
    }

    /// The directory of the output `name` of the job with this uuid, if the job is done and has written that output.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    pub fn output_dir(&mut self, uuid: &str, name: &str) -> Result<Option<String>, StoreError> {
        let mut statement = self.prepare(
            "SELECT dir FROM job_outputs WHERE name = ?2 AND \
             job_id = (SELECT id FROM jobs WHERE uuid = ?1 AND state = 'done')",
        )?;
        Ok(statement.query_row([uuid, name], |row| row.get(0)).optional()?)
    }

    /// Whether the blob is an input of a job, or an event of a job names it.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    pub fn is_blob_needed(&mut self, blob: &str) -> Result<bool, StoreError> {
        let mut statement = self.prepare(
            "SELECT 1 FROM job_files WHERE blob = ?1 UNION ALL SELECT 1 FROM job_event_blobs WHERE blob = ?1 LIMIT 1",
        )?;
        Ok(statement.exists([blob])?)
    }

    /// All output directories.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    pub fn output_dirs(&mut self) -> Result<HashSet<String>, StoreError> {
        let mut statement = self.prepare("SELECT DISTINCT dir FROM job_outputs")?;
        let found = statement.query_map([], |row| row.get(0))?;
        Ok(found.collect::<rusqlite::Result<_>>()?)
    }

    /// Output directories whose jobs are deleted, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    pub fn gone_dirs(&mut self, limit: u32) -> Result<Vec<String>, StoreError> {
        let mut statement = self.prepare("SELECT dir FROM job_dirs_gone LIMIT ?1")?;
        let found = statement.query_map([limit], |row| row.get(0))?;
        Ok(found.collect::<rusqlite::Result<_>>()?)
    }
}
