//! `cweb jobs status`

use super::super::client::{Client, coloured};
use super::answer::{self, Job, compact, short_hash, shown};
use super::output::{Problem, say};
use super::time::{now_ms, rfc3339, short};
use clap::Args;
use std::process::ExitCode;
use uuid::Uuid;

#[derive(Args)]
pub(super) struct StatusArgs {
    /// The job
    #[arg(value_name = "UUID")]
    job: Uuid,
    /// Print the server's answer, JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(client: &Client, args: &StatusArgs) -> Result<ExitCode, Problem> {
    if args.json {
        let answer = client.get(&format!("/jobs/{}", args.job))?;
        say(answer::accepted(client, answer, answer::NO_SUCH_JOB)?)?;
    } else {
        say(summary(&answer::look_up(client, &args.job)?, now_ms()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn summary(job: &Job, now_ms: i64) -> String {
    let state = job.state.colour().map_or(job.state.as_str().into(), |colour| coloured(colour, job.state.as_str()));
    let mut rows = vec![
        ("uuid", shown(&job.job_uuid)),
        ("job", format!("{}/{}, version {}", shown(&job.module), shown(&job.job), short_hash(&job.module_hash))),
        ("state", state),
        ("created", moment(job.created_at, now_ms)),
        ("changed", moment(job.updated_at, now_ms)),
    ];
    if !job.state.is_final() && job.run_at > now_ms {
        rows.push(("runs", moment(job.run_at, now_ms)));
    }
    rows.push(("attempt", format!("{} of {}", job.attempt, job.max_attempts)));
    if job.priority != 0 {
        rows.push(("priority", job.priority.to_string()));
    }
    rows.extend(job.unique_key.as_ref().map(|key| ("key", shown(key))));
    rows.extend(job.depends_on.iter().map(|uuid| ("waits for", shown(uuid))));
    rows.extend(job.payload.as_ref().map(|payload| ("payload", compact(payload.get()))));
    rows.extend(job.error.as_ref().map(|error| ("error", indented(error))));
    rows.extend(job.result.as_ref().map(|result| ("result", compact(result.get()))));
    let lines: Vec<String> = rows.into_iter().map(|(name, value)| format!("{name:9} {value}")).collect();
    lines.join("\n")
}

/// A time, and its distance from now.
fn moment(ms: i64, now_ms: i64) -> String {
    let away = now_ms.saturating_sub(ms);
    let words = if away < 0 { format!("in {}", short(away.saturating_neg())) } else { format!("{} ago", short(away)) };
    format!("{} ({words})", rfc3339(ms))
}

/// The lines of a text, each indented below the first.
fn indented(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(shown).collect();
    lines.join(&format!("\n{:10}", ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_what_there_is_to_know() {
        let json = r#"{"job_uuid":"u","module":"m","job":"j","state":"pending","module_hash":"0123456789abcdef",
            "created_at":0,"updated_at":61000,"error":"a\nb","attempt":1,"max_attempts":3,"run_at":100000,"priority":-2,
            "unique_key":"k","result":{"a": [1]},"payload":{"b" : 1}}"#;
        let expected = "\
uuid      u
job       m/j, version 0123456789ab
state     pending
created   1970-01-01T00:00:00.000Z (1m ago)
changed   1970-01-01T00:01:01.000Z (9s ago)
runs      1970-01-01T00:01:40.000Z (in 30s)
attempt   1 of 3
priority  -2
key       k
payload   {\"b\":1}
error     a
          b
result    {\"a\":[1]}";
        assert_eq!(summary(&serde_json::from_str(json).unwrap(), 70_000), expected);
    }
}
