//! The task of one connection: receives until the connection ends.

use super::{DISCARDED_BYTES_MAX, Received, Runtime, SharedCore};
use crate::net::conn_id::ConnId;
use crate::net::connections::Connections;
use crate::net::listener::Peer;
use crate::net::tls::Acceptor;
use crate::net::{Application, CloseReason, sys};
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::task::Poll;

/// Receives on one connection until the connection ends.
pub(super) fn connection<A: Application + 'static, R: Runtime>(
    core: SharedCore<A, R>,
    stream: R::Socket,
    peer: &Peer,
    acceptor: Option<&Acceptor>,
    number: usize,
) -> impl Future<Output = ()> + use<A, R> {
    let stream = Rc::new(stream);
    let conn = {
        let mut state = core.borrow_mut();
        let conn = state.connections.insert(stream.as_raw_fd());
        state.set_socket(conn, Some(Rc::clone(&stream)));
        let secured = acceptor.is_none_or(|acceptor| state.connections.secure(conn, acceptor));
        if state.event(Some(conn), |app, connections| app.accepted(connections, conn, peer, number)) == Some(false) {
            state.connections.close(conn);
        }
        if !secured {
            state.connections.abort(conn);
        }
        conn
    };
    let has_handshake = acceptor.is_some();
    async move {
        let reason = receive(&core, &stream, conn, has_handshake).await;
        let mut state = core.borrow_mut();
        let reason = state.connections.close_reason(conn, reason);
        state.event(None, |app, connections| app.closed(connections, conn, reason));
        state.connections.remove(conn);
        state.set_socket(conn, None);
        if Rc::strong_count(&stream) > 1 {
            // The shutdown ends a wait for room in this socket.
            sys::shutdown(stream.as_raw_fd(), std::net::Shutdown::Both);
        }
        // The last owner of `stream` closes the descriptor here, after its entry in `Connections` is removed.
    }
}

async fn receive<A: Application + 'static, R: Runtime>(
    core: &SharedCore<A, R>,
    stream: &R::Socket,
    conn: ConnId,
    has_handshake: bool,
) -> CloseReason {
    let (mut discarded, mut is_bulk) = (0, false);
    loop {
        poll_fn(|cx| match core.borrow_mut().connections.poll_reading(conn, cx.waker()) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
        let ready = if is_bulk && R::ONLY_NEWS { Ok(()) } else { R::readable(stream).await };
        let received = match ready {
            Ok(()) => {
                if has_handshake {
                    handshake_turn(core, conn).await;
                }
                if is_bulk {
                    bulk_turn(core, conn).await;
                }
                core.borrow_mut().take(stream.as_raw_fd(), conn)
            }
            Err(error) => Err(error),
        };
        match received {
            Ok(Received::Delivered { is_full }) => is_bulk = is_full,
            Ok(Received::Discarded { count, is_full }) => {
                (discarded, is_bulk) = (discarded + count, is_full);
                if discarded > DISCARDED_BYTES_MAX {
                    // Closing at once would make the kernel reset the connection before the peer has read the answer. The
                    // receive window fills up instead, until the time for lingering is over.
                    until(core, conn, Connections::is_aborted).await;
                    return CloseReason::Application;
                }
            }
            Ok(Received::End) => {
                // The peer has sent FIN; the task waits until the application has sent its answers.
                until(core, conn, Connections::is_finished).await;
                return CloseReason::Peer;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => is_bulk = false,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return CloseReason::Error(error.raw_os_error().unwrap_or(libc::EIO)),
        }
    }
}

/// Waits for a handshake step, if the bytes that arrived on `conn` belong to a handshake.
async fn handshake_turn<A: Application + 'static, R: Runtime>(core: &SharedCore<A, R>, conn: ConnId) {
    let mut place: Option<Rc<Cell<bool>>> = None;
    poll_fn(|cx| {
        let mut state = core.borrow_mut();
        // The connection may have been closed during the wait.
        if !state.connections.is_handshaking(conn) {
            return Poll::Ready(());
        }
        if place.is_none() {
            place = state.handshakes.enter(cx.waker());
            if place.is_none() {
                return Poll::Ready(());
            }
            // The end of this batch begins the next turn.
            state.delivered();
        }
        if place.as_ref().is_some_and(|place| place.get()) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Waits for a bulk receive of this turn or a later one; ends early when `conn` is aborted.
async fn bulk_turn<A: Application + 'static, R: Runtime>(core: &SharedCore<A, R>, conn: ConnId) {
    let mut place: Option<Rc<Cell<bool>>> = None;
    poll_fn(|cx| {
        let mut state = core.borrow_mut();
        if state.connections.is_aborted(conn) {
            return Poll::Ready(());
        }
        if place.is_none() {
            place = state.bulk_receives.enter(cx.waker());
            if place.is_none() {
                return Poll::Ready(());
            }
            // The end of this batch begins the next turn.
            state.delivered();
        }
        // Registers the watch for each poll: a wake-up for another reason removes it.
        state.connections.watch(conn, cx.waker());
        if place.as_ref().is_some_and(|place| place.get()) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Waits until `reached` is true of a connection being closed.
async fn until<A: Application + 'static, R: Runtime>(
    core: &SharedCore<A, R>,
    conn: ConnId,
    reached: fn(&Connections, ConnId) -> bool,
) {
    poll_fn(|cx| {
        let mut state = core.borrow_mut();
        if reached(&state.connections, conn) {
            return Poll::Ready(());
        }
        state.connections.watch(conn, cx.waker());
        Poll::Pending
    })
    .await;
}
