//! One call of a `CWEB_KILLABLE` route, from the view of the thread that waits for its answer.

use super::packets::{Incoming, Outgoing, PACKET_BYTES, Received};
use crate::abi::frame::Field;
use crate::abi::stream::StreamCall;
use crate::domain::Fault;
use crate::domain::process::control::CaughtFault;
use crate::domain::stream::call::CallState;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// The request to a worker; the packed head and the body of the request follow.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Ask {
    pub(super) route: usize,
    /// The bytes of the head.
    pub(super) head_bytes: usize,
    pub(super) peer: Option<IpAddr>,
    /// Limit on the run of the handler, in milliseconds.
    pub(super) limit_ms: Option<u64>,
}

/// The answer of a worker; the body follows.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) fields: Vec<Field>,
    /// The text in place of an answer, if the handler has not answered.
    pub(super) refused: Option<String>,
    /// The signal that was caught in the handler.
    pub(super) fault: Option<CaughtFault>,
}

impl Reply {
    pub(super) fn refused(status: u16, text: String) -> Self {
        Self { status, refused: Some(text), ..Self::default() }
    }
}

/// The end of a worker that did not answer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Ended {
    /// The number of the call among its spawner's calls, from 1.
    pub(super) call: u64,
    /// The status, as in waitpid(2).
    pub(super) status: i32,
    /// The signal that the worker has recorded.
    pub(super) fault: Option<CaughtFault>,
}

impl Ended {
    /// The signal that ended the worker.
    pub(super) fn signal(&self) -> Option<i32> {
        libc::WIFSIGNALED(self.status).then(|| libc::WTERMSIG(self.status))
    }

    /// The description.
    pub(super) fn what(&self) -> String {
        match (&self.fault, self.signal()) {
            (Some(fault), _) => {
                Fault::signal(fault.signal, usize::try_from(fault.address).unwrap_or_default(), false).what
            }
            (None, Some(libc::SIGKILL)) => "killed by SIGKILL, for its memory or from outside".to_owned(),
            (None, Some(signal)) => Fault::signal(signal, 0, false).what,
            (None, None) => format!("ended with code {}", libc::WEXITSTATUS(self.status)),
        }
    }
}

/// The result of a call.
pub(super) enum Outcome {
    Answered(Reply, Vec<u8>),
    Ended(Ended),
    /// The deadline has passed.
    Late,
    /// The client has gone.
    Gone,
    /// The spawner has ended; the flag says whether it may have begun the call.
    Unreachable {
        may_have_begun: bool,
    },
}

/// A spawner, from the view of the domain's process.
pub(super) struct SpawnerEnd {
    pub(super) socket: OwnedFd,
    /// The number of calls that it has had.
    pub(super) calls: u64,
}

/// Sends a call to a spawner, and waits for its result.
///
/// # Errors
/// No descriptor is left for the wait.
pub(super) fn exchange(
    spawner: &mut SpawnerEnd,
    meta: &[u8],
    body: &[&[u8]],
    state: &CallState,
) -> io::Result<Outcome> {
    spawner.calls += 1;
    let (socket, call) = (&spawner.socket, spawner.calls);
    let mut outgoing = Outgoing::new(meta, body, false);
    state.watched(|canceled| {
        let mut incoming = Incoming::default();
        let mut packet = vec![0; PACKET_BYTES];
        let mut has_sent = false;
        loop {
            if state.is_client_gone() {
                return Outcome::Gone;
            }
            let left = state.remaining_ms();
            if left == Some(0) {
                return Outcome::Late;
            }
            let unreachable = || Outcome::Unreachable { may_have_begun: has_sent };
            let Some(ready) = wait(socket.as_fd(), canceled, !outgoing.is_done(), left) else { return unreachable() };
            if ready.contains(PollFlags::IN) {
                let count = match rustix::io::read(socket, &mut packet) {
                    // The other end was closed with unread bytes, which is reported once; its own packets come next.
                    Err(Errno::INTR | Errno::CONNRESET) => continue,
                    Ok(count) if count > 0 => count,
                    _ => return unreachable(),
                };
                match incoming.take(packet.get(..count).unwrap_or_default()).map(understand) {
                    // The end of an earlier worker, which had answered.
                    Ok(Some(Some(Outcome::Ended(ended)))) if ended.call != call => {}
                    Ok(None) => {}
                    Ok(Some(Some(outcome))) => return outcome,
                    Err(_) | Ok(Some(None)) => return unreachable(),
                }
            } else if ready.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
                return unreachable();
            } else if ready.contains(PollFlags::OUT) {
                match outgoing.step(socket.as_fd()) {
                    Ok(()) => has_sent = true,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    // The reason is in the packets that are still to be read.
                    Err(error) if has_sent || is_closed(&error) => outgoing = Outgoing::nothing(),
                    Err(_) => return unreachable(),
                }
            }
        }
    })
}

/// Whether the other end of a socket is closed.
fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// The meaning of a packet; `None`: nothing yet; `Some(None)`: the packet is invalid.
fn understand(received: Received) -> Option<Option<Outcome>> {
    match received {
        Received::Some => None,
        Received::Message(meta, body) => {
            Some(serde_json::from_slice(&meta).ok().map(|reply| Outcome::Answered(reply, body)))
        }
        Received::Ended(how) => Some(serde_json::from_slice(&how).ok().map(Outcome::Ended)),
    }
}

/// Waits until `socket` is ready, `canceled` is written or the time is over, and returns the state of `socket`. `None`: the
/// wait failed.
fn wait(socket: BorrowedFd<'_>, canceled: BorrowedFd<'_>, writes: bool, left_ms: Option<u64>) -> Option<PollFlags> {
    let wanted = if writes { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
    let mut polled = [PollFd::from_borrowed_fd(socket, wanted), PollFd::from_borrowed_fd(canceled, PollFlags::IN)];
    let timeout = left_ms.and_then(|left| Timespec::try_from(Duration::from_millis(left)).ok());
    match poll(&mut polled, timeout.as_ref()) {
        Ok(_) => {
            // Draining is a reason, too, but does not end the wait.
            if polled[1].revents().contains(PollFlags::IN) {
                let _ = rustix::io::read(canceled, &mut [0; 8]);
            }
            Some(polled[0].revents())
        }
        Err(Errno::INTR) => Some(PollFlags::empty()),
        Err(_) => None,
    }
}
