//! Resource limits (`setrlimit(2)`).

use super::error::system;
use super::{Policy, SandboxError};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Sets the limits of the policy for good, including the hard limits.
pub(super) fn apply(policy: &Policy) -> Result<(), SandboxError> {
    let limits = [
        (Resource::Core, Some(policy.core_bytes_max.unwrap_or(0))),
        (Resource::Cpu, policy.cpu_seconds_max),
        (Resource::Fsize, policy.file_bytes_max),
        (Resource::Nproc, policy.processes_max),
        (Resource::Nofile, policy.open_files_max),
        // This limit is set last: the program may already have mapped more.
        (Resource::As, policy.memory_bytes_max),
    ];
    for (resource, wanted) in limits {
        let Some(wanted) = wanted else { continue };
        // Only root may raise a hard limit, and no operator should have to run the server as root.
        let most = getrlimit(resource).maximum.map_or(wanted, |hard| wanted.min(hard));
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        setrlimit(resource, limit).map_err(|error| system("setting resource limits")(error.into()))?;
    }
    Ok(())
}

/// A value for `processes_max` that leaves room for `more` processes. The limit counts all processes of the user on the
/// machine, so it must exceed the number of processes of the whole system. `None` if /proc has no number.
#[must_use]
pub fn processes_with(more: u64) -> Option<u64> {
    let load = std::fs::read_to_string("/proc/loadavg").ok()?;
    // proc_loadavg(5): "0.20 0.18 0.12 1/80 11206", where 80 is the number of processes and threads.
    let (_, all) = load.split_whitespace().nth(3)?.split_once('/')?;
    Some(all.parse::<u64>().ok()? + more)
}
