//! The shared memory, and the records that a hostile process may send through it.

use super::Random;
use crate::domain::process::fuzz::{Hostile, HostileStreams};

/// The input is the steps of a producer, a consumer and a peer that writes to any place.
pub fn ring(data: &[u8]) {
    crate::domain::ring::fuzz::steps(data);
}

/// The input is records of a hostile process, each preceded by its length in two octets. No record may harm the server, and
/// their results must be whole answers to requests that were sent.
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

/// The input is steps of a hostile process with streams, and of the shard and its clients. Each request must have one outcome,
/// no byte outside a pipe may be read, and every stream must have ended when the process dies.
pub fn stream_records(data: &[u8]) {
    HostileStreams::new(Random::of(data)).run(data);
}
