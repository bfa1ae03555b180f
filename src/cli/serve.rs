//! `cweb serve`

use crate::config::{Config, ServeArgs};
use std::io::IsTerminal;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Runs the server until a signal stops it.
pub(super) fn run(args: ServeArgs) -> ExitCode {
    let config = match Config::load(args) {
        Ok(config) => config,
        Err(error) => return super::fail(error),
    };
    let level = if config.silent { "warn" } else { "info" };
    let filter = EnvFilter::try_from_env("CWEB_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    // A log that can't be written must not end the thread that writes it.
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal())
        .compact()
        .init();
    match crate::server::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => super::fail(error),
    }
}
