//! `cweb jobs schedules`: list, set, remove.

use super::super::client::{Client, escaped};
use super::super::exit::{Exit, Failure};
use super::answer::{self, shown};
use super::list::columns;
use super::output::{Problem, say};
use super::submit;
use super::time::{now_ms, rfc3339, short};
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::process::ExitCode;

#[derive(Args)]
pub(super) struct SchedulesArgs {
    #[command(subcommand)]
    command: Option<SchedulesCommand>,
    /// Only schedules of this module; needed with a key for some modules only [default: all modules]
    #[arg(long)]
    module: Option<String>,
    /// Print the server's answer, JSON
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum SchedulesCommand {
    /// Run a job regularly: make a schedule, or change the one with this name
    Set(SetArgs),
    /// Remove schedules; their jobs stay
    Remove {
        /// The schedules
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}

#[derive(Args)]
struct SetArgs {
    /// The schedule's name
    name: String,
    /// When to run: minute hour day-of-month month day-of-week, with seconds first if there are six fields; or @daily and
    /// similar
    #[arg(value_name = "CRON")]
    cron: String,
    /// The job's name
    job: String,
    /// Payload of each job: JSON, @FILE, or - for the standard input
    #[arg(default_value = "{}", allow_negative_numbers = true)]
    payload: String,
    /// The job's module; needed when several have a job of this name
    #[arg(long)]
    module: Option<String>,
    /// An IANA name
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    timezone: String,
    /// Start a run even if the previous one still goes on; without this flag such runs are skipped
    #[arg(long)]
    overlap: bool,
}

/// The body of `PUT /jobs/schedules/NAME`.
#[derive(Serialize)]
struct Body<'a> {
    job: &'a str,
    cron: &'a str,
    timezone: &'a str,
    payload: &'a RawValue,
    overlap: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    module: Option<&'a str>,
}

#[derive(Deserialize)]
struct Schedule {
    name: String,
    module: String,
    job: String,
    cron: String,
    timezone: String,
    next_at: Option<i64>,
    runs: u64,
    skipped: u64,
    waits: Option<String>,
}

#[derive(Deserialize)]
struct List {
    schedules: Vec<Schedule>,
}

pub(super) fn run(client: &Client, args: &SchedulesArgs) -> Result<ExitCode, Problem> {
    match &args.command {
        None => list(client, args.module.as_deref(), args.json)?,
        Some(SchedulesCommand::Set(set)) => put(client, set, args.json)?,
        Some(SchedulesCommand::Remove { names }) => {
            for name in names {
                let answer = client.delete(&path(name))?;
                answer::accepted(client, answer, UNKNOWN)?;
                say(format_args!("removed {}", shown(name)))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

const UNKNOWN: &str = "cweb jobs schedules lists the existing schedules";

/// The name of a declared schedule contains a slash, which is not escaped.
fn path(name: &str) -> String {
    let parts: Vec<String> = name.split('/').map(escaped).collect();
    format!("/jobs/schedules/{}", parts.join("/"))
}

fn list(client: &Client, module: Option<&str>, as_json: bool) -> Result<(), Problem> {
    let answer = client.get(&answer::of_module("/jobs/schedules", module))?;
    let body = answer::accepted(client, answer, "is it a cweb server of this version?")?;
    if as_json {
        return say(body);
    }
    let List { schedules } = answer::read(client, &body)?;
    if schedules.is_empty() {
        eprintln!("no schedules");
        return Ok(());
    }
    say(table(&schedules, now_ms()))
}

fn put(client: &Client, args: &SetArgs, as_json: bool) -> Result<(), Problem> {
    let payload = submit::payload(&args.payload).map_err(|text| Failure::new(Exit::Usage, text))?;
    let body = Body {
        job: &args.job,
        cron: &args.cron,
        timezone: &args.timezone,
        payload: &payload,
        overlap: args.overlap,
        module: args.module.as_deref(),
    };
    let body = serde_json::to_vec(&body).map_err(|error| error.to_string())?;
    let answer = client.put(&path(&args.name), &body)?;
    let body = answer::accepted(client, answer, "cweb modules lists the modules and their jobs")?;
    if as_json {
        return say(body);
    }
    let schedule: Schedule = answer::read(client, &body)?;
    let next =
        schedule.next_at.map_or_else(|| "never".to_owned(), |at| format!("{} ({})", rfc3339(at), due(at, now_ms())));
    say(format_args!("{} runs {}/{} next {next}", shown(&schedule.name), shown(&schedule.module), shown(&schedule.job)))
}

fn due(at_ms: i64, now_ms: i64) -> String {
    let left = at_ms.saturating_sub(now_ms);
    if left > 0 { format!("in {}", short(left)) } else { "now".to_owned() }
}

fn table(schedules: &[Schedule], now_ms: i64) -> String {
    let head = ["NAME", "JOB", "CRON", "TIMEZONE", "NEXT", "RUNS", "SKIPPED", "WAITS FOR"].map(str::to_owned);
    let rows = schedules.iter().map(|one| {
        [
            shown(&one.name),
            format!("{}/{}", shown(&one.module), shown(&one.job)),
            shown(&one.cron),
            shown(&one.timezone),
            one.next_at.map_or_else(|| "never".to_owned(), |at| due(at, now_ms)),
            one.runs.to_string(),
            one.skipped.to_string(),
            answer::first_line(one.waits.as_deref().unwrap_or_default()),
        ]
    });
    let rows: Vec<[String; 8]> = std::iter::once(head).chain(rows).collect();
    columns(&rows, |_| None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_stand_below_each_other() {
        let json = r#"{"schedules":[{"name":"m/j","module":"m","job":"j","cron":"0 * * * *","timezone":"UTC","next_at":61000,
            "runs":3,"skipped":0,"waits":null},{"name":"x","module":"m","job":"long","cron":"* * * * *","timezone":"Asia/Tokyo",
            "next_at":500,"runs":0,"skipped":1,"waits":"there is no module named m"}]}"#;
        let List { schedules } = serde_json::from_str(json).unwrap();
        let expected = "\
NAME  JOB     CRON       TIMEZONE    NEXT   RUNS  SKIPPED  WAITS FOR
m/j   m/j     0 * * * *  UTC         in 1m  3     0
x     m/long  * * * * *  Asia/Tokyo  now    0     1        there is no module named m";
        assert_eq!(table(&schedules, 1000), expected);
    }
}
