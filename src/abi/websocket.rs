//! `websocket_t`: a module's view of a WebSocket, and the path of its `send` and `close` to the shard.

use super::encoding::{self, Compressing};
use super::socket_numbers::SocketNumber;
use super::types::WebSocket;
use super::uncancelled::Uncancelled;
use crate::proto::ws::{Deflate, Encoded, Kind};
use std::cell::{Cell, UnsafeCell};
use std::ffi::{c_char, c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// RFC 6455 §7.4.1: normal closure.
const NORMAL_CLOSURE: u16 = 1000;

/// The smallest size of a memory page.
const PAGE_BYTES: usize = 4096;

/// Default limit, in bytes, on a message.
pub(super) const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

static LARGEST_MESSAGE: AtomicUsize = AtomicUsize::new(MESSAGE_BYTES_MAX);

/// Sets the limit, in bytes, on a message.
pub(super) fn limit(message_bytes_max: usize) {
    // Relaxed: no other access is ordered by it.
    LARGEST_MESSAGE.store(message_bytes_max, Ordering::Relaxed);
}

/// Limit, in bytes, on an expanded message.
#[must_use]
pub fn message_bytes_max() -> usize {
    LARGEST_MESSAGE.load(Ordering::Relaxed)
}

/// The destination of frames: the inbox of the shard that owns the connection.
pub trait Outlet: Send + Sync {
    /// Queues one encoded frame for the shard's socket number `socket`.
    fn send(&self, socket: u64, frame: Arc<[u8]>);

    /// Asks for a close with `code`.
    fn close(&self, socket: u64, code: u16);

    /// Adds the socket to a room, or removes it.
    fn room(&self, socket: u64, room: &[u8], joins: bool);

    /// Queues one encoded message for the shard's sockets in `room`.
    fn publish(&self, room: &[u8], message: &Encoded);
}

/// The server's side of a `websocket_t`.
pub struct Socket {
    /// The structure that the module sees. C code writes it on the threads of the callbacks; Rust never writes it after
    /// creation.
    visible: UnsafeCell<WebSocket>,
    key: u64,
    /// `client_fd`
    number: u64,
    /// Reserves the number: no other socket has it meanwhile.
    _place: Option<SocketNumber>,
    outlet: Arc<dyn Outlet>,
    open: AtomicBool,
    /// The client has sent unreadable data: all later messages are ignored. Relaxed: no other access is ordered by it.
    failed: AtomicBool,
    /// State of compression; `None`: the socket sends no compressed message.
    compressing: Option<Compressing>,
    /// The initial content of `websocket_t.session`, for a process that must create the structure again.
    session: Option<Box<[u8]>>,
    /// The type of the last received message; text before the first message. Relaxed: no other access is ordered by it.
    last_is_binary: AtomicBool,
    /// Bytes sent by the module that the shard has not taken yet; in a domain's process, bytes not known to be taken.
    queued: AtomicUsize,
    /// Bytes that the shard has and the client's connection has not taken, as the shard last reported.
    unsent: AtomicUsize,
    queued_max: usize,
    /// The rooms to which the module has added the socket.
    rooms: Mutex<Vec<Box<[u8]>>>,
}

// SAFETY: `visible` is passed to C as a raw pointer and not accessed by Rust between creation and drop, except for reading
// `session` in drop, when no callback can run any more (each holds the Arc). All other fields are atomic or immutable.
unsafe impl Send for Socket {}
// SAFETY: as above.
unsafe impl Sync for Socket {}

thread_local! {
    /// The type of the message that a callback on this thread is handling.
    static HANDLED: Cell<Option<Kind>> = const { Cell::new(None) };
}

/// Creates the calling thread's own state, so that a later `send` need not create it.
pub fn ready() {
    encoding::ready();
}

/// While this value lives, its thread is handling a message.
pub struct Handling(());

impl Drop for Handling {
    fn drop(&mut self) {
        HANDLED.set(None);
    }
}

impl Socket {
    /// A socket with the shard's key `key`; `session` is the initial text of `websocket_t.session`.
    #[must_use]
    pub fn new(key: u64, session: Option<&[u8]>, outlet: Arc<dyn Outlet>, queued_max: usize) -> Arc<Self> {
        Self::deflating(key, session, None, outlet, queued_max)
    }

    /// Makes the socket compress its messages as agreed in the handshake.
    #[must_use]
    pub fn deflating(
        key: u64,
        session: Option<&[u8]>,
        deflate: Option<Deflate>,
        outlet: Arc<dyn Outlet>,
        queued_max: usize,
    ) -> Arc<Self> {
        let place = SocketNumber::take();
        Self::make(key, (u64::from(place.number()), Some(place)), session, deflate, outlet, queued_max)
    }

    /// A socket whose `client_fd` is `number`.
    #[must_use]
    pub fn numbered(
        key: u64,
        number: u64,
        session: Option<&[u8]>,
        deflate: Option<Deflate>,
        outlet: Arc<dyn Outlet>,
        queued_max: usize,
    ) -> Arc<Self> {
        Self::make(key, (number, None), session, deflate, outlet, queued_max)
    }

    fn make(
        key: u64,
        (number, place): (u64, Option<SocketNumber>),
        session: Option<&[u8]>,
        deflate: Option<Deflate>,
        outlet: Arc<dyn Outlet>,
        queued_max: usize,
    ) -> Arc<Self> {
        let visible = WebSocket {
            session: session.map_or(std::ptr::null_mut(), malloc_text),
            client_fd: c_int::try_from(number).unwrap_or(c_int::MAX),
            send: Some(socket_send),
            close: Some(socket_close),
            server: std::ptr::null(),
            server_id: key,
            reserved: [std::ptr::null_mut(); 2],
        };
        let socket = Arc::new(Self {
            visible: UnsafeCell::new(visible),
            key,
            number,
            _place: place,
            outlet,
            open: AtomicBool::new(true),
            failed: AtomicBool::new(false),
            compressing: deflate.map(Compressing::new),
            session: session.map(Into::into),
            last_is_binary: AtomicBool::new(false),
            queued: AtomicUsize::new(0),
            unsent: AtomicUsize::new(0),
            queued_max,
            rooms: Mutex::default(),
        });
        // SAFETY: no other reference to `visible` exists yet.
        unsafe { (*socket.visible.get()).server = Arc::as_ptr(&socket).cast::<c_void>() };
        socket
    }

    /// The pointer to give to C. Valid while this `Socket` lives.
    #[must_use]
    pub fn as_ptr(&self) -> *mut WebSocket {
        self.visible.get()
    }

    /// The shard's key of this socket.
    #[must_use]
    pub fn key(&self) -> u64 {
        self.key
    }

    /// `client_fd`: differs between all open sockets of all shards. Modules use it as a key, or as an array index.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The initial content of `websocket_t.session`.
    #[must_use]
    pub fn session(&self) -> Option<&[u8]> {
        self.session.as_deref()
    }

    /// Whether `send` can still have an effect.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Closes the socket for the module: `send` and `close` return -1 from now on.
    pub fn mark_closed(&self) {
        self.open.store(false, Ordering::Release);
    }

    /// The compression of the socket's outgoing messages, as agreed in the handshake.
    #[must_use]
    pub fn deflate(&self) -> Option<Deflate> {
        self.compressing.as_ref().map(Compressing::deflate)
    }

    /// Closes the socket with `code`, because the client has sent unreadable data; ignores all later messages.
    pub fn fail(&self, code: u16) {
        self.failed.store(true, Ordering::Relaxed);
        if self.open.swap(false, Ordering::AcqRel) {
            self.outlet.close(self.key, code);
        }
    }

    /// Whether further messages are ignored.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// The type of the last received message; text before the first message.
    #[must_use]
    pub fn last_kind(&self) -> Kind {
        if self.last_is_binary.load(Ordering::Relaxed) { Kind::Binary } else { Kind::Text }
    }

    /// Records that a message of type `kind` has been received.
    pub fn received(&self, kind: Kind) {
        self.last_is_binary.store(kind == Kind::Binary, Ordering::Relaxed);
    }

    /// Marks the calling thread as handling a message of type `kind`, received on this socket, until the value is dropped.
    #[must_use]
    pub fn handle(&self, kind: Kind) -> Handling {
        self.received(kind);
        HANDLED.set(Some(kind));
        Handling(())
    }

    /// Records that the shard has taken a frame of `len` bytes.
    pub fn taken(&self, len: usize) {
        // This process has no count of frames that an earlier process sent.
        let _ =
            self.queued.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |queued| Some(queued.saturating_sub(len)));
    }

    /// Records how many bytes of this socket the shard has and the connection has not taken.
    pub fn set_unsent(&self, bytes: usize) {
        self.unsent.store(bytes, Ordering::Relaxed);
    }

    /// Bytes that the client's connection has not taken, as far as this process knows; 0 once nothing can be sent any more.
    #[must_use]
    pub fn buffered(&self) -> usize {
        // Relaxed: the two numbers belong to different moments anyway.
        let bytes = || self.queued.load(Ordering::Relaxed).saturating_add(self.unsent.load(Ordering::Relaxed));
        if self.is_open() { bytes() } else { 0 }
    }

    /// Sends a message of type `asked`. `None`: the type of the message that this thread is handling, or else of the last
    /// received message.
    fn send(&self, payload: &[u8], asked: Option<Kind>) -> bool {
        if !self.open.load(Ordering::Acquire) {
            return false;
        }
        let asked = asked.or_else(|| HANDLED.get()).unwrap_or_else(|| self.last_kind());
        let frame = encoding::for_socket(asked, payload, self.compressing.as_ref());
        let before = self.queued.fetch_add(frame.len(), Ordering::Relaxed);
        // Limits a module that sends faster than the shard takes; one frame is always accepted.
        if before > self.queued_max {
            self.queued.fetch_sub(frame.len(), Ordering::Relaxed);
            return false;
        }
        self.outlet.send(self.key, frame);
        true
    }

    /// Adds the socket to a room, or removes it. Returns false if the socket is in `rooms_max` other rooms.
    pub(super) fn change_room(&self, room: &[u8], joins: bool, rooms_max: usize) -> bool {
        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        let at = rooms.iter().position(|known| **known == *room);
        match (joins, at) {
            (true, None) if rooms.len() >= rooms_max => return false,
            (true, None) => rooms.push(room.into()),
            (false, Some(at)) => drop(rooms.swap_remove(at)),
            _ => {}
        }
        // Sent even if nothing changed, because another process may have had the socket before.
        self.outlet.room(self.key, room, joins);
        true
    }

    fn close(&self) -> bool {
        if !self.open.swap(false, Ordering::AcqRel) {
            return false;
        }
        self.outlet.close(self.key, NORMAL_CLOSURE);
        true
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // NULL after `on_close`, which frees the session under the guard of the module. A session that is still there is freed
        // under a guard without a module, because no callback can name its module.
        if super::guard::free(self.visible.get_mut().session).is_err() {
            tracing::error!("websocket_t.session was freed already or is no block of malloc(3)");
        }
    }
}

