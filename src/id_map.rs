//! Maps whose keys are numbers that the server assigns: tickets of calls, keys of sockets, numbers of loaded modules.
//!
//! No client or module chooses these keys, so the hash function can be fast instead of resistant to collisions. A request to a
//! domain's process needs four look-ups in such maps, and a message of a WebSocket needs seven.

use foldhash::fast::FixedState;
use std::collections::{HashMap, HashSet};

/// A map whose keys are numbers that the server assigns.
pub type IdMap<T> = HashMap<u64, T, FixedState>;

/// A set of numbers that the server assigns.
pub type IdSet = HashSet<u64, FixedState>;
