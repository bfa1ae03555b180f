//! Reading a module's manifest in a process of its own.
//!
//! `dlopen` runs a module's constructors. One that crashes, exits or hangs must do so where it harms nobody, so the
//! server starts itself as `cweb inspect FILE`, which loads the file, prints its manifest as JSON and ends.

use super::{Fault, LoadError};
use crate::abi::manifest::Manifest;
use crate::abi::module::{self, OpenError};
use crate::net;
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A manifest is a few KiB; what is longer is no manifest.
const REPORT_BYTES_MAX: u64 = 1024 * 1024;

/// What the child prints.
#[derive(Serialize, Deserialize)]
enum Report {
    Manifest(Manifest),
    Loader(String),
    Refused(String),
}

/// Inspects the shared object at `path` within `limit`.
///
/// # Errors
/// See [`LoadError`].
pub(super) fn inspect(path: &Path, limit: Duration) -> Result<Manifest, LoadError> {
    let host = |error: std::io::Error| LoadError::Host(format!("starting the inspection process: {error}"));
    let mut command = Command::new("/proc/self/exe");
    command.arg("inspect").arg(path).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
    let mut child = net::keep_descriptors_from(&mut command).spawn().map_err(host)?;
    let report = read_report(&mut child, limit);
    let status = end(&mut child, report.is_none()).map_err(host)?;
    let Some(report) = report else {
        let what = format!("a constructor did not return within {} ms", limit.as_millis());
        return Err(LoadError::Constructor(Fault { what }));
    };
    match serde_json::from_slice(&report) {
        Ok(Report::Manifest(manifest)) => Ok(manifest),
        Ok(Report::Loader(text)) => Err(LoadError::Loader(text)),
        Ok(Report::Refused(text)) => Err(LoadError::Manifest(text)),
        Err(_) => Err(LoadError::Constructor(Fault { what: ending(status) })),
    }
}

/// Reads until the child closes its end; `None` when it has not within `limit`.
fn read_report(child: &mut Child, limit: Duration) -> Option<Vec<u8>> {
    let mut pipe = child.stdout.take()?;
    let deadline = Instant::now() + limit;
    let mut report = Vec::new();
    loop {
        let left = deadline.checked_duration_since(Instant::now())?;
        let mut poll = libc::pollfd { fd: pipe.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let wait_ms = i32::try_from(left.as_millis()).unwrap_or(i32::MAX).max(1);
        // SAFETY: one pollfd, of which the kernel writes only `revents`.
        let ready = unsafe { libc::poll(&raw mut poll, 1, wait_ms) };
        if ready <= 0 {
            continue; // Nothing yet, or a signal: the deadline decides.
        }
        let mut chunk = [0; 16 * 1024];
        match pipe.read(&mut chunk) {
            Ok(0) | Err(_) => return Some(report),
            Ok(n) => report.extend_from_slice(chunk.get(..n).unwrap_or_default()),
        }
        if report.len() as u64 > REPORT_BYTES_MAX {
            return Some(Vec::new());
        }
    }
}

/// Ends the child and whatever it started, and collects its status.
fn end(child: &mut Child, hung: bool) -> std::io::Result<ExitStatus> {
    // One that closed its pipe is on its way out; give it a moment so that its own status is seen.
    if !hung {
        for _ in 0..200 {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_micros(250));
        }
    }
    if let Ok(group) = i32::try_from(child.id()) {
        // SAFETY: the child has not been waited for, so its id, which is its group's too, can't name another process.
        unsafe { libc::kill(-group, libc::SIGKILL) };
    }
    child.wait()
}

fn ending(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => {
            format!("{} in a constructor, or its config is not a module_t", super::fault::signal_name(signal))
        }
        (None, Some(code)) => format!("a constructor called exit({code})"),
        (None, None) => "it ended the inspection process".to_owned(),
    }
}

/// The child's main: `cweb inspect FILE`. Prints one JSON report to stdout.
#[must_use]
pub fn main(path: &Path) -> ExitCode {
    let Some(mut out) = private_stdout() else { return ExitCode::FAILURE };
    let report = match module::open(path) {
        Ok(opened) => Report::Manifest(opened.manifest),
        Err(OpenError::Loader(text)) => Report::Loader(text),
        Err(OpenError::Manifest(text)) => Report::Refused(text),
    };
    let written = serde_json::to_vec(&report).map(|bytes| out.write_all(&bytes));
    let code = i32::from(!matches!(written, Ok(Ok(()))));
    // SAFETY: ends the process at once: destructors of the inspected module don't run.
    unsafe { libc::_exit(code) }
}

/// Moves the report's pipe away from fd 1, so that constructors that print don't write into it.
fn private_stdout() -> Option<std::fs::File> {
    // SAFETY: plain descriptor calls; the new descriptor is owned by the File from here on. No core dump is wanted of a
    // module that crashes here, and the process must not outlive its server.
    unsafe {
        let limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::setrlimit(libc::RLIMIT_CORE, &raw const limit);
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        let fd = libc::fcntl(1, libc::F_DUPFD_CLOEXEC, 3);
        if fd < 0 || libc::dup2(2, 1) < 0 {
            return None;
        }
        Some(std::fs::File::from_raw_fd(fd))
    }
}