/// Copies `text` into memory that C may `free`, NUL-terminated. NULL when memory is short.
fn malloc_text(text: &[u8]) -> *mut c_char {
    // SAFETY: the block has room for the text and its NUL; source and target don't overlap.
    unsafe {
        let block = libc::malloc(text.len() + 1).cast::<u8>();
        if !block.is_null() {
            std::ptr::copy_nonoverlapping(text.as_ptr(), block, text.len());
            *block.add(text.len()) = 0;
        }
        block.cast()
    }
}

/// The [`Socket`] behind a pointer that a module passed back.
///
/// # Safety
/// `ws` is NULL or a pointer from [`Socket::as_ptr`] whose `on_close` has not returned: the contract that
/// `include/http.h` states for `websocket_t`. Until then the shard holds the `Socket`.
pub(super) unsafe fn owner<'a>(ws: *mut WebSocket) -> Option<&'a Socket> {
    // SAFETY: the caller's contract; `server` was set at creation and points to the live Socket.
    unsafe { ws.as_ref().and_then(|ws| ws.server.cast::<Socket>().as_ref()) }
}

/// The services that a process for single calls refuses, as named in the log.
pub(super) const SENDING: &std::ffi::CStr = c"sending on a WebSocket";

unsafe extern "C" fn socket_send(ws: *mut WebSocket, message: *const c_char, length: usize) -> c_int {
    // SAFETY: the contract is the same.
    unsafe { send_as(ws, None, message, length) }
}

