//! The process in service, and the passes of those who give it orders.
//!
//! The supervisor opens and closes the gate; any thread takes a pass. While a pass is held, no other process takes the
//! place of this one, unless it dies.

use super::instance::ProcessInstance;
use super::lock;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long an order waits for a domain that is being started again, or replaced.
const UP_WAIT: Duration = Duration::from_secs(30);

/// See the module's documentation.
pub(super) struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
    /// Told the number of a closing when the last pass is given back.
    quiet: Box<dyn Fn(u64) + Send + Sync>,
}

#[derive(Default)]
struct GateState {
    current: Option<Arc<ProcessInstance>>,
    /// Passes are given out.
    is_open: bool,
    /// Passes that are held.
    held: usize,
    /// The last closing of the supervisor.
    round: u64,
    is_stopping: bool,
}

/// The right to give the process in service orders.
pub(super) struct Pass<'a> {
    gate: &'a Gate,
    process: Arc<ProcessInstance>,
}

impl Pass<'_> {
    pub(super) fn process(&self) -> &Arc<ProcessInstance> {
        &self.process
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.gate.state);
        state.held -= 1;
        let quiet = (!state.is_open && state.held == 0).then_some(state.round);
        drop(state);
        if let Some(round) = quiet {
            (self.gate.quiet)(round);
        }
    }
}

impl Gate {
    /// A closed gate, without a process. `quiet` is told the number of a closing once no pass is held.
    pub(super) fn new(quiet: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), quiet: Box::new(quiet) }
    }

    /// The process in service, if there is one.
    pub(super) fn current(&self) -> Option<Arc<ProcessInstance>> {
        lock(&self.state).current.clone()
    }

    /// A pass to the process in service. Waits for the process, also while nothing can be loaded into the one there is, since
    /// code that looks for a symbol may wait there for ever. `None`: it does not come in time, or the domain stops.
    pub(super) fn enter(&self) -> Option<Pass<'_>> {
        let mut pass = None;
        self.wait(|state| {
            let usable = state.current.as_ref().filter(|process| state.is_open && !process.loader().is_jammed());
            let Some(process) = usable.map(Arc::clone) else { return false };
            state.held += 1;
            pass = Some(Pass { gate: self, process });
            true
        });
        pass
    }

    /// Waits until another process has followed `old`, for at most 30 s.
    pub(super) fn wait_followed(&self, old: &ProcessInstance) {
        self.wait(|state| state.current.as_ref().is_some_and(|current| current.number() != old.number()));
    }

    fn wait(&self, mut is_over: impl FnMut(&mut GateState) -> bool) {
        let deadline = Instant::now() + UP_WAIT;
        let mut state = lock(&self.state);
        while !is_over(&mut state) && !state.is_stopping {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Gives out no pass from now on.
    pub(super) fn close(&self, round: u64) {
        let mut state = lock(&self.state);
        (state.is_open, state.round) = (false, round);
        let is_quiet = state.held == 0;
        drop(state);
        if is_quiet {
            (self.quiet)(round);
        }
    }

    /// Puts `process` into service, and gives out passes.
    pub(super) fn open(&self, process: Arc<ProcessInstance>) {
        let mut state = lock(&self.state);
        (state.current, state.is_open) = (Some(process), true);
        drop(state);
        self.changed.notify_all();
    }

    /// `process` is dead: it is out of service.
    pub(super) fn remove(&self, process: &ProcessInstance) {
        let mut state = lock(&self.state);
        if state.current.as_ref().is_some_and(|current| current.number() == process.number()) {
            (state.current, state.is_open) = (None, false);
        }
    }

    /// Nobody waits from now on.
    pub(super) fn stop(&self) {
        lock(&self.state).is_stopping = true;
        self.changed.notify_all();
    }
}
