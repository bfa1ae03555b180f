//! HTTP/1.1 (RFC 9110, RFC 9112), clause by clause, from outside. `docs/conformance.md` lists every test here.

#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

mod answers;
mod bodies;
mod connections;
mod expectations;
mod files;
mod framing;
mod lines;
mod methods;
mod raw;
mod targets;
