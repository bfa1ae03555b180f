//! Connections that the server makes for modules, if `--allow-net` is a list. The process of a domain asks for a
//! connecting socket, because the process itself can't connect.

use super::lock;
use crate::net::Reach;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, ipproto, socket_with};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long the resolved addresses of a name are used.
const NAME_AGE: Duration = Duration::from_secs(30);
/// Limit on the refused addresses that are logged for each domain.
const TOLD_MAX: usize = 32;

/// The permitted destinations of modules, and cached addresses.
#[derive(Debug, Default)]
pub struct Connects {
    reach: Reach,
    names: Mutex<HashMap<String, (Instant, Vec<IpAddr>)>>,
    /// The refused addresses that were logged, by domain.
    told: Mutex<HashMap<String, Vec<SocketAddr>>>,
}

impl Connects {
    /// Permits connections to the destinations in `reach`.
    #[must_use]
    pub fn new(reach: Reach) -> Self {
        Self { reach, ..Self::default() }
    }

    /// Begins a connection for a module of `domain`. Blocks only for the resolution of names in the list.
    ///
    /// # Errors
    /// An errno: `EACCES` for a refused destination, which is also logged, or an error of connect(2).
    pub(super) fn begin(&self, domain: &str, address: SocketAddr) -> Result<OwnedFd, i32> {
        if !self.reach.allows(domain, address, is_own, |name| self.resolve(name)) {
            self.tell(domain, address);
            return Err(libc::EACCES);
        }
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP)).map_err(Errno::raw_os_error)?;
        match connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
            Err(error) => Err(error.raw_os_error()),
        }
    }

    fn resolve(&self, name: &str) -> Vec<IpAddr> {
        if let Some((_, known)) = lock(&self.names).get(name).filter(|(at, _)| at.elapsed() < NAME_AGE) {
            return known.clone();
        }
        // Resolved without the lock, since it can take seconds. The list has few names, which bounds the map.
        let found = (name, 0).to_socket_addrs().map(|found| found.map(|address| address.ip()).collect::<Vec<_>>());
        let found = found.unwrap_or_else(|error| {
            tracing::warn!("--allow-net {name}: {error}");
            Vec::new()
        });
        lock(&self.names).insert(name.to_owned(), (Instant::now(), found.clone()));
        found
    }

    fn tell(&self, domain: &str, address: SocketAddr) {
        let mut told = lock(&self.told);
        let told = told.entry(domain.to_owned()).or_default();
        if told.len() < TOLD_MAX && !told.contains(&address) {
            told.push(address);
            tracing::warn!(
                "a connection of domain {domain} to {address} is refused; --allow-net {domain}={address} grants it"
            );
        }
    }
}

/// Whether an address belongs to this machine: the kernel then also uses it as the sender's address. Sends nothing.
fn is_own(ip: IpAddr) -> bool {
    const PORT: u16 = 9;
    let any: IpAddr = if ip.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let probe =
        UdpSocket::bind((any, 0)).and_then(|socket| socket.connect((ip, PORT)).and_then(|()| socket.local_addr()));
    match probe {
        Ok(own) => own.ip() == ip,
        // An unreachable address does not belong to this machine. If the check fails otherwise, the connection is refused.
        Err(error) => !matches!(error.raw_os_error(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_listed_is_refused_and_told_a_few_times() {
        let connects = Connects::new(Reach::read(["a=127.0.0.1:9"]).unwrap());
        for port in 0..100 {
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            assert_eq!(connects.begin("b", address).err(), Some(libc::EACCES));
            assert_eq!(connects.begin("b", address).err(), Some(libc::EACCES));
        }
        assert_eq!(lock(&connects.told)["b"].len(), TOLD_MAX);
        assert!(is_own([127, 0, 0, 1].into()) && !is_own([192, 0, 2, 1].into()));
        let name = Connects::new(Reach::read(["localhost:1"]).unwrap());
        assert_eq!(name.begin("a", SocketAddr::from(([192, 0, 2, 1], 1))).err(), Some(libc::EACCES));
    }
}
