//! Tasks of one thread, and a main future that runs after them.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, RawWaker, RawWakerVTable, Waker};

thread_local! {
    /// The executor of this thread, while its shard runs.
    static EXECUTOR: RefCell<Option<Rc<Executor>>> = const { RefCell::new(None) };
}

/// Calls `f` with the executor of this thread, if one runs here.
fn with_executor(f: impl FnOnce(&Executor)) {
    // The thread may be ending.
    let _ = EXECUTOR.try_with(|executor| executor.borrow().as_deref().map(f));
}

/// Adds a task to this thread; it runs in the next round.
pub(super) fn spawn(task: impl Future<Output = ()> + 'static) {
    with_executor(|executor| executor.add(Box::pin(task)));
}

/// Names a task: its index, and a generation because indices are reused. A waker of an ended task therefore has no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TaskId(u64);

/// The main future, which is no task.
pub(super) const MAIN: TaskId = TaskId(u64::MAX);

// A waker carries the id in the place of a pointer.
const _: () = assert!(usize::BITS == 64);

impl TaskId {
    fn new(index: u32, generation: u32) -> Self {
        Self(u64::from(generation) << 32 | u64::from(index))
    }

    fn index(self) -> usize {
        (self.0 & u64::from(u32::MAX)) as usize
    }

    fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Wakes the task. A waker counts no references: the task may have ended, and the thread's executor too.
    fn waker(self) -> Waker {
        const TABLE: RawWakerVTable = RawWakerVTable::new(|id| RawWaker::new(id, &TABLE), wake, wake, |_| {});
        fn wake(id: *const ()) {
            with_executor(|executor| executor.wake(TaskId(id.addr() as u64)));
        }
        // SAFETY: the data is a number that no function of the table uses as a pointer. The functions are safe on any thread:
        // a wake reaches the executor of the thread that wakes.
        unsafe { Waker::from_raw(RawWaker::new(std::ptr::without_provenance(self.0 as usize), &TABLE)) }
    }
}

/// The waker of the main future.
pub(super) fn main_waker() -> Waker {
    MAIN.waker()
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// An entry in the table of tasks.
struct Place {
    /// `None` while the task runs, and when the place is free.
    task: Option<Task>,
    generation: u32,
    is_queued: bool,
}

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Executor {
    places: RefCell<Vec<Place>>,
    free: RefCell<Vec<u32>>,
    /// Tasks that were woken, oldest first.
    woken: RefCell<VecDeque<TaskId>>,
    is_main_woken: Cell<bool>,
}

impl Executor {
    /// Makes a new executor the one of this thread, until [`Executor::end`].
    pub(super) fn start() -> Rc<Self> {
        let executor = Rc::<Self>::default();
        EXECUTOR.set(Some(Rc::clone(&executor)));
        executor
    }

    /// Drops all tasks, and leaves the thread without an executor.
    pub(super) fn end(&self) {
        // No borrow is held while the tasks are dropped.
        let places = self.places.take();
        drop(places);
        EXECUTOR.set(None);
    }

    fn add(&self, task: Task) {
        let mut places = self.places.borrow_mut();
        let free = self.free.borrow_mut().pop();
        let index = free.unwrap_or_else(|| u32::try_from(places.len()).unwrap_or(u32::MAX));
        if index as usize == places.len() {
            places.push(Place { task: None, generation: 0, is_queued: false });
        }
        let Some(place) = places.get_mut(index as usize) else { return };
        (place.task, place.is_queued) = (Some(task), true);
        self.woken.borrow_mut().push_back(TaskId::new(index, place.generation));
    }

    /// Makes a task, or [`MAIN`], run in the next round. Does nothing if the task has ended.
    pub(super) fn wake(&self, id: TaskId) {
        if id == MAIN {
            return self.is_main_woken.set(true);
        }
        let mut places = self.places.borrow_mut();
        if let Some(place) = places.get_mut(id.index()).filter(|place| place.generation == id.generation())
            && !std::mem::replace(&mut place.is_queued, true)
        {
            self.woken.borrow_mut().push_back(id);
        }
    }

    /// Runs each task that was woken before this call, once.
    pub(super) fn run_ready(&self) {
        let count = self.woken.borrow().len();
        for _ in 0..count {
            let Some(id) = self.woken.borrow_mut().pop_front() else { return };
            self.run(id);
        }
    }

    fn run(&self, id: TaskId) {
        let task = self.places.borrow_mut().get_mut(id.index()).and_then(|place| {
            place.is_queued = false;
            place.task.take()
        });
        let Some(mut task) = task else { return };
        // No borrow is held while the task runs: it wakes and adds others.
        let is_over = task.as_mut().poll(&mut Context::from_waker(&id.waker())).is_ready();
        if !is_over {
            if let Some(place) = self.places.borrow_mut().get_mut(id.index()) {
                place.task = Some(task);
            }
            return;
        }
        drop(task);
        if let Some(place) = self.places.borrow_mut().get_mut(id.index()) {
            // The largest generation would make the last id that of the main future.
            place.generation = (place.generation + 1) & (u32::MAX >> 1);
            self.free.borrow_mut().push(id.index() as u32);
        }
    }

    /// Whether the main future was woken since the last call.
    pub(super) fn take_main(&self) -> bool {
        self.is_main_woken.take()
    }

    /// Whether neither a task nor the main future is to run.
    pub(super) fn is_idle(&self) -> bool {
        !self.is_main_woken.get() && self.woken.borrow().is_empty()
    }
}
