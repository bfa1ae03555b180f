//! What an author is told of a crash: the functions that led there, registers, the version; and gdb at the right process.

use crate::support::{self, Server, cweb, eventually, root};
use std::process::Command;
use std::time::{Duration, Instant};

const DEEP: &str = "tests/author_tests/deep.c";

fn said(server: &Server, args: &[&str]) -> String {
    let (done, said) = cweb(&[args, &["--server", &server.addr]].concat(), &root(), &[]);
    assert!(done, "{args:?}: {said}\n{}", server.log());
    said
}

#[test]
fn a_crash_has_its_functions_lines_registers_and_version() {
    let server = Server::with(&["--isolation", "process", "--shards", "1", "--crash-limit", "0"]);
    said(&server, &["deploy", "tests/author_tests/live.c"]);
    said(&server, &["deploy", DEEP]);
    assert_eq!(server.get("/fine").text(), "fine");
    let told = || server.get("/mgnt/deep").text();
    // The server reads debug information for two seconds only: a crash at a busy time has no lines, and another one may.
    let mut crashed: Option<Instant> = None;
    eventually("a crash with its lines", || {
        if crashed.is_none_or(|at| at.elapsed() > Duration::from_secs(10)) {
            assert_eq!(server.get("/deep").status, 500);
            crashed = Some(Instant::now());
        }
        told().contains("innermost (deep.c:7)")
    });
    let told: serde_json::Value = serde_json::from_str(&told()).unwrap();
    let crash = &told["last_crash"];
    let frames: Vec<&str> =
        crash["backtrace"].as_array().unwrap().iter().map(|frame| frame.as_str().unwrap()).collect();
    let place = |name: &str, line: u32| {
        let at = frames.iter().position(|frame| frame.starts_with(name) && frame.contains(&format!("deep.c:{line})")));
        at.unwrap_or_else(|| panic!("no {name} at line {line}: {frames:?}"))
    };
    let (inner, callback, outer) = (place("innermost", 7), place("compare", 11), place("deep", 23));
    assert!(inner == 0 && inner < callback && callback < outer, "{frames:?}");
    assert_eq!(frames.len(), outer + 1, "nothing of the server: {frames:?}");
    let register = if cfg!(target_arch = "x86_64") { "rip" } else { "pc" };
    let value = crash["registers"][register].as_str().unwrap();
    assert!(value.starts_with("0x") && value.len() > 6, "{value}");
    assert_eq!((crash["version"].as_u64(), crash["place"].as_str()), (Some(1), Some("a handler (GET /deep)")));
    // A function of a library that ends the call has its caller.
    let told = || server.get("/mgnt/deep").text();
    // A process reports one crash only, so its successor must be in service first.
    eventually("the abort", || server.get("/up").status == 500 && told().contains("called abort()"));
    eventually("its caller", || told().contains("\"gives_up (deep.c:34)\",\"up (deep.c:40)\"]"));
    // In the log, and for the author; a client in production sees none of it (tests/production.rs).
    server.expect_log("#0 innermost (deep.c:7)");
    let shown = said(&server, &["show", "deep"]);
    assert!(shown.contains("in version 1: called abort()") && shown.contains("#1 gives_up (deep.c:34)"), "{shown}");
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
    let source = std::fs::read(dir.path().join("deep.c")).unwrap();
    assert_eq!(source, std::fs::read(root().join(DEEP)).unwrap());
    // What lies in a directory could lead elsewhere.
    let trap = tempfile::tempdir().unwrap();
    std::fs::write(trap.path().join("victim"), "as it was").unwrap();
    std::os::unix::fs::symlink(trap.path().join("victim"), trap.path().join("deep.c")).unwrap();
    let there = trap.path().to_str().unwrap();
    let (done, told) = cweb(&["debug", "deep", "--dir", there, "--server", &server.addr], &root(), &[]);
    assert!(!done && told.contains("not empty"), "{told}");
    assert_eq!(std::fs::read_to_string(trap.path().join("victim")).unwrap(), "as it was");
    // Without a name the server has one, and gdb gets the source under that.
    server.deploy(
        &std::fs::read_to_string(root().join(DEEP))
            .unwrap()
            .replace(".name = \"deep\"", ".name = \"bare\"")
            .replace("\"/", "\"/bare"),
    );
    said(&server, &["debug", "bare", "--dir", dir.path().join("bare").to_str().unwrap()]);
    assert!(dir.path().join("bare/module.c").exists());
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

/// Whether the kernel writes core files to a plain name, and the hard limit allows them.
fn core_files_are_plain() -> bool {
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let limit = Command::new("sh").args(["-c", "ulimit -Hc"]).output().unwrap();
    !pattern.trim().is_empty() && !pattern.contains(['/', '|', '@']) && limit.stdout != b"0\n"
}

#[test]
fn a_crash_leaves_a_core_file_that_gdb_reads() {
    let (dir, cores) = (std::sync::Arc::new(tempfile::tempdir().unwrap()), tempfile::tempdir().unwrap());
    let there = cores.path().join("kept");
    let args = ["--shards", "1", "--crash-limit", "0", "--core-files-max", "2", "--core-dir", there.to_str().unwrap()];
    let server = Server::on(&dir, &args, &[]);
    if support::isolation() == "none" {
        server.expect_log("--core-dir has no effect with --isolation none");
        return;
    }
    said(&server, &["deploy", DEEP]);
    if !core_files_are_plain() {
        println!("ignored: the kernel sends core files elsewhere, or the limit forbids them");
        server.expect_log("there will be no core files");
        assert!(server.get("/deep").status >= 500);
        return;
    }
    server.expect_log("including secrets");
    let files = |extension: &str| -> Vec<std::path::PathBuf> {
        let all = std::fs::read_dir(&there).unwrap().map(|entry| entry.unwrap().path());
        all.filter(|path| path.extension().unwrap() == extension).collect()
    };
    let crash = |number: usize| {
        assert!(server.get("/deep").status >= 500);
        eventually("the core file", || files("core").len() == number);
        eventually("the next process", || server.get("/fine").status == 200);
    };
    crash(1);
    let core = files("core").remove(0);
    let name = core.file_name().unwrap().to_str().unwrap().to_owned();
    let told = || server.get("/mgnt/deep").text();
    eventually("its report", || told().contains("innermost (deep.c:7)") && told().contains(&name));
    let told: serde_json::Value = serde_json::from_str(&told()).unwrap();
    let crashed = &told["last_crash"];
    assert!(name.starts_with("deep-20") && name.ends_with(&format!("Z-{}.core", crashed["pid"])), "{name}");
    assert_eq!(crashed["core"]["path"].as_str(), core.to_str());
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&core).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    // The report is the same as without a core file.
    assert!(crashed["what"].as_str().unwrap().starts_with("SIGSEGV at address 0x0"), "{crashed}");
    let frames = crashed["backtrace"].to_string();
    assert!(
        frames.contains("innermost (deep.c:7)") && frames.contains("compare") && frames.contains("deep ("),
        "{frames}"
    );
    // Another version is live by then: the core file has its own object.
    let other = std::fs::read_to_string(root().join(DEEP)).unwrap() + "\n// another version\n";
    let sources = tempfile::tempdir().unwrap();
    std::fs::write(sources.path().join("deep.c"), other).unwrap();
    let command = said(&server, &["debug", "deep", "--core", "--dir", sources.path().join("of").to_str().unwrap()]);
    said(&server, &["deploy", sources.path().join("deep.c").to_str().unwrap()]);
    if Command::new("gdb").arg("--version").output().is_ok() {
        let run = format!("{} -batch -ex bt -ex 'list innermost'", command.trim());
        let output = Command::new("sh").args(["-c", &run]).output().unwrap();
        let listed = String::from_utf8_lossy(&output.stdout);
        let finds =
            ["innermost", "compare", "deep (", "return *nowhere + add;"].iter().all(|words| listed.contains(words));
        assert!(finds, "{command}\n{listed}\n{}", String::from_utf8_lossy(&output.stderr));
    }
    let (done, text) = cweb(&["debug", "deep", "--core", "--server", &server.addr], &root(), &[]);
    assert!(!done && text.contains("has not crashed in its live version"), "{text}");
    // As many as there may be: then crashes are caught as without.
    crash(2);
    eventually("crashes without core files", || {
        let status = server.get("/deep").status;
        status == 500 && server.get("/mgnt/deep").text().contains("\"caught\":true")
    });
    assert_eq!(files("core").len(), 2);
    let scratch = dir.path().join("scratch/default");
    let left =
        || std::fs::read_dir(&scratch).unwrap().filter(|entry| entry.as_ref().unwrap().file_name() != "x").count();
    eventually("directories of processes that are gone are gone", || left() <= 2);
}
