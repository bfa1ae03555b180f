//! The shared memory and what a hostile process may send through it.

use super::Random;
use crate::domain::process::fuzz::{Hostile, HostileStreams};

/// The input is the steps of a producer, a consumer and a peer that writes anywhere.
pub fn ring(data: &[u8]) {
    crate::domain::ring::fuzz::steps(data);
}

/// The input is records of a hostile process, each behind its length in two octets: none harms the server, and what
/// becomes of them are whole answers to requests that were asked.
pub fn domain_records(data: &[u8]) {
    let mut hostile = Hostile::new(Random::of(data));
    let mut rest = data;
    while let Some(([low, high], behind)) = rest.split_first_chunk::<2>() {
        let (record, behind) = behind.split_at(usize::from(u16::from_le_bytes([*low, *high])).min(behind.len()));
        rest = behind;
        hostile.send(record);
    }
    hostile.end();
}

/// The input is steps of a hostile process with streams, and of the shard and the clients beside it: each request has one
/// outcome, nothing outside of a pipe is read, and when the process dies every stream has ended.
pub fn stream_records(data: &[u8]) {
    HostileStreams::new(Random::of(data)).run(data);
}
