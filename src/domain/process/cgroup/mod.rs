//! A memory cgroup for each process of a domain: it limits the used memory, and only that process dies when the memory runs
//! out.
//!
//! `RLIMIT_AS` limits the mapped memory. A cgroup limits the used memory: resident memory, shared memory and files in a
//! tmpfs that the process filled, and tables of the kernel. The server creates the cgroups below its own, if it has the
//! right to do so (cgroups(7); `Delegate=` in systemd.resource-control(5)); otherwise nothing else changes. The server
//! finds out by trying once.
//!
//! The names show the owner: `cweb-DATADIR-PID-NUMBER`, with a hash of the data directory, the server's process id, and the
//! number of the domain's process. Therefore servers don't collide, and a server finds the cgroups that an earlier server
//! with its data directory has left.

mod group;

pub(super) use group::OutOfMemory;

use super::lock;
use crate::machine::{self, CgroupDir, Version};
use group::{Group, make, remove, rmdir, write};
use rustix::process::{Pid, test_kill_process};
use sha2::{Digest, Sha256};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long cgroups of an earlier server may be busy. Its processes were killed with it.
const EARLIER_WAIT: Duration = Duration::from_secs(1);
/// The bytes of the hash in a name.
const HASH_BYTES: usize = 6;

/// Creates the cgroups of a server's domains.
#[derive(Debug)]
pub struct Cgroups {
    version: Version,
    /// The server's own cgroup at its start.
    base: PathBuf,
    /// The cgroup that the server has moved to, if it had to.
    leaf: Option<PathBuf>,
    names: Names,
    limit_bytes: u64,
    /// The number of existing cgroups.
    count: Mutex<usize>,
    fewer: Condvar,
}

/// The names of a server's cgroups.
#[derive(Debug)]
struct Names {
    /// The common part for all servers with the same data directory.
    prefix: String,
    pid: u32,
}

impl Names {
    fn new(data_dir: &Path, pid: u32) -> Self {
        let hash = Sha256::digest(data_dir.as_os_str().as_bytes());
        let hash = data_encoding::HEXLOWER.encode(hash.get(..HASH_BYTES).unwrap_or_default());
        Self { prefix: format!("cweb-{hash}-"), pid }
    }

    fn of(&self, what: &str) -> String {
        format!("{}{}-{what}", self.prefix, self.pid)
    }

    /// Whether `name` belongs to an earlier server with this data directory. `is_alive` checks a process id: it may belong
    /// to another process by now; then a later start removes the cgroup.
    fn is_left(&self, name: &str, is_alive: impl Fn(u32) -> bool) -> bool {
        let pid = name.strip_prefix(&self.prefix).and_then(|rest| rest.split_once('-')?.0.parse().ok());
        pid.is_some_and(|pid: u32| pid == self.pid || !is_alive(pid))
    }
}

/// Whether a process with this id exists, of any user, and is not a zombie.
fn is_alive(pid: u32) -> bool {
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
    number.is_some_and(|number| test_kill_process(number) != Err(rustix::io::Errno::SRCH)) && !is_zombie(pid)
}

fn is_zombie(pid: u32) -> bool {
    // proc_pid_stat(5): the state follows the program's name, which may contain parentheses itself.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
}

impl Cgroups {
    /// Finds out whether each process of modules can have a cgroup that limits it to `limit_bytes`, and removes cgroups
    /// that an earlier server with the same `data_dir` has left. Must be called before processes are started: the server
    /// may have to move into a cgroup below its own, which the processes inherit. `None`: cgroups are not possible;
    /// the log has the reason.
    #[must_use]
    pub fn find(data_dir: &Path, limit_bytes: u64) -> Option<Arc<Self>> {
        let mut reasons = Vec::new();
        for CgroupDir { version, dir } in machine::own_cgroups() {
            match Self::below(version, dir, Names::new(data_dir, std::process::id()), limit_bytes) {
                Ok(found) => {
                    let base = found.base.display();
                    tracing::info!("each process of modules may use {limit_bytes} bytes of memory (cgroup in {base})");
                    return Some(Arc::new(found));
                }
                Err(error) => reasons.push(error.to_string()),
            }
        }
        if reasons.is_empty() {
            reasons.push("no mounted cgroup hierarchy with the memory controller contains the server".to_owned());
        }
        let why = reasons.join("; ");
        tracing::info!("no cgroup limits the memory of modules, only --module-memory-bytes-max does: {why}");
        None
    }

    fn below(version: Version, base: PathBuf, names: Names, limit_bytes: u64) -> io::Result<Self> {
        if version == Version::Two && !has_memory(&base.join("cgroup.controllers")) {
            return Err(io::Error::other(format!("{} has not been given the memory controller", base.display())));
        }
        remove_left(&base, &names);
        let mut found =
            Self { version, base, leaf: None, names, limit_bytes, count: Mutex::new(0), fewer: Condvar::new() };
        if version == Version::Two {
            found.enable()?;
        }
        // Tried now, since a failure later would leave a domain without a limit.
        match found.create("0") {
            Ok(group) => group.remove(),
            Err(error) => {
                found.leave();
                return Err(error);
            }
        }
        Ok(found)
    }

