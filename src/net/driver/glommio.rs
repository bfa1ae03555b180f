//! A runtime to compare with (cargo feature `glommio`): glommio, over io_uring.
//!
//! glommio has no wait for a descriptor that is not a socket, and none for room in a socket. Connections wait for bytes in its
//! ring, by a receive of one byte that leaves the byte where it is; new connections wait there too. All else is watched by a
//! thread beside the shard ([`Poller`]), which wakes the shard's tasks.
//!
//! A task that is woken runs behind those that were woken before it, so the main future runs when all that one look into the
//! ring has brought has run.

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

/// Memory that glommio registers with the kernel for files. The shards have none there.
const FILE_BYTES: usize = 64 * 1024;

thread_local! {
    /// The poller of this thread's shard, while it runs.
    static POLLER: RefCell<Option<Rc<Poller>>> = const { RefCell::new(None) };
}

/// glommio.
pub(super) struct Glommio;

/// A listener of any family, and whether that is TCP.
pub(super) struct AnyListener {
    listener: TcpListener,
    is_tcp: bool,
}

/// A connected socket of any family: nothing is done with it that is about TCP alone.
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

    // io_uring answers EAGAIN on a non-blocking socket instead of waiting.
    const NONBLOCKING: bool = false;

    fn spawn(task: impl Future<Output = ()> + 'static) {
        // glommio runs a new task at once, up to its first wait, and it may be another task that spawns it.
        let later = async {
            next_turn().await;
            task.await;
        };
        drop(::glommio::spawn_local(later).detach());
    }

    fn listener(socket: OwnedFd, is_tcp: bool) -> io::Result<AnyListener> {
        // SAFETY: the descriptor is owned, and given away here.
        let listener = unsafe { TcpListener::from_raw_fd(socket.into_raw_fd()) };
        Ok(AnyListener { listener, is_tcp })
    }

    async fn accept(AnyListener { listener, is_tcp }: &AnyListener) -> io::Result<(AnyStream, Peer)> {
        loop {
            let stream = listener.accept().await?;
            if !is_tcp {
                return Ok((AnyStream(stream), Peer::Unix));
            }
            // Who has hung up by now has no address, and is owed nothing.
            if let Ok(addr) = stream.peer_addr() {
                let _ = stream.set_nodelay(true);
                return Ok((AnyStream(stream), Peer::tcp(addr)));
            }
        }
    }

    fn socket(socket: OwnedFd, _is_tcp: bool) -> io::Result<AnyStream> {
        // SAFETY: the descriptor is owned, and given away here.
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

/// Sets up `executors` executors, as many as there will be threads with one, and drops them.
pub(super) fn probe(executors: usize) -> io::Result<()> {
    (0..executors).map(|_| executor()).collect::<io::Result<Vec<_>>>().map(drop)
}

fn executor() -> io::Result<LocalExecutor> {
    // The shard's thread is pinned by who started it.
    let builder = LocalExecutorBuilder::new(Placement::Unbound).ring_depth(RING_ENTRIES).io_memory(FILE_BYTES);
    Ok(builder.make()?)
}
