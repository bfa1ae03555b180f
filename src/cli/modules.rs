//! `cweb modules`

use super::client::{Answer, Client, SERVER_DEFAULT};
use super::exit::Failure;
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
    /// Print the server's answer, JSON
    #[arg(long)]
    json: bool,
    /// List the domains and their processes instead. A restart is a start after the process died; a replacement is a start
    /// while the earlier process was alive
    #[arg(long, conflicts_with = "json")]
    domains: bool,
}

#[derive(Subcommand)]
enum ModulesCommand {
    /// Remove a module
    Remove {
        /// The module's name, as the list shows it
        name: String,
    },
    /// Run a module in quarantine again, or replace the process that it runs in
    Restart {
        /// The module's name, as the list shows it
        name: String,
    },
}

#[derive(Deserialize)]
struct List {
    modules: Vec<Module>,
    /// Missing in answers of older servers.
    #[serde(default)]
    domains: Vec<Domain>,
}

#[derive(Deserialize)]
struct Domain {
    name: String,
    pid: Option<u32>,
    modules: usize,
    requests: u64,
    /// Starts after the previous process had died.
    restarts: u64,
    /// Starts that replaced a process that was alive.
    #[serde(default)]
    replacements: u64,
    resident_bytes: u64,
    /// The source of the memory limit.
    #[serde(default)]
    memory_limit: Option<String>,
    last_crash: Option<Crash>,
}

#[derive(Deserialize)]
struct Crash {
    summary: String,
    #[serde(default)]
    modules: Vec<String>,
}

#[derive(Deserialize)]
struct Module {
    name: String,
    author: String,
    module_hash: String,
    routes: Vec<Route>,
    websockets: Vec<Path>,
    jobs: Vec<Name>,
    #[serde(default)]
    domain: Option<String>,
    #[serde(default)]
    quarantine: Option<String>,
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
    let client = Client::new(&args.server, &args.trust).map_err(Failure::from);
    let result = client.and_then(|client| match &args.command {
        Some(ModulesCommand::Remove { name }) => remove(&client, name),
        Some(ModulesCommand::Restart { name }) => restart(&client, name),
        None if args.domains => list_domains(&client),
        None => list(&client, args.json),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.end(),
    }
}

fn expect_success(client: &Client, answer: Answer) -> Result<String, Failure> {
    if answer.is_success() { Ok(answer.body) } else { Err(client.refusal(&answer)) }
}

fn remove(client: &Client, name: &str) -> Result<(), Failure> {
    expect_success(client, client.delete(&format!("/mgnt/{}", segment(name)))?)?;
    println!("removed {name}");
    Ok(())
}

fn restart(client: &Client, name: &str) -> Result<(), Failure> {
    expect_success(client, client.post_json(&format!("/mgnt/{}/restart", segment(name)), b"")?)?;
    println!("restarted {name}");
    Ok(())
}

/// A module's name as a part of a path. Dots are escaped, too, since `.` and `..` would change the path.
fn segment(name: &str) -> String {
    name.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

fn read(body: &str) -> Result<List, String> {
    serde_json::from_str(body).map_err(|error| format!("the server's answer can't be read: {error}"))
}

fn list_domains(client: &Client) -> Result<(), Failure> {
    let list = read(&expect_success(client, client.get("/mgnt")?)?)?;
    if list.domains.is_empty() {
        println!("no domains: modules run in the server's own process");
    }
    for domain in &list.domains {
        let process = domain.pid.map_or_else(|| "is being started".to_owned(), |pid| format!("process {pid}"));
        let mebibytes = domain.resident_bytes / (1024 * 1024);
        let (modules, requests) = (domain.modules, domain.requests);
        let (restarts, replacements) = (domain.restarts, domain.replacements);
        let name = &domain.name;
        let limited = domain.memory_limit.as_ref().map_or_else(String::new, |by| format!(", limited by {by}"));
        println!(
            "{name}  {process}  {modules} module(s)  {requests} request(s)  {mebibytes} MiB{limited}  {restarts} restart(s)  \
             {replacements} replacement(s)"
        );
        if let Some(Crash { summary, modules }) = &domain.last_crash {
            println!(
                "  last crash: {}: {summary}",
                if modules.is_empty() { "module unknown".to_owned() } else { modules.join(", ") }
            );
        }
    }
    Ok(())
}

fn list(client: &Client, json: bool) -> Result<(), Failure> {
    let body = expect_success(client, client.get("/mgnt")?)?;
    if json {
        println!("{body}");
        return Ok(());
    }
    let list = read(&body)?;
    for module in &list.modules {
        let hash = module.module_hash.get(..12).unwrap_or(&module.module_hash);
        let domain = module.domain.as_deref().unwrap_or("default");
        println!("{}  {hash}  {}  in domain {domain}", module.name, module.author);
        if let Some(why) = &module.quarantine {
            println!("  out of service: {why}");
        }
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
