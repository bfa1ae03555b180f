//! `cweb serve`

use super::log;
use crate::config::{Config, ServeArgs};
use std::process::ExitCode;

/// Runs the server until a signal stops it, or only checks whether it could.
pub(super) fn run(args: ServeArgs) -> ExitCode {
    let check_only = args.check;
    // Before the settings are read: the largest number of connections follows from it.
    let raised = crate::net::raise_open_files_limit();
    if check_only {
        return check(args);
    }
    let config = match Config::load(args) {
        Ok(config) => config,
        Err(error) => return super::fail(error),
    };
    match log::filter(config.silent) {
        Ok(filter) => log::start(filter),
        Err(error) => return super::fail(error),
    }
    if let Err(error) = raised {
        tracing::warn!("the limit of open files stays as it is: {error}");
    }
    let result = crate::server::run(config);
    crate::abi::guard::return_output();
    crate::server::bound_exit(i32::from(result.is_err()));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => super::fail(error),
    }
}

/// Says everything that is wrong with the settings and with the files that they name, or that nothing is.
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
    super::fail(problems.join("\n"))
}
