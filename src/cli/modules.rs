//! `cweb modules`

use super::client::{Answer, Client, SERVER_DEFAULT};
use super::trust::TrustArgs;
use clap::{Args, Subcommand};
use serde::Deserialize;
use std::process::ExitCode;

#[derive(Args)]
pub(super) struct ModulesArgs {
    #[command(subcommand)]
    command: Option<ModulesCommand>,
    /// The server's URL
    #[arg(long, env = "CWEB_SERVER", value_name = "URL", default_value = SERVER_DEFAULT, global = true)]
    server: String,
    #[command(flatten)]
    trust: TrustArgs,
    /// Print the list as the server sends it, JSON
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum ModulesCommand {
    /// Remove a module
    Remove {
        /// The module's name, as the list shows it
        name: String,
    },
}

#[derive(Deserialize)]
struct List {
    modules: Vec<Module>,
}

#[derive(Deserialize)]
struct Module {
    name: String,
    author: String,
    module_hash: String,
    routes: Vec<Route>,
    websockets: Vec<Path>,
    jobs: Vec<Name>,
}

#[derive(Deserialize)]
struct Route {
    path: String,
    method: String,
}

#[derive(Deserialize)]
struct Path {
    path: String,
}

#[derive(Deserialize)]
struct Name {
    name: String,
}

pub(super) fn run(args: &ModulesArgs) -> ExitCode {
    let result = Client::new(&args.server, &args.trust).and_then(|client| match &args.command {
        Some(ModulesCommand::Remove { name }) => remove(&client, name),
        None => list(&client, args.json),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => super::fail(text),
    }
}

fn expect_success(answer: Answer) -> Result<String, String> {
    if answer.is_success() { Ok(answer.body) } else { Err(format!("{}: {}", answer.status, answer.body.trim_end())) }
}

fn remove(client: &Client, name: &str) -> Result<(), String> {
    let escaped: String = name
        .bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect();
    expect_success(client.delete(&format!("/mgnt/{escaped}"))?)?;
    println!("removed {name}");
    Ok(())
}

fn list(client: &Client, json: bool) -> Result<(), String> {
    let body = expect_success(client.get("/mgnt")?)?;
    if json {
        println!("{body}");
        return Ok(());
    }
    let list: List = serde_json::from_str(&body).map_err(|error| format!("the answer can't be read: {error}"))?;
    for module in &list.modules {
        let hash = module.module_hash.get(..12).unwrap_or(&module.module_hash);
        println!("{}  {hash}  {}", module.name, module.author);
        for route in &module.routes {
            println!("  {:7} {}", route.method, route.path);
        }
        for socket in &module.websockets {
            println!("  {:7} {}", "WS", socket.path);
        }
        for job in &module.jobs {
            println!("  {:7} {}", "JOB", job.name);
        }
    }
    println!("{} module(s)", list.modules.len());
    Ok(())
}
