//! Recovers the jobs of the server's last run, and starts or fails jobs whose dependencies have ended.

use super::active::{ActiveJob, ActiveJobs};
use super::hub::Hub;
use super::notice::{Notice, now_ms};
use super::store::{Change, JobState, Read, Settled, Writer};
use crossbeam::channel::Sender;
use std::io;
use std::sync::Arc;

/// Rows that one read recovers when a server starts.
const RECOVERY_PAGE: u32 = 1_000;

/// Returns the function that the writer's thread calls with news of jobs that no caller waits for.
pub(super) fn settled(
    active: &Arc<ActiveJobs>,
    notices: &Sender<Notice>,
    hub: &Arc<Hub>,
) -> Box<dyn Fn(Vec<Settled>) + Send + Sync> {
    let (active, notices, hub) = (Arc::clone(active), notices.clone(), Arc::clone(hub));
    Box::new(move |settled| {
        for one in settled {
            match one {
                Settled::Stored(row) => {
                    let job = Arc::new(ActiveJob::new(&row, None));
                    active.insert(&job);
                    if row.depends_on.is_empty() {
                        let _ = notices.send(Notice::Ready { run_at_ms: row.run_at_ms, job });
                    }
                }
                Settled::Paused(kind, pause) => {
                    let _ = notices.send(Notice::Paused(kind, pause));
                }
                Settled::Ready { uuid } => {
                    if let Some(job) = active.get(&uuid) {
                        let _ = notices.send(Notice::Ready { run_at_ms: job.run_at_ms, job });
                    }
                }
                Settled::Failed { id, uuid } => {
                    if let Some(job) = active.get(&uuid) {
                        active.remove(&job);
                    }
                    hub.end(id);
                }
            }
        }
    })
}

/// Recovers the jobs that have not ended.
pub(super) fn recover(
    reader: &mut impl Read,
    writer: &Writer,
    active: &ActiveJobs,
    notices: &Sender<Notice>,
) -> io::Result<()> {
    const REASON: &str = "server restarted";
    let (mut after, mut count) = (0, 0_usize);
    // The changes must wait until all jobs are known, so that jobs that depend on these are notified.
    let mut changes = Vec::new();
    loop {
        let rows = reader.unfinished(after, RECOVERY_PAGE).map_err(io::Error::other)?;
        let Some(last) = rows.last() else { break };
        after = last.id;
        count += rows.len();
        for row in &rows {
            let run_at_ms = match row.state {
                JobState::Running if row.attempt >= row.max_attempts => {
                    let error = Some(REASON.to_owned());
                    let change = Change::Finish { attempt: row.attempt, state: JobState::Failed, result: None, error };
                    changes.push((row.id, change));
                    continue;
                }
                JobState::Running => {
                    let (attempt, reason) = (row.attempt, REASON.to_owned());
                    let change = Change::Retry { attempt, reason, run_at_ms: now_ms() };
                    changes.push((row.id, change));
                    now_ms()
                }
                _ => row.run_at_ms,
            };
            let job = Arc::new(ActiveJob::new(row, None));
            active.insert(&job);
            if row.depends_on.is_empty() {
                let _ = notices.send(Notice::Ready { job, run_at_ms });
            }
        }
    }
    for (id, change) in changes {
        writer.change(id, change, Box::new(|_| {})).map_err(io::Error::other)?;
    }
    if count > 0 {
        tracing::info!("{count} jobs had not ended when the server stopped");
    }
    Ok(())
}
