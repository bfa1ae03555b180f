//! Messages to the service manager (sd_notify(3)): the server is ready, reloads, stops, or is alive.
//!
//! Each message is one datagram to the socket that `NOTIFY_SOCKET` names. Without this variable, no message is sent. The server
//! logs a message that could not be sent, and does not repeat the message.

use rustix::time::{ClockId, clock_gettime};
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

/// Shortest interval between two watchdog messages: the shards' clocks tick every 100 ms.
const ALIVE_EVERY_MIN: Duration = Duration::from_millis(250);

/// The connection to the service manager; clones share the same socket.
#[derive(Debug, Clone, Default)]
pub struct Manager {
    socket: Option<Arc<(UnixDatagram, SocketAddr)>>,
}

impl Manager {
    /// The manager that the environment names, if any.
    #[must_use]
    pub fn from_env() -> Self {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Self::default();
        };
        Self::at(&name).unwrap_or_else(|error| {
            tracing::warn!("NOTIFY_SOCKET={}: {error}; the service manager gets no messages", name.display());
            Self::default()
        })
    }

    /// The manager at a path, or at `@NAME` in the abstract namespace (unix(7)).
    fn at(name: &OsStr) -> io::Result<Self> {
        let addr = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(name)?,
            _ => return Err(io::Error::other("neither a path nor an abstract name")),
        };
        let socket = UnixDatagram::unbound()?;
        // A manager that does not read must not block the server.
        socket.set_nonblocking(true)?;
        Ok(Self { socket: Some(Arc::new((socket, addr))) })
    }

    fn tell(&self, message: &str) {
        let Some((socket, addr)) = self.socket.as_deref() else { return };
        if let Err(error) = socket.send_to_addr(message.as_bytes(), addr) {
            tracing::warn!("the message {message:?} could not be sent to the service manager: {error}");
        }
    }

    /// Reports that the server accepts connections and all its modules are loaded, or that a reload is complete.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// Reports that the server reads the settings again that can change while it runs. [`Manager::ready`] reports the end.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let now_us = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1_000);
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={now_us}"));
    }

    /// Reports that the server has begun to stop.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// Sends regular watchdog messages if the manager requests them (`WatchdogSec=`). A message is sent only if each count of
    /// `progress` has changed since the last check. The thread runs until the process ends.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn watch(&self, progress: impl Fn() -> Vec<u64> + Send + 'static) -> io::Result<()> {
        let get = |name: &str| std::env::var(name).ok();
        let Some(every) = alive_every(get, std::process::id()).filter(|_| self.socket.is_some()) else { return Ok(()) };
        let manager = self.clone();
        let run = move || {
            let mut before = progress();
            loop {
                std::thread::sleep(every);
                let now = progress();
                if now.iter().zip(&before).all(|(now, before)| now != before) {
                    manager.tell("WATCHDOG=1");
                }
                before = now;
            }
        };
        std::thread::Builder::new().name("watchdog".to_owned()).spawn(run).map(drop)
    }
}

/// The interval of the watchdog messages of process `pid`: half of the manager's limit (sd_watchdog_enabled(3)).
fn alive_every(get: impl Fn(&str) -> Option<String>, pid: u32) -> Option<Duration> {
    let limit_us = get("WATCHDOG_USEC")?.parse().ok().filter(|limit_us| *limit_us > 0)?;
    if get("WATCHDOG_PID").is_some_and(|meant| meant != pid.to_string()) {
        return None;
    }
    Some((Duration::from_micros(limit_us) / 2).max(ALIVE_EVERY_MIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 200];
        let count = socket.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    }

    #[test]
    fn messages_go_to_a_path_or_an_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("cweb-test-{}", std::process::id());
        let by_path = UnixDatagram::bind(&path).unwrap();
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        for (socket, at) in [(by_path, path.into_os_string()), (by_name, format!("@{name}").into())] {
            let manager = Manager::at(&at).unwrap();
            manager.ready();
            assert_eq!(received(&socket), "READY=1");
            manager.reloading();
            let text = received(&socket);
            let since = text.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
            let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
            let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
            // The two clocks differ by the time the machine was suspended, if at all.
            assert!(since.parse::<f64>().unwrap() / 1e6 <= uptime + 1.0, "{text} {uptime}");
            manager.stopping();
            assert_eq!(received(&socket), "STOPPING=1");
            drop(socket);
            manager.ready(); // No process receives the message, which must have no effect.
        }
        assert!(Manager::at(OsStr::new("vsock:2:1")).is_err());
        Manager::default().ready();
    }

    #[test]
    fn signs_of_life_come_twice_in_time_from_the_process_that_is_meant() {
        let every = |usec: Option<&str>, pid: Option<&str>| {
            let value = |name: &str| if name == "WATCHDOG_PID" { pid } else { usec }.map(str::to_owned);
            alive_every(value, 7)
        };
        assert_eq!(every(Some("3000000"), None), Some(Duration::from_millis(1500)));
        assert_eq!(every(Some("3000000"), Some("7")), Some(Duration::from_millis(1500)));
        assert_eq!(every(Some("10"), None), Some(ALIVE_EVERY_MIN));
        for (usec, pid) in [(None, None), (Some("0"), None), (Some("x"), None), (Some("3000000"), Some("8"))] {
            assert_eq!(every(usec, pid), None);
        }
    }
}
