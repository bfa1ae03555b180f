//! `cweb jobs`: one file per command. [`sse`] and [`time`] use neither terminals nor sockets.

mod answer;
mod bulk;
mod end;
mod event;
mod files;
mod kinds;
mod list;
mod output;
mod schedules;
pub(super) mod sse;
mod status;
mod submit;
pub(super) mod time;
mod watch;

use super::client::{Client, SERVER_DEFAULT};
use super::exit::{Exit, exit_codes, fail};
use super::trust::TrustArgs;
use clap::{Args, Subcommand};
use output::Problem;
use std::process::ExitCode;
use uuid::Uuid;

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct JobsArgs {
    #[command(subcommand)]
    command: JobsCommand,
    /// The server's URL
    #[arg(long, env = "CWEB_SERVER", value_name = "URL", default_value = SERVER_DEFAULT, global = true)]
    server: String,
    #[command(flatten)]
    trust: TrustArgs,
}

const EXAMPLES: &str = concat!(
    "\
Examples:
  cweb jobs submit --watch sum '{\"numbers\":[1,2,3.5]}'
  cweb jobs submit --run-at +10m --max-attempts 3 --backoff 30s sum @payload.json
  cweb jobs watch $(cweb jobs submit sum @payload.json)
  cweb jobs submit --file in=photo.png --output-dir . blur_image '{\"radius\":8}'
  cweb jobs list --state failed --retryable
  cweb jobs retry --module sum --state failed
  cweb jobs schedules set nightly '30 3 * * *' report --timezone Europe/Berlin

The key comes from CWEB_ADMIN_KEY. docs/jobs.md has the details.

",
    exit_codes!()
);

#[derive(Subcommand)]
enum JobsCommand {
    /// Queue a job; prints its UUID
    Submit(submit::SubmitArgs),
    /// Show one job
    Status(status::StatusArgs),
    /// Show a job's events as they come, until the job has ended
    Watch(watch::WatchArgs),
    /// Cancel waiting or running jobs: the named ones, or all that match a filter
    Cancel(bulk::BulkArgs),
    /// Run failed or canceled jobs again: the named ones, or all that match a filter (failed jobs, unless --state says
    /// canceled)
    Retry(bulk::BulkArgs),
    /// Delete jobs that have ended, with their events
    Delete {
        /// The jobs
        #[arg(required = true, value_name = "UUID")]
        jobs: Vec<Uuid>,
    },
    /// List the files that a job has made, or fetch them
    Files(files::FilesArgs),
    /// List jobs, newest first
    List(list::ListArgs),
    /// Start no further runs of these kinds of jobs; present runs go on
    Pause(kinds::PauseArgs),
    /// Start runs of paused kinds of jobs again
    Resume(kinds::PauseArgs),
    /// Count waiting and running jobs, by kind
    Kinds(kinds::KindsArgs),
    /// Jobs that run regularly: list, set and remove schedules
    Schedules(schedules::SchedulesArgs),
}

pub(super) fn run(args: &JobsArgs) -> ExitCode {
    let client = match Client::new(&args.server, &args.trust) {
        Ok(client) => client,
        Err(text) => return fail(text),
    };
    let result = match &args.command {
        JobsCommand::Submit(args) => submit::run(&client, args),
        JobsCommand::Status(args) => status::run(&client, args),
        JobsCommand::Watch(args) => watch::run(&client, args),
        JobsCommand::Cancel(args) => bulk::run(&client, args, &bulk::CANCEL),
        JobsCommand::Retry(args) => bulk::run(&client, args, &bulk::RETRY),
        JobsCommand::Delete { jobs } => end::each(jobs, |job| end::delete(&client, job)),
        JobsCommand::Files(args) => files::run(&client, args),
        JobsCommand::List(args) => list::run(&client, args),
        JobsCommand::Pause(args) => kinds::change(&client, args, "pause"),
        JobsCommand::Resume(args) => kinds::change(&client, args, "resume"),
        JobsCommand::Kinds(args) => kinds::list(&client, args),
        JobsCommand::Schedules(args) => schedules::run(&client, args),
    };
    result.unwrap_or_else(|problem| match problem {
        Problem::Said(failure) => failure.end(),
        Problem::OutputClosed => Exit::Failed.into(),
    })
}
