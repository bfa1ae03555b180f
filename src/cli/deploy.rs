//! `cweb deploy`

use super::client::{Answer, Client, GREEN, RED, SERVER_DEFAULT, YELLOW, coloured, escaped};
use super::exit::{Exit, Failure, fail};
use super::routes_ini::{self, Listed};
use super::sarif::Report;
use super::sign::SignArgs;
use super::trust::TrustArgs;
use crate::module::deploy::SourceFields;
use crate::module::project::{self, Posted};
use crate::module::signing::SigningKey;
use clap::Args;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Args)]
pub(super) struct DeployArgs {
    /// Sources, and directories of projects; if none is named, the files that routes.ini lists. Files that have tests
    /// (CWEB_TEST) and no module are skipped
    files: Vec<PathBuf>,
    /// The server's URL [default: from routes.ini, or http://127.0.0.1:8080]
    #[arg(long, env = "CWEB_SERVER", value_name = "URL")]
    server: Option<String>,
    /// The file that lists what to deploy, and where, if no files are named
    #[arg(long, value_name = "FILE", default_value = "routes.ini")]
    config: PathBuf,
    /// The domain of the modules [default: from routes.ini; else each module's present domain, or default]
    #[arg(long, value_name = "NAME")]
    domain: Option<String>,
    /// The prefix of all paths of an app for nope.c or WAFer, such as /app [default: none]
    #[arg(long, value_name = "PREFIX")]
    mount: Option<String>,
    /// The description of this version, which cweb versions shows
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// Compile with sanitizers and run in a process of its own: address, undefined, or both, separated by a comma. "none"
    /// removes them. A name instead of a file means a deployed module. For data races use cweb test --tsan
    #[arg(long, value_name = "NAMES", conflicts_with = "domain")]
    sanitize: Option<String>,
    /// Replace modules that another key has deployed
    #[arg(long)]
    take_over: bool,
    #[command(flatten)]
    sign: SignArgs,
    /// Print the outcome as SARIF 2.1.0, for editors and CI
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    trust: TrustArgs,
}

pub(super) fn run(args: &DeployArgs) -> ExitCode {
    let planned = plan(args).and_then(|(files, url)| Ok((files, Client::new(&url, &args.trust)?)));
    let (listed, client) = match planned {
        Ok(planned) => planned,
        Err(text) => return fail(text),
    };
    let (tests, files): (Vec<Listed>, Vec<Listed>) =
        listed.into_iter().partition(|listed| has_only_tests(&listed.file));
    if files.is_empty() {
        let names: Vec<String> = tests.iter().map(|listed| no_module(&listed.file)).collect();
        return fail(names.join("\ncweb: "));
    }
    let key = match args.sign.key() {
        Ok(key) => key,
        Err(text) => return fail(text),
    };
    if !args.json {
        tests.iter().for_each(|listed| println!("{} {}", coloured(YELLOW, "skipped"), no_module(&listed.file)));
    }
    let mut report = args.json.then(Report::default);
    let mut deployed = |listed: &Listed| {
        let options = [
            ("domain", listed.domain.as_deref()),
            ("mount", args.mount.as_deref()),
            ("message", args.message.as_deref()),
            ("sanitize", args.sanitize.as_deref().filter(|names| *names != NONE)),
            ("take_over", args.take_over.then_some("1")),
        ];
        let result = match args.sanitize.as_deref().filter(|_| is_name(&listed.file)) {
            Some(names) => sanitize(&client, &listed.file, names),
            None => send(&client, &listed.file, &options, key.as_ref()),
        };
        match &mut report {
            Some(report) => reported(&client, &listed.file, result, report).err(),
            None => told(&client, &listed.file, result).err(),
        }
    };
    let failed: Vec<Exit> = files.iter().filter_map(&mut deployed).collect();
    match &report {
        Some(report) => println!("{:#}", report.json()),
        None => println!("{} of {} deployed to {}", files.len() - failed.len(), files.len(), client.base()),
    }
    // The most important error decides: a missing server or key explains the errors of all files.
    failed.into_iter().max().map_or(ExitCode::SUCCESS, ExitCode::from)
}

