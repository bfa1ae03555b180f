//! `cweb test`: tests that authors write for their modules, the fakes, the tools, and tests that misbehave.

use crate::support::{self, Server, root};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn module(name: &str) -> PathBuf {
    root().join("tests/author_tests").join(name)
}

/// `cweb ARGS` in `dir`: its exit code, and what it says. Tests of authors may take longer than usual on a busy machine.
fn cweb(dir: &Path, args: &[&str]) -> (i32, String) {
    let has_limit = args.first() != Some(&"test") || args.contains(&"--timeout-ms");
    let limit: &[&str] = if has_limit { &[] } else { &["--timeout-ms", "60000"] };
    let mut command = Command::new(env!("CARGO_BIN_EXE_cweb"));
    for name in ["CC", "CXX", "CWEB_LOG", "CWEB_SERVER"] {
        command.env_remove(name);
    }
    let output = command.args(args).args(limit).current_dir(dir).output().unwrap();
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
    let (code, said) = test(&module("hostile.c"), &["--junit", junit.to_str().unwrap()]);
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
            ("crashes", "hostile.c:30: crashes: the test failed: SIGSEGV"),
            ("aborts", "the test failed: called abort()"),
            ("exits", "the test called exit(0)"),
            ("ends_its_process", "ended with code 0 before the test did"),
            ("kills_itself", "ended by signal 9"),
            ("overflows_its_stack", "stack overflow"),
            ("prints_megabytes", "hostile.c:69: after all of it"),
            ("prints_megabytes", "more bytes are left out"),
            ("a_handler_crashes", ": crash: a handler (GET /crash) failed: SIGSEGV at address 0x0"),
            ("a_thread_fails", "hostile.c:86: on a thread"),
        ],
    );
    // What a module prints comes as lines.
    let printed = about(&said, "prints_megabytes");
    let line = printed.lines().find(|line| line.contains("xxxx")).unwrap();
    assert!(line.contains(" INFO ") && line.chars().all(|c| c.is_ascii_graphic() || c == ' '), "{}", &line[..100]);
    assert!(!said.contains('\u{1b}') && said.len() < 300_000, "{} bytes", said.len());
    assert!(fs::read_to_string(junit).unwrap().len() < 600_000);
    assert!(!Path::new("/tmp/cweb-test-hostile").exists());
    // These have a limit of their own, which is short only for them.
    let (code, said) = test(&module("endless.c"), &["--timeout-ms", "3000"]);
    assert_eq!(code, 1, "{said}");
    let ended = "did not end within 3000 ms";
    expect_failed(&said, &[("loops", ended), ("sleeps", ended)]);
}

#[test]
fn wrong_uses_and_builds_that_fail_have_an_exit_code_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    write("none.c", &support::constant("none", "/none", "x"));
    let tests = "#include <cweb_test.h>\nCWEB_TEST(x) { nonsense(); }\n";
    write("broken.c", &(tests.to_owned() + &support::constant("broken", "/broken", "x")));
    write("alone_test.c", tests);
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
        (&["test", "alone_test.c"], "has tests (CWEB_TEST) and no module"),
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

