//! The reactor seam, its drivers, and listeners.
//!
//! The seam is shaped by events. A driver receives bytes into a buffer of its choice and hands them to an [`Application`] in
//! place. The application answers by queueing bytes on a [`Connections`] entry, and the driver flushes that entry once a batch.
//! No type of a reactor library leaves its driver's file. TLS, where a listener has it, lies between driver and application:
//! the application sees plaintext only.

pub mod activation;
pub mod certificate;
mod client_certificates;
pub mod connections;
pub mod destinations;
pub mod file;
pub mod listener;
pub mod outbox;
mod pem_file;
pub mod waker;

mod conn_id;
mod driver;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod lent;
mod sys;
mod tls;
mod turn_scheduler;
mod warm;

pub use activation::{PassedError, passed_sockets, share};
pub use certificate::Certificate;
pub use client_certificates::ClientAuthorities;
pub use conn_id::ConnId;
pub use connections::Connections;
pub use destinations::{DestinationError, Reach};
pub use file::{Attached, BodyPiece, FileRange};
pub use lent::Lent;
pub use listener::{AddrError, BindError, ListenAddr, Listener, Peer, UnixAccess, bind_all};
pub use outbox::Outbox;
pub use pem_file::TlsError;
pub use sys::{keep_descriptors_from, raise_open_files_limit};
pub use tls::Acceptor;
pub use waker::{Doorbell, Waker};

use std::io;
use std::sync::Arc;
use std::time::Instant;

/// The available reactors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReactorKind {
    /// monoio over io_uring.
    Monoio,
    /// monoio over epoll, where io_uring is refused.
    MonoioEpoll,
    /// glommio over io_uring.
    #[cfg(feature = "glommio")]
    Glommio,
}

/// Runs `app` on the calling thread until [`Application::stopped`].
///
/// # Errors
/// The reactor could not be set up (see [`io_uring_available`]) or the listeners are unusable.
pub fn run<A: Application + 'static>(
    kind: ReactorKind,
    app: A,
    listeners: Vec<Listener>,
    waker: &Arc<Waker>,
) -> io::Result<()> {
    driver::run(kind, app, listeners, waker)
}

/// Whether this process may use `rings` reactors of `kind` over io_uring at once, one per shard. Memory for rings can be
/// limited, so all rings are tried together.
///
/// # Errors
/// The reason: io_uring is switched off by sysctl or a seccomp filter, or `RLIMIT_MEMLOCK` is too small.
pub fn io_uring_available(kind: ReactorKind, rings: usize) -> Result<(), String> {
    driver::probe(kind, rings).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOMEM) => "too little locked memory for all shards; raise it with ulimit -l".to_owned(),
        Some(libc::EPERM) => "refused by kernel.io_uring_disabled or a seccomp filter".to_owned(),
        Some(libc::ENOSYS) => "this kernel has none".to_owned(),
        _ => error.to_string(),
    })
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// The application closed the connection ([`Connections::close`]).
    Application,
    /// The peer closed both directions or reset the connection.
    Peer,
    /// Sending or receiving failed with this errno.
    Error(i32),
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
    /// [`Waker::prepare_sleep`].
    fn has_work(&self) -> bool;

    /// Called about once every [`TICK`], for time-outs and housekeeping.
    fn tick(&mut self, connections: &mut Connections, now: Instant);

    /// Whether listeners should still accept. Once the answer is `false`, the driver closes its listeners.
    fn accepting(&self) -> bool;

    /// Whether [`run`] should return. Called after each batch.
    fn stopped(&self) -> bool;

    /// The last call: the application must drop everything that it shares with other threads. A reactor library may keep its
    /// tasks, and with them the application, beyond the end of [`run`].
    fn finish(&mut self);
}

/// Connections per shard beside those that its limit covers: descriptors are reserved for this many.
pub const RESERVED_CONNECTIONS: usize = 64;

/// How often [`Application::tick`] is called.
pub const TICK: std::time::Duration = std::time::Duration::from_millis(100);

#[cfg(test)]
mod tests;
