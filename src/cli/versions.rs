//! `cweb versions`, `show`, `diff`, `rollback` and `pull`.

use super::client::{Answer, Client, GREEN, RED, SERVER_DEFAULT, coloured, escaped};
use super::exit::{Exit, Failure};
use super::jobs::time;
use super::trust::TrustArgs;
use crate::module::project;
use clap::Args;
use serde::Deserialize;
use similar::{ChangeTag, TextDiff};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The flags that name a command's server.
#[derive(Args)]
pub(super) struct ServerArgs {
    /// The server's URL
    #[arg(long, env = "CWEB_SERVER", value_name = "URL", default_value = SERVER_DEFAULT)]
    server: String,
    #[command(flatten)]
    trust: TrustArgs,
}

impl ServerArgs {
    /// Runs `work` with the server.
    pub(super) fn run(&self, work: impl FnOnce(&Client) -> Result<(), Failure>) -> ExitCode {
        let done = Client::new(&self.server, &self.trust).map_err(Failure::from).and_then(|client| work(&client));
        done.map_or_else(Failure::end, |()| ExitCode::SUCCESS)
    }
}

#[derive(Args)]
pub(super) struct VersionsArgs {
    /// The module's name
    name: String,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args)]
pub(super) struct ShowArgs {
    /// The module's name, or NAME@VERSION
    #[arg(value_name = "NAME[@VERSION]")]
    name: String,
    /// Print the source
    #[arg(long)]
    source: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args)]
pub(super) struct DiffArgs {
    /// The module's name
    name: String,
    /// The earlier version; if none is given, the version before the live one
    from: Option<u64>,
    /// The later version [default: the live one]
    to: Option<u64>,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args)]
pub(super) struct RollbackArgs {
    /// The module's name
    name: String,
    /// The version to deploy again [default: the one before the live one]
    version: Option<u64>,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args)]
pub(super) struct PullArgs {
    /// The module's name, or NAME@VERSION; writes the file under its name at deployment (or NAME.c), NAME.so for a ready
    /// shared object, or the directory NAME for a project
    #[arg(value_name = "NAME[@VERSION]")]
    name: String,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Deserialize)]
struct List {
    versions: Vec<Version>,
}

#[derive(Deserialize)]
struct Version {
    version: u64,
    live: bool,
    module_hash: String,
    author: String,
    by: String,
    at_ms: i64,
    message: String,
    domain: String,
    libraries: Vec<Library>,
    warnings: String,
    language: String,
    /// The file name of a single source.
    #[serde(default)]
    file: Option<String>,
    #[serde(default)]
    limits: BTreeMap<String, u64>,
    #[serde(default)]
    sanitize: Option<String>,
    #[serde(default)]
    sanitizer_reports: Vec<String>,
    #[serde(default)]
    last_crash: Option<Crash>,
    #[serde(default)]
    signer: Option<String>,
    #[serde(default)]
    signing_key: Option<String>,
}

#[derive(Deserialize)]
struct Crash {
    summary: String,
    #[serde(default)]
    backtrace: Vec<String>,
    #[serde(default)]
    registers: BTreeMap<String, String>,
    version: Option<u64>,
    at_ms: i64,
}

impl Version {
    /// The signer: the name that the server had for the key, or else the key.
    fn signed(&self) -> Option<String> {
        let key = || self.signing_key.as_ref().map(|key| format!("the key {}…", key.get(..16).unwrap_or(key)));
        self.signer.clone().filter(|name| !name.is_empty()).or_else(key)
    }
}

#[derive(Deserialize)]
struct Library {
    name: String,
    version: String,
    file: String,
}

/// A text from elsewhere, made safe for one line of a terminal.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

pub(super) fn expect(client: &Client, answer: Answer) -> Result<String, Failure> {
    if answer.is_success() { Ok(answer.body) } else { Err(client.refusal(&answer)) }
}

