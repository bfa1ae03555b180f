//! `cweb dev`

mod files;
mod follow;
mod own_server;

use super::client::{Answer, Client, SERVER_DEFAULT, escaped};
use super::deploy::{deploy, has_only_tests, no_module};
use super::exit::{Exit, fail};
use super::jobs::time;
use super::sign::SignArgs;
use super::trust::TrustArgs;
use crate::module::signing::SigningKey;
use clap::Args;
use follow::Follower;
use own_server::OwnServer;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

/// The path of the script that makes open pages reload.
const RELOAD: &str = "/cweb-dev/reload.js";

#[derive(Args)]
pub(super) struct DevArgs {
    /// Sources, and directories of projects, to watch; each is deployed now and after each change. Files that have tests
    /// (CWEB_TEST) and no module are skipped
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The server's URL [default: http://127.0.0.1:8080; if no server answers there, cweb dev starts one, with its data in
    /// .cweb beside the sources]
    #[arg(long, env = "CWEB_SERVER", value_name = "URL")]
    server: Option<String>,
    /// The domain of the modules [default: each module's present domain, or default]
    #[arg(long, value_name = "NAME")]
    domain: Option<String>,
    #[command(flatten)]
    sign: SignArgs,
    #[command(flatten)]
    trust: TrustArgs,
}

pub(super) fn run(args: &DevArgs) -> ExitCode {
    let named = args.server.as_deref().filter(|server| !server.is_empty());
    let client = match Client::new(named.unwrap_or(SERVER_DEFAULT), &args.trust) {
        Ok(client) => Arc::new(client),
        Err(text) => return fail(text),
    };
    let key = match args.sign.key() {
        Ok(key) => key,
        Err(text) => return fail(text),
    };
    let first = args.files.first().filter(|_| named.is_none());
    let dir = first.map(|file| if file.is_dir() { file.as_path() } else { files::parent(file) });
    let mut own = match dir.map(|dir| OwnServer::start_if_missing(&client, dir)).transpose() {
        Ok(own) => own.flatten(),
        Err(text) => return fail(text),
    };
    let names: Vec<String> = args.files.iter().map(|file| file.display().to_string()).collect();
    println!("watching {}; stop with Ctrl-C", names.join(", "));
    if let Some(own) = &own {
        println!("the log of the server: {}", own.log().display());
    }
    for file in args.files.iter().filter(|file| !file.exists()) {
        println!("{} does not exist yet", file.display());
    }
    let (changes, _watcher) = files::watch(&args.files);
    let mut dev = Dev::new(args, client, key);
    loop {
        dev.look();
        files::wait(&changes);
        if let (Some(ended), Some(dir)) = (own.take_if(|own| own.has_ended()), dir) {
            println!("the server has ended; its log: {}; starting it again", ended.log().display());
            drop(ended);
            own = match OwnServer::start_if_missing(&dev.client, dir) {
                Ok(own) => own,
                Err(text) => return fail(text),
            };
        }
    }
}

/// A watched file or project.
struct Watched {
    file: PathBuf,
    /// The time of the last change that was deployed or refused.
    seen: Option<SystemTime>,
    /// Prints the log lines of the file's module.
    follower: Option<Follower>,
}

struct Dev {
    client: Arc<Client>,
    domain: Option<String>,
    /// The key with which the sources are signed.
    key: Option<SigningKey>,
    watched: Vec<Watched>,
    /// Whether the server could not be reached, which has been printed.
    is_missing: bool,
    /// Whether the note about reloading pages has been printed.
    has_told_of_pages: bool,
}

impl Dev {
    fn new(args: &DevArgs, client: Arc<Client>, key: Option<SigningKey>) -> Self {
        let watched = args.files.iter().map(|file| Watched { file: file.clone(), seen: None, follower: None });
        let (watched, domain) = (watched.collect(), args.domain.clone());
        Self { client, domain, key, watched, is_missing: false, has_told_of_pages: false }
    }

    /// Deploys changed files, and restarts log streams that have ended.
    fn look(&mut self) {
        if self.is_missing {
            // After a failure, wait until the server answers.
            if self.client.get("/healthz").is_err() {
                return;
            }
            println!("the server answers again");
            self.is_missing = false;
        }
        for at in 0..self.watched.len() {
            self.deploy(at);
            self.follow(at);
        }
    }

    fn deploy(&mut self, at: usize) {
        let several = self.watched.len() > 1;
        let Some(watched) = self.watched.get_mut(at) else { return };
        let modified = files::last_change(&watched.file);
        if modified.is_none() && watched.seen.take().is_some() {
            println!("{} was removed; the server still serves its module", watched.file.display());
        }
        if self.is_missing || modified.is_none() || modified == watched.seen {
            return;
        }
        if has_only_tests(&watched.file) {
            println!("skipped {}", no_module(&watched.file));
            watched.seen = modified;
            return;
        }
        let begun_ms = time::now_ms();
        let options = [("domain", self.domain.as_deref())];
        let result = deploy(&self.client, &watched.file, &options, self.key.as_ref());
        self.is_missing = result == Err(Exit::Unreachable);
        // If the server is missing, the file is deployed once it answers. After a refusal, which has been printed, the next
        // change is deployed.
        watched.seen = if self.is_missing { None } else { modified };
        let Ok(module) = result else { return };
        if watched.follower.as_ref().is_none_or(|follower| follower.module() != module) {
            watched.follower = Some(Follower::start(&self.client, &module, begun_ms, several));
        }
        if !std::mem::replace(&mut self.has_told_of_pages, true) {
            tell_of_pages(&self.client);
        }
    }

    /// Restarts a log stream that has ended. A module that the server does not know any more is deployed again.
    fn follow(&mut self, at: usize) {
        let Some(watched) = self.watched.get_mut(at) else { return };
        let Some(follower) = watched.follower.as_mut().filter(|follower| follower.has_ended()) else { return };
        match self.client.get(&format!("/mgnt/{}", escaped(follower.module()))) {
            Ok(answer) if answer.is_success() => follower.restart(&self.client),
            Ok(answer) => {
                watched.follower = None;
                if answer.status == 404 {
                    watched.seen = None;
                }
            }
            Err(failure) => {
                println!("{failure}; waiting for the server");
                self.is_missing = true;
            }
        }
    }
}

/// Prints how pages reload after each deployment.
fn tell_of_pages(client: &Client) {
    let is_script = |answer: &Answer| answer.header("content-type").starts_with("text/javascript");
    if client.get(RELOAD).is_ok_and(|answer| answer.is_success() && is_script(&answer)) {
        println!("pages with <script src=\"{RELOAD}\"></script> reload after each deployment");
    } else {
        println!(
            "pages do not reload by themselves: start the server with cweb serve --dev, and add the script {RELOAD} to the page"
        );
    }
}
