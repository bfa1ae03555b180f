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

mod application;
mod close_reason;
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
pub use application::{Application, ReactorKind, TICK};
pub use certificate::Certificate;
pub use client_certificates::ClientAuthorities;
pub use close_reason::CloseReason;
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
        Some(libc::ENOSYS) => "this kernel has no io_uring".to_owned(),
        _ => error.to_string(),
    })
}

/// Connections per shard beside those that its limit covers: descriptors are reserved for this many.
pub const RESERVED_CONNECTIONS: usize = 64;

#[cfg(test)]
mod tests;
