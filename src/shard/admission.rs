//! Decides which connections a shard accepts.
//!
//! Clients have `--connections-max` places. A shard must always accept an operator and a health check, whatever clients do.
//! Addresses of `--admin-listen` have places of their own. On other addresses, a few connections beyond the limit may ask
//! for one of the server's own paths; if they ask for anything else, or for nothing, they get 503.

use super::Shard;
use super::conn::{Conn, Place, Serves};
use super::origin::Origin;
use super::refused::{no_memory, no_share};
use super::snapshot::ShardGen;
use crate::domain::call::GenerationRef;
use crate::net::{ConnId, Connections, Peer};
use crate::proto::http1::RequestView;
use std::collections::VecDeque;

/// Connections reserved for addresses of the server's own paths (`--admin-listen`).
const ADMIN_MAX: usize = 16;
/// Connections beyond the limits that may ask for one of the server's own paths.
const RESERVED_MAX: usize = 16;
/// Connections that are being answered with 503; further ones are reset.
const REFUSED_MAX: usize = 32;
const _: () = assert!(ADMIN_MAX + RESERVED_MAX + REFUSED_MAX <= crate::net::RESERVED_CONNECTIONS);

/// How long a connection beyond the limits may wait before its first request, in milliseconds; during a TLS handshake, the
/// longer time.
const RESERVED_WAIT_MS: u64 = 300;
const RESERVED_TLS_WAIT_MS: u64 = 3_000;

/// A shard's connections by kind.
#[derive(Debug, Default)]
pub(super) struct Places {
    clients: usize,
    admins: usize,
    refused: usize,
    /// The connections beyond the limits, the oldest first, with the time of their arrival.
    reserved: VecDeque<(ConnId, u64)>,
}

const TOO_MANY: &str = "too many connections\n";
const TOO_MANY_OF_PEER: &str = "too many connections of your address\n";

impl Shard {
    /// Decides whether a call may begin: there must be memory for a body of `body_bytes` bytes and for the answer. Returns
    /// the expected size of the answer, in bytes, or else answers with the reason in `out`.
    pub(super) fn admit_call(
        &mut self,
        origin: &Origin,
        view: &RequestView<'_>,
        generation: &ShardGen,
        route: usize,
        body_bytes: usize,
        out: &mut Vec<u8>,
    ) -> Option<usize> {
        if self.is_full(generation, body_bytes) {
            self.overloaded(origin, view, out);
            return None;
        }
        let shared = (&mut self.remote, &*self.bodies, &*self.stats);
        if !self.memory.has_share(shared, generation.instance(), body_bytes) {
            self.stats.memory_refused();
            no_share().encode(&self.meta(origin, view), out);
            return None;
        }
        let expected = generation.expected_bytes(route);
        if self.lacks_memory(expected) {
            generation.doubt(route);
            self.stats.memory_refused();
            no_memory().encode(&self.meta(origin, view), out);
            return None;
        }
        Some(expected)
    }

    /// Whether the module's domain has reached its limit on calls in flight, or the body does not fit. Each domain has a
    /// limit of its own, so that a domain that answers nothing can't use up the limit of the others.
    pub(super) fn is_full(&self, generation: &ShardGen, body_bytes: usize) -> bool {
        let (in_flight, bodies) = match &self.local {
            Some(_) => (self.in_flight, self.bodies.bytes()),
            None => {
                let instance = generation.instance();
                (self.remote.in_flight(instance), self.remote.waiting_bytes(Some(instance)))
            }
        };
        let fits = body_bytes.saturating_add(bodies) <= self.limits.bodies_bytes_max;
        in_flight >= self.limits.in_flight_max || !fits
    }

