//! Copies bytes to and from shared words.
//!
//! A record at the end of the data area continues at its start, instead of being kept contiguous by padding. Everything
//! is copied anyway, because the other side may change it at any time, so contiguity gains nothing. Padding could waste
//! a quarter of the ring, and a hostile peer could forge it. The copies are relaxed 64-bit atomics, which are plain
//! moves for the processor. A non-atomic copy of memory that another process may be writing is a data race.

use super::atomic::{AtomicU64, Ordering};
use super::spec::WORD_BYTES;
use std::iter::zip;
use std::mem::MaybeUninit;

/// Writes bytes that come in parts, as words, into a circular area.
pub(super) struct Gather<'a> {
    data: &'a [AtomicU64],
    /// Index of the next word; always less than the length of `data`.
    at: usize,
    /// Bytes that don't fill a word yet, in the lowest bits, and the number of these bits (at most 56).
    carry: u64,
    carry_bits: u32,
}

impl<'a> Gather<'a> {
    /// Starts at word `at` of `data`, whose length is a power of two.
    pub(super) fn new(data: &'a [AtomicU64], at: usize) -> Self {
        Self { data, at, carry: 0, carry_bits: 0 }
    }

    pub(super) fn part(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<WORD_BYTES>();
        self.words(words);
        self.rest(rest);
    }

    pub(super) fn finish(self) {
        if self.carry_bits > 0 {
            self.data[self.at].store(self.carry, Ordering::Relaxed);
        }
    }

    fn words(&mut self, mut words: &[[u8; WORD_BYTES]]) {
        while !words.is_empty() {
            let run = &self.data[self.at..];
            let (now, later) = words.split_at(words.len().min(run.len()));
            for (slot, bytes) in zip(run, now) {
                let word = u64::from_le_bytes(*bytes);
                slot.store(self.carry | word << self.carry_bits, Ordering::Relaxed);
                self.carry = spill(word, self.carry_bits);
            }
            self.at = (self.at + now.len()) & (self.data.len() - 1);
            words = later;
        }
    }

    /// Adds fewer bytes than a word.
    fn rest(&mut self, bytes: &[u8]) {
        let mut padded = [0; WORD_BYTES];
        padded[..bytes.len()].copy_from_slice(bytes);
        let word = u64::from_le_bytes(padded);
        let bits = self.carry_bits + 8 * bytes.len() as u32;
        let joined = self.carry | word << self.carry_bits;
        if bits < u64::BITS {
            (self.carry, self.carry_bits) = (joined, bits);
            return;
        }
        self.data[self.at].store(joined, Ordering::Relaxed);
        self.at = (self.at + 1) & (self.data.len() - 1);
        (self.carry, self.carry_bits) = (spill(word, self.carry_bits), bits - u64::BITS);
    }
}

/// The bits of `word` that a left shift by `bits` pushes out. There are two shifts, because a shift by 64 isn't allowed.
fn spill(word: u64, bits: u32) -> u64 {
    (word >> 1) >> (u64::BITS - 1 - bits)
}

/// Appends to `into` the `bytes` bytes that start at word `at` of the circular area, which must contain them.
pub(super) fn scatter(data: &[AtomicU64], at: usize, bytes: usize, into: &mut Vec<u8>) {
    let words = bytes.div_ceil(WORD_BYTES);
    into.reserve(words * WORD_BYTES);
    let (spare, _) = into.spare_capacity_mut().as_chunks_mut::<WORD_BYTES>();
    let (first, second) = spare[..words].split_at_mut(words.min(data.len() - at));
    copy_run(&data[at..], first);
    copy_run(&data[..second.len()], second);
    // SAFETY: the two runs wrote `words` words, so at least `bytes` bytes, beyond the old length, within the capacity.
    unsafe { into.set_len(into.len() + bytes) }
}

fn copy_run(from: &[AtomicU64], to: &mut [[MaybeUninit<u8>; WORD_BYTES]]) {
    for (slot, bytes) in zip(from, to) {
        *bytes = slot.load(Ordering::Relaxed).to_le_bytes().map(MaybeUninit::new);
    }
}
