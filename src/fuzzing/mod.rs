//! The bodies of the fuzz targets: functions that take any bytes and check properties, not only that nothing crashes.
//!
//! The functions are compiled into unit tests and into fuzzers (`cfg(fuzzing)`), never into the server. `fuzz/` has one binary
//! for each of [`TARGETS`]. [`smoke`] runs the same functions on stable Rust, over their corpora and over inputs mutated with a
//! fixed seed. Inputs are plain protocol text wherever possible. A hash of the input decides where to cut it and which request
//! to answer first, so a corpus file reads like the case that it tests.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A property that does not hold is a panic here.

mod chunked_body;
mod connection;
mod forms;
#[cfg(test)]
mod guard;
mod job_json;
mod request_head;
mod requests;
mod ring;
#[cfg(test)]
mod smoke;
mod websocket;

pub use chunked_body::chunked_body;
pub use connection::connection;
pub use forms::{multipart, multipart_stream, urlencoded};
pub use job_json::job_json;
pub use request_head::request_head;
pub use ring::{domain_records, ring, stream_records};
pub use websocket::{websocket, websocket_deflate};

/// A fuzz target: takes any bytes, and panics if a property does not hold.
pub type Target = fn(&[u8]);

/// All targets by name; the binaries and corpora in `fuzz/` have the same names.
pub const TARGETS: [(&str, Target); 12] = [
    ("request_head", request_head),
    ("chunked_body", chunked_body),
    ("multipart", multipart),
    ("multipart_stream", multipart_stream),
    ("urlencoded", urlencoded),
    ("websocket", websocket),
    ("websocket_deflate", websocket_deflate),
    ("job_json", job_json),
    ("ring", ring),
    ("domain_records", domain_records),
    ("stream_records", stream_records),
    ("connection", connection),
];

/// Pseudo-random numbers determined by a seed (xorshift64*).
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// Pseudo-random numbers determined by `data` (FNV-1a).
    pub(crate) fn of(data: &[u8]) -> Self {
        Self::new(
            data.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
            }),
        )
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`, or 0 if `end` is 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() >> 16) as usize % end.max(1)
    }
}

/// The ways in which a target cuts `data`, besides not at all: at every byte if `data` is short, and at a few places.
fn ways_to_cut(data: &[u8]) -> Vec<Vec<usize>> {
    const EVERY_BYTE_MAX: usize = 600;
    let mut random = Random::of(data);
    let count = 1 + random.below(6);
    let mut few: Vec<usize> = (0..count).map(|_| random.below(data.len() + 1)).collect();
    few.sort_unstable();
    let mut ways = vec![few];
    if data.len() <= EVERY_BYTE_MAX {
        ways.push((1..data.len()).collect());
    }
    ways
}

/// The pieces of `data` that end at `cuts`.
fn pieces<'a>(data: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut at = 0;
    let ends = cuts.iter().copied().chain(std::iter::once(data.len()));
    let all = ends.map(|end| {
        let piece = &data[at..end];
        at = end;
        piece
    });
    all.filter(|piece| !piece.is_empty()).collect()
}
