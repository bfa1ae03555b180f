//! Files of jobs: inputs of a submission, and outputs.

use super::super::client::Client;
use super::super::exit::{Exit, Failure};
use super::answer::{self, shown};
use super::output::{Problem, say};
use clap::Args;
use data_encoding::HEXLOWER;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use uuid::Uuid;

/// The size, in bytes, of one read.
const PIECE_BYTES: usize = 256 * 1024;

#[derive(Args)]
pub(super) struct FilesArgs {
    /// The job
    #[arg(value_name = "UUID")]
    job: Uuid,
    /// Write the files into this directory, and print their paths
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
}

/// `NAME=PATH`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GivenFile {
    pub(super) name: String,
    path: PathBuf,
}

impl FromStr for GivenFile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, path)) if !name.is_empty() && !path.is_empty() => {
                Ok(Self { name: name.to_owned(), path: PathBuf::from(path) })
            }
            _ => Err("write NAME=PATH, where NAME is the job's name for the file".to_owned()),
        }
    }
}

/// Stores the file as a blob, unless the server has it already, and returns the blob's name.
pub(super) fn store(client: &Client, given: &GivenFile) -> Result<String, Problem> {
    let path = given.path.display();
    let unreadable = |error: io::Error| Failure::new(Exit::Usage, format!("{path} can't be read: {error}"));
    let mut file = File::open(&given.path).map_err(unreadable)?;
    let bytes = file.metadata().map_err(unreadable)?.len();
    let mut hash = Sha256::new();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match file.read(&mut piece).map_err(unreadable)? {
            0 => break,
            count => hash.update(piece.get(..count).unwrap_or_default()),
        }
    }
    let blob = format!("sha256:{}", HEXLOWER.encode(&hash.finalize()));
    let target = format!("/blobs/{blob}");
    // HEAD counts as a use, so the server keeps the blob until the job is submitted.
    if client.head(&target)?.status == 200 {
        return Ok(blob);
    }
    file.rewind().map_err(unreadable)?;
    let answer = client.put_file(&target, file, bytes)?;
    answer::accepted(client, answer, "curl -T FILE URL/blobs stores a blob")?;
    Ok(blob)
}

#[derive(Deserialize)]
struct Files {
    state: String,
    made: Vec<Made>,
}

#[derive(Deserialize)]
struct Made {
    name: String,
    bytes: u64,
}

/// Whether `name` stays within its directory. A hostile server may send any name.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\']) && !name.chars().any(char::is_control)
}

pub(super) fn run(client: &Client, args: &FilesArgs) -> Result<ExitCode, Problem> {
    let files = list(client, &args.job)?;
    if files.state != "done" {
        let why = format!("the job is {}: its files are available once the job is done", shown(&files.state));
        return Err(Failure::new(Exit::Failed, why).into());
    }
    match &args.output_dir {
        Some(dir) => fetch(client, &args.job, dir)?,
        None => files.made.iter().try_for_each(|Made { name, bytes }| say(format!("{bytes:>12} {}", shown(name))))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn list(client: &Client, job: &Uuid) -> Result<Files, Problem> {
    let answer = client.get(&format!("/jobs/{job}/files"))?;
    Ok(answer::read(client, &answer::accepted(client, answer, answer::NO_SUCH_JOB)?)?)
}

/// Fetches the job's outputs into `dir`, if the job is done, and prints the files' names.
pub(super) fn fetch(client: &Client, job: &Uuid, dir: &Path) -> Result<(), Problem> {
    let files = list(client, job)?;
    if files.state != "done" {
        return Ok(());
    }
    let unwritable = |path: &Path, error: io::Error| format!("{} can't be written: {error}", path.display());
    fs::create_dir_all(dir).map_err(|error| unwritable(dir, error))?;
    for Made { name, .. } in &files.made {
        if !is_plain(name) {
            return Err(
                format!("{} names a file \"{}\", which is not a valid file name", client.base(), shown(name)).into()
            );
        }
        let path = dir.join(name);
        let part = dir.join(format!(".{name}.part"));
        let mut file = File::create(&part).map_err(|error| unwritable(&part, error))?;
        let target = format!("/jobs/{job}/files/{}", super::super::client::escaped(name));
        let fetched = client.get_to(&target, &mut file);
        drop(file);
        if let Err(failure) = fetched {
            let _ = fs::remove_file(&part);
            return Err(failure.into());
        }
        fs::rename(&part, &path).map_err(|error| unwritable(&path, error))?;
        say(path.display())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_a_name_and_a_path() {
        let file = "in=a=b".parse::<GivenFile>().unwrap();
        assert_eq!((file.name.as_str(), file.path.to_str()), ("in", Some("a=b")));
        for wrong in ["", "in", "=x", "in="] {
            assert!(wrong.parse::<GivenFile>().is_err(), "{wrong}");
        }
        assert!(is_plain("out.png") && !is_plain("../x") && !is_plain(".x") && !is_plain(""));
    }
}