pub(super) fn read<T: for<'a> Deserialize<'a>>(body: &str) -> Result<T, Failure> {
    serde_json::from_str(body).map_err(|error| Failure::from(format!("the server's answer can't be read: {error}")))
}

/// Splits `NAME@VERSION`; a module's name may contain an `@` itself.
fn name_and_version(text: &str) -> (&str, Option<u64>) {
    let split = text.rsplit_once('@').and_then(|(name, version)| Some((name, version.parse().ok()?)));
    split.map_or((text, None), |(name, version)| (name, Some(version)))
}

pub(super) fn path(name: &str, version: Option<u64>, rest: &str) -> String {
    let version = version.map(|number| format!("/versions/{number}")).unwrap_or_default();
    format!("/mgnt/{}{version}{rest}", escaped(name))
}

pub(super) fn versions(args: &VersionsArgs) -> ExitCode {
    args.server.run(|client| {
        let list: List = read(&expect(client, client.get(&path(&args.name, None, "/versions"))?)?)?;
        for version in &list.versions {
            let live = if version.live { coloured(GREEN, "live") } else { "    ".to_owned() };
            let hash = version.module_hash.get(..12).unwrap_or(&version.module_hash);
            let at = time::rfc3339(version.at_ms);
            let (by, message) = (plain(&version.by), plain(&version.message));
            let signed = version.signed().map(|by| format!("  (signed by {})", plain(&by))).unwrap_or_default();
            let sanitized =
                version.sanitize.as_ref().map(|names| format!("  (sanitize {})", plain(names))).unwrap_or_default();
            println!("{:>4}  {live}  {hash}  {at}  {by:10}  {message}{signed}{sanitized}", version.version);
        }
        Ok(())
    })
}

pub(super) fn show(args: &ShowArgs) -> ExitCode {
    let (name, number) = name_and_version(&args.name);
    args.server.run(|client| {
        if args.source {
            return print_source(&sources(client, name, number)?);
        }
        let found: Version = read(&expect(client, client.get(&path(name, number, ""))?)?)?;
        let live = if found.live { ", live" } else { "" };
        println!("module {}, version {}{live}", plain(name), found.version);
        println!("  hash       {}", found.module_hash);
        println!("  author     {}", plain(&found.author));
        println!("  deployed   {} by {}", time::rfc3339(found.at_ms), plain(&found.by));
        println!("  domain     {}", plain(&found.domain));
        if let Some(file) = &found.file {
            println!("  file       {}", plain(file));
        }
        if found.language == "binary" {
            println!("  source     none: a ready shared object, which cweb pull writes");
        }
        if let Some(by) = found.signed() {
            println!("  signed     by {}", plain(&by));
        }
        if !found.message.is_empty() {
            println!("  message    {}", plain(&found.message));
        }
        for library in &found.libraries {
            println!("  library    {} {}  {}", library.name, library.version, library.file);
        }
        for (name, value) in found.limits.iter().filter(|(_, value)| **value > 0) {
            println!("  limit      {} {value}", plain(name));
        }
        if let Some(names) = &found.sanitize {
            println!("  sanitize   {}", plain(names));
        }
        if let Some(crash) = &found.last_crash {
            tell_crash(crash);
        }
        for report in &found.sanitizer_reports {
            println!("  report:\n{}", report.trim_end());
        }
        if !found.warnings.trim().is_empty() {
            println!("  warnings:\n{}", found.warnings.trim_end());
        }
        Ok(())
    })
}

fn tell_crash(crash: &Crash) {
    let version = crash.version.map(|version| format!(" in version {version}")).unwrap_or_default();
    println!("  last crash {}{version}: {}", time::rfc3339(crash.at_ms), plain(&crash.summary));
    for (number, frame) in crash.backtrace.iter().enumerate() {
        println!("    #{number} {}", plain(frame));
    }
    let registers: Vec<String> =
        crash.registers.iter().map(|(name, value)| format!("{} {}", plain(name), plain(value))).collect();
    for line in registers.chunks(4) {
        println!("    {}", line.join("  "));
    }
}

