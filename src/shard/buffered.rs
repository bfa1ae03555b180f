//! Reports to modules how many bytes a WebSocket's connection has not taken.
//!
//! Where modules run in this process, the shard updates a socket's counter directly. A domain's process gets records:
//! during a backlog, one for each `STEP_BYTES` taken or changed, and another with the regular look at the socket.

use super::Shard;
use crate::net::{ConnId, Connections};

/// A connection that holds fewer bytes than this counts as empty: a record for each message would cost more than it helps.
const UNSENT_BYTES_MIN: usize = 16 * 1024;

/// Bytes taken, or change of the unsent bytes, that lead to the next record.
const STEP_BYTES: usize = 64 * 1024;

/// The counters of one socket.
#[derive(Debug, Default)]
pub(super) struct Buffered {
    /// Bytes taken from the module since the last record to its process.
    taken: usize,
    /// Unsent bytes in the last record.
    unsent: usize,
}

impl Buffered {
    /// Counts a frame for this socket that was taken from the module.
    pub(super) fn take(&mut self, bytes: usize) {
        self.taken += bytes;
    }

    /// The next record to the domain's process, if one is due: bytes taken since the last record, and bytes unsent.
    fn step(&mut self, unsent: usize, is_look: bool) -> Option<(usize, usize)> {
        // A new process did not get the records of its predecessor, so the look sends it a first record.
        let changed = unsent.abs_diff(self.unsent) >= STEP_BYTES || (unsent == 0) != (self.unsent == 0);
        let due = changed || self.taken >= STEP_BYTES || is_look && (self.taken > 0 || unsent > 0);
        due.then(|| {
            self.unsent = unsent;
            (std::mem::take(&mut self.taken), unsent)
        })
    }
}

impl Shard {
    /// Sends the next record if one is due. Called when data was queued or sent on the connection of socket `key`;
    /// `is_look` marks the regular look.
    pub(super) fn tell_buffered(&mut self, connections: &mut Connections, key: u64, conn: ConnId, is_look: bool) {
        let Some(state) = self.sockets.get_mut(key) else { return };
        let unsent = match connections.unsent(conn) {
            0..UNSENT_BYTES_MIN => 0,
            unsent => unsent,
        };
        if unsent > 0 {
            connections.await_sent(conn);
        }
        if self.local.is_some() {
            state.handle().set_unsent(unsent);
        } else if let Some((taken, unsent)) = state.buffered().step(unsent, is_look) {
            self.remote.buffered(key, taken, unsent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_of_what_is_worth_it() {
        let mut buffered = Buffered::default();
        buffered.take(1000);
        assert_eq!(buffered.step(0, false), None, "small messages to a quick reader");
        assert_eq!(buffered.step(0, true), Some((1000, 0)), "the regular look");
        assert_eq!(buffered.step(0, true), None);
        buffered.take(20_000);
        assert_eq!(buffered.step(20_000, false), Some((20_000, 20_000)), "a backlog begins");
        buffered.take(40_000);
        assert_eq!(buffered.step(60_000, false), None);
        buffered.take(40_000);
        assert_eq!(buffered.step(100_000, false), Some((80_000, 100_000)));
        assert_eq!((buffered.step(50_000, false), buffered.step(50_000, true)), (None, Some((0, 50_000))));
        assert_eq!(buffered.step(0, false), Some((0, 0)), "it ends");
    }
}
