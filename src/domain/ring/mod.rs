//! The memory that the server and a child process share: rings of records, one writer and one reader each.
//!
//! A [`Region`] is a sealed memfd that both processes map. A [`RingSpec`] says where in it one ring lies; one process
//! makes the ring's [`Producer`], the other its [`Consumer`]. Bytes enter, bytes leave; what they mean is not known
//! here, and nothing here knows descriptors other than the memfd.
//!
//! # The other side may be hostile
//! A child may write anything anywhere in the region at any time. What follows from it here:
//! - Shared memory is only ever touched as `AtomicU64`, so a racing write is a wrong value and never undefined
//!   behaviour.
//! - Each side keeps its own position in private memory. The shared `tail` and `head` are announcements: read once,
//!   compared with what the other side could honestly say, else [`Corrupt`].
//! - A record's length is read once and checked before use; its bytes are copied out before anyone looks at them.
//! - No call loops on a shared value; waits end with their time. Who drains a ring must take a bounded number
//!   of records a turn, because a peer can publish for ever.
//! - The seals keep the peer from truncating the memfd, which would turn our accesses into `SIGBUS`.
//!
//! A corrupt ring stays corrupt: every later call says so. Drop the region and the process behind it; a ring is
//! never used twice.
//!
//! # The protocol
//! Positions count 64-bit words from the ring's birth and never wrap. The producer writes records, then stores `tail`
//! (release); the consumer loads it (acquire), copies, then stores `head` (release), which the producer loads
//! (acquire) before it writes over those words. To sleep, a side raises its flag and then looks once more at the
//! announcement; the other side stores the announcement and then looks at the flag; `SeqCst` fences stand between, so
//! at least one of them sees the other, as in `net::waker`. A producer that finds no room sleeps in the same way, either
//! on the flag itself ([`Producer::wait_room`]) or elsewhere ([`Producer::await_room`]). The loom tests check both, except that `head` is loaded
//! with acquire: what the lack of it would allow, a store that overtakes an earlier load, loom can't do.

pub(in crate::domain) mod atomic;
mod channel;
mod consumer;
mod copy;
pub(crate) mod flag;
#[cfg(all(any(test, fuzzing), not(loom)))]
pub(crate) mod fuzz;
mod producer;
#[cfg(not(loom))]
mod region;
#[cfg(loom)]
#[path = "loom/region.rs"]
mod region;
mod spec;

#[cfg(test)]
#[cfg(loom)]
mod loom;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;

pub use consumer::Consumer;
pub use producer::{Producer, PushError};
pub use region::Region;
pub use spec::RingSpec;

/// The other side wrote something into the ring that an honest one can't have written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the shared memory ring is corrupt: the other process wrote outside its part")]
pub struct Corrupt;
