//! Serves connect(2) for modules whose own sockets reach nothing: the server connects, and its socket replaces the module's.
//!
//! A seccomp filter refuses the call. The handler of the refusal calls this code, on the thread that made the call. The new
//! socket has the number, the flags and the usual options of the old one. The call then returns the result of the server's
//! connect(2).

use super::{native, worker};
use std::ffi::c_int;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;

/// Asks the server for a non-blocking socket that is connecting to an address; the error is an errno.
pub type Ask = Box<dyn Fn(SocketAddr) -> Result<OwnedFd, i32> + Send + Sync>;

static ASK: OnceLock<Ask> = OnceLock::new();

/// Options copied from the old socket to the new one; each has at most [`OPTION_BYTES`].
const OPTIONS: [(c_int, c_int); 10] = [
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    (libc::SOL_SOCKET, libc::SO_LINGER),
    (libc::SOL_SOCKET, libc::SO_OOBINLINE),
    (libc::SOL_SOCKET, libc::SO_RCVTIMEO),
    (libc::SOL_SOCKET, libc::SO_SNDTIMEO),
    (libc::IPPROTO_TCP, libc::TCP_NODELAY),
    (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
    (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
    (libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
    (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
];
const OPTION_BYTES: usize = 16;

/// States of a TCP socket (`tcp_info` begins with it, `linux/tcp_states.h`).
const CONNECTING: u8 = 2;
const CLOSED: u8 = 7;

/// Makes `ask` serve the connect(2) calls of modules. Must be called once per process.
pub fn serve(ask: Ask) {
    if ASK.set(ask).is_ok() {
        // SAFETY: writes a variable of the C code, atomically; the function stays.
        unsafe { native::cwebn_guard_connects(connect) };
    }
}

/// Called by the handler, with a copy of the address. Returns 0, or an errno below 0.
extern "C" fn connect(socket: c_int, address: *const u8, bytes: usize) -> c_int {
    // SAFETY: the handler passes this many bytes of its own.
    let address = unsafe { std::slice::from_raw_parts(address, bytes) };
    connected(socket, address).map_or_else(|errno| -errno, |()| 0)
}

fn connected(socket: RawFd, address: &[u8]) -> Result<(), i32> {
    let ask = ASK.get().filter(|_| !worker::is_on()).ok_or(libc::EPERM)?;
    let family = word(socket, libc::SOL_SOCKET, libc::SO_DOMAIN)?;
    let kind = word(socket, libc::SOL_SOCKET, libc::SO_TYPE)?;
    let address = read(address)?;
    if kind != libc::SOCK_STREAM || family != (if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }) {
        return Err(libc::EPERM);
    }
    let mut state = [CLOSED];
    option(socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut state)?;
    match state {
        [CLOSED] => {}
        [CONNECTING] => return Err(libc::EALREADY),
        _ => return Err(libc::EISCONN),
    }
    let made = ask(address)?;
    let blocks = take_over(socket, &made)?;
    drop(made);
    let timeout_ms = if blocks { timeout_ms(socket)? } else { 0 };
    let result = wait(socket, timeout_ms);
    if blocks {
        let flags = control(socket, libc::F_GETFL, 0)?;
        control(socket, libc::F_SETFL, flags & !libc::O_NONBLOCK)?;
    }
    result
}

/// Replaces `socket` by `made`, which stays non-blocking for now. Returns whether the old socket was blocking.
fn take_over(socket: RawFd, made: &OwnedFd) -> Result<bool, i32> {
    let blocks = control(socket, libc::F_GETFL, 0)? & libc::O_NONBLOCK == 0;
    let closes = control(socket, libc::F_GETFD, 0)? & libc::FD_CLOEXEC != 0;
    for (level, name) in OPTIONS {
        let mut value = [0; OPTION_BYTES];
        let Ok(length) = option(socket, level, name, &mut value) else { continue };
        // An option that can't be set keeps the kernel's default.
        // SAFETY: reads `length` bytes of `value`, which has as many.
        unsafe { libc::setsockopt(made.as_raw_fd(), level, name, value.as_ptr().cast(), length) };
    }
    // SAFETY: no memory is involved. The number is the module's own, and is open.
    let placed = unsafe { libc::dup3(made.as_raw_fd(), socket, if closes { libc::O_CLOEXEC } else { 0 }) };
    if placed < 0 { Err(last_errno()) } else { Ok(blocks) }
}

/// Waits until the connection is established or has failed.
fn wait(socket: RawFd, timeout_ms: c_int) -> Result<(), i32> {
    let mut poll = libc::pollfd { fd: socket, events: libc::POLLOUT, revents: 0 };
    loop {
        // SAFETY: one pollfd, of which the kernel writes only `revents`.
        match unsafe { libc::poll(&raw mut poll, 1, timeout_ms) } {
            0 => return Err(libc::EINPROGRESS),
            1 => break,
            _ if last_errno() == libc::EINTR => {}
            _ => return Err(last_errno()),
        }
    }
    match word(socket, libc::SOL_SOCKET, libc::SO_ERROR)? {
        0 => Ok(()),
        errno => Err(errno),
    }
}

/// How long connect(2) waits on a blocking socket (socket(7), `SO_SNDTIMEO`), as a time-out of poll(2).
fn timeout_ms(socket: RawFd) -> Result<c_int, i32> {
    let mut value = [0; 16];
    option(socket, libc::SOL_SOCKET, libc::SO_SNDTIMEO, &mut value)?;
    let (seconds, micros) = value.split_at(8);
    let number = |bytes: &[u8]| bytes.try_into().map_or(0, i64::from_ne_bytes);
    let all = number(seconds).saturating_mul(1000).saturating_add(number(micros) / 1000);
    Ok(if number(seconds) == 0 && number(micros) == 0 { -1 } else { c_int::try_from(all).unwrap_or(-1).max(1) })
}

/// The address of a `sockaddr_in` or `sockaddr_in6`.
fn read(bytes: &[u8]) -> Result<SocketAddr, i32> {
    let part = |from: usize, to: usize| bytes.get(from..to).ok_or(libc::EINVAL);
    let family = u16::from_ne_bytes(part(0, 2)?.try_into().unwrap_or_default());
    let port = |bytes: &[u8]| bytes.try_into().map_or(0, u16::from_be_bytes);
    match c_int::from(family) {
        libc::AF_INET => {
            let ip: [u8; 4] = part(4, 8)?.try_into().unwrap_or_default();
            part(0, size_of::<libc::sockaddr_in>())?;
            Ok(SocketAddrV4::new(Ipv4Addr::from(ip), port(part(2, 4)?)).into())
        }
        libc::AF_INET6 => {
            let ip: [u8; 16] = part(8, 24)?.try_into().unwrap_or_default();
            let scope = u32::from_ne_bytes(part(24, 28)?.try_into().unwrap_or_default());
            Ok(SocketAddrV6::new(Ipv6Addr::from(ip), port(part(2, 4)?), 0, scope).into())
        }
        _ => Err(libc::EPERM),
    }
}

fn last_errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

fn control(socket: RawFd, command: c_int, argument: c_int) -> Result<c_int, i32> {
    // SAFETY: commands without memory, on the module's own descriptor.
    let result = unsafe { libc::fcntl(socket, command, argument) };
    if result < 0 { Err(last_errno()) } else { Ok(result) }
}

/// Reads an option into `value`, truncated to its length; returns its bytes.
fn option(socket: RawFd, level: c_int, name: c_int, value: &mut [u8]) -> Result<libc::socklen_t, i32> {
    let mut length = libc::socklen_t::try_from(value.len()).unwrap_or(0);
    // SAFETY: writes `length` bytes at most, which `value` has.
    let read = unsafe { libc::getsockopt(socket, level, name, value.as_mut_ptr().cast(), &raw mut length) };
    if read < 0 { Err(last_errno()) } else { Ok(length) }
}

fn word(socket: RawFd, level: c_int, name: c_int) -> Result<c_int, i32> {
    let mut value = [0; 4];
    option(socket, level, name, &mut value)?;
    Ok(c_int::from_ne_bytes(value))
}
