//! The code that all drivers share, over a reactor library ([`Runtime`]).
//!
//! One task per connection waits until bytes can be received. The task then takes the bytes with a direct `recv(2)` into
//! the shard's one buffer, so a waiting connection holds no buffer. Sending is a direct `send(2)` once a batch (see
//! [`Connections::flush`]).
//!
//! The end of a batch: each event wakes the main future, and the main future ends the batch. The actions of the end of a batch,
//! `drained` among them, wake no task. A runtime must poll the main future after every task that was ready before has run, and
//! before the runtime waits for the kernel.

mod accept;
mod connection;
#[cfg(feature = "glommio")]
mod glommio;
mod monoio;
mod native;
#[cfg(feature = "glommio")]
mod poller;

use super::conn_id::ConnId;
use super::connections::{Connections, Flushed, Incoming};
use super::listener::Listener;
use super::listener::Peer;
use super::tls::{HEADROOM, Refused, Session};
use super::turn_scheduler::{BULK_RECEIVES_A_TURN, HANDSHAKES_A_TURN, TurnScheduler};
use super::waker::Waker;
use super::{Application, ReactorKind, TICK, sys};
use accept::{accept, accept_passed};
use socket2::Socket;
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker as TaskWaker};
use std::time::{Duration, Instant};

/// Size of a shard's receive buffer, and so the most bytes of one `data` event.
const BUFFER_BYTES: usize = 64 * 1024;

/// Limit, in bytes, on discarded input of a connection being closed; beyond it the driver stops receiving.
const DISCARDED_BYTES_MAX: usize = 1024 * 1024;

/// Pause of the whole shard after a failed wait for its timer.
const TIMER_PAUSE: Duration = Duration::from_millis(10);

/// Limit on consecutive batch ends without a look at the kernel's events.
const ROUNDS_MAX: u32 = 16;
/// Time limit on these rounds, except for the last one: copying large bodies delays every connection that waits for an event.
const ROUNDS_TIME: Duration = Duration::from_millis(1);

/// The services of a reactor library for a driver: tasks on the shard's own thread, and waits for descriptors. A runtime must
/// allow several waits for one descriptor at once.
trait Runtime: Sized + 'static {
    /// A listener that only this server has.
    type Listener: 'static;
    /// A connected socket.
    type Socket: AsRawFd + 'static;
    /// Any descriptor that can be polled. The runtime never reads or writes it.
    type Watched: 'static;

    /// Whether the runtime's waits need non-blocking descriptors.
    const NONBLOCKING: bool;

    /// Whether [`Runtime::readable`] ends for new bytes only: then it must not be called after a receive that has filled its
    /// buffer.
    const ONLY_NEWS: bool;

    /// Runs `task` on this thread, beside the others.
    fn spawn(task: impl Future<Output = ()> + 'static);

    /// Takes a listener, of TCP or of a Unix socket.
    fn listener(socket: OwnedFd, is_tcp: bool) -> io::Result<Self::Listener>;

    /// Waits for the next connection. Sets TCP_NODELAY: an answer is sent in one send, and waiting for more bytes would only
    /// delay it.
    async fn accept(listener: &Self::Listener) -> io::Result<(Self::Socket, Peer)>;

    /// Takes a connected socket, of TCP or of a Unix socket.
    fn socket(socket: OwnedFd, is_tcp: bool) -> io::Result<Self::Socket>;

    /// Waits until bytes, the peer's FIN or an error can be received.
    async fn readable(socket: &Self::Socket) -> io::Result<()>;

    /// Waits until bytes can be sent, or sending has become impossible.
    async fn writable(socket: &Self::Socket) -> io::Result<()>;

    /// Takes a descriptor to be polled.
    fn watched(descriptor: OwnedFd) -> io::Result<Self::Watched>;

    /// Waits until the descriptor is readable.
    async fn shown(watched: &Self::Watched) -> io::Result<()>;
}

