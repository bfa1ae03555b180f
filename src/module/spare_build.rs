//! A directory and processes for the next compilation, prepared before it is requested.
//!
//! Starting three processes in sandboxes and writing the SDK take some milliseconds that a deployment need not wait for.
//! After a deployment, a thread therefore prepares a directory ([`Workdir`]) and an inspection process that waits for the
//! shared object. A prepared build serves one compilation. An author who changes a source deploys repeatedly, so the thread
//! prepares builds from the second compilation on, and discards a build that stays unused. A compilation without a prepared
//! build makes its own.

use super::compile::Workdir;
use crate::domain::Inspection;
use crossbeam::channel::{self, Receiver, RecvTimeoutError, Sender};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// How long a prepared build is kept for its compilation.
const KEPT: Duration = Duration::from_secs(600);
/// The number of compilations within [`KEPT`] from which on builds are prepared.
const COMPILATIONS_MIN: u32 = 2;

/// A directory and processes for one compilation.
#[derive(Debug)]
pub(super) struct Build {
    pub(super) workdir: Workdir,
    /// The process that waits for the object; `None`: the inspection is not started yet.
    pub(super) inspection: Option<Inspection>,
}

impl Build {
    /// A build in the empty directory `dir`, with nothing prepared.
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { workdir: Workdir::new(dir), inspection: None }
    }

    fn discard(self) {
        let dir = self.workdir.path().to_path_buf();
        // The processes must end before their directory is removed.
        drop(self);
        let _ = std::fs::remove_dir_all(dir);
    }
}

/// Prepares a build; `None` if the system refuses.
pub(super) type Make = Box<dyn Fn() -> Option<Build> + Send>;

/// The prepared build and its thread.
#[derive(Debug, Default)]
pub(super) struct SpareBuild {
    slot: Mutex<Option<Build>>,
    compilations: AtomicU32,
    /// The thread that prepares builds. The processes end with their parent thread, so it outlives all compilations.
    keeper: Mutex<Option<(Sender<()>, JoinHandle<()>)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SpareBuild {
    /// Starts the thread, which calls `run` with the receiver of its orders: see [`SpareBuild::keep`].
    ///
    /// # Errors
    /// The thread can't be started.
    pub(super) fn start(&self, run: impl FnOnce(Receiver<()>) + Send + 'static) -> io::Result<()> {
        // One waiting order suffices.
        let (sender, orders) = channel::bounded(1);
        let thread = Builder::new().name("spare-build".to_owned()).spawn(move || run(orders))?;
        *lock(&self.keeper) = Some((sender, thread));
        Ok(())
    }

    /// The thread's loop: at each order, prepares a build unless there is one. Returns when the sender is dropped.
    pub(super) fn keep(&self, orders: &Receiver<()>, make: &Make) {
        loop {
            match orders.recv_timeout(KEPT) {
                Ok(()) if lock(&self.slot).is_none() => {
                    let made = make();
                    *lock(&self.slot) = made;
                }
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => self.empty(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.empty();
    }

    fn empty(&self) {
        self.compilations.store(0, Ordering::Relaxed);
        let build = lock(&self.slot).take();
        build.into_iter().for_each(Build::discard);
    }

    /// Takes the prepared build.
    pub(super) fn take(&self) -> Option<Build> {
        // Relaxed: the counter guards no other data.
        self.compilations.fetch_add(1, Ordering::Relaxed);
        lock(&self.slot).take()
    }

    /// Orders the next build. The caller must have answered its client first, because preparing takes CPU time.
    pub(super) fn order(&self) {
        if self.compilations.load(Ordering::Relaxed) < COMPILATIONS_MIN || lock(&self.slot).is_some() {
            return;
        }
        if let Some((orders, _)) = &*lock(&self.keeper) {
            let _ = orders.try_send(());
        }
    }

    /// Ends the thread and discards the prepared build. No compilation may run any more.
    pub(super) fn stop(&self) {
        let keeper = lock(&self.keeper).take();
        if let Some((orders, thread)) = keeper {
            drop(orders);
            let _ = thread.join();
        }
    }
}
