//! The loop of `driver.rs` on the smallest runtime that has what cweb's driver asks of one: `tasks PORT`.
//!
//! Tasks on one thread, a main future that is polled after them, and one poll in the ring for all waits for a descriptor.

use floor::driver;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};
use uring::squeue::Flags;
use uring::{IoUring, cqueue, opcode, squeue, types};

const RING_ENTRIES: u32 = 1024;
/// The number of the main future, which is no task's.
const MAIN: usize = usize::MAX;
/// The completion of a poll that is removed.
const REMOVED: u64 = u64::MAX;

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// The poll of a descriptor, at the descriptor's index.
#[derive(Default)]
struct Watch {
    generation: u32,
    is_armed: bool,
    is_ready: bool,
    waiting: Option<Waker>,
}

struct Reactor {
    ring: RefCell<IoUring>,
    watches: RefCell<Vec<Watch>>,
    tasks: RefCell<Vec<Option<Task>>>,
    free: RefCell<Vec<usize>>,
    ready: RefCell<VecDeque<usize>>,
    is_main_ready: Cell<bool>,
}

thread_local! {
    static REACTOR: Reactor = Reactor {
        ring: RefCell::new(ring().expect("io_uring")),
        watches: RefCell::default(),
        tasks: RefCell::default(),
        free: RefCell::default(),
        ready: RefCell::default(),
        is_main_ready: Cell::new(true),
    };
}

fn ring() -> io::Result<IoUring> {
    let mut ring = IoUring::builder();
    ring.setup_single_issuer().setup_defer_taskrun().setup_cqsize(4 * RING_ENTRIES);
    let ring = ring.build(RING_ENTRIES)?;
    ring.submitter().register_ring_fd()?;
    Ok(ring)
}

/// A waker is the number of its task, so it has no count of references.
fn waker(task: usize) -> Waker {
    const TABLE: RawWakerVTable = RawWakerVTable::new(|data| RawWaker::new(data, &TABLE), wake, wake, |_| {});
    fn wake(data: *const ()) {
        REACTOR.with(|reactor| match data as usize {
            MAIN => reactor.is_main_ready.set(true),
            task => reactor.ready.borrow_mut().push_back(task),
        });
    }
    // SAFETY: the data is a number, and no function of the table uses it as a pointer. On another thread a wake reaches that
    // thread's own queue.
    unsafe { Waker::from_raw(RawWaker::new(task as *const (), &TABLE)) }
}

fn spawn(task: impl Future<Output = ()> + 'static) {
    REACTOR.with(|reactor| {
        let mut tasks = reactor.tasks.borrow_mut();
        let number = reactor.free.borrow_mut().pop().unwrap_or(tasks.len());
        if number == tasks.len() {
            tasks.push(None);
        }
        tasks[number] = Some(Box::pin(task));
        reactor.ready.borrow_mut().push_back(number);
    });
}

impl Reactor {
    fn queue(&self, entry: &squeue::Entry) {
        let mut ring = self.ring.borrow_mut();
        while ring.submission().is_full() {
            let _ = ring.submit();
        }
        // SAFETY: polls name no memory.
        unsafe { ring.submission().push(entry) }.expect("room in the submission queue");
    }

    fn poll_tasks(&self) {
        loop {
            let Some(number) = self.ready.borrow_mut().pop_front() else { return };
            // A task may be woken after its end.
            let Some(mut task) = self.tasks.borrow_mut()[number].take() else { continue };
            if task.as_mut().poll(&mut Context::from_waker(&waker(number))).is_pending() {
                self.tasks.borrow_mut()[number] = Some(task);
            } else {
                self.free.borrow_mut().push(number);
            }
        }
    }

    fn wait(&self) -> io::Result<()> {
        let mut ring = self.ring.borrow_mut();
        match ring.submit_and_wait(1) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        let mut watches = self.watches.borrow_mut();
        for entry in ring.completion() {
            let (fd, generation) = (entry.user_data() as u32 as usize, (entry.user_data() >> 32) as u32);
            let Some(watch) = watches.get_mut(fd).filter(|watch| watch.generation == generation) else { continue };
            watch.is_armed = cqueue::more(entry.flags());
            watch.is_ready = true;
            if let Some(waiting) = watch.waiting.take() {
                waiting.wake();
            }
        }
        Ok(())
    }

    /// Whether there are new bytes since the last time.
    fn is_ready(&self, fd: RawFd, cx: &Context<'_>) -> bool {
        let mut watches = self.watches.borrow_mut();
        if watches.len() <= fd as usize {
            watches.resize_with(fd as usize + 1, Watch::default);
        }
        let watch = &mut watches[fd as usize];
        if std::mem::take(&mut watch.is_ready) {
            return true;
        }
        if !std::mem::replace(&mut watch.is_armed, true) {
            let data = u64::from(watch.generation) << 32 | fd as u64;
            self.queue(&opcode::PollAdd::new(types::Fd(fd), libc::POLLIN as u32).multi(true).build().user_data(data));
        }
        watch.waiting = Some(cx.waker().clone());
        false
    }

    /// Ends the poll of a descriptor that is closed next.
    fn forget(&self, fd: RawFd) {
        let mut watches = self.watches.borrow_mut();
        let Some(watch) = watches.get_mut(fd as usize) else { return };
        if watch.is_armed {
            let data = u64::from(watch.generation) << 32 | fd as u64;
            let remove = opcode::PollRemove::new(data).build();
            self.queue(&remove.user_data(REMOVED).flags(Flags::SKIP_SUCCESS));
        }
        *watch = Watch { generation: watch.generation.wrapping_add(1) & 0x7fff_ffff, ..Watch::default() };
    }
}

struct Socket(TcpStream);

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // The ring holds the socket until the poll is removed; the peer should know at once.
        let _ = self.0.shutdown(std::net::Shutdown::Both);
        REACTOR.with(|reactor| reactor.forget(self.as_raw_fd()));
    }
}

async fn readable(socket: &impl AsRawFd) -> io::Result<()> {
    let fd = socket.as_raw_fd();
    poll_fn(|cx| REACTOR.with(|reactor| if reactor.is_ready(fd, cx) { Poll::Ready(Ok(())) } else { Poll::Pending }))
        .await
}

async fn accept(listener: TcpListener, shared: Rc<RefCell<driver::Shared>>) {
    while readable(&listener).await.is_ok() {
        while let Ok((stream, _)) = listener.accept() {
            let _ = stream.set_nodelay(true);
            spawn(driver::serve(Socket(stream), async |socket: &Socket| readable(socket).await, Rc::clone(&shared)));
        }
    }
}

fn main() -> io::Result<()> {
    let port = std::env::args().nth(1).expect("usage: tasks PORT");
    let listener = TcpListener::bind(format!("127.0.0.1:{port}"))?;
    listener.set_nonblocking(true)?;
    // The backlog of the standard library's listener is too short for 512 connections at once.
    // SAFETY: no memory is involved; `listener` owns the descriptor.
    unsafe { libc::listen(listener.as_raw_fd(), 1024) };
    let shared = Rc::default();
    spawn(accept(listener, Rc::clone(&shared)));
    let mut main = pin!(driver::send(shared));
    let main_waker = waker(MAIN);
    REACTOR.with(|reactor| {
        loop {
            reactor.poll_tasks();
            if reactor.is_main_ready.take() {
                let _ = main.as_mut().poll(&mut Context::from_waker(&main_waker));
                continue;
            }
            reactor.wait()?;
        }
    })
}
