//! The sources of connections: TCP addresses, with one listener per shard and `SO_REUSEPORT`, and Unix sockets.

use super::tls::Acceptor;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// Connections that the kernel queues for `accept(2)`, if `net.core.somaxconn` permits.
const BACKLOG: i32 = 4096;

/// `sockaddr_un` holds 108 bytes (unix(7)); a NUL ends the path.
const UNIX_PATH_BYTES_MAX: usize = 107;

/// How often a bind is tried: after a kill, an io_uring of the old process can hold the listener for some milliseconds.
const BIND_TRIES: u32 = 20;
const BIND_PAUSE: Duration = Duration::from_millis(10);

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddr {
    /// `ADDR:PORT`; port 0 lets the kernel choose.
    Tcp(SocketAddr),
    /// `unix:PATH`
    Unix(PathBuf),
}

/// The text is not an address to listen on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("can't listen on \"{0}\": write ADDR:PORT (127.0.0.1:8080, [::1]:8080) or unix:PATH")]
pub struct AddrError(String);

impl FromStr for ListenAddr {
    type Err = AddrError;

    fn from_str(text: &str) -> Result<Self, AddrError> {
        match text.strip_prefix("unix:") {
            Some("") => Err(AddrError(text.to_owned())),
            Some(path) => Ok(ListenAddr::Unix(PathBuf::from(path))),
            None => text
                .replace("localhost:", "127.0.0.1:")
                .parse()
                .map(ListenAddr::Tcp)
                .map_err(|_| AddrError(text.to_owned())),
        }
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddr::Tcp(addr) => write!(f, "http://{addr}"),
            ListenAddr::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The access to Unix sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnixAccess {
    /// The users that the umask admits.
    Umask,
    /// Only the server's user: mode 0600.
    Owner,
}

/// Why the server can't listen on an address.
#[derive(Debug, thiserror::Error)]
#[error("can't listen on {addr}: {reason}")]
pub struct BindError {
    addr: String,
    reason: String,
}

/// The peer of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A TCP peer; see [`Peer::tcp`].
    Tcp(SocketAddr),
    /// A process on this machine.
    Unix,
}

impl Peer {
    /// The TCP peer at `addr`. An IPv4-mapped address becomes the IPv4 address, for instance 192.0.2.1. Sockets for both
    /// versions of IP, as service managers open them, report IPv4 peers in the mapped form.
    #[must_use]
    pub fn tcp(addr: SocketAddr) -> Self {
        match addr.ip().to_canonical() {
            ip @ IpAddr::V4(_) => Peer::Tcp(SocketAddr::new(ip, addr.port())),
            IpAddr::V6(_) => Peer::Tcp(addr),
        }
    }

    /// The peer's IP address; `None` for a process on this machine.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Peer::Tcp(addr) => Some(addr.ip()),
            Peer::Unix => None,
        }
    }

    /// Whether the peer is on this machine: 127.0.0.0/8, `::1`, an IPv4-mapped 127.0.0.0/8 address, or a Unix socket.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self {
            Peer::Unix => true,
            Peer::Tcp(addr) => match addr.ip() {
                IpAddr::V4(ip) => ip.is_loopback(),
                IpAddr::V6(ip) => ip.is_loopback() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_loopback()),
            },
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Tcp(addr) => addr.fmt(f),
            Peer::Unix => f.write_str("unix"),
        }
    }
}

/// A non-blocking listening socket.
#[derive(Debug)]
pub enum Listener {
    /// TCP
    Tcp(std::net::TcpListener),
    /// TCP with TLS
    Tls(std::net::TcpListener, Acceptor),
    /// A unix socket, with its path.
    Unix(UnixListener, PathBuf),
    /// A socket of either kind that other processes may hold too: see [`activation`](super::activation). A TCP socket may have
    /// TLS.
    Passed(Socket, Option<Acceptor>),
}

impl fmt::Display for Listener {
    /// The bound address: `http://127.0.0.1:43211`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listener::Tcp(listener) => fmt_address(f, "http", listener),
            Listener::Tls(listener, _) => fmt_address(f, "https", listener),
            Listener::Unix(_, path) => ListenAddr::Unix(path.clone()).fmt(f),
            Listener::Passed(socket, acceptor) => {
                let path = socket.local_addr().ok().and_then(|addr| addr.as_pathname().map(Path::to_path_buf));
                match path {
                    Some(path) => ListenAddr::Unix(path).fmt(f),
                    None => fmt_address(f, if acceptor.is_some() { "https" } else { "http" }, socket),
                }
            }
        }
    }
}

fn fmt_address(f: &mut fmt::Formatter<'_>, scheme: &str, listener: &impl AsFd) -> fmt::Result {
    match tcp_address(listener) {
        Some(addr) => write!(f, "{scheme}://{addr}"),
        None => f.write_str("an address without a name"),
    }
}

fn tcp_address(listener: &impl AsFd) -> Option<SocketAddr> {
    SockRef::from(listener).local_addr().ok()?.as_socket()
}