struct Core<A, R: Runtime> {
    app: A,
    connections: Connections,
    waker: Arc<Waker>,
    /// Wakes the main future; set when it is first polled.
    main: Option<TaskWaker>,
    /// Tasks whose operation has failed and that try again at the next tick.
    until_tick: Vec<TaskWaker>,
    handshakes: TurnScheduler,
    bulk_receives: TurnScheduler,
    /// The socket of each connection, at its [`ConnId::index`].
    sockets: Vec<Option<Rc<R::Socket>>>,
    /// The receive buffer; input is placed after [`HEADROOM`] bytes.
    buffer: Box<[u8]>,
}

/// The result of a receive.
enum Received {
    /// `is_full`: the receive has filled the buffer, so more may be waiting.
    Delivered { is_full: bool },
    /// This many bytes were discarded: the connection is being closed. `is_full` as above.
    Discarded { count: usize, is_full: bool },
    /// The peer has sent FIN, and the application has been told.
    End,
}

type SharedCore<A, R> = Rc<RefCell<Core<A, R>>>;

impl<A: Application, R: Runtime> Core<A, R> {
    /// Records that an event has been delivered: the batch must be ended before the reactor sleeps.
    fn delivered(&self) {
        if let Some(main) = &self.main {
            main.wake_by_ref();
        }
    }

    /// Delivers an event to the application, and makes sure that the batch is ended.
    fn event<T>(&mut self, conn: Option<ConnId>, event: impl FnOnce(&mut A, &mut Connections) -> T) -> Option<T> {
        self.delivered();
        self.call(conn, event)
    }

    /// Begins the next turn of the step schedulers. Returns whether a task waits for a step.
    fn begin_turn(&mut self) -> bool {
        self.connections.begin_turn();
        let waiting = [self.handshakes.end_turn(), self.bulk_receives.end_turn()];
        waiting.contains(&true)
    }

    /// Calls the application. A panic ends the connection of the event, not the shard.
    fn call<T>(&mut self, conn: Option<ConnId>, event: impl FnOnce(&mut A, &mut Connections) -> T) -> Option<T> {
        let (app, connections) = (&mut self.app, &mut self.connections);
        let result = catch_unwind(AssertUnwindSafe(|| event(app, connections)));
        if result.is_err() {
            tracing::error!("a panic in the shard was caught; its connection is closed. Please report this as a bug");
            if let Some(conn) = conn {
                self.connections.abort(conn);
            }
        }
        result.ok()
    }

    /// Receives bytes from `fd` and delivers them.
    fn take(&mut self, fd: RawFd, conn: ConnId) -> io::Result<Received> {
        // The buffer is moved out of `self` during the call; an empty box allocates nothing.
        let mut buffer = std::mem::take(&mut self.buffer);
        let received = sys::receive(fd, buffer.get_mut(HEADROOM..).unwrap_or_default());
        let result = match received {
            Ok(0) => {
                // A peer that has sent FIN still reads: bytes queued on a connection being closed must be sent first.
                if !self.connections.is_closing(conn) {
                    self.event(Some(conn), |app, connections| app.eof(connections, conn));
                }
                Ok(Received::End)
            }
            Ok(count) => match self.connections.incoming(conn) {
                Incoming::Discarded => Ok(Received::Discarded { count, is_full: count == BUFFER_BYTES }),
                Incoming::Plain => {
                    let bytes = buffer.get(HEADROOM..HEADROOM + count).unwrap_or_default();
                    self.event(Some(conn), |app, connections| app.data(connections, conn, bytes));
                    Ok(Received::Delivered { is_full: count == BUFFER_BYTES })
                }
                Incoming::Sealed(session) => {
                    self.take_sealed(conn, session, &mut buffer, count);
                    Ok(Received::Delivered { is_full: count == BUFFER_BYTES })
                }
            },
            Err(error) => Err(error),
        };
        self.buffer = buffer;
        result
    }