/// Whether `file` has an author's tests and no module. A pipe counts as a module: its bytes can be read only once.
pub(super) fn has_only_tests(file: &Path) -> bool {
    file.is_file() && std::fs::read(file).is_ok_and(|source| project::has_only_tests(&source))
}

/// The reason why a file of tests is not deployed.
pub(super) fn no_module(file: &Path) -> String {
    format!("{}: the file has tests and no module; cweb test runs them", file.display())
}

/// The name that stands for "no sanitizer".
const NONE: &str = "none";

/// Whether `file` does not exist and could be the name of a module.
fn is_name(file: &Path) -> bool {
    !file.exists() && file.components().count() == 1 && file.extension().is_none()
}

/// Compiles a deployed module again, with the sanitizers `names`.
fn sanitize(client: &Client, name: &Path, names: &str) -> Result<Answer, Failure> {
    let with = if names == NONE { "" } else { names };
    let target = format!("/mgnt/{}/sanitize?with={}", escaped(&name.to_string_lossy()), escaped(with));
    client.post_json(&target, b"")
}

fn plan(args: &DeployArgs) -> Result<(Vec<Listed>, String), String> {
    // An empty value counts as unset.
    let server = args.server.clone().filter(|server| !server.is_empty());
    if !args.files.is_empty() {
        let files = args.files.iter().map(|file| Listed { file: file.clone(), domain: args.domain.clone() });
        return Ok((files.collect(), server.unwrap_or_else(|| SERVER_DEFAULT.to_owned())));
    }
    let path = &args.config;
    let text = std::fs::read_to_string(path).map_err(|error| {
        format!(
            "no files are named, and {} can't be read: {error}; name C files, as in: cweb deploy hello.c",
            path.display()
        )
    })?;
    let dir = path.parent().unwrap_or(Path::new(""));
    let ini = routes_ini::parse(&text, dir).map_err(|error| format!("{}: {error}", path.display()))?;
    if ini.modules.is_empty() {
        return Err(format!("{}: the section [modules] lists no file", path.display()));
    }
    let domain_of = |listed: Listed| Listed { domain: args.domain.clone().or(listed.domain), file: listed.file };
    let files = ini.modules.into_iter().map(domain_of).collect();
    Ok((files, server.or(ini.server_url).unwrap_or_else(|| SERVER_DEFAULT.to_owned())))
}

/// The server's answer to a deployment, as far as it is shown.
#[derive(Default, Deserialize)]
struct Deployed {
    #[serde(default)]
    name: String,
    #[serde(default)]
    routes: Vec<Route>,
    #[serde(default)]
    websockets: Vec<WebSocket>,
    #[serde(default)]
    jobs: Vec<DeployRequest>,
    #[serde(default)]
    warnings: String,
}

#[derive(Deserialize)]
struct Route {
    method: String,
    url: String,
}

#[derive(Deserialize)]
struct WebSocket {
    url: String,
}

#[derive(Deserialize)]
struct DeployRequest {
    name: String,
}

/// Deploys one file, or the project in a directory, with the `options` that have a value, signed if there is a key, and
/// prints the outcome. Returns the module's name.
pub(super) fn deploy(
    client: &Client,
    file: &Path,
    options: &[(&str, Option<&str>)],
    key: Option<&SigningKey>,
) -> Result<String, Exit> {
    told(client, file, send(client, file, options, key))
}

