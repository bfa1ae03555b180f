//! `cweb serve`

use crate::config::{Config, ServeArgs};
use std::fmt;
use std::fs::File;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{self, Compact, Format, Writer};
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

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
    match log_filter(config.silent) {
        Ok(filter) => start_log(filter),
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
    match log_filter(config.silent) {
        Ok(filter) => start_log(filter),
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

/// What is logged: `CWEB_LOG` says it in detail, `--silent` at large.
fn log_filter(silent: bool) -> Result<EnvFilter, String> {
    match std::env::var("CWEB_LOG") {
        Ok(text) if !text.is_empty() => EnvFilter::try_new(&text).map_err(|error| {
            format!("CWEB_LOG=\"{text}\": {error}; write a level (warn) or target=level (module=debug)")
        }),
        _ => Ok(EnvFilter::new(if silent { "warn,audit=info" } else { "info" })),
    }
}

/// The log of a process that belongs to the server: it goes where the server's goes.
pub(super) fn start_inherited_log() {
    start_log(log_filter(false).unwrap_or_default());
}

fn start_log(filter: EnvFilter) {
    let format = format::format().compact();
    let lines = Lines { server: format.clone().with_target(false), named: format };
    // A log that can't be written must not end the thread that writes it.
    tracing_subscriber::fmt()
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .event_format(lines)
        .with_env_filter(filter)
        .with_writer(log_file())
        .init();
}

/// Lowest number of the log's own descriptor: above those that daemons close, and out of the way of small ones.
const LOG_DESCRIPTOR_MIN: i32 = 100;

/// A descriptor of the log's own, for what is standard error now: module code may close descriptor 2, and the next file that is
/// opened would have the log in it.
fn log_file() -> BoxMakeWriter {
    let stderr = std::io::stderr();
    let copy = |lowest| rustix::io::fcntl_dupfd_cloexec(&stderr, lowest);
    match copy(LOG_DESCRIPTOR_MIN).or_else(|_| copy(0)) {
        Ok(descriptor) => BoxMakeWriter::new(Arc::new(File::from(descriptor))),
        Err(_) => BoxMakeWriter::new(std::io::stderr),
    }
}

/// Lines of the log. The target tells what modules print from what the server says, so that a module can't put words
/// into its mouth, and names the lines of the audit; where in the server a line comes from is of no interest.
struct Lines {
    server: Format<Compact>,
    named: Format<Compact>,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let named = matches!(event.metadata().target(), "module" | "audit");
        let format = if named { &self.named } else { &self.server };
        format.format_event(context, writer, event)
    }
}
