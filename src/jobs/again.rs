//! Retries of ended jobs by request; retry and cancellation of many jobs by one filter.

use super::active::ActiveJob;
use super::answer::{Answer, shared_answer};
use super::code::ResolveError;
use super::notice::{Notice, now_ms};
use super::queries::Query;
use super::service::{Accepted, CancelOutcome, Inner, Jobs, LIST_BYTES_MAX, SubmitError, accepted, list};
use super::store::{Change, Changed, JobFilter, JobRow, JobState, Read, StoreError};
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

/// States from which a job can be retried by request.
const RETRYABLE: &[JobState] = &[JobState::Failed, JobState::Canceled];
/// States from which a job can be canceled.
const UNFINISHED: &[JobState] = &[JobState::Pending, JobState::Running];
/// Limit on the rows examined for one page of retryable jobs.
const SCAN_ROWS_MAX: usize = 5_000;

/// Why a job is not retried; nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RetryError {
    /// There is no such job.
    #[error("there is no such job")]
    Unknown,
    /// The job is pending or running.
    #[error("the job is {}: only a job that has failed or is canceled can be retried", .0.as_str())]
    NotEnded(JobState),
    /// The job is done and has its result.
    #[error("the job is done: submit a new job to run it once more")]
    Done,
    /// The job's code has not returned, so two runs of the job could go on at once.
    #[error("the last run of the job has not returned yet: try again later")]
    StillRuns,
    /// The job depends on a job that has failed, is canceled or deleted, so it would wait for ever.
    #[error("a job that this one depends on has failed, is canceled or deleted: retry that job first")]
    Needs,
    /// The job's module, or the module's job of that name, is not served now.
    #[error("{0}: deploy a version of the module that has the job, then try again")]
    Resolve(ResolveError),
    /// Too many jobs are waiting, the store refused the change, or the server is stopping.
    #[error(transparent)]
    Submit(#[from] SubmitError),
}

/// Result of an operation on many jobs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Bulk {
    /// Number of jobs that were retried or canceled.
    pub changed: usize,
    /// UUIDs of the other jobs, each with the reason.
    pub skipped: Vec<(String, String)>,
    /// The last examined job, if there may be more.
    pub next: Option<String>,
}

/// Jobs, and the last examined one if there may be more.
pub type JobPage = (Vec<JobRow>, Option<String>);

type BulkAnswer = Answer<Result<Bulk, StoreError>>;

impl Jobs {
    /// Retries a job that has failed or is canceled, with as many runs as at first, on the served version of its module. Waits
    /// while the module is being swapped.
    pub fn retry(&self, uuid: String, answer: Answer<Result<Accepted, RetryError>>) {
        let inner = Arc::clone(&self.inner);
        let mut slot = Some(answer);
        self.query(Query::Attempt(Box::new(move |reader| {
            let Some(answer) = slot.take() else { return Ok(()) };
            let row = match reader.job(&uuid) {
                Ok(row) => row,
                Err(error) => {
                    answer(Err(SubmitError::from(error).into()));
                    return Ok(());
                }
            };
            let Some(row) = row else {
                answer(Err(RetryError::Unknown));
                return Ok(());
            };
            match inner.source.resolve(Some(&row.module), &row.job) {
                Err(swapping @ ResolveError::Swapping(_)) if !inner.stopping.load(Ordering::Acquire) => {
                    slot = Some(answer);
                    return Err(swapping);
                }
                _ => inner.again(row, answer),
            }
            Ok(())
        })));
    }

    /// Retries the jobs of `filter`: failed jobs, unless the filter names another state.
    pub fn retry_all(&self, filter: JobFilter, answer: BulkAnswer) {
        let filter = JobFilter { state: filter.state.or(Some(JobState::Failed)), ..filter };
        let inner = Arc::clone(&self.inner);
        self.bulk(filter, answer, move |row, told| {
            inner.again(row, Box::new(move |outcome| told(outcome.map(drop).map_err(|error| error.to_string()))));
        });
    }

    /// Cancels the jobs of `filter`: pending and running jobs, unless the filter names a state.
    pub fn cancel_all(&self, filter: JobFilter, answer: BulkAnswer) {
        let among = if filter.state.is_none() { UNFINISHED } else { &[] };
        let filter = JobFilter { among, ..filter };
        let inner = Arc::clone(&self.inner);
        self.bulk(filter, answer, move |row, told| {
            let active = inner.active.get(&row.uuid);
            let answer = move |outcome: Result<CancelOutcome, StoreError>| {
                told(match outcome {
                    Ok(CancelOutcome::Canceled) => Ok(()),
                    Ok(CancelOutcome::Ended(state)) => Err(format!("the job is {} already", state.as_str())),
                    Ok(CancelOutcome::Unknown) => Err(RetryError::Unknown.to_string()),
                    Err(error) => Err(error.to_string()),
                });
            };
            inner.cancel(row.id, active, Box::new(answer));
        });
    }

    /// Calls `act` for each job of `filter`, and answers once all results are known.
    fn bulk(&self, filter: JobFilter, answer: BulkAnswer, act: impl Fn(JobRow, Told) + Send + 'static) {
        self.read(move |reader| {
            let (rows, more) = match list(reader, &filter) {
                Ok(page) => page,
                Err(error) => return answer(Err(error)),
            };
            let next = rows.last().filter(|_| more).map(|row| row.uuid.clone());
            let gather =
                Arc::new(Gather { state: Mutex::new((rows.len(), Bulk { next, ..Bulk::default() }, Some(answer))) });
            if rows.is_empty() {
                return gather.end();
            }
            for row in rows {
                let (gather, uuid) = (Arc::clone(&gather), row.uuid.clone());
                act(row, Box::new(move |outcome| gather.told(uuid, outcome)));
            }
        });
    }

