//! Rooms: which of the shard's WebSockets get a published message.
//!
//! A room belongs to the domain of the socket's module, so that modules of another domain can neither receive nor send its
//! messages. A room exists while it has members. A message comes to each shard once, encoded, and all its sockets share it;
//! messages that arrive together are sent together, with one system call for each socket.

use super::Shard;
use crate::abi::rooms::ROOM_BYTES_MAX;
use crate::id_map::{IdMap, IdSet};
use crate::net::Connections;
use crate::proto::ws::{Deflate, Encoded};
use std::collections::HashMap;
use std::sync::Arc;

/// Limit, in bytes, on the messages for one room that are sent together.
const TOGETHER_BYTES_MAX: usize = 64 * 1024;

/// Sending a message to this many sockets takes a millisecond or more.
const MANY_MEMBERS: usize = 256;

/// Messages for one room that wait to be sent, at most until the end of the batch.
#[derive(Debug)]
struct Published {
    domain: Arc<str>,
    room: Box<[u8]>,
    messages: Vec<Encoded>,
    /// The size of the messages, uncompressed.
    bytes: usize,
}

/// The frames of several messages in one buffer, for each kind of socket.
struct Joined {
    messages: Vec<Encoded>,
    plain: Arc<[u8]>,
    /// For sockets with compression, by the bits of their windows.
    deflated: Vec<(u8, Arc<[u8]>)>,
}

impl Joined {
    fn new(messages: Vec<Encoded>) -> Self {
        let plain = joined(&messages, |message| &message.plain);
        Self { messages, plain, deflated: Vec::new() }
    }

    /// The frames for a socket with the compression `deflate`.
    fn of(&mut self, deflate: Option<Deflate>) -> &Arc<[u8]> {
        let Some(deflate) = deflate else { return &self.plain };
        let bits = deflate.window_bits();
        let place = self.deflated.iter().position(|(known, _)| *known == bits).unwrap_or_else(|| {
            let frames = joined(&self.messages, |message| message.frame(Some(deflate)));
            self.deflated.push((bits, frames));
            self.deflated.len() - 1
        });
        self.deflated.get(place).map_or(&self.plain, |(_, frames)| frames)
    }
}

fn joined(messages: &[Encoded], frame: impl Fn(&Encoded) -> &Arc<[u8]>) -> Arc<[u8]> {
    match messages {
        [message] => Arc::clone(frame(message)),
        messages => messages.iter().map(|message| &**frame(message)).collect::<Vec<&[u8]>>().concat().into(),
    }
}

/// The rooms of one socket.
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
    published: Option<Published>,
}

impl Rooms {
    /// Adds a socket of a module in `domain` to `room`, unless it is in `rooms_max` rooms already.
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

    /// Removes a closed socket from all its rooms.
    pub(super) fn leave_all(&mut self, key: u64) {
        let Some(Membership { domain, rooms }) = self.of_sockets.remove(&key) else { return };
        for room in rooms {
            self.remove(key, &domain, &room);
        }
    }

    /// Moves a socket's membership to the rooms with the same names in `domain`, where its module runs now.
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
    /// Handles a module's request to add a socket to a room, or to remove it.
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

    /// Handles a message that a module of `domain` publishes in a room. Messages for one room that arrive together are sent
    /// together.
    pub(super) fn publish(
        &mut self,
        connections: &mut Connections,
        domain: Arc<str>,
        room: Box<[u8]>,
        message: Encoded,
    ) {
        let joins = |last: &Published| last.domain == domain && last.room == room && last.bytes < TOGETHER_BYTES_MAX;
        if self.rooms.published.as_ref().is_some_and(|last| !joins(last)) {
            self.send_published(connections);
        }
        let fresh = || Published { domain, room, messages: Vec::new(), bytes: 0 };
        let published = self.rooms.published.get_or_insert_with(fresh);
        published.bytes += message.plain.len();
        published.messages.push(message);
    }

    /// Sends the published messages. Must precede any other change of sockets or rooms, because a module's calls take
    /// effect in their order.
    pub(super) fn send_published(&mut self, connections: &mut Connections) {
        let Some(Published { domain, room, messages, .. }) = self.rooms.published.take() else { return };
        let limit = self.limits.ws_queue_bytes_max;
        let (count, mut sent) = (messages.len() as u64, 0);
        let mut joined = Joined::new(messages);
        for key in self.rooms.members(&domain, &room) {
            let Some((conn, deflate)) = self.sockets.receiver(key) else { continue };
            let frames = joined.of(deflate);
            // A socket that takes everything at once is visited only once: with 10,000 sockets, none is in a cache the
            // second time.
            let taken = if frames.len() <= limit { connections.send_now(conn, frames) } else { 0 };
            if taken == frames.len() {
                sent += count;
                continue;
            }
            let frames = Arc::clone(frames);
            self.queue_frames(connections, key, count, frames.len(), |outbox| outbox.push_rest(frames, taken));
        }
        self.stats.ws_messages_out(sent);
    }

    /// Whether a message is for so many sockets that waiting for further messages costs less than sending twice.
    pub(super) fn publishes_to_many(&self) -> bool {
        self.rooms.published.as_ref().is_some_and(|published| {
            let members = self.rooms.members.get(&published.domain).and_then(|rooms| rooms.get(&published.room));
            members.is_some_and(|members| members.len() >= MANY_MEMBERS)
        })
    }

    /// After a swap: modules may run in other domains now.
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
    fn messages_are_joined_once_for_each_kind_of_socket() {
        let message =
            |text: &[u8], deflated: Option<&[u8]>| Encoded { plain: text.into(), deflated: deflated.map(Arc::from) };
        let bits = |bits: u8| Deflate::with_window(bits);
        let long = vec![b'x'; 300];
        let mut joined =
            Joined::new(vec![message(b"a", None), message(&long, Some(&b"long"[..])), message(b"b", Some(&b"B"[..]))]);
        assert_eq!(joined.of(None)[..], [&b"a"[..], &long, b"b"].concat());
        assert_eq!(joined.of(bits(15))[..], b"alongB"[..]);
        assert_eq!(joined.of(bits(8))[..], [&b"a"[..], &long, b"B"].concat(), "300 bytes do not fit into the window");
        assert!(Arc::ptr_eq(&Arc::clone(joined.of(bits(15))), joined.of(bits(15))), "once");
        let one = message(b"one", None);
        assert!(Arc::ptr_eq(Joined::new(vec![one.clone()]).of(None), &one.plain), "a single message is not copied");
    }

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