    fn create(&self, what: &str) -> io::Result<Group> {
        Group::create(self.version, self.base.join(self.names.of(what)), self.limit_bytes)
    }

    /// Enables the memory controller for the cgroups below the own one (version 2). A cgroup that enables controllers must
    /// not contain processes, apart from the root: so the server moves first.
    fn enable(&mut self) -> io::Result<()> {
        let control = self.base.join("cgroup.subtree_control");
        if has_memory(&control) {
            return Ok(());
        }
        // Only the root has no such file.
        if self.base.join("cgroup.type").exists() {
            let leaf = self.base.join(self.names.of("server"));
            make(&leaf)?;
            if let Err(error) = self.enter(&leaf) {
                let _ = rmdir(&leaf);
                return Err(error);
            }
            self.leaf = Some(leaf);
        }
        write(&control, "+memory").map_err(|error| {
            self.leave();
            let busy = error.kind() == io::ErrorKind::ResourceBusy;
            if busy { io::Error::other(format!("other processes are in {}", self.base.display())) } else { error }
        })
    }

    /// Moves the server into `dir`.
    fn enter(&self, dir: &Path) -> io::Result<()> {
        write(&dir.join("cgroup.procs"), &self.names.pid.to_string())
    }

    /// Moves the server back to its first cgroup, and removes its own.
    fn leave(&mut self) {
        let Some(leaf) = self.leaf.take() else { return };
        self.restore(&leaf);
    }

    fn restore(&self, leaf: &Path) {
        // In this order: a cgroup that enables controllers accepts no process.
        let given = write(&self.base.join("cgroup.subtree_control"), "-memory");
        let moved = self.enter(&self.base).and_then(|()| remove(leaf, Instant::now() + EARLIER_WAIT));
        if let Err(error) = given.and(moved) {
            tracing::debug!("the server's cgroup could not be restored: {error}");
        }
    }

    /// Creates a cgroup for the process `pid` and moves the process into it. `number` is the process's number.
    ///
    /// # Errors
    /// A system call failed; the process has not moved.
    pub(super) fn confine(self: &Arc<Self>, number: u64, pid: u32) -> io::Result<Confined> {
        let group = self.create(&number.to_string())?;
        *lock(&self.count) += 1;
        let confined = Confined { group: Mutex::new(Some(group)), cgroups: Arc::clone(self) };
        confined.add(pid).map(|()| confined)
    }

    /// Waits until all cgroups are removed, which happens after their processes have ended, but at most for `limit`. The
    /// server moves back to its own cgroup. Must be the last call.
    pub fn close(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut count = lock(&self.count);
        while *count > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                tracing::warn!("{} cgroup(s) of modules are left; the next start removes them", *count);
                break;
            }
            count = self.fewer.wait_timeout(count, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(count);
        if let Some(leaf) = &self.leaf {
            self.restore(leaf);
        }
    }
}

/// A process in its cgroup. The cgroup is removed when this value is dropped, at the latest.
#[derive(Debug)]
pub(super) struct Confined {
    /// `None` once it is removed.
    group: Mutex<Option<Group>>,
    cgroups: Arc<Cgroups>,
}

impl Confined {
    fn add(&self, pid: u32) -> io::Result<()> {
        lock(&self.group).as_ref().map_or(Ok(()), |group| group.add(pid))
    }

    /// The reason if the kernel killed the process for lack of memory.
    pub(super) fn out_of_memory(&self) -> Option<OutOfMemory> {
        lock(&self.group).as_ref()?.out_of_memory()
    }

    /// Removes the cgroup after the process was reaped.
    pub(super) fn remove(&self) {
        let Some(group) = lock(&self.group).take() else { return };
        group.remove();
        *lock(&self.cgroups.count) -= 1;
        self.cgroups.fewer.notify_all();
    }
}

impl Drop for Confined {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Whether a file that lists controllers contains memory.
fn has_memory(file: &Path) -> bool {
    fs::read_to_string(file).is_ok_and(|text| text.split_whitespace().any(|name| name == "memory"))
}

/// Removes the cgroups that earlier servers with this data directory have left.
fn remove_left(base: &Path, names: &Names) {
    let deadline = Instant::now() + EARLIER_WAIT;
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(|name| names.is_left(name, is_alive)) {
            match remove(&entry.path(), deadline) {
                Ok(()) => tracing::debug!("removed {}, of an earlier server", entry.path().display()),
                Err(error) => tracing::warn!("{} of an earlier server: {error}", entry.path().display()),
            }
        }
    }
}

#[cfg(test)]
mod tests;
