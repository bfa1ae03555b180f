//! Calls of routes with `CWEB_KILLABLE`, from an executor's view: they run in another process, and the executor waits.

use super::{Executor, InProcess, InProcessModule};
use crate::abi::frame::{Field, HandlerAnswer};
use crate::abi::manifest::RouteDecl;
use crate::abi::worker;
use crate::domain::NoAnswer;
use crate::domain::stream::call::{CallState, Facts};
use crate::proto::http1::RequestView;

/// The handler's answer.
#[derive(Debug)]
pub(in crate::domain) struct WorkerAnswer {
    pub(in crate::domain) status: u16,
    pub(in crate::domain) fields: Vec<Field>,
    pub(in crate::domain) body: Vec<u8>,
}

/// The processes that run the `CWEB_KILLABLE` calls of one loaded module.
pub(in crate::domain) trait Workers: Send + Sync {
    /// Runs the handler of route number `route`, and waits until it has answered, its deadline has passed or its client has
    /// gone.
    ///
    /// # Errors
    /// The answer in place of the handler's.
    fn call(&self, route: usize, view: &RequestView<'_>, state: &CallState) -> Result<WorkerAnswer, NoAnswer>;

    /// Makes later calls begin with the module's present memory.
    fn renew(&self);

    /// Like `renew`, if calls can already begin.
    fn refresh(&self);

    /// Lets no further call begin, until `renew` is called.
    fn end(&self);
}

impl InProcessModule {
    /// Sets the `workers` for calls of routes with `CWEB_KILLABLE`. Calls after the first have no effect.
    pub(in crate::domain) fn set_workers(&self, workers: Box<dyn Workers>) {
        let _ = self.workers.set(workers);
    }

    /// The workers that were set.
    pub(in crate::domain) fn workers(&self) -> Option<&dyn Workers> {
        self.workers.get().map(|workers| &**workers)
    }

    /// The workers for calls of route number `route`, if this process does not run them.
    pub(in crate::domain) fn workers_of(&self, route: usize) -> Option<&dyn Workers> {
        let workers = self.workers()?;
        self.route(route).filter(|route| route.is_killable() && !worker::is_on()).map(|_| workers)
    }

    /// The module's name.
    pub(in crate::domain) fn name(&self) -> &str {
        &self.open.manifest.name
    }

    /// The server's number for the module.
    pub(in crate::domain) fn number(&self) -> u64 {
        self.number
    }

    /// Whether the module has routes with `CWEB_KILLABLE`.
    pub(in crate::domain) fn has_killable(&self) -> bool {
        self.open.manifest.routes.iter().any(RouteDecl::is_killable)
    }

    /// Turns this process, which another has forked, into a worker for single calls of the module, and returns its
    /// executor. Takes each lock once that a call may need, and waits for ever if another thread held one at the fork.
    pub(in crate::domain) fn become_worker(&self) -> Executor {
        self.context.enter_worker();
        let executor = InProcess::executor();
        self.calling(|| (), |()| false);
        executor
    }
}

impl Executor {
    /// Runs a call in a worker: see [`Executor::handler`].
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
