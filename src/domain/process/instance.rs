//! One process of a domain: its control connection, what is loaded there, and the memory it shares with the server.

use super::arena::Parts;
use super::asked::Asked;
use super::cgroup::{Confined, OutOfMemory};
use super::control::{self, Order, Outcome, ToChild};
use super::control_writer::ControlWriter;
use super::core_files::{CoreFile, CoreFiles, CorePlace};
use super::layout::Layout;
use super::lifecycle::LEAKS_WAIT;
use super::loader::Loader;
use super::orphans::Record;
use super::{handed_files, lock};
use crate::domain::ring::Region;
use crate::net::Doorbell;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use rustix::io::Errno;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

/// One process. Its state (spare, serving, leaving …) is the supervisor's; here is what other threads need of it.
pub(super) struct ProcessInstance {
    pub(super) number: u64,
    pub(super) pid: u32,
    pub(super) layout: Layout,
    pub(super) region: Arc<Region>,
    pub(super) bodies: Arc<Region>,
    pub(super) parts: Parts,
    /// Sockets over which it passes open files, one a shard; over the last one, jobs get theirs.
    pub(super) files: Vec<OwnedFd>,
    /// By which it wakes the shards.
    pub(super) bells: Mutex<Vec<Doorbell>>,
    pub(super) since: SystemTime,
    /// The process has not been waited for, so `pid` is still its own. Held while it is signalled.
    pub(super) alive: Mutex<bool>,
    pub(super) control_writer: ControlWriter,
    pub(super) asked: Asked,
    /// Who waits for which order; `None` once the process is dead.
    pub(super) waiting: Mutex<Option<HashMap<u64, Waiter>>>,
    /// Where each loaded module begins in its memory, as it says itself.
    pub(super) loaded: Mutex<BTreeMap<u64, u64>>,
    /// Modules ever loaded into it.
    pub(super) loads: AtomicU64,
    pub(super) loader: Loader,
    /// The module that the supervisor is bringing up; 0: none.
    pub(super) trying: AtomicU64,
    /// The server has ended it because it did not keep to the rules.
    pub(super) broken: AtomicBool,
    /// Modules in which a signal was caught.
    pub(super) faulted: Mutex<HashSet<u64>>,
    /// Why it was ended, if there is more to say than that it was killed.
    pub(super) verdict: Mutex<Option<String>>,
    /// The process has all resources it needs. Module code runs only after this.
    pub(super) started: AtomicBool,
    /// A replacement was asked for: the supervisor is told once.
    pub(super) doomed: AtomicBool,
    pub(super) is_sanitized: bool,
    /// A [`Stage`]. Written by the supervisor.
    pub(super) stage: AtomicU8,
    /// Disconnected once all that it has printed is in the log.
    pub(super) printed: Receiver<()>,
    /// The record of this process, should it outlive the server.
    pub(super) _record: Option<Record>,
    /// Its cgroup, if it has one.
    pub(super) confined: Option<Confined>,
    /// Where it leaves a core file, if it may.
    pub(super) core_place: Option<CorePlace>,
}

/// What threads beside the supervisor have to know of a process's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Stage {
    Alive,
    /// Another process follows: the supervisor is to learn of each job that ends here.
    Draining,
    Dead,
}

/// The one who waits for the outcome of an order.
pub(super) enum Waiter {
    /// A thread.
    Thread(Sender<Outcome>),
    /// The supervisor, over its channel.
    Supervisor,
}

