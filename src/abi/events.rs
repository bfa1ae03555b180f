//! Events of modules: callbacks when descriptors become ready (`libevent.h`).
//!
//! Each loaded module that adds an event gets an epoll instance and a thread. The thread calls the module's callbacks one at a
//! time, each in a guarded call. A callback that faults or never returns therefore affects its own module only. The thread
//! holds a reference to the module's shared object, and ends with the module's `Callbacks`.

use super::guard::{self, ThreadGuard, Trap};
use super::module_token::ModuleToken;
use super::native::WorkFn;
use super::work_ticket::{work_admit, work_drop};
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{c_int, c_uint, c_void};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

/// How long [`remove`] and [`end`] wait for a running callback. A callback that waits for its remover would block for ever.
pub(super) const CALLBACK_WAIT: Duration = Duration::from_secs(2);
/// The number of the waking descriptor in epoll.
const WAKE: u64 = 0;

/// The module whose callbacks a loop runs.
#[derive(Debug, Clone)]
pub struct Owner {
    /// The module's name.
    pub name: String,
    /// See [`ModuleToken::number`].
    pub number: u64,
}

/// Runs a callback on behalf of its module, and records a fault.
pub type RunCallback = Box<dyn Fn(&Owner, &mut dyn FnMut() -> Result<(), Trap>) + Send + Sync>;

/// The functions that the loops need from the layer above.
pub struct Host {
    /// Runs callbacks.
    pub run: RunCallback,
    /// Configures a thread that runs module code.
    pub thread: fn(String) -> thread::Builder,
}

static HOST: OnceLock<Host> = OnceLock::new();

/// The loops by [`ModuleToken::id`].
static LOOPS: Mutex<Option<HashMap<u64, Arc<EventLoop>>>> = Mutex::new(None);

/// The functions for the loops, once modules may have events.
pub(super) fn host() -> Option<&'static Host> {
    HOST.get()
}

/// Enables events for modules. Only the first call has an effect.
pub fn set_host(host: Host) {
    let _ = HOST.set(host);
}

/// A registered event.
struct Waited {
    fd: c_int,
    /// The module's `struct event`; never read here.
    address: usize,
    run: WorkFn,
}

#[derive(Default)]
struct EventsState {
    /// The events, by their number in epoll.
    events: HashMap<u64, Waited>,
    numbers: HashMap<usize, u64>,
    /// The last event that was added for each descriptor: a closed descriptor's number may belong to another event now.
    owners: HashMap<c_int, u64>,
    last: u64,
    /// The event whose callback is running.
    running: Option<u64>,
    thread: Option<ThreadId>,
    ending: bool,
    /// The thread has released the module.
    ended: bool,
}

struct EventLoop {
    owner: Owner,
    epoll: OwnedFd,
    wake: OwnedFd,
    state: Mutex<EventsState>,
    /// A callback has returned, or the thread has ended.
    changed: Condvar,
}

/// A reference to a module's shared object.
struct Ticket(*mut c_void);
// SAFETY: a handle of dlopen(3) may be closed by any thread.
unsafe impl Send for Ticket {}

impl Drop for Ticket {
    fn drop(&mut self) {
        // SAFETY: from `work_admit`, and given back once.
        unsafe { work_drop(std::ptr::null_mut(), self.0) };
    }
}

fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for `fd` on behalf of `module`. `run(event)` is called when input is available, now and each time more arrives, and
/// for the conditions in `wanted` (`EPOLLOUT`, `EPOLLPRI`, `EPOLLRDHUP`).
///
/// # Errors
/// The errors of `epoll_ctl(2)`; `ENOSYS` if no module runs; the error of starting a thread.
pub(super) fn add(module: &ModuleToken, fd: c_int, wanted: c_uint, run: WorkFn, event: *mut c_void) -> io::Result<()> {
    let found = loop_of(module, run)?;
    let mut state = unpoisoned(&found.state);
    if state.ending {
        return Err(Errno::CANCELED.into());
    }
    if fd < 0 {
        return Err(Errno::BADF.into());
    }
    let further = epoll::EventFlags::OUT | epoll::EventFlags::PRI | epoll::EventFlags::RDHUP;
    let flags = epoll::EventFlags::from_bits_truncate(wanted) & further;
    let number = state.last + 1;
    // SAFETY: not negative; a descriptor that is not open is refused by the kernel (EBADF).
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let flags = flags | epoll::EventFlags::IN | epoll::EventFlags::ET;
    epoll::add(&found.epoll, borrowed, epoll::EventData::new_u64(number), flags)?;
    state.last = number;
    let address = event as usize;
    // The same event may have been added before, with a descriptor that was closed or changed since.
    if let Some(before) = state.numbers.insert(address, number) {
        forget(&mut state, &found.epoll, before);
    }
    state.owners.insert(fd, number);
    state.events.insert(number, Waited { fd, address, run });
    Ok(())
}

