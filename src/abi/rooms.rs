//! Rooms of WebSockets, through the functions that modules call: `include/cweb_websocket.h`.

use super::encoding;
use super::types::WebSocket;
use super::uncancelled::Uncancelled;
use super::websocket::{self, Outlet, SENDING, Socket};
use super::worker;
use crate::proto::ws::Kind;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// `CWEB_ROOM_BYTES_MAX`
pub const ROOM_BYTES_MAX: usize = 255;

/// Default limit on the rooms of one socket.
pub const ROOMS_DEFAULT: usize = 64;

static ROOMS_MAX: AtomicUsize = AtomicUsize::new(ROOMS_DEFAULT);
static OUTLETS: OnceLock<Vec<Arc<dyn Outlet>>> = OnceLock::new();

/// Sets the limit on the rooms of a socket.
pub(super) fn limit(rooms_max: usize) {
    // Relaxed: no other access is ordered by it.
    ROOMS_MAX.store(rooms_max, Ordering::Relaxed);
}

/// Sets the outlet of each shard, for published messages. Only the first call has an effect.
pub fn set_outlets(outlets: Vec<Arc<dyn Outlet>>) {
    let _ = OUTLETS.set(outlets);
}

/// `struct cweb_sockets`
#[repr(C)]
pub(super) struct SocketServices {
    message_type: unsafe extern "C" fn(*mut WebSocket) -> c_int,
    join: unsafe extern "C" fn(*mut WebSocket, *const c_char) -> c_int,
    leave: unsafe extern "C" fn(*mut WebSocket, *const c_char) -> c_int,
    publish: unsafe extern "C" fn(*const c_char, *const c_void, usize, c_int) -> c_int,
    canceled: unsafe extern "C" fn(*mut WebSocket) -> c_int,
    buffered: unsafe extern "C" fn(*mut WebSocket) -> usize,
    reserved: [usize; 6],
}

/// The table of this server.
pub(super) static SERVICES: SocketServices =
    SocketServices { message_type, join: join_room, leave: leave_room, publish, canceled, buffered, reserved: [0; 6] };

/// `CWEB_WS_TEXT`
const TEXT: c_int = 1;
/// `CWEB_WS_BINARY`
const BINARY: c_int = 2;

fn fail(errno: c_int) -> c_int {
    // SAFETY: the calling thread's own errno (errno(3)).
    unsafe { *libc::__errno_location() = errno };
    -1
}

/// The name of a room; `None` if it is invalid.
///
/// # Safety
/// `room` must be NULL or a C string. The caller must own nothing that has to be dropped: a wrong pointer makes the guard jump
/// out of its frame.
unsafe fn name<'a>(room: *const c_char) -> Option<&'a [u8]> {
    if room.is_null() {
        return None;
    }
    // SAFETY: the caller's contract.
    let name = unsafe { CStr::from_ptr(room) }.to_bytes();
    (1..=ROOM_BYTES_MAX).contains(&name.len()).then_some(name)
}

/// # Safety
/// `ws` is an open `websocket_t`.
unsafe extern "C" fn message_type(ws: *mut WebSocket) -> c_int {
    // SAFETY: by the contract of websocket_t.
    match unsafe { websocket::owner(ws) } {
        Some(socket) if socket.last_kind() == Kind::Binary => BINARY,
        Some(_) => TEXT,
        None => 0,
    }
}

/// `CWEB_CLIENT_GONE`
const CLIENT_GONE: c_int = 1;

/// # Safety
/// `ws` is an open `websocket_t`.
unsafe extern "C" fn canceled(ws: *mut WebSocket) -> c_int {
    // SAFETY: by the contract of websocket_t.
    let is_open = unsafe { websocket::owner(ws) }.is_some_and(Socket::is_open);
    if is_open { 0 } else { CLIENT_GONE }
}

/// # Safety
/// `ws` is NULL or an open `websocket_t`.
unsafe extern "C" fn buffered(ws: *mut WebSocket) -> usize {
    // SAFETY: by the contract of websocket_t.
    unsafe { websocket::owner(ws) }.map_or(0, Socket::buffered)
}

/// # Safety
/// `ws` is NULL or an open `websocket_t`; `room` is NULL or a C string.
unsafe fn change(ws: *mut WebSocket, room: *const c_char, joins: bool) -> c_int {
    // SAFETY: the caller's contract.
    let (Some(room), Some(socket)) = (unsafe { (name(room), websocket::owner(ws)) }) else {
        return fail(libc::EINVAL);
    };
    let _uncancelled = Uncancelled::begin();
    if !socket.is_open() {
        return fail(libc::EPIPE);
    }
    if worker::refuses(SENDING) {
        return -1;
    }
    if socket.change_room(room, joins, ROOMS_MAX.load(Ordering::Relaxed)) { 0 } else { fail(libc::ENOSPC) }
}

unsafe extern "C" fn join_room(ws: *mut WebSocket, room: *const c_char) -> c_int {
    // SAFETY: the contract is the same.
    unsafe { change(ws, room, true) }
}

unsafe extern "C" fn leave_room(ws: *mut WebSocket, room: *const c_char) -> c_int {
    // SAFETY: the contract is the same.
    unsafe { change(ws, room, false) }
}

/// # Safety
/// `room` is NULL or a C string; `bytes` has `length` readable bytes, or is NULL.
unsafe extern "C" fn publish(room: *const c_char, bytes: *const c_void, length: usize, kind: c_int) -> c_int {
    let asked = match kind {
        TEXT => Kind::Text,
        BINARY => Kind::Binary,
        _ => return fail(libc::EINVAL),
    };
    if bytes.is_null() && length != 0 {
        return fail(libc::EINVAL);
    }
    // SAFETY: the caller's contract; all bytes are touched before this frame owns anything.
    let (Some(room), payload) = (unsafe { (name(room), websocket::touched(bytes.cast(), length)) }) else {
        return fail(libc::EINVAL);
    };
    let _uncancelled = Uncancelled::begin();
    if worker::refuses(SENDING) {
        return -1;
    }
    let message = encoding::for_room(asked, payload);
    for outlet in OUTLETS.get().into_iter().flatten() {
        outlet.publish(room, &message);
    }
    0
}
