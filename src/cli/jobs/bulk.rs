//! `cweb jobs cancel` and `cweb jobs retry`

use super::super::client::{Client, escaped};
use super::answer::{self, JobState, shown};
use super::end;
use super::output::{Problem, say};
use clap::Args;
use serde::Deserialize;
use std::process::ExitCode;
use uuid::Uuid;

/// The number of jobs in one call to the server.
const PAGE: u32 = 200;

#[derive(Args)]
pub(super) struct BulkArgs {
    /// The UUIDs of the jobs; or use --state, --module or --job
    #[arg(value_name = "UUID", required_unless_present_any = ["state", "module", "job"],
        conflicts_with_all = ["state", "module", "job"])]
    jobs: Vec<Uuid>,
    /// All jobs in this state
    #[arg(long)]
    state: Option<JobState>,
    /// All jobs of this module
    #[arg(long)]
    module: Option<String>,
    /// All jobs with this name
    #[arg(long)]
    job: Option<String>,
}

/// An operation on many jobs: its path, and the field of the answer that counts the changed jobs.
pub(super) struct Act {
    path: &'static str,
    done: &'static str,
}

pub(super) const CANCEL: Act = Act { path: "cancel", done: "canceled" };
pub(super) const RETRY: Act = Act { path: "retry", done: "retried" };

#[derive(Deserialize)]
struct Skipped {
    job_uuid: String,
    error: String,
}

#[derive(Deserialize)]
struct Page {
    #[serde(alias = "canceled", alias = "retried")]
    changed: u64,
    skipped: Vec<Skipped>,
    next: Option<String>,
}

pub(super) fn run(client: &Client, args: &BulkArgs, act: &Act) -> Result<ExitCode, Problem> {
    if args.jobs.is_empty() { all(client, args, act) } else { end::each(&args.jobs, |job| one(client, job, act)) }
}

fn one(client: &Client, job: &Uuid, act: &Act) -> Result<(), Problem> {
    let answer = client.post_json(&format!("/jobs/{job}/{}", act.path), b"")?;
    answer::accepted(client, answer, answer::NO_SUCH_JOB)?;
    say(format_args!("{} {job}", act.done))
}

/// Changes the jobs page by page. The loop ends, because each page leads to older jobs.
fn all(client: &Client, args: &BulkArgs, act: &Act) -> Result<ExitCode, Problem> {
    let mut filter = String::new();
    let state = args.state.map(|state| state.as_str().to_owned());
    for (name, value) in [("state", &state), ("module", &args.module), ("job", &args.job)] {
        if let Some(value) = value {
            filter.push_str(&format!("&{name}={}", escaped(value)));
        }
    }
    let (mut changed, mut skipped, mut before) = (0, 0_usize, String::new());
    loop {
        let path = format!("/jobs/{}?limit={PAGE}{filter}{before}", act.path);
        let answer = client.post_json(&path, b"")?;
        let body = answer::accepted(client, answer, "is it a cweb server of this version?")?;
        let page: Page = answer::read(client, &body)?;
        changed += page.changed;
        skipped += page.skipped.len();
        for Skipped { job_uuid, error } in &page.skipped {
            eprintln!("cweb: {}: {}", shown(job_uuid), shown(error));
        }
        match page.next {
            Some(uuid) => before = format!("&before={}", escaped(&uuid)),
            None => break,
        }
    }
    say(format_args!("{} {changed} jobs", act.done))?;
    Ok(if skipped == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