/// An uncaught exception has its type and its text, also after others, and faults have the author's names and lines.
#[test]
fn exceptions_and_faults_are_told_with_their_places() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let handler = |name: &str, body: &str| {
        format!(
            "static int {name}(struct cweb_context *c, http_request_t *q, http_response_t *r) {{ (void)c, (void)q, (void)r;\n{body}\nreturn 0; }}\n"
        )
    };
    let routes = |names: &[&str]| {
        let all: Vec<String> = names.iter().map(|name| format!("{{\"/{name}\", \"GET\", {name}, NONE}}")).collect();
        let (all, size) = (all.join(", "), names.len());
        format!(
            "export module_t config = {{.name = \"thrower\", .author = \"t\", .routes = {{{all}}}, .size = {size}}};\n"
        )
    };
    let ask = |name: &str| format!("cweb_test_request(\"GET\", \"/{name}\", NULL, NULL);");
    let names = ["boom", "bam", "text", "number", "ended"];
    let source = [
        "#include <cweb.h>\n#include <stdexcept>\n#include <string>\n#include <thread>\n".to_owned(),
        "namespace shop { struct Cart { void add(int); }; __attribute__((noinline)) void Cart::add(int n) {\n"
            .to_owned(),
        "if (n) throw std::runtime_error(\"no room\"); } }\n".to_owned(),
        "#include \"../inc/deep.h\"\n".to_owned(),
        handler("boom", "shop::Cart().add(1);"),
        handler("bam", "throw std::out_of_range(\"second\\nline\");"),
        handler("text", "throw \"plain\";"),
        handler("number", "throw 5;"),
        handler("ended", "std::terminate();"),
        handler("deep", "down((volatile int *)8);"),
        routes(&[&names[..], &["deep"]].concat()),
    ];
    write("p/src/main.cpp", &source.concat());
    write("p/inc/deep.h", "static inline void down(volatile int *at) {\n  *at = 1;\n}\n");
    let all: Vec<String> = names.iter().map(|name| ask(name)).collect();
    let tests = format!(
        "#include <cweb_test.h>\nCWEB_TEST(throws) {{ {} }}\nCWEB_TEST(crashes_below) {{ {} }}\nCWEB_TEST(measures) {{\n  \
         const char *volatile from = (const char *)8; volatile size_t length = strlen(from); (void)length;\n}}\n",
        all.join(" "),
        ask("deep")
    );
    write("p/tests/all.c", &tests);
    let (code, said) = cweb(dir.path(), &["test", "p"]);
    assert_eq!(code, 1, "{said}");
    expect_failed(
        &said,
        &[
            (
                "throws",
                "src/main.cpp:6: shop::Cart::add: a handler (GET /boom) failed: uncaught exception std::runtime_error: no room",
            ),
            ("throws", "bam: a handler (GET /bam) failed: uncaught exception std::out_of_range: second line"),
            ("throws", "text: a handler (GET /text) failed: uncaught exception char const*: plain"),
            ("throws", "number: a handler (GET /number) failed: uncaught exception int: 5"),
            ("throws", "ended: a handler (GET /ended) failed: called std::terminate()"),
            ("crashes_below", "inc/deep.h:2: down: a handler (GET /deep) failed: SIGSEGV at address 0x8"),
            ("measures", "tests/all.c:5: measures: the test failed: SIGSEGV at address 0x8"),
        ],
    );
    // A single source and its tests keep the directory that the command names.
    write(
        "sub/one.c",
        &("#include <cweb.h>\n".to_owned() + &handler("one", "*(volatile int *)8 = 1;") + &routes(&["one"])),
    );
    write(
        "sub/one_test.c",
        &format!("#include <cweb_test.h>\nCWEB_TEST(a) {{ {} CWEB_ASSERT_EQ(1, 2); }}\n", ask("one")),
    );
    let (_, said) = cweb(dir.path(), &["test", "sub/one.c"]);
    expect_failed(
        &said,
        &[("a", "      sub/one.c:3: one: a handler"), ("a", "      sub/one_test.c:2: 1 is 1, expected 2")],
    );
    // A constructor: the check, the deployment and the tests tell the cause.
    let failing = "struct T { T() { throw std::runtime_error(\"no configuration\"); } };\nstatic T t;\n";
    let hello = handler("hello", "");
    write(
        "c.cpp",
        &["#include <cweb_test.h>\n#include <stdexcept>\n", failing, &hello, &routes(&["hello"]), "CWEB_TEST(a) {}\n"]
            .concat(),
    );
    let server = Server::start();
    for args in [vec!["check", "c.cpp"], vec!["deploy", "c.cpp", "--server", &server.addr], vec!["test", "c.cpp"]] {
        let (code, said) = cweb(dir.path(), &args);
        assert!(
            code != 0 && said.contains("uncaught exception std::runtime_error: no configuration"),
            "{args:?}: {said}"
        );
    }
    // A server tells it in the answer, the log and the crash report, each time.
    write("d.cpp", &[source[0].clone(), source[5].clone(), source[8].clone(), routes(&["bam", "ended"])].concat());
    let (code, said) = cweb(dir.path(), &["deploy", "d.cpp", "--server", &server.addr]);
    assert_eq!(code, 0, "{said}");
    for _ in 0..3 {
        for (path, words) in
            [("/ended", "called std::terminate()"), ("/bam", "uncaught exception std::out_of_range: second line")]
        {
            let answer = server.get(path);
            assert!(answer.status == 500 && answer.text().contains(words), "{}", answer.text());
        }
    }
    server.expect_log("uncaught exception std::out_of_range: second line");
}

/// A fault in a `catch`, and an exception whose `what()` or destructor throws, end their own call only.
#[test]
fn an_exception_ends_with_its_call() {
    let source = r#"#include <cweb.h>
#include <exception>
struct Deep : std::exception { const char *what() const noexcept override { throw Deep(); } };
struct Last { ~Last() { throw 1; } };
#define HANDLER(name, ...) static int name(struct cweb_context *c, http_request_t *q, http_response_t *r) { \
  (void)c, (void)q, (void)r; __VA_ARGS__ return 0; }
HANDLER(caught, try { throw 7; } catch (...) { *(volatile int *)8 = 1; })
HANDLER(current, snprintf(r->body, HTTP_RESPONSE_SIZE, "%d %d", std::current_exception() != nullptr, std::uncaught_exceptions());)
HANDLER(deep, throw Deep();)
HANDLER(last, throw Last();)
export module_t config = {.name = "catcher", .author = "t", .routes = {{"/caught", "GET", caught, NONE},
  {"/current", "GET", current, NONE}, {"/deep", "GET", deep, NONE}, {"/last", "GET", last, NONE}}, .size = 4};
"#;
    // Without a process of its own, the thread that had the fault has the next call, too.
    let server = Server::with(&["--isolation", "none", "--shards", "1", "--executors-max", "1"]);
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("e.cpp"), source).unwrap();
    let (code, said) = cweb(dir.path(), &["deploy", "e.cpp", "--server", &server.addr]);
    assert_eq!(code, 0, "{said}");
    for _ in 0..3 {
        for (path, words) in [
            ("/caught", "SIGSEGV at address 0x8"),
            ("/deep", "uncaught exception Deep"),
            ("/last", "uncaught exception Last"),
        ] {
            let answer = server.get(path);
            assert!(answer.status == 500 && answer.text().contains(words), "{path}: {}", answer.text());
            assert_eq!(server.get("/current").text(), "0 0", "after {path}");
        }
    }
}
