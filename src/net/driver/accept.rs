//! Accepts connections, with one task per listener.

use super::connection::connection;
use super::{Failing, Runtime, SharedCore, until_tick};
use crate::net::listener::Peer;
use crate::net::tls::Acceptor;
use crate::net::{Application, sys};
use socket2::{SockAddr, Socket};
use std::io;
use std::os::fd::AsRawFd;
use std::rc::Rc;

pub(super) async fn accept<A: Application + 'static, R: Runtime>(
    core: SharedCore<A, R>,
    listener: R::Listener,
    acceptor: Option<Acceptor>,
    number: usize,
) {
    let mut failing = Failing::new("accepting connections");
    loop {
        match R::accept(&listener).await {
            Ok((socket, peer)) => {
                failing.over();
                sys::close_on_exec(socket.as_raw_fd());
                R::spawn(connection(Rc::clone(&core), socket, &peer, acceptor.as_ref(), number));
            }
            Err(error) => {
                if !accept_failed(&core, &mut failing, &error).await {
                    return;
                }
            }
        }
    }
}

/// Accepts on a socket that other processes may share. The server must serve every accepted connection, and an accept that
/// waits in the kernel can't be cancelled safely. So this task waits for a connection first, and accepts only while the server
/// is not stopping.
pub(super) async fn accept_passed<A: Application + 'static, R: Runtime>(
    core: SharedCore<A, R>,
    socket: Socket,
    shown: R::Watched,
    acceptor: Option<Acceptor>,
    number: usize,
) {
    let mut failing = Failing::new("accepting connections");
    loop {
        if let Err(error) = R::shown(&shown).await
            && !accept_failed(&core, &mut failing, &error).await
        {
            return;
        }
        // Another shard may have accepted the connection first.
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

/// Serves a connection, of TCP or of a Unix socket.
fn accepted<A: Application + 'static, R: Runtime>(
    core: &SharedCore<A, R>,
    stream: Socket,
    addr: &SockAddr,
    acceptor: Option<&Acceptor>,
    number: usize,
) {
    let core = Rc::clone(core);
    let _ = stream.set_nonblocking(R::NONBLOCKING);
    let peer = addr.as_socket().map_or(Peer::Unix, Peer::tcp);
    let is_tcp = addr.as_socket().is_some();
    if is_tcp {
        // An answer is sent in one send; waiting for more bytes would only delay it.
        let _ = stream.set_tcp_nodelay(true);
    }
    match R::socket(stream.into(), is_tcp) {
        Ok(socket) => R::spawn(connection(core, socket, &peer, acceptor, number)),
        Err(error) => tracing::error!("a connection could not be served: {error}"),
    }
}

/// Decides whether to continue accepting after an error: not once the listener has been shut down.
async fn accept_failed<A: Application + 'static, R: Runtime>(
    core: &SharedCore<A, R>,
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
    // A resource is exhausted that other connections may free.
    failing.report(error);
    until_tick(core).await;
    true
}
