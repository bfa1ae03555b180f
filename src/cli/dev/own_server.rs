//! The server that `cweb dev` starts when none is there.

use super::super::client::Client;
use super::super::serve::ENDS_WITH;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Between two looks whether it answers, and the most of them.
const LOOK: Duration = Duration::from_millis(50);
const LOOKS_MAX: usize = 100;
/// Lines of its log that are shown when it does not start.
const LINES_SHOWN: usize = 20;

/// A server that this command has started. Dropping it ends it, and so does the end of the thread that has started it.
pub(super) struct OwnServer {
    child: Child,
    log: PathBuf,
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl OwnServer {
    /// Starts a server in development with its data in `dir`, if none answers.
    ///
    /// # Errors
    /// For people: it does not start.
    pub(super) fn start_if_missing(client: &Client, dir: &Path) -> Result<Option<Self>, String> {
        if client.get("/healthz").is_ok() {
            return Ok(None);
        }
        let failed = |error: std::io::Error| format!("the server can't be started: {error}");
        let data = dir.join(".cweb");
        fs::create_dir_all(&data).map_err(failed)?;
        let log = data.join("server.log");
        // What modules print and their crashes come from the server's streams of lines, as from any server.
        let output = File::create(&log).map_err(failed)?;
        let program = std::env::current_exe().map_err(failed)?;
        let child = Command::new(program)
            .args(["serve", "--dev", "--data-dir"])
            .arg(data)
            .env(ENDS_WITH, std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output)
            .spawn()
            .map_err(failed)?;
        let own = Self { child, log };
        for _ in 0..LOOKS_MAX {
            if client.get("/healthz").is_ok() {
                return Ok(Some(own));
            }
            if own.has_ended() {
                break;
            }
            std::thread::sleep(LOOK);
        }
        let said = fs::read_to_string(&own.log).unwrap_or_default();
        let lines: Vec<&str> = said.lines().collect();
        let last = lines.get(lines.len().saturating_sub(LINES_SHOWN)..).unwrap_or_default().join("\n");
        Err(format!(
            "{last}\nthe server does not start; start one with cweb serve --dev, and name it with --server URL"
        ))
    }

    /// The file with its log.
    pub(super) fn log(&self) -> &Path {
        &self.log
    }

    /// Whether it runs no more.
    pub(super) fn has_ended(&self) -> bool {
        !Path::new(&format!("/proc/{}/exe", self.child.id())).exists()
    }
}
