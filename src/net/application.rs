//! The seam between a reactor and the code that the reactor runs.

use super::{CloseReason, ConnId, Connections, Peer};
use std::sync::Arc;
use std::time::Instant;

/// The available reactors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReactorKind {
    /// monoio over io_uring.
    Monoio,
    /// monoio over epoll, where io_uring is refused.
    MonoioEpoll,
    /// The server's own runtime over io_uring.
    Native,
    /// glommio over io_uring.
    #[cfg(feature = "glommio")]
    Glommio,
}

/// The code that a driver runs: called on the shard's own thread, never concurrently.
///
/// After any callback the driver may deliver others before it flushes. All bytes queued on [`Connections`] during a batch are
/// sent after [`Application::batch_end`], with one `send(2)` per connection.
pub trait Application {
    /// A connection was accepted on listener number `listener`. Returning `false` closes it once its outbox is sent.
    fn accepted(&mut self, connections: &mut Connections, conn: ConnId, peer: &Peer, listener: usize) -> bool;

    /// The client of a TLS connection has a certificate with this name: UTF-8, without control characters, never empty. Called
    /// at most once, before the first [`Application::data`].
    fn identified(&mut self, conn: ConnId, name: &Arc<[u8]>) {
        let _ = (conn, name);
    }

    /// Bytes arrived, in order. `bytes` is never empty and valid only during the call.
    fn data(&mut self, connections: &mut Connections, conn: ConnId, bytes: &[u8]);

    /// The peer will send no more (FIN). The connection stays open for sending until [`Connections::close`].
    fn eof(&mut self, connections: &mut Connections, conn: ConnId);

    /// The outbox of `conn` is empty now. Called after a flush had left bytes in it, or after [`Connections::await_sent`].
    fn drained(&mut self, connections: &mut Connections, conn: ConnId);

    /// The connection is gone; the id `conn` is invalid from here on. Called exactly once for every accepted connection.
    fn closed(&mut self, connections: &mut Connections, conn: ConnId, reason: CloseReason);

    /// All events that were ready have been delivered.
    fn batch_end(&mut self, connections: &mut Connections);

    /// Whether another [`Application::batch_end`] would find work. Called before the reactor sleeps, after
    /// [`Waker::prepare_sleep`](super::Waker::prepare_sleep).
    fn has_work(&self) -> bool;

    /// Called about once every [`TICK`], for time-outs and housekeeping.
    fn tick(&mut self, connections: &mut Connections, now: Instant);

    /// Whether listeners should still accept. Once the answer is `false`, the driver closes its listeners.
    fn accepting(&self) -> bool;

    /// Whether [`run`](super::run) should return. Called after each batch.
    fn stopped(&self) -> bool;

    /// The last call: the application must drop everything that it shares with other threads. A reactor library may keep its
    /// tasks, and with them the application, beyond the end of [`run`](super::run).
    fn finish(&mut self);
}

/// How often [`Application::tick`] is called.
pub const TICK: std::time::Duration = std::time::Duration::from_millis(100);