    /// Chooses the place of a new connection.
    pub(super) fn place_of(&mut self, conn: &mut Conn, peer: &Peer) -> Place {
        let places = &self.places;
        // Operators' connections beyond their own places count as clients' connections.
        let shared = places.clients + places.admins.saturating_sub(ADMIN_MAX);
        let is_full = shared >= self.limits.connections_max;
        if conn.serves == Serves::Admin {
            return if places.admins < ADMIN_MAX || !is_full { Place::Admin } else { Place::Refused };
        }
        if is_full {
            return Place::Reserved(TOO_MANY);
        }
        conn.counted = self.peers.as_ref().is_some_and(|peers| peers.enter(peer));
        if self.peers.is_some() && !conn.counted { Place::Reserved(TOO_MANY_OF_PEER) } else { Place::Client }
    }

    /// Counts a new connection in its place. Returns whether it is served.
    pub(super) fn takes_place(&mut self, connections: &mut Connections, id: ConnId, place: Place) -> bool {
        match place {
            Place::Client => self.places.clients += 1,
            Place::Admin => self.places.admins += 1,
            Place::Reserved(_) if self.has_reserve(connections) => self.places.reserved.push_back((id, self.now_ms)),
            Place::Reserved(why) => return self.turned_away(connections, id, why),
            Place::Refused => return self.turned_away(connections, id, TOO_MANY),
        }
        true
    }

    /// Whether there is room beyond the limits. If not, the oldest replaceable connection there is closed.
    fn has_reserve(&mut self, connections: &mut Connections) -> bool {
        if self.places.reserved.len() < RESERVED_MAX {
            return true;
        }
        let oldest = self.places.reserved.iter().map(|(id, _)| *id).collect::<Vec<_>>();
        let silent = oldest.into_iter().find(|id| self.conn(*id).is_none_or(|conn| may_give_way(conn)));
        silent.is_some_and(|id| {
            self.send_away(connections, id);
            true
        })
    }

    /// Answers 503 to a connection without a place, and closes it.
    fn turned_away(&mut self, connections: &mut Connections, id: ConnId, why: &str) -> bool {
        if let Some(conn) = self.conn(id) {
            conn.place = Place::Refused;
        }
        self.places.refused += 1;
        self.refuse_connection(connections, id, why);
        if self.places.refused > REFUSED_MAX {
            connections.abort(id);
        }
        false
    }

    /// Answers 503 to a connection beyond the limits, and closes it.
    fn send_away(&mut self, connections: &mut Connections, id: ConnId) {
        self.places.reserved.retain(|(known, _)| *known != id);
        let Some(Place::Reserved(why)) = self.conn(id).map(|conn| conn.place) else { return };
        if self.conn(id).is_some_and(|conn| conn.next_seq() > 0) {
            // The connection has its answer; a second one would be taken for the answer to another request.
            return connections.abort(id);
        }
        self.turned_away(connections, id, why);
        connections.close(id);
    }

    /// Closes connections beyond the limits that ask for nothing.
    pub(super) fn sweep_reserved(&mut self, connections: &mut Connections) {
        for (id, since_ms) in self.places.reserved.clone() {
            let wait_ms = if connections.is_secured(id) { RESERVED_TLS_WAIT_MS } else { RESERVED_WAIT_MS };
            let late = self.now_ms.saturating_sub(since_ms) > wait_ms;
            if late && self.conn(id).is_none_or(|conn| may_give_way(conn)) {
                self.send_away(connections, id);
            }
        }
    }

    /// Uncounts a closed connection.
    pub(super) fn leaves_place(&mut self, conn: &Conn) {
        match conn.place {
            Place::Client => self.places.clients = self.places.clients.saturating_sub(1),
            Place::Admin => self.places.admins = self.places.admins.saturating_sub(1),
            Place::Refused => self.places.refused = self.places.refused.saturating_sub(1),
            Place::Reserved(_) => self.places.reserved.retain(|(id, _)| *id != conn.id),
        }
    }
}

/// Whether a connection beyond the limits may be replaced: no operator's request is in progress on it. A partial request
/// keeps no place, and neither does an answered one.
fn may_give_way(conn: &Conn) -> bool {
    !conn.is_let_in && conn.slots.is_empty() && conn.taken.is_none()
}
