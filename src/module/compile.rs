//! Running the system's C compiler.

use super::deploy::DeployError;
use super::sdk;
use crate::net;
use crossbeam::channel;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process_group, prlimit};
use sha2::{Digest, Sha256};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Flags before the source; `include/cweb_config.h` documents them for authors.
const FLAGS: [&str; 6] = ["-std=gnu11", "-O2", "-g", "-fPIC", "-shared", "-Wall"];
/// Flags behind it. `--wrap` sends calls of exit(3) to the SDK; `--as-needed` applies to the libraries after it.
const LINK_FLAGS: [&str; 11] = [
    "-Wl,--wrap=exit",
    "-Wl,--wrap=_exit",
    "-Wl,--wrap=_Exit",
    "-Wl,--wrap=quick_exit",
    "-Wl,--as-needed",
    "-ljansson",
    "-lsqlite3",
    "-lssl",
    "-lcrypto",
    "-lm",
    "-lpthread",
];

/// Diagnostics beyond this are cut.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// Memory of each compiler process.
const MEMORY_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;
/// Size of any file the compiler writes.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Debian's package of each header that a module commonly misses.
const PACKAGES: [(&str, &str); 4] = [
    ("jansson.h", "libjansson-dev"),
    ("sqlite3.h", "libsqlite3-dev"),
    ("openssl/", "libssl-dev"),
    ("stdio.h", "libc6-dev"),
];

/// The compiler as configured, and what identifies its results.
#[derive(Debug)]
pub(super) struct Compiler {
    program: String,
    sdk_dir: PathBuf,
    identity: String,
    limit: Duration,
}

impl Compiler {
    /// `CC` or `cc`, with the SDK in `sdk_dir`.
    pub(super) fn new(sdk_dir: PathBuf, limit: Duration) -> Self {
        let program = std::env::var("CC").ok().filter(|cc| !cc.is_empty()).unwrap_or_else(|| "cc".to_owned());
        // A compiler that can't be asked now has no cached results to mix up with another's.
        let mut version = Command::new(&program);
        version.arg("--version").stdin(Stdio::null()).stderr(Stdio::null());
        let version = net::keep_descriptors_from(&mut version).output();
        let version = version.map(|output| output.stdout).unwrap_or_default();
        let identity = format!("{program}\n{}\n{}", String::from_utf8_lossy(&version), sdk::hash());
        Self { program, sdk_dir, identity, limit }
    }

    /// Names the result of compiling `source`: the same key, the same shared object.
    pub(super) fn key(&self, source: &[u8]) -> String {
        let mut hasher = Sha256::new();
        hasher.update(self.identity.as_bytes());
        for flag in FLAGS.iter().chain(&LINK_FLAGS) {
            hasher.update(flag.as_bytes());
            hasher.update([0]);
        }
        hasher.update(source);
        sdk::hex(&hasher.finalize())
    }

    /// Compiles `source` to the file `target` within `dir`, an empty directory of the caller's. Returns the compiler's
    /// warnings.
    ///
    /// # Errors
    /// The source does not compile, or the compiler could not be run.
    pub(super) fn compile(&self, source: &[u8], dir: &Path, target: &str) -> Result<String, DeployError> {
        std::fs::write(dir.join("module.c"), source)?;
        let mut command = Command::new(&self.program);
        command
            .args(FLAGS)
            .arg(format!("-I{}", self.sdk_dir.display()))
            .args(["module.c", "-o", target])
            .args(LINK_FLAGS)
            .current_dir(dir)
            .env("LC_ALL", "C")
            .env("TMPDIR", dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0);
        let child = net::keep_descriptors_from(&mut command)
            .spawn()
            .map_err(|error| DeployError::NoCompiler { compiler: self.program.clone(), error })?;
        let (succeeded, output) = self.finish(child)?;
        let text = String::from_utf8_lossy(&output).into_owned();
        if succeeded { Ok(text) } else { Err(DeployError::Compile(with_hint(text))) }
    }

