//! `cweb jobs kinds`, `cweb jobs pause` and `cweb jobs resume`

use super::super::client::{Client, escaped};
use super::super::exit::{Exit, Failure};
use super::answer::{self, shown};
use super::list::columns;
use super::output::{Problem, say};
use clap::Args;
use serde::Deserialize;
use std::process::ExitCode;

#[derive(Args)]
pub(super) struct KindsArgs {
    /// Only kinds of this module; needed with a key for some modules only [default: all modules]
    #[arg(long)]
    module: Option<String>,
    /// Print the server's answer, JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct PauseArgs {
    /// The kinds of jobs
    #[arg(required = true, value_name = "MODULE/JOB")]
    kinds: Vec<String>,
}

#[derive(Deserialize)]
struct Kind {
    module: String,
    job: String,
    pending: u64,
    running: u64,
    paused: bool,
}

#[derive(Deserialize)]
struct List {
    kinds: Vec<Kind>,
}

pub(super) fn list(client: &Client, args: &KindsArgs) -> Result<ExitCode, Problem> {
    let answer = client.get(&answer::of_module("/jobs/kinds", args.module.as_deref()))?;
    let body = answer::accepted(client, answer, "is it a cweb server of this version?")?;
    if args.json {
        say(body)?;
        return Ok(ExitCode::SUCCESS);
    }
    let List { kinds } = answer::read(client, &body)?;
    let head = ["JOB", "PENDING", "RUNNING", "STATE"].map(str::to_owned);
    let rows = kinds.iter().map(|kind| {
        let name = format!("{}/{}", shown(&kind.module), shown(&kind.job));
        let state = if kind.paused { "paused" } else { "" };
        [name, kind.pending.to_string(), kind.running.to_string(), state.to_owned()]
    });
    let rows: Vec<[String; 4]> = std::iter::once(head).chain(rows).collect();
    say(columns(&rows, |_| None))?;
    Ok(ExitCode::SUCCESS)
}

/// Pauses the kinds, or resumes them: `act` is the last part of the path.
pub(super) fn change(client: &Client, args: &PauseArgs, act: &str) -> Result<ExitCode, Problem> {
    for kind in &args.kinds {
        let Some((module, job)) = kind.rsplit_once('/').filter(|(module, job)| !module.is_empty() && !job.is_empty())
        else {
            let why = format!("\"{}\" is not a kind of job: write MODULE/JOB", shown(kind));
            return Err(Failure::new(Exit::Usage, why).into());
        };
        let answer = client.post_json(&format!("/jobs/kinds/{}/{}/{act}", escaped(module), escaped(job)), b"")?;
        answer::accepted(client, answer, "cweb modules lists the modules and their jobs")?;
        say(format_args!("{}d {}", act, shown(kind)))?;
    }
    Ok(ExitCode::SUCCESS)
}
