//! A memory cgroup for each process of a domain: what it uses is limited, and only it dies of it.
//!
//! `RLIMIT_AS` bounds what a process maps. A cgroup bounds what it uses: resident memory, shared memory and files of a
//! tmpfs that it filled, tables of the kernel. The server makes the cgroups below its own, where that is given to it
//! (cgroups(7); `Delegate=` in systemd.resource-control(5)); where it is not, nothing else changes. Whether it is, is
//! found out once, by doing it.
//!
//! The names tell whose they are: `cweb-DATADIR-PID-NUMBER`, the data directory as a hash, the server's pid, the number
//! of the process. So servers don't meet, and one finds what an earlier one with its data directory has left.

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

/// How long what an earlier server left may be busy. Its processes were killed with it.
const LEFTOVERS_WAIT: Duration = Duration::from_secs(1);
/// Bytes of the hash in a name.
const HASH_BYTES: usize = 6;

/// Makes the cgroups of a server's domains.
#[derive(Debug)]
pub struct Cgroups {
    version: Version,
    /// The server's own, as it was at the start.
    base: PathBuf,
    /// Where the server has moved to, if it had to.
    leaf: Option<PathBuf>,
    names: Names,
    limit_bytes: u64,
    /// Cgroups that there are.
    count: Mutex<usize>,
    fewer: Condvar,
}

/// What the cgroups of a server are called.
#[derive(Debug)]
struct Names {
    /// Common to all servers with the same data directory.
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

    /// Whether `name` is of an earlier server with this data directory. `is_alive` is asked for a pid: it may be another's
    /// by now, then its cgroup is for a later start to remove.
    fn is_left(&self, name: &str, is_alive: impl Fn(u32) -> bool) -> bool {
        let pid = name.strip_prefix(&self.prefix).and_then(|rest| rest.split_once('-')?.0.parse().ok());
        pid.is_some_and(|pid: u32| pid == self.pid || !is_alive(pid))
    }
}

/// Whether there is such a process, whoever's, that is not just waiting to be waited for.
fn is_alive(pid: u32) -> bool {
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
    number.is_some_and(|number| test_kill_process(number) != Err(rustix::io::Errno::SRCH)) && !is_zombie(pid)
}

fn is_zombie(pid: u32) -> bool {
    // proc_pid_stat(5): the state comes behind the program's name, which may have parentheses itself.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
}

impl Cgroups {
    /// Finds out whether each process of modules can have a cgroup that limits it to `limit_bytes`, and removes those
    /// that an earlier server with the same `data_dir` has left. To be called before processes are started: the server
    /// may have to move into a cgroup below its own, which they inherit. `None`: it can't be; the log says why.
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
            reasons.push("no hierarchy with memory that has the server in it is mounted".to_owned());
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
        // Tried out now: afterwards a domain would have to do without.
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

    /// Gives the cgroups below the own one the memory controller (version 2). A cgroup that does has no processes of its
    /// own, but for the root: then the server moves first.
    fn enable(&mut self) -> io::Result<()> {
        let control = self.base.join("cgroup.subtree_control");
        if has_memory(&control) {
            return Ok(());
        }
        // The root alone has no such file.
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

    /// Moves the server.
    fn enter(&self, dir: &Path) -> io::Result<()> {
        write(&dir.join("cgroup.procs"), &self.names.pid.to_string())
    }

    /// Moves the server back to where it was, and leaves nothing of its own there.
    fn leave(&mut self) {
        let Some(leaf) = self.leaf.take() else { return };
        self.restore(&leaf);
    }

    fn restore(&self, leaf: &Path) {
        // In this order: a cgroup that gives controllers on takes no process.
        let given = write(&self.base.join("cgroup.subtree_control"), "-memory");
        let moved = self.enter(&self.base).and_then(|()| remove(leaf, Instant::now() + LEFTOVERS_WAIT));
        if let Err(error) = given.and(moved) {
            tracing::debug!("the server's cgroup could not be restored: {error}");
        }
    }

    /// Makes a cgroup for the process `pid` and puts it there. `number` is the process's.
    ///
    /// # Errors
    /// A system call failed; the process is where it was.
    pub(super) fn confine(self: &Arc<Self>, number: u64, pid: u32) -> io::Result<Confined> {
        let group = self.create(&number.to_string())?;
        *lock(&self.count) += 1;
        let confined = Confined { group: Mutex::new(Some(group)), cgroups: Arc::clone(self) };
        confined.add(pid).map(|()| confined)
    }

    /// Waits until all cgroups are removed, as they are when their processes are over, but not longer than `limit`. The
    /// server moves back to its own. To be called last.
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

/// A process in its cgroup, which is removed with this at the latest.
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

    /// Whether its process was killed for memory, and for whose.
    pub(super) fn out_of_memory(&self) -> Option<OutOfMemory> {
        lock(&self.group).as_ref()?.out_of_memory()
    }

    /// The process has been waited for.
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

/// Whether a file that lists controllers has memory.
fn has_memory(file: &Path) -> bool {
    fs::read_to_string(file).is_ok_and(|text| text.split_whitespace().any(|name| name == "memory"))
}

/// Removes what earlier servers with this data directory have left.
fn remove_left(base: &Path, names: &Names) {
    let deadline = Instant::now() + LEFTOVERS_WAIT;
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
