//! The ring and the pipes of streams as a crate of their own, for tests that would take too long with the whole server. In
//! this folder:
//!
//! - `RUSTFLAGS="--cfg loom" cargo test --release`: every interleaving.
//! - `cargo test --release -- --ignored --nocapture --test-threads 1`: how fast the ring is.

#[path = "../.."]
pub mod domain {
    #[path = "ring/mod.rs"]
    pub mod ring;

    #[cfg(all(test, loom))]
    #[allow(dead_code)] // The models use a part of it.
    #[path = "stream"]
    mod stream {
        #[path = "loom.rs"]
        mod models;
        #[path = "pipe.rs"]
        mod pipe;
    }
}
