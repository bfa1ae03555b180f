//! Sans-IO protocol machines: bytes in, events and bytes out.
//!
//! Nothing here knows a socket, a clock or a thread, and nothing of ours is imported; the same types run in a shard, a
//! unit test and a fuzzer.

pub mod form;
pub mod forwarded;
pub mod http1;
pub mod mime;
pub mod ws;
