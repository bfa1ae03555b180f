//! Which zygote the calls of one load of a module have.
//!
//! A thread of its own makes one, and nobody waits for that with the lock, or for longer than it may. Each make has a number: only the
//! newest is kept, and what an order has made out of date is never kept, however late it is done.

use super::WorkerHost;
use super::forker::Zygote;
use crate::abi::stream::StreamCall;
use crate::domain::in_process::InProcessModule;
use crate::domain::stream::call::CallState;
use crate::threads::module_thread;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// How long a call waits for a zygote, within its own time.
const CALL_WAIT_MAX: Duration = Duration::from_secs(2);
/// How long an order waits for one, so that the calls behind it mostly need not: little beside the limit of a hook.
const ORDER_WAIT_MAX: Duration = Duration::from_millis(250);
/// How long none is made after one could not be.
const PAUSE: Duration = Duration::from_secs(5);

#[derive(Default)]
struct State {
    zygote: Option<Arc<Zygote>>,
    /// The module has been set up: a zygote may be made.
    may_begin: bool,
    /// The number of the newest make.
    number: u64,
    /// It is not done.
    is_making: bool,
    /// When the newest make has failed, and why.
    failed: Option<(Instant, String)>,
}

impl State {
    /// Has the make that runs, if there is one, count no more. Gives the zygote that there was: to be dropped without the lock.
    fn discard(&mut self) -> Option<Arc<Zygote>> {
        self.number += 1;
        (self.is_making, self.failed) = (false, None);
        self.zygote.take()
    }
}

/// See the module's documentation.
pub(super) struct Zygotes {
    host: Arc<WorkerHost>,
    module: Weak<InProcessModule>,
    state: Mutex<State>,
    /// A make is done, or counts no more.
    changed: Condvar,
}

impl Zygotes {
    pub(super) fn new(host: Arc<WorkerHost>, module: Weak<InProcessModule>) -> Arc<Self> {
        Arc::new(Self { host, module, state: Mutex::default(), changed: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a change until `until`; `None`: that has passed.
    fn wait<'a>(&self, state: MutexGuard<'a, State>, until: Instant) -> Option<MutexGuard<'a, State>> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        Some(self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0)
    }

    /// Begins to make one, which is the newest then.
    fn begin(self: &Arc<Self>, state: &mut State) {
        state.number += 1;
        (state.is_making, state.failed) = (true, None);
        let (zygotes, number) = (Arc::clone(self), state.number);
        let make = move || zygotes.done(number, zygotes.host.forker.zygote(&zygotes.module));
        if let Err(error) = module_thread("zygote").spawn(make) {
            state.is_making = false;
            state.failed = Some((Instant::now(), format!("its domain could not start a thread: {error}")));
        }
    }

    /// Make number `number` is done.
    fn done(&self, number: u64, made: io::Result<Zygote>) {
        if let Err(error) = &made {
            // Without the lock: this may be the module's last owner.
            let name = self.module.upgrade().map_or_else(|| "?".to_owned(), |module| module.name().to_owned());
            tracing::error!("module {name}: its calls can't be forked now: {error}");
        }
        let mut state = self.lock();
        if state.number != number {
            drop(state);
            // Ends what was made, without the lock.
            drop(made);
            return;
        }
        state.is_making = false;
        match made {
            Ok(zygote) => state.zygote = Some(Arc::new(zygote)),
            Err(error) => state.failed = Some((Instant::now(), error.to_string())),
        }
        drop(state);
        self.changed.notify_all();
    }

    /// The zygote of a call that begins now.
    ///
    /// # Errors
    /// There is none, and will be none in the time of the call.
    pub(super) fn current(self: &Arc<Self>, call: &CallState) -> io::Result<Arc<Zygote>> {
        let left = call.remaining_ms().map_or(CALL_WAIT_MAX, Duration::from_millis);
        let until = Instant::now() + left.min(CALL_WAIT_MAX);
        let mut state = self.lock();
        loop {
            if !state.may_begin {
                return Err(io::Error::other("the module is being loaded or unloaded"));
            }
            if let Some(zygote) = &state.zygote {
                return Ok(Arc::clone(zygote));
            }
            match &state.failed {
                Some((at, why)) if at.elapsed() < PAUSE => return Err(io::Error::other(why.clone())),
                _ if !state.is_making => self.begin(&mut state),
                _ => state = self.wait(state, until).ok_or_else(|| io::Error::other("one is being made"))?,
            }
        }
    }

    /// A zygote is of no use any more.
    pub(super) fn discard(&self, gone: &Arc<Zygote>) {
        let mut state = self.lock();
        if state.zygote.as_ref().is_some_and(|zygote| Arc::ptr_eq(zygote, gone)) {
            state.zygote = None;
        }
    }

    /// Calls that begin from here on get one with the module's memory as it is now. `is_first`: also if none could begin before.
    pub(super) fn renew(self: &Arc<Self>, is_first: bool) {
        let mut state = self.lock();
        state.may_begin |= is_first;
        if !state.may_begin {
            return;
        }
        let before = state.discard();
        self.begin(&mut state);
        let (number, until) = (state.number, Instant::now() + ORDER_WAIT_MAX);
        while state.number == number && state.is_making {
            let Some(locked) = self.wait(state, until) else { return };
            state = locked;
        }
        drop(state);
        // It ends when its last call does.
        drop(before);
    }

    /// None is made any more, unless [`Zygotes::renew`] is the first again.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        state.may_begin = false;
        let before = state.discard();
        drop(state);
        self.changed.notify_all();
        drop(before);
    }
}
