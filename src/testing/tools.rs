//! The tools that watch a test: sanitizers and valgrind.

use crate::domain::sandbox::{self, Policy, program};
use crate::domain::sanitized::{self, FOUND};
use crate::module::instruments::Sanitizer;
use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Factor by which the time limit of a test grows under valgrind.
pub const VALGRIND_FACTOR: u32 = 20;

/// The program `name` of the system.
///
/// # Errors
/// A text for people: the program is not installed, and which Debian package has it.
pub fn find(name: &str, package: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_program = |path: &PathBuf| {
        std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(is_program);
    found.ok_or_else(|| format!("{name} is not installed; install it (Debian: apt-get install {package})"))
}

/// The environment variables of a process with `sanitizers`, whose libraries are `preload`; files are named relative to `dir`.
pub fn environment(sanitizers: &[Sanitizer], preload: &[PathBuf], dir: &Path) -> Vec<(String, String)> {
    if sanitizers.is_empty() { Vec::new() } else { sanitized::environment(preload, Some(dir)) }
}

/// A command that runs this program with `arguments` under valgrind, in a sandbox: a program under valgrind can't create a
/// sandbox itself. In the sandbox the program may start programs, and write only to the paths of `policy`.
///
/// # Errors
/// A path is not UTF-8, or this program can't be found.
pub fn valgrind(policy: &Policy, valgrind: &Path, arguments: &[&OsStr]) -> io::Result<Command> {
    let own = std::env::current_exe()?;
    let mut execute = sandbox::compiler_paths(valgrind);
    execute.push(own.clone());
    let user = policy.user.filter(|user| sandbox::closed_to(*user, std::slice::from_ref(&own)).is_none());
    let mut read = policy.read.clone();
    // Valgrind reads its own memory map, and other files of /proc.
    read.push("/proc".into());
    let policy = Policy { execute, read, exec_allowed: true, user, memory_bytes_max: None, ..policy.clone() };
    let mut command = program::command(&policy, valgrind.as_os_str())?;
    command
        .args(["-q", "--leak-check=full", "--show-leak-kinds=definite", "--errors-for-leak-kinds=definite"])
        .arg(format!("--error-exitcode={FOUND}"))
        .args(["--num-callers=20", "--vgdb=no"])
        .arg(own)
        .args(arguments);
    Ok(command)
}

/// Beginnings of the names of the server's functions in valgrind's frames.
const OWN_FRAMES: [&str; 13] = [
    "cweb::",
    "<cweb::",
    "std::",
    "<std::",
    "core::",
    "<core::",
    "alloc::",
    "handle_below",
    "run_handler",
    "guarded",
    "cwebn_",
    "start_thread",
    "clone",
];

/// Valgrind's output without frames of the server's own functions and without its thread names: an author can't change those.
pub(super) fn without_own_frames(output: &str) -> String {
    let said =
        |line: &str| line.strip_prefix("==").and_then(|line| line.split_once("== ")).map(|(_, said)| said.to_owned());
    let is_own = |line: &&str| {
        let Some(said) = said(line) else { return false };
        let said = said.trim_start();
        let function = ["at 0x", "by 0x"].iter().find_map(|begin| said.strip_prefix(begin)?.split_once(": "));
        let is_frame = function.is_some_and(|(_, name)| OWN_FRAMES.iter().any(|own| name.starts_with(own)));
        is_frame || said.starts_with("Thread ") && said.ends_with(':')
    };
    output.lines().filter(|line| !is_own(line)).map(|line| format!("{line}\n")).collect()
}

/// The line of a process's output that best describes a tool's finding.
pub(super) fn finding(output: &str) -> Option<String> {
    let has = |words: &'static str| move |line: &&str| line.contains(words);
    let undefined = output.lines().find(has(": runtime error: ")).map(str::to_owned);
    let summary = || sanitized::headline(output);
    let valgrind = || {
        let lines = output.lines().filter(|line| line.starts_with("=="));
        let lines = lines.filter_map(|line| line.splitn(3, "==").nth(2)).map(str::trim);
        // A report may first name its thread.
        let names_thread = |line: &str| line.starts_with("Thread ") && line.ends_with(':');
        let mut lines = lines.filter(|line| !line.is_empty() && !names_thread(line));
        lines.next().map(str::to_owned)
    };
    undefined.or_else(summary).or_else(valgrind).map(|line| line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_telling_line_is_found() {
        let asan =
            "==7==ERROR: AddressSanitizer: x\n#0 f\nSUMMARY: AddressSanitizer: heap-buffer-overflow a.c:3 in f\n";
        assert_eq!(finding(asan).unwrap(), "AddressSanitizer: heap-buffer-overflow a.c:3 in f");
        assert_eq!(finding("a.c:7:3: runtime error: shift\n").unwrap(), "a.c:7:3: runtime error: shift");
        assert_eq!(finding("x\n==9== \n==9== Invalid read of size 4\n").unwrap(), "Invalid read of size 4");
        assert_eq!(finding("==9== Thread 3 pool-0:\n==9== Invalid write\n").unwrap(), "Invalid write");
        assert_eq!(finding("nothing"), None);
        let said = "==9== Thread 3 pool-0:\n==9== Invalid write\n==9==    at 0x5A: unset (a.c:3)\n==9==    by 0x1: handle_below (call.c:3)\n\
                    ==9==    by 0x2: cweb::x::y (z.rs:1)\nprinted: by 0x1: std::x\n";
        assert_eq!(
            without_own_frames(said),
            "==9== Invalid write\n==9==    at 0x5A: unset (a.c:3)\nprinted: by 0x1: std::x\n"
        );
        assert!(find("no-such-program", "p").unwrap_err().contains("apt-get install p"));
    }
}