impl Listener {
    /// The same listener with TLS; a Unix socket is unchanged.
    #[must_use]
    pub fn secured(self, acceptor: &Acceptor) -> Self {
        match self {
            Listener::Tcp(listener) => Listener::Tls(listener, acceptor.clone()),
            Listener::Passed(socket, None) if tcp_address(&socket).is_some() => {
                Listener::Passed(socket, Some(acceptor.clone()))
            }
            other => other,
        }
    }

    /// Whether other machines may be able to reach the listener.
    #[must_use]
    pub fn is_public(&self) -> bool {
        let addr = match self {
            Listener::Tcp(listener) | Listener::Tls(listener, _) => tcp_address(listener),
            Listener::Unix(..) => None,
            Listener::Passed(socket, _) => tcp_address(socket),
        };
        addr.is_some_and(|addr| !Peer::Tcp(addr).is_loopback())
    }
}

/// Listens on each of `addrs` for each of `shards`: the outer list has one entry per shard.
///
/// # Errors
/// The first address that can't be used, and why.
pub fn bind_all(addrs: &[ListenAddr], shards: usize, access: UnixAccess) -> Result<Vec<Vec<Listener>>, BindError> {
    let mut all: Vec<Vec<Listener>> = (0..shards.max(1)).map(|_| Vec::new()).collect();
    for addr in addrs {
        let listeners = match addr {
            ListenAddr::Tcp(addr) => bind_tcp(*addr, all.len()).map_err(|error| explain_tcp(&error)),
            ListenAddr::Unix(path) => bind_unix(path, all.len(), access).map_err(|error| explain_unix(path, &error)),
        };
        let listeners = listeners.map_err(|reason| BindError { addr: addr.to_string(), reason })?;
        for (shard, listener) in all.iter_mut().zip(listeners) {
            shard.push(listener);
        }
    }
    Ok(all)
}

fn explain_tcp(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another process uses this address; stop that process, or choose another port with --port".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "not permitted; ports below 1024 need root or CAP_NET_BIND_SERVICE".to_owned()
        }
        _ => error.to_string(),
    }
}

fn explain_unix(path: &Path, error: &io::Error) -> String {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new(".")).display();
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "a running server listens on this socket; stop that server, or choose another path".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            format!("not permitted; this user must be able to write to {dir}, and to a socket that is there already")
        }
        io::ErrorKind::NotFound => format!("there is no directory {dir}; create it first"),
        io::ErrorKind::AlreadyExists => {
            "a file that is not a socket has this name; choose another path, or remove the file".to_owned()
        }
        io::ErrorKind::InvalidInput => {
            let bytes = path.as_os_str().len();
            format!("the path has {bytes} bytes; the limit is {UNIX_PATH_BYTES_MAX}; choose a shorter path")
        }
        _ => error.to_string(),
    }
}

fn bind_tcp(addr: SocketAddr, shards: usize) -> io::Result<Vec<Listener>> {
    // With SO_REUSEPORT, a second server of the same user would silently share the port, and each server would get half of the
    // requests. A first socket without SO_REUSEPORT detects that; it is bound but never listens, so it takes no connection.
    let probe = retried(|| tcp_socket(addr, false))?;
    let addr = probe.local_addr()?.as_socket().unwrap_or(addr);
    drop(probe);
    (0..shards)
        .map(|_| {
            let socket = retried(|| tcp_socket(addr, true))?;
            socket.listen(BACKLOG)?;
            Ok(Listener::Tcp(socket.into()))
        })
        .collect()
}

/// Tries again, for a bounded time, while the address is in use.
fn retried<T>(bind: impl Fn() -> io::Result<T>) -> io::Result<T> {
    for _ in 1..BIND_TRIES {
        match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => std::thread::sleep(BIND_PAUSE),
            other => return other,
        }
    }
    bind()
}