    /// Jobs that a retry would accept, newest first, and the last examined one if there may be more. A page may have fewer jobs
    /// than requested, even none, and still have a next page.
    pub fn list_retryable(&self, filter: JobFilter, answer: Answer<Result<JobPage, StoreError>>) {
        let inner = Arc::clone(&self.inner);
        self.read(move |reader| answer(inner.retryable(reader, filter)));
    }
}

impl Inner {
    /// Retries the job of `row`. The row's payload may be missing.
    fn again(self: &Arc<Self>, row: JobRow, answer: Answer<Result<Accepted, RetryError>>) {
        match row.state {
            JobState::Failed | JobState::Canceled => {}
            JobState::Done => return answer(Err(RetryError::Done)),
            state => return answer(Err(RetryError::NotEnded(state))),
        }
        // Must come after the state was read: see `is_assigned`.
        if self.active.is_assigned(row.id) {
            return answer(Err(RetryError::StillRuns));
        }
        if self.stopping.load(Ordering::Acquire) {
            return answer(Err(SubmitError::ShuttingDown.into()));
        }
        if self.active.len() >= self.config.unfinished_max {
            return answer(Err(SubmitError::TooMany(self.config.unfinished_max).into()));
        }
        let declared = match self.source.resolve(Some(&row.module), &row.job) {
            Ok(declared) => declared,
            Err(error @ ResolveError::Swapping(_)) => return answer(Err(SubmitError::from(error).into())),
            Err(error) => return answer(Err(RetryError::Resolve(error))),
        };
        let (id, retries) = (row.id, row.retries);
        let run_at_ms = now_ms();
        let again = row.again(declared.hash.clone(), run_at_ms);
        let change = Change::Again { retries, module_hash: declared.hash, run_at_ms };
        let inner = Arc::clone(self);
        let (done, answer) = shared_answer(answer);
        let changed = move |changed: Result<Changed, StoreError>| {
            done(match changed {
                Ok(told @ (Changed::Applied(_) | Changed::Waits)) => {
                    let job = Arc::new(ActiveJob::new(&again, Some((declared.code, declared.defaults))));
                    inner.active.insert(&job);
                    if told != Changed::Waits {
                        let _ = inner.notices.send(Notice::Ready { job, run_at_ms });
                    }
                    Ok(accepted(again))
                }
                Ok(Changed::Refused(JobState::Failed | JobState::Canceled)) => Err(RetryError::StillRuns),
                Ok(Changed::Refused(state)) => Err(RetryError::NotEnded(state)),
                Ok(Changed::Needs) => Err(RetryError::Needs),
                Ok(Changed::Unknown) => Err(RetryError::Unknown),
                Err(error) => Err(SubmitError::from(error).into()),
            });
        };
        if let Err(error) = self.writer.try_change(id, change, Box::new(changed)) {
            answer(Err(SubmitError::from(error).into()));
        }
    }

    fn retryable(&self, reader: &mut impl Read, mut filter: JobFilter) -> Result<JobPage, StoreError> {
        let wanted = filter.limit as usize;
        filter.among = RETRYABLE;
        // Looked up once for each kind: a page has few kinds.
        let mut served: HashMap<(String, String), bool> = HashMap::new();
        let (mut found, mut scanned, mut bytes) = (Vec::new(), 0, 0);
        loop {
            let (rows, more) = list(reader, &filter)?;
            for row in rows {
                scanned += 1;
                filter.before = Some(row.uuid.clone());
                let kind = (row.module.clone(), row.job.clone());
                let is_served = *served.entry(kind).or_insert_with_key(|(module, job)| {
                    let resolved = self.source.resolve(Some(module), job);
                    matches!(resolved, Ok(_) | Err(ResolveError::Swapping(_)))
                });
                if !is_served || self.active.is_assigned(row.id) {
                    continue;
                }
                bytes += [&row.result, &row.error].into_iter().flatten().map(String::len).sum::<usize>();
                found.push(row);
                if found.len() >= wanted || bytes >= LIST_BYTES_MAX {
                    return Ok((found, filter.before));
                }
            }
            if !more {
                return Ok((found, None));
            }
            if scanned >= SCAN_ROWS_MAX {
                return Ok((found, filter.before));
            }
        }
    }
}

/// Called once with the result for one job: success, or the reason of the failure.
type Told = Box<dyn FnOnce(Result<(), String>) + Send>;

/// Collects the results of an operation on many jobs.
struct Gather {
    /// Number of jobs without a result; the results; the receiver of the answer.
    state: Mutex<(usize, Bulk, Option<BulkAnswer>)>,
}

impl Gather {
    fn told(&self, uuid: String, outcome: Result<(), String>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = state.0.saturating_sub(1);
        match outcome {
            Ok(()) => state.1.changed += 1,
            Err(why) => state.1.skipped.push((uuid, why)),
        }
        let is_last = state.0 == 0;
        drop(state);
        if is_last {
            self.end();
        }
    }

    fn end(&self) {
        let (bulk, answer) = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            (std::mem::take(&mut state.1), state.2.take())
        };
        if let Some(answer) = answer {
            answer(Ok(bulk));
        }
    }
}
