//! Listening sockets that a service manager has opened and passed to the server (sd_listen_fds(3)).
//!
//! The sockets stay the manager's. While one server stops and the next starts, connections wait in these sockets and none is
//! refused. The server must therefore not shut them down, nor accept a connection that it will not serve.

use super::listener::Listener;
use super::sys;
use socket2::{Domain, Socket, Type};
use std::ffi::OsString;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};

/// `SD_LISTEN_FDS_START`: the first passed descriptor.
const FIRST: RawFd = 3;

/// Limit on the passed sockets: a larger number is a mistake.
const SOCKETS_MAX: usize = 64;

/// The server can't listen on the passed descriptors.
#[derive(Debug, thiserror::Error)]
#[error("LISTEN_FDS: {0}")]
pub struct PassedError(String);

/// The sockets passed to this process, to be shared by all shards; empty without a manager that passes sockets. The caller must
/// call this before the process opens any descriptor; only the first call returns sockets.
///
/// # Errors
/// The variables can't be read, or a descriptor is no listening stream socket.
pub fn passed_sockets() -> Result<Vec<Socket>, PassedError> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let count = passed_count(|name| std::env::var_os(name), std::process::id())?;
    if count == 0 || TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let adopt = |at: usize| {
        let fd = FIRST + RawFd::try_from(at).unwrap_or(RawFd::MAX - FIRST);
        let name = names.next().filter(|name| !name.is_empty()).unwrap_or("unnamed");
        let wrong = |why| PassedError(format!("descriptor {fd} ({name}) {why}"));
        sys::adopt_passed(fd, check).map_err(wrong)
    };
    (0..count).map(adopt).collect()
}

/// How many sockets the variables announce to process `pid`.
fn passed_count(get: impl Fn(&str) -> Option<OsString>, pid: u32) -> Result<usize, PassedError> {
    let number = |name: &str| -> Result<Option<u64>, PassedError> {
        let Some(value) = get(name).filter(|value| !value.is_empty()) else { return Ok(None) };
        let number = value.to_str().and_then(|text| text.parse().ok());
        number.map(Some).ok_or_else(|| PassedError(format!("{name}={} is not a number", value.display())))
    };
    // The variable was meant for an ancestor of this process.
    if number("LISTEN_PID")? != Some(u64::from(pid)) {
        return Ok(0);
    }
    let count = usize::try_from(number("LISTEN_FDS")?.unwrap_or(0)).unwrap_or(usize::MAX);
    if count > SOCKETS_MAX {
        return Err(PassedError(format!("{count} sockets are more than {SOCKETS_MAX}")));
    }
    Ok(count)
}

fn check(socket: &Socket) -> Result<(), String> {
    let known = socket.domain().is_ok_and(|domain| [Domain::IPV4, Domain::IPV6, Domain::UNIX].contains(&domain));
    if !known || !socket.r#type().is_ok_and(|kind| kind == Type::STREAM) {
        return Err("is no stream socket; use ListenStream=".to_owned());
    }
    if !socket.is_listener().unwrap_or(false) {
        return Err("does not listen; use Accept=no".to_owned());
    }
    Ok(())
}

/// Duplicates each of `sockets` for each of `shards`: the outer list has one entry per shard.
///
/// # Errors
/// The process has no more descriptors.
pub fn share(sockets: &[Socket], shards: usize) -> std::io::Result<Vec<Vec<Listener>>> {
    let share = |_| sockets.iter().map(|socket| socket.try_clone().map(|own| Listener::Passed(own, None))).collect();
    (0..shards.max(1)).map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(pairs: &'static [(&str, &str)]) -> Result<usize, String> {
        let get = |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
        passed_count(get, 7).map_err(|error| error.to_string())
    }

    #[test]
    fn variables_are_for_the_process_they_name() {
        assert_eq!(count(&[]), Ok(0));
        assert_eq!(count(&[("LISTEN_FDS", "2")]), Ok(0));
        assert_eq!(count(&[("LISTEN_FDS", "2"), ("LISTEN_PID", "8")]), Ok(0));
        assert_eq!(count(&[("LISTEN_FDS", "2"), ("LISTEN_PID", "7")]), Ok(2));
        assert_eq!(count(&[("LISTEN_FDS", ""), ("LISTEN_PID", "7")]), Ok(0));
        for bad in ["x", "-1", "1000"] {
            assert!(
                passed_count(|name| Some(if name == "LISTEN_PID" { "7" } else { bad }.into()), 7).is_err(),
                "{bad}"
            );
        }
        assert!(count(&[("LISTEN_PID", "me")]).unwrap_err().contains("LISTEN_PID"));
    }

    #[test]
    fn only_listening_stream_sockets_will_do() {
        let new = |domain, kind| Socket::new(domain, kind, None).unwrap();
        let listening: Socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap().into();
        assert_eq!(check(&listening), Ok(()));
        assert!(check(&new(Domain::IPV4, Type::STREAM)).unwrap_err().contains("does not listen"));
        assert!(check(&new(Domain::UNIX, Type::DGRAM)).unwrap_err().contains("no stream socket"));
        let shared = share(&[listening], 3).unwrap();
        let names: Vec<String> = shared.iter().map(|shard| shard[0].to_string()).collect();
        assert!(names.len() == 3 && names[0].starts_with("http://127.0.0.1:") && names[0] == names[2], "{names:?}");
    }
}
