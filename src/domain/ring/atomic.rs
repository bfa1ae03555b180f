//! The atomics of this room, and of the pipes that lie in its memory: the standard library's, or loom's when it explores the interleavings.

#[cfg(loom)]
pub(in crate::domain) use loom::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub(in crate::domain) use std::sync::atomic::{AtomicU64, Ordering, fence};
