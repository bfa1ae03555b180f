//! Names of connections.

/// Names a connection of one shard. An id is never used again: its index is reused, its generation is not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct ConnId {
    index: u32,
    generation: u32,
}

impl ConnId {
    /// The id of the connection with this index, among those that have had the index.
    pub(super) fn new(index: u32, generation: u32) -> Self {
        Self { index, generation }
    }

    /// The connection's index, small and dense: for tables beside [`Connections`](super::Connections).
    #[must_use]
    pub fn index(self) -> usize {
        self.index as usize
    }

    /// [`ConnId::index`] as the number that [`ConnId::new`] takes.
    pub(super) fn place(self) -> u32 {
        self.index
    }

    /// A number that no other connection of the shard has.
    #[must_use]
    pub fn number(self) -> u64 {
        u64::from(self.index) << 32 | u64::from(self.generation)
    }
}
