//! Chooses the zygote for the calls of one loaded module.
//!
//! A thread of its own makes a zygote, and no thread waits for it while holding the lock, or for longer than its limit.
//! Each attempt has a number. Only the result of the newest attempt is kept; the result of an attempt that an order has
//! made obsolete is dropped, however late it comes.

use super::forker::Zygote;
use super::host::WorkerHost;
use crate::abi::stream::StreamCall;
use crate::domain::in_process::InProcessModule;
use crate::domain::stream::call::CallState;
use crate::threads::module_thread;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Limit on a call's wait for a zygote, within the call's own time.
const CALL_WAIT_MAX: Duration = Duration::from_secs(2);
/// Limit on an order's wait for a zygote, so that later calls usually need not wait; short compared with the limit of a
/// hook.
const ORDER_WAIT_MAX: Duration = Duration::from_millis(250);
/// How long no attempt is made after a failed one.
const PAUSE: Duration = Duration::from_secs(5);

#[derive(Default)]
struct State {
    zygote: Option<Arc<Zygote>>,
    /// Whether the module has been set up, so that a zygote may be made.
    may_begin: bool,
    /// The number of the newest attempt.
    number: u64,
    /// Whether that attempt is still running.
    is_making: bool,
    /// When the newest attempt failed, and the reason.
    failed: Option<(Instant, String)>,
}

impl State {
    /// Makes a running attempt obsolete. Returns the present zygote, which must be dropped without the lock.
    fn discard(&mut self) -> Option<Arc<Zygote>> {
        self.number += 1;
        (self.is_making, self.failed) = (false, None);
        self.zygote.take()
    }
}

/// The zygotes of one loaded module.
pub(super) struct Zygotes {
    host: Arc<WorkerHost>,
    module: Weak<InProcessModule>,
    state: Mutex<State>,
    /// Notified when an attempt has ended, or has become obsolete.
    changed: Condvar,
}

impl Zygotes {
    pub(super) fn new(host: Arc<WorkerHost>, module: Weak<InProcessModule>) -> Arc<Self> {
        Arc::new(Self { host, module, state: Mutex::default(), changed: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a change until `until`; `None`: that time has passed.
    fn wait<'a>(&self, state: MutexGuard<'a, State>, until: Instant) -> Option<MutexGuard<'a, State>> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        Some(self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0)
    }

    /// Begins an attempt, which is then the newest.
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

    /// Handles the end of attempt number `number`.
    fn done(&self, number: u64, made: io::Result<Zygote>) {
        if let Err(error) = &made {
            // Without the lock, since this may be the module's last owner.
            let name = self.module.upgrade().map_or_else(|| "?".to_owned(), |module| module.name().to_owned());
            tracing::error!("module {name}: its calls can't be forked now: {error}");
        }
        let mut state = self.lock();
        if state.number != number {
            drop(state);
            // Ends the new zygote, without the lock.
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

    /// The zygote for a call that begins now.
    ///
    /// # Errors
    /// There is no zygote, and there will be none in the time of the call.
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
                _ => {
                    state = self
                        .wait(state, until)
                        .ok_or_else(|| io::Error::other("the process for its calls is not ready yet"))?;
                }
            }
        }
    }

    /// Drops a zygote that is not usable any more.
    pub(super) fn discard(&self, gone: &Arc<Zygote>) {
        let mut state = self.lock();
        if state.zygote.as_ref().is_some_and(|zygote| Arc::ptr_eq(zygote, gone)) {
            state.zygote = None;
        }
    }

    /// Later calls get a zygote with the present memory of the module. `is_first`: also permits zygotes if none was
    /// permitted before.
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
        // The old zygote ends with its last call.
        drop(before);
    }

    /// Permits no further zygotes, until [`Zygotes::renew`] with `is_first`.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        state.may_begin = false;
        let before = state.discard();
        drop(state);
        self.changed.notify_all();
        drop(before);
    }
}
