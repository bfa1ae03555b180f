//! Connections that the server makes for modules, where `--allow-net` is a list: the process of a domain asks, gets a socket that is
//! connecting, and can make none itself.

use super::lock;
use crate::net::Reach;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, ipproto, socket_with};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long the addresses of a name count.
const NAME_AGE: Duration = Duration::from_secs(30);
/// Refused addresses that are told of each domain.
const TOLD_MAX: usize = 32;

/// What modules may connect to, and what is known of it.
#[derive(Debug, Default)]
pub struct Connects {
    reach: Reach,
    names: Mutex<HashMap<String, (Instant, Vec<IpAddr>)>>,
    /// By domain.
    told: Mutex<HashMap<String, Vec<SocketAddr>>>,
}

impl Connects {
    /// Connections to what `reach` has.
    #[must_use]
    pub fn new(reach: Reach) -> Self {
        Self { reach, ..Self::default() }
    }

    /// Begins a connection for a module of `domain`. Waits for nothing but the resolution of names in the list.
    ///
    /// # Errors
    /// An errno: it is not allowed (`EACCES`, and told in the log), or those of connect(2).
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
        // Not under the lock: it can take seconds. The list has few names, which bounds the map.
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

/// Whether an address is one of this machine's: the kernel then takes it for the sender's, too. Sends nothing.
fn is_own(ip: IpAddr) -> bool {
    const PORT: u16 = 9;
    let any: IpAddr = if ip.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let probe =
        UdpSocket::bind((any, 0)).and_then(|socket| socket.connect((ip, PORT)).and_then(|()| socket.local_addr()));
    match probe {
        Ok(own) => own.ip() == ip,
        // An address that cannot be reached is not one of this machine's. Where the question fails, nothing is granted.
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