/// Sends one file, or the project in a directory, signed if there is a key.
fn send(
    client: &Client,
    file: &Path,
    options: &[(&str, Option<&str>)],
    key: Option<&SigningKey>,
) -> Result<Answer, Failure> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let mut fields: Vec<(&str, &str)> = options.iter().filter_map(|(name, value)| Some((*name, (*value)?))).collect();
    let is_project = file.is_dir();
    let bytes = if is_project {
        project::pack_dir(file).map_err(Failure::from)?
    } else {
        std::fs::read(file).map_err(|error| Failure::from(error.to_string()))?
    };
    // The signature covers the files and the fields that the server uses.
    let mut covered = SourceFields { file_name: (!is_project).then(|| name.to_string()), ..SourceFields::default() };
    fields.iter().for_each(|(name, value)| covered.set(name, (*value).to_owned()));
    let sign = |key: &SigningKey| key.sign(Posted::Body(bytes.clone()), &covered).map_err(Failure::from);
    let signature = key.map(sign).transpose()?;
    fields.extend(signature.as_deref().map(|signature| ("signature", signature)));
    if !is_project {
        return client.deploy(&name, &bytes, &fields);
    }
    let archive = project::compressed(bytes).map_err(|error| Failure::from(error.to_string()))?;
    client.deploy_project(&archive, &fields)
}

/// Adds the outcome to a report.
fn reported(client: &Client, file: &Path, result: Result<Answer, Failure>, report: &mut Report) -> Result<(), Exit> {
    match result {
        Ok(answer) if answer.is_success() => {
            let deployed: Deployed = serde_json::from_str(&answer.body).unwrap_or_default();
            report.add(file, &renamed(&deployed.warnings, file), false);
            Ok(())
        }
        Ok(answer) => {
            let failure = client.refusal(&answer);
            let text = if failure.exit == Exit::Unauthorized { failure.text } else { answer.words() };
            report.add(file, &renamed(&text, file), true);
            Err(failure.exit)
        }
        Err(failure) => {
            report.add(file, &failure.text, true);
            Err(failure.exit)
        }
    }
}

/// Prints the outcome and returns the module's name.
fn told(client: &Client, file: &Path, result: Result<Answer, Failure>) -> Result<String, Exit> {
    let shown = file.display();
    match result {
        Ok(answer) if answer.is_success() => Ok(show(&answer, file)),
        Ok(answer) => {
            let failure = client.refusal(&answer);
            let text = match failure.exit {
                Exit::Unauthorized => failure.text,
                _ => renamed(&answer.words(), file),
            };
            println!("{} {shown} ({})\n{text}", coloured(RED, "refused"), answer.status);
            Err(failure.exit)
        }
        Err(failure) => {
            println!("{} {shown}: {failure}", coloured(RED, "failed"));
            Err(failure.exit)
        }
    }
}

/// Prints what is now served, and at which URLs. Returns the module's name.
fn show(answer: &Answer, file: &Path) -> String {
    // An older server sends only the warnings.
    let old = || Deployed { warnings: answer.body.clone(), ..Deployed::default() };
    let deployed: Deployed = serde_json::from_str(&answer.body).unwrap_or_else(|_| old());
    let hash = answer.header("x-cweb-hash");
    let what = answer.header("x-cweb-result");
    // A header field has ASCII only; the body has every name as it is.
    let name = if deployed.name.is_empty() { answer.header("x-cweb-module") } else { &deployed.name };
    let domain = match answer.header("x-cweb-domain") {
        "" | "default" => String::new(),
        domain => format!(" in domain {domain}"),
    };
    let hash = hash.get(..12).unwrap_or(hash);
    println!("{} {}: module {name} ({hash}){domain}", coloured(GREEN, what), file.display());
    for route in &deployed.routes {
        println!("  {:7} {}", route.method, quoted(&route.url));
    }
    for socket in &deployed.websockets {
        println!("  {:7} {}", "WS", quoted(&socket.url));
    }
    for job in &deployed.jobs {
        println!("  {:7} {}", "JOB", job.name);
    }
    if !deployed.warnings.trim().is_empty() {
        println!("{}\n{}", coloured(YELLOW, "warnings:"), renamed(deployed.warnings.trim_end(), file));
    }
    name.to_owned()
}

