//! `cweb jobs watch`
//!
//! The stream ends with the job, but also when the server stops, a proxy times out, or the network fails. No event says
//! that it is the last one (a job may name an event "done"), so the command checks the job's state after the end of a
//! stream.

use super::super::client::{Client, Opened};
use super::super::exit::{Exit, Failure};
use super::answer::{self, JobState};
use super::event::{JobEvent, View};
use super::output::Problem;
use super::sse::SseReader;
use clap::Args;
use std::io::Read;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use uuid::Uuid;

pub(super) use super::event::Show;

/// Limit, in bytes, on one event: the largest event that a server's settings permit, escaped.
const EVENT_BYTES_MAX: usize = 2 * 1024 * 1024 * 1024 - 1;
/// Limit on consecutive tries to reconnect, which take 23 s in all.
const TRIES_MAX: u32 = 8;
/// The wait before the first try; it doubles up to the longest wait.
const WAIT_FIRST: Duration = Duration::from_millis(250);
const WAIT_LONGEST: Duration = Duration::from_secs(5);
/// After a stream that lasted this long, the count of tries starts again.
const LASTING: Duration = Duration::from_secs(10);

#[derive(Args)]
pub(super) struct WatchArgs {
    /// The job
    #[arg(value_name = "UUID")]
    job: Uuid,
    /// Only events after this id
    #[arg(long, value_name = "EVENT_ID", default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
    since: i64,
    /// Print the events as the server sends them, one line of JSON each
    #[arg(long)]
    json: bool,
}

pub(super) fn run(client: &Client, args: &WatchArgs) -> Result<ExitCode, Problem> {
    follow(client, &args.job, args.since, if args.json { Show::Json } else { Show::OnStdout })
}

/// Shows the events of `job` after `since` until the job has ended.
pub(super) fn follow(client: &Client, job: &Uuid, since: i64, show: Show) -> Result<ExitCode, Problem> {
    let view = View::new(show);
    let watch = Watch { client, job, view, last_id: since, last_kind: String::new(), tries: 0 };
    watch.run().map(exit_code)
}

struct Watch<'a> {
    client: &'a Client,
    job: &'a Uuid,
    view: View,
    /// The id of the last event shown.
    last_id: i64,
    last_kind: String,
    /// The number of tries since the stream was lost.
    tries: u32,
}

/// The course of a stream.
struct Stream {
    /// The reason of a failure; `None` if the server ended the stream.
    broken: Option<String>,
    /// Whether the stream brought events, or lasted long.
    worked: bool,
}