/// The files of a version, by path.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

pub(super) fn sources(client: &Client, name: &str, number: Option<u64>) -> Result<Files, Failure> {
    source(client, name, number).map(|(_, files)| files)
}

/// Whether a version is a project, and its files by path.
pub(super) fn source(client: &Client, name: &str, number: Option<u64>) -> Result<(bool, Files), Failure> {
    let found = client.get_bytes(&path(name, number, "/source"))?;
    let (is_project, bytes) = found.map_err(|answer| client.refusal(&answer))?;
    if is_project {
        return Ok((true, project::unpacked(bytes).map_err(Failure::from)?.into_iter().collect()));
    }
    let told: Version = read(&expect(client, client.get(&path(name, number, ""))?)?)?;
    if let Some(file) = told.file.filter(|file| is_plain_file(file)) {
        return Ok((false, BTreeMap::from([(file, bytes)])));
    }
    let extension = match told.language.as_str() {
        "c++" => "cpp",
        "binary" => "so",
        _ => "c",
    };
    Ok((false, BTreeMap::from([(format!("{}.{extension}", file_name(name)), bytes)])))
}

/// Whether `name` names a file in the current directory, not hidden, and without a leading `-`, which programs take for a
/// flag.
fn is_plain_file(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(['.', '-'])
        && !name.contains(['/', '\\'])
        && !name.chars().any(char::is_control)
}

/// A module's name, turned into the name of a file or a directory.
fn file_name(name: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    let plain: String = name.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
    plain.trim_start_matches(['.', '-']).to_owned()
}

fn print_source(files: &Files) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let mut print = |bytes: &[u8]| out.write_all(bytes).map_err(|error| Failure::from(error.to_string()));
    for (path, bytes) in files {
        if files.len() > 1 {
            print(format!("==> {path} <==\n").as_bytes())?;
        }
        match std::str::from_utf8(bytes) {
            Ok(_) => print(bytes)?,
            Err(_) => print(format!("({} bytes)\n", bytes.len()).as_bytes())?,
        }
    }
    Ok(())
}

pub(super) fn diff(args: &DiffArgs) -> ExitCode {
    args.server.run(|client| {
        let (first, second) = compared(client, args)?;
        let (from, to) = (sources(client, &args.name, Some(first))?, sources(client, &args.name, Some(second))?);
        if from == to {
            println!("the files of versions {first} and {second} are the same");
            return Ok(());
        }
        // Two single sources are compared even if the file's name has changed.
        if let (Some((old_name, old)), Some((new_name, new)), true) =
            (from.first_key_value(), to.first_key_value(), from.len() == 1 && to.len() == 1)
        {
            print_diff(old_name, new_name, Some(old), Some(new));
            return Ok(());
        }
        let names: BTreeSet<&String> = from.keys().chain(to.keys()).collect();
        for name in names {
            match (from.get(name), to.get(name)) {
                (Some(old), Some(new)) if old == new => {}
                (old, new) => print_diff(name, name, old, new),
            }
        }
        Ok(())
    })
}

