//! Chooses the domain to end when all domains together exceed their memory limit. Sans-IO: bytes and times in, an index
//! out.
//!
//! The domain that has grown is ended, not the largest one. A tenant with a large but constant table must not be ended
//! because a small tenant has a leak. Growth is measured against the domain's own level, which is its mean over the
//! last minute. Growth below a domain's own tolerance does not count; if no domain has grown, the largest is ended.

use std::time::{Duration, Instant};

/// The number of samples of a level, and the interval between them.
const SAMPLES: usize = 12;
const SAMPLE_EVERY: Duration = Duration::from_secs(5);
/// Growth below this fraction of the limit, or below this fraction of the domain's own level, does not count.
const LIMIT_TOLERANCE: u64 = 64;
const LEVEL_TOLERANCE: u64 = 8;

/// The memory of one domain over the last minute. During the first minute, the time before the start counts as no memory:
/// everything that a young domain uses is growth.
#[derive(Debug, Default)]
pub(super) struct Level {
    samples: [u64; SAMPLES],
    at: usize,
    next: Option<Instant>,
}

impl Level {
    /// Mean of the last minute, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.samples.iter().map(|bytes| bytes / SAMPLES as u64).sum()
    }

    /// Records that the domain uses `bytes` bytes at `now`. May be called at any rate; a sample is taken every
    /// [`SAMPLE_EVERY`].
    pub(super) fn add(&mut self, now: Instant, bytes: u64) {
        let mut next = *self.next.get_or_insert(now + SAMPLE_EVERY);
        // After a pause, the present value fills all missed samples.
        for _ in 0..SAMPLES {
            if now < next {
                break;
            }
            if let Some(sample) = self.samples.get_mut(self.at) {
                *sample = bytes;
            }
            self.at = (self.at + 1) % SAMPLES;
            next += SAMPLE_EVERY;
        }
        self.next = Some(if next > now { next } else { now + SAMPLE_EVERY });
    }
}

/// The memory of a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Use {
    /// The bytes that the domain uses.
    pub(super) bytes: u64,
    /// The recent level in bytes: [`Level::bytes`].
    pub(super) level: u64,
}

/// The reason why a domain is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blame {
    /// The domain has grown by the most bytes.
    Grown,
    /// No domain has grown, and this one is the largest.
    Largest,
}

/// The index of the domain to end, if the domains together use more than `limit` bytes.
pub(super) fn culprit(limit: u64, uses: &[Use]) -> Option<(usize, Blame)> {
    let sum = uses.iter().fold(0_u64, |sum, of| sum.saturating_add(of.bytes));
    if sum <= limit {
        return None;
    }
    let grown = uses.iter().enumerate().filter_map(|(index, of)| {
        let growth = of.bytes.saturating_sub(of.level);
        (growth > (limit / LIMIT_TOLERANCE).max(of.level / LEVEL_TOLERANCE)).then_some((growth, index))
    });
    let largest = || uses.iter().enumerate().max_by_key(|(_, of)| of.bytes).map(|(index, _)| (index, Blame::Largest));
    grown.max().map(|(_, index)| (index, Blame::Grown)).or_else(largest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// The chosen domain among (bytes, level), in MiB.
    fn found(limit: u64, uses: &[(u64, u64)]) -> Option<(usize, Blame)> {
        let uses: Vec<Use> = uses.iter().map(|(bytes, level)| Use { bytes: bytes * MIB, level: level * MIB }).collect();
        culprit(limit * MIB, &uses)
    }

    #[test]
    fn the_domain_that_has_grown_ends_and_not_the_large_one() {
        for (limit, uses, expected) in [
            (4096, &[][..], None),
            (4096, &[(2048, 2048), (2048, 0)], None),
            // A constant tenant, and a small one with a leak.
            (2304, &[(2048, 2048), (300, 20)], Some((1, Blame::Grown))),
            (2304, &[(2060, 2048), (300, 20), (10, 10)], Some((1, Blame::Grown))),
            // A domain whose memory varies by an eighth of its level has not grown.
            (2304, &[(2300, 2048), (100, 20)], Some((1, Blame::Grown))),
            (2304, &[(2340, 2048), (100, 20)], Some((0, Blame::Grown))),
            // Of two growing domains, the one that has grown by more bytes.
            (1000, &[(700, 100), (500, 10)], Some((0, Blame::Grown))),
            (1000, &[(505, 100), (500, 10)], Some((1, Blame::Grown))),
            // A large constant domain is ended when a small one exceeds the limit within its normal variation.
            (2304, &[(1900, 1900), (400, 400), (25, 20)], Some((0, Blame::Largest))),
            (2304, &[(1900, 2000), (500, 500)], Some((0, Blame::Largest))),
            // Right after the start all memory is growth.
            (1000, &[(600, 0), (500, 0)], Some((0, Blame::Grown))),
            (0, &[(u64::MAX / MIB, 0), (u64::MAX / MIB, 0)], Some((1, Blame::Grown))),
        ] {
            assert_eq!(found(limit, uses), expected, "{limit} {uses:?}");
        }
    }

    #[test]
    fn a_level_is_the_mean_of_the_last_minute() {
        let start = Instant::now();
        let mut level = Level::default();
        let at = |ms: u64| start + Duration::from_millis(ms);
        for tick in 0..240 {
            level.add(at(250 * tick), 1200);
        }
        assert_eq!(level.bytes(), 1100, "eleven samples in 59.75 s");
        level.add(at(60_000), 1200);
        assert_eq!(level.bytes(), 1200);
        // A leak is measured against the level before it.
        for tick in 240..280 {
            level.add(at(250 * tick), 12_000);
        }
        assert_eq!(level.bytes(), 1200 + 10_800 / 12);
        // After a pause of any length.
        level.add(at(10_000_000), 24);
        assert_eq!(level.bytes(), 24);
        level.add(at(10_004_999), 2400);
        assert_eq!(level.bytes(), 24);
    }
}
