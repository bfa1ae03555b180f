//! The atomics of this folder, and of the pipes in its memory: those of the standard library, or those of loom when it
//! explores the interleavings.

#[cfg(loom)]
pub(in crate::domain) use loom::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub(in crate::domain) use std::sync::atomic::{AtomicU64, Ordering, fence};