/// The numbers of the versions to compare.
fn compared(client: &Client, args: &DiffArgs) -> Result<(u64, u64), Failure> {
    if let (Some(from), Some(to)) = (args.from, args.to) {
        return Ok((from, to));
    }
    let list: List = read(&expect(client, client.get(&path(&args.name, None, "/versions"))?)?)?;
    let numbers: Vec<u64> = list.versions.iter().map(|version| version.version).collect();
    let live = list.versions.iter().find(|version| version.live).map(|version| version.version);
    let name = plain(&args.name);
    let live = live.ok_or_else(|| Failure::from(format!("no version of module {name} is live")))?;
    let before = numbers.iter().copied().filter(|number| *number < live).max();
    match args.from.or(before) {
        Some(from) if from != live => Ok((from, live)),
        // A comparison of a version with itself would print nothing, so the command reports an error.
        Some(_) => {
            let others: Vec<String> =
                numbers.iter().filter(|number| **number != live).map(ToString::to_string).collect();
            let others = if others.is_empty() { "none".to_owned() } else { others.join(", ") };
            Err(Failure::new(
                Exit::Usage,
                format!(
                    "version {live} of module {name} is the live one: name a second version to compare it with; other stored versions: {others}"
                ),
            ))
        }
        None => Err(Failure::new(
            Exit::Usage,
            format!(
                "module {name} has no version before {live}, which is live: there is no version to compare it with"
            ),
        )),
    }
}

fn print_diff(old_name: &str, new_name: &str, old: Option<&Vec<u8>>, new: Option<&Vec<u8>>) {
    println!("--- {old_name}{}\n+++ {new_name}{}", missing(old), missing(new));
    let (Some(old), Some(new)) = (text(old), text(new)) else { return println!("the bytes differ") };
    for hunk in TextDiff::from_lines(old, new).unified_diff().context_radius(3).iter_hunks() {
        println!("{}", hunk.header());
        for change in hunk.iter_changes() {
            let line = change.value().trim_end_matches(['\r', '\n']);
            match change.tag() {
                ChangeTag::Delete => println!("{}", coloured(RED, &format!("-{line}"))),
                ChangeTag::Insert => println!("{}", coloured(GREEN, &format!("+{line}"))),
                ChangeTag::Equal => println!(" {line}"),
            }
        }
    }
}

/// The file as a text; `None`: it is not UTF-8.
fn text(bytes: Option<&Vec<u8>>) -> Option<&str> {
    bytes.map_or(Some(""), |bytes| std::str::from_utf8(bytes).ok())
}

fn missing(bytes: Option<&Vec<u8>>) -> &'static str {
    if bytes.is_none() { " (not there)" } else { "" }
}

pub(super) fn rollback(args: &RollbackArgs) -> ExitCode {
    args.server.run(|client| {
        let version = args.version.map(|number| format!("?version={number}")).unwrap_or_default();
        let answer = client.post_json(&(path(&args.name, None, "/rollback") + &version), b"")?;
        let number = answer.header("x-cweb-version").to_owned();
        expect(client, answer)?;
        println!("module {} is served in version {number}", plain(&args.name));
        Ok(())
    })
}

pub(super) fn pull(args: &PullArgs) -> ExitCode {
    let (name, number) = name_and_version(&args.name);
    args.server.run(|client| {
        let (is_project, files) = source(client, name, number)?;
        let is_alone = !is_project;
        let dir = if is_alone { PathBuf::new() } else { PathBuf::from(file_name(name)) };
        if !is_alone && dir.exists() {
            return Err(Failure::from(format!("{}: the directory exists already; nothing was written", dir.display())));
        }
        for (path, bytes) in &files {
            write_new(&dir.join(path), bytes)
                .map_err(|error| Failure::from(format!("{}: {error}", dir.join(path).display())))?;
        }
        let what =
            if is_alone { files.keys().next().cloned().unwrap_or_default() } else { format!("{}/", dir.display()) };
        println!("wrote {what}");
        Ok(())
    })
}

/// Writes a new file. The path was checked and stays below the directory.
fn write_new(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent)?;
    }
    fs::File::create_new(path)?.write_all(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_versions() {
        assert_eq!(name_and_version("m"), ("m", None));
        assert_eq!(name_and_version("m@12"), ("m", Some(12)));
        assert_eq!(name_and_version("a@b"), ("a@b", None));
        assert_eq!(path("a b", Some(3), "/source"), "/mgnt/a%20b/versions/3/source");
        assert_eq!(file_name("../x y"), "_x_y");
    }
}
