//! Clients' requests about schedules: list, show, create, change and delete.

use super::answer::Answer;
use super::code::ResolveError;
use super::cron::{Cron, ZONE_DEFAULT};
use super::json;
use super::notice::{Asked, Notice, Shown};
use super::queries::Query;
use super::service::Jobs;
use super::store::{ScheduleOutcome, ScheduleRow, ScheduleSpec, StoreError};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::sync::atomic::Ordering;

/// Limit, in bytes, on the payload, because all schedules are in memory.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024;
/// Limit, in bytes, on the name of a schedule.
const NAME_BYTES_MAX: usize = 128;

/// Why a schedule is not created, changed or deleted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// The name or the body is wrong.
    #[error("{0}")]
    Invalid(String),
    /// There is no such job.
    #[error(transparent)]
    Resolve(ResolveError),
    /// There is no such schedule.
    #[error("there is no such schedule")]
    Unknown,
    /// The schedule is declared by its module.
    #[error("the schedule is declared by its module: deploy a version of the module without it, or with another")]
    Declared,
    /// The store refused the change.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The body of `PUT /jobs/schedules/NAME`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body<'a> {
    job: String,
    module: Option<String>,
    cron: String,
    timezone: Option<String>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    overlap: Option<bool>,
}

impl Jobs {
    /// Answers with the schedule `name`, if there is one; or with all schedules.
    pub fn schedules(&self, name: Option<String>, answer: Box<dyn FnOnce(Vec<Shown>) + Send>) {
        self.ask(Asked::List(name, answer));
    }

    /// Creates or changes the schedule `name` according to `body`. Waits while its module is being swapped.
    pub fn put_schedule(&self, name: String, body: &[u8], answer: Answer<Result<ScheduleRow, ScheduleError>>) {
        let spec = match read(name, body, self.inner.config.payload_bytes_max) {
            Ok(spec) => spec,
            Err(why) => return answer(Err(ScheduleError::Invalid(why))),
        };
        let jobs = self.clone();
        let mut slot = Some((spec, answer));
        self.query(Query::Attempt(Box::new(move |_| {
            let Some((spec, answer)) = slot.take() else { return Ok(()) };
            let module = Some(spec.module.as_str()).filter(|module| !module.is_empty());
            match jobs.inner.source.resolve(module, &spec.job) {
                Err(swapping @ ResolveError::Swapping(_)) if !jobs.inner.stopping.load(Ordering::Acquire) => {
                    slot = Some((spec, answer));
                    return Err(swapping);
                }
                Err(error) => answer(Err(ScheduleError::Resolve(error))),
                Ok(declared) => {
                    let spec = ScheduleSpec { module: declared.module, ..spec };
                    let told = move |outcome: Result<ScheduleOutcome, StoreError>| {
                        answer(match outcome {
                            Ok(ScheduleOutcome::Is(row) | ScheduleOutcome::Fired(_, row)) => Ok(row),
                            Ok(ScheduleOutcome::Taken) => Err(ScheduleError::Declared),
                            Ok(ScheduleOutcome::Gone | ScheduleOutcome::NotFound) => Err(ScheduleError::Unknown),
                            Err(error) => Err(error.into()),
                        });
                    };
                    jobs.ask(Asked::Put(spec, Box::new(told)));
                }
            }
            Ok(())
        })));
    }

    /// Deletes the schedule `name`; its jobs stay.
    pub fn remove_schedule(&self, name: String, answer: Answer<Result<(), ScheduleError>>) {
        let told = move |outcome: Result<ScheduleOutcome, StoreError>| {
            answer(match outcome {
                Ok(ScheduleOutcome::Taken) => Err(ScheduleError::Declared),
                Ok(ScheduleOutcome::NotFound) => Err(ScheduleError::Unknown),
                Ok(_) => Ok(()),
                Err(error) => Err(error.into()),
            });
        };
        self.ask(Asked::Remove(name, Box::new(told)));
    }

    /// Makes the dispatcher read the declarations again after modules were published or removed.
    pub fn modules_changed(&self) {
        let _ = self.inner.notices.send(Notice::Modules);
    }

    fn ask(&self, asked: Asked) {
        // Without a dispatcher the request is dropped, and the client's connection ends with the server.
        let _ = self.inner.notices.send(Notice::Schedules(asked));
    }
}

fn read(name: String, body: &[u8], payload_bytes_max: usize) -> Result<ScheduleSpec, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(is_plain) {
        return Err(format!(
            "a schedule's name has 1 to {NAME_BYTES_MAX} letters, digits and . _ -; names with a slash belong to \
             schedules that modules declare"
        ));
    }
    let body: Body<'_> = serde_json::from_slice(body).map_err(|error| format!("the body can't be read: {error}"))?;
    let payload = body.payload.map_or("{}", RawValue::get);
    let (bytes, most) = (payload.len(), payload_bytes_max.min(PAYLOAD_BYTES_MAX));
    if bytes > most {
        return Err(format!("the payload of the schedule has {bytes} bytes; the limit is {most}"));
    }
    if !json::is_valid(payload) {
        return Err("the payload can't be read as JSON: it has a number or a string out of range".to_owned());
    }
    let zone = body.timezone.unwrap_or_else(|| ZONE_DEFAULT.to_owned());
    Cron::parse(&body.cron, &zone)?;
    Ok(ScheduleSpec {
        name,
        // If the module is missing, it is found with the job.
        module: body.module.unwrap_or_default(),
        job: body.job,
        cron: body.cron,
        zone,
        payload: payload.to_owned(),
        overlap: body.overlap.unwrap_or(false),
        declared: false,
    })
}
