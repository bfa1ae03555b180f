//! Resource limits (`setrlimit(2)`).

use super::{Policy, SandboxError, system};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Sets those limits that the policy has, for good: the hard limits too.
pub(super) fn apply(policy: &Policy) -> Result<(), SandboxError> {
    let limits = [
        (Resource::Core, Some(policy.core_bytes_max.unwrap_or(0))),
        (Resource::Cpu, policy.cpu_seconds_max),
        (Resource::Fsize, policy.file_bytes_max),
        (Resource::Nproc, policy.processes_max),
        (Resource::Nofile, policy.open_files_max),
        // Last: what this program has mapped may be beyond it already.
        (Resource::As, policy.memory_bytes_max),
    ];
    for (resource, wanted) in limits {
        let Some(wanted) = wanted else { continue };
        // Only root may raise a hard limit, and nobody should have to.
        let most = getrlimit(resource).maximum.map_or(wanted, |hard| wanted.min(hard));
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        setrlimit(resource, limit).map_err(|error| system("setting resource limits")(error.into()))?;
    }
    Ok(())
}

/// A value for `processes_max` that leaves room for `more` processes: the limit counts all that the user has anywhere, so
/// it has to lie above those of the whole system. `None` where /proc does not tell.
#[must_use]
pub fn processes_with(more: u64) -> Option<u64> {
    let load = std::fs::read_to_string("/proc/loadavg").ok()?;
    // proc_loadavg(5): "0.20 0.18 0.12 1/80 11206", of which 80 is the number of processes and threads.
    let (_, all) = load.split_whitespace().nth(3)?.split_once('/')?;
    Some(all.parse::<u64>().ok()? + more)
}
