//! The load over TLS 1.3: `tls PORT CONNECTIONS SECONDS 1 --certificate FILE [--churn] [--stall SECONDS] <REQUEST`.
//!
//! Each connection sends the request, waits for its answer, which must equal the first but for its date, and sends it again. With
//! `--churn` each request has a connection of its own with a full handshake: no session is resumed. FILE is the server's certificate,
//! which each handshake verifies. At the end the load waits for the requests in flight. The last line is that of `load`.

use floor::answer::{Expected, Progress, microseconds, report};
use floor::client::{Options, connect, connect_all, raise_descriptor_limit};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, Stream};
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest wait, in milliseconds.
const WAIT_MS: i32 = 20;
/// Time between two searches for connections that have stalled.
const SEARCH: Duration = Duration::from_millis(100);

struct Connection {
    stream: TcpStream,
    tls: ClientConnection,
    progress: Progress,
    sent_at: Instant,
    active_at: Instant,
}

struct Load {
    options: Options,
    config: Arc<ClientConfig>,
    request: Vec<u8>,
    expected: Expected,
    epoll: OwnedFd,
    /// `None`: no more requests are sent there.
    connections: Vec<Option<Connection>>,
    opened: usize,
    answered: usize,
    errors: usize,
    latencies: Vec<u32>,
}

fn main() -> io::Result<()> {
    let options = Options::parse(std::env::args().skip(1))
        .filter(|options| options.depth == 1 && options.rate.is_none() && options.variants == 1);
    let Some((options, certificate)) = options
        .and_then(|options| Some((options.certificate.clone()?, options)))
        .map(|(certificate, options)| (options, certificate))
    else {
        eprintln!("usage: tls PORT CONNECTIONS SECONDS 1 --certificate FILE [--churn] [--stall SECONDS] <REQUEST");
        std::process::exit(2);
    };
    raise_descriptor_limit();
    let mut request = Vec::new();
    io::stdin().read_to_end(&mut request)?;
    let config = configuration(&certificate)?;
    let mut first = connect(options.port, 0)?;
    first.set_read_timeout(Some(options.stall))?;
    let mut tls = client(&config)?;
    let expected = Expected::first(&mut Stream::new(&mut tls, &mut first), &request)?;
    drop(first);
    // SAFETY: the call takes no pointer; the descriptor is new and has no other owner.
    let epoll = unsafe { OwnedFd::from_raw_fd(libc::epoll_create1(libc::EPOLL_CLOEXEC)) };
    let (opened, answered, errors, latencies) = (options.connections, 0, 0, Vec::with_capacity(1 << 20));
    let mut load =
        Load { options, config, request, expected, epoll, connections: vec![], opened, answered, errors, latencies };
    let streams = connect_all(load.options.port, load.options.connections)?;
    let began = Instant::now();
    load.run(streams, began)?;
    report(load.answered, load.errors, began.elapsed(), &mut load.latencies);
    Ok(())
}

fn configuration(certificate: &str) -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate).map_err(io::Error::other)?).map_err(io::Error::other)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn client(config: &Arc<ClientConfig>) -> io::Result<ClientConnection> {
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)
}

impl Connection {
    /// Sends and receives what can be sent and received now. Returns whether the answer is complete.
    fn drive(&mut self, expected: &Expected, now: Instant) -> io::Result<bool> {
        loop {
            while self.tls.wants_write() {
                match self.tls.write_tls(&mut self.stream) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            match self.tls.read_tls(&mut self.stream) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => self.active_at = now,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
            self.tls.process_new_packets().map_err(io::Error::other)?;
            let mut bytes = [0; 4096];
            loop {
                match self.tls.reader().read(&mut bytes) {
                    Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                    Ok(count) => {
                        let complete = self.progress.take(expected, &bytes[..count]);
                        if complete.ok_or_else(|| io::Error::other("the answer differs from the first"))? > 0 {
                            return Ok(true);
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
        }
    }

    fn send(&mut self, request: &[u8], now: Instant) -> io::Result<()> {
        self.progress = Progress::default();
        self.progress.left = 1;
        (self.sent_at, self.active_at) = (now, now);
        self.tls.writer().write_all(request)
    }
}

impl Load {
    fn run(&mut self, streams: Vec<TcpStream>, began: Instant) -> io::Result<()> {
        let end = began + self.options.duration;
        for (index, stream) in streams.into_iter().enumerate() {
            self.connections.push(None);
            self.begin(index, stream, began)?;
        }
        let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; 256];
        let mut search_at = began + SEARCH;
        while self.connections.iter().any(Option::is_some) {
            // SAFETY: the pointer names as many events as the call is told.
            let ready =
                unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), events.as_mut_ptr(), events.len() as i32, WAIT_MS) };
            for event in &events[..usize::try_from(ready).unwrap_or(0)] {
                self.progress(event.u64 as usize, end)?;
            }
            if Instant::now() >= search_at {
                search_at = Instant::now() + SEARCH;
                self.end_stalled(end)?;
            }
        }
        Ok(())
    }

    /// Starts a connection at `index`: its handshake, and its first request.
    fn begin(&mut self, index: usize, stream: TcpStream, now: Instant) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        let flags = (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLET) as u32;
        let mut event = libc::epoll_event { events: flags, u64: index as u64 };
        // SAFETY: the pointer names a local value. A descriptor leaves the set when it is closed.
        let added =
            unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, stream.as_raw_fd(), &mut event) };
        if added != 0 {
            return Err(io::Error::last_os_error());
        }
        let tls = client(&self.config)?;
        let mut connection = Connection { stream, tls, progress: Progress::default(), sent_at: now, active_at: now };
        connection.send(&self.request, now)?;
        self.connections[index] = Some(connection);
        Ok(())
    }

    fn progress(&mut self, index: usize, end: Instant) -> io::Result<()> {
        // As long as answers come: edge-triggered events tell of new bytes only.
        while let Some(connection) = &mut self.connections[index] {
            let now = Instant::now();
            match connection.drive(&self.expected, now) {
                Ok(false) => return Ok(()),
                Err(_) => {
                    self.errors += 1;
                    return self.renew(index, end);
                }
                Ok(true) => {}
            }
            self.answered += 1;
            self.latencies.push(microseconds(now - connection.sent_at));
            if self.options.churn {
                connection.tls.send_close_notify();
                let _ = connection.tls.write_tls(&mut connection.stream);
                return self.renew(index, end);
            }
            if now >= end {
                self.connections[index] = None;
                return Ok(());
            }
            connection.send(&self.request, now)?;
        }
        Ok(())
    }

    /// Another connection at this place; after the end none.
    fn renew(&mut self, index: usize, end: Instant) -> io::Result<()> {
        self.connections[index] = None;
        let now = Instant::now();
        if now >= end {
            return Ok(());
        }
        self.opened += 1;
        let stream = connect(self.options.port, self.opened)?;
        self.begin(index, stream, now)
    }

    fn end_stalled(&mut self, end: Instant) -> io::Result<()> {
        for index in 0..self.connections.len() {
            let stalled = |connection: &Connection| connection.active_at.elapsed() > self.options.stall;
            if self.connections[index].as_ref().is_some_and(stalled) {
                self.errors += 1;
                self.renew(index, end)?;
            }
        }
        Ok(())
    }
}
