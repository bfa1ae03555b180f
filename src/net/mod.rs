//! The reactor seam, its drivers, and listeners.
//!
//! The seam is shaped by events: a driver receives bytes into whatever buffer it likes and hands them to an
//! [`Application`] in place; the application answers by queueing bytes on a [`Links`] entry, which the driver
//! flushes once a batch. No type of a reactor library leaves its driver's file.

pub mod links;
pub mod listener;
pub mod outbox;
pub mod waker;

mod monoio_driver;
#[cfg(feature = "glommio")]
mod glommio_driver;

pub use links::{ConnId, Links};
pub use listener::{Listener, Peer};
pub use outbox::Outbox;
pub use waker::Waker;

use std::time::Instant;

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// The application asked for it ([`Links::close`]).
    Application,
    /// The peer closed both directions or reset the connection.
    Peer,
    /// Sending or receiving failed with this errno.
    Error(i32),
}

/// What a driver runs: called on the shard's own thread, never concurrently.
///
/// After any callback the driver may deliver others before it flushes; everything queued on [`Links`] during a
/// batch leaves after [`Application::batch_end`], one `send(2)` a connection.
pub trait Application {
    /// A connection was accepted on listener number `listener`. Returning `false` closes it once its outbox is sent.
    fn accepted(&mut self, links: &mut Links, conn: ConnId, peer: &Peer, listener: usize) -> bool;

    /// Bytes arrived, in order. `bytes` is never empty and valid only during the call.
    fn data(&mut self, links: &mut Links, conn: ConnId, bytes: &[u8]);

    /// The peer will send no more (FIN). The connection stays open for sending until [`Links::close`].
    fn eof(&mut self, links: &mut Links, conn: ConnId);

    /// The outbox of `conn`, which a flush had left non-empty, is empty now.
    fn drained(&mut self, links: &mut Links, conn: ConnId);

    /// The connection is gone; `conn` names nothing from here on. Called exactly once for every accepted connection.
    fn closed(&mut self, links: &mut Links, conn: ConnId, reason: CloseReason);

    /// All events that were ready have been delivered. Returns `true` when there may be more for the application to
    /// do, so that the driver must call again soon rather than sleep.
    fn batch_end(&mut self, links: &mut Links) -> bool;

    /// Called about every [`TICK`], for time-outs and housekeeping.
    fn tick(&mut self, links: &mut Links, now: Instant);

    /// Whether listeners should still accept. Once `false`, the driver closes its listeners.
    fn accepting(&self) -> bool;

    /// Whether [`run`] should return. Asked after each batch.
    fn stopped(&self) -> bool;
}

/// How often [`Application::tick`] is called.
pub const TICK: std::time::Duration = std::time::Duration::from_millis(100);
