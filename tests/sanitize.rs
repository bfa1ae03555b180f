//! `cweb deploy --sanitize`: modules that run under sanitizers on a server.

use crate::support::{Server, cweb, eventually, root};
use std::path::Path;
use std::sync::Arc;

fn run(server: &Server, args: &[&str]) -> (bool, String) {
    cweb(&[args, &["--server", &server.addr]].concat(), &root(), &[])
}

/// `cweb ARGS` that must succeed, or must not: what it says.
fn said(server: &Server, args: &[&str], succeeds: bool) -> String {
    let (done, said) = run(server, args);
    assert_eq!(done, succeeds, "{args:?}: {said}\n{}", server.log());
    said
}

const LIVE: &str = "tests/author_tests/live.c";

fn apart(dir: &Arc<tempfile::TempDir>) -> Server {
    Server::on(dir, &["--isolation", "process", "--shards", "1", "--crash-limit", "10"], &[])
}

#[test]
fn reports_come_to_the_log_and_to_those_who_ask() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server = apart(&dir);
    said(&server, &["deploy", LIVE], true);
    assert_eq!(server.get("/shift?by=40").status, 200);
    // A module that is deployed, by its name.
    let deployed = said(&server, &["deploy", "--sanitize", "address,undefined", "live"], true);
    assert!(deployed.contains("sanitized-live"), "{deployed}");
    assert_eq!(server.get("/copy?who=you").text(), "you");
    assert_eq!(server.get("/exit").status, 500);
    // Undefined behaviour is reported, and the module goes on.
    assert_eq!(server.get("/shift?by=40").status, 200);
    server.expect_log("[live] live.c:16:");
    let logs = || server.get("/mgnt/live/logs").text();
    eventually("the module's log has it", || logs().contains("runtime error: shift exponent 40"));
    let show = || said(&server, &["show", "live"], true);
    eventually("the report of the shift", || show().contains("live.c:16"));
    // An error of memory ends the process; the next one serves.
    assert!(server.get("/copy?who=somebody-long").status >= 500);
    server.expect_log("AddressSanitizer: heap-buffer-overflow");
    eventually("the report of the copy", || {
        let shown = show();
        shown.contains("heap-buffer-overflow") && shown.contains("in copy") && shown.contains("live.c:7")
    });
    eventually("the crash in the list", || {
        let list = server.get("/mgnt").text();
        list.contains("AddressSanitizer: heap-buffer-overflow") && list.contains("\"live\"")
    });
    eventually("the next process", || server.get("/copy?who=you").status == 200);
    assert!(said(&server, &["versions", "live"], true).contains("(sanitize address,undefined)"));
    // Without sanitizers it is back where it was.
    assert_eq!(server.get("/leak").text(), "lost");
    said(&server, &["deploy", "--sanitize", "none", "live"], true);
    server.expect_log("123 byte(s) in 1 object(s)");
    server.expect_log("in leak ");
    let shown = said(&server, &["show", "live"], true);
    assert!(shown.contains("domain     default") && !shown.contains("sanitize"), "{shown}");
    assert_eq!(server.get("/copy?who=you").text(), "you");
    // Leaks are told at the end of the server too, and what is sanitized is again after a restart.
    said(&server, &["deploy", "--sanitize", "address", LIVE], true);
    assert_eq!(server.get("/leak").text(), "lost");
    let log = server.stop();
    assert!(log.contains("LeakSanitizer") && log.contains("live.c:21"), "{log}");
    let server = apart(&dir);
    assert_eq!(server.get("/copy?who=you").text(), "you");
    assert!(server.get("/copy?who=somebody-long").status >= 500);
    server.expect_log("AddressSanitizer: heap-buffer-overflow");
}

#[test]
fn a_report_of_onload_comes_to_the_deployer() {
    let server = apart(&Arc::new(tempfile::tempdir().unwrap()));
    let work = tempfile::tempdir().unwrap();
    let source = |name: &str, body: &str| {
        let text = format!(
            "#include <cweb.h>\nstatic volatile int by = 40;\nstatic void load(struct cweb_context *c) {{ (void)c;\n{body}\n}}\n\
             export module_t config = {{.name = \"{name}\", .author = \"t\", .onload = load}};\n"
        );
        let path = work.path().join(format!("{name}.c"));
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    // A report that comes late is in the log alone, so another version is deployed. Its text differs.
    let mut attempt = 0;
    let mut deployed = |name: &str, sanitizer: &str, body: &str, succeeds: bool| {
        attempt += 1;
        let path = source(name, &format!("{body} /* {attempt} */"));
        said(&server, &["deploy", "--sanitize", sanitizer, &path], succeeds)
    };
    eventually("the report of an onload that goes on", || {
        let told = deployed("shifts", "undefined", "volatile int x = 1 << by; (void)x;", true);
        told.contains("runtime error: shift exponent 40")
    });
    let mut told = String::new();
    eventually("the report of an onload that ends its process", || {
        let body = "volatile char *p = malloc(4); p[by] = 1; free((void *)p);";
        told = deployed("writes", "address", body, false);
        told.contains("heap-buffer-overflow")
    });
    assert!(told.contains("in load"), "{told}");
    assert!(told.contains(":4"), "{told}");
}

#[test]
fn what_can_not_be_sanitized_is_refused_with_words() {
    let server = Server::with(&["--isolation", "none"]);
    let told = said(&server, &["deploy", "--sanitize", "address", LIVE], false);
    assert!(told.contains("needs a process of its own") && told.contains("--isolation process"), "{told}");
    let server = apart(&Arc::new(tempfile::tempdir().unwrap()));
    for (args, words) in [
        (&["--sanitize", "memory"][..], "there is no sanitizer"),
        (&["--sanitize", "thread"], "cweb test --tsan"),
        (&["--sanitize", "address -fplugin=x"], "there is no sanitizer"),
        (&["--sanitize", "address,thread"], "name address, undefined, or both"),
        (&["--sanitize", "address", "--domain", "x"], "cannot be used with"),
        (&["--domain", "sanitized-x"], "reserved for modules with a sanitizer"),
    ] {
        let told = said(&server, &[&["deploy"], args, &[LIVE]].concat(), false);
        assert!(told.contains(words), "{args:?}: {told}");
    }
    let told = said(&server, &["deploy", "--sanitize", "address", "absent"], false);
    assert!(told.contains("absent"), "{told}");
    let answer = server.post("/mgnt?domain=sanitized-live", &std::fs::read(root().join(Path::new(LIVE))).unwrap());
    assert!(answer.status >= 400 && answer.text().contains("sanitizer"), "{}", answer.text());
}
