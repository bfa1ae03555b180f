//! What the next compilation needs, made before it is asked for.
//!
//! Starting three processes in sandboxes and writing the SDK take some milliseconds that a deployment need not wait for. So a
//! thread makes them ready after a deployment: a directory ([`Workdir`]) and an inspection that waits for what is compiled there.
//! They serve one compilation. An author who changes a source deploys again and again, so a server has them from its second
//! compilation on, and gives them up when none comes for a while. A compilation that finds none does without.

use super::compile::Workdir;
use crate::domain::Inspection;
use crossbeam::channel::{self, Receiver, RecvTimeoutError, Sender};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// How long a build waits for its compilation.
const KEPT: Duration = Duration::from_secs(600);
/// Compilations within [`KEPT`] from which on there is one.
const COMPILATIONS_MIN: u32 = 2;

/// A directory and processes for one compilation.
#[derive(Debug)]
pub(super) struct Build {
    pub(super) workdir: Workdir,
    /// Waits for the object; `None`: it is still to be begun.
    pub(super) inspection: Option<Inspection>,
}

impl Build {
    /// One in the empty directory `dir`, with nothing made ready.
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { workdir: Workdir::new(dir), inspection: None }
    }

    fn discard(self) {
        let dir = self.workdir.path().to_path_buf();
        // Its processes first.
        drop(self);
        let _ = std::fs::remove_dir_all(dir);
    }
}

/// Makes a build, if the system lets it.
pub(super) type Make = Box<dyn Fn() -> Option<Build> + Send>;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct SpareBuild {
    slot: Mutex<Option<Build>>,
    compilations: AtomicU32,
    /// The thread that makes builds. Their processes end with it, so it outlives all compilations.
    keeper: Mutex<Option<(Sender<()>, JoinHandle<()>)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SpareBuild {
    /// Starts the thread, which runs `run` with the orders that it gets: see [`SpareBuild::keep`].
    ///
    /// # Errors
    /// There is no thread.
    pub(super) fn start(&self, run: impl FnOnce(Receiver<()>) + Send + 'static) -> io::Result<()> {
        // One order that waits is as good as two.
        let (sender, orders) = channel::bounded(1);
        let thread = Builder::new().name("spare-build".to_owned()).spawn(move || run(orders))?;
        *lock(&self.keeper) = Some((sender, thread));
        Ok(())
    }

    /// The thread's work: makes a build at each of the `orders` unless there is one, until no more can come.
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

    /// The build that is ready, for the caller alone.
    pub(super) fn take(&self) -> Option<Build> {
        // Relaxed: the number alone is shared.
        self.compilations.fetch_add(1, Ordering::Relaxed);
        lock(&self.slot).take()
    }

    /// Has the next build made. Call it when nobody waits for the processor any more.
    pub(super) fn order(&self) {
        if self.compilations.load(Ordering::Relaxed) < COMPILATIONS_MIN || lock(&self.slot).is_some() {
            return;
        }
        if let Some((orders, _)) = &*lock(&self.keeper) {
            let _ = orders.try_send(());
        }
    }

    /// Ends the thread and what it has made. No compilation may run any more.
    pub(super) fn stop(&self) {
        let keeper = lock(&self.keeper).take();
        if let Some((orders, thread)) = keeper {
            drop(orders);
            let _ = thread.join();
        }
    }
}
