//! `cweb dev`

use super::client::{Client, SERVER_DEFAULT};
use super::deploy::deploy;
use super::exit::Exit;
use super::trust::TrustArgs;
use clap::Args;
use notify::{RecursiveMode, Watcher};
use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, SystemTime};

/// How long it waits for the further changes that an editor makes when it saves.
const SETTLE: Duration = Duration::from_millis(50);
/// How often the files are looked at beside that, and a server that was not reached is tried again.
const LOOK: Duration = Duration::from_millis(500);
/// Most times that a server of its own is waited for.
const STARTS_MAX: usize = 100;

#[derive(Args)]
pub(super) struct DevArgs {
    /// Sources, and directories of projects, to watch; each is deployed at once and again when it changes
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The server's URL [default: http://127.0.0.1:8080, or a server of its own, with its data in .cweb beside the sources, if
    /// none answers there]
    #[arg(long, env = "CWEB_SERVER", value_name = "URL")]
    server: Option<String>,
    /// The domain the modules are to run in [default: the one each is in, or default]
    #[arg(long, value_name = "NAME")]
    domain: Option<String>,
    #[command(flatten)]
    trust: TrustArgs,
}

/// A server that this command has started. Dropping it ends it.
struct OwnServer(Child);

impl Drop for OwnServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(super) fn run(args: &DevArgs) -> ExitCode {
    let named = args.server.as_deref().filter(|server| !server.is_empty());
    let client = match Client::new(named.unwrap_or(SERVER_DEFAULT), &args.trust) {
        Ok(client) => client,
        Err(text) => return super::fail(text),
    };
    let first = args.files.first().filter(|_| named.is_none());
    let dir = first.map(|file| if file.is_dir() { file.as_path() } else { parent(file) });
    let own = match dir.map(|dir| start_if_missing(&client, dir)).transpose() {
        Ok(own) => own.flatten(),
        Err(text) => return super::fail(text),
    };
    let names: Vec<String> = args.files.iter().map(|file| file.display().to_string()).collect();
    println!("watching {}; stop with Ctrl-C", names.join(", "));
    if own.is_none() {
        println!("what a module prints, and its crashes: cweb logs NAME -f");
    }
    for file in args.files.iter().filter(|file| !file.exists()) {
        println!("{} is not there yet", file.display());
    }
    let (changes, _watcher) = watch(&args.files);
    let mut seen: Vec<Option<SystemTime>> = vec![None; args.files.len()];
    let mut is_missing = false;
    loop {
        for (file, seen) in args.files.iter().zip(&mut seen) {
            let modified = last_change(file);
            if modified.is_none() && seen.take().is_some() {
                println!("{} is gone; the server still serves it", file.display());
            }
            // A server that was not there is asked for first: that it is missing has been said.
            let is_due = modified.is_some() && modified != *seen;
            if is_due && (!is_missing || client.get("/healthz").is_ok()) {
                let result = deploy(&client, file, &[("domain", args.domain.as_deref())]);
                is_missing = result == Err(Exit::Unreachable);
                // A server that comes later gets it then. What was refused has been said: the next change may mend it.
                *seen = if is_missing { None } else { modified };
            }
        }
        wait(&changes);
        if own.as_ref().is_some_and(has_ended) {
            return super::fail("the server has ended");
        }
    }
}

fn has_ended(own: &OwnServer) -> bool {
    !Path::new(&format!("/proc/{}/exe", own.0.id())).exists()
}

/// Starts a server with its data in `dir`, if none answers. What its modules print comes to this terminal.
fn start_if_missing(client: &Client, dir: &Path) -> Result<Option<OwnServer>, String> {
    if client.get("/healthz").is_ok() {
        return Ok(None);
    }
    let program = std::env::current_exe().map_err(|error| format!("the server can't be started: {error}"))?;
    let child = Command::new(program)
        .arg("serve")
        .arg("--data-dir")
        .arg(dir.join(".cweb"))
        .stdin(Stdio::null())
        .spawn()
        .map_err(|error| format!("the server can't be started: {error}"))?;
    let own = OwnServer(child);
    for _ in 0..STARTS_MAX {
        if client.get("/healthz").is_ok() {
            return Ok(Some(own));
        }
        if has_ended(&own) {
            break;
        }
        std::thread::sleep(LOOK / 10);
    }
    Err("the server does not start; start one with cweb serve, and name it with --server URL".to_owned())
}

/// Watches the files' directories, since an editor may replace a file. Without a watcher the looks alone find changes.
fn watch(files: &[PathBuf]) -> (Receiver<()>, Option<impl Watcher>) {
    let (sender, changes) = mpsc::channel();
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading is an event too: what this command reads itself would wake it for ever.
        if event.is_ok_and(|event| !event.kind.is_access()) {
            let _ = sender.send(());
        }
    });
    let watcher = watcher.ok().map(|mut watcher| {
        let dirs: BTreeSet<(&Path, bool)> = files
            .iter()
            .map(|file| if file.is_dir() { (file.as_path(), true) } else { (parent(file), false) })
            .collect();
        for (dir, is_project) in dirs {
            let mode = if is_project { RecursiveMode::Recursive } else { RecursiveMode::NonRecursive };
            if let Err(error) = watcher.watch(dir, mode) {
                println!("{} is looked at now and then only: {error}", dir.display());
            }
        }
        watcher
    });
    (changes, watcher)
}

fn parent(file: &Path) -> &Path {
    file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Waits for a change, and for those that come with it.
fn wait(changes: &Receiver<()>) {
    if changes.recv_timeout(LOOK).is_ok() {
        std::thread::sleep(SETTLE);
        while changes.try_recv().is_ok() {}
    } else {
        // Without a watcher it returns at once.
        std::thread::sleep(SETTLE);
    }
}

/// When the file, or one of the project in the directory, was changed last; `None`: there is none.
fn last_change(file: &Path) -> Option<SystemTime> {
    let found = std::fs::metadata(file).ok()?;
    if !found.is_dir() {
        return found.modified().ok();
    }
    let (mut last, mut dirs) = (found.modified().ok(), vec![file.to_path_buf()]);
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let (path, kind) = (entry.path(), entry.file_type());
            let name = path.components().next_back();
            if matches!(name, Some(Component::Normal(name)) if name.to_string_lossy().starts_with('.')) {
                continue;
            }
            last = last.max(entry.metadata().ok().and_then(|found| found.modified().ok()));
            if kind.is_ok_and(|kind| kind.is_dir()) {
                dirs.push(path);
            }
        }
    }
    last
}
