//! The system calls of this layer that no safe wrapper in the dependency tree offers, one function each.

use super::lent::Lent;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

/// Limit on the buffers of one `sendmsg(2)`; the kernel's limit (`IOV_MAX`) is 1024.
pub(super) const IOVECS_MAX: usize = 64;

fn check(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// `send(2)` without blocking and without SIGPIPE.
pub(super) fn send(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: pointer and length describe `bytes`; the kernel only reads them. A stale `fd` can at worst name another
    // socket: `Connections` removes an entry before its driver closes the descriptor.
    check(unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), flags) })
}

/// [`send`] of lent bytes, from offset `from` on, at most `bytes_max` bytes. `more` as for [`send_vectored`].
pub(super) fn send_lent(fd: RawFd, bytes: &dyn Lent, from: usize, bytes_max: usize, more: bool) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | if more { libc::MSG_MORE } else { 0 };
    let from = from.min(bytes.len());
    // SAFETY: the contract of `Lent` keeps the bytes readable while `bytes` lives. Only the kernel reads them, so another
    // process may write them meanwhile. For `fd` see `send`.
    check(unsafe { libc::send(fd, bytes.pointer().add(from).cast(), (bytes.len() - from).min(bytes_max), flags) })
}

/// `recv(2)` without blocking; a result of 0 means that the peer has sent FIN.
pub(super) fn receive(fd: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: pointer and length describe `buffer`, which the kernel writes during the call only; for `fd` see `send`.
    check(unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT) })
}

/// `sendmsg(2)` of several buffers, without blocking and without SIGPIPE. `more`: another send follows at once, so the kernel
/// may delay a packet that is not full.
pub(super) fn send_vectored(fd: RawFd, slices: &[io::IoSlice<'_>], more: bool) -> io::Result<usize> {
    // SAFETY: zeroed is a valid msghdr (null pointers, zero lengths).
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    // IoSlice is ABI-compatible with iovec (std documents it); the kernel does not write through a sendmsg iovec.
    message.msg_iov = slices.as_ptr().cast::<libc::iovec>().cast_mut();
    message.msg_iovlen = slices.len().min(IOVECS_MAX);
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | if more { libc::MSG_MORE } else { 0 };
    // SAFETY: `message` names `slices`, which outlive the call; for `fd` see `send`.
    check(unsafe { libc::sendmsg(fd, &raw const message, flags) })
}

/// Makes the later close of a connection reset it (socket(7), `SO_LINGER`).
pub(super) fn reset_when_closed(fd: RawFd) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the caller owns the socket, and the option is passed with its size.
    unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        );
    }
}

/// Makes a socket non-blocking. Other functions here pass a flag to each call instead.
pub(super) fn nonblocking(fd: RawFd) -> io::Result<()> {
    // SAFETY: no memory is involved; for `fd` see `send`.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    // SAFETY: no memory is involved; for `fd` see `send`.
    let failed = flags < 0 || unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) } < 0;
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `sendfile(2)` of at most `bytes` bytes of the regular file `file` from `start` on; 0 means the end of the file. `socket`
/// must be non-blocking.
pub(super) fn send_file(socket: RawFd, file: RawFd, start: u64, bytes: usize) -> io::Result<usize> {
    let mut offset = libc::off_t::try_from(start).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the kernel writes the offset during the call only; for `socket` see `send`. The caller keeps `file` open.
    check(unsafe { libc::sendfile(socket, file, &raw mut offset, bytes) })
}

/// Whether the kernel has `bytes` bytes of `file` from `start` on in memory, as far as the kernel tells. A file system without
/// a page cache reports nothing, and a file system in memory has all bytes there.
pub(super) fn is_in_memory(file: RawFd, start: u64, bytes: usize) -> bool {
    /// `struct cachestat` (Linux 6.5).
    #[repr(C)]
    #[derive(Default)]
    struct CacheStat {
        cached: u64,
        dirty: u64,
        writeback: u64,
        evicted: u64,
        recently_evicted: u64,
    }
    /// The number is the same on all architectures; libc does not define it on each.
    const CACHESTAT: libc::c_long = 451;
    const PAGE: u64 = 4096;
    let (range, mut found) = ([start, bytes as u64], CacheStat::default());
    // SAFETY: the kernel reads a range of two numbers and writes `found`, during the call only.
    let result = unsafe { libc::syscall(CACHESTAT, file, range.as_ptr(), &raw mut found, 0) };
    if result == 0 {
        let pages = (start + bytes as u64).div_ceil(PAGE) - start / PAGE;
        return found.cached >= pages;
    }
    // The kernel is older, or this user may not query the cache of the file: the first and last byte stand for all bytes.
    let is_there = |at: u64| {
        let mut byte = 0_u8;
        let part = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
        let at = libc::off_t::try_from(at).unwrap_or(libc::off_t::MAX);
        // SAFETY: one writable byte, which the kernel writes during the call only.
        let read = unsafe { libc::preadv2(file, &raw const part, 1, at, libc::RWF_NOWAIT) };
        read >= 0 || io::Error::last_os_error().raw_os_error() != Some(libc::EAGAIN)
    };
    bytes == 0 || is_there(start) && is_there(start + bytes as u64 - 1)
}

