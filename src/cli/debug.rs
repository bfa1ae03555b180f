//! `cweb debug`

use super::exit::Failure;
use super::versions::{Files, ServerArgs, expect, path, plain, read, sources};
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
    /// Start gdb, in the place of printing its command
    #[arg(long)]
    start: bool,
    /// Where to write the module's source for gdb: a new directory or an empty one [default: a directory of its own for
    /// temporary files]
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
}

pub(super) fn run(args: &DebugArgs) -> ExitCode {
    args.server.run(|client| {
        let list: Listed = read(&expect(client, client.get("/mgnt")?)?)?;
        let pid = process_of(&list, &args.name)?;
        let live: Live = read(&expect(client, client.get(&path(&args.name, None, ""))?)?)?;
        let files = sources(client, &args.name, Some(live.version))?;
        let dir = args.dir.clone().unwrap_or_else(|| {
            std::env::temp_dir().join(format!("cweb-debug-{}-{}", uuid::Uuid::new_v4().simple(), live.version))
        });
        write(&dir, &files, &live.language).map_err(|error| Failure::from(format!("{}: {error}", dir.display())))?;
        if !Path::new(&format!("/proc/{pid}")).exists() {
            let text =
                format!("process {pid} is not on this machine: run cweb debug on the server's, as its user or root");
            return Err(Failure::from(text));
        }
        // Relative names of sources are looked for below the directory. The server's own signals are no stops.
        let directory = format!("directory {}", dir.display());
        let mut command = Command::new("gdb");
        command.arg("-p").arg(pid.to_string()).arg("-ex").arg(&directory);
        if args.start {
            return Err(Failure::from(format!("gdb can't be started: {}", command.exec())));
        }
        println!("gdb -p {pid} -ex '{}'", directory.replace('\'', "'\\''"));
        Ok(())
    })
}

/// The process that module `name` runs in.
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

/// Writes the sources as the compiler has named them, into a new directory or an empty one: nothing that lies there can lead
/// elsewhere. Others may not read them.
fn write(dir: &Path, files: &Files, language: &str) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    if fs::read_dir(dir)?.next().is_some() {
        return Err(io::Error::other("the directory is not empty; name another one with --dir"));
    }
    let is_alone = files.len() == 1 && files.keys().all(|name| !name.contains('/'));
    for (name, bytes) in files {
        let compiled = match language {
            "c++" => "module.cpp",
            "binary" => "module.so",
            _ => "module.c",
        };
        let target = dir.join(if is_alone { compiled } else { name });
        target.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(target)?.write_all(bytes)?;
    }
    Ok(())
}
