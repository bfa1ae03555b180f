//! Starts the processes of tests and collects their results.

use super::tools;
use super::{COMMAND, Failed, Listed, Order, Ran, Told};
use crate::abi::sanitizer;
use crate::domain::inspect;
use crate::domain::process::symbol;
use crate::domain::sandbox::{self, Policy, User};
use crate::domain::sanitized::FOUND;
use crate::net;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Limit, in bytes, on the kept output of a test.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// Limit on the time of listing the tests: the module's constructors run then.
const LIST_TIMEOUT: Duration = Duration::from_secs(60);
/// Limit, in bytes, on each file that a test writes.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Limit on the descriptors of a test.
const OPEN_FILES_MAX: u64 = 1024;
/// Approximate limit on the threads of all tests together.
const THREADS_MAX: u64 = 1024;
/// Limit, in bytes, on the address space of a test without a sanitizer.
const MEMORY_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;

/// Settings that all tests of a module share.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The module, compiled with its tests.
    pub object: PathBuf,
    /// The parent directory of the tests' directories.
    pub dir: PathBuf,
    /// Settings of the module.
    pub settings: BTreeMap<String, String>,
    /// Environment variables of the processes.
    pub variables: Vec<(String, String)>,
    /// Valgrind, if the tests run under it.
    pub valgrind: Option<PathBuf>,
    /// The directory of the coverage counters, if they are written.
    pub counters: Option<PathBuf>,
    /// A sanitizer looks for leaks.
    pub finds_leaks: bool,
    /// Limit on the time of a test.
    pub limit: Duration,
}

/// The result of a test.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The test.
    pub test: Listed,
    /// Lines for people, each with its place; empty if the test has passed.
    pub failures: Vec<String>,
    /// Why the test was skipped.
    pub skipped: Option<String>,
    /// The output of the test.
    pub output: String,
    /// How long the test took.
    pub elapsed: Duration,
}

impl Outcome {
    /// Whether the test was skipped: it neither passed nor failed.
    #[must_use]
    pub fn is_skipped(&self) -> bool {
        self.failures.is_empty() && self.skipped.is_some()
    }
}

/// How a process ended.
struct Ended {
    told: Option<Told>,
    status: Option<ExitStatus>,
    timed_out: bool,
    output: String,
}

impl Setup {
    /// Makes `dir` accessible to the user of tests.
    ///
    /// # Errors
    /// The mode of `dir` can't be changed.
    pub fn open(dir: &Path) -> io::Result<()> {
        fs::set_permissions(dir, Permissions::from_mode(0o711))
    }

    /// Lists the tests of the module.
    ///
    /// # Errors
    /// A text for people: the module can't be loaded.
    pub fn list(&self) -> Result<Vec<Listed>, String> {
        let plain = Self { valgrind: None, limit: LIST_TIMEOUT, ..self.clone() };
        let ended = plain.process(None).map_err(|error| error.to_string())?;
        match ended.told {
            Some(Told::Tests(tests)) => Ok(tests),
            Some(Told::Host(text)) => Err(text),
            _ => Err(format!("{}; while it was loaded\n{}", ended.how(plain.limit), ended.output)),
        }
    }

    /// Runs a test.
    #[must_use]
    pub fn run(&self, test: &Listed) -> Outcome {
        let start = Instant::now();
        let ended = self.process(Some(&test.name));
        let elapsed = start.elapsed();
        let (ran, output) = match ended {
            Ok(ended) => (self.ran(&ended), ended.output),
            Err(error) => (failed(format!("the test has no process: {error}")), String::new()),
        };
        let failures = ran.failures.iter().map(|failure| self.words(failure)).collect();
        Outcome { test: test.clone(), failures, skipped: ran.skipped, output, elapsed }
    }

    fn ran(&self, ended: &Ended) -> Ran {
        let found = || tools::finding(&ended.output);
        let mut ran = match &ended.told {
            Some(Told::Ran(ran)) => ran.clone(),
            Some(Told::Host(text)) => return failed(text.clone()),
            _ if ended.status.and_then(|status| status.code()) == Some(FOUND) => {
                return failed(found().unwrap_or_else(|| ended.how(self.limit)));
            }
            _ => return failed(ended.how(self.limit)),
        };
        let has_found = ended.status.and_then(|status| status.code()) == Some(FOUND);
        if has_found && ran.failures.is_empty() {
            let text = found().unwrap_or_else(|| "the tool has found errors: the output has them".to_owned());
            ran.failures.push(Failed { text, ..Failed::default() });
        }
        ran
    }

    fn words(&self, failed: &Failed) -> String {
        if let Some((file, line)) = &failed.place {
            return format!("{file}:{line}: {}", failed.text);
        }
        let place = symbol::innermost(&self.object, failed.base, &failed.frames);
        place.map_or_else(|| failed.text.clone(), |place| format!("{place}: {}", failed.text))
    }

