//! Generations: each deployment of a module is a new one, immutable, with a shared object of its own.
//!
//! Who needs a generation's code holds it: requests and WebSocket callbacks hold its [`Serving`], whose end tells a
//! deployer that no request uses it any more; jobs hold the [`Generation`] itself. The last to let go does not
//! run module code: it hands the remains to the reaper, which runs `unload` and closes the shared object.

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
    /// `onload` has run (or there is none) and `unload` has not: the reaper runs it.
    unload_due: AtomicBool,
    reaper: Sender<Retired>,
}

/// What is left of a generation nobody holds.
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

    /// Number of the deployment, counted by this process.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// SHA-256 of the source, in hexadecimal: the `module_hash` users see.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The loaded module.
    #[must_use]
    pub fn instance(&self) -> &Arc<dyn Instance> {
        // `instance` is taken in `drop` alone.
        self.instance.as_ref().unwrap_or_else(|| unreachable!("a live generation has its instance"))
    }

    /// What the module declares.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        self.instance().manifest()
    }

    /// Whether `unload` has yet to run.
    pub(super) fn is_unload_due(&self) -> bool {
        self.unload_due.load(Ordering::Acquire)
    }

    /// Claims the run of `unload`: true for one caller.
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
            // Without a reaper the process is ending, and the kernel closes all.
            let _ = self.reaper.send(Retired { instance, so_path, unload });
        }
    }
}

/// A generation in its time of serving requests.
pub struct Serving {
    generation: Arc<Generation>,
    /// Dropped with the last holder: the other end sees that.
    _alive: Sender<()>,
}

impl Serving {
    /// Starts serving `generation`. The receiver is disconnected when nothing serves it any more.
    pub(super) fn start(generation: Arc<Generation>) -> (Arc<Self>, Receiver<()>) {
        let (alive, released) = bounded(0);
        (Arc::new(Self { generation, _alive: alive }), released)
    }

    /// The generation.
    #[must_use]
    pub fn generation(&self) -> &Arc<Generation> {
        &self.generation
    }
}

/// Runs until every generation and every sender is gone.
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
