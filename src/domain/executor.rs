//! The threads that run module code.
//!
//! Each shard has a [`Companion`]: one executor on the shard's own core, for handlers known to be short. Waking it
//! needs no inter-processor interrupt, and it runs once the shard sleeps, with a whole batch waiting. Everything
//! else goes to the [`Pool`]: threads on the cores that no shard is pinned to (on all cores when shards take
//! every one), more of them while handlers block, so that slow handlers overlap.

use super::call::Call;
use crate::threads::module_thread;
use crossbeam::channel::{self, Receiver, RecvTimeoutError, Sender};
use crossbeam::queue::SegQueue;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

/// Runs one piece of work on the current thread. Each executor thread makes one by the factory it was given.
pub trait Runner<W = Call> {
    /// Runs `work` and delivers its outcome. Must not panic.
    fn run(&mut self, work: W);

    /// The same; gives `work` back if its memory can be used for the next piece.
    fn run_and_return(&mut self, work: W) -> Option<W> {
        self.run(work);
        None
    }
}

/// Makes the [`Runner`] of a new executor thread, on that thread.
pub type RunnerFactory<W = Call> = Arc<dyn Fn() -> Box<dyn Runner<W>> + Send + Sync>;

/// A call that has kept a companion busy this long is no short one: what waits behind it moves to the pool.
const STUCK_AFTER_US: u64 = 2_000;

/// How long an idle pool thread beyond the smallest number stays.
const IDLE_EXIT: Duration = Duration::from_secs(10);

fn now_us(epoch: Instant) -> u64 {
    // Never 0: that stands for "idle".
    u64::try_from(epoch.elapsed().as_micros()).unwrap_or(u64::MAX).max(1)
}

/// State shared between a companion's thread and its shard.
struct CompanionShared {
    queue: SegQueue<Call>,
    stop: AtomicBool,
    /// Start of the running call in µs since `epoch`, 0 when idle. Written by the companion alone.
    busy_since_us: AtomicU64,
    epoch: Instant,
}

/// One executor thread pinned to a shard's core.
pub struct Companion {
    shared: Arc<CompanionShared>,
    thread: Thread,
    join: Option<JoinHandle<()>>,
    pushed: bool,
}

impl Companion {
    /// Starts the companion of shard number `shard`, pinned to `core` if given.
    ///
    /// # Errors
    /// The thread could not be created.
    pub fn start(shard: usize, core: Option<core_affinity::CoreId>, factory: RunnerFactory) -> std::io::Result<Self> {
        let shared = Arc::new(CompanionShared {
            queue: SegQueue::new(),
            stop: AtomicBool::new(false),
            busy_since_us: AtomicU64::new(0),
            epoch: Instant::now(),
        });
        let inner = Arc::clone(&shared);
        let join = module_thread(format!("exec-{shard}")).spawn(move || {
            if let Some(core) = core {
                core_affinity::set_for_current(core);
            }
            companion_main(&inner, &mut *factory());
        })?;
        Ok(Self { shared, thread: join.thread().clone(), join: Some(join), pushed: false })
    }

    /// Queues a call without waking the thread; see [`Companion::wake`].
    pub fn push(&mut self, call: Call) {
        self.shared.queue.push(call);
        self.pushed = true;
    }

    /// Wakes the thread if anything was pushed since the last wake: once a batch, at most one `futex(2)`.
    pub fn wake(&mut self) {
        if std::mem::take(&mut self.pushed) {
            self.thread.unpark();
        }
    }

    /// Whether one call has been running so long that others should not queue behind it.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        let since = self.shared.busy_since_us.load(Ordering::Relaxed);
        since != 0 && now_us(self.shared.epoch).saturating_sub(since) > STUCK_AFTER_US
    }

    /// Takes back a call that has not begun.
    pub fn reclaim(&mut self) -> Option<Call> {
        self.shared.queue.pop()
    }

    /// Whether calls wait to begin.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        !self.shared.queue.is_empty()
    }
}

impl Companion {
    /// Ends the thread. The running call may finish; waiting ones are dropped.
    pub fn stop(&mut self) {
        while self.reclaim().is_some() {}
        self.shared.stop.store(true, Ordering::Release);
        self.thread.unpark();
        // A handler that never returns would hold up the exit: such a thread is left to the end of the process.
        if let Some(join) = self.join.take().filter(|_| !self.is_stuck()) {
            let _ = join.join();
        }
    }
}