    /// Delivers the plaintext of the bytes received on a TLS connection.
    fn take_sealed(&mut self, conn: ConnId, mut session: Box<Session>, buffer: &mut [u8], count: usize) {
        let mut made = Vec::new();
        let deliver = |bytes: &[u8], name: Option<&Arc<[u8]>>| {
            if !self.connections.is_closing(conn) {
                if let Some(name) = name {
                    self.event(Some(conn), |app, _| app.identified(conn, name));
                }
                self.event(Some(conn), |app, connections| app.data(connections, conn, bytes));
            }
        };
        let received = catch_unwind(AssertUnwindSafe(|| session.receive(buffer, count, &mut made, deliver)));
        let received = received.unwrap_or_else(|_| {
            tracing::error!("a panic in TLS was caught; its connection is closed. Please report this as a bug");
            Err(Refused)
        });
        // The session may have bytes to send although there is no plaintext.
        self.delivered();
        if received.is_err() {
            return self.connections.refuse(conn, &made);
        }
        let ended = session.has_ended();
        self.connections.put_session(conn, session, &made);
        if ended && !self.connections.is_closing(conn) {
            self.event(Some(conn), |app, connections| app.eof(connections, conn));
        }
    }

    /// The socket of an open connection.
    fn socket(&self, conn: ConnId) -> Option<Rc<R::Socket>> {
        self.connections.knows(conn).then(|| self.sockets.get(conn.index())?.clone())?
    }

    /// Sets the socket of `conn`, or removes it.
    fn set_socket(&mut self, conn: ConnId, socket: Option<Rc<R::Socket>>) {
        if self.sockets.len() <= conn.index() {
            self.sockets.resize(conn.index() + 1, None);
        }
        if let Some(place) = self.sockets.get_mut(conn.index()) {
            *place = socket;
        }
    }

    /// Asks the application a question; the answer is `otherwise` if the application panics.
    fn ask(&self, otherwise: bool, question: impl FnOnce(&A) -> bool) -> bool {
        catch_unwind(AssertUnwindSafe(|| question(&self.app))).unwrap_or_else(|_| {
            tracing::error!("a panic in the shard was caught. Please report this as a bug");
            otherwise
        })
    }

    fn accepting(&self) -> bool {
        self.ask(true, A::accepting)
    }

    fn has_work(&self) -> bool {
        self.connections.has_warmed() || self.ask(false, A::has_work)
    }

    fn stopped(&self) -> bool {
        self.ask(false, A::stopped)
    }
}

/// Runs `app` until the application reports that it has stopped.
pub(super) fn run<A: Application + 'static>(
    kind: ReactorKind,
    app: A,
    listeners: Vec<Listener>,
    waker: &Arc<Waker>,
) -> io::Result<()> {
    run_with_timer(kind, app, listeners, waker, sys::timer(TICK)?)
}

pub(super) fn run_with_timer<A: Application + 'static>(
    kind: ReactorKind,
    app: A,
    listeners: Vec<Listener>,
    waker: &Arc<Waker>,
    timer: OwnedFd,
) -> io::Result<()> {
    match kind {
        ReactorKind::Monoio => monoio::run_uring(core(app, waker), listeners, timer),
        ReactorKind::MonoioEpoll => monoio::run_epoll(core(app, waker), listeners, timer),
        ReactorKind::Native => native::run(core(app, waker), listeners, timer),
        #[cfg(feature = "glommio")]
        ReactorKind::Glommio => glommio::run(core(app, waker), listeners, timer),
    }
}

fn core<A: Application, R: Runtime>(app: A, waker: &Arc<Waker>) -> SharedCore<A, R> {
    Rc::new(RefCell::new(Core {
        app,
        connections: Connections::woken_by(waker),
        waker: Arc::clone(waker),
        main: None,
        until_tick: Vec::new(),
        handshakes: TurnScheduler::new(HANDSHAKES_A_TURN),
        bulk_receives: TurnScheduler::new(BULK_RECEIVES_A_TURN),
        sockets: Vec::new(),
        buffer: vec![0; HEADROOM + BUFFER_BYTES].into_boxed_slice(),
    }))
}

