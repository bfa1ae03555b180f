//! The ring as a crate of its own, for what would take too long with all of the server around it. In this folder:
//!
//! - `RUSTFLAGS="--cfg loom" cargo test --release`: every interleaving.
//! - `cargo test --release -- --ignored --nocapture --test-threads 1`: how fast it is.

#[path = "../mod.rs"]
pub mod ring;
