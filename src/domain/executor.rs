//! The threads that run module code.
//!
//! Each shard has a [`Companion`]: one executor on the shard's own core, for handlers known to be short. Waking it
//! needs no inter-processor interrupt, and it runs once the shard sleeps, with a whole batch waiting. Everything
//! else goes to the [`Pool`]: threads on the cores that no shard is pinned to (on all cores when shards take
//! every one), more of them while handlers block, so that slow handlers overlap.

use super::local_call::Call;
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

/// Least time between two attempts to start a thread that a caller of [`Pool::push`] makes after one has failed.
const RETRY_AFTER_US: u64 = 50_000;

/// State shared by the pool's threads.
struct PoolShared<W> {
    receiver: Receiver<W>,
    factory: RunnerFactory<W>,
    threads: AtomicUsize,
    idle: AtomicUsize,
    named: AtomicUsize,
    threads_min: usize,
    threads_max: usize,
    /// How long an idle thread beyond the smallest number stays.
    idle_exit: Duration,
    cores: Vec<core_affinity::CoreId>,
    epoch: Instant,
    /// When a thread could not be started in µs since `epoch`; 0: the last one could.
    failed_us: AtomicU64,
    /// Has no thread start.
    #[cfg(test)]
    is_refused: AtomicBool,
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
        Self::start_with(threads_min, threads_max, IDLE_EXIT, cores, factory)
    }

    fn start_with(
        threads_min: usize,
        threads_max: usize,
        idle_exit: Duration,
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
            idle_exit,
            cores,
            epoch: Instant::now(),
            failed_us: AtomicU64::new(0),
            #[cfg(test)]
            is_refused: AtomicBool::new(false),
        });
        for _ in 0..threads_min {
            shared.start_thread()?;
        }
        Ok(Self { sender, shared })
    }

    /// Queues a call. Shards bound what they have in flight, and so this queue.
    pub fn push(&self, call: W) {
        // The receiver lives in `shared`, so the channel can't be disconnected.
        let _ = self.sender.send(call);
        if self.shared.failed_us.load(Ordering::Relaxed) != 0 {
            self.shared.retry();
        }
    }

    /// Whether the next call that is pushed waits for the end of another one: there are as many calls as there may be threads. A hint:
    /// it orders nothing.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        let shared = &self.shared;
        let running = shared.threads.load(Ordering::Relaxed).saturating_sub(shared.idle.load(Ordering::Relaxed));
        let cannot_grow = shared.failed_us.load(Ordering::Relaxed) != 0;
        let most = if cannot_grow { shared.threads.load(Ordering::Relaxed) } else { shared.threads_max };
        running + shared.receiver.len() >= most
    }

    /// Threads that exist now.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.shared.threads.load(Ordering::Relaxed)
    }
}

impl<W: Send + 'static> PoolShared<W> {
    fn start_thread(self: &Arc<Self>) -> std::io::Result<()> {
        #[cfg(test)]
        if self.is_refused.load(Ordering::SeqCst) {
            return Err(std::io::ErrorKind::WouldBlock.into());
        }
        let number = self.named.fetch_add(1, Ordering::Relaxed);
        self.threads.fetch_add(1, Ordering::SeqCst);
        let inner = Arc::clone(self);
        let spawned = module_thread(format!("pool-{number}")).spawn(move || pool_main(&inner));
        if spawned.is_err() {
            self.threads.fetch_sub(1, Ordering::SeqCst);
        }
        spawned.map(|_| ())
    }

    /// Counts one thread less, if there are more than there must be.
    fn count_one_less(&self) -> bool {
        let less = |threads: usize| (threads > self.threads_min).then(|| threads - 1);
        self.threads.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok()
    }

    /// Starts a thread if there may be one more. If that fails, the next calls that are pushed lead to other attempts.
    fn grow(self: &Arc<Self>) {
        if self.threads.load(Ordering::SeqCst) >= self.threads_max {
            return;
        }
        let failed_us = match self.start_thread() {
            Ok(()) => 0,
            Err(error) => {
                tracing::warn!(%error, "the executor pool can't grow");
                now_us(self.epoch)
            }
        };
        self.failed_us.store(failed_us, Ordering::Relaxed);
    }

    /// The last idle thread could not start a successor: unless one is idle again, the call that has been pushed would wait for
    /// the end of one that may never end.
    #[cold]
    fn retry(self: &Arc<Self>) {
        let (failed_us, now_us) = (self.failed_us.load(Ordering::Relaxed), now_us(self.epoch));
        let is_due = failed_us != 0 && now_us.saturating_sub(failed_us) >= RETRY_AFTER_US;
        // One of those who push at the same time.
        if !is_due || self.failed_us.compare_exchange(failed_us, now_us, Ordering::Relaxed, Ordering::Relaxed).is_err()
        {
            return;
        }
        if self.idle.load(Ordering::SeqCst) > 0 { self.failed_us.store(0, Ordering::Relaxed) } else { self.grow() }
    }
}

