//! The jobs of a test: they wait until the test runs them.

use super::lock::lock;
use crate::abi::testing::TestJob;
use crate::domain::Instance;
use crate::jobs::blobs::{BlobId, event_reference};
use crate::jobs::code::JobCalls;
use crate::threads::module_thread;
use sha2::{Digest, Sha256};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

/// Limit on the jobs of a test.
const JOBS_MAX: usize = 10_000;
/// The error text of a failed run without an error of its own, as on a server.
const FAILED: &str = "job failed";
const CRASHED: &str = "job crashed";
const PENDING: &str = "pending";
const RUNNING: &str = "running";

/// All jobs of a test, in the order of their creation.
#[derive(Default)]
pub(super) struct Jobs(Mutex<Vec<TestJob>>);

/// A running job, as its code sees the server.
struct Running<'a> {
    jobs: &'a Jobs,
    index: usize,
}

impl Running<'_> {
    /// Changes a job that has not ended. Returns false if the job has ended.
    fn change(&self, change: impl FnOnce(&mut TestJob)) -> bool {
        let mut jobs = lock(&self.jobs.0);
        let Some(job) = jobs.get_mut(self.index).filter(|job| job.state == RUNNING) else { return false };
        change(job);
        true
    }
}

impl JobCalls for Running<'_> {
    fn emit_event(&self, kind: &str, data: Option<&str>) -> bool {
        // Works after the job's end too, as on a server.
        let mut jobs = lock(&self.jobs.0);
        let Some(job) = jobs.get_mut(self.index) else { return false };
        job.events.push((kind.to_owned(), data.map(str::to_owned)));
        true
    }

    fn set_result(&self, result: &str) -> bool {
        self.change(|job| (job.state, job.result) = ("done", Some(result.to_owned())))
    }

    fn set_error(&self, error: &str) -> bool {
        self.change(|job| (job.state, job.error) = ("failed", Some(error.to_owned())))
    }

    fn is_canceled(&self) -> bool {
        false
    }

    fn remaining_ms(&self) -> Option<u64> {
        None
    }

    fn checkpoint(&self, _bytes: &[u8]) -> Result<(), i32> {
        // Each job runs once here, so no run finds a checkpoint of an earlier run.
        if self.change(|_| {}) { Ok(()) } else { Err(libc::ECANCELED) }
    }

    fn emit_bytes(&self, kind: &str, bytes: &[u8]) -> Result<(), i32> {
        let id = BlobId::new(Sha256::digest(bytes).into());
        if self.emit_event(kind, Some(&event_reference(&id, bytes.len()))) { Ok(()) } else { Err(libc::ECANCELED) }
    }

    fn resume(&self) -> Result<Option<Vec<u8>>, i32> {
        Ok(None)
    }

    fn file(&self, _name: &str) -> Result<OwnedFd, i32> {
        // Jobs of tests have no input files.
        Err(libc::ENOENT)
    }

    fn output(&self, _name: &str) -> Result<OwnedFd, i32> {
        Err(libc::ENOTSUP)
    }
}

impl Jobs {
    /// Stores a job of `instance`. Returns its UUID.
    ///
    /// # Errors
    /// A text for people: there is no such job, its payload is not JSON, or there are too many jobs.
    pub(super) fn create(&self, instance: &dyn Instance, name: &str, payload: &str) -> Result<String, String> {
        if !instance.manifest().jobs.iter().any(|job| job.name == name) {
            return Err(format!("the module has no job named {name}"));
        }
        serde_json::from_str::<serde::de::IgnoredAny>(payload)
            .map_err(|error| format!("the payload is not JSON: {error}"))?;
        let mut jobs = lock(&self.0);
        if jobs.len() >= JOBS_MAX {
            return Err(format!("a test has at most {JOBS_MAX} jobs"));
        }
        let uuid = uuid::Uuid::new_v4().to_string();
        jobs.push(TestJob {
            uuid: uuid.clone(),
            name: name.to_owned(),
            payload: payload.to_owned(),
            state: PENDING,
            ..TestJob::default()
        });
        Ok(uuid)
    }

    /// Runs all waiting jobs, each on a thread of its own, one after the other. Returns how many jobs ran.
    pub(super) fn run(self: &Arc<Self>, instance: &Arc<dyn Instance>) -> usize {
        let mut ran = 0;
        while let Some(index) = self.next() {
            let (jobs, instance) = (Arc::clone(self), Arc::clone(instance));
            let thread = module_thread("job").spawn(move || jobs.run_one(&*instance, index));
            match thread.map(std::thread::JoinHandle::join) {
                Ok(_) => ran += 1,
                Err(error) => {
                    tracing::error!("a job can't be run: {error}");
                    return ran;
                }
            }
        }
        ran
    }

    /// Takes the oldest waiting job.
    fn next(&self) -> Option<usize> {
        let mut jobs = lock(&self.0);
        let index = jobs.iter().position(|job| job.state == PENDING)?;
        jobs.get_mut(index)?.state = RUNNING;
        Some(index)
    }

    fn run_one(&self, instance: &dyn Instance, index: usize) {
        let Some(job) = lock(&self.0).get(index).cloned() else { return };
        let number = instance.manifest().jobs.iter().position(|declared| declared.name == job.name);
        let running = Running { jobs: self, index };
        let returned = instance.run_job(number.unwrap_or(usize::MAX), &job.uuid, &job.payload, &running);
        running.change(|job| match returned {
            Ok(0) => (job.state, job.result) = ("done", Some("{}".to_owned())),
            Ok(_) => (job.state, job.error) = ("failed", Some(FAILED.to_owned())),
            Err(_) => (job.state, job.error) = ("failed", Some(CRASHED.to_owned())),
        });
    }

    pub(super) fn by_uuid(&self, uuid: &str) -> Option<TestJob> {
        lock(&self.0).iter().find(|job| job.uuid == uuid).cloned()
    }

    pub(super) fn at(&self, index: usize) -> Option<TestJob> {
        lock(&self.0).get(index).cloned()
    }
}
