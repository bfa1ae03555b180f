//! `cweb debug`

use super::exit::Failure;
use super::versions::{Files, ServerArgs, expect, path, plain, read, source};
use clap::Args;
use serde::Deserialize;
use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

#[derive(Args)]
pub(super) struct DebugArgs {
    /// The module's name
    name: String,
    /// Open the core file of the module's last crash instead of its running process (cweb serve --core-dir)
    #[arg(long)]
    core: bool,
    /// Start gdb instead of printing its command
    #[arg(long)]
    start: bool,
    /// Where to write the module's source for gdb: a new or an empty directory [default: a new temporary directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Deserialize)]
struct Listed {
    modules: Vec<Module>,
    domains: Vec<Domain>,
    pid: u32,
}

#[derive(Deserialize)]
struct Module {
    name: String,
    domain: String,
}

#[derive(Deserialize)]
struct Domain {
    name: String,
    pid: Option<u32>,
}

#[derive(Deserialize)]
struct Live {
    version: u64,
    language: String,
    #[serde(default)]
    file: Option<String>,
    #[serde(default)]
    last_crash: Option<Crash>,
}

#[derive(Deserialize)]
struct Crash {
    version: Option<u64>,
    core: Option<Core>,
}

#[derive(Deserialize)]
struct Core {
    path: PathBuf,
    object: Option<PathBuf>,
    base: Option<String>,
}

pub(super) fn run(args: &DebugArgs) -> ExitCode {
    args.server.run(|client| {
        let list: Listed = read(&expect(client, client.get("/mgnt")?)?)?;
        let live: Live = read(&expect(client, client.get(&path(&args.name, None, ""))?)?)?;
        let target = if args.core { core_of(&list, &live, &args.name)? } else { running(&list, &args.name)? };
        let number = target.version.unwrap_or(live.version);
        let (is_project, files) = source(client, &args.name, Some(number))?;
        let of: Live = read(&expect(client, client.get(&path(&args.name, Some(number), ""))?)?)?;
        let dir = args.dir.clone().unwrap_or_else(|| {
            std::env::temp_dir().join(format!("cweb-debug-{}-{}", uuid::Uuid::new_v4().simple(), live.version))
        });
        write(&dir, &files, &of, is_project).map_err(|error| Failure::from(format!("{}: {error}", dir.display())))?;
        // gdb looks for relative names of sources in this directory. The server's own signals do not stop the process.
        let mut arguments = target.arguments;
        arguments.extend(["-ex".to_owned(), format!("directory {}", dir.display())]);
        if args.start {
            return Err(Failure::from(format!(
                "gdb can't be started: {}",
                Command::new("gdb").args(&arguments).exec()
            )));
        }
        let words: Vec<String> = arguments.iter().map(|argument| quoted(argument)).collect();
        println!("gdb {}", words.join(" "));
        Ok(())
    })
}

/// The process or core file that gdb opens.
struct Target {
    arguments: Vec<String>,
    /// The version of the module in that process, if it may differ from the live version.
    version: Option<u64>,
}

/// An argument, quoted for a shell.
fn quoted(argument: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._/".contains(c);
    if argument.chars().all(is_plain) { argument.to_owned() } else { format!("'{}'", argument.replace('\'', "'\\''")) }
}

fn not_here(what: &str) -> Failure {
    Failure::from(format!(
        "{what} is not on this machine: run cweb debug on the server's machine, as the server's user or root"
    ))
}

/// The process of module `name`, for gdb.
fn running(list: &Listed, name: &str) -> Result<Target, Failure> {
    let pid = process_of(list, name)?;
    if !Path::new(&format!("/proc/{pid}")).exists() {
        return Err(not_here(&format!("process {pid}")));
    }
    // The root directory of the process may contain only its libraries.
    let arguments = ["-p", &pid.to_string(), "-iex", "set sysroot /"].map(str::to_owned).to_vec();
    Ok(Target { arguments, version: None })
}

/// The core file of the last crash of module `name`, for gdb.
fn core_of(list: &Listed, live: &Live, name: &str) -> Result<Target, Failure> {
    let crash = live.last_crash.as_ref().ok_or_else(|| {
        Failure::from(format!("module {} has not crashed in its live version since the server started", plain(name)))
    })?;
    let core = crash.core.as_ref().ok_or_else(|| {
        Failure::from(format!(
            "the last crash of module {} has left no core file: the server needs --core-dir DIR, and its log says at the start whether \
             the kernel writes core files there",
            plain(name)
        ))
    })?;
    if !core.path.exists() {
        return Err(not_here(&format!("the core file {}", core.path.display())));
    }
    // The server's program, which may differ from this one.
    let program = fs::read_link(format!("/proc/{}/exe", list.pid)).or_else(|_| std::env::current_exe());
    let program = program.map_err(|error| Failure::from(error.to_string()))?;
    let mut arguments = vec![program.display().to_string(), core.path.display().to_string()];
    if let (Some(object), Some(base)) = (&core.object, &core.base) {
        let is_number = base.strip_prefix("0x").is_some_and(|hex| hex.chars().all(|c| c.is_ascii_hexdigit()));
        let symbols = format!("add-symbol-file {} -o {base}", object.display());
        arguments.extend(is_number.then(|| ["-ex".to_owned(), symbols]).into_iter().flatten());
    }
    Ok(Target { arguments, version: crash.version })
}

/// The process id of module `name`.
fn process_of(list: &Listed, name: &str) -> Result<u32, Failure> {
    let module = list.modules.iter().find(|module| module.name == name);
    let module = module.ok_or_else(|| Failure::from(format!("there is no module named {}", plain(name))))?;
    if list.domains.is_empty() {
        return Ok(list.pid);
    }
    let domain = list.domains.iter().find(|domain| domain.name == module.domain);
    domain.and_then(|domain| domain.pid).ok_or_else(|| {
        Failure::from(format!("the process of domain {} is being started; try again", plain(&module.domain)))
    })
}

/// Writes the sources under the names that the compiler used. The directory must be new or empty, so that no existing link
/// leads elsewhere. Other users can't read it.
fn write(dir: &Path, files: &Files, of: &Live, is_project: bool) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    if fs::read_dir(dir)?.next().is_some() {
        return Err(io::Error::other("the directory is not empty; name another one with --dir"));
    }
    // A source without a file name was compiled under a name of the server's.
    let is_nameless = !is_project && of.file.is_none();
    for (name, bytes) in files {
        let compiled = match of.language.as_str() {
            "c++" => "module.cpp",
            "binary" => "module.so",
            _ => "module.c",
        };
        let target = dir.join(if is_nameless { compiled } else { name });
        target.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(target)?.write_all(bytes)?;
    }
    Ok(())
}
