//! Accepting connections, one task a listener.

use super::connection::{Stream, connection};
use super::{Failing, SharedCore, until_tick};
use crate::net::listener::Peer;
use crate::net::tls::Acceptor;
use crate::net::{Application, sys};
use monoio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use socket2::{SockAddr, Socket};
use std::io;
use std::os::fd::AsRawFd;
use std::rc::Rc;

pub(super) async fn accept_tcp<A: Application + 'static>(
    core: SharedCore<A>,
    listener: TcpListener,
    acceptor: Option<Acceptor>,
    number: usize,
) {
    let mut failing = Failing::new("accepting connections");
    loop {
        match listener.accept().await {
            Ok((stream, addr)) => {
                failing.over();
                sys::close_on_exec(stream.as_raw_fd());
                // Answers leave in one send; waiting for more to come would only delay them.
                let _ = stream.set_nodelay(true);
                let stream = Stream::Tcp(stream);
                monoio::spawn(connection(Rc::clone(&core), stream, &Peer::tcp(addr), acceptor.as_ref(), number));
            }
            Err(error) => {
                if !accept_failed(&core, &mut failing, &error).await {
                    return;
                }
            }
        }
    }
}

pub(super) async fn accept_unix<A: Application + 'static>(core: SharedCore<A>, listener: UnixListener, number: usize) {
    let mut failing = Failing::new("accepting connections");
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                failing.over();
                sys::close_on_exec(stream.as_raw_fd());
                monoio::spawn(connection(Rc::clone(&core), Stream::Unix(stream), &Peer::Unix, None, number));
            }
            Err(error) => {
                if !accept_failed(&core, &mut failing, &error).await {
                    return;
                }
            }
        }
    }
}

/// Accepts on a socket that is not this server's alone. What is accepted must be served, and an accept that waits in the
/// kernel can't be taken back safely: so this waits for a connection first and takes it only while there is no stop.
pub(super) async fn accept_passed<A: Application + 'static>(
    core: SharedCore<A>,
    socket: Socket,
    poll: UnixStream,
    acceptor: Option<Acceptor>,
    number: usize,
) {
    let mut failing = Failing::new("accepting connections");
    loop {
        if let Err(error) = poll.readable(false).await
            && !accept_failed(&core, &mut failing, &error).await
        {
            return;
        }
        // Another shard may have been faster.
        while core.borrow().accepting() {
            match socket.accept() {
                Ok((stream, addr)) => {
                    failing.over();
                    accepted(&core, stream, &addr, acceptor.as_ref(), number);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    if !accept_failed(&core, &mut failing, &error).await {
                        return;
                    }
                }
            }
        }
        if !core.borrow().accepting() {
            return;
        }
    }
}

/// Serves a connection of either kind.
fn accepted<A: Application + 'static>(
    core: &SharedCore<A>,
    stream: Socket,
    addr: &SockAddr,
    acceptor: Option<&Acceptor>,
    number: usize,
) {
    let core = Rc::clone(core);
    let _ = stream.set_nonblocking(true);
    let (stream, peer) = if let Some(addr) = addr.as_socket() {
        let _ = stream.set_tcp_nodelay(true);
        (TcpStream::from_std(stream.into()).map(Stream::Tcp), Peer::tcp(addr))
    } else {
        (UnixStream::from_std(stream.into()).map(Stream::Unix), Peer::Unix)
    };
    match stream {
        Ok(stream) => drop(monoio::spawn(connection(core, stream, &peer, acceptor, number))),
        Err(error) => tracing::error!("a connection could not be served: {error}"),
    }
}

/// Whether to accept on after an error: not once the listener has been shut down.
async fn accept_failed<A: Application + 'static>(
    core: &SharedCore<A>,
    failing: &mut Failing,
    error: &io::Error,
) -> bool {
    if !core.borrow().accepting() {
        return false;
    }
    let harmless = [libc::ECONNABORTED, libc::EINTR, libc::EPROTO];
    if error.raw_os_error().is_some_and(|code| harmless.contains(&code)) {
        return true;
    }
    // For want of something that other connections may give back.
    failing.report(error);
    until_tick(core).await;
    true
}
