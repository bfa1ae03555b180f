//! Processes of domains that have outlived their server.
//!
//! The kernel ends them with it, and they can't take that back. Where that fails, code of others would go on in directories that
//! the next server gives away and uses. So each process has a record while it lives: a file named by its number that says
//! when it began, which together no other process has.

use super::group;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// More records are not read: there are as many as domains, or twice that.
const RECORDS_MAX: usize = 4096;
/// How long the end of one process is waited for.
const END_WAIT: Duration = Duration::from_secs(2);
const END_LOOK: Duration = Duration::from_millis(2);
/// Field 22 of proc_pid_stat(5), counted from the one behind the name.
const START_TIME: usize = 19;

/// The record of a process; removed when it is dropped.
#[derive(Debug)]
pub(super) struct Record {
    path: PathBuf,
}

impl Record {
    /// Writes down in `dir` that the child `pid` lives.
    pub(super) fn new(dir: &Path, pid: u32) -> io::Result<Self> {
        let birth = birth(pid).ok_or(io::ErrorKind::NotFound)?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let path = dir.join(pid.to_string());
        fs::write(&path, birth)?;
        Ok(Self { path })
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// When the process of this number began, and since which start of the machine that is counted. `None`: it is over.
fn birth(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, which can be anything, is in parentheses.
    let (_, fields) = stat.rsplit_once(')')?;
    if matches!(fields.split_whitespace().next(), Some("Z" | "X")) {
        return None; // Dead, and not yet waited for.
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(format!("{} {}", fields.split_whitespace().nth(START_TIME)?, boot.trim()))
}

/// Ends every process that has a record in `dir`, and removes the records. The caller is the only server here.
pub fn end_orphans(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten().take(RECORDS_MAX) {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        match end(pid, &fs::read_to_string(entry.path()).unwrap_or_default()) {
            Ok(true) => tracing::warn!("process {pid}, which ran modules of a server before this one, is ended"),
            Ok(false) => {}
            Err(error) => tracing::warn!("process {pid} runs modules of a server before this one: {error}"),
        }
        let _ = fs::remove_file(entry.path());
    }
}

/// Ends the process, if it is the one that began then. False: it is over.
fn end(pid: u32, begun: &str) -> io::Result<bool> {
    let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(false) };
    let process = match pidfd_open(number, PidfdFlags::empty()) {
        Err(Errno::SRCH | Errno::INVAL) => return Ok(group::end_left(pid)),
        process => process?,
    };
    // Asked after the process is held: from here on its number is no other's.
    let lives = || birth(pid).is_some_and(|birth| birth == begun);
    if !lives() {
        return Ok(group::end_left(pid));
    }
    // What it has forked does not end with it.
    group::end(pid);
    pidfd_send_signal(&process, Signal::KILL)?;
    let until = Instant::now() + END_WAIT;
    while lives() {
        if Instant::now() >= until {
            return Err(io::ErrorKind::TimedOut.into());
        }
        thread::sleep(END_LOOK);
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_is_ended_if_it_is_the_one() {
        let dir = tempfile::tempdir().unwrap();
        let records = dir.path().join("records");
        end_orphans(&records);
        let mut sleepers: Vec<_> = (0..2).map(|_| Command::new("sleep").arg("60").spawn().unwrap()).collect();
        let kept: Vec<_> = sleepers.iter().map(|child| Record::new(&records, child.id()).unwrap()).collect();
        // Another process has that number now.
        let other = records.join(sleepers[1].id().to_string());
        fs::write(&other, "1 some-boot").unwrap();
        fs::write(records.join("no number"), "").unwrap();
        fs::write(records.join("4194999"), "1 some-boot").unwrap();
        end_orphans(&records);
        assert_eq!(fs::read_dir(&records).unwrap().count(), 1);
        assert!(!sleepers[0].wait().unwrap().success());
        assert!(sleepers[1].try_wait().unwrap().is_none());
        drop(kept);
        let mine = Record::new(&records, sleepers[1].id()).unwrap();
        assert!(other.exists());
        drop(mine);
        assert!(!other.exists());
        sleepers[1].kill().unwrap();
        sleepers[1].wait().unwrap();
    }
}
