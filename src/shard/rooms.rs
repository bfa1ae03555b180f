//! Rooms: which of the shard's WebSockets get what is published.
//!
//! A room belongs to the domain that the socket's module runs in, so that modules of another domain neither hear nor fill
//! it. It is there while somebody is in it. A message comes once to each shard, encoded, and is shared by all its sockets.

use super::Shard;
use crate::abi::rooms::ROOM_BYTES_MAX;
use crate::id_map::{IdMap, IdSet};
use crate::net::Connections;
use crate::proto::ws::Encoded;
use std::collections::HashMap;
use std::sync::Arc;

/// What one socket is in.
#[derive(Debug)]
struct Membership {
    domain: Arc<str>,
    rooms: Vec<Box<[u8]>>,
}

/// The rooms of one shard.
#[derive(Debug, Default)]
pub(super) struct Rooms {
    members: HashMap<Arc<str>, HashMap<Box<[u8]>, IdSet>>,
    of_sockets: IdMap<Membership>,
}

impl Rooms {
    /// Puts a socket, which is served in `domain`, into `room`, unless it is in `rooms_max` already.
    fn join(&mut self, key: u64, domain: &str, room: &[u8], rooms_max: usize) {
        let fresh = || Membership { domain: Arc::from(domain), rooms: Vec::new() };
        let membership = self.of_sockets.entry(key).or_insert_with(fresh);
        if membership.rooms.len() >= rooms_max || membership.rooms.iter().any(|known| **known == *room) {
            return;
        }
        membership.rooms.push(room.into());
        let rooms = self.members.entry(Arc::clone(&membership.domain)).or_default();
        rooms.entry(room.into()).or_default().insert(key);
    }

    fn remove(&mut self, key: u64, domain: &str, room: &[u8]) {
        let Some(rooms) = self.members.get_mut(domain) else { return };
        if let Some(members) = rooms.get_mut(room) {
            members.remove(&key);
            if members.is_empty() {
                rooms.remove(room);
            }
        }
        if rooms.is_empty() {
            self.members.remove(domain);
        }
    }

    fn leave(&mut self, key: u64, room: &[u8]) {
        let Some(membership) = self.of_sockets.get_mut(&key) else { return };
        let Some(at) = membership.rooms.iter().position(|known| **known == *room) else { return };
        membership.rooms.swap_remove(at);
        let domain = Arc::clone(&membership.domain);
        if membership.rooms.is_empty() {
            self.of_sockets.remove(&key);
        }
        self.remove(key, &domain, room);
    }

    /// A socket is gone.
    pub(super) fn leave_all(&mut self, key: u64) {
        let Some(Membership { domain, rooms }) = self.of_sockets.remove(&key) else { return };
        for room in rooms {
            self.remove(key, &domain, &room);
        }
    }

    /// The socket's module runs in `domain` from now on: its rooms are those of the same names there.
    fn moved(&mut self, key: u64, domain: &str) {
        if self.of_sockets.get(&key).is_none_or(|membership| *membership.domain == *domain) {
            return;
        }
        let Some(membership) = self.of_sockets.remove(&key) else { return };
        for room in membership.rooms {
            self.remove(key, &membership.domain, &room);
            self.join(key, domain, &room, usize::MAX);
        }
    }

    fn members(&self, domain: &str, room: &[u8]) -> Vec<u64> {
        let members = self.members.get(domain).and_then(|rooms| rooms.get(room));
        members.into_iter().flatten().copied().collect()
    }
}

impl Shard {
    /// A module puts a socket into a room, or takes it out.
    pub(super) fn socket_room(&mut self, key: u64, room: &[u8], joins: bool) {
        if room.is_empty() || room.len() > ROOM_BYTES_MAX {
            return;
        }
        if !joins {
            return self.rooms.leave(key, room);
        }
        let rooms_max = self.limits.ws_rooms_max;
        if let Some(domain) = self.domain_of_socket(key) {
            self.rooms.join(key, &domain, room, rooms_max);
        }
    }

    /// A module of `domain` sends one message to a room.
    pub(super) fn publish(&mut self, connections: &mut Connections, domain: &str, room: &[u8], message: &Encoded) {
        for key in self.rooms.members(domain, room) {
            let frame = message.frame(self.deflate_of_socket(key));
            self.queue_frame(connections, key, frame.len(), |outbox| outbox.push_shared(Arc::clone(frame)));
        }
    }

    /// After a swap: modules may have moved to other domains.
    pub(super) fn rooms_after_swap(&mut self) {
        let keys: Vec<u64> = self.rooms.of_sockets.keys().copied().collect();
        for key in keys {
            if let Some(domain) = self.domain_of_socket(key) {
                self.rooms.moved(key, &domain);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_are_there_while_somebody_is_in_them() {
        let mut rooms = Rooms::default();
        for key in [1, 2] {
            rooms.join(key, "a", b"x", 2);
            rooms.join(key, "a", b"x", 2);
        }
        rooms.join(1, "a", b"y", 2);
        rooms.join(1, "a", b"z", 2);
        rooms.join(3, "b", b"x", 2);
        let members = |rooms: &Rooms, domain: &str, room: &[u8]| {
            let mut members = rooms.members(domain, room);
            members.sort_unstable();
            members
        };
        assert_eq!(members(&rooms, "a", b"x"), [1, 2]);
        assert_eq!(members(&rooms, "a", b"z"), [0; 0], "beyond the limit");
        assert_eq!(members(&rooms, "b", b"x"), [3]);
        rooms.leave(1, b"x");
        rooms.leave(1, b"x");
        rooms.leave(9, b"x");
        assert_eq!(members(&rooms, "a", b"x"), [2]);
        rooms.moved(1, "a");
        assert_eq!(members(&rooms, "a", b"y"), [1]);
        rooms.moved(2, "b");
        assert_eq!((members(&rooms, "a", b"x"), members(&rooms, "b", b"x")), (vec![], vec![2, 3]));
        for key in [1, 2, 3, 3] {
            rooms.leave_all(key);
        }
        assert!(rooms.members.is_empty() && rooms.of_sockets.is_empty());
    }
}
