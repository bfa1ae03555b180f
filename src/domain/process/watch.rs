//! Watches the resources that a domain uses beside memory: threads, disk space, and the existence of its database.
//!
//! One thread checks all domains several times a second. The thread asks the kernel, never the domain.

use super::group;
use super::instance::ProcessInstance;
use super::lock;
use super::memory_watch::MemoryWatch;
use super::share::{Counts, Share};
use super::shared::DomainShared;
use crate::domain::DEFAULT_DOMAIN;
use crate::domain::sandbox::User;
use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use rustix::thread::{set_thread_res_gid, set_thread_res_uid};
use rustix::time::{ClockId, clock_gettime};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// The interval between two counts of each process's threads.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The watch of all domains takes at most one part in this many of a processor's time, unless its interval would exceed
/// [`LOOK_INTERVAL_MAX`].
const LOOK_SHARE: u32 = 20;
const LOOK_INTERVAL_MAX: Duration = Duration::from_secs(2);

/// The pause before the next look, after a look that used `used` of a processor's time.
pub(super) fn pause_after(used: Duration) -> Duration {
    LOOK_EVERY.max((used * LOOK_SHARE).min(LOOK_INTERVAL_MAX))
}

/// The processor's time that this thread has used.
pub(super) fn used_by_thread() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// The shortest interval between two examinations of a domain's files, and the divisor that limits their share of the time.
const FILES_EVERY: Duration = Duration::from_secs(1);
const FILES_SHARE: u32 = 20;
/// Limit on the files that are examined; a domain with more is over its limit anyway.
const FILES_MAX: usize = 100_000;
/// Limit on the depth of examined directories.
const DEPTH_MAX: usize = 64;

/// Looks in a row with too many threads after which a process is ended. Threads that have ended for their module exist for
/// some time on a busy machine, while the module starts others.
const CROWDED_LOOKS_MAX: u32 = 4;
/// Processes of one killable call: its own, the one from which it is forked, and as many of calls that are being ended.
const PROCESSES_A_CALL: usize = 4;
/// Further processes of a domain: those from which processes for calls are forked, and waiting ones.
const PROCESSES_BESIDE: usize = 128;

/// The findings about a domain.
#[derive(Default)]
pub(super) struct Seen {
    /// The time of the next examination of its files.
    files_at: Option<Instant>,
    /// Whether the domain uses more disk space than its limit.
    is_full: bool,
    /// The processes whose writes are disabled.
    stopped: Vec<u32>,
    /// Whether the database existed at the last examination.
    had_database: bool,
    share: Share,
    /// The process that had too many threads, and the looks in a row that found them.
    crowded: (u32, u32),
    memory: MemoryWatch,
}

impl DomainShared {
    /// Checks the domain once.
    pub(super) fn look(&self, seen: &mut Seen) {
        let shared = self;
        let Some(process) = shared.current() else { return };
        let (allowed, now) = (shared.config.allowance, Instant::now());
        let members = group::members(process.pid());
        let counts: Vec<_> = members.iter().filter_map(|pid| Some((*pid, Counts::of(*pid)?))).collect();
        if has_session(shared.name()) {
            seen.share.look(process.pid(), counts.iter().map(|(_, counts)| *counts), now);
        }
        let threads: usize = counts.iter().map(|(_, counts)| counts.threads).sum();
        let own = counts.iter().find(|(pid, _)| *pid == process.pid()).map_or(0, |(_, counts)| counts.threads);
        let beside = PROCESSES_A_CALL.saturating_mul(allowed.killable_calls_max).saturating_add(PROCESSES_BESIDE);
        let (own_max, all_max) = (allowed.threads_max, allowed.threads_max.saturating_add(beside));
        let (crowded, looks) = seen.crowded;
        let before = if crowded == process.pid() { looks } else { 0 };
        let looks = if own > own_max || threads > all_max { before.saturating_add(1) } else { 0 };
        seen.crowded = (process.pid(), looks);
        let is_over_twice = own > own_max.saturating_mul(2) || threads > all_max.saturating_mul(2);
        if is_over_twice || looks >= CROWDED_LOOKS_MAX {
            let (count, processes, most) = match members.len() {
                _ if own > own_max => (own, String::new(), own_max),
                others => (threads, format!(" in {others} processes"), all_max),
            };
            return process
                .kill_because(format!("it has {count} threads{processes} and may have {most} (--module-threads-max)"));
        }
        if let Some(why) = seen.memory.overfills(&process, now) {
            tracing::error!("{why}: the process of domain {} is ended", shared.name());
            process.kill();
        }
        if let Some(why) = seen.memory.look(&process, shared.config.rss_recycle_bytes, now) {
            shared.want_replacement(&process, &why);
        }
        if seen.files_at.is_none_or(|at| at <= now) {
            self.look_at_files(&process, seen);
            let took = now.elapsed();
            seen.files_at = Some(Instant::now() + FILES_EVERY.max(took * FILES_SHARE));
        }
        let user = shared.config.policy.user;
        seen.stopped.retain(|pid| members.contains(pid));
        for pid in members {
            if seen.is_full != seen.stopped.contains(&pid) && let_write(pid, user, !seen.is_full) {
                seen.stopped.retain(|stopped| *stopped != pid);
                seen.stopped.extend(seen.is_full.then_some(pid));
            }
        }
    }

