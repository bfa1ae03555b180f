//! Runs the commands of docs/tutorial.md, and looks for the output that stands below each.

use crate::support::{PATIENCE, Server, root};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

/// Ends the output of a command; its exit status follows.
const END: &str = "@@end-of-command@@";

/// A shell that keeps its variables and background processes between commands.
struct Shell {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Shell {
    fn start(dir: &Path, addr: &str) -> Self {
        let programs = Path::new(env!("CARGO_BIN_EXE_cweb")).parent().unwrap();
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
        let mut child = Command::new("bash")
            .args(["--noprofile", "--norc"])
            .current_dir(dir)
            .env("PATH", path)
            .env("CWEB_SERVER", format!("http://{addr}"))
            .env("XDG_CACHE_HOME", dir.join(".cache"))
            .env("LC_ALL", "C")
            .env_remove("CWEB_ADMIN_KEY")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(b"exec 2>&1\n").unwrap();
        let (sender, lines) = channel();
        let stdout = child.stdout.take().unwrap();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self { child, stdin, lines }
    }

    /// Runs a command; its output.
    fn run(&mut self, command: &str) -> Vec<String> {
        self.stdin.write_all(format!("{command}\necho {END}$?\n").as_bytes()).unwrap();
        let mut said = Vec::new();
        loop {
            let line = self.lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("{command} does not end; it said: {said:#?}"));
            match line.split_once(END) {
                None => said.push(line),
                Some((rest, status)) => {
                    said.extend(Some(rest.to_owned()).filter(|rest| !rest.is_empty()));
                    assert_eq!(status, "0", "{command}: {said:#?}");
                    return said;
                }
            }
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // What it has started in the background, too.
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
        let _ = self.child.wait();
    }
}

/// The commands of a page, each with the lines that stand below it.
fn commands(page: &str) -> Vec<(String, Vec<String>)> {
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    let mut is_console = false;
    for line in page.lines() {
        match line {
            "```console" => is_console = true,
            "```" => is_console = false,
            _ if !is_console => {}
            line => match (line.strip_prefix("$ "), line.strip_prefix('>'), found.last_mut()) {
                (Some(command), ..) => found.push((command.to_owned(), Vec::new())),
                (None, Some(more), Some((command, said))) if said.is_empty() => {
                    command.push('\n');
                    command.push_str(more.strip_prefix(' ').unwrap_or(more));
                }
                (_, _, Some((_, said))) => said.push(line.to_owned()),
                _ => panic!("a line before the first command: {line}"),
            },
        }
    }
    found
}

/// A line without what differs from run to run: hashes, times, addresses, numbers, the compiler's flag.
fn plain(line: &str) -> String {
    let words = line.trim_end().split(' ').map(|word| {
        let is_hex = |text: &str| text.len() >= 12 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let bare = word.trim_matches(['(', ')']);
        match bare {
            bare if is_hex(bare) => word.replace(bare, "HASH"),
            bare if bare.starts_with("[-W") => String::new(),
            bare if bare.contains("+0x") || bare.starts_with("0x") => "ADDRESS".to_owned(),
            _ => {
                let mut text = String::new();
                for c in word.chars() {
                    let c = if c.is_ascii_digit() { '0' } else { c };
                    if c != '0' || !text.ends_with('0') {
                        text.push(c);
                    }
                }
                text
            }
        }
    });
    words.collect::<Vec<_>>().join(" ").trim_end().to_owned()
}

/// Checks that `said` is what `expected` shows, where a line `…` stands for any number of lines.
fn check(command: &str, expected: &[String], said: &[String]) {
    let mut rest = said;
    let mut skips = false;
    for line in expected {
        if line == "…" {
            skips = true;
            continue;
        }
        let at = rest.iter().position(|found| plain(found) == plain(line));
        let at = at.filter(|at| skips || *at == 0);
        let at = at.unwrap_or_else(|| panic!("{command}\nexpected: {line}\nsaid: {said:#?}"));
        rest = &rest[at + 1..];
        skips = false;
    }
    assert!(skips || rest.is_empty(), "{command}\nsaid more than the page shows: {rest:#?}");
}

#[test]
fn the_commands_of_the_tutorial_do_what_it_shows() {
    let page = std::fs::read_to_string(root().join("docs/tutorial.md")).unwrap();
    let found = commands(&page);
    assert!(found.len() > 30, "{} commands", found.len());
    // The page's own server is this one, on a free port.
    let server = Server::on(&Arc::new(tempfile::tempdir().unwrap()), &["--isolation", "process"], &[]);
    let work = tempfile::tempdir().unwrap();
    let mut shell = Shell::start(work.path(), &server.addr);
    for (command, expected) in found.iter().filter(|(command, _)| !command.starts_with("cweb serve")) {
        let said = shell.run(&command.replace("127.0.0.1:8080", &server.addr));
        let said: Vec<String> = said.iter().map(|line| line.replace(&server.addr, "127.0.0.1:8080")).collect();
        check(command, expected, &said);
    }
}
