//! Paused kinds of jobs, by module and name.

use super::applier::Applier;
use crate::jobs::store::error::Fault;
use crate::jobs::store::{JobKind, PAUSED_MAX, Paused};
use rusqlite::params;

impl Applier<'_> {
    pub(super) fn pause(&self, (module, job): &JobKind, pause: bool) -> Result<Paused, Fault> {
        if !pause {
            let mut statement =
                self.connection().prepare("DELETE FROM paused_jobs WHERE module_name = ?1 AND job_name = ?2")?;
            statement.execute([module, job])?;
            return Ok(Paused::Done);
        }
        let count: i64 = self.connection().query_row("SELECT count(*) FROM paused_jobs", [], |row| row.get(0))?;
        if count >= PAUSED_MAX as i64 {
            return Ok(Paused::TooMany);
        }
        const PAUSE: &str = "INSERT OR IGNORE INTO paused_jobs (module_name, job_name, since) VALUES (?1, ?2, ?3)";
        self.connection().prepare(PAUSE)?.execute(params![module, job, self.now_ms()])?;
        Ok(Paused::Done)
    }
}
