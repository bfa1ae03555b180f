//! Checkpoints and files of jobs: the writing side.

use super::applier::Applier;
use super::rows;
use crate::jobs::store::JobState;
use crate::jobs::store::error::Fault;
use crate::jobs::store::types::{Checkpoint, MadeFiles};
use rusqlite::params;

impl Applier<'_> {
    /// Stores a checkpoint, if its job is still running.
    pub(super) fn keep_checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<bool, Fault> {
        let Checkpoint { run, uuid, bytes, .. } = checkpoint;
        let runs = self.held_by(*run, uuid).is_some_and(|live| live.state == JobState::Running);
        if runs && bytes.is_empty() {
            self.drop_checkpoint(run.job)?;
        } else if runs {
            let now_ms = self.now_ms();
            self.sql().keep_checkpoint.execute(params![run.job, now_ms, bytes])?;
        }
        Ok(runs)
    }

    /// Stores the list of a job's outputs, if the job is still running.
    pub(super) fn keep_made(&mut self, made: &MadeFiles) -> Result<bool, Fault> {
        let job = made.run.job;
        let runs = self.held_by(made.run, &made.uuid).is_some_and(|live| live.state == JobState::Running);
        if runs {
            // Removes the rows of an earlier run that was canceled just before it was done.
            self.sql().drop_outputs.execute([job])?;
            for file in &made.files {
                let bytes = rows::saturated(file.bytes);
                self.sql().insert_output.execute(params![job, file.name, made.dir, bytes])?;
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