impl ProcessInstance {
    /// Tells it from other processes.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn since(&self) -> SystemTime {
        self.since
    }

    /// Where it says what it runs.
    pub(super) fn board(&self) -> (&Region, usize) {
        (&self.region, self.layout.board())
    }

    /// Why it takes up more memory beside the rings than one that keeps to the rules can, if it does.
    pub(super) fn overfills(&self) -> Option<String> {
        let (resident, most) = (self.bodies.resident_bytes().ok()?, self.parts.resident_bytes_max() as u64);
        (resident > most).then(|| format!("it has filled {resident} bytes of the memory for bodies, of at most {most}"))
    }

    /// Sends a message and does not wait until it is taken. A process that takes nothing is ended.
    pub(super) fn send(&self, message: &ToChild) -> io::Result<()> {
        let reply = matches!(message, ToChild::Reply { .. });
        let sent = control::encode(message).and_then(|bytes| self.control_writer.send(bytes, reply));
        sent.inspect_err(|_| self.kill())
    }

    /// Hands over the open file that question number `call` has asked for, before its answer.
    ///
    /// # Errors
    /// An errno: it does not take it.
    pub(super) fn hand_over(&self, call: u64, file: &OwnedFd) -> Result<(), i32> {
        let socket = self.files.last().ok_or(libc::EIO)?;
        handed_files::send(socket, call, file).map_err(Errno::raw_os_error)
    }

    /// What its modules have asked and are not answered.
    pub(super) fn asked(&self) -> &Asked {
        &self.asked
    }

    /// Sends an order; its outcome comes over the receiver, which is disconnected if the process dies first.
    pub(super) fn begin(&self, call: u64, what: Order) -> Result<Receiver<Outcome>, String> {
        self.begin_message(call, &ToChild::Call { call, what })
    }

    /// Names the modules whose symbols others find. Done when they do.
    pub(super) fn publish(&self, call: u64, modules: Vec<(String, u64)>) -> Result<Receiver<Outcome>, String> {
        self.begin_message(call, &ToChild::Published { call, modules })
    }

    fn begin_message(&self, call: u64, message: &ToChild) -> Result<Receiver<Outcome>, String> {
        let (sender, receiver) = bounded(1);
        self.begin_for(Waiter::Thread(sender), call, message)?;
        Ok(receiver)
    }

    /// Sends an order of the supervisor, which learns its outcome as an event, or else that the process died.
    pub(super) fn begin_supervised(&self, call: u64, what: Order) {
        // A process that can't be reached ends, which is an event too.
        let _ = self.begin_for(Waiter::Supervisor, call, &ToChild::Call { call, what });
    }

    fn begin_for(&self, waiter: Waiter, call: u64, message: &ToChild) -> Result<(), String> {
        match lock(&self.waiting).as_mut() {
            Some(waiting) => drop(waiting.insert(call, waiter)),
            None => return Err("its process died".to_owned()),
        }
        self.send(message).map_err(|error| format!("its process can't be reached: {error}"))
    }

    /// Has an order carried out, and waits for its outcome for at most `limit`; disconnected: the process died first.
    pub(super) fn call_within(&self, limit: Duration, call: u64, what: Order) -> Result<Outcome, RecvTimeoutError> {
        self.begin(call, what).map_err(|_| RecvTimeoutError::Disconnected)?.recv_timeout(limit)
    }

    /// Order number `call` has its outcome, which is returned if the supervisor waits for it.
    pub(super) fn done(&self, call: u64, outcome: Outcome) -> Option<Outcome> {
        match lock(&self.waiting).as_mut().and_then(|waiting| waiting.remove(&call))? {
            Waiter::Supervisor => Some(outcome),
            Waiter::Thread(sender) => {
                let _ = sender.send(outcome);
                None
            }
        }
    }

    /// Nobody waits for an order any more.
    pub(super) fn give_up_orders(&self) {
        drop(lock(&self.waiting).take());
    }

    pub(super) fn kill(&self) {
        let alive = lock(&self.alive);
        if *alive {
            let pid = self.pid.cast_signed();
            // SAFETY: no memory is involved; the process is not waited for while `alive` is held and true.
            unsafe {
                libc::kill(pid, libc::SIGKILL);
                // What it has forked ends with it; this is for what its modules may have forked past the rules. The filter keeps all of
                // them in its group.
                libc::kill(-pid, libc::SIGKILL);
            }
        }
    }

    /// Whether a cgroup limits its memory.
    pub(super) fn is_confined(&self) -> bool {
        self.confined.is_some()
    }

    /// Whether the kernel has killed it for memory, and for whose.
    pub(super) fn out_of_memory(&self) -> Option<OutOfMemory> {
        self.confined.as_ref()?.out_of_memory()
    }

    /// It has been waited for: its cgroup goes.
    pub(super) fn unconfine(&self) {
        if let Some(confined) = &self.confined {
            confined.remove();
        }
    }

    /// Its core file, if it has left one, under the name that `named` has for it.
    pub(super) fn core(&self, files: &CoreFiles, named: &str) -> Option<CoreFile> {
        files.keep(self.core_place.as_ref()?, named)
    }

    /// The process may be waited for from here on: its number can be another's then.
    pub(super) fn is_reaped(&self) {
        lock(&self.bells).clear();
        *lock(&self.alive) = false;
    }

    /// Closes the sending side: the process ends by itself, and the server still reads its messages.
    pub(super) fn finish(&self) {
        self.control_writer.finish();
    }

    /// Closes the control connection, which ends the process.
    pub(super) fn hang_up(&self) {
        self.control_writer.close();
    }

    /// Waits, where the module has a sanitizer, until it has looked for what the module has lost: for that it needs the file.
    pub(super) fn wait_for_leaks(&self, end: &Receiver<Outcome>) -> Option<Outcome> {
        if self.is_sanitized { end.recv_timeout(LEAKS_WAIT).ok() } else { None }
    }

    pub(super) fn is_dead(&self) -> bool {
        self.stage.load(Ordering::Acquire) == Stage::Dead as u8
    }

    pub(super) fn is_draining(&self) -> bool {
        self.stage.load(Ordering::Acquire) == Stage::Draining as u8
    }

    pub(super) fn set_dead(&self) {
        self.stage.store(Stage::Dead as u8, Ordering::Release);
    }

    pub(super) fn set_draining(&self) {
        self.stage.store(Stage::Draining as u8, Ordering::Release);
    }

    pub(super) fn set_started(&self) {
        self.started.store(true, Ordering::Release);
    }

    /// Whether code of modules can have run in it.
    pub(super) fn is_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    /// It is to be replaced: true for the first who says so.
    pub(super) fn request_replacement(&self) -> bool {
        !self.doomed.swap(true, Ordering::AcqRel)
    }

    /// Waits until all that it has printed is in the log, for at most `limit`. The process is over, or about to be.
    pub(super) fn wait_printed(&self, limit: Duration) {
        let _ = self.printed.recv_timeout(limit);
    }

    /// What loads modules there.
    pub(super) fn loader(&self) -> &Loader {
        &self.loader
    }

    /// A module is loaded. Returns how many have been.
    pub(super) fn add(&self, instance: u64, base: u64) -> u64 {
        lock(&self.loaded).insert(instance, base);
        self.loads.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A module is to be closed; false if it is not loaded here.
    pub(super) fn forget(&self, instance: u64) -> bool {
        lock(&self.loaded).remove(&instance).is_some()
    }

    pub(super) fn has(&self, instance: u64) -> bool {
        lock(&self.loaded).contains_key(&instance)
    }

    /// The loaded modules and where each begins.
    pub(super) fn bases(&self) -> Vec<(u64, u64)> {
        lock(&self.loaded).iter().map(|(id, base)| (*id, *base)).collect()
    }

    /// The server ends it because it does not keep to the rules.
    pub(super) fn set_broken(&self) {
        self.broken.store(true, Ordering::Release);
    }

    /// Whether its end is the server's doing, for what it did.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    pub(super) fn trying(&self) -> Option<u64> {
        Some(self.trying.load(Ordering::Acquire)).filter(|instance| *instance != 0)
    }

    pub(super) fn set_trying(&self, instance: Option<u64>) {
        self.trying.store(instance.unwrap_or(0), Ordering::Release);
    }

    /// True when a signal was caught in this module for the first time here.
    pub(super) fn first_fault_of(&self, instance: u64) -> bool {
        let known = instance == 0 || self.has(instance) || self.trying() == Some(instance);
        known && lock(&self.faulted).insert(instance)
    }

    pub(super) fn verdict(&self) -> Option<String> {
        lock(&self.verdict).clone().or_else(|| self.control_writer.verdict().map(str::to_owned))
    }

    /// Ends it because it `hung`.
    pub(super) fn kill_because(&self, hung: String) {
        lock(&self.verdict).get_or_insert(hung);
        self.kill();
    }
}
