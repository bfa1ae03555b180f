//! What an author is told of a crash: the functions that led there, registers, the version; and gdb at the right process.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::process::Command;
use support::{Server, cweb, eventually, root};

const DEEP: &str = "tests/author_tests/deep.c";

fn said(server: &Server, args: &[&str]) -> String {
    let (done, said) = cweb(&[args, &["--server", &server.addr]].concat(), &root(), &[]);
    assert!(done, "{args:?}: {said}\n{}", server.log());
    said
}

#[test]
fn a_crash_has_its_functions_lines_registers_and_version() {
    let server = Server::with(&["--isolation", "process", "--shards", "1"]);
    said(&server, &["deploy", "tests/author_tests/live.c"]);
    said(&server, &["deploy", DEEP]);
    assert_eq!(server.get("/fine").text(), "fine");
    assert_eq!(server.get("/deep").status, 500);
    let told = || server.get("/mgnt/deep").text();
    eventually("the crash", || told().contains("last_crash"));
    let told: serde_json::Value = serde_json::from_str(&told()).unwrap();
    let crash = &told["last_crash"];
    let frames: Vec<&str> =
        crash["backtrace"].as_array().unwrap().iter().map(|frame| frame.as_str().unwrap()).collect();
    let place = |name: &str, line: u32| {
        let at =
            frames.iter().position(|frame| frame.starts_with(name) && frame.contains(&format!("module.c:{line})")));
        at.unwrap_or_else(|| panic!("no {name} at line {line}: {frames:?}"))
    };
    let (inner, callback, outer) = (place("innermost", 7), place("compare", 11), place("deep", 23));
    assert!(inner == 0 && inner < callback && callback < outer, "{frames:?}");
    assert_eq!(frames.len(), outer + 1, "nothing of the server: {frames:?}");
    let register = if cfg!(target_arch = "x86_64") { "rip" } else { "pc" };
    let value = crash["registers"][register].as_str().unwrap();
    assert!(value.starts_with("0x") && value.len() > 6, "{value}");
    assert_eq!((crash["version"].as_u64(), crash["place"].as_str()), (Some(1), Some("a handler (GET /deep)")));
    // In the log, and for the author; a client in production sees none of it (tests/production.rs).
    server.expect_log("#0 innermost (module.c:7)");
    let shown = said(&server, &["show", "deep"]);
    assert!(
        shown.contains("in version 1: SIGSEGV at address 0x0") && shown.contains("#0 innermost (module.c:7)"),
        "{shown}"
    );
    assert!(shown.contains(register), "{shown}");
}

#[test]
fn gdb_finds_the_process_and_the_sources() {
    let server = Server::with(&["--shards", "1"]);
    said(&server, &["deploy", DEEP]);
    let dir = tempfile::tempdir().unwrap();
    let command = said(&server, &["debug", "deep", "--dir", dir.path().to_str().unwrap()]);
    let pid: u32 = command.split_whitespace().nth(2).unwrap().parse().unwrap();
    assert!(command.starts_with("gdb -p ") && server.processes().contains(&pid), "{command}");
    let is_own = support::isolation() == "none";
    assert_eq!(pid == server.pid(), is_own, "{command}");
    let source = std::fs::read(dir.path().join("module.c")).unwrap();
    assert_eq!(source, std::fs::read(root().join(DEEP)).unwrap());
    // What lies in a directory could lead elsewhere.
    let trap = tempfile::tempdir().unwrap();
    std::fs::write(trap.path().join("victim"), "as it was").unwrap();
    std::os::unix::fs::symlink(trap.path().join("victim"), trap.path().join("module.c")).unwrap();
    let there = trap.path().to_str().unwrap();
    let (done, told) = cweb(&["debug", "deep", "--dir", there, "--server", &server.addr], &root(), &[]);
    assert!(!done && told.contains("not empty"), "{told}");
    assert_eq!(std::fs::read_to_string(trap.path().join("victim")).unwrap(), "as it was");
    let (done, told) = cweb(&["debug", "absent", "--server", &server.addr], &root(), &[]);
    assert!(!done && told.contains("no module named absent"), "{told}");
    if Command::new("gdb").arg("--version").output().is_err() {
        println!("gdb is not installed: its command is not run");
        return;
    }
    let run = format!("{} -batch -ex 'list innermost'", command.trim());
    let output = Command::new("sh").args(["-c", &run]).output().unwrap();
    let listed = String::from_utf8_lossy(&output.stdout);
    assert!(listed.contains("return *nowhere + add;"), "{listed}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(server.get("/fine").text(), "fine");
}
