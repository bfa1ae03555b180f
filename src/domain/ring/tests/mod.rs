//! Tests of the ring as two processes see it: each side has its own mapping.

mod basic;
mod hostile;
mod property;
mod stress;
mod throughput;

use super::{Consumer, Producer, Region, RingSpec};
use std::sync::Arc;

/// The same memory, mapped a second time.
fn mapped_again(region: &Region, spec: RingSpec) -> Arc<Region> {
    let fd = region.fd().try_clone_to_owned().unwrap();
    Arc::new(Region::open(fd, spec.offset + spec.total_bytes()).unwrap())
}

/// Both ends of a ring, and the region as the producer sees it.
fn ring(data_bytes: usize) -> (Producer, Consumer, Arc<Region>) {
    let spec = RingSpec { offset: RingSpec::ALIGN, data_bytes };
    let region = Arc::new(Region::create(spec.offset + spec.total_bytes()).unwrap());
    let producer = Producer::new(&region, spec).unwrap();
    let consumer = Consumer::new(&mapped_again(&region, spec), spec).unwrap();
    (producer, consumer, region)
}

fn publish(producer: &mut Producer) {
    if producer.publish() {
        producer.wake();
    }
}

/// All byte values, twice: the source of numbered records.
const NUMBERS: [u8; 512] = {
    let (mut bytes, mut at) = ([0; 512], 0);
    while at < bytes.len() {
        bytes[at] = at as u8;
        at += 1;
    }
    bytes
};

/// A record whose length and content follow from its number.
fn numbered(number: u64, into: &mut Vec<u8>) {
    into.clear();
    into.extend_from_slice(&number.to_le_bytes());
    let more = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize;
    let first = usize::from(number as u8);
    into.extend_from_slice(&NUMBERS[first..first + more]);
}
