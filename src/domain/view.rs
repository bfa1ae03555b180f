//! A domain as its operator sees it.

/// What is known of one domain at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainView {
    /// Its name.
    pub name: String,
    /// Its process; `None` while that is being started.
    pub pid: Option<u32>,
    /// Modules loaded into it; a swap has two for a moment.
    pub modules: usize,
    /// Requests that were handed to it.
    pub requests: u64,
    /// How often its process was started again.
    pub restarts: u64,
    /// Its resident memory.
    pub resident_bytes: u64,
    /// How its process died the last time, for people.
    pub last_crash: Option<String>,
}

/// The resident memory of process `pid` (`/proc/PID/statm`, proc(5)); 0 if it is gone.
pub(super) fn resident_bytes(pid: u32) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}
