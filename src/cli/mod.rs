//! The command line: one thin command a file.

mod client;
mod deploy;
mod dev;
mod modules;
mod new;
mod routes_ini;
mod serve;

use crate::config::ServeArgs;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Post a C file, get a running web service.
#[derive(Parser)]
#[command(name = "cweb", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server (also without any command)
    Serve(Box<ServeArgs>),
    /// Deploy C files, or those that routes.ini lists
    Deploy(deploy::DeployArgs),
    /// List the modules of a server, or remove one
    Modules(modules::ModulesArgs),
    /// Write a starter module
    New(new::NewArgs),
    /// Deploy files whenever they change
    Dev(dev::DevArgs),
}

/// Runs the command that the arguments name.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        None => serve::run(cli.serve),
        Some(Command::Serve(args)) => serve::run(*args),
        Some(Command::Deploy(args)) => deploy::run(&args),
        Some(Command::Modules(args)) => modules::run(&args),
        Some(Command::New(args)) => new::run(&args),
        Some(Command::Dev(args)) => dev::run(&args),
    }
}

/// Says what went wrong and gives the exit code for it.
fn fail(text: impl std::fmt::Display) -> ExitCode {
    eprintln!("cweb: {text}");
    ExitCode::FAILURE
}
