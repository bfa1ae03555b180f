//! `cweb test`: tests that authors write for their modules, the fakes, the tools, and tests that misbehave.

use crate::support::{self, Server, root};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn module(name: &str) -> PathBuf {
    root().join("tests/author_tests").join(name)
}

/// `cweb ARGS` in `dir`: its exit code, and what it says.
fn cweb(dir: &Path, args: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cweb"));
    for name in ["CC", "CXX", "CWEB_LOG", "CWEB_SERVER"] {
        command.env_remove(name);
    }
    let output = command.args(args).current_dir(dir).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8_lossy(&said).into_owned())
}

fn test(target: &Path, args: &[&str]) -> (i32, String) {
    cweb(&root(), &[&["test", target.to_str().unwrap()], args].concat())
}

/// What is said of the test `name`: its line and those that belong to it.
fn about(said: &str, name: &str) -> String {
    let is_of = |line: &&str| line.split_whitespace().nth(1).is_some_and(|word| word.trim_end_matches(':') == name);
    let mut lines = said.lines().skip_while(|line| line.starts_with(' ') || !is_of(line));
    let first = lines.next().unwrap_or_else(|| panic!("nothing about {name}: {said}"));
    [first].into_iter().chain(lines.take_while(|line| line.starts_with("   "))).collect::<Vec<_>>().join("\n")
}

fn expect_passed(said: &str, names: &[&str]) {
    for name in names {
        assert!(about(said, name).starts_with("ok "), "{}\n{said}", about(said, name));
    }
}

fn expect_failed(said: &str, expected: &[(&str, &str)]) {
    for (name, words) in expected {
        let about = about(said, name);
        assert!(about.starts_with("FAIL ") && about.contains(words), "{name}: {words}\n{about}\n\n{said}");
    }
}

