//! The threads that run module code.
//!
//! Each shard has a [`Companion`]: one executor on the shard's own core, for handlers known to be short. Waking it needs no
//! inter-processor interrupt, and it runs once the shard sleeps, when a whole batch waits. All other calls go to the
//! [`Pool`]: threads on the cores to which no shard is pinned, or on all cores if shards occupy every one. The pool grows
//! while handlers block, so that slow handlers run at the same time.

use super::local_call::Call;
use crate::threads::module_thread;
use crossbeam::channel::{self, Receiver, RecvTimeoutError, Sender};
use crossbeam::queue::SegQueue;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

/// Runs tasks on the current thread. Each executor thread creates its runner by its factory.
pub trait Runner<W = Call> {
    /// Runs `work` and delivers its outcome. Must not panic.
    fn run(&mut self, work: W);

    /// Like [`Runner::run`]. Returns `work` if its memory can be used for the next task.
    fn run_and_return(&mut self, work: W) -> Option<W> {
        self.run(work);
        None
    }
}

/// Creates the [`Runner`] of a new executor thread, on that thread.
pub type RunnerFactory<W = Call> = Arc<dyn Fn() -> Box<dyn Runner<W>> + Send + Sync>;

/// A call is not short once it has run for this time, in µs: the calls behind it then move to the pool.
const STUCK_AFTER_US: u64 = 2_000;

/// The time after which an idle pool thread beyond the smallest number ends.
const IDLE_EXIT: Duration = Duration::from_secs(10);

fn now_us(epoch: Instant) -> u64 {
    // Never 0, which means "idle".
    u64::try_from(epoch.elapsed().as_micros()).unwrap_or(u64::MAX).max(1)
}

/// State shared between a companion's thread and its shard.
struct CompanionShared {
    queue: SegQueue<Call>,
    stop: AtomicBool,
    /// Start of the running call in µs since `epoch`; 0: idle. Only the companion writes it.
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
    /// Starts the companion of shard number `shard`, pinned to `core`, if there is one.
    ///
    /// # Errors
    /// The thread can't be created.
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

    /// Wakes the thread if a call was pushed since the last wake: once a batch, with at most one `futex(2)`.
    pub fn wake(&mut self) {
        if std::mem::take(&mut self.pushed) {
            self.thread.unpark();
        }
    }

    /// Whether the running call has taken so long that no other call should wait behind it.
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
    /// Ends the thread. The running call may finish; waiting calls are dropped.
    pub fn stop(&mut self) {
        while self.reclaim().is_some() {}
        self.shared.stop.store(true, Ordering::Release);
        self.thread.unpark();
        // A handler that never returns would delay the exit, so its thread is left to the end of the process.
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

/// Creates all thread-local state of this crate that calls of modules use. A thread that runs such calls must do this
/// before it takes the first call. The reason: the first use of a thread-local with a destructor waits for the dynamic
/// loader's lock (`__cxa_thread_atexit_impl`), and a module's constructor may hold that lock for ever.
/// `tests/layers.rs` fails when a file gets a `thread_local!` that is not created here.
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
        // A push after the last pop has left an unpark token, so this call then returns at once.
        thread::park();
    }
}

/// After a failed start of a thread, the shortest time before a caller of [`Pool::push`] tries again, in µs.
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
    /// The time after which an idle thread beyond the smallest number ends.
    idle_exit: Duration,
    cores: Vec<core_affinity::CoreId>,
    epoch: Instant,
    /// The time of the last failed start of a thread, in µs since `epoch`; 0: no start has failed since the last success.
    failed_us: AtomicU64,
    /// Makes every start of a thread fail.
    #[cfg(test)]
    is_refused: AtomicBool,
}

/// The executor threads shared by all shards.
pub struct Pool<W = Call> {
    sender: Sender<W>,
    shared: Arc<PoolShared<W>>,
}