impl Drop for Companion {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Makes all thread-local state of this crate that calls of modules use. A thread that runs such calls must do this before it
/// takes the first call, because the first use of a thread-local with a destructor waits for the dynamic loader's lock
/// (`__cxa_thread_atexit_impl`), and a module's constructor may hold that lock for ever. `tests/layers.rs` fails when a
/// file gets a `thread_local!` that is not made here.
pub(super) fn prepare_thread() {
    super::running::ready();
    super::output::ready();
    super::compress::ready();
    crate::abi::files::ready();
    crate::abi::websocket::ready();
    crate::jobs::json_ready();
}

fn companion_main(shared: &CompanionShared, runner: &mut dyn Runner) {
    prepare_thread();
    loop {
        while let Some(call) = shared.queue.pop() {
            shared.busy_since_us.store(now_us(shared.epoch), Ordering::Relaxed);
            runner.run(call);
        }
        shared.busy_since_us.store(0, Ordering::Relaxed);
        if shared.stop.load(Ordering::Acquire) {
            return;
        }
        // A push between the last pop and here left an unpark token, so this returns at once.
        thread::park();
    }
}

/// State shared by the pool's threads.
struct PoolShared<W> {
    receiver: Receiver<W>,
    factory: RunnerFactory<W>,
    threads: AtomicUsize,
    idle: AtomicUsize,
    named: AtomicUsize,
    threads_min: usize,
    threads_max: usize,
    cores: Vec<core_affinity::CoreId>,
}

/// The executor threads shared by all shards.
pub struct Pool<W = Call> {
    sender: Sender<W>,
    shared: Arc<PoolShared<W>>,
}

impl<W: Send + 'static> Pool<W> {
    /// Starts `threads_min` threads that may run on `cores` (anywhere if empty) and grow to `threads_max`.
    ///
    /// # Errors
    /// No thread could be created.
    pub fn start(
        threads_min: usize,
        threads_max: usize,
        cores: Vec<core_affinity::CoreId>,
        factory: RunnerFactory<W>,
    ) -> std::io::Result<Self> {
        let (sender, receiver) = channel::unbounded();
        let threads_min = threads_min.max(1);
        let shared = Arc::new(PoolShared {
            receiver,
            factory,
            threads: AtomicUsize::new(0),
            idle: AtomicUsize::new(0),
            named: AtomicUsize::new(0),
            threads_min,
            threads_max: threads_max.max(threads_min),
            cores,
        });
        for _ in 0..threads_min {
            spawn_pool_thread(&shared)?;
        }
        Ok(Self { sender, shared })
    }

    /// Queues a call. Shards bound what they have in flight, and so this queue.
    pub fn push(&self, call: W) {
        // The receiver lives in `shared`, so the channel can't be disconnected.
        let _ = self.sender.send(call);
    }

    /// Threads that exist now.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.shared.threads.load(Ordering::Relaxed)
    }
}

fn spawn_pool_thread<W: Send + 'static>(shared: &Arc<PoolShared<W>>) -> std::io::Result<()> {
    let number = shared.named.fetch_add(1, Ordering::Relaxed);
    shared.threads.fetch_add(1, Ordering::Relaxed);
    let inner = Arc::clone(shared);
    let spawned = module_thread(format!("pool-{number}")).spawn(move || pool_main(&inner));
    if spawned.is_err() {
        shared.threads.fetch_sub(1, Ordering::Relaxed);
    }
    spawned.map(|_| ())
}

fn pool_main<W: Send + 'static>(shared: &Arc<PoolShared<W>>) {
    super::sched::background_thread(&shared.cores);
    let mut runner = (shared.factory)();
    prepare_thread();
    loop {
        shared.idle.fetch_add(1, Ordering::SeqCst);
        let received = shared.receiver.recv_timeout(IDLE_EXIT);
        let idle_left = shared.idle.fetch_sub(1, Ordering::SeqCst) - 1;
        match received {
            Ok(call) => {
                // The last idle thread leaves a successor before it begins something that may block.
                if idle_left == 0
                    && shared.threads.load(Ordering::Relaxed) < shared.threads_max
                    && let Err(error) = spawn_pool_thread(shared)
                {
                    tracing::warn!(%error, "the executor pool can't grow");
                }
                runner.run(call);
            }
            Err(RecvTimeoutError::Timeout) => {
                let threads = shared.threads.load(Ordering::Relaxed);
                if threads > shared.threads_min
                    && shared
                        .threads
                        .compare_exchange(threads, threads - 1, Ordering::Relaxed, Ordering::Relaxed)
                        .is_ok()
                {
                    return;
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
