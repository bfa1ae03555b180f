//! The client's end of a test's WebSockets: stores the frames that the module sends.

use super::exchange::{Exchanges, plain, request_bytes, with_request};
use super::lock::lock;
use crate::abi::manifest::RouteDecl;
use crate::abi::testing::TestAnswer;
use crate::abi::websocket::{Outlet, Socket};
use crate::domain::call::{Handshake, SocketEvent, Task, session_text};
use crate::module::table::Published;
use crate::proto::http1::{RequestView, Switching};
use crate::proto::ws::{self, Encoded, Kind};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Limit, in bytes, on data that the module has sent to one socket and the test has not taken.
const QUEUED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The header fields that a client adds to its request (RFC 6455 §4.1); the key is the one of RFC 6455's example.
const FIELDS: &[u8] = b"Upgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Version: 13\n\
                        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n";

/// A socket.
#[derive(Default)]
struct State {
    handle: Option<Arc<Socket>>,
    /// The index among the module's WebSockets.
    index: usize,
    messages: VecDeque<(Kind, Vec<u8>, usize)>,
    rooms: HashSet<Box<[u8]>>,
    /// The module has closed the socket.
    closed: bool,
}

/// All sockets of a test.
#[derive(Default)]
pub(super) struct Sockets {
    states: Mutex<BTreeMap<u64, State>>,
    arrived: Condvar,
}

/// Decodes a frame of the server.
fn decoded(frame: &[u8]) -> Option<(Kind, Vec<u8>)> {
    let kind = if frame.first()? & 0xf == 1 { Kind::Text } else { Kind::Binary };
    let header = match frame.get(1)? & 0x7f {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    Some((kind, frame.get(header..)?.to_vec()))
}

impl Sockets {
    fn arrive(state: &mut State, frame: &[u8], counted: usize) {
        if let Some((kind, payload)) = decoded(frame) {
            state.messages.push_back((kind, payload, counted));
        }
    }
}

impl Outlet for Sockets {
    fn send(&self, socket: u64, frame: Arc<[u8]>) {
        if let Some(state) = lock(&self.states).get_mut(&socket) {
            Self::arrive(state, &frame, frame.len());
        }
        self.arrived.notify_all();
    }

    fn close(&self, socket: u64, _code: u16) {
        if let Some(state) = lock(&self.states).get_mut(&socket) {
            state.closed = true;
        }
        self.arrived.notify_all();
    }

    fn room(&self, socket: u64, room: &[u8], joins: bool) {
        if let Some(state) = lock(&self.states).get_mut(&socket) {
            if joins {
                state.rooms.insert(room.into());
            } else {
                state.rooms.remove(room);
            }
        }
    }

    fn publish(&self, room: &[u8], message: &Encoded) {
        for state in lock(&self.states).values_mut().filter(|state| !state.closed && state.rooms.contains(room)) {
            Self::arrive(state, &message.plain, 0);
        }
        self.arrived.notify_all();
    }
}

impl Sockets {
    /// Opens a socket and returns its number.
    ///
    /// # Errors
    /// The answer that refuses the handshake.
    pub(super) fn open(
        self: &Arc<Self>,
        exchanges: &Exchanges,
        target: &[u8],
        headers: &[u8],
    ) -> Result<u64, TestAnswer> {
        let bytes = request_bytes(b"GET", target, &[FIELDS, headers].concat(), b"");
        let mut opened = None;
        let answer = with_request(&bytes, |view| {
            let found = self.open_by(exchanges, view);
            opened = found.as_ref().ok().copied();
            found.err().unwrap_or_default()
        });
        opened.ok_or(answer)
    }

    fn open_by(self: &Arc<Self>, exchanges: &Exchanges, view: &RequestView<'_>) -> Result<u64, TestAnswer> {
        let Some((module, index)) = exchanges.table().websocket(view.path()) else {
            return Err(plain(view, 404, &[], "no module serves a WebSocket on this path\n"));
        };
        let accept = ws::check(view).map_err(|error| plain(view, error.status(), &[], &format!("{error}\n")))?;
        let manifest = exchanges.table().modules().get(module).map(Published::manifest);
        let path = manifest.and_then(|manifest| manifest.websockets.get(index)).map(|socket| socket.path.as_str());
        let asks = |route: &RouteDecl| route.is_handshake() && Some(route.path.as_str()) == path;
        if let Some(route) = manifest.and_then(|manifest| manifest.routes.iter().position(asks)) {
            let answer = exchanges.handshake(route, view, Switching::new(accept, None, view));
            if answer.status != 101 {
                return Err(answer);
            }
        }
        let outlet = Arc::clone(self) as Arc<dyn Outlet>;
        let key = lock(&self.states).last_key_value().map_or(1, |(last, _)| last + 1);
        let handle = Socket::new(key, session_text(view.query()).as_deref(), outlet, QUEUED_BYTES_MAX);
        let state = State { handle: Some(Arc::clone(&handle)), index, ..State::default() };
        lock(&self.states).insert(key, state);
        let handshake = Handshake { head: view.packed().into(), peer: view.peer };
        let event = SocketEvent::Open { handshake: Some(Box::new(handshake)) };
        Self::call(exchanges, handle, index, event);
        Ok(key)
    }

    fn call(exchanges: &Exchanges, socket: Arc<Socket>, index: usize, event: SocketEvent) {
        if let Err(error) = exchanges.call_back(Task::Socket { socket, index, events: vec![event] }) {
            tracing::error!("a callback can't be run: {error}");
        }
    }

    /// Delivers a message to the module. Returns false if the socket is closed.
    pub(super) fn message(&self, exchanges: &Exchanges, socket: u64, kind: Kind, payload: &[u8]) -> bool {
        let found = lock(&self.states)
            .get(&socket)
            .filter(|state| !state.closed)
            .and_then(|state| Some((Arc::clone(state.handle.as_ref()?), state.index)));
        let Some((handle, index)) = found else { return false };
        Self::call(exchanges, handle, index, SocketEvent::Message { kind, payload: payload.to_vec(), deflated: false });
        true
    }

    /// Takes the oldest message.
    pub(super) fn receive(&self, socket: u64, wait: Duration) -> Option<(Kind, Vec<u8>)> {
        let deadline = Instant::now() + wait;
        let mut states = lock(&self.states);
        loop {
            let state = states.get_mut(&socket)?;
            if let Some((kind, payload, counted)) = state.messages.pop_front() {
                if let Some(handle) = &state.handle {
                    handle.taken(counted);
                }
                return Some((kind, payload));
            }
            let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
            states = self.arrived.wait_timeout(states, left).unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    pub(super) fn is_closed(&self, socket: u64) -> bool {
        lock(&self.states).get(&socket).is_none_or(|state| state.closed)
    }

    /// Closes the socket from the client's side.
    pub(super) fn close(&self, exchanges: &Exchanges, socket: u64) {
        let found = lock(&self.states).get_mut(&socket).and_then(|state| {
            state.closed = true;
            Some((state.handle.take()?, state.index))
        });
        if let Some((handle, index)) = found {
            handle.mark_closed();
            Self::call(exchanges, handle, index, SocketEvent::Close);
        }
    }

    /// Closes all open sockets.
    pub(super) fn close_all(&self, exchanges: &Exchanges) {
        let keys: Vec<u64> = lock(&self.states).keys().copied().collect();
        for key in keys {
            self.close(exchanges, key);
        }
    }
}
