//! Maps by numbers that the server itself has given: tickets of calls, keys of sockets, modules that are loaded.
//!
//! Nobody outside chooses what is in them, so their hash need not resist an attacker, and can be a fast one: a request to a
//! process of modules looks such numbers up four times, a message of a WebSocket there seven times.

use foldhash::fast::FixedState;
use std::collections::{HashMap, HashSet};

/// A map by numbers of the server's own.
pub type IdMap<T> = HashMap<u64, T, FixedState>;

/// A set of numbers of the server's own.
pub type IdSet = HashSet<u64, FixedState>;
