//! Memory that the server and a child process share: rings of records, with one writer and one reader each.
//!
//! A [`Region`] is a sealed memfd that both processes map. A [`RingSpec`] describes the position of one ring in it; one
//! process makes the ring's [`Producer`], the other its [`Consumer`]. The ring transports bytes and does not know their
//! meaning. It uses no descriptor but the memfd.
//!
//! # The other side may be hostile
//! A child may write anything anywhere in the region at any time. The consequences:
//! - All accesses to shared memory use `AtomicU64`, so a racing write gives a wrong value and never undefined behaviour.
//! - Each side keeps its own position in private memory. The shared `tail` and `head` are announcements: each is read once
//!   and compared with the values that an honest peer could announce, else the result is [`Corrupt`].
//! - A record's length is read once and checked before use; its bytes are copied before they are interpreted.
//! - No call loops on a shared value, and all waits have a time-out. The caller must take a bounded number of records in
//!   one turn, because a peer can publish without end.
//! - The seals keep the peer from truncating the memfd, which would turn our accesses into `SIGBUS`.
//!
//! A corrupt ring stays corrupt: every later call reports it. The caller must drop the region and end the process behind
//! it; a ring is never reused.
//!
//! # The protocol
//! Positions count 64-bit words from the creation of the ring and never wrap. The producer writes records, then stores
//! `tail` (release). The consumer loads it (acquire), copies the records, then stores `head` (release); the producer loads
//! that (acquire) before it overwrites the words. To sleep, a side raises its flag and then looks at the announcement
//! again; the other side stores the announcement and then looks at the flag. `SeqCst` fences between the two accesses on
//! both sides ensure that at least one side sees the other, as in `net::waker`. A producer without room sleeps in the same
//! way, either on the flag itself ([`Producer::wait_room`]) or elsewhere ([`Producer::await_room`]). The loom tests check
//! both. The tests can't check that `head` must be loaded with acquire: without it a store could overtake an earlier load, which
//! loom does not model.

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

/// The other side wrote a value into the ring that an honest peer can't have written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the shared memory ring is corrupt: the other process wrote outside its part")]
pub struct Corrupt;