    fn look_at_files(&self, process: &Arc<ProcessInstance>, seen: &mut Seen) {
        let shared = self;
        let (config, name) = (&shared.config, shared.name());
        let is_there = config.database.exists();
        if seen.had_database && !is_there {
            tracing::error!(
                "the database of domain {name}, {}, does not exist any more: its modules have deleted it; the process is replaced, \
                 because the modules' writes are lost until there is a new database",
                config.database.display()
            );
            remove_companions(&config.database);
            shared.want_replacement(process, "its database was deleted");
        }
        seen.had_database = is_there;
        let most = config.allowance.disk_bytes_max;
        if most == 0 {
            return;
        }
        let used = used_bytes([config.scratch.as_path()].into_iter().chain(config.database.parent()));
        // Writing is possible again once a tenth of the limit is free.
        let is_full = if seen.is_full { used > most - most / 10 } else { used > most };
        if is_full && !seen.is_full {
            tracing::error!(
                "domain {name} uses {} MiB of the disk and may use {} MiB (--module-disk-bytes-max): it can't write files until it \
                 has removed some",
                used >> 20,
                most >> 20
            );
        } else if seen.is_full && !is_full {
            tracing::info!("domain {name} uses {} MiB of the disk: it can write files again", used >> 20);
        }
        seen.is_full = is_full;
    }
}

/// Removes the files that SQLite keeps beside the deleted `database`. A process that still has the database open holds
/// locks of its `-shm` file, so the next process would consider that file valid and could not create a new database. An
/// open file stays usable.
fn remove_companions(database: &Path) {
    for end in ["-wal", "-shm", "-journal"] {
        let mut name = database.as_os_str().to_owned();
        name.push(end);
        match fs::remove_file(&name) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::error!("{}, of a deleted database, can't be removed: {error}", Path::new(&name).display());
            }
            _ => {}
        }
    }
}

/// Permits or forbids the process `pid` to make files larger. `user`: the user of the process, if it is not this process's.
fn let_write(pid: u32, user: Option<User>, may: bool) -> bool {
    let Some(target) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return false };
    let current = if may { None } else { Some(0) };
    let limit = Rlimit { current, maximum: None };
    let set = || prlimit(Some(target), Resource::Fsize, limit).map(drop);
    let result = match (set(), user) {
        (Err(Errno::PERM), Some(user)) => really_as(user, set),
        (result, _) => result,
    };
    // A process that has ended meanwhile writes nothing. Processes of single calls end often.
    if let Err(error) = &result
        && *error != Errno::SRCH
    {
        tracing::warn!("the limit of files of process {pid} can't be set: {error}");
    }
    result.is_ok()
}

/// Runs `act` on a thread whose real user and group are those of `user`. prlimit(2) requires the same real user and group
/// as the target's, or CAP_SYS_RESOURCE, which root in a container lacks. Access to files and signals depends on the
/// effective and the saved user, which stay root.
fn really_as(user: User, act: impl Fn() -> Result<(), Errno> + Sync) -> Result<(), Errno> {
    let become_and_act = || {
        // These calls change only the calling thread, which ends here.
        set_thread_res_gid(Gid::from_raw(user.gid), None, None)?;
        set_thread_res_uid(Uid::from_raw(user.uid), None, None)?;
        act()
    };
    thread::scope(|scope| {
        let named = thread::Builder::new().name("limits".to_owned()).spawn_scoped(scope, become_and_act);
        named.map_err(|_| Errno::AGAIN)?.join().unwrap_or(Err(Errno::AGAIN))
    })
}

/// The bytes on the disk of all files below `dirs`. Links are not followed.
fn used_bytes<'a>(dirs: impl Iterator<Item = &'a Path>) -> u64 {
    let (mut sum, mut files) = (0_u64, 0);
    let mut left: Vec<(PathBuf, usize)> = dirs.map(|dir| (dir.to_path_buf(), 0)).collect();
    while let Some((dir, depth)) = left.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            files += 1;
            if files > FILES_MAX {
                return u64::MAX;
            }
            let Ok(data) = entry.metadata() else { continue };
            sum = sum.saturating_add(data.blocks().saturating_mul(512));
            if data.is_dir() && depth < DEPTH_MAX {
                left.push((entry.path(), depth + 1));
            }
        }
    }
    sum
}

/// Whether the processes of a domain are a session, so that Linux gives all their threads one share of the processors.
/// The default domain shares with the server. With a share of its own, its calls lose a third of their rate while a
/// client on the same machine occupies a core. Modules that must not take the processors from each other belong in
/// named domains.
pub(super) fn has_session(domain: &str) -> bool {
    domain != DEFAULT_DOMAIN
}

/// Makes the kernel choose the process `pid` long before the server when memory runs out.
pub(super) fn prefer_for_oom(pid: u32) {
    const SCORE: &str = "500";
    if let Err(error) = fs::write(format!("/proc/{pid}/oom_score_adj"), SCORE) {
        tracing::debug!("oom_score_adj of process {pid}: {error}");
    }
}

impl DomainShared {
    /// The names of the modules that are loaded or will be loaded.
    pub(super) fn module_names(&self) -> Vec<String> {
        lock(&self.modules).values().map(|module| module.name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_files_take_is_summed_up_without_following_links() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        let before = used_bytes([dir.path()].into_iter());
        fs::write(dir.path().join("a/b/file"), vec![1; 100_000]).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("a/link")).unwrap();
        let used = used_bytes([dir.path()].into_iter()) - before;
        assert!((90_000..1_000_000).contains(&used), "{used}");
    }
}