    /// Runs one process to its end.
    fn process(&self, test: Option<&str>) -> io::Result<Ended> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let scratch = self.dir.join(format!("run-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir(&scratch)?;
        let policy = self.policy(&scratch)?;
        let ended = self.process_in(test, &scratch, policy);
        let _ = fs::remove_dir_all(&scratch);
        ended
    }

    fn process_in(&self, test: Option<&str>, scratch: &Path, policy: Policy) -> io::Result<Ended> {
        let mut command = match &self.valgrind {
            Some(valgrind) => tools::valgrind(&policy, valgrind, &[OsStr::new(COMMAND)])?,
            None => {
                let mut command = Command::new("/proc/self/exe");
                command.arg(COMMAND);
                command
            }
        };
        // Valgrind writes its files to TMPDIR, and can write nowhere else.
        let tmp = self.valgrind.is_some().then_some(("TMPDIR", scratch));
        command.process_group(0).env_clear().envs(sandbox::environment());
        command.envs(self.variables.iter().cloned()).envs(tmp);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = net::keep_descriptors_from(&mut command).spawn()?;
        let order = Order {
            object: self.object.clone(),
            scratch: scratch.to_path_buf(),
            test: test.map(str::to_owned),
            settings: self.settings.clone(),
            policy: self.valgrind.is_none().then_some(policy),
            counts: self.counters.is_some(),
            finds_leaks: self.finds_leaks,
        };
        if let Some(mut stdin) = child.stdin.take() {
            // If the process has already ended, its status reports that.
            let _ = stdin.write_all(&serde_json::to_vec(&order)?);
        }
        self.finish(child)
    }

    fn finish(&self, mut child: Child) -> io::Result<Ended> {
        let stderr = child.stderr.take();
        let reader = thread::Builder::new().name("test-output".to_owned()).spawn(move || stderr.map(read_capped))?;
        let report = inspect::read_report(&mut child, self.limit);
        let timed_out = report.is_none();
        // Also ends all processes that the test has started, so that the reader reaches the end of the pipe.
        let status = inspect::end(&mut child, timed_out)?;
        let output = reader.join().ok().flatten().unwrap_or_default();
        let output = if self.valgrind.is_some() { tools::without_own_frames(&output) } else { output };
        let told = report.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Ok(Ended { told, status: Some(status), timed_out, output })
    }

    /// The sandbox of a test: that of isolated modules without network, with a directory of its own.
    fn policy(&self, scratch: &Path) -> io::Result<Policy> {
        let is_sanitized = self.variables.iter().any(|(name, _)| name == sanitizer::VARIABLE);
        let mut write = vec![PathBuf::from("/dev/null"), scratch.to_path_buf()];
        write.extend(self.counters.clone());
        let user =
            sandbox::unprivileged().filter(|user| sandbox::closed_to(*user, std::slice::from_ref(&self.dir)).is_none());
        let mut read = sandbox::system_paths();
        read.push(self.object.clone());
        if is_sanitized {
            // Reports need the symbols of this program, beside those of the module.
            read.extend(std::env::current_exe());
        }
        for dir in write.iter().skip(1) {
            give(user, dir)?;
        }
        Ok(Policy {
            read,
            write,
            threads_allowed: true,
            traces_itself: self.finds_leaks,
            memory_bytes_max: (!is_sanitized).then_some(MEMORY_BYTES_MAX),
            cpu_seconds_max: Some(self.limit.as_secs().saturating_mul(4).saturating_add(60)),
            file_bytes_max: Some(FILE_BYTES_MAX),
            processes_max: sandbox::processes_with(THREADS_MAX),
            open_files_max: Some(OPEN_FILES_MAX),
            user,
            ..Policy::default()
        })
    }
}

fn give(user: Option<User>, dir: &Path) -> io::Result<()> {
    user.map_or(Ok(()), |user| sandbox::hand_over(user, dir))
}

fn failed(text: String) -> Ran {
    Ran { failures: vec![Failed { text, ..Failed::default() }], skipped: None }
}

impl Ended {
    /// Describes the end of a process without a report, for people.
    fn how(&self, limit: Duration) -> String {
        if self.timed_out {
            return format!("it did not end within {} ms (--timeout-ms)", limit.as_millis());
        }
        match self.status.map(|status| (status.signal(), status.code())) {
            Some((Some(signal), _)) => format!("its process was ended by signal {signal}"),
            Some((None, Some(code))) => format!("its process ended with code {code} before the test did"),
            _ => "its process is gone".to_owned(),
        }
    }
}

/// Reads to the end and keeps the beginning.
fn read_capped(mut pipe: impl Read) -> String {
    let (mut kept, mut chunk, mut dropped) = (Vec::new(), [0; 8 * 1024], 0_u64);
    loop {
        match pipe.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => {
                let room = OUTPUT_BYTES_MAX.saturating_sub(kept.len());
                kept.extend_from_slice(chunk.get(..count.min(room)).unwrap_or_default());
                dropped += count.saturating_sub(room) as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    let mut text = String::from_utf8_lossy(&kept).into_owned();
    if dropped > 0 {
        text.push_str(&format!("\n... ({dropped} more bytes are left out)\n"));
    }
    text
}
