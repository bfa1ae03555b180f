//! The processes of a domain: its own, the processes of killable calls, and all other processes forked there. All these
//! processes are in one process group and can't leave it. The number of the group is the id of the domain's process.

use super::lock;
use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::HashMap;
use std::fs;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The longest age of a list of all processes, for a domain with children and for a domain without.
const LOOK_AGE: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(2)];

/// Limit on the threads of a process that are checked for children: a process with more is assumed to have some.
const ASKED_MAX: usize = 256;

/// Field 5 of proc_pid_stat(5), counted from the field after the name.
const GROUP: usize = 2;

/// The processes of each group, by its number.
type Groups = HashMap<u32, Vec<u32>>;

/// The last examination of all processes.
struct Last {
    at: Instant,
    groups: Groups,
    /// The domains' processes that had no children when they were last examined.
    alone: HashMap<u32, Instant>,
}

static LAST: Mutex<Option<Last>> = Mutex::new(None);

/// The group of the process `pid`.
fn group_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, which may contain any characters, is in parentheses.
    stat.rsplit_once(')')?.1.split_whitespace().nth(GROUP)?.parse().ok()
}

fn look() -> Groups {
    let mut groups = Groups::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Some(group) = group_of(pid) {
            groups.entry(group).or_default().push(pid);
        }
    }
    groups
}

/// Whether a thread of the process `pid` has children, or may have.
fn has_children(pid: u32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let may_have = |(number, task): (usize, fs::DirEntry)| {
        number >= ASKED_MAX || fs::read(task.path().join("children")).is_ok_and(|children| !children.is_empty())
    };
    tasks.into_iter().enumerate().any(may_have)
}

/// Whether the list is recent enough for the domain whose process is `pid`. The files of all threads of a process are read
/// to find its children, so a process is examined at most once in the shorter age.
fn is_recent(last: &mut Last, pid: u32) -> bool {
    let [with_children, alone] = LOOK_AGE;
    if last.at.elapsed() < with_children {
        return true;
    }
    let is_alone = last.alone.get(&pid).is_some_and(|at| at.elapsed() < with_children) || {
        let is_alone = !has_children(pid);
        if is_alone {
            last.alone.insert(pid, Instant::now());
        }
        is_alone
    };
    is_alone && last.at.elapsed() < alone
}

/// The processes of the domain whose process is `pid`, including `pid`, as of a moment ago. One list serves all domains.
pub(super) fn members(pid: u32) -> Vec<u32> {
    let mut last = lock(&LAST);
    let is_recent = last.as_mut().is_some_and(|last| is_recent(last, pid));
    let last = match &mut *last {
        Some(last) if is_recent => last,
        last => last.insert(Last { at: Instant::now(), groups: look(), alone: HashMap::new() }),
    };
    let mut members = last.groups.get(&pid).cloned().unwrap_or_default();
    if !members.contains(&pid) {
        members.push(pid);
    }
    members
}

/// Ends all processes in the group of the process `pid`.
pub(super) fn end(pid: u32) {
    if let Some(group) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// Ends the remaining processes in the group of an ended domain's process. The kernel gives no new process the number of an
/// existing group, so the group is the domain's. Returns whether any process was left.
pub(super) fn end_left(pid: u32) -> bool {
    let is_ours = |member: &u32| {
        let line = fs::read(format!("/proc/{member}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).nth(1) == Some(b"domain")
    };
    let is_left = look().get(&pid).is_some_and(|members| !members.contains(&pid) && members.iter().any(is_ours));
    if is_left {
        end(pid);
    }
    is_left
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    #[test]
    fn a_group_has_the_processes_that_were_started_in_it() {
        let mut shell = Command::new("sh").args(["-c", "sleep 600 & sleep 600"]).process_group(0).spawn().unwrap();
        let begun = Instant::now();
        while look().get(&shell.id()).map_or(0, Vec::len) < 3 {
            assert!(begun.elapsed() < Duration::from_secs(60), "the shell starts two processes");
        }
        assert!(has_children(shell.id()) && members(shell.id()).contains(&shell.id()));
        assert!(!end_left(shell.id()), "the leader of the group has not ended");
        end(shell.id());
        assert!(!shell.wait().unwrap().success());
    }
}