#[test]
fn handlers_jobs_sockets_streams_and_files_are_tested_without_a_server() {
    let dir = tempfile::tempdir().unwrap();
    let junit = dir.path().join("report.xml");
    let (code, said) = test(&module("shop"), &["--junit", junit.to_str().unwrap(), "--coverage"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("8 passed, 0 failed, 1 skipped"), "{said}");
    assert!(said.contains("skip  this_one_does_not_run: there is no printer"), "{said}");
    // The table of lines: tests are not in it.
    let row = |file: &str| said.lines().find(|line| line.starts_with(file)).unwrap_or_default().to_owned();
    assert!(row("src/price.c").contains("100.0 %") && row("src/main.c").contains('%'), "{said}");
    assert!(!said.contains("tests/items.c  "), "{said}");
    let xml = fs::read_to_string(junit).unwrap();
    assert!(xml.contains("tests=\"9\" failures=\"0\" errors=\"0\" skipped=\"1\""), "{xml}");
    assert!(xml.contains("name=\"items_are_kept\" file=\"tests/items.c\""), "{xml}");
    // A part of them; lists; and what is wrong.
    let (code, said) = test(&module("shop"), &["--filter", "streams", "--jobs", "1"]);
    assert!(code == 0 && said.contains("1 passed, 0 failed"), "{said}");
    let (code, said) = test(&module("shop"), &["--list", "--filter", "files"]);
    assert!(code == 0 && said.contains("files_are_answers_too (tests/items.c:"), "{said}");
    let (code, said) = test(&module("shop"), &["--filter", "no-such-test"]);
    assert!(code == 2 && said.contains("no name of the 9 tests contains"), "{said}");
}

#[test]
fn a_test_that_misbehaves_fails_alone() {
    let dir = tempfile::tempdir().unwrap();
    let junit = dir.path().join("report.xml");
    let (code, said) = test(&module("hostile.c"), &["--timeout-ms", "3000", "--junit", junit.to_str().unwrap()]);
    assert_eq!(code, 1, "{said}");
    expect_passed(
        &said,
        &[
            "a_first_one_passes",
            "forks",
            "runs_a_program",
            "writes_elsewhere",
            "connects",
            "a_handler_exits",
            "a_last_one_passes",
        ],
    );
    expect_failed(
        &said,
        &[
            ("crashes", "SIGSEGV at address 0x8"),
            ("crashes", "hostile.c:30)"),
            ("aborts", "called abort()"),
            ("exits", "the test called exit(0)"),
            ("ends_its_process", "ended with code 0 before the test did"),
            ("kills_itself", "ended by signal 9"),
            ("loops", "did not end within 3000 ms"),
            ("sleeps", "did not end within 3000 ms"),
            ("overflows_its_stack", "stack overflow"),
            ("prints_megabytes", "hostile.c:74: after all of it"),
            ("prints_megabytes", "more bytes are left out"),
            ("a_handler_crashes", "a handler (GET /crash) failed: SIGSEGV at address 0x0 at crash+0x"),
            ("a_thread_fails", "hostile.c:91: on a thread"),
        ],
    );
    // What a module prints comes as lines.
    let printed = about(&said, "prints_megabytes");
    let line = printed.lines().find(|line| line.contains("xxxx")).unwrap();
    assert!(line.contains(" INFO ") && line.chars().all(|c| c.is_ascii_graphic() || c == ' '), "{}", &line[..100]);
    assert!(!said.contains('\u{1b}') && said.len() < 300_000, "{} bytes", said.len());
    assert!(fs::read_to_string(junit).unwrap().len() < 600_000);
    assert!(!Path::new("/tmp/cweb-test-hostile").exists());
}

#[test]
fn wrong_uses_and_builds_that_fail_have_an_exit_code_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    write("none.c", &support::constant("none", "/none", "x"));
    write("broken.c", "#include <cweb_test.h>\nCWEB_TEST(x) { nonsense(); }\n");
    write(
        "constructor.c",
        &format!(
            "{}\n#include <cweb_test.h>\n__attribute__((constructor)) static void c(void) {{ abort(); }}\nCWEB_TEST(x) {{}}\n",
            support::constant("c", "/c", "x")
        ),
    );
    for (args, words) in [
        (&["test", "none.c"][..], "none.c has no tests: #include <cweb_test.h>"),
        (&["test", "broken.c"], "broken.c:2:"),
        (&["test", "constructor.c"], "while it was loaded"),
        (&["test", "absent.c"], "absent.c"),
        (&["test"], "required"),
        (&["test", "none.c", "--tsan", "--asan"], "cannot be used with"),
        (&["test", "none.c", "--timeout-ms", "0"], "--timeout-ms"),
        (&["test", "--fplugin=x", "none.c"], "unexpected argument"),
    ] {
        let (code, said) = cweb(dir.path(), args);
        assert!(code == 2 && said.contains(words), "{args:?}: {code} {said}");
    }
    // A pragma does not get past the list of flags.
    write("flags.c", "#pragma cweb cflags(\"-DCWEB_TESTING\")\n#include <cweb_test.h>\nCWEB_TEST(x) {}\n");
    let (code, said) = cweb(dir.path(), &["test", "flags.c"]);
    assert!(code == 2 && said.contains("not allowed"), "{said}");
    // What isn't installed is told before anything is built.
    let without = |variable: &str, value: &str, args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cweb"));
        let output = command.args(args).current_dir(dir.path()).env(variable, value).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = without("PATH", "/nowhere", &["test", "none.c", "--valgrind"]);
    assert!(said.contains("valgrind is not installed") && said.contains("apt-get install valgrind"), "{said}");
    let said = without("PATH", "/nowhere", &["test", "none.c", "--coverage"]);
    assert!(said.contains("gcov is not installed"), "{said}");
    let said = without("CC", "/bin/true", &["test", "none.c", "--tsan"]);
    assert!(said.contains("the sanitizer thread is not installed"), "{said}");
}

