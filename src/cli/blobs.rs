//! `cweb blobs`

use super::client::Client;
use super::exit::Failure;
use super::jobs::time;
use super::versions::{ServerArgs, plain};
use clap::Args;
use serde::Deserialize;
use std::io::Write;
use std::process::ExitCode;

#[derive(Args)]
pub(super) struct BlobsArgs {
    /// Limit on the blobs listed
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Print the server's answer, JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Deserialize)]
struct Blob {
    blob: String,
    bytes: u64,
    used_at: i64,
}

#[derive(Deserialize)]
struct List {
    blobs: Vec<Blob>,
    count: usize,
    bytes: u64,
    bytes_max: u64,
}

pub(super) fn run(args: &BlobsArgs) -> ExitCode {
    args.server.run(|client| list(client, args))
}

fn list(client: &Client, args: &BlobsArgs) -> Result<(), Failure> {
    let answer = client.get(&format!("/blobs?limit={}", args.limit))?;
    if !answer.is_success() {
        return Err(client.refusal(&answer));
    }
    let text = if args.json { answer.body } else { table(&answer.body)? };
    // An error here means that the reader of the output has gone.
    let _ = writeln!(std::io::stdout().lock(), "{text}");
    Ok(())
}

fn table(body: &str) -> Result<String, Failure> {
    let List { blobs, count, bytes, bytes_max } = serde_json::from_str(body)
        .map_err(|error| Failure::from(format!("the server's answer can't be read: {error}")))?;
    let mut text = String::new();
    for blob in &blobs {
        text += &format!("{}  {:>12}  {}\n", plain(&blob.blob), blob.bytes, time::rfc3339(blob.used_at));
    }
    let shown =
        if blobs.len() < count { format!(", the last {} used of them are listed", blobs.len()) } else { String::new() };
    Ok(text + &format!("{count} blobs{shown}; all blobs and outputs take {bytes} of {bytes_max} bytes"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn blobs_stand_below_each_other() {
        let json = r#"{"blobs":[{"blob":"sha256:00","bytes":5,"used_at":0}],"count":2,"bytes":8192,"bytes_max":10000}"#;
        let expected = "sha256:00             5  1970-01-01T00:00:00.000Z\n\
            2 blobs, the last 1 used of them are listed; all blobs and outputs take 8192 of 10000 bytes";
        assert_eq!(super::table(json).ok().unwrap(), expected);
    }
}
