//! `cweb serve`

use super::exit::fail;
use super::{log, log_writer};
use crate::config::{Config, ServeArgs};
use rustix::process::Signal;
use std::process::ExitCode;

/// The environment variable with the id of the process whose end also ends the server: `cweb dev`, however that process ends.
pub(super) const ENDS_WITH: &str = "CWEB_ENDS_WITH_PROCESS";

/// Makes the server end with the process that started it, if that process asks for it.
fn end_with_starter() -> Result<(), String> {
    let Some(starter) = std::env::var(ENDS_WITH).ok().and_then(|text| text.parse::<i32>().ok()) else { return Ok(()) };
    let is_asked = rustix::process::set_parent_process_death_signal(Some(Signal::TERM));
    is_asked.map_err(|error| format!("the server can't end with process {starter}: {error}"))?;
    // The starter may have ended before the call.
    match rustix::process::getppid().map(|parent| parent.as_raw_nonzero().get()) {
        Some(parent) if parent == starter => Ok(()),
        _ => Err(format!("process {starter}, which has started this server, has ended")),
    }
}

/// Runs the server until a signal stops it, or only checks whether it could run.
pub(super) fn run(args: ServeArgs) -> ExitCode {
    if let Err(text) = end_with_starter() {
        return fail(text);
    }
    let check_only = args.check;
    // The limit on open files must be raised before the settings are read, because the limit on connections follows from
    // it.
    let raised = crate::net::raise_open_files_limit();
    if check_only {
        return check(args);
    }
    let config = match Config::load(args) {
        Ok(config) => config,
        Err(error) => return fail(error),
    };
    match log::filter(config.silent) {
        Ok(filter) => log::start(filter),
        Err(error) => return fail(error),
    }
    if let Err(error) = raised {
        tracing::warn!("the limit on open files can't be raised: {error}");
    }
    let result = crate::server::run(config);
    crate::abi::guard::return_output();
    crate::server::bound_exit(i32::from(result.is_err()));
    log_writer::flush();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error),
    }
}

/// Prints all problems with the settings and with the files that they name, or that there are none.
fn check(args: ServeArgs) -> ExitCode {
    let (config, mut problems) = Config::load_for_check(args);
    match log::filter(config.silent) {
        Ok(filter) => log::start(filter),
        Err(error) => problems.push(error),
    }
    match crate::server::check(&config) {
        Ok(checked) if problems.is_empty() => {
            println!("{checked}");
            return ExitCode::SUCCESS;
        }
        Ok(_) => {}
        Err(more) => problems.extend(more),
    }
    fail(problems.join("\n"))
}