#[test]
fn sanitizers_find_what_tests_do_not() {
    let (code, said) = test(&module("faulty.c"), &["--asan", "--ubsan", "--filter", "s"]);
    assert_eq!(code, 1, "{said}");
    expect_failed(
        &said,
        &[
            ("overflows", "AddressSanitizer: heap-buffer-overflow"),
            ("overflows", "faulty.c:10"),
            ("leaks", "memory leaks"),
            ("leaks", "123 byte(s) in 1 object(s)"),
            ("leaks", "faulty.c:18"),
            ("shifts", "faulty.c:26:"),
            ("shifts", "runtime error: shift exponent 40"),
        ],
    );
    let (code, said) = test(&module("faulty.c"), &["--asan", "--ubsan", "--filter", "fine"]);
    assert_eq!(code, 0, "{said}");
    let (code, said) = test(&module("shop"), &["--asan", "--ubsan"]);
    assert!(code == 0 && said.contains("8 passed"), "{said}");
}

#[test]
fn threads_that_race_are_found() {
    let (code, said) = test(&module("faulty.c"), &["--tsan", "--filter", "race"]);
    assert_eq!(code, 1, "{said}");
    expect_failed(&said, &[("races", "ThreadSanitizer: data race"), ("races", "faulty.c:44")]);
    let (code, said) = test(&module("faulty.c"), &["--tsan", "--filter", "fine"]);
    assert_eq!(code, 0, "{said}");
}

#[test]
fn valgrind_runs_tests_too() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("ignored: valgrind is not installed");
        return;
    }
    let (code, said) = test(&module("faulty.c"), &["--valgrind", "--filter", "unset"]);
    assert_eq!(code, 1, "{said}");
    expect_failed(&said, &[("reads_unset", "Conditional jump"), ("reads_unset", "unset (")]);
    assert!(!said.contains("cweb::") && !said.contains("Thread "), "frames of the author alone: {said}");
}

#[test]
fn starters_have_tests_that_pass_and_are_deployed_without_them() {
    let dir = tempfile::tempdir().unwrap();
    let expect_ok = |args: &[&str]| {
        let (code, said) = cweb(dir.path(), args);
        assert_eq!(code, 0, "{args:?}: {said}");
    };
    expect_ok(&["new", "plain"]);
    expect_ok(&["test", "plain.c"]);
    for template in ["http", "stream", "websocket", "job", "image", "page"] {
        expect_ok(&["new", template, "--template", template]);
        expect_ok(&["test", template]);
    }
    // A file beside the source counts too.
    fs::write(dir.path().join("beside.c"), support::constant("beside", "/beside", "x")).unwrap();
    let text = "#include <cweb_test.h>\nCWEB_TEST(x) { CWEB_ASSERT_STR(cweb_test_request(\"GET\", \"/beside\", NULL, NULL)->body, \"y\"); }\n";
    fs::write(dir.path().join("beside_test.c"), text).unwrap();
    let (code, said) = cweb(dir.path(), &["test", "beside.c"]);
    assert!(code == 1 && said.contains("beside_test.c:2: "), "{said}");
    assert!(said.contains("is \"x\", expected \"y\""), "{said}");
    // No code and no text of a test is in what a server loads.
    let server = Server::start();
    for target in ["plain.c", "http"] {
        expect_ok(&["deploy", target, "--server", &server.addr]);
    }
    assert_eq!(server.get("/plain").text(), "Hello, world!\n");
    let mut objects = Vec::new();
    let mut dirs = vec![server.dir.path().to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "so") {
                objects.push(path);
            }
        }
    }
    assert!(!objects.is_empty());
    for object in objects {
        let bytes = fs::read(&object).unwrap();
        let has = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
        assert!(has(b"cweb_module_abi"), "{}", object.display());
        assert!(!has(b"greets_who_is_named") && !has(b"Hello, you!"), "{}", object.display());
    }
}
