//! The memory of processes, as `/proc` reports it. Reads of unbounded length continue at the next look.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, ReadDir};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

/// The memory of one process, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Memory {
    /// Private pages and swap. Pages that a fork shares with its parent count in both processes.
    pub(super) private: u64,
    /// Shared memory and files in memory that the process maps.
    pub(super) shared: u64,
}

impl Memory {
    /// From proc_pid_status(5), which costs the kernel little. `None`: the process has ended.
    pub(super) fn plain(pid: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let bytes = |field: &str| field_bytes(&status, field).unwrap_or(0);
        Some(Self { private: bytes("RssAnon:") + bytes("VmSwap:"), shared: bytes("RssShmem:") })
    }

    /// The process's share of each page, divided by the number of processes that map it: `smaps_rollup` of proc(5), for
    /// which the kernel visits all pages. `None`: the process has ended, or the file can't be read.
    fn proportional(pid: u32) -> Option<Self> {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let bytes = |field: &str| field_bytes(&rollup, field);
        Some(Self { private: bytes("Pss_Anon:")? + bytes("SwapPss:").unwrap_or(0), shared: bytes("Pss_Shmem:")? })
    }
}

/// The value of a line `field N kB`, in bytes.
fn field_bytes(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// A measurement of a process, and its [`Memory::plain`] at that time.
#[derive(Debug, Clone, Copy)]
struct Measured {
    part: Memory,
    plain: Memory,
    at: u64,
}

/// The memory of a domain's process and of those forked from it.
#[derive(Default)]
pub(super) struct GroupMemory {
    /// The present memory of each process.
    members: BTreeMap<u32, Memory>,
    measured: BTreeMap<u32, Measured>,
    measurements: u64,
    files: MemoryFiles,
}

impl GroupMemory {
    /// Takes the plain numbers of all `members`, and continues examining their open files until `until`.
    pub(super) fn look(&mut self, members: &[u32], until: Instant) {
        self.members = members.iter().filter_map(|pid| Some((*pid, Memory::plain(*pid)?))).collect();
        self.measured.retain(|pid, _| self.members.contains_key(pid));
        self.files.look(members, until);
    }

    pub(super) fn processes(&self) -> usize {
        self.members.len()
    }

    /// An upper limit on the bytes in private pages: shared ones count in each process.
    pub(super) fn private_at_most(&self) -> u64 {
        self.members.values().map(|memory| memory.private).sum()
    }

    /// Measures at least one process, and more until `until`, starting with the oldest measurement. A process without forks
    /// needs no measurement. Also continues examining open files.
    pub(super) fn measure(&mut self, until: Instant) {
        let alone = self.members.len() < 2;
        let mut order: Vec<(u64, u32)> = self
            .members
            .keys()
            .filter(|_| !alone)
            .map(|pid| (self.measured.get(pid).map_or(0, |measured| measured.at), *pid))
            .collect();
        order.sort_unstable();
        for (_, pid) in order {
            self.measurements += 1;
            let plain = self.members.get(&pid).copied().unwrap_or_default();
            if let Some(part) = Memory::proportional(pid) {
                self.measured.insert(pid, Measured { part, plain, at: self.measurements });
            }
            if Instant::now() >= until {
                break;
            }
        }
        let members: Vec<u32> = self.members.keys().copied().collect();
        self.files.look(&members, until);
    }

    /// The bytes that the end of the processes would free, as far as known.
    ///
    /// For unmeasured processes: the largest counts fully, and each other process with its bytes beyond the smallest, from
    /// which the others are assumed to be forked.
    pub(super) fn bytes(&self) -> u64 {
        let smallest = self.members.values().map(|memory| memory.private).min().unwrap_or(0);
        let largest = self.members.iter().max_by_key(|(_, memory)| memory.private).map(|(pid, _)| *pid);
        let private = self.members.iter().map(|(pid, now)| match self.measured.get(pid) {
            Some(known) if self.members.len() > 1 => {
                (known.part.private + now.private.saturating_sub(known.plain.private)).min(now.private)
            }
            _ if Some(*pid) == largest => now.private,
            _ => now.private.saturating_sub(smallest),
        });
        let shared_once = self.members.values().map(|memory| memory.shared).max().unwrap_or(0);
        let shared: u64 = self.measured.values().map(|measured| measured.part.shared).sum();
        private.sum::<u64>() + shared_once.max(shared).max(self.files.bytes())
    }
}

/// The unnamed files in memory that the processes have open (memfd_create(2)), without duplicates. A module can have many
/// thousand descriptors, so one pass over them may take several looks.
#[derive(Default)]
struct MemoryFiles {
    is_under_way: bool,
    /// The files seen in this pass: bytes by device and inode.
    seen: HashMap<(u64, u64), u64>,
    /// The processes that this pass must still examine, and the list of descriptors that it is reading.
    left: Vec<u32>,
    list: Option<ReadDir>,
    /// The bytes that the last complete pass has seen.
    complete: u64,
}

impl MemoryFiles {
    fn bytes(&self) -> u64 {
        self.complete.max(self.seen.values().sum())
    }

    /// Continues the pass until `until` or its end. After its end, a new pass begins at the next look.
    fn look(&mut self, members: &[u32], until: Instant) {
        if !std::mem::replace(&mut self.is_under_way, true) {
            self.left = members.to_vec();
        }
        loop {
            let Some(list) = &mut self.list else {
                let Some(pid) = self.left.pop() else { break };
                self.list = fs::read_dir(format!("/proc/{pid}/fd")).ok();
                continue;
            };
            match list.next() {
                Some(Ok(entry)) => self.seen.extend(memory_file(&entry.path())),
                Some(Err(_)) | None => self.list = None,
            }
            if Instant::now() >= until {
                return;
            }
        }
        self.is_under_way = false;
        self.complete = self.seen.drain().map(|(_, bytes)| bytes).sum();
    }
}

/// The device, inode and bytes of an open file, if memfd_create(2) made it. Most descriptors cost one system call.
fn memory_file(descriptor: &Path) -> Option<((u64, u64), u64)> {
    let target = fs::read_link(descriptor).ok()?;
    if !target.as_os_str().as_bytes().starts_with(b"/memfd:") {
        return None;
    }
    let data = fs::metadata(descriptor).ok().filter(|data| data.is_file() && data.nlink() == 0)?;
    Some(((data.dev(), data.ino()), data.blocks().saturating_mul(512)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};
    use std::time::Duration;

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn a_process_alone_counts_as_it_is() {
        let (stdin, stdout) = (Stdio::piped(), Stdio::piped());
        let mut child = Command::new("cat").stdin(stdin).stdout(stdout).spawn().unwrap();
        child.stdin.as_mut().unwrap().write_all(b".").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let mut memory = GroupMemory::default();
        memory.look(&[child.id(), u32::MAX], later());
        memory.measure(later());
        assert!(memory.processes() == 1 && (1..1 << 22).contains(&memory.bytes()), "{}", memory.bytes());
        assert_eq!(memory.bytes(), memory.private_at_most() + memory.members[&child.id()].shared);
        drop(child.stdin.take());
        child.wait().unwrap();
        memory.look(&[child.id()], later());
        assert_eq!((memory.bytes(), Memory::plain(u32::MAX)), (0, None));
    }

    #[test]
    fn a_file_in_memory_counts_once_and_without_being_mapped_however_many_descriptors_there_are() {
        let file = rustix::fs::memfd_create("counted", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let mut file = fs::File::from(file);
        file.write_all(&vec![1; 64 << 20]).unwrap();
        let twice = file.try_clone().unwrap();
        let own = std::process::id();
        let mut files = MemoryFiles::default();
        let mut looks = 0;
        // Each look ends at once and sees one descriptor.
        while files.complete == 0 {
            files.look(&[own], Instant::now());
            looks += 1;
            assert!(looks < 100_000);
        }
        assert!(looks > 5 && files.complete >= 64 << 20, "{looks}");
        let descriptor = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&twice));
        let (_, bytes) = memory_file(Path::new(&descriptor)).unwrap();
        assert!((64 << 20..66 << 20).contains(&bytes), "{bytes}");
        assert_eq!(memory_file(Path::new("/proc/self/exe")), None);
    }

    #[test]
    fn what_is_shared_after_a_fork_counts_once() {
        let of = |private: u64, shared: u64| Memory { private, shared };
        let members = [(1, of(1_000, 20)), (2, of(950, 20)), (3, of(1_150, 0))];
        let mut group = GroupMemory { members: BTreeMap::from(members), ..GroupMemory::default() };
        // The others are forked from 2; 3 has 200 of its own.
        assert_eq!((group.private_at_most(), group.bytes()), (3_100, 50 + 1_150 + 20));
        // After a measurement: the measured bytes, and the growth since.
        let measured = |part: Memory, plain: Memory| Measured { part, plain, at: 1 };
        group.measured = BTreeMap::from([
            (1, measured(of(333, 15), of(1_000, 20))),
            (2, measured(of(333, 15), of(950, 20))),
            (3, measured(of(700, 0), of(1_050, 0))),
        ]);
        assert_eq!(group.bytes(), 333 + 333 + 700 + 100 + 30);
        group.members.retain(|pid, _| *pid == 3);
        group.measured.retain(|pid, _| *pid == 3);
        assert_eq!(group.bytes(), 1_150, "alone, it has all");
        group.files.complete = 5_000;
        assert_eq!(group.bytes(), 6_150);
    }
}
