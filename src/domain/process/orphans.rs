//! Ends orphans: processes of domains that have outlived their server.
//!
//! The kernel ends these processes with their server, and they can't prevent that. If that fails nevertheless, foreign code
//! would continue to run in directories that the next server uses. Each living process therefore has a record: a
//! file named by its process id, which contains its start time. No other process has both.

use super::group;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// Limit on the records that are read: there are one or two for each domain.
const RECORDS_MAX: usize = 4096;
/// Limit on the wait for the end of one process.
const END_WAIT: Duration = Duration::from_secs(2);
const END_LOOK: Duration = Duration::from_millis(2);
/// Field 22 of proc_pid_stat(5), counted from the field after the name.
const START_TIME: usize = 19;

/// The record of a process; dropping it removes the file.
#[derive(Debug)]
pub(super) struct Record {
    path: PathBuf,
}

impl Record {
    /// Writes a record for the living child `pid` to `dir`.
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

/// The start time of process `pid`, and the boot that it is counted from. `None`: the process has ended.
fn birth(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may contain anything and is in parentheses.
    let (_, fields) = stat.rsplit_once(')')?;
    if matches!(fields.split_whitespace().next(), Some("Z" | "X")) {
        return None; // Dead, and not reaped yet.
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(format!("{} {}", fields.split_whitespace().nth(START_TIME)?, boot.trim()))
}

/// Ends every process that has a record in `dir`, and removes the records. No other server may use `dir`.
pub fn end_orphans(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten().take(RECORDS_MAX) {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        match end(pid, &fs::read_to_string(entry.path()).unwrap_or_default()) {
            Ok(true) => tracing::warn!("process {pid}, which ran modules of an earlier server, was ended"),
            Ok(false) => {}
            Err(error) => tracing::warn!("process {pid} runs modules of an earlier server and can't be ended: {error}"),
        }
        let _ = fs::remove_file(entry.path());
    }
}

/// Ends the process `pid`, if it has this start time. Returns false if the process with this start time has ended.
fn end(pid: u32, begun: &str) -> io::Result<bool> {
    let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(false) };
    let process = match pidfd_open(number, PidfdFlags::empty()) {
        Err(Errno::SRCH | Errno::INVAL) => return Ok(group::end_left(pid)),
        process => process?,
    };
    // Checked while the descriptor is held: from here on, the id can't belong to another process.
    let lives = || birth(pid).is_some_and(|birth| birth == begun);
    if !lives() {
        return Ok(group::end_left(pid));
    }
    // Processes that this process has forked do not end with it.
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
        // Another process has that id now.
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
