//! The process in service, and the passes of threads that give it orders.
//!
//! The supervisor opens and closes the gate; any thread can take a pass. While a pass is held, no other process replaces
//! this one, unless it dies.

use super::instance::ProcessInstance;
use super::lock;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Limit on the wait of an order for a domain's process that is being started or replaced.
const UP_WAIT: Duration = Duration::from_secs(30);

/// The gate of a domain.
pub(super) struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
    /// Called with the number of a closing when the last pass is returned.
    quiet: Box<dyn Fn(u64) + Send + Sync>,
}

#[derive(Default)]
struct GateState {
    current: Option<Arc<ProcessInstance>>,
    /// Whether passes are given out.
    is_open: bool,
    /// The number of held passes.
    held: usize,
    /// The number of the supervisor's last closing.
    round: u64,
    is_stopping: bool,
}

/// The right to give orders to the process in service.
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
    /// A closed gate, without a process. `quiet` is called with the number of a closing once no pass is held.
    pub(super) fn new(quiet: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), quiet: Box::new(quiet) }
    }

    /// The process in service, if there is one.
    pub(super) fn current(&self) -> Option<Arc<ProcessInstance>> {
        lock(&self.state).current.clone()
    }

    /// Takes a pass to the process in service. Waits for a process, also while the present one can't load modules, since
    /// code that looks up a symbol may wait there for ever. `None`: no process came in time, or the domain stops.
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

    /// Waits until another process has replaced `old`, at most 30 s.
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

    /// Stops giving out passes.
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

    /// Takes the dead `process` out of service.
    pub(super) fn remove(&self, process: &ProcessInstance) {
        let mut state = lock(&self.state);
        if state.current.as_ref().is_some_and(|current| current.number() == process.number()) {
            (state.current, state.is_open) = (None, false);
        }
    }

    /// Ends all waits, from now on.
    pub(super) fn stop(&self) {
        lock(&self.state).is_stopping = true;
        self.changed.notify_all();
    }
}