/// Sends one message as `asked`, or by the rule of [`Socket::send`]. Returns 0 or -1.
///
/// # Safety
/// `ws` as for [`owner`]; `message` has `length` readable bytes.
pub(super) unsafe fn send_as(ws: *mut WebSocket, asked: Option<Kind>, message: *const c_char, length: usize) -> c_int {
    if message.is_null() && length != 0 || super::worker::refuses(SENDING) {
        return -1;
    }
    // SAFETY: `ws` by the contract of websocket_t; `message` has `length` readable bytes by the contract of `send`. The bytes
    // are touched before this frame owns anything: an unreadable byte makes the guard jump out of it.
    let (socket, payload) = unsafe {
        let payload = touched(message, length);
        (owner(ws), payload)
    };
    let _uncancelled = Uncancelled::begin();
    match socket {
        Some(socket) if socket.send(payload, asked) => 0,
        _ => -1,
    }
}

/// Bytes that a module has passed. Each page is read here, so that a wrong pointer faults here, and the guard jumps out.
///
/// # Safety
/// `bytes` must have `length` readable bytes, by the contract of the called function; the caller must own nothing that has to
/// be dropped.
pub(super) unsafe fn touched<'a>(bytes: *const c_char, length: usize) -> &'a [u8] {
    if length == 0 {
        return &[];
    }
    // SAFETY: the caller's contract.
    unsafe {
        for at in (0..length).step_by(PAGE_BYTES).chain([length - 1]) {
            std::ptr::read_volatile(bytes.add(at));
        }
        std::slice::from_raw_parts(bytes.cast::<u8>(), length)
    }
}

unsafe extern "C" fn socket_close(ws: *mut WebSocket) -> c_int {
    let _uncancelled = Uncancelled::begin();
    if super::worker::refuses(SENDING) {
        return -1;
    }
    // SAFETY: by the contract of websocket_t.
    match unsafe { owner(ws) } {
        Some(socket) if socket.close() => 0,
        _ => -1,
    }
}
