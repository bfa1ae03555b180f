//! Calls of routes with `CWEB_KILLABLE`, as an executor sees them: they run elsewhere, and it waits for their answer.

use super::{Executor, InProcess, InProcessModule};
use crate::abi::frame::{Field, HandlerAnswer};
use crate::abi::manifest::RouteDecl;
use crate::abi::worker;
use crate::domain::NoAnswer;
use crate::domain::stream::call::{CallState, Facts};
use crate::proto::http1::RequestView;

/// What the handler has answered.
#[derive(Debug)]
pub(in crate::domain) struct WorkerAnswer {
    pub(in crate::domain) status: u16,
    pub(in crate::domain) fields: Vec<Field>,
    pub(in crate::domain) body: Vec<u8>,
}

/// The processes that run such calls of one load of a module.
pub(in crate::domain) trait Workers: Send + Sync {
    /// Runs the handler of route number `route`, and waits until it has answered, its deadline has passed or its client is gone.
    ///
    /// # Errors
    /// What is answered instead.
    fn call(&self, route: usize, view: &RequestView<'_>, state: &CallState) -> Result<WorkerAnswer, NoAnswer>;

    /// Calls that begin from here on find the module's memory as it is now.
    fn renew(&self);

    /// The same, if calls can begin already.
    fn refresh(&self);

    /// None begins any more, unless `renew` follows.
    fn end(&self);
}

impl InProcessModule {
    /// Has calls of routes with `CWEB_KILLABLE` run by `workers`. Only the first call counts.
    pub(in crate::domain) fn set_workers(&self, workers: Box<dyn Workers>) {
        let _ = self.workers.set(workers);
    }

    /// What was set.
    pub(in crate::domain) fn workers(&self) -> Option<&dyn Workers> {
        self.workers.get().map(|workers| &**workers)
    }

    /// What runs the calls of route number `route`, if this process does not.
    pub(in crate::domain) fn workers_of(&self, route: usize) -> Option<&dyn Workers> {
        let workers = self.workers()?;
        self.route(route).filter(|route| route.is_killable() && !worker::is_on()).map(|_| workers)
    }

    /// Its name.
    pub(in crate::domain) fn name(&self) -> &str {
        &self.open.manifest.name
    }

    /// What the server calls it.
    pub(in crate::domain) fn number(&self) -> u64 {
        self.number
    }

    /// Whether there are routes with `CWEB_KILLABLE`.
    pub(in crate::domain) fn has_killable(&self) -> bool {
        self.open.manifest.routes.iter().any(RouteDecl::is_killable)
    }

    /// This process, which another has forked, runs single calls of the module from here on: gives their executor. Takes each lock
    /// once that a call may need, and waits for ever if another thread had one when the process was made.
    pub(in crate::domain) fn become_worker(&self) -> Executor {
        self.context.enter_worker();
        let executor = InProcess::executor();
        self.calling(|| (), |()| false);
        executor
    }
}

impl Executor {
    /// Runs a call elsewhere: see [`Executor::handler`].
    pub(super) fn call_elsewhere(
        &mut self,
        workers: &dyn Workers,
        route: usize,
        view: &RequestView<'_>,
        facts: Option<&mut Facts<'_>>,
        take: impl FnOnce(HandlerAnswer<'_>, bool),
    ) -> Result<(), NoAnswer> {
        let Some(facts) = facts else { return Err(NoAnswer::failed("the call has no client\n")) };
        let state = &self.state;
        let WorkerAnswer { status, fields, body } = state.during(facts, || workers.call(route, view, state))?;
        take(HandlerAnswer::of_parts(status, &fields, &body), false);
        Ok(())
    }
}