impl<W: Send + 'static> Pool<W> {
    /// Starts a pool of `threads_min` threads, which grows up to `threads_max`. The threads may run on `cores`; empty: on
    /// all.
    ///
    /// # Errors
    /// No thread can be created.
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

    /// Queues a call. The queue is bounded because shards limit their unfinished calls.
    pub fn push(&self, call: W) {
        // `shared` has the receiver, so the channel can't be disconnected.
        let _ = self.sender.send(call);
        if self.shared.failed_us.load(Ordering::Relaxed) != 0 {
            self.shared.retry();
        }
    }

    /// Whether the next pushed call must wait for the end of another call: there are as many calls as the limit on threads.
    /// A hint, which orders no other access.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        let shared = &self.shared;
        let running = shared.threads.load(Ordering::Relaxed).saturating_sub(shared.idle.load(Ordering::Relaxed));
        let cannot_grow = shared.failed_us.load(Ordering::Relaxed) != 0;
        let most = if cannot_grow { shared.threads.load(Ordering::Relaxed) } else { shared.threads_max };
        running + shared.receiver.len() >= most
    }

    /// The number of existing threads.
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

    /// Decrements the count of threads, if it exceeds the smallest number.
    fn count_one_less(&self) -> bool {
        let less = |threads: usize| (threads > self.threads_min).then(|| threads - 1);
        self.threads.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok()
    }

    /// Starts a thread, within the limit. If that fails, later pushes try again.
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

    /// After the last idle thread has failed to start a successor: tries again, unless a thread is idle. Otherwise the
    /// pushed call would wait for the end of another call, which may never come.
    #[cold]
    fn retry(self: &Arc<Self>) {
        let (failed_us, now_us) = (self.failed_us.load(Ordering::Relaxed), now_us(self.epoch));
        let is_due = failed_us != 0 && now_us.saturating_sub(failed_us) >= RETRY_AFTER_US;
        // Only one of several simultaneous callers continues.
        if !is_due || self.failed_us.compare_exchange(failed_us, now_us, Ordering::Relaxed, Ordering::Relaxed).is_err()
        {
            return;
        }
        if self.idle.load(Ordering::SeqCst) > 0 { self.failed_us.store(0, Ordering::Relaxed) } else { self.grow() }
    }
}

/// A thread of the pool. Calls may block for any time, and the next call must not wait for their end. Therefore one
/// thread is idle, or about to be, at any time, unless the pool has reached its limit. The last idle thread starts a
/// successor before it takes a call, and does not end.
fn pool_main<W: Send + 'static>(shared: &Arc<PoolShared<W>>) {
    super::sched::background_thread(&shared.cores);
    let mut runner = (shared.factory)();
    prepare_thread();
    loop {
        shared.idle.fetch_add(1, Ordering::SeqCst);
        let received = shared.receiver.recv_timeout(shared.idle_exit);
        // The count must change before this thread stops being idle: a thread that finds itself the last idle one must see
        // that the pool may grow.
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

    /// A call reports its start, and ends on request.
    type Held = (Sender<()>, Receiver<()>);

    struct Holder;

    impl Runner<Held> for Holder {
        fn run(&mut self, (runs, end): Held) {
            let _ = runs.send(());
            let _ = end.recv();
        }
    }

    /// A pool, a function that pushes a call that stays, and a function that waits until a call runs.
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
            // Longer than the time after which a thread ends if another one is idle.
            thread::sleep(4 * IDLE);
            // For a moment, the last idle thread counts as one that leaves.
            let deadline = Instant::now() + WAIT;
            while stage.pool.threads() <= held {
                assert!(Instant::now() < deadline, "no thread is left for the next call");
                thread::sleep(IDLE);
            }
        }
        drop(stage.end.0);
        let deadline = Instant::now() + WAIT;
        while stage.pool.threads() > 1 {
            assert!(Instant::now() < deadline, "{} idle threads do not end", stage.pool.threads());
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
