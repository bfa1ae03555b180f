//! `cweb config` and `cweb secret`.

use super::client::{Answer, Client, escaped};
use super::exit::{Exit, Failure, fail};
use super::versions::ServerArgs;
use clap::{Args, Subcommand};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::{IsTerminal, Read};
use std::process::ExitCode;

/// Limit, in bytes, on a secret that is read: the server accepts 64 KiB.
const SECRET_BYTES_MAX: u64 = 64 * 1024 + 2;

#[derive(Args)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Set settings of a module; its running code sees them at once
    Set {
        /// The module's name
        name: String,
        /// Names and values
        #[arg(required = true, value_name = "KEY=VALUE")]
        pairs: Vec<String>,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Remove a setting: the default of module.toml applies again
    Remove {
        /// The module's name
        name: String,
        /// The setting's name
        key: String,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// List the settings of a module, and the names of its secrets
    List {
        /// The module's name
        name: String,
        #[command(flatten)]
        server: ServerArgs,
    },
}

#[derive(Args)]
pub(super) struct SecretArgs {
    #[command(subcommand)]
    command: SecretCommand,
}

#[derive(Subcommand)]
enum SecretCommand {
    /// Set a secret of a module to the content of standard input, without one line break at its end
    Set {
        /// The module's name
        name: String,
        /// The secret's name
        key: String,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Remove a secret
    Remove {
        /// The module's name
        name: String,
        /// The secret's name
        key: String,
        #[command(flatten)]
        server: ServerArgs,
    },
}

#[derive(Deserialize)]
struct Told {
    settings: BTreeMap<String, String>,
    defaults: BTreeMap<String, String>,
    secrets: Vec<String>,
}

fn expect(client: &Client, answer: Answer) -> Result<String, Failure> {
    if answer.is_success() { Ok(answer.body) } else { Err(client.refusal(&answer)) }
}

fn path(name: &str, kind: &str, key: &str) -> String {
    format!("/mgnt/{}/{kind}/{}", escaped(name), escaped(key))
}

/// Whether a module with the name may be deployed; true also if the key has no right to ask.
fn may_be_deployed(client: &Client, name: &str) -> Result<bool, Failure> {
    Ok(client.get(&format!("/mgnt/{}", escaped(name)))?.status != 404)
}

/// Prints a note if no module with the name is deployed, since the name may be misspelt.
fn note_unknown(client: &Client, name: &str) -> Result<(), Failure> {
    if !may_be_deployed(client, name)? {
        eprintln!("note: no module named {name} is deployed; a module deployed later with this name gets the settings");
    }
    Ok(())
}

fn remove(client: &Client, name: &str, kind: &str, key: &str) -> Result<(), Failure> {
    expect(client, client.delete(&path(name, kind, key))?)?;
    println!("removed {key} of {name}");
    Ok(())
}

pub(super) fn config(args: &ConfigArgs) -> ExitCode {
    match &args.command {
        ConfigCommand::Set { name, pairs, server } => {
            let split = |pair: &String| pair.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
            let Some(pairs) = pairs.iter().map(split).collect::<Option<Vec<_>>>() else {
                return Failure::new(Exit::Usage, "write each setting as KEY=VALUE".to_owned()).end();
            };
            server.run(|client| {
                for (key, value) in &pairs {
                    expect(client, client.put(&path(name, "settings", key), value.as_bytes())?)?;
                    println!("set {key} of {name}");
                }
                note_unknown(client, name)
            })
        }
        ConfigCommand::Remove { name, key, server } => server.run(|client| remove(client, name, "settings", key)),
        ConfigCommand::List { name, server } => server.run(|client| list(client, name)),
    }
}

fn list(client: &Client, name: &str) -> Result<(), Failure> {
    let body = expect(client, client.get(&format!("/mgnt/{}/settings", escaped(name)))?)?;
    let told: Told = serde_json::from_str(&body)
        .map_err(|error| Failure::from(format!("the server's answer can't be read: {error}")))?;
    for (key, value) in &told.settings {
        println!("{key}={value}");
    }
    for (key, value) in told.defaults.iter().filter(|(key, _)| !told.settings.contains_key(*key)) {
        println!("{key}={value}  (default)");
    }
    for key in &told.secrets {
        println!("{key}  (secret)");
    }
    match told.settings.is_empty() && told.defaults.is_empty() && told.secrets.is_empty() {
        false => note_unknown(client, name),
        true if may_be_deployed(client, name)? => {
            eprintln!("module {name} has no settings and no secrets");
            Ok(())
        }
        true => Err(Failure::from(format!(
            "there is no module named {name}, and no settings for that name; cweb modules lists the modules"
        ))),
    }
}

pub(super) fn secret(args: &SecretArgs) -> ExitCode {
    match &args.command {
        SecretCommand::Set { name, key, server } => {
            if std::io::stdin().is_terminal() {
                eprintln!("The secret's value, ended by Ctrl-D:");
            }
            let mut value = Vec::new();
            if let Err(error) = std::io::stdin().lock().take(SECRET_BYTES_MAX).read_to_end(&mut value) {
                return fail(format!("standard input can't be read: {error}"));
            }
            let value = value.strip_suffix(b"\n").unwrap_or(&value);
            server.run(|client| {
                expect(client, client.put(&path(name, "secrets", key), value)?)?;
                println!("set {key} of {name}");
                note_unknown(client, name)
            })
        }
        SecretCommand::Remove { name, key, server } => server.run(|client| remove(client, name, "secrets", key)),
    }
}