/// `shutdown(2)`; an error means that the peer has closed first, and is ignored.
pub(super) fn shutdown(fd: RawFd, how: std::net::Shutdown) {
    let how = match how {
        std::net::Shutdown::Read => libc::SHUT_RD,
        std::net::Shutdown::Write => libc::SHUT_WR,
        std::net::Shutdown::Both => libc::SHUT_RDWR,
    };
    // SAFETY: no memory is involved; for `fd` see `send`.
    unsafe { libc::shutdown(fd, how) };
}

/// Raises the soft limit of open files to the hard limit, and returns it. The soft limit is often 1024, for programs that still
/// use select(2). Returns `u64::MAX` for no limit.
///
/// # Errors
/// `setrlimit(2)` failed, for instance because the hard limit is beyond `fs.nr_open`.
pub fn raise_open_files_limit() -> io::Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    }
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// Makes the child that `command` starts inherit standard input, output and error and no other descriptor.
///
/// Close-on-exec alone leaves a gap: io_uring's accept sets it in a second call, and a module may open descriptors without it.
pub fn keep_descriptors_from(command: &mut Command) -> &mut Command {
    let close = || {
        // The descriptors are marked rather than closed: the standard library reports a failing exec(3) through a descriptor of
        // its own. On a kernel without the flag (before 5.11), only descriptors with FD_CLOEXEC are closed.
        // SAFETY: a system call without memory, on descriptors of the child only: the child has its own table after fork(2).
        unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
        Ok(())
    };
    // SAFETY: `close` makes one system call and touches neither memory, locks nor the allocator, so it may run between
    // fork(2) and exec(3) of a process with threads.
    unsafe { command.pre_exec(close) }
}

/// Sets close-on-exec, so that child processes don't inherit the descriptor: monoio's io_uring accept does not set it.
pub(super) fn close_on_exec(fd: RawFd) {
    // SAFETY: no memory is involved; the caller owns the descriptor.
    unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
}

/// Takes a socket that this process was started with, if `check` accepts it, and sets close-on-exec. The caller may take each
/// descriptor once, before this process has opened any.
///
/// # Errors
/// A text for people: the descriptor is not open, or the error of `check`.
pub(super) fn adopt_passed(
    fd: RawFd,
    check: fn(&socket2::Socket) -> Result<(), String>,
) -> Result<socket2::Socket, String> {
    // SAFETY: no memory is involved; the call fails on a number that names no descriptor.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(format!("can't be used: {}", io::Error::last_os_error()));
    }
    // SAFETY: the descriptor is open, and no code closes it during the call.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    // The socket is checked before this process owns it: a wrong number may name a descriptor that other code owns.
    check(&socket2::SockRef::from(&borrowed))?;
    // SAFETY: the descriptor is open, and this process received it for its own use before main(). No other code owns it, and
    // the caller takes each descriptor once.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) }.into())
}

fn owned(fd: libc::c_int) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `eventfd(2)`, non-blocking.
pub(super) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    owned(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })
}

/// Adds one to an eventfd's counter.
pub(super) fn eventfd_signal(fd: &OwnedFd) {
    let one = 1_u64.to_ne_bytes();
    // SAFETY: 8 readable bytes, as eventfd(2) requires. The write fails only when the counter is full, and the reader is then
    // awake already.
    unsafe { libc::write(fd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
}

/// Reads and thereby clears the counter of a timerfd.
pub(super) fn counter_clear(fd: &OwnedFd) {
    let mut count = [0_u8; 8];
    // SAFETY: 8 writable bytes; the descriptor is non-blocking.
    unsafe { libc::read(fd.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
}

/// A timer that becomes readable every `period` (`timerfd_create(2)`).
pub(super) fn timer(period: Duration) -> io::Result<OwnedFd> {
    let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
    // SAFETY: no memory is involved.
    let fd = owned(unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) })?;
    let period = libc::timespec {
        tv_sec: i64::try_from(period.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(period.subsec_nanos()),
    };
    let spec = libc::itimerspec { it_interval: period, it_value: period };
    // SAFETY: the kernel reads `spec` during the call; no old value is requested.
    let set = unsafe { libc::timerfd_settime(fd.as_raw_fd(), 0, &raw const spec, std::ptr::null_mut()) };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(fd) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_of_open_files_rises_to_the_hard_one() {
        let maximum = getrlimit(Resource::Nofile).maximum;
        // The limit falls by one file, which no other test of this process needs.
        setrlimit(Resource::Nofile, Rlimit { current: maximum.map(|files| files - 1), maximum }).unwrap();
        assert_eq!(raise_open_files_limit().unwrap(), maximum.unwrap_or(u64::MAX));
        assert_eq!(getrlimit(Resource::Nofile).current, maximum);
    }

    #[test]
    fn a_child_gets_no_descriptor_of_ours() {
        // dup(2) leaves close-on-exec off, as io_uring's accept does.
        // SAFETY: no memory is involved.
        let open = owned(unsafe { libc::dup(2) }).unwrap();
        let script = format!("test ! -e /proc/self/fd/{}", open.as_raw_fd());
        let status = keep_descriptors_from(Command::new("sh").args(["-c", &script])).status().unwrap();
        assert!(status.success(), "the child has descriptor {}", open.as_raw_fd());
        let missing = keep_descriptors_from(&mut Command::new("/no/such/program")).status();
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
