//! The default runtime: monoio, over io_uring or epoll.
//!
//! Without its `sync` feature, monoio polls a woken main future after every ready task has run, right before monoio waits for
//! the kernel.

use super::{Runtime, SharedCore, serve};
use crate::net::Application;
use crate::net::listener::{Listener, Peer};
use ::monoio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use ::monoio::{IoUringDriver, LegacyDriver, RuntimeBuilder};
use io_uring::IoUring;
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// Entries of the submission ring. A larger batch is submitted in parts.
const RING_ENTRIES: u32 = 1024;

/// monoio over epoll, or over io_uring.
pub(super) struct Monoio<const EPOLL: bool>;

/// monoio over io_uring.
pub(super) type Uring = Monoio<false>;

/// monoio over epoll.
pub(super) type Epoll = Monoio<true>;

pub(super) enum AnyListener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

pub(super) enum AnyStream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl AsRawFd for AnyStream {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Tcp(stream) => stream.as_raw_fd(),
            Self::Unix(stream) => stream.as_raw_fd(),
        }
    }
}

impl<const EPOLL: bool> Runtime for Monoio<EPOLL> {
    type Listener = AnyListener;
    type Socket = AnyStream;
    type Watched = UnixStream;

    // io_uring returns EAGAIN on a non-blocking socket instead of waiting; epoll needs non-blocking sockets.
    const NONBLOCKING: bool = EPOLL;
    const ONLY_NEWS: bool = false;

    fn spawn(task: impl Future<Output = ()> + 'static) {
        drop(::monoio::spawn(task));
    }

    fn listener(socket: OwnedFd, is_tcp: bool) -> io::Result<AnyListener> {
        Ok(if is_tcp {
            AnyListener::Tcp(TcpListener::from_std(socket.into())?)
        } else {
            AnyListener::Unix(UnixListener::from_std(socket.into())?)
        })
    }

    async fn accept(listener: &AnyListener) -> io::Result<(AnyStream, Peer)> {
        match listener {
            AnyListener::Tcp(listener) => {
                let (stream, addr) = listener.accept().await?;
                let _ = stream.set_nodelay(true);
                Ok((AnyStream::Tcp(stream), Peer::tcp(addr)))
            }
            AnyListener::Unix(listener) => Ok((AnyStream::Unix(listener.accept().await?.0), Peer::Unix)),
        }
    }

    fn socket(socket: OwnedFd, is_tcp: bool) -> io::Result<AnyStream> {
        Ok(if is_tcp {
            AnyStream::Tcp(TcpStream::from_std(socket.into())?)
        } else {
            AnyStream::Unix(UnixStream::from_std(socket.into())?)
        })
    }

    async fn readable(socket: &AnyStream) -> io::Result<()> {
        match socket {
            AnyStream::Tcp(stream) => stream.readable(false).await,
            AnyStream::Unix(stream) => stream.readable(false).await,
        }
    }

    async fn writable(socket: &AnyStream) -> io::Result<()> {
        match socket {
            AnyStream::Tcp(stream) => stream.writable(false).await,
            AnyStream::Unix(stream) => stream.writable(false).await,
        }
    }

    fn watched(descriptor: OwnedFd) -> io::Result<UnixStream> {
        UnixStream::from_std(descriptor.into())
    }

    async fn shown(watched: &UnixStream) -> io::Result<()> {
        watched.readable(false).await
    }
}

/// Runs the application of `core` over epoll.
pub(super) fn run_epoll<A: Application + 'static>(
    core: SharedCore<A, Epoll>,
    listeners: Vec<Listener>,
    timer: OwnedFd,
) -> io::Result<()> {
    let mut runtime = RuntimeBuilder::<LegacyDriver>::new().build()?;
    runtime.block_on(serve(core, listeners, timer))
}

/// Runs the application of `core` over io_uring.
pub(super) fn run_uring<A: Application + 'static>(
    core: SharedCore<A, Uring>,
    listeners: Vec<Listener>,
    timer: OwnedFd,
) -> io::Result<()> {
    ring()?.block_on(serve(core, listeners, timer))
}

/// Sets up and drops `rings` rings, one for each thread that will have one.
pub(super) fn probe(rings: usize) -> io::Result<()> {
    (0..rings).map(|_| ring()).collect::<io::Result<Vec<_>>>().map(drop)
}

/// A ring for the calling thread. By default the kernel interrupts the shard for each event (`TWA_SIGNAL`, an IPI). With these
/// flags the kernel delivers events when the shard enters the kernel to wait, which halves the cost of an event.
fn ring() -> io::Result<::monoio::Runtime<IoUringDriver>> {
    let mut builder = IoUring::builder();
    builder.setup_single_issuer().setup_defer_taskrun();
    let with =
        |builder| RuntimeBuilder::<IoUringDriver>::new().with_entries(RING_ENTRIES).uring_builder(builder).build();
    match with(builder) {
        // Linux before 6.1 does not know these flags.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => with(IoUring::builder()),
        built => built,
    }
}
