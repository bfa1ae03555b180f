//! The command line: one thin file per command.

mod blobs;
mod check;
mod client;
mod debug;
mod deploy;
mod dev;
mod exit;
mod jobs;
mod keygen;
mod log;
mod log_writer;
mod logs;
mod modules;
mod new;
mod routes_ini;
mod sarif;
mod serve;
mod settings;
mod sign;
mod test;
mod trust;
mod versions;

use crate::config::{self, ServeArgs};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use exit::exit_codes;
use std::process::ExitCode;

/// Post a C file, get a running web service.
#[derive(Parser)]
#[command(name = "cweb", version, args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
#[command(override_usage = "cweb [COMMAND]\n       cweb [OPTIONS OF serve]")]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

const EXAMPLES: &str = concat!(
    "\
With options of `cweb serve` and no command, cweb runs the server; `cweb serve --help` lists them.

A service in a minute:
  cweb serve &             the server, on http://127.0.0.1:8080, with its data in this directory
  cweb new hello           writes hello.c
  cweb deploy hello.c      compiles it on the server and serves it; again after every change
  curl 'http://127.0.0.1:8080/hello?who=you'

deploy, modules, jobs and dev talk to CWEB_SERVER, or http://127.0.0.1:8080;
CWEB_ADMIN_KEY has the key that they send. Over https:// they trust the certificates that
this system trusts, or those in --cacert FILE (CWEB_CACERT).

",
    exit_codes!()
);

#[derive(Subcommand)]
enum Command {
    /// Run the server
    #[command(after_help = SERVE_NOTES)]
    Serve(Box<ServeArgs>),
    /// Deploy sources and projects, or those that routes.ini lists
    Deploy(deploy::DeployArgs),
    /// List the modules of a server; remove or restart a module
    Modules(modules::ModulesArgs),
    /// List the versions of a module
    Versions(versions::VersionsArgs),
    /// Show a version of a module: libraries, warnings, source
    Show(versions::ShowArgs),
    /// Show the differences between the sources of two versions
    Diff(versions::DiffArgs),
    /// Deploy an earlier version of a module again, without compiling
    Rollback(versions::RollbackArgs),
    /// Print the gdb command for a module's process, or start gdb
    Debug(debug::DebugArgs),
    /// Write the source of a module into the current directory
    Pull(versions::PullArgs),
    /// Show a module's output, crashes and deployments
    Logs(logs::LogsArgs),
    /// Set, remove and list settings of a module
    Config(settings::ConfigArgs),
    /// Set and remove secrets of a module
    Secret(settings::SecretArgs),
    /// Submit background jobs, watch, list, cancel and delete them
    Jobs(jobs::JobsArgs),
    /// List the files of jobs, with sizes and the times of their last use
    Blobs(blobs::BlobsArgs),
    /// Make a key for the server's --keys-file: print the entry on stdout, and the key on stderr
    Keygen(keygen::KeygenArgs),
    /// Compile and inspect sources and projects as a server would, without a server
    Check(check::CheckArgs),
    /// Build and run the tests of a module, without a server
    Test(test::TestArgs),
    /// Print where the headers of modules are, for editors
    Sdk(check::SdkArgs),
    /// Write a starter module, or a starter project
    New(new::NewArgs),
    /// Deploy C files now and after each change
    Dev(dev::DevArgs),
}

const SERVE_NOTES: &str = "\
Flags beat environment variables, and these beat the settings file. A key of the file is its
flag's name with _ for - (pipeline_max = 32). A key for /mgnt, /jobs and /metrics that may do
everything comes from CWEB_ADMIN_KEY or the file's admin_key; keys with scopes come from
--keys-file (cweb keygen makes them). CWEB_LOG filters the log (warn; info,module=debug).
docs/operations.md has the effect of each limit.";

/// Ends a command whose output has no reader any more (`cweb test x.c | head -1`) without a message, as SIGPIPE ends other
/// programs. `println!` panics in this case.
fn end_with_the_reader() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let text = info.payload().downcast_ref::<String>().map_or("", String::as_str);
        if text.starts_with("failed printing to std") && text.contains("Broken pipe") {
            // A shell shows an end by SIGPIPE as this exit code.
            std::process::exit(128 + libc::SIGPIPE);
        }
        usual(info);
    }));
}

/// Runs the command that the arguments name.
#[must_use]
pub fn main() -> ExitCode {
    if std::env::args_os().len() <= 1 {
        return no_command();
    }
    let command = config::without_env(Cli::command())
        // The flags of `serve` are listed in the help of `serve`.
        .mut_args(|arg| arg.hide(true))
        .mut_subcommand("serve", config::without_env);
    let cli = Cli::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit());
    if !matches!(cli.command, None | Some(Command::Serve(_))) {
        end_with_the_reader();
    }
    match cli.command {
        None => serve::run(cli.serve),
        Some(Command::Serve(args)) => serve::run(*args),
        Some(Command::Deploy(args)) => deploy::run(&args),
        Some(Command::Modules(args)) => modules::run(&args),
        Some(Command::Versions(args)) => versions::versions(&args),
        Some(Command::Show(args)) => versions::show(&args),
        Some(Command::Diff(args)) => versions::diff(&args),
        Some(Command::Rollback(args)) => versions::rollback(&args),
        Some(Command::Debug(args)) => debug::run(&args),
        Some(Command::Pull(args)) => versions::pull(&args),
        Some(Command::Logs(args)) => logs::run(&args),
        Some(Command::Config(args)) => settings::config(&args),
        Some(Command::Secret(args)) => settings::secret(&args),
        Some(Command::Jobs(args)) => jobs::run(&args),
        Some(Command::Blobs(args)) => blobs::run(&args),
        Some(Command::Keygen(args)) => keygen::run(&args),
        Some(Command::Check(args)) => check::check(&args),
        Some(Command::Test(args)) => test::run(&args),
        Some(Command::Sdk(args)) => check::sdk(&args),
        Some(Command::New(args)) => new::run(&args),
        Some(Command::Dev(args)) => dev::run(&args),
    }
}

/// Plain `cweb` shows the help. It is not a success, since a user who meant to start the server has no server.
fn no_command() -> ExitCode {
    let mut command = config::without_env(Cli::command()).mut_args(|arg| arg.hide(true));
    // An error here means that the reader of the output has gone.
    let _ = command.print_help();
    exit::Exit::Usage.into()
}

/// Starts the log of a process that the server starts for its own use.
pub fn start_log() {
    log::start_inherited();
}

/// Starts the log of the process of an author's test.
pub fn start_test_log() {
    log::start_for_test();
}
