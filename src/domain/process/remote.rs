//! A module that lives in a domain.

use super::control::{Order, Outcome, Question};
use super::identity::Identity;
use super::parent::Shared;
use crate::abi::manifest::Manifest;
use crate::domain::{Fault, Instance};
use crate::jobs::code::JobCalls;
use crossbeam::channel::{Receiver, unbounded};
use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

/// How often a running job's server side looks whether it is to end.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// See the module's documentation. Dropping it closes the module's shared object in its domain.
pub struct RemoteModule {
    shared: Arc<Shared>,
    id: u64,
    manifest: Manifest,
}

impl RemoteModule {
    pub(super) fn new(shared: Arc<Shared>, id: u64, manifest: Manifest) -> Self {
        Self { shared, id, manifest }
    }

    fn hook(&self, order: Order) -> Result<(), Fault> {
        match self.shared.call(order) {
            Ok(Outcome::Fault(what) | Outcome::Host(what)) | Err(what) => Err(Fault { what }),
            Ok(_) => Ok(()),
        }
    }
}

impl RemoteModule {
    /// The domain it lives in.
    #[must_use]
    pub fn domain(&self) -> &Arc<Identity> {
        self.shared.identity()
    }
}

impl Instance for RemoteModule {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn onload(&self) -> Result<(), Fault> {
        if self.manifest.has_onload {
            self.hook(Order::Onload { instance: self.id })?;
        }
        self.shared.set_onloaded(self.id, true);
        Ok(())
    }

    fn unload(&self) -> Result<(), Fault> {
        self.shared.set_onloaded(self.id, false);
        if self.manifest.has_unload { self.hook(Order::Unload { instance: self.id }) } else { Ok(()) }
    }

    fn run_job(&self, job: usize, uuid: &str, payload: &str, calls: &dyn JobCalls) -> Result<i32, Fault> {
        let run = self.shared.number();
        let (sender, asked) = unbounded();
        self.shared.add_run(run, sender);
        let (uuid, payload) = (uuid.to_owned(), payload.to_owned());
        let order = Order::RunJob { run, instance: self.id, job, uuid, payload };
        let outcome = self.shared.begin(order).and_then(|done| self.attend(run, &asked, &done, calls));
        self.shared.remove_run(run);
        match outcome {
            Ok(Outcome::Returned(returned)) => Ok(returned),
            Ok(Outcome::Fault(what) | Outcome::Host(what)) | Err(what) => Err(Fault { what }),
            Ok(_) => Err(Fault { what: "its domain gave a wrong answer".to_owned() }),
        }
    }

    fn cancel_job(&self, job: usize, uuid: &str) -> Result<(), Fault> {
        if self.manifest.jobs.get(job).is_none_or(|job| !job.has_cancel) {
            return Ok(());
        }
        self.hook(Order::CancelJob { instance: self.id, job, uuid: uuid.to_owned() })
    }

    fn id(&self) -> u64 {
        self.id
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl RemoteModule {
    /// Answers what a running job asks until it has ended.
    fn attend(
        &self,
        run: u64,
        asked: &Receiver<(u64, Question)>,
        done: &Receiver<Outcome>,
        calls: &dyn JobCalls,
    ) -> Result<Outcome, String> {
        let mut told = false;
        loop {
            crossbeam::channel::select! {
                recv(asked) -> question => {
                    let Ok((call, question)) = question else { continue };
                    let accepted = match question {
                        Question::Emit { kind, data, .. } => calls.emit_event(&kind, data.as_deref()),
                        Question::SetResult { text, .. } => calls.set_result(&text),
                        Question::SetError { text, .. } => calls.set_error(&text),
                        _ => false,
                    };
                    self.shared.reply(call, if accepted { Ok(String::new()) } else { Err("refused".to_owned()) });
                }
                recv(done) -> outcome => return outcome.map_err(|_| "its process died".to_owned()),
                default(LOOK_EVERY) => {}
            }
            if !told && calls.is_canceled() {
                told = true;
                self.shared.must_end(run);
            }
        }
    }
}

impl Drop for RemoteModule {
    fn drop(&mut self) {
        self.shared.close(self.id);
    }
}
