//! WebSocket (RFC 6455), clause by clause, from outside, by frames made by hand. The cases are grouped as the Autobahn test
//! suite groups its own: 1 to 7, 9, 10, 12 and 13 (its groups 8 and 11 have no cases). `docs/conformance.md` lists every test here.

#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

mod closing;
mod control;
mod deflate;
mod fragments;
mod framing;
mod handshake;
mod limits;
mod peer;
mod text;
mod zlib;
