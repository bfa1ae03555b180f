//! The callbacks of detached streams: for room, and for the client's end. One thread of the process runs all of them.

use super::events::{self, CALLBACK_WAIT, Owner};
use super::guard;
use super::module_token::ModuleToken;
use super::native::WorkFn;
use super::work_ticket::work_drop;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

/// An event of a detached stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// There is room again, after a write without room.
    Room,
    /// The client is gone.
    Gone,
}

/// The callbacks of one stream.
struct Callbacks {
    owner: Owner,
    /// [`ModuleToken::id`]
    module: u64,
    room: Option<WorkFn>,
    gone: Option<WorkFn>,
    argument: usize,
    ticket: Arc<Ticket>,
}

/// A reference to a module's shared object.
struct Ticket(*mut c_void);
// SAFETY: a handle of dlopen(3) may be closed by any thread.
unsafe impl Send for Ticket {}
// SAFETY: only its drop uses it.
unsafe impl Sync for Ticket {}

impl Drop for Ticket {
    fn drop(&mut self) {
        // SAFETY: from `work_admit`, and given back once.
        unsafe { work_drop(std::ptr::null_mut(), self.0) };
    }
}

/// The callbacks of all streams.
#[derive(Default)]
struct All {
    by_stream: HashMap<u64, Callbacks>,
    /// [`ModuleToken::id`] of the module whose callback is running, and the thread that runs it.
    running: Option<(u64, ThreadId)>,
}

static CALLBACKS: Mutex<Option<All>> = Mutex::new(None);
/// Notified when a callback has returned.
static RETURNED: Condvar = Condvar::new();
static QUEUE: Mutex<Option<Sender<(u64, Event)>>> = Mutex::new(None);

fn change<T>(what: impl FnOnce(&mut All) -> T) -> T {
    what(unpoisoned(&CALLBACKS).get_or_insert_default())
}

fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sets the callbacks of a stream, for room and for the client's end, with their argument. `ticket` comes from `work_admit`.
pub(super) fn set(
    token: &ModuleToken,
    stream: u64,
    [room, gone]: [Option<WorkFn>; 2],
    argument: *mut c_void,
    ticket: *mut c_void,
) {
    let owner = Owner { name: token.name.clone(), number: token.number };
    let (argument, ticket) = (argument.addr(), Arc::new(Ticket(ticket)));
    let callbacks = Callbacks { owner, module: token.id, room, gone, argument, ticket };
    let before = change(|all| all.by_stream.insert(stream, callbacks));
    drop(before);
}

/// Runs the callback for `event` of a stream, on the thread for callbacks.
pub fn notify(stream: u64, event: Event) {
    if !change(|all| all.by_stream.contains_key(&stream)) {
        return;
    }
    let mut queue = unpoisoned(&QUEUE);
    if queue.is_none() {
        *queue = start_callbacks();
    }
    if let Some(queue) = queue.as_ref() {
        let _ = queue.send((stream, event));
    }
}

/// Removes a stream that is over: its callbacks are not called any more.
pub fn forget(stream: u64) {
    let forgotten = change(|all| all.by_stream.remove(&stream));
    drop(forgotten);
}

/// Ends the callbacks of this load of a module: no further callback begins. Waits for a limited time for a running one.
pub(super) fn end_callbacks(module: u64) {
    let ended: Vec<Callbacks> =
        change(|all| all.by_stream.extract_if(|_, of| of.module == module).map(|(_, of)| of).collect());
    let is_elsewhere = |thread: ThreadId| thread != thread::current().id();
    let runs = |all: &mut Option<All>| {
        all.as_ref().and_then(|all| all.running).is_some_and(|(of, thread)| of == module && is_elsewhere(thread))
    };
    let waited = RETURNED.wait_timeout_while(unpoisoned(&CALLBACKS), CALLBACK_WAIT, runs);
    if waited.is_ok_and(|(_, timeout)| timeout.timed_out()) {
        tracing::warn!("a callback of a stream outlives its module");
    }
    drop(ended);
}

fn start_callbacks() -> Option<Sender<(u64, Event)>> {
    let host = events::host()?;
    let (sender, receiver) = channel();
    let body = move || {
        let _guard = guard::ThreadGuard::new();
        while let Ok((stream, event)) = receiver.recv() {
            call_back(stream, event);
        }
    };
    match (host.thread)("stream-events".to_owned()).spawn(body) {
        Ok(_) => Some(sender),
        Err(error) => {
            tracing::warn!("callbacks of streams are not called: {error}");
            None
        }
    }
}

fn call_back(stream: u64, event: Event) {
    let Some(host) = events::host() else { return };
    let found = change(|all| {
        let of = all.by_stream.get_mut(&stream)?;
        // The client's end may be told twice, and a callback for it may free its argument.
        let function = if event == Event::Room { of.room } else { of.gone.take() }?;
        all.running = Some((of.module, thread::current().id()));
        Some((function, of.argument, of.owner.clone(), Arc::clone(&of.ticket)))
    });
    let Some((function, argument, owner, ticket)) = found else { return };
    (host.run)(&owner, &mut || guard::call_work(function, std::ptr::without_provenance_mut(argument)));
    change(|all| all.running = None);
    RETURNED.notify_all();
    drop(ticket);
}
