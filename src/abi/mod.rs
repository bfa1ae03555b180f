//! The `repr(C)` mirror of `include/` and the services that modules call.
//!
//! The only room with `extern "C"`. What crosses the C boundary is described here once; nothing above
//! this room sees a C type other than through it.

pub mod manifest;
