//! Reading a module's manifest in a process of its own.
//!
//! `dlopen` runs a module's constructors, which may crash, exit or hang. The server therefore starts itself as `cweb
//! inspect FILE`, which loads the file, prints its manifest as JSON and ends. This process has a sandbox in which
//! constructors can only compute and read the system's libraries. `cweb inspect DIR NAME` prepares itself while the
//! compiler still works: the file may be missing until the server sends a byte on standard input.

use super::sandbox::{self, Policy};
use super::{Fault, LoadError, arguments, missing, sanitized};
use crate::abi::exceptions;
use crate::abi::manifest::Manifest;
use crate::abi::module::{self, OpenError};
use crate::abi::sanitizer;
use crate::net;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The byte that the child waits for on its standard input.
const GO: u8 = b'\n';
/// How long a child that has closed its standard output may take to end.
const EXIT_WAIT: Duration = Duration::from_secs(1);
/// The first pause between two checks whether the child has ended; each further pause is twice as long.
const EXIT_LOOK: Duration = Duration::from_micros(250);
/// The longest of these pauses.
const EXIT_LOOK_MAX: Duration = Duration::from_millis(8);

/// Limit, in bytes, on a report: a manifest has a few KiB.
const REPORT_BYTES_MAX: u64 = 1024 * 1024;

/// Result of an inspection.
#[derive(Debug, Serialize, Deserialize)]
pub struct Inspected {
    /// The module's declarations.
    pub manifest: Manifest,
    /// Functions of the module's `config` whose parameters the debug information does not show.
    pub unproved: Vec<String>,
}

/// Message that the inspecting process prints.
#[derive(Serialize, Deserialize)]
enum Report {
    Read(Inspected),
    Loader(String),
    Refused(String),
    Host(String),
    /// A constructor has thrown an exception; the value is its description.
    Threw(String),
}

/// Limit on the address space, in bytes: room for this program and a module with large tables.
const MEMORY_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// Limit on written files, in bytes; the sandbox only permits files in memory.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Limit on the CPU time. The server's own limit is much shorter; this one applies if the server has died.
const CPU_SECONDS_MAX: u64 = 60;
/// Approximate limit on the threads of all inspections together.
const THREADS_MAX: u64 = 256;
const OPEN_FILES_MAX: u64 = 256;

/// Inspects the shared object at `path` within `limit`.
///
/// # Errors
/// See [`LoadError`].
pub(super) fn inspect(path: &Path, preload: &[PathBuf], limit: Duration) -> Result<Manifest, LoadError> {
    Ok(Inspection::start([path.as_os_str()], preload)?.finish(limit)?.manifest)
}

/// A process that is ready to load a file. Dropping this value ends the process.
#[derive(Debug)]
pub struct Inspection {
    /// `None` once another owner ends the process.
    child: Option<Child>,
}

fn host(error: &std::io::Error) -> LoadError {
    LoadError::Host(format!("the inspection process: {error}"))
}

impl Inspection {
    /// Prepares the inspection of the file `name` in `dir`, which may be created meanwhile. In `dir` the process reads only
    /// that directory itself. The process ends with the calling thread.
    ///
    /// # Errors
    /// [`LoadError::Host`]: the process can't be started.
    pub fn begin(dir: &Path, name: &str, preload: &[PathBuf]) -> Result<Self, LoadError> {
        Self::start([dir.as_os_str(), OsStr::new(name)], preload)
    }

    fn start<'a>(file: impl IntoIterator<Item = &'a OsStr>, preload: &[PathBuf]) -> Result<Self, LoadError> {
        let mut command = Command::new("/proc/self/exe");
        command.arg("inspect").args(file).process_group(0).env_clear().envs(sandbox::environment());
        if !preload.is_empty() {
            command.envs(sanitized::environment(preload, None));
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let child = net::keep_descriptors_from(&mut command).spawn().map_err(|error| host(&error))?;
        Ok(Self { child: Some(child) })
    }

    /// Whether the process is running.
    pub fn is_there(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Loads the file, which must be complete by now, and returns its declarations within `limit`.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn finish(mut self, limit: Duration) -> Result<Inspected, LoadError> {
        let gone = || LoadError::Host("the inspection process was used before".to_owned());
        let mut child = self.child.take().ok_or_else(gone)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A process that has already ended has printed the reason, or its status shows it.
            let _ = stdin.write_all(&[GO]);
        }
        let report = read_report(&mut child, limit);
        let read = report.as_deref().and_then(|report| serde_json::from_slice(report).ok());
        if let Some(read) = read {
            // The report is complete, so the deployment need not wait for the process's end.
            end_aside(child);
            return match read {
                Report::Read(inspected) => Ok(inspected),
                Report::Loader(text) => Err(LoadError::Loader(text)),
                Report::Refused(text) => Err(LoadError::Manifest(text)),
                Report::Host(text) => Err(LoadError::Host(text)),
                Report::Threw(what) => Err(LoadError::Constructor(Fault { what })),
            };
        }
        let status = end(&mut child, report.is_none()).map_err(|error| host(&error))?;
        let what = match report {
            None => format!("a constructor did not return within {} ms", limit.as_millis()),
            Some(_) => ending(status),
        };
        Err(LoadError::Constructor(Fault { what }))
    }
}

impl Drop for Inspection {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child
            && let Ok(None) = child.try_wait()
        {
            let _ = end(child, true);
        }
    }
}

