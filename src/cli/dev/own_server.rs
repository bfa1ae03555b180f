//! The server that `cweb dev` starts if none answers.

use super::super::client::Client;
use super::super::serve::ENDS_WITH;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The interval between two checks whether the server answers, and the number of checks.
const LOOK: Duration = Duration::from_millis(50);
const LOOKS_MAX: usize = 100;
/// The number of log lines shown if the server does not start.
const LINES_SHOWN: usize = 20;

/// A server that this command has started. The server ends when this value is dropped, or when the starting thread ends.
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
    /// Starts a development server with its data in `dir`, if no server answers.
    ///
    /// # Errors
    /// A text for users: the server does not start.
    pub(super) fn start_if_missing(client: &Client, dir: &Path) -> Result<Option<Self>, String> {
        if client.get("/healthz").is_ok() {
            return Ok(None);
        }
        let failed = |error: std::io::Error| format!("the server can't be started: {error}");
        let data = dir.join(".cweb");
        fs::create_dir_all(&data).map_err(failed)?;
        let log = data.join("server.log");
        // The module's output and crashes come from the server's log streams, as from any server.
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
            "{last}\nthe server does not start; start a server with cweb serve --dev, and name it with --server URL"
        ))
    }

    /// The server's log file.
    pub(super) fn log(&self) -> &Path {
        &self.log
    }

    /// Whether the server has ended.
    pub(super) fn has_ended(&self) -> bool {
        !Path::new(&format!("/proc/{}/exe", self.child.id())).exists()
    }
}
