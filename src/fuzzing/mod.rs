//! The bodies of the fuzz targets: functions that take any bytes and check properties, not only that nothing crashes.
//!
//! They are compiled into unit tests and into fuzzers (`cfg(fuzzing)`), never into the server. `fuzz/` has one binary for
//! each of [`TARGETS`]; [`smoke`] runs the same functions on stable, over their corpora and over mutated inputs of a fixed
//! seed. Inputs are plain protocol text wherever that is possible: where to cut them and whom to answer first is derived
//! from a hash of the input, so a corpus file reads like what it tests.

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

/// Takes any bytes; panics if a property does not hold.
pub type Target = fn(&[u8]);

/// All targets by their names, which are those of the binaries and corpora in `fuzz/`.
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

/// Numbers that follow from a seed (xorshift64*).
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// Numbers that follow from `data` (FNV-1a).
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

    /// Less than `end`, or 0 if that is 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() >> 16) as usize % end.max(1)
    }
}

/// The ways to cut `data` that a target tries besides none: at every byte if it is short, and at a few places.
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