/// Ends a child that is not needed any more, on a thread of its own, or on this thread if none can be started.
fn end_aside(child: Child) {
    let child = Arc::new(Mutex::new(child));
    let ends = Arc::clone(&child);
    let end = |child: &Mutex<Child>| _ = end(&mut child.lock().unwrap_or_else(PoisonError::into_inner), true);
    if std::thread::Builder::new().name("inspected".to_owned()).spawn(move || end(&ends)).is_err() {
        end(&child);
    }
}

/// Reads until the child closes its standard output; `None` if it does not within `limit`.
pub fn read_report(child: &mut Child, limit: Duration) -> Option<Vec<u8>> {
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
            continue; // No data yet, or a signal: the deadline decides.
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

/// Ends the child and its process group, and returns its status.
///
/// # Errors
/// The errors of waitpid(2).
pub fn end(child: &mut Child, hung: bool) -> std::io::Result<ExitStatus> {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(group) = group {
        // A child that has closed its pipe is about to end, which may take long on a busy machine, and its own status is
        // needed. This wait does not reap the child, so its id, which is also its group's, can't belong to another process.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        let deadline = Instant::now() + if hung { Duration::ZERO } else { EXIT_WAIT };
        let mut pause = EXIT_LOOK;
        while matches!(waitid(WaitId::Pid(group), options), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(pause);
            pause = EXIT_LOOK_MAX.min(2 * pause);
        }
        let _ = kill_process_group(group, Signal::KILL);
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

/// The main function of the child: `cweb inspect FILE`, or `cweb inspect DIR NAME`. Prints one JSON report to stdout.
#[must_use]
pub fn main(arguments: &[OsString]) -> ExitCode {
    let (path, name) = match arguments {
        [path] => (Path::new(path), None),
        [path, name] => (Path::new(path), Some(Path::new(name))),
        _ => return ExitCode::FAILURE,
    };
    let Some(mut out) = private_stdout() else { return ExitCode::FAILURE };
    let report = match confine(path) {
        Ok(place) => {
            if !matches!(std::io::stdin().read(&mut [0]), Ok(1)) {
                return ExitCode::FAILURE; // The server does not wait any more.
            }
            tell_exceptions(&out);
            read_manifest(path, &place, name)
        }
        Err(text) => Report::Host(text),
    };
    let written = serde_json::to_vec(&report).map(|bytes| out.write_all(&bytes));
    let code = i32::from(!matches!(written, Ok(Ok(()))));
    leave(code)
}

/// Makes an exception that leaves a constructor the report to `out`.
fn tell_exceptions(out: &File) {
    let Ok(out) = out.try_clone() else { return };
    exceptions::observe(Box::new(move |what| {
        let report = serde_json::to_vec(&Report::Threw(what.to_owned()));
        let written = report.map(|bytes| (&out).write_all(&bytes));
        leave(i32::from(!matches!(written, Ok(Ok(())))));
    }));
}

/// Ends the process at once, without the destructors of modules.
pub fn leave(code: i32) -> ! {
    // SAFETY: no memory is involved.
    unsafe { libc::_exit(code) }
}

/// Opens the file or directory, and restricts this process to loading from there.
fn confine(path: &Path) -> Result<File, String> {
    // Opened before the sandbox applies: the user that this process becomes may not be allowed to reach the path.
    let place = File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut read = sandbox::system_paths();
    // Only the file itself, because its directory may hold other modules' sources; or the directory of a compilation.
    read.push(path.to_path_buf());
    let policy = Policy {
        read,
        write: vec!["/dev/null".into()],
        threads_allowed: true,
        // A sanitizer reserves address space for all possible memory.
        memory_bytes_max: (!sanitizer::is_active()).then_some(MEMORY_BYTES_MAX),
        cpu_seconds_max: Some(CPU_SECONDS_MAX),
        file_bytes_max: Some(FILE_BYTES_MAX),
        processes_max: sandbox::processes_with(THREADS_MAX),
        open_files_max: Some(OPEN_FILES_MAX),
        user: sandbox::unprivileged(),
        ..Policy::default()
    };
    policy.apply().map_err(|error| format!("the sandbox of the inspection: {error}"))?;
    sandbox::end_with_parent();
    Ok(place)
}

fn read_manifest(path: &Path, place: &File, name: Option<&Path>) -> Report {
    let open = PathBuf::from(format!("/proc/self/fd/{}", place.as_raw_fd()));
    let (open, path) = match name {
        Some(name) => (open.join(name), path.join(name)),
        None => (open, path.to_path_buf()),
    };
    match module::open(&open) {
        Ok(mut opened) => {
            // A crash in this function would end each process that loads the module.
            opened.bind(0);
            let (problems, unproved) = arguments::problems(&open, opened.base(), &opened.declared());
            let mut manifest = opened.manifest.clone();
            manifest.problems.extend(problems);
            Report::Read(Inspected { manifest, unproved })
        }
        Err(OpenError::Loader(text)) => {
            let missing = missing::sentence(&open);
            Report::Loader(text.replace(&open.display().to_string(), &path.display().to_string()) + &missing)
        }
        Err(OpenError::Manifest(text)) => Report::Refused(text),
    }
}

/// Moves the report's pipe away from descriptor 1, so that constructors that print don't write into it.
pub fn private_stdout() -> Option<File> {
    // SAFETY: plain descriptor calls; the new descriptor is owned by the File from here on.
    unsafe {
        let fd = libc::fcntl(1, libc::F_DUPFD_CLOEXEC, 3);
        if fd < 0 || libc::dup2(2, 1) < 0 {
            return None;
        }
        Some(File::from_raw_fd(fd))
    }
}