/// At any time, one thread of a pool that is not at its largest is idle, or about to be: calls may block for any time, and the next
/// call must not wait for their end. So the last idle thread starts a successor before it takes a call, and does not leave.
fn pool_main<W: Send + 'static>(shared: &Arc<PoolShared<W>>) {
    super::sched::background_thread(&shared.cores);
    let mut runner = (shared.factory)();
    prepare_thread();
    loop {
        shared.idle.fetch_add(1, Ordering::SeqCst);
        let received = shared.receiver.recv_timeout(shared.idle_exit);
        // Before this thread stops being idle: one that finds itself the last idle one must see that there may be one more.
        let leaves = matches!(received, Err(RecvTimeoutError::Timeout)) && shared.count_one_less();
        let idle_left = shared.idle.fetch_sub(1, Ordering::SeqCst) - 1;
        match received {
            Ok(call) => {
                if idle_left == 0 {
                    shared.grow();
                }
                runner.run(call);
            }
            Err(RecvTimeoutError::Timeout) if leaves && idle_left > 0 => return,
            Err(RecvTimeoutError::Timeout) if leaves => drop(shared.threads.fetch_add(1, Ordering::SeqCst)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(60);
    const IDLE: Duration = Duration::from_millis(5);

    /// A call tells that it runs, and ends when it is told to.
    type Held = (Sender<()>, Receiver<()>);

    struct Holder;

    impl Runner<Held> for Holder {
        fn run(&mut self, (runs, end): Held) {
            let _ = runs.send(());
            let _ = end.recv();
        }
    }

    /// A pool, what pushes a call that stays, and what waits until a call runs.
    struct Stage {
        pool: Pool<Held>,
        runs: (Sender<()>, Receiver<()>),
        end: (Sender<()>, Receiver<()>),
    }

    impl Stage {
        fn new(threads_max: usize) -> Self {
            let factory: RunnerFactory<Held> = Arc::new(|| Box::new(Holder));
            let pool = Pool::start_with(1, threads_max, IDLE, Vec::new(), factory).unwrap();
            Self { pool, runs: channel::unbounded(), end: channel::unbounded() }
        }

        fn hold(&self) {
            self.pool.push((self.runs.0.clone(), self.end.1.clone()));
        }

        fn until_running(&self) {
            self.runs.1.recv_timeout(WAIT).expect("a thread takes the call");
        }
    }

    #[test]
    fn the_last_idle_thread_stays_while_all_others_are_in_calls_that_do_not_end() {
        let stage = Stage::new(16);
        for held in 1..=8 {
            stage.hold();
            stage.until_running();
            // Longer than an idle thread stays where there is another one.
            thread::sleep(4 * IDLE);
            assert!(stage.pool.threads() > held);
        }
        drop(stage.end.0);
        let deadline = Instant::now() + WAIT;
        while stage.pool.threads() > 1 {
            assert!(Instant::now() < deadline, "{} threads stay for nothing", stage.pool.threads());
            thread::sleep(IDLE);
        }
    }

    #[test]
    fn a_thread_that_could_not_be_started_is_started_for_a_later_call() {
        let stage = Stage::new(16);
        stage.pool.shared.is_refused.store(true, Ordering::SeqCst);
        stage.hold();
        stage.until_running();
        stage.hold();
        assert_eq!(stage.pool.threads(), 1);
        stage.pool.shared.is_refused.store(false, Ordering::SeqCst);
        let deadline = Instant::now() + WAIT;
        while stage.pool.threads() == 1 {
            assert!(Instant::now() < deadline, "no call that is pushed leads to another attempt");
            stage.hold();
            thread::sleep(IDLE);
        }
        stage.until_running();
        drop(stage.end.0);
    }

    #[test]
    fn no_pool_grows_beyond_its_largest_number() {
        let stage = Stage::new(3);
        for _ in 0..3 {
            stage.hold();
            stage.until_running();
        }
        assert!(stage.pool.is_busy());
        stage.hold();
        assert!(stage.runs.1.recv_timeout(4 * IDLE).is_err() && stage.pool.threads() == 3);
        stage.end.0.send(()).unwrap();
        stage.until_running();
        drop(stage.end.0);
    }
}
