//! `cweb deploy`

use super::client::{Client, GREEN, RED, SERVER_DEFAULT, YELLOW, coloured};
use super::routes_ini;
use clap::Args;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Args)]
pub(super) struct DeployArgs {
    /// C files; without any, those that routes.ini lists
    files: Vec<PathBuf>,
    /// The server's URL [default: that of routes.ini, or http://127.0.0.1:8080]
    #[arg(long, env = "CWEB_SERVER", value_name = "URL")]
    server: Option<String>,
    /// The list to deploy when no files are named
    #[arg(long, value_name = "FILE", default_value = "routes.ini")]
    config: PathBuf,
}

pub(super) fn run(args: &DeployArgs) -> ExitCode {
    let (files, url) = match plan(args) {
        Ok(plan) => plan,
        Err(text) => return super::fail(text),
    };
    let client = Client::new(&url);
    let failed = files.iter().filter(|file| !deploy(&client, file)).count();
    println!("{} of {} deployed to {}", files.len() - failed, files.len(), client.base());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn plan(args: &DeployArgs) -> Result<(Vec<PathBuf>, String), String> {
    let server = args.server.clone();
    if !args.files.is_empty() {
        return Ok((args.files.clone(), server.unwrap_or_else(|| SERVER_DEFAULT.to_owned())));
    }
    let path = &args.config;
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("no files are named, and {} can't be read: {error}", path.display()))?;
    let dir = path.parent().unwrap_or(Path::new(""));
    let ini = routes_ini::parse(&text, dir).map_err(|error| format!("{}: {error}", path.display()))?;
    if ini.modules.is_empty() {
        return Err(format!("{}: its section [modules] lists no file", path.display()));
    }
    Ok((ini.modules, server.or(ini.server_url).unwrap_or_else(|| SERVER_DEFAULT.to_owned())))
}

/// Deploys one file and shows what came of it.
pub(super) fn deploy(client: &Client, file: &Path) -> bool {
    let shown = file.display();
    let result =
        std::fs::read(file).map_err(|error| error.to_string()).and_then(|source| client.post("/mgnt", &source));
    match result {
        Ok(answer) if answer.is_success() => {
            let hash = answer.header("x-cweb-hash");
            let (name, what) = (answer.header("x-cweb-module"), answer.header("x-cweb-result"));
            println!("{} {shown}: module {name} ({})", coloured(GREEN, what), hash.get(..12).unwrap_or(hash));
            if !answer.body.trim().is_empty() {
                println!("{}\n{}", coloured(YELLOW, "warnings:"), answer.body.trim_end());
            }
            true
        }
        Ok(answer) => {
            println!("{} {shown} ({})\n{}", coloured(RED, "refused"), answer.status, answer.body.trim_end());
            false
        }
        Err(error) => {
            println!("{} {shown}: {error}", coloured(RED, "failed"));
            false
        }
    }
}
