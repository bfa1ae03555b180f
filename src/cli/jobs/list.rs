//! `cweb jobs list`

use super::super::client::{Client, coloured, escaped};
use super::answer::{self, Job, JobState, first_line, shown};
use super::output::{Problem, say};
use super::time::{now_ms, short};
use clap::Args;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::process::ExitCode;

/// The number of rows per request; each row contains the job's result.
const PAGE: u32 = 100;
/// The number of characters of an error that are shown.
const ERROR_CHARS_MAX: usize = 72;

#[derive(Args)]
pub(super) struct ListArgs {
    /// Only jobs in this state
    #[arg(long)]
    state: Option<JobState>,
    /// Only jobs of this module
    #[arg(long)]
    module: Option<String>,
    /// Only jobs with this name
    #[arg(long)]
    job: Option<String>,
    /// Only jobs that cweb jobs retry would run again now
    #[arg(long)]
    retryable: bool,
    /// Limit on the jobs listed
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Print the jobs as the server sends them, as one JSON object {"jobs","next"}
    #[arg(long)]
    json: bool,
}

#[derive(Deserialize)]
struct Page {
    jobs: Vec<Box<RawValue>>,
    next: Option<String>,
}

pub(super) fn run(client: &Client, args: &ListArgs) -> Result<ExitCode, Problem> {
    let Page { jobs, next } = all(client, args)?;
    if args.json {
        let jobs: Vec<&str> = jobs.iter().map(|job| job.get()).collect();
        let next = next.map_or(serde_json::Value::Null, Into::into);
        say(format_args!("{{\"jobs\":[{}],\"next\":{next}}}", jobs.join(",")))?;
        return Ok(ExitCode::SUCCESS);
    }
    if jobs.is_empty() {
        eprintln!("no jobs");
        return Ok(ExitCode::SUCCESS);
    }
    let jobs: Vec<Job> = jobs.iter().map(|job| answer::read(client, job.get())).collect::<Result<_, _>>()?;
    say(table(&jobs, now_ms()))?;
    if next.is_some() {
        eprintln!("there may be more: see --limit");
    }
    Ok(ExitCode::SUCCESS)
}

/// Requests page after page, until there are enough jobs or no more.
fn all(client: &Client, args: &ListArgs) -> Result<Page, Problem> {
    let mut filter = String::new();
    let state = args.state.map(|state| state.as_str().to_owned());
    for (name, value) in [("state", &state), ("module", &args.module), ("job", &args.job)] {
        if let Some(value) = value {
            filter.push_str(&format!("&{name}={}", escaped(value)));
        }
    }
    if args.retryable {
        filter.push_str("&retryable=1");
    }
    let mut found = Page { jobs: Vec::new(), next: None };
    loop {
        let wanted = args.limit.saturating_sub(u32::try_from(found.jobs.len()).unwrap_or(u32::MAX)).min(PAGE);
        let before = found.next.take().map(|uuid| format!("&before={}", escaped(&uuid))).unwrap_or_default();
        let answer = client.get(&format!("/jobs?limit={wanted}{filter}{before}"))?;
        let body = answer::accepted(client, answer, "is it a cweb server of this version?")?;
        let page: Page = answer::read(client, &body)?;
        // A page without jobs is the last one, whatever its `next` says. With `retryable`, however, the server may leave
        // out all jobs of a page.
        let is_last = page.jobs.is_empty() && !args.retryable;
        found.jobs.extend(page.jobs);
        found.next = page.next.filter(|_| !is_last);
        if found.next.is_none() || found.jobs.len() >= args.limit as usize {
            return Ok(found);
        }
    }
}

fn table(jobs: &[Job], now_ms: i64) -> String {
    let head = ["UUID", "JOB", "STATE", "AGE", "ATTEMPT", "ERROR"].map(str::to_owned);
    let rows: Vec<[String; 6]> = std::iter::once(head).chain(jobs.iter().map(|job| row(job, now_ms))).collect();
    // The first row is the head of the table.
    columns(&rows, |at| at.checked_sub(1).and_then(|at| jobs.get(at)).and_then(|job| job.state.colour()))
}

/// Formats rows as aligned columns; `colour` returns the colour of a row's third cell.
pub(super) fn columns<const N: usize>(rows: &[[String; N]], colour: impl Fn(usize) -> Option<u8>) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |(at, cells): (usize, &[String; N])| {
        let mut line = String::new();
        for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
            // Colour codes take no room on the screen, so the cell is padded before it is coloured.
            let padded = format!("{cell:width$}");
            let coloured = colour(at).filter(|_| column == 2).map(|colour| coloured(colour, &padded));
            line.push_str(&coloured.unwrap_or(padded));
            line.push_str("  ");
        }
        line.trim_end().to_owned()
    };
    rows.iter().enumerate().map(line).collect::<Vec<_>>().join("\n")
}

fn row(job: &Job, now_ms: i64) -> [String; 6] {
    let error = first_line(job.error.as_deref().unwrap_or_default());
    let cut = error.chars().count() > ERROR_CHARS_MAX;
    let error: String = if cut { error.chars().take(ERROR_CHARS_MAX - 1).chain(['…']).collect() } else { error };
    [
        shown(&job.job_uuid),
        format!("{}/{}", shown(&job.module), shown(&job.job)),
        job.state.as_str().to_owned(),
        short(now_ms.saturating_sub(job.created_at)),
        format!("{}/{}", job.attempt, job.max_attempts),
        error,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(state: &str, error: &str) -> Job {
        let json = serde_json::json!({"job_uuid": "u", "module": "m", "job": "long-name", "state": state,
            "module_hash": "", "created_at": 0, "updated_at": 0, "error": error, "attempt": 1, "max_attempts": 20,
            "run_at": 0, "priority": 0, "unique_key": null, "result": null});
        serde_json::from_str(&json.to_string()).unwrap()
    }

    #[test]
    fn columns_stand_below_each_other() {
        let jobs = [job("done", ""), job("canceled", "first\nsecond"), job("failed", &"é".repeat(80))];
        let expected = "\
UUID  JOB          STATE     AGE  ATTEMPT  ERROR
u     m/long-name  done      2m   1/20
u     m/long-name  canceled  2m   1/20     first
u     m/long-name  failed    2m   1/20     ";
        let shown = table(&jobs, 120_000);
        assert!(shown.starts_with(expected), "{shown}");
        assert!(shown.ends_with(&format!("  {}…", "é".repeat(71))), "{shown}");
    }
}
