//! A runtime for comparison (cargo feature `glommio`): glommio, over io_uring.
//!
//! glommio can't wait for a descriptor that is not a socket, nor for room in a socket. Connections wait for bytes in glommio's
//! ring, by a receive of one byte that leaves the byte in the socket; new connections wait there too. A thread beside the shard
//! ([`Poller`]) watches all other descriptors and wakes the shard's tasks.
//!
//! A woken task runs behind the tasks that were woken before it. The main future therefore runs after all tasks that one look
//! into the ring has woken.

use super::poller::{Interest, Poller};
use super::{Runtime, SharedCore, next_turn, serve};
use crate::net::Application;
use crate::net::listener::{Listener, Peer};
use ::glommio::net::{TcpListener, TcpStream};
use ::glommio::{LocalExecutor, LocalExecutorBuilder, Placement};
use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::rc::Rc;

/// Entries of each submission ring.
const RING_ENTRIES: usize = 1024;

/// Memory, in bytes, that glommio registers with the kernel for file IO. The shards do no file IO there.
const FILE_BYTES: usize = 64 * 1024;

thread_local! {
    /// The poller of this thread's shard, while it runs.
    static POLLER: RefCell<Option<Rc<Poller>>> = const { RefCell::new(None) };
}

/// glommio.
pub(super) struct Glommio;

/// A listener of any address family, and whether the family is TCP.
pub(super) struct AnyListener {
    listener: TcpListener,
    is_tcp: bool,
}

/// A connected socket of any address family: no TCP-specific call is made on it.
pub(super) struct AnyStream(TcpStream);

impl AsRawFd for AnyStream {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn poller() -> io::Result<Rc<Poller>> {
    POLLER.with_borrow(Clone::clone).ok_or_else(|| io::Error::other("no reactor runs on this thread"))
}

impl Runtime for Glommio {
    type Listener = AnyListener;
    type Socket = AnyStream;
    type Watched = OwnedFd;

    // io_uring returns EAGAIN on a non-blocking socket instead of waiting.
    const NONBLOCKING: bool = false;
    const ONLY_NEWS: bool = false;

    fn spawn(task: impl Future<Output = ()> + 'static) {
        // glommio runs a new task at once, up to its first wait. The spawning code may itself be a task.
        let later = async {
            next_turn().await;
            task.await;
        };
        drop(::glommio::spawn_local(later).detach());
    }

    fn listener(socket: OwnedFd, is_tcp: bool) -> io::Result<AnyListener> {
        // SAFETY: `socket` owns the descriptor and gives it away here.
        let listener = unsafe { TcpListener::from_raw_fd(socket.into_raw_fd()) };
        Ok(AnyListener { listener, is_tcp })
    }

    async fn accept(AnyListener { listener, is_tcp }: &AnyListener) -> io::Result<(AnyStream, Peer)> {
        loop {
            let stream = listener.accept().await?;
            if !is_tcp {
                return Ok((AnyStream(stream), Peer::Unix));
            }
            // A peer that has hung up by now has no address, and needs no answer.
            if let Ok(addr) = stream.peer_addr() {
                let _ = stream.set_nodelay(true);
                return Ok((AnyStream(stream), Peer::tcp(addr)));
            }
        }
    }

    fn socket(socket: OwnedFd, _is_tcp: bool) -> io::Result<AnyStream> {
        // SAFETY: `socket` owns the descriptor and gives it away here.
        Ok(AnyStream(unsafe { TcpStream::from_raw_fd(socket.into_raw_fd()) }))
    }

    async fn readable(socket: &AnyStream) -> io::Result<()> {
        socket.0.peek(&mut [0]).await?;
        Ok(())
    }

    async fn writable(socket: &AnyStream) -> io::Result<()> {
        poller()?.wait(socket.as_raw_fd(), Interest::Writable).await
    }

    fn watched(descriptor: OwnedFd) -> io::Result<OwnedFd> {
        Ok(descriptor)
    }

    async fn shown(watched: &OwnedFd) -> io::Result<()> {
        poller()?.wait(watched.as_raw_fd(), Interest::Readable).await
    }
}

/// Runs the application of `core`.
pub(super) fn run<A: Application + 'static>(
    core: SharedCore<A, Glommio>,
    listeners: Vec<Listener>,
    timer: OwnedFd,
) -> io::Result<()> {
    let executor = executor()?;
    POLLER.set(Some(Rc::new(Poller::start()?)));
    let result = executor.run(serve(core, listeners, timer));
    POLLER.set(None);
    result
}

/// Sets up and drops `executors` executors, one for each thread that will have one.
pub(super) fn probe(executors: usize) -> io::Result<()> {
    (0..executors).map(|_| executor()).collect::<io::Result<Vec<_>>>().map(drop)
}

fn executor() -> io::Result<LocalExecutor> {
    // The code that started the shard's thread has pinned it.
    let builder = LocalExecutorBuilder::new(Placement::Unbound).ring_depth(RING_ENTRIES).io_memory(FILE_BYTES);
    Ok(builder.make()?)
}
