//! The user of a process.

use super::SandboxError;
use super::error::system;
use serde::{Deserialize, Serialize};
use std::io;

/// The user and the group `nobody`, which every Linux system has.
const NOBODY: User = User { uid: 65534, gid: 65534 };

/// CAP_CHOWN, CAP_SETGID and CAP_SETUID (`linux/capability.h`).
const NEEDED_CAPABILITIES: u64 = 1 << 0 | 1 << 6 | 1 << 7;

/// A user id and its group id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The user id.
    pub uid: u32,
    /// The only group id.
    pub gid: u32,
}

/// The user for children: `nobody` if this process is root and able to change users (a container may lack the capabilities,
/// or the user), else `None`.
#[must_use]
pub fn unprivileged() -> Option<User> {
    // SAFETY: no memory is involved.
    let root = unsafe { libc::geteuid() } == 0;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let users = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    (root && may_change_user(&status) && is_mapped(&users, NOBODY.uid)).then_some(NOBODY)
}

/// Whether children can become each of the users from `first` to `last`: see [`unprivileged`].
#[must_use]
pub fn are_mapped(first: u32, last: u32) -> bool {
    let users = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let groups = std::fs::read_to_string("/proc/self/gid_map").unwrap_or_default();
    [users, groups].iter().all(|map| is_mapped(map, first) && is_mapped(map, last))
}

fn may_change_user(status: &str) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|set| set & NEEDED_CAPABILITIES == NEEDED_CAPABILITIES)
}

/// Whether the user namespace has `uid` (user_namespaces(7): lines of first inside, first outside, count).
fn is_mapped(map: &str, uid: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().filter_map(|text| text.parse::<u64>().ok());
        let (first, count) = (numbers.next(), numbers.nth(1));
        matches!((first, count), (Some(first), Some(count)) if (first..first + count).contains(&u64::from(uid)))
    })
}

/// Becomes `user` and gives up all capabilities.
pub(super) fn drop_privileges(user: Option<User>) -> Result<(), SandboxError> {
    if let Some(User { uid, gid }) = user {
        let check = |result: libc::c_int, what| {
            if result < 0 { Err(system(what)(io::Error::last_os_error())) } else { Ok(()) }
        };
        // The groups change first: without root they can't be changed.
        // SAFETY: zero groups, so the pointer is not read.
        check(unsafe { libc::setgroups(0, std::ptr::null()) }, "giving up groups")?;
        // SAFETY: no memory is involved.
        check(unsafe { libc::setresgid(gid, gid, gid) }, "changing the group")?;
        // SAFETY: no memory is involved.
        check(unsafe { libc::setresuid(uid, uid, uid) }, "changing the user")?;
    }
    drop_capabilities()
}

/// For a root that can't become another user, and for a server that was given single capabilities.
fn drop_capabilities() -> Result<(), SandboxError> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: libc::c_int,
    }
    // _LINUX_CAPABILITY_VERSION_3; pid 0 is the caller. Two triples of effective, permitted and inheritable.
    let header = Header { version: 0x2008_0522, pid: 0 };
    let none = [[0_u32; 3]; 2];
    // SAFETY: header and data have the layout of capget(2), version 3, and are only read; the kernel knows this version.
    let set = unsafe { libc::syscall(libc::SYS_capset, &raw const header, &raw const none) };
    if set < 0 { Err(system("giving up capabilities")(io::Error::last_os_error())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_root_that_can_becomes_nobody() {
        assert!(may_change_user("Name:\tx\nCapEff:\t000001ffffffffff\n"));
        assert!(may_change_user("CapEff:\t00000000000000c1\n"));
        assert!(!may_change_user("CapEff:\t0000000000000041\n") && !may_change_user(""));
        assert!(is_mapped("         0          0 4294967295\n", 65534));
        assert!(is_mapped("0 1000 1\n1 100000 65536\n", 65534));
        assert!(!is_mapped("0 1000 1\n", 65534) && !is_mapped("", 65534));
    }
}
