//! `cweb dev`

use super::client::{Client, SERVER_DEFAULT};
use super::deploy::deploy;
use super::trust::TrustArgs;
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

/// How often the files are looked at: quick enough for a person, cheap enough to forget.
const POLL: Duration = Duration::from_millis(250);

#[derive(Args)]
pub(super) struct DevArgs {
    /// C files to watch; each is deployed at once and again when it changes
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The server's URL
    #[arg(long, env = "CWEB_SERVER", value_name = "URL", default_value = SERVER_DEFAULT)]
    server: String,
    /// The domain the modules are to run in [default: the one each is in, or default]
    #[arg(long, value_name = "NAME")]
    domain: Option<String>,
    #[command(flatten)]
    trust: TrustArgs,
}

pub(super) fn run(args: &DevArgs) -> ExitCode {
    let client = match Client::new(&args.server, &args.trust) {
        Ok(client) => client,
        Err(text) => return super::fail(text),
    };
    let mut seen: Vec<Option<SystemTime>> = vec![None; args.files.len()];
    println!("watching {} file(s); stop with Ctrl-C", args.files.len());
    for file in args.files.iter().filter(|file| !file.exists()) {
        println!("{} is not there yet", file.display());
    }
    loop {
        for (file, seen) in args.files.iter().zip(&mut seen) {
            let modified = std::fs::metadata(file).and_then(|metadata| metadata.modified()).ok();
            if modified.is_some() && modified != *seen {
                *seen = modified;
                // It has been said; the next change may mend it.
                let _ = deploy(&client, file, args.domain.as_deref(), None);
            }
        }
        std::thread::sleep(POLL);
    }
}
