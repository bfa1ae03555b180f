//! A runtime for this driver alone, over io_uring: tasks on one thread, and one poll in the ring for all waits for a descriptor.
//!
//! A poll stays armed from one request to the next (multishot, io_uring_enter(2)), so a wait costs no entry in the ring. Such a
//! poll reports new bytes only, so the driver does not wait after a receive that has filled its buffer.

mod executor;
mod polls;
mod ring;

use super::{Runtime, SharedCore, next_turn, serve};
use crate::net::Application;
use crate::net::listener::{Listener, Peer};
use executor::Executor;
use polls::{Direction, Polled};
use ring::Ring;
use socket2::Socket;
use std::cell::Cell;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// Connections that a listener accepts before the other tasks and the kernel's events have their turn.
const ACCEPTS_A_TURN: u32 = 64;

/// The runtime.
pub(super) struct Native;

/// A listening socket.
pub(super) struct Accepting {
    socket: Polled<Socket>,
    is_tcp: bool,
    /// Connections accepted in this turn.
    accepted: Cell<u32>,
}

impl Runtime for Native {
    type Listener = Accepting;
    type Socket = Polled<OwnedFd>;
    type Watched = Polled<OwnedFd>;

    // Receives and sends are calls that don't block.
    const NONBLOCKING: bool = false;
    const ONLY_NEWS: bool = true;

    fn spawn(task: impl Future<Output = ()> + 'static) {
        executor::spawn(task);
    }

    fn listener(socket: OwnedFd, is_tcp: bool) -> io::Result<Accepting> {
        let socket = Socket::from(socket);
        // The connection that a poll has reported may be gone before the accept.
        socket.set_nonblocking(true)?;
        Ok(Accepting { socket: Polled(socket), is_tcp, accepted: Cell::new(0) })
    }

    async fn accept(Accepting { socket, is_tcp, accepted }: &Accepting) -> io::Result<(Self::Socket, Peer)> {
        if accepted.get() >= ACCEPTS_A_TURN {
            accepted.set(0);
            next_turn().await;
        }
        loop {
            match socket.0.accept() {
                Ok((stream, addr)) => {
                    accepted.set(accepted.get() + 1);
                    if *is_tcp {
                        let _ = stream.set_tcp_nodelay(true);
                    }
                    let peer = addr.as_socket().map_or(Peer::Unix, Peer::tcp);
                    return Ok((Polled(stream.into()), peer));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    accepted.set(0);
                    socket.ready(Direction::Read).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn socket(socket: OwnedFd, _is_tcp: bool) -> io::Result<Self::Socket> {
        Ok(Polled(socket))
    }

    async fn readable(socket: &Self::Socket) -> io::Result<()> {
        socket.ready(Direction::Read).await
    }

    async fn writable(socket: &Self::Socket) -> io::Result<()> {
        socket.ready(Direction::Write).await
    }

    fn watched(descriptor: OwnedFd) -> io::Result<Self::Watched> {
        Ok(Polled(descriptor))
    }

    async fn shown(watched: &Self::Watched) -> io::Result<()> {
        watched.ready(Direction::Read).await
    }
}

/// The reactor of this thread until it is dropped; the tasks end with it.
struct Reactor(Rc<Executor>);

impl Reactor {
    fn start() -> io::Result<Self> {
        polls::start()?;
        Ok(Self(Executor::start()))
    }

    /// Runs the tasks that are ready, then `main` if it was woken, then delivers the kernel's events; until `main` is complete.
    fn block_on(&self, main: impl Future<Output = io::Result<()>>) -> io::Result<()> {
        let executor = &*self.0;
        let (mut main, waker) = (pin!(main), executor::main_waker());
        waker.wake_by_ref();
        loop {
            executor.run_ready();
            if executor.take_main()
                && let Poll::Ready(result) = main.as_mut().poll(&mut Context::from_waker(&waker))
            {
                return result;
            }
            polls::deliver(executor.is_idle())?;
        }
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        // The tasks own descriptors, whose polls end first.
        self.0.end();
        polls::end();
    }
}

/// Runs the application of `core`.
pub(super) fn run<A: Application + 'static>(
    core: SharedCore<A, Native>,
    listeners: Vec<Listener>,
    timer: OwnedFd,
) -> io::Result<()> {
    Reactor::start()?.block_on(serve(core, listeners, timer))
}

/// Sets up and drops `rings` rings, one for each thread that will have one, and checks that polls stay armed.
pub(super) fn probe(rings: usize) -> io::Result<()> {
    let mut rings = (0..rings).map(|_| Ring::new()).collect::<io::Result<Vec<_>>>()?;
    rings.pop().map_or(Ok(()), polls::probe)
}