/// Sets up and drops as many rings as [`run`] will use in as many threads.
pub(super) fn probe(kind: ReactorKind, rings: usize) -> io::Result<()> {
    match kind {
        ReactorKind::Monoio | ReactorKind::MonoioEpoll => monoio::probe(rings),
        ReactorKind::Native => native::probe(rings),
        #[cfg(feature = "glommio")]
        ReactorKind::Glommio => glommio::probe(rings),
    }
}

async fn serve<A: Application + 'static, R: Runtime>(
    core: SharedCore<A, R>,
    listeners: Vec<Listener>,
    timer: OwnedFd,
) -> io::Result<()> {
    poll_fn(|cx| {
        core.borrow_mut().main = Some(cx.waker().clone());
        Poll::Ready(())
    })
    .await;
    let mut descriptors = Vec::new();
    for (number, listener) in listeners.into_iter().enumerate() {
        let (socket, is_tcp, acceptor) = match listener {
            Listener::Tcp(listener) => (Socket::from(listener), true, None),
            Listener::Tls(listener, acceptor) => (Socket::from(listener), true, Some(acceptor)),
            Listener::Unix(listener, _) => (Socket::from(listener), false, None),
            // Not added to `descriptors`: other processes may continue to listen on this socket.
            Listener::Passed(socket, acceptor) => {
                socket.set_nonblocking(true)?;
                let shown = R::watched(socket.try_clone()?.into())?;
                R::spawn(accept_passed(Rc::clone(&core), socket, shown, acceptor, number));
                continue;
            }
        };
        socket.set_nonblocking(R::NONBLOCKING)?;
        descriptors.push(socket.as_raw_fd());
        let listener = R::listener(socket.into(), is_tcp)?;
        R::spawn(accept(Rc::clone(&core), listener, acceptor, number));
    }
    let wake = R::watched(core.borrow().waker.descriptor()?)?;
    R::spawn(woken(Rc::clone(&core), wake));
    R::spawn(ticks(Rc::clone(&core), timer));
    let mut accepting = true;
    poll_fn(|_| {
        let stopped = end_batch(&core);
        if accepting && !core.borrow().accepting() {
            accepting = false;
            // The shutdown ends the pending accept with an error; cancelling the accept would leak a connection accepted
            // meanwhile.
            for &descriptor in &descriptors {
                sys::shutdown(descriptor, std::net::Shutdown::Both);
            }
        }
        if !stopped {
            return Poll::Pending;
        }
        core.borrow_mut().call(None, |app, _| app.finish());
        Poll::Ready(Ok(()))
    })
    .await
}

/// Ends a batch: handles messages from other threads, then makes one send per connection. Returns whether the application has
/// stopped.
fn end_batch<A: Application + 'static, R: Runtime>(core: &SharedCore<A, R>) -> bool {
    core.borrow().waker.awake();
    let in_line = core.borrow_mut().begin_turn();
    let mut begun = None;
    for _ in 0..ROUNDS_MAX {
        core.borrow_mut().call(None, super::Application::batch_end);
        let has_sent = flush(core);
        if core.borrow().stopped() {
            return true;
        }
        if has_sent || core.borrow().has_work() {
            if begun.get_or_insert_with(Instant::now).elapsed() > ROUNDS_TIME {
                break;
            }
            continue;
        }
        let state = core.borrow();
        state.waker.prepare_sleep();
        if !state.has_work() {
            if in_line || state.connections.has_spent() {
                // The wake-up must come from the kernel, as below, so that the events of other connections arrive with it.
                state.waker.wake();
            }
            return false;
        }
        state.waker.awake();
    }
    // More work is left, but the sockets must get their turn. A main future that wakes itself is polled again before the
    // reactor looks at the kernel's events, so the wake-up must come from the kernel.
    let state = core.borrow();
    state.waker.prepare_sleep();
    state.waker.wake();
    false
}