fn tcp_socket(addr: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    if addr.is_ipv6() {
        // The server can then listen on `[::]` and `0.0.0.0` side by side.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

/// Creates one listener, shared by the shards. Replaces a socket file without a listening process, and no other file.
fn bind_unix(path: &Path, shards: usize, access: UnixAccess) -> io::Result<Vec<Listener>> {
    if path.as_os_str().len() > UNIX_PATH_BYTES_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(io::ErrorKind::AlreadyExists.into()),
        // Clients can still connect to a server that was killed a moment ago.
        Ok(_) => retried(|| remove_stale(path))?,
        Err(_) => {} // bind(2) will report any other error.
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    if access == UnixAccess::Owner {
        // Linux creates the file with the mode of the socket, so other users can't connect at any moment.
        rustix::fs::fchmod(&socket, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
    }
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    let first = UnixListener::from(OwnedFd::from(socket));
    first.set_nonblocking(true)?;
    (0..shards).map(|_| Ok(Listener::Unix(first.try_clone()?, path.to_path_buf()))).collect()
}

/// Removes the socket file of a server that is gone; only a refused connection proves that no process listens.
fn remove_stale(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A blocking connect would wait for a live server whose backlog is full.
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // A process listens: the connect succeeded, its backlog is full, or its socket has another type.
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_addresses() {
        assert_eq!("127.0.0.1:80".parse(), Ok(ListenAddr::Tcp(([127, 0, 0, 1], 80).into())));
        assert_eq!("unix:/a b".parse(), Ok(ListenAddr::Unix("/a b".into())));
        assert!("[::1]:0".parse::<ListenAddr>().is_ok());
        for bad in ["", "8080", "unix:", "host", "1.2.3.4"] {
            assert!(bad.parse::<ListenAddr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_unix_socket_of_a_server_that_is_ending_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let old = UnixListener::bind(&path).unwrap();
        // The old listener ends once a client has connected, like a listener that an io_uring of a killed process holds a
        // little longer.
        let ending = std::thread::spawn(move || drop((old.accept().unwrap(), old)));
        let _listening = bind_all(&[ListenAddr::Unix(path.clone())], 1, UnixAccess::Umask).unwrap();
        ending.join().unwrap();
        // A listener that stays is not replaced, and the wait ends.
        let again = bind_all(&[ListenAddr::Unix(path)], 1, UnixAccess::Umask);
        let error = again.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("a running server listens on this socket"), "{error}");
    }

    #[test]
    fn knows_loopback() {
        let peer = |text: &str| Peer::Tcp(text.parse().unwrap());
        assert!(peer("127.9.9.9:1").is_loopback());
        assert!(peer("[::1]:1").is_loopback());
        assert!(peer("[::ffff:127.0.0.1]:1").is_loopback());
        assert!(!peer("192.0.2.1:1").is_loopback());
        assert!(!peer("[::ffff:192.0.2.1]:1").is_loopback());
    }

    #[test]
    fn an_ipv4_peer_has_one_name_on_sockets_of_either_version() {
        for (from, name) in [
            ("192.0.2.1:5", "192.0.2.1:5"),
            ("[::ffff:192.0.2.1]:5", "192.0.2.1:5"),
            ("[2001:db8::1]:5", "[2001:db8::1]:5"),
            ("[fe80::1%3]:5", "[fe80::1%3]:5"),
        ] {
            assert_eq!(Peer::tcp(from.parse().unwrap()).to_string(), name);
        }
    }

    #[test]
    fn shards_share_a_port_but_servers_do_not() {
        let addr: ListenAddr = "127.0.0.1:0".parse().unwrap();
        let first = bind_all(&[addr], 3, UnixAccess::Umask).unwrap();
        let names: Vec<String> = first.iter().map(|shard| shard[0].to_string()).collect();
        assert_eq!(names[0], names[2]);
        let same: ListenAddr = names[0].strip_prefix("http://").unwrap().parse().unwrap();
        let error = bind_all(&[same], 1, UnixAccess::Umask).unwrap_err().to_string();
        assert!(error.contains(&names[0]), "{error}");
    }

    fn refused(path: &Path) -> String {
        let error = bind_all(&[ListenAddr::Unix(path.to_path_buf())], 1, UnixAccess::Umask).unwrap_err().to_string();
        assert!(error.contains(&*path.to_string_lossy()), "{error}");
        assert!(!error.contains("port"), "{error}");
        error
    }

    #[test]
    fn a_dead_socket_file_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let addr = ListenAddr::Unix(path.clone());
        let live = bind_all(std::slice::from_ref(&addr), 2, UnixAccess::Umask).unwrap();
        assert!(refused(&path).contains("a running server"));
        drop(live);
        assert!(bind_all(std::slice::from_ref(&addr), 1, UnixAccess::Umask).is_ok());
        std::fs::remove_file(&path).unwrap();
        let datagrams = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        assert!(refused(&path).contains("a running server"));
        drop(datagrams);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "mine").unwrap();
        assert!(refused(&path).contains("not a socket"));
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }

    #[test]
    fn a_socket_for_the_owner_is_for_nobody_else() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _listeners = bind_all(&[ListenAddr::Unix(path.clone())], 2, UnixAccess::Owner).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
    }

    #[test]
    fn a_live_server_with_a_full_backlog_keeps_its_socket_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let connect = || {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket.connect(&SockAddr::unix(&path).unwrap()).map(|()| socket)
        };
        let live = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        live.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        live.listen(1).unwrap();
        let _waiting: Vec<Socket> = std::iter::from_fn(|| connect().ok()).take(100).collect();
        assert_eq!(connect().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(refused(&path).contains("a running server"));
    }

    #[test]
    fn paths_that_cannot_be_used_are_explained() {
        let dir = tempfile::tempdir().unwrap();
        let error = refused(&dir.path().join("missing/s"));
        assert!(error.contains(&format!("no directory {}/missing", dir.path().display())), "{error}");
        let room = UNIX_PATH_BYTES_MAX - dir.path().as_os_str().len() - 1;
        assert!(bind_all(&[ListenAddr::Unix(dir.path().join("s".repeat(room)))], 1, UnixAccess::Umask).is_ok());
        let error = refused(&dir.path().join("s".repeat(room + 1)));
        assert!(error.contains("108 bytes"), "{error}");
        let error = explain_unix(Path::new("s"), &io::ErrorKind::PermissionDenied.into());
        assert!(error.contains("write to ."), "{error}");
    }
}