impl Watch<'_> {
    /// Watches until the job has ended and all its events have been shown.
    fn run(mut self) -> Result<JobState, Problem> {
        let (mut connected, mut ended) = (false, None);
        loop {
            let why = match self.open()? {
                Ok(reader) => {
                    connected = true;
                    let stream = self.read(reader)?;
                    if stream.worked {
                        self.tries = 0;
                    }
                    match (stream.broken, ended) {
                        // The job had ended before this stream began, so the server has sent all events.
                        (None, Some(state)) => return Ok(state),
                        (None, None) => match answer::look_up(self.client, self.job) {
                            Ok(job) if job.state.is_final() => {
                                if job.state.as_str() == self.last_kind {
                                    return Ok(job.state);
                                }
                                // The job ended during the stream: another stream fetches the remaining events.
                                ended = Some(job.state);
                                continue;
                            }
                            Ok(_) => "the server has ended the stream".to_owned(),
                            Err(Problem::Said(why)) => why.text,
                            Err(closed) => return Err(closed),
                        },
                        (Some(why), _) => why,
                    }
                }
                Err(why) if connected => why.text,
                Err(why) => return Err(why.into()),
            };
            self.wait(&why)?;
        }
    }

    /// Opens the stream. The outer error is final; the inner one may pass when tried again.
    fn open(&self) -> Result<Result<Box<dyn Read>, Failure>, Problem> {
        match self.client.events(&format!("/jobs/{}/events", self.job), self.last_id) {
            Ok(Opened::Stream(reader)) => Ok(Ok(Box::new(reader))),
            // All events have been shown.
            Ok(Opened::Finished) => Ok(Ok(Box::new(std::io::empty()))),
            Ok(Opened::Refused(refusal)) => {
                let may_pass = refusal.status >= 500;
                match answer::accepted(self.client, refusal, answer::NO_SUCH_JOB) {
                    Err(why) if may_pass => Ok(Err(why)),
                    Err(why) => Err(why.into()),
                    Ok(_) => {
                        Err(format!("{} sends no stream of events: is it a cweb server?", self.client.base()).into())
                    }
                }
            }
            Err(why) => Ok(Err(why)),
        }
    }

    /// Shows the events of the stream until the stream ends or fails.
    fn read(&mut self, mut reader: impl Read) -> Result<Stream, Problem> {
        let (begun, first_id) = (Instant::now(), self.last_id);
        let mut sse = SseReader::new(EVENT_BYTES_MAX);
        let mut bytes = vec![0; 64 * 1024];
        let broken = loop {
            match reader.read(&mut bytes) {
                Ok(0) => break None,
                Ok(count) => self.shows(&mut sse, bytes.get(..count).unwrap_or_default())?,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => break Some(error.to_string()),
            }
        };
        Ok(Stream { broken, worked: self.last_id > first_id || begun.elapsed() >= LASTING })
    }

    fn shows(&mut self, sse: &mut SseReader, bytes: &[u8]) -> Result<(), Problem> {
        let events = sse.feed(bytes).map_err(|error| {
            format!("an event of job {} is larger than {} bytes and can't be shown", self.job, error.bytes_max)
        })?;
        for sent in events {
            let event: JobEvent<'_> = serde_json::from_str(&sent.data).map_err(|error| {
                format!(
                    "an event of {} can't be read: {error}; is it a cweb server of this version?",
                    self.client.base()
                )
            })?;
            let id = sent.id.parse().unwrap_or(event.event_id);
            if id <= self.last_id {
                continue; // The event was shown before.
            }
            self.view.event(&event, &sent.data)?;
            self.last_id = id;
            self.last_kind = event.kind;
        }
        Ok(())
    }

    /// Waits before the next try, or fails after the last one.
    fn wait(&mut self, why: &str) -> Result<(), Problem> {
        let (server, job, last_id) = (self.client.flags(), self.job, self.last_id);
        if self.tries >= TRIES_MAX {
            let again = format!("cweb jobs watch {job} --since {last_id} {server}");
            return Err(format!("the stream is lost after {TRIES_MAX} tries: {why}; to go on later: {again}").into());
        }
        let wait = wait_before(self.tries);
        self.tries += 1;
        self.view.note(&format!("{why}; trying again in {wait:?} ({} of {TRIES_MAX})", self.tries));
        std::thread::sleep(wait);
        Ok(())
    }
}

fn wait_before(tries: u32) -> Duration {
    WAIT_FIRST.saturating_mul(1 << tries.min(16)).min(WAIT_LONGEST)
}

/// The exit code for the final state of a watched job.
fn exit_code(state: JobState) -> ExitCode {
    match state {
        JobState::Failed => ExitCode::FAILURE,
        JobState::Canceled => Exit::Canceled.into(),
        JobState::Pending | JobState::Running | JobState::Done => ExitCode::SUCCESS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_are_bounded_and_further_and_further_apart() {
        let waits: Vec<u128> = (0..TRIES_MAX).map(|tries| wait_before(tries).as_millis()).collect();
        assert_eq!(waits, [250, 500, 1000, 2000, 4000, 5000, 5000, 5000]);
        assert_eq!(wait_before(u32::MAX), WAIT_LONGEST);
    }
}
