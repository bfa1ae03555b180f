//! Connections of the load generators, and their arguments.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, FromRawFd};
use std::time::Duration;

/// Connections that are opened without a pause. The accept queue of a server has room for that many.
const STEP: usize = 64;
const PAUSE: Duration = Duration::from_millis(2);

/// Addresses that connections come from. Each has some 28,000 ports of its own, and a closed connection keeps its port for a minute.
const ADDRESSES: usize = 64;

/// `PORT CONNECTIONS SECONDS DEPTH`, and options.
pub struct Options {
    pub port: u16,
    pub connections: usize,
    pub duration: Duration,
    pub depth: usize,
    /// A new connection for each request.
    pub churn: bool,
    /// Requests a second of all connections, at fixed times.
    pub rate: Option<f64>,
    /// A connection with requests in flight and no byte of an answer for this long is an error.
    pub stall: Duration,
    /// Number of different requests of the same length that standard input has.
    pub variants: usize,
    /// Certificate of the server, PEM.
    pub certificate: Option<String>,
}

impl Options {
    pub fn parse(arguments: impl Iterator<Item = String>) -> Option<Self> {
        let (mut numbers, mut arguments) = (Vec::new(), arguments.peekable());
        while let Some(number) = arguments.peek().and_then(|argument| argument.parse::<usize>().ok()) {
            numbers.push(number);
            arguments.next();
        }
        let &[port, connections @ 1..=usize::MAX, seconds, depth @ 1..=usize::MAX] = numbers.as_slice() else {
            return None;
        };
        let mut options = Self {
            port: u16::try_from(port).ok()?,
            connections,
            duration: Duration::from_secs(seconds as u64),
            depth,
            churn: false,
            rate: None,
            stall: Duration::from_secs(10),
            variants: 1,
            certificate: None,
        };
        while let Some(option) = arguments.next() {
            match option.as_str() {
                "--churn" => options.churn = true,
                "--rate" => options.rate = Some(arguments.next()?.parse().ok().filter(|rate| *rate > 0.0)?),
                "--stall" => options.stall = Duration::from_secs(arguments.next()?.parse().ok()?),
                "--variants" => options.variants = arguments.next()?.parse().ok().filter(|variants| *variants > 0)?,
                "--certificate" => options.certificate = Some(arguments.next()?),
                _ => return None,
            }
        }
        (!options.churn || (options.rate.is_none() && depth == 1)).then_some(options)
    }
}

/// Raises the limit on descriptors as far as the process may.
pub fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get a pointer to a local structure.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}

/// The `number`th connection to the server.
pub fn connect(port: u16, number: usize) -> io::Result<TcpStream> {
    let ok = |result: libc::c_int| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    // SAFETY: the call takes no pointer.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    ok(fd)?;
    // SAFETY: the descriptor is new and has no other owner.
    let stream = unsafe { TcpStream::from_raw_fd(fd) };
    let address = |host: u8, port: u16| libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes([127, 0, 0, host]) },
        sin_zero: [0; 8],
    };
    let (from, to) = (address(1 + (number % ADDRESSES) as u8, 0), address(1, port));
    let (one, length) = (1i32, size_of::<libc::sockaddr_in>() as libc::socklen_t);
    // The kernel chooses the port at connect(2): then many sockets of one address may share a port.
    // SAFETY: each pointer is passed with the size of the local value that it names.
    unsafe {
        ok(libc::setsockopt(fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, (&raw const one).cast(), 4))?;
        ok(libc::bind(fd, (&raw const from).cast(), length))?;
        ok(libc::connect(stream.as_raw_fd(), (&raw const to).cast(), length))?;
    }
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Opens `count` connections in steps, so that no accept queue overflows.
pub fn connect_all(port: u16, count: usize) -> io::Result<Vec<TcpStream>> {
    let mut streams = Vec::with_capacity(count);
    for number in 0..count {
        if number % STEP == STEP - 1 {
            std::thread::sleep(PAUSE);
        }
        streams.push(connect(port, number)?);
    }
    Ok(streams)
}
