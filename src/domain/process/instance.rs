//! One process of a domain: its control connection, its loaded modules, and the memory that it shares with the server.

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

/// One process. The supervisor owns its state (spare, serving, leaving …); this type has the parts that other threads need.
pub(super) struct ProcessInstance {
    pub(super) number: u64,
    pub(super) pid: u32,
    pub(super) layout: Layout,
    pub(super) region: Arc<Region>,
    pub(super) bodies: Arc<Region>,
    pub(super) parts: Parts,
    /// Sockets through which the process passes open files, one for each shard; through the last one, jobs get their files.
    pub(super) files: Vec<OwnedFd>,
    /// The doorbells by which the process wakes the shards.
    pub(super) bells: Mutex<Vec<Doorbell>>,
    pub(super) since: SystemTime,
    /// Whether the process is not reaped yet, so that `pid` is still its own. Locked while the process is signalled.
    pub(super) alive: Mutex<bool>,
    pub(super) control_writer: ControlWriter,
    pub(super) asked: Asked,
    /// The waiters for orders; `None` once the process is dead.
    pub(super) waiting: Mutex<Option<HashMap<u64, Waiter>>>,
    /// The address of each loaded module, as the process reports it.
    pub(super) loaded: Mutex<BTreeMap<u64, u64>>,
    /// The number of modules ever loaded into the process.
    pub(super) loads: AtomicU64,
    pub(super) loader: Loader,
    /// The module that the supervisor is loading; 0: none.
    pub(super) trying: AtomicU64,
    /// Whether the server ends the process because it broke the protocol.
    pub(super) broken: AtomicBool,
    /// The modules in which a signal was caught.
    pub(super) faulted: Mutex<HashSet<u64>>,
    /// The reason for the end of the process, if it is more than a kill.
    pub(super) verdict: Mutex<Option<String>>,
    /// Whether the process has all the resources that it needs. Module code runs only after this.
    pub(super) started: AtomicBool,
    /// Whether a replacement was requested: the supervisor is told once.
    pub(super) is_replacement_requested: AtomicBool,
    pub(super) is_sanitized: bool,
    /// A [`Stage`], written by the supervisor.
    pub(super) stage: AtomicU8,
    /// Disconnected once all its output is in the log.
    pub(super) printed: Receiver<()>,
    /// The record of the process, in case it outlives the server.
    pub(super) _record: Option<Record>,
    /// Its cgroup, if it has one.
    pub(super) confined: Option<Confined>,
    /// The directory for its core file, if it may leave one.
    pub(super) core_place: Option<CorePlace>,
}

/// The part of a process's state that threads other than the supervisor need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Stage {
    Alive,
    /// Another process follows: the supervisor must learn of each job that ends here.
    Draining,
    Dead,
}

/// The waiter for the outcome of an order.
pub(super) enum Waiter {
    /// A thread.
    Thread(Sender<Outcome>),
    /// The supervisor, over its channel.
    Supervisor,
}

