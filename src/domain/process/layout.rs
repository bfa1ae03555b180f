//! The positions of a domain's rings in its shared memory: both processes compute the same.

use crate::domain::ring::RingSpec;
use crate::domain::running::BOARD_WORDS;

/// The size of the ring to the domain, for each shard, in bytes.
const TO_DOMAIN_BYTES: usize = 1024 * 1024;
/// The size of the ring to the server, for each shard, in bytes.
const TO_SERVER_BYTES: usize = 2 * 1024 * 1024;

/// The rings of a domain for a number of shards.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    shards: usize,
}

fn placed(offset: usize, data_bytes: usize) -> (RingSpec, usize) {
    let spec = RingSpec { offset, data_bytes };
    (spec, (offset + spec.total_bytes()).next_multiple_of(RingSpec::ALIGN))
}

impl Layout {
    pub(super) fn new(shards: usize) -> Self {
        Self { shards }
    }

    fn pair(shard: usize) -> (RingSpec, RingSpec, usize) {
        let (_, first_end) = placed(0, TO_DOMAIN_BYTES);
        let (_, pair_bytes) = placed(first_end, TO_SERVER_BYTES);
        let (to_domain, end) = placed(shard * pair_bytes, TO_DOMAIN_BYTES);
        let (to_server, end) = placed(end, TO_SERVER_BYTES);
        (to_domain, to_server, end)
    }

    /// The ring in which shard number `shard` sends.
    pub(super) fn to_domain(self, shard: usize) -> RingSpec {
        Self::pair(shard).0
    }

    /// The ring in which shard number `shard` receives.
    pub(super) fn to_server(self, shard: usize) -> RingSpec {
        Self::pair(shard).1
    }

    /// The first word after all rings, at which the record of running modules begins.
    pub(super) fn board(self) -> usize {
        let end = if self.shards == 0 { 0 } else { Self::pair(self.shards - 1).2 };
        end.next_multiple_of(4096) / 8
    }

    /// The size of everything, in bytes.
    pub(super) fn bytes(self) -> usize {
        ((self.board() + BOARD_WORDS) * 8).next_multiple_of(4096)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_do_not_overlap_and_fit() {
        let layout = Layout::new(5);
        let mut end = 0;
        for shard in 0..5 {
            for spec in [layout.to_domain(shard), layout.to_server(shard)] {
                assert!(spec.offset >= end && spec.offset.is_multiple_of(RingSpec::ALIGN));
                end = spec.offset + spec.total_bytes();
            }
        }
        assert!(end <= layout.board() * 8 && layout.board() * 8 < layout.bytes());
    }
}