/// A URL, quoted for a shell, since patterns contain special characters.
fn quoted(url: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._~:/%@+=,".contains(c);
    if url.chars().all(is_plain) { url.to_owned() } else { format!("'{}'", url.replace('\'', "'\\''")) }
}

/// The names under which a single source may have been compiled: its file's name, or one of the server's.
pub(super) fn compiled_as(file: &Path) -> Vec<String> {
    let own = file.file_name().map(|name| name.to_string_lossy().into_owned());
    own.into_iter().chain(["module.c".to_owned(), "module.cpp".to_owned()]).collect()
}

/// The compiler's `text` with the user's path in place of the server's. The path occurs at the start of a diagnostic, in
/// `In file included from …`, and, from the linker, as a path into the server's scratch directory.
pub(super) fn renamed(text: &str, file: &Path) -> String {
    if file.is_dir() {
        // A project's files keep their names.
        return text.to_owned();
    }
    renamed_as(text, &compiled_as(file), file)
}

/// The compiler's `text` with the user's path `file` in place of `names`.
pub(super) fn renamed_as(text: &str, names: &[String], file: &Path) -> String {
    let lines = text.lines().map(|line| match names.iter().find_map(|name| place(line, name)) {
        Some((start, end)) => {
            format!("{}{}{}", line.get(..start).unwrap_or(""), file.display(), line.get(end..).unwrap_or(""))
        }
        None => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The range of the server's name for the source in a line, without the colon.
fn place(line: &str, name: &str) -> Option<(usize, usize)> {
    let at = line.find(&format!("{name}:"))?;
    let end = at + name.len();
    let before = line.get(..at)?;
    if matches!(before.trim_start(), "" | "from " | "In file included from ") {
        return Some((at, end));
    }
    let start = before.rfind(": ").map_or(0, |colon| colon + 2);
    let is_scratch = before.ends_with('/') && before.get(start..)?.contains("/.scratch/");
    is_scratch.then_some((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_quoted_where_a_shell_needs_it() {
        for (url, shown) in [
            ("http://h:1/a-b_c.d", "http://h:1/a-b_c.d"),
            ("http://h/x/[0-9]+", "'http://h/x/[0-9]+'"),
            ("http://h/{1}", "'http://h/{1}'"),
        ] {
            assert_eq!(quoted(url), shown);
        }
    }

    #[test]
    fn diagnostics_name_the_file_of_the_user() {
        for (said, shown) in [
            ("module.c:2:9: error: 'x'", "sub/a.c:2:9: error: 'x'"),
            ("module.cpp:2:9: error: 'x'", "sub/a.c:2:9: error: 'x'"),
            ("module.c: In function 'f':", "sub/a.c: In function 'f':"),
            ("In file included from module.c:1:", "In file included from sub/a.c:1:"),
            ("                 from module.c:7,", "                 from sub/a.c:7,"),
            ("/usr/bin/ld: /d ir/.scratch/3/module.c:9: undefined", "/usr/bin/ld: sub/a.c:9: undefined"),
            ("/d/.scratch/3/module.c:9:(.text+0x4): undefined", "sub/a.c:9:(.text+0x4): undefined"),
            // Text of the user's stays as it is.
            ("    2 | puts(\"module.c: hello\");", "    2 | puts(\"module.c: hello\");"),
            ("other_module.c:1: x", "other_module.c:1: x"),
            // The server kept the name of the file.
            ("a.c:2:9: error: 'x'", "sub/a.c:2:9: error: 'x'"),
            ("In file included from a.c:1:", "In file included from sub/a.c:1:"),
            ("data.c:1: x", "data.c:1: x"),
            ("lib/module.c:1: x", "lib/module.c:1: x"),
            ("a\n\nmodule.c:1: é", "a\n\nsub/a.c:1: é"),
        ] {
            assert_eq!(renamed(said, Path::new("sub/a.c")), shown);
        }
    }
}