    /// Waits for the compiler within the limit and collects what it says.
    fn finish(&self, mut child: Child) -> Result<(bool, Vec<u8>), DeployError> {
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        limit_resources(group);
        let (sender, receiver) = channel::bounded(1);
        let stderr = child.stderr.take();
        let reader = std::thread::Builder::new().name("cc-output".to_owned()).spawn(move || {
            let _ = sender.send(stderr.map(read_capped).unwrap_or_default());
        });
        let output = match reader {
            Ok(_) => receiver.recv_timeout(self.limit).ok(),
            Err(_) => None,
        };
        if output.is_none()
            && let Some(group) = group
        {
            // The child is not reaped yet, so its number, which is its group's, can't name another.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let status = child.wait()?;
        output.map(|output| (status.success(), output)).ok_or(DeployError::CompileTimeout(self.limit))
    }
}

/// Limits of the compiler's processes; those it starts inherit them.
fn limit_resources(pid: Option<Pid>) {
    for (resource, bytes) in [(Resource::As, MEMORY_BYTES_MAX), (Resource::Fsize, FILE_BYTES_MAX)] {
        let _ = prlimit(pid, resource, Rlimit { current: Some(bytes), maximum: Some(bytes) });
    }
}

/// Reads to the end, keeps the beginning.
fn read_capped(mut pipe: impl Read) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut chunk = [0; 8 * 1024];
    let mut cut = false;
    while let Ok(count @ 1..) = pipe.read(&mut chunk) {
        let room = OUTPUT_BYTES_MAX.saturating_sub(kept.len());
        kept.extend_from_slice(chunk.get(..count.min(room)).unwrap_or_default());
        cut |= count > room;
    }
    if cut {
        kept.extend_from_slice(b"\n... (the rest is cut)\n");
    }
    kept
}

/// Says which package holds a header that is missing on the server.
fn with_hint(mut text: String) -> String {
    for (header, package) in PACKAGES {
        if text.contains(&format!("fatal error: {header}")) || text.contains(&format!("fatal error: '{header}")) {
            text.push_str(&format!("\nthe server lacks this header; install it there: apt-get install {package}\n"));
        }
    }
    if text.contains("cannot find -ljansson") {
        text.push_str("\nthe server lacks this library; install it there: apt-get install libjansson-dev\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiler(limit_ms: u64) -> (tempfile::TempDir, Compiler) {
        let dir = tempfile::tempdir().unwrap();
        let sdk = sdk::unpack(dir.path()).unwrap();
        (dir, Compiler::new(sdk, Duration::from_millis(limit_ms)))
    }

    #[test]
    fn compiles_warns_and_refuses() {
        let (dir, compiler) = compiler(60_000);
        assert_eq!(compiler.compile(b"int x;", dir.path(), "a.so").unwrap(), "");
        assert!(dir.path().join("a.so").exists());
        let warnings = compiler.compile(b"static int x;", dir.path(), "b.so").unwrap();
        assert!(warnings.contains("module.c:1:12") && warnings.contains("unused"), "{warnings}");
        let error = compiler.compile(b"int x", dir.path(), "c.so").unwrap_err();
        assert!(matches!(&error, DeployError::Compile(text) if text.contains("module.c:1")), "{error}");
        let error = compiler.compile(b"#include <openssl/nothing.h>", dir.path(), "d.so").unwrap_err();
        assert!(error.to_string().contains("libssl-dev"), "{error}");
    }

    #[test]
    fn a_compiler_that_does_not_end_is_stopped() {
        let (dir, compiler) = compiler(300);
        let error = compiler.compile(b"#include \"/dev/zero\"", dir.path(), "a.so").unwrap_err();
        assert!(matches!(error, DeployError::CompileTimeout(_) | DeployError::Compile(_)), "{error}");
    }

    #[test]
    fn keys_differ_by_source() {
        let (_dir, compiler) = compiler(1000);
        assert_eq!(compiler.key(b"a"), compiler.key(b"a"));
        assert_ne!(compiler.key(b"a"), compiler.key(b"b"));
    }
}