impl ProcessInstance {
    /// The number that identifies the process.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn since(&self) -> SystemTime {
        self.since
    }

    /// The memory in which the process records what it runs.
    pub(super) fn board(&self) -> (&Region, usize) {
        (&self.region, self.layout.board())
    }

    /// The reason why it occupies more memory beside the rings than the protocol permits, if it does.
    pub(super) fn overfills(&self) -> Option<String> {
        let (resident, most) = (self.bodies.resident_bytes().ok()?, self.parts.resident_bytes_max() as u64);
        (resident > most).then(|| format!("it has filled {resident} bytes of the memory for bodies, of at most {most}"))
    }

    /// Sends a message without waiting until it is taken. A process that takes no messages is ended.
    pub(super) fn send(&self, message: &ToChild) -> io::Result<()> {
        let reply = matches!(message, ToChild::Reply { .. });
        let sent = control::encode(message).and_then(|bytes| self.control_writer.send(bytes, reply));
        sent.inspect_err(|_| self.kill())
    }

    /// Passes the open file for question number `call`, before its answer.
    ///
    /// # Errors
    /// An errno: the process does not take it.
    pub(super) fn hand_over(&self, call: u64, file: &OwnedFd) -> Result<(), i32> {
        let socket = self.files.last().ok_or(libc::EIO)?;
        handed_files::send(socket, call, file).map_err(Errno::raw_os_error)
    }

    /// The limits on unanswered questions of its modules.
    pub(super) fn asked(&self) -> &Asked {
        &self.asked
    }

    /// Sends an order. Its outcome comes over the receiver, which is disconnected if the process dies first.
    pub(super) fn begin(&self, call: u64, what: Order) -> Result<Receiver<Outcome>, String> {
        self.begin_message(call, &ToChild::Call { call, what })
    }

    /// Sends the modules whose symbols others can look up. Done when the look-up uses them.
    pub(super) fn publish(&self, call: u64, modules: Vec<(String, u64)>) -> Result<Receiver<Outcome>, String> {
        self.begin_message(call, &ToChild::Published { call, modules })
    }

    fn begin_message(&self, call: u64, message: &ToChild) -> Result<Receiver<Outcome>, String> {
        let (sender, receiver) = bounded(1);
        self.begin_for(Waiter::Thread(sender), call, message)?;
        Ok(receiver)
    }

    /// Sends an order of the supervisor, which gets the outcome as an event, or else the death of the process.
    pub(super) fn begin_supervised(&self, call: u64, what: Order) {
        // If the message can't be sent, the process ends, which is an event, too.
        let _ = self.begin_for(Waiter::Supervisor, call, &ToChild::Call { call, what });
    }

    fn begin_for(&self, waiter: Waiter, call: u64, message: &ToChild) -> Result<(), String> {
        match lock(&self.waiting).as_mut() {
            Some(waiting) => drop(waiting.insert(call, waiter)),
            None => return Err("its process died".to_owned()),
        }
        self.send(message).map_err(|error| format!("its process can't be reached: {error}"))
    }

    /// Sends an order and waits for its outcome, at most for `limit`. Disconnected: the process died first.
    pub(super) fn call_within(&self, limit: Duration, call: u64, what: Order) -> Result<Outcome, RecvTimeoutError> {
        self.begin(call, what).map_err(|_| RecvTimeoutError::Disconnected)?.recv_timeout(limit)
    }

    /// Delivers the outcome of order number `call`. Returns it if the supervisor waits for it.
    pub(super) fn done(&self, call: u64, outcome: Outcome) -> Option<Outcome> {
        match lock(&self.waiting).as_mut().and_then(|waiting| waiting.remove(&call))? {
            Waiter::Supervisor => Some(outcome),
            Waiter::Thread(sender) => {
                let _ = sender.send(outcome);
                None
            }
        }
    }

    /// Ends all waits for orders.
    pub(super) fn give_up_orders(&self) {
        drop(lock(&self.waiting).take());
    }

    pub(super) fn kill(&self) {
        let alive = lock(&self.alive);
        if *alive {
            let pid = self.pid.cast_signed();
            // SAFETY: no memory is involved; the process is not reaped while `alive` is locked and true.
            unsafe {
                libc::kill(pid, libc::SIGKILL);
                // Its forked processes end with it; this call is for processes that its modules may have forked in spite of
                // the rules. The filter keeps them all in its group.
                libc::kill(-pid, libc::SIGKILL);
            }
        }
    }

    /// Whether a cgroup limits the process's memory.
    pub(super) fn is_confined(&self) -> bool {
        self.confined.is_some()
    }

    /// The reason if the kernel killed the process for lack of memory.
    pub(super) fn out_of_memory(&self) -> Option<OutOfMemory> {
        self.confined.as_ref()?.out_of_memory()
    }

    /// Removes the cgroup after the process was reaped.
    pub(super) fn unconfine(&self) {
        if let Some(confined) = &self.confined {
            confined.remove();
        }
    }

    /// The core file of the process, if it has left one, under the name `named`.
    pub(super) fn core(&self, files: &CoreFiles, named: &str) -> Option<CoreFile> {
        files.keep(self.core_place.as_ref()?, named)
    }

    /// Called before the process is reaped: afterwards its id can belong to another process.
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

    /// For a module with a sanitizer, waits until the leak check has ended, since that needs the module's file.
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

    /// Whether module code can have run in the process.
    pub(super) fn is_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    /// Requests a replacement; returns true for the first request.
    pub(super) fn request_replacement(&self) -> bool {
        !self.is_replacement_requested.swap(true, Ordering::AcqRel)
    }

    /// Waits until all its output is in the log, at most for `limit`. The process must have ended, or be about to end.
    pub(super) fn wait_printed(&self, limit: Duration) {
        let _ = self.printed.recv_timeout(limit);
    }

    /// The loader of the process.
    pub(super) fn loader(&self) -> &Loader {
        &self.loader
    }

    /// Records a loaded module. Returns the number of modules ever loaded.
    pub(super) fn add(&self, instance: u64, base: u64) -> u64 {
        lock(&self.loaded).insert(instance, base);
        self.loads.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Records that a module is being closed; returns false if it is not loaded here.
    pub(super) fn forget(&self, instance: u64) -> bool {
        lock(&self.loaded).remove(&instance).is_some()
    }

    pub(super) fn has(&self, instance: u64) -> bool {
        lock(&self.loaded).contains_key(&instance)
    }

    /// The loaded modules and their addresses.
    pub(super) fn bases(&self) -> Vec<(u64, u64)> {
        lock(&self.loaded).iter().map(|(id, base)| (*id, *base)).collect()
    }

    /// Records that the server ends the process because it broke the protocol.
    pub(super) fn set_broken(&self) {
        self.broken.store(true, Ordering::Release);
    }

    /// Whether the server ended the process because it broke the protocol.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    pub(super) fn trying(&self) -> Option<u64> {
        Some(self.trying.load(Ordering::Acquire)).filter(|instance| *instance != 0)
    }

    pub(super) fn set_trying(&self, instance: Option<u64>) {
        self.trying.store(instance.unwrap_or(0), Ordering::Release);
    }

    /// Returns true for the first signal that was caught in this module here.
    pub(super) fn first_fault_of(&self, instance: u64) -> bool {
        let known = instance == 0 || self.has(instance) || self.trying() == Some(instance);
        known && lock(&self.faulted).insert(instance)
    }

    pub(super) fn verdict(&self) -> Option<String> {
        lock(&self.verdict).clone().or_else(|| self.control_writer.verdict().map(str::to_owned))
    }

    /// Kills the process because it `hung`.
    pub(super) fn kill_because(&self, hung: String) {
        lock(&self.verdict).get_or_insert(hung);
        self.kill();
    }
}
