//! Generations: each deployment of a module makes a new one, immutable, with a shared object of its own.
//!
//! Users of a generation's code hold a reference. Requests and WebSocket callbacks hold its [`Serving`]; dropping the last
//! `Serving` tells the deploying thread that no request uses the generation any more. Jobs hold the [`Generation`] itself.
//! Dropping the last reference runs no module code: it sends the generation's parts to the reaper, which runs `unload` and
//! closes the shared object.

use crate::abi::manifest::Manifest;
use crate::domain::Instance;
use crossbeam::channel::{Receiver, Sender, bounded};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// One deployment of a module.
pub struct Generation {
    id: u64,
    hash: String,
    instance: Option<Arc<dyn Instance>>,
    so_path: PathBuf,
    /// Whether the reaper must run `unload`: `onload` has run (or does not exist), and `unload` has not.
    unload_due: AtomicBool,
    reaper: Sender<Retired>,
}

/// The parts of a generation without references.
pub(super) struct Retired {
    instance: Arc<dyn Instance>,
    so_path: PathBuf,
    unload: bool,
}

impl Generation {
    pub(super) fn new(
        id: u64,
        hash: String,
        instance: Arc<dyn Instance>,
        so_path: PathBuf,
        reaper: Sender<Retired>,
    ) -> Self {
        Self { id, hash, instance: Some(instance), so_path, unload_due: AtomicBool::new(false), reaper }
    }

    /// The number of the deployment, counted by this process.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// SHA-256 of the source, in hexadecimal; users see it as `module_hash`.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The loaded module.
    #[must_use]
    pub fn instance(&self) -> &Arc<dyn Instance> {
        // Only `drop` takes `instance`.
        self.instance.as_ref().unwrap_or_else(|| unreachable!("a live generation has its instance"))
    }

    /// The module's manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        self.instance().manifest()
    }

    /// Whether `unload` must still run.
    pub(super) fn is_unload_due(&self) -> bool {
        self.unload_due.load(Ordering::Acquire)
    }

    /// Claims the run of `unload`: returns true to one caller only.
    pub(super) fn take_unload(&self) -> bool {
        self.unload_due.swap(false, Ordering::AcqRel)
    }

    pub(super) fn set_unload_due(&self, due: bool) {
        self.unload_due.store(due, Ordering::Release);
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if let Some(instance) = self.instance.take() {
            let unload = self.unload_due.load(Ordering::Acquire);
            let so_path = std::mem::take(&mut self.so_path);
            // Without a reaper the process is ending, and the kernel releases everything.
            let _ = self.reaper.send(Retired { instance, so_path, unload });
        }
    }
}

/// A generation that serves requests.
pub struct Serving {
    generation: Arc<Generation>,
    /// Dropped with the last reference, which disconnects the receiver of [`Serving::start`].
    _alive: Sender<()>,
}

impl Serving {
    /// Starts serving `generation`. The receiver is disconnected once no reference to the `Serving` is left.
    pub(super) fn start(generation: Arc<Generation>) -> (Arc<Self>, Receiver<()>) {
        let (alive, released) = bounded(0);
        (Arc::new(Self { generation, _alive: alive }), released)
    }

    /// The served generation.
    #[must_use]
    pub fn generation(&self) -> &Arc<Generation> {
        &self.generation
    }
}

/// The reaper thread: unloads retired generations until all generations and senders are dropped.
pub(super) fn reap(retired: &Receiver<Retired>) {
    for remains in retired {
        let name = remains.instance.manifest().name.clone();
        if remains.unload
            && let Err(fault) = remains.instance.unload()
        {
            tracing::error!("module {name} failed in unload: {fault}");
        }
        drop(remains.instance);
        if let Err(error) = std::fs::remove_file(&remains.so_path) {
            tracing::warn!("{}: {error}", remains.so_path.display());
        }
        tracing::debug!("a generation of module {name} is gone");
    }
}
