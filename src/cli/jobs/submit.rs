//! `cweb jobs submit`

use super::super::client::Client;
use super::super::exit::{Exit, Failure};
use super::answer::{self, JobState, short_hash, shown};
use super::files::GivenFile;
use super::output::{Problem, say};
use super::time::{Span, When, now_ms};
use super::{files, watch};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;
use uuid::Uuid;

#[derive(Args)]
pub(super) struct SubmitArgs {
    /// The job's name
    job: String,
    /// Payload of the job: JSON, @FILE, or - for the standard input
    #[arg(default_value = "{}", allow_negative_numbers = true)]
    payload: String,
    /// The job's module; needed when several have a job of this name
    #[arg(long)]
    module: Option<String>,
    /// Limit on all runs of the job, if they fail [default: the job's own, or 1]
    #[arg(long, value_name = "N")]
    max_attempts: Option<u32>,
    /// The wait before the second run; it doubles before each further run: 500ms, 30s, 5m, or milliseconds [default: the
    /// job's own, or 0]
    #[arg(long, value_name = "TIME")]
    backoff: Option<Span>,
    /// Time limit of a run; 0 for no limit [default: the job's own, or the server's --job-timeout]
    #[arg(long, value_name = "TIME")]
    timeout: Option<Span>,
    /// Do not run before this time: 2030-01-31T09:30:00Z, +30s (by this machine's clock), or milliseconds since 1970
    #[arg(long, value_name = "WHEN")]
    run_at: Option<When>,
    /// Jobs with higher priority run first [default: the job's own, or 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    priority: Option<i32>,
    /// Only one job of this name has this key: another submission returns the existing job
    #[arg(long, value_name = "KEY")]
    unique_key: Option<String>,
    /// Jobs with the same name and key run one at a time, or as many at once as --concurrency-limit says
    #[arg(long, value_name = "KEY")]
    concurrency_key: Option<String>,
    /// Limit on the jobs of the key that run at once [default: 1]
    #[arg(long, value_name = "N", requires = "concurrency_key")]
    concurrency_limit: Option<u32>,
    /// Do not run before this job is done; may be repeated
    #[arg(long, value_name = "UUID")]
    depends_on: Vec<Uuid>,
    /// A file for the job: the name by which the job opens it, and its path here; may be repeated
    #[arg(long, value_name = "NAME=PATH")]
    file: Vec<GivenFile>,
    /// Wait for the end, as with --watch, and write the files that the job has made into this directory
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
    /// Watch the job, as `cweb jobs watch` does, with the events on stderr
    #[arg(long)]
    watch: bool,
}

/// The body of `POST /jobs`.
#[derive(Serialize)]
struct Submission<'a> {
    job: &'a str,
    payload: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    module: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backoff_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    run_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unique_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    concurrency_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    concurrency_limit: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    depends_on: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    files: BTreeMap<&'a str, String>,
}

#[derive(Deserialize)]
struct Accepted {
    job_uuid: String,
    state: JobState,
    module_hash: String,
}

pub(super) fn run(client: &Client, args: &SubmitArgs) -> Result<ExitCode, Problem> {
    let payload = payload(&args.payload).map_err(|text| Failure::new(Exit::Usage, text))?;
    let mut files = BTreeMap::new();
    for file in &args.file {
        if files.insert(file.name.as_str(), files::store(client, file)?).is_some() {
            return Err(Failure::new(Exit::Usage, format!("--file gives two files the name {}", file.name)).into());
        }
    }
    let submission = Submission {
        job: &args.job,
        payload: &payload,
        module: args.module.as_deref(),
        max_attempts: args.max_attempts,
        backoff_ms: args.backoff.map(|span| span.ms),
        timeout_ms: args.timeout.map(|span| span.ms),
        run_at: args.run_at.map(|when| when.ms(now_ms())),
        priority: args.priority,
        unique_key: args.unique_key.as_deref(),
        concurrency_key: args.concurrency_key.as_deref(),
        concurrency_limit: args.concurrency_limit,
        depends_on: args.depends_on.iter().map(Uuid::to_string).collect(),
        files,
    };
    let body = serde_json::to_vec(&submission).map_err(|error| error.to_string())?;
    let answer = client.post_json("/jobs", &body)?;
    let body = answer::accepted(client, answer, "cweb modules lists the modules and their jobs")?;
    let Accepted { job_uuid, state, module_hash } = answer::read(client, &body)?;
    let job_uuid: Uuid = job_uuid
        .parse()
        .map_err(|_| format!("{} names the job \"{}\", which is not a UUID", client.base(), shown(&job_uuid)))?;
    say(job_uuid)?;
    eprintln!("{}, to run on version {}", state.as_str(), short_hash(&module_hash));
    if !args.watch && args.output_dir.is_none() {
        return Ok(ExitCode::SUCCESS);
    }
    let code = watch::follow(client, &job_uuid, 0, watch::Show::OnStderr)?;
    if let Some(dir) = &args.output_dir {
        files::fetch(client, &job_uuid, dir)?;
    }
    Ok(code)
}

/// Reads and checks the payload that `text` contains or names. The check is made here, so that the error names the user's
/// own file.
pub(super) fn payload(text: &str) -> Result<Box<RawValue>, String> {
    let (name, content) = if text == "-" {
        let mut content = Vec::new();
        let read = std::io::stdin().lock().read_to_end(&mut content);
        ("the standard input".to_owned(), read.map(|_| content))
    } else if let Some(path) = text.strip_prefix('@') {
        (path.to_owned(), std::fs::read(path))
    } else {
        (format!("PAYLOAD {}", shown(text)), Ok(text.as_bytes().to_vec()))
    };
    let content = content.map_err(|error| format!("{name} can't be read: {error}"))?;
    let content = String::from_utf8(content)
        .map_err(|error| format!("{name} is not UTF-8: byte {} is wrong", error.utf8_error().valid_up_to()))?;
    RawValue::from_string(content).map_err(|error| {
        format!(
            "{name} is not JSON: {error}; write JSON, as in '{{\"key\":\"value\"}}', @FILE, or - for the standard input"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_sent_as_they_are() {
        let payload = payload("{\"b\": 1.0e400,\n \"a\": 2}").unwrap();
        assert_eq!(payload.get(), "{\"b\": 1.0e400,\n \"a\": 2}");
        assert!(super::payload("{'a':1}").unwrap_err().contains("line 1 column 2"));
        assert!(super::payload("").unwrap_err().contains("@FILE"));
        assert!(super::payload("@/nowhere/at/all").unwrap_err().starts_with("/nowhere/at/all can't be read"));
    }
}