/// Removes an event of [`add`]. Its callback does not run any more, unless the callback itself is the caller.
///
/// # Errors
/// `ENOENT`: the event was not added.
pub(super) fn remove(module: &ModuleToken, event: *mut c_void) -> io::Result<()> {
    let found = unpoisoned(&LOOPS).as_ref().and_then(|loops| loops.get(&module.id)).cloned();
    let found = found.ok_or(Errno::NOENT)?;
    let mut state = unpoisoned(&found.state);
    let number = state.numbers.remove(&(event as usize)).ok_or(Errno::NOENT)?;
    forget(&mut state, &found.epoll, number);
    if state.thread != Some(thread::current().id()) {
        let running = |state: &mut EventsState| state.running == Some(number);
        let waited = found.changed.wait_timeout_while(state, CALLBACK_WAIT, running);
        if waited.is_ok_and(|(_, timeout)| timeout.timed_out()) {
            tracing::warn!("module {}: the callback of an event still runs after event_del", found.owner.name);
        }
    }
    Ok(())
}

/// Removes an event from the loop.
fn forget(state: &mut EventsState, epoll: &OwnedFd, number: u64) {
    let Some(event) = state.events.remove(&number) else { return };
    if state.owners.get(&event.fd) == Some(&number) {
        state.owners.remove(&event.fd);
        // SAFETY: the descriptor was added, so it is not negative. If it was closed meanwhile, epoll has already dropped it,
        // and a new descriptor with that number is not in the set.
        let _ = epoll::delete(epoll, unsafe { BorrowedFd::borrow_raw(event.fd) });
    }
}

/// Ends the events of the loaded module with this [`ModuleToken::id`]: no further callback begins. Waits for a limited time for a
/// running callback. Until that callback has returned, its thread keeps the module's code in memory.
pub(super) fn end(id: u64) {
    let found = unpoisoned(&LOOPS).as_mut().and_then(|loops| loops.remove(&id));
    let Some(found) = found else { return };
    let mut state = unpoisoned(&found.state);
    state.ending = true;
    state.events.clear();
    state.numbers.clear();
    let _ = rustix::io::write(&found.wake, &1_u64.to_ne_bytes());
    if state.thread != Some(thread::current().id()) {
        let waited = found.changed.wait_timeout_while(state, CALLBACK_WAIT, |state| !state.ended);
        if waited.is_ok_and(|(_, timeout)| timeout.timed_out()) {
            tracing::warn!("module {}: the callback of an event outlives its module", found.owner.name);
        }
    }
}

/// The loop of `module`, created if necessary. `run` is one of the module's functions.
fn loop_of(module: &ModuleToken, run: WorkFn) -> io::Result<Arc<EventLoop>> {
    let host = HOST.get().ok_or(Errno::NOSYS)?;
    let known = |loops: &Option<HashMap<u64, Arc<EventLoop>>>| loops.as_ref()?.get(&module.id).map(Arc::clone);
    if let Some(known) = known(&unpoisoned(&LOOPS)) {
        return Ok(known);
    }
    // Must come before the lock is taken: a destructor that ends events holds the dynamic loader's lock, which `work_admit`
    // takes.
    // SAFETY: `run` is a function of a loaded object, which has just called.
    let ticket = Ticket(unsafe { work_admit(std::ptr::null_mut(), run, std::ptr::null_mut()) });
    let mut loops = unpoisoned(&LOOPS);
    if let Some(known) = known(&loops) {
        drop(loops);
        return Ok(known);
    }
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    epoll::add(&epoll, &wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
    let owner = Owner { name: module.name.clone(), number: module.number };
    let made = Arc::new(EventLoop { owner, epoll, wake, state: Mutex::default(), changed: Condvar::new() });
    let served = Arc::clone(&made);
    let spawned = (host.thread)("events".to_owned()).spawn(move || served.serve(host, ticket))?;
    unpoisoned(&made.state).thread = Some(spawned.thread().id());
    loops.get_or_insert_default().insert(module.id, Arc::clone(&made));
    Ok(made)
}

impl EventLoop {
    /// Calls callbacks until the loop must end.
    fn serve(&self, host: &Host, ticket: Ticket) {
        let guard = ThreadGuard::new();
        // One event at a time: a callback may delete any other event, which a larger batch might still contain.
        let mut ready = Vec::with_capacity(1);
        loop {
            ready.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut ready), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => {
                    tracing::error!("module {}: epoll_wait failed, so its events end: {error}", self.owner.name);
                    break;
                }
            }
            for event in &ready {
                self.turn(host, event.data.u64());
            }
            if unpoisoned(&self.state).ending {
                break;
            }
        }
        drop(guard);
        drop(ticket);
        unpoisoned(&self.state).ended = true;
        self.changed.notify_all();
    }

    /// Runs the callback of the event with this number.
    fn turn(&self, host: &Host, number: u64) {
        let (run, event) = {
            let mut state = unpoisoned(&self.state);
            let Some(waited) = state.events.get(&number) else { return };
            let found = (waited.run, waited.address as *mut c_void);
            state.running = Some(number);
            found
        };
        (host.run)(&self.owner, &mut || guard::call_work(run, event));
        unpoisoned(&self.state).running = None;
        self.changed.notify_all();
    }
}
