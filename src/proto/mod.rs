//! Sans-IO protocol machines: bytes in, events and bytes out.
//!
//! This layer has no sockets, clocks or threads and imports no other layer. A shard, a unit test and a fuzzer run the same types.

pub mod form;
pub mod forwarded;
pub mod http1;
pub mod mime;
pub mod ws;