/// Sends queued bytes. Returns whether `drained` was called: the application may have queued more. `drained` must not wake the
/// main future here, because a main future that wakes itself is polled again before the reactor looks at the kernel's events.
/// One connection that takes all bytes at once would then occupy the shard.
fn flush<A: Application + 'static, R: Runtime>(core: &SharedCore<A, R>) -> bool {
    let mut state = core.borrow_mut();
    let dirty = state.connections.take_dirty();
    for &conn in &dirty {
        if state.connections.flush(conn) == Flushed::Blocked {
            R::spawn(until_writable(Rc::clone(core), conn));
        }
    }
    state.connections.give_dirty(dirty);
    let sent = state.connections.take_sent();
    for &conn in &sent {
        if !state.connections.is_closing(conn) {
            state.call(Some(conn), |app, connections| app.drained(connections, conn));
        }
    }
    !sent.is_empty()
}

/// Waits for room in a socket and continues sending.
async fn until_writable<A: Application + 'static, R: Runtime>(core: SharedCore<A, R>, conn: ConnId) {
    // Waits on the same descriptor as the connection's receiving task. A second descriptor for each slow reader would count
    // against the limit of open files, from which the limit of connections is derived.
    let Some(socket) = core.borrow().socket(conn) else { return };
    loop {
        if R::writable(&socket).await.is_err() {
            return core.borrow_mut().connections.abort(conn);
        }
        let mut state = core.borrow_mut();
        match state.connections.writable(conn) {
            Flushed::Blocked => {}
            Flushed::All => {
                if !state.connections.is_closing(conn) {
                    state.event(Some(conn), |app, connections| app.drained(connections, conn));
                }
                return;
            }
            Flushed::Waits | Flushed::Spent | Flushed::Failed(_) => return,
        }
    }
}

/// Reports a repeated failure once, until the operation succeeds again.
struct Failing {
    what: &'static str,
    reported: bool,
}

impl Failing {
    fn new(what: &'static str) -> Self {
        Self { what, reported: false }
    }

    fn report(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.reported, true) {
            tracing::error!("{} failed and is tried again until it succeeds: {error}", self.what);
        }
    }

    fn over(&mut self) {
        self.reported = false;
    }
}

async fn woken<A: Application + 'static, R: Runtime>(core: SharedCore<A, R>, wake: R::Watched) {
    let mut failing = Failing::new("waiting for messages");
    loop {
        match R::shown(&wake).await {
            Ok(()) => failing.over(),
            Err(error) => {
                failing.report(&error);
                until_tick(&core).await; // The tick ends a batch too, so messages are late but not lost.
            }
        }
        let mut state = core.borrow_mut();
        state.waker.clear();
        // Runs behind all tasks that this turn's events have woken: those tasks are already in the queue.
        state.handshakes.call();
        state.bulk_receives.call();
        state.delivered();
    }
}

async fn ticks<A: Application + 'static, R: Runtime>(core: SharedCore<A, R>, timer: OwnedFd) {
    let Ok(shown) = timer.try_clone().and_then(R::watched) else { return };
    let mut failing = Failing::new("waiting for the timer");
    loop {
        match R::shown(&shown).await {
            Ok(()) => failing.over(),
            Err(error) => {
                failing.report(&error);
                // The shard has no other clock to wait for. A pause of all its connections is better than a spinning shard.
                std::thread::sleep(TIMER_PAUSE);
                next_turn().await;
            }
        }
        sys::counter_clear(&timer);
        let now = Instant::now();
        let mut state = core.borrow_mut();
        state.connections.end_lingering(now);
        state.connections.end_handshakes(now);
        state.until_tick.drain(..).for_each(TaskWaker::wake);
        state.event(None, |app, connections| app.tick(connections, now));
    }
}

/// Waits for the next tick: a pause that needs no descriptor, because none may be left.
async fn until_tick<A: Application + 'static, R: Runtime>(core: &SharedCore<A, R>) {
    let mut waiting = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut waiting, true) {
            return Poll::Ready(());
        }
        core.borrow_mut().until_tick.push(cx.waker().clone());
        Poll::Pending
    })
    .await;
}

/// Yields until every other ready task has run.
async fn next_turn() {
    let mut yielded = false;
    poll_fn(|cx: &mut Context<'_>| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
