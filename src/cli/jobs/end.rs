//! `cweb jobs delete`, and running an operation on each of several jobs

use super::super::client::Client;
use super::super::exit::Exit;
use super::answer;
use super::output::{Problem, say};
use std::process::ExitCode;
use uuid::Uuid;

/// Runs `act` for each job; a failure does not stop the others.
pub(super) fn each(jobs: &[Uuid], act: impl Fn(&Uuid) -> Result<(), Problem>) -> Result<ExitCode, Problem> {
    let mut failed: Option<Exit> = None;
    for job in jobs {
        match act(job) {
            Ok(()) => {}
            Err(Problem::Said(failure)) => {
                eprintln!("cweb: {job}: {failure}");
                failed = failed.max(Some(failure.exit));
            }
            Err(closed @ Problem::OutputClosed) => return Err(closed),
        }
    }
    Ok(failed.map_or(ExitCode::SUCCESS, ExitCode::from))
}

pub(super) fn delete(client: &Client, job: &Uuid) -> Result<(), Problem> {
    let answer = client.delete(&format!("/jobs/{job}"))?;
    answer::accepted(client, answer, answer::NO_SUCH_JOB)?;
    say(format_args!("deleted {job}"))
}
