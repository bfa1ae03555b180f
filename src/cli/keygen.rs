//! `cweb keygen`

use super::exit::fail;
use crate::admin::keys::{Fingerprint, KeyName, ScopeText, Scopes};
use crate::module::signing;
use clap::Args;
use data_encoding::HEXLOWER;
use jiff::{SignedDuration, Timestamp};
use ring::rand::{SecureRandom, SystemRandom};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::ExitCode;

/// The number of random bytes in a key. No attacker can guess so many, so a plain SHA-256 of the key may be stored in a
/// file.
const RANDOM_BYTES: usize = 32;

#[derive(Args)]
pub(super) struct KeygenArgs {
    /// Make a signing key instead: write NAME.key, a secret for cweb deploy --sign, and print the line for the server's
    /// --trusted-signers
    #[arg(long, requires = "name", conflicts_with = "scopes")]
    signing: bool,
    /// Name of the key, for logs and messages [default: key- and some digits of its hash]
    name: Option<String>,
    /// Scope of the key: deploy, jobs or read; with :MODULE or :DOMAIN/MODULE appended it covers only these modules; may be
    /// repeated [default: all scopes]
    #[arg(long = "scope", value_name = "SCOPE", value_delimiter = ',', value_parser = scope)]
    scopes: Vec<ScopeText>,
    /// Number of days after which the key expires [default: never]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), conflicts_with = "signing")]
    valid_days: Option<u16>,
}

fn scope(text: &str) -> Result<ScopeText, String> {
    ScopeText::try_from(text.to_owned())
}

/// Makes a signing key: the secret goes into a new file, the line for the server to stdout.
fn signing(name: &str) -> Result<(), String> {
    let (secret, line) = signing::generate(name)?;
    let path = format!("{name}.key");
    let about = |error: io::Error| format!("{path}: {error}");
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(about)?;
    file.write_all(secret.as_bytes()).and_then(|()| file.sync_all()).map_err(about)?;
    let mut stdout = io::stdout().lock();
    stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()).map_err(|error| error.to_string())?;
    eprintln!("{path} is the signing key: keep it secret. The line on stdout is for the server's --trusted-signers");
    Ok(())
}

/// Makes a key: the entry for the file of keys goes to stdout, the key itself to stderr.
pub(super) fn run(args: &KeygenArgs) -> ExitCode {
    if let Some(name) = args.name.as_deref().filter(|_| args.signing) {
        return match signing(name) {
            Ok(()) => ExitCode::SUCCESS,
            Err(text) => fail(text),
        };
    }
    let mut random = [0; RANDOM_BYTES];
    if SystemRandom::new().fill(&mut random).is_err() {
        return fail("the system provides no random numbers");
    }
    // The prefix identifies the key for people and for programs that search files for secrets.
    let key = format!("cweb_{}", HEXLOWER.encode(&random));
    let fingerprint = Fingerprint::of(key.as_bytes()).to_string();
    let name = args.name.clone().unwrap_or_else(|| format!("key-{}", fingerprint.get(..8).unwrap_or_default()));
    let name = match KeyName::try_from(name) {
        Ok(name) => name,
        Err(problem) => return fail(problem),
    };
    let name = name.as_str();
    let given: Vec<&str> = args.scopes.iter().map(ScopeText::as_str).collect();
    let scopes = if given.is_empty() { Scopes::ALL.names().collect() } else { given };
    let scopes: Vec<String> = scopes.iter().map(|scope| format!("\"{scope}\"")).collect();
    let scopes = scopes.join(", ");
    let end = args
        .valid_days
        .and_then(|days| Timestamp::now().checked_add(SignedDuration::from_hours(24 * i64::from(days))).ok());
    let expires = end.map(|end| format!("expires = {end:.0}\n")).unwrap_or_default();
    let entry = format!("[[key]]\nname = \"{name}\"\nsha256 = \"{fingerprint}\"\nscopes = [{scopes}]\n{expires}\n");
    let mut stdout = io::stdout().lock();
    if let Err(error) = stdout.write_all(entry.as_bytes()).and_then(|()| stdout.flush()) {
        return fail(format!("the entry can't be written: {error}"));
    }
    eprintln!("The key {name}, which is shown only now; the entry on stdout is for the server's --keys-file:\n{key}");
    ExitCode::SUCCESS
}
