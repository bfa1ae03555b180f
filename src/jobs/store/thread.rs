//! The writer's thread with its handles; the same for every engine.

use super::budget::Budget;
use super::command::Command;
use super::engine::Engine;
use super::error::OpenError;
use super::handle::{StoreShared, Writer};
use super::stats::StoreStats;
use super::writer::{Limits, Loop, Published};
use crossbeam::channel::{Receiver, Sender, bounded};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

/// Limits on the commands that wait and on those of one transaction.
#[derive(Debug, Clone)]
pub(super) struct QueueLimits {
    pub(super) queue_max: usize,
    pub(super) queue_bytes_max: usize,
    pub(super) batch_max: usize,
    pub(super) batch_wait_ms: u64,
}

/// Why the thread did not start.
pub(super) enum StartError {
    Thread(std::io::Error),
    Engine(OpenError),
}

/// The running thread; dropping it closes the store.
pub(super) struct WriterThread {
    writer: Writer,
    shared: Arc<StoreShared>,
    stats: Arc<StoreStats>,
    thread: Option<JoinHandle<()>>,
}

impl WriterThread {
    /// Starts the thread, which takes over `engine`, and waits until it is ready.
    pub(super) fn start<E: Engine>(engine: E, limits: &QueueLimits, published: Published) -> Result<Self, StartError> {
        let queue_max = limits.queue_max.max(1);
        // A bounded channel touches all its places when it is made, so a place is a pointer.
        let (sender, receiver) = bounded(queue_max);
        let shared = Arc::new(StoreShared {
            queue_max,
            budget: Budget::new(limits.queue_bytes_max),
            closing: AtomicBool::new(false),
            thread: OnceLock::new(),
            settled: OnceLock::new(),
        });
        let stats = Arc::new(StoreStats::new(sender.clone()));
        let limits = Limits {
            batch_max: limits.batch_max.max(1),
            batch_wait: Duration::from_millis(limits.batch_wait_ms),
            kept_max: limits.batch_max.max(1).saturating_add(queue_max),
        };
        let start = Start { engine, receiver, shared: shared.clone(), stats: stats.clone(), limits, published };
        let thread = start.spawn()?;
        let _ = shared.thread.set(thread.thread().id());
        let writer = Writer::new(sender, shared.clone());
        Ok(Self { writer, shared, stats, thread: Some(thread) })
    }

    pub(super) fn writer(&self) -> Writer {
        self.writer.clone()
    }

    pub(super) fn stats(&self) -> Arc<StoreStats> {
        Arc::clone(&self.stats)
    }
}

impl Drop for WriterThread {
    fn drop(&mut self) {
        self.writer.close();
        // A callback that drops the store runs on the thread itself, which can't wait for its own end.
        if self.shared.is_writer() {
            return;
        }
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the job writer's thread panicked");
        }
    }
}

/// Values that the writer's thread takes over.
struct Start<E> {
    engine: E,
    receiver: Receiver<Box<Command>>,
    shared: Arc<StoreShared>,
    stats: Arc<StoreStats>,
    limits: Limits,
    published: Published,
}

impl<E: Engine> Start<E> {
    fn spawn(self) -> Result<JoinHandle<()>, StartError> {
        let (ready, readiness) = bounded(1);
        let thread = std::thread::Builder::new()
            .name("cweb-jobs-writer".to_owned())
            .spawn(move || self.run(&ready))
            .map_err(StartError::Thread)?;
        match readiness.recv() {
            Ok(Err(error)) => Err(StartError::Engine(error)),
            Ok(Ok(())) => Ok(thread),
            Err(_) => Err(StartError::Thread(std::io::Error::other("the job writer's thread ended at once"))),
        }
    }

    fn run(self, ready: &Sender<Result<(), OpenError>>) {
        let Self { engine, receiver, shared, stats, limits, published } = self;
        let applier = match engine.applier() {
            Ok(applier) => applier,
            Err(error) => {
                let _ = ready.send(Err(error));
                return;
            }
        };
        let _ = ready.send(Ok(()));
        Loop { applier, receiver, shared, stats, limits, published }.run();
        engine.close();
    }
}
