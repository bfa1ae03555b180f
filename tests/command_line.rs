//! The command line, through the real binary: precedence of settings, deploy tools, scripts.

use crate::support::{self, Server};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

const GREETING: &str = r#"#include <cweb.h>
static int f(struct cweb_context *c, http_request_t *q, http_response_t *r) {
    (void)c; (void)q;
    return cweb_respond(r, HTTP_200_OK, "text/plain", "hi");
}
export module_t config = {.name = "greet", .author = "t", .routes = {{"/greet", "GET", f, NONE}}, .size = 1};
"#;

/// Runs `cweb ARGS` in `dir` with nothing of the tester's environment that would matter.
fn cweb(dir: &Path, args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cweb"));
    for name in ["PORT", "CWEB_ADMIN_KEY", "CWEB_SERVER", "CWEB_SHARDS", "CWEB_LOG"] {
        command.env_remove(name);
    }
    command.current_dir(dir).args(args).envs(env.iter().copied()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn variables_of_the_server_do_not_touch_other_commands() {
    let dir = tempfile::tempdir().unwrap();
    let wrong = [("PORT", "abc"), ("CWEB_SILENT", "perhaps")];
    assert!(cweb(dir.path(), &["new", "x"], &wrong).status.success());
    let refused = cweb(dir.path(), &["serve"], &wrong);
    let problems = text(&refused.stderr);
    assert!(!refused.status.success());
    assert!(problems.contains("PORT: invalid value 'abc'") && problems.contains("CWEB_SILENT"), "{problems}");
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let empty = [("PORT", ""), ("CWEB_SHARDS", ""), ("CWEB_SILENT", ""), ("CWEB_ADMIN_KEY", ""), ("CWEB_LOG", "")];
    Server::on(&dir, &[], &empty).stop();
}

#[test]
fn the_file_may_say_where_the_data_is() {
    let dir = tempfile::tempdir().unwrap();
    // A directory of modules that is none ends the server once it has entered its data directory.
    let settings = "data_dir = \"elsewhere\"\nlisten = [\"127.0.0.1:0\"]\nmodule_dir = \"settings.toml\"";
    std::fs::write(dir.path().join("settings.toml"), settings).unwrap();
    let run = |args: &[&str], env: &[(&str, &str)]| {
        let args = [&["serve", "--config", "settings.toml"], args].concat();
        let output = cweb(dir.path(), &args, env);
        assert!(!output.status.success() && text(&output.stderr).contains("settings.toml"), "{}", text(&output.stderr));
    };
    run(&[], &[]);
    run(&[], &[("CWEB_DATA_DIR", "by_env")]);
    run(&["--data-dir", "by_flag"], &[("CWEB_DATA_DIR", "by_env_too")]);
    for (name, is_there) in [("elsewhere", true), ("by_env", true), ("by_flag", true), ("by_env_too", false)] {
        assert_eq!(dir.path().join(name).is_dir(), is_there, "{name}");
    }
}

#[test]
fn the_log_names_a_target_for_what_modules_print_only() {
    let server = Server::start();
    let printing = GREETING.replace("(void)c;", "(void)c; cweb_log(CWEB_LOG_WARN, \"said by greet\");");
    server.deploy(&printing);
    assert_eq!(server.get("/greet").text(), "hi");
    server.expect_log("module: [greet] said by greet");
    server.expect_log("INFO module greet is deployed");
    let log = server.log();
    assert!(!log.contains("cweb::"), "{log}");
    let dir = tempfile::tempdir().unwrap();
    let refused = cweb(dir.path(), &["serve", "--port", "0"], &[("CWEB_LOG", "info,=nonsense=")]);
    assert!(text(&refused.stderr).contains("CWEB_LOG"), "{}", text(&refused.stderr));
}

#[test]
fn the_help_has_no_settings_of_the_server_among_the_commands_but_serve_has_all() {
    let dir = tempfile::tempdir().unwrap();
    let help = |args: &[&str]| text(&cweb(dir.path(), args, &[("PORT", "abc")]).stdout);
    assert!(!help(&["help"]).contains("--port"));
    let serve = help(&["serve", "--help"]);
    assert!(serve.contains("--job-retention") && serve.contains("[env: PORT]"), "{serve}");
    assert_eq!(help(&["--version"]), format!("cweb {}\n", env!("CARGO_PKG_VERSION")));
    // Every setting is documented with its variable.
    let guide = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md")).unwrap();
    let names = serve.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_')));
    for name in names.filter(|word| word.starts_with("--") || word.starts_with("CWEB_")) {
        assert!(guide.contains(&format!("`{name}")), "{name} is not in docs/operations.md");
    }
}

#[test]
fn flags_beat_the_environment_and_it_beats_the_file() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    // Each layer would keep the server from starting; the one above has to win.
    std::fs::write(dir.path().join("cweb.toml"), "pipeline_max = 0\nexecutors_max = 0").unwrap();
    let env = [("CWEB_SHARDS", "0"), ("CWEB_MAX_PIPELINE", "8"), ("CWEB_SHUTDOWN_FORCE", "1")];
    Server::on(&dir, &["--shards", "1", "--executors-max", "2"], &env).stop();

    let refused = cweb(dir.path(), &["serve", "--port", "0"], &[("CWEB_SHARDS", "0")]);
    let problems = text(&refused.stderr);
    assert!(!refused.status.success());
    for name in ["--shards", "--pipeline-max", "--executors-max"] {
        assert!(problems.contains(name), "{name} in {problems}");
    }
}

#[test]
fn deploys_lists_and_removes() {
    let server = Server::start();
    let (dir, url) = (tempfile::tempdir().unwrap(), format!("http://{}", server.addr));
    let run = |args: &[&str]| cweb(dir.path(), args, &[("CWEB_SERVER", url.as_str())]);
    std::fs::write(dir.path().join("greet.c"), GREETING).unwrap();
    std::fs::write(dir.path().join("bad.c"), "#include <cweb.h>\nint x = nonsense;\n").unwrap();

    // One bad file does not keep the good one from being deployed, but the command fails and shows gcc's words.
    let output = run(&["deploy", "bad.c", "greet.c"]);
    let shown = text(&output.stdout);
    assert!(!output.status.success());
    assert!(shown.contains("nonsense") && shown.contains("1 of 2 deployed"), "{shown}");
    assert!(shown.contains("\nbad.c:2:9: error") && !shown.contains("module.c"), "{shown}");
    assert!(!shown.contains('\x1b'), "no colours into a pipe: {shown}");
    assert_eq!(server.get("/greet").text(), "hi");

    let list = run(&["modules"]);
    assert!(list.status.success() && text(&list.stdout).contains("/greet"), "{}", text(&list.stdout));
    assert!(run(&["modules", "remove", "greet"]).status.success());
    assert!(!run(&["modules", "remove", "greet"]).status.success());
    assert_eq!(server.get("/greet").status, 404);
}

#[test]
fn deploys_what_routes_ini_lists() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    std::fs::write(dir.path().join("sub/greet.c"), GREETING).unwrap();
    // A directory is a project.
    std::fs::create_dir_all(dir.path().join("sub/shop/src")).unwrap();
    std::fs::write(dir.path().join("sub/shop/src/main.c"), support::constant("shop", "/shop", "open")).unwrap();
    let ini =
        format!("; where\nserver_url=http://{}\n\n[modules]\n# relative to this file\ngreet.c\nshop\n", server.addr);
    std::fs::write(dir.path().join("sub/routes.ini"), ini).unwrap();
    let output = cweb(dir.path(), &["deploy", "--config", "sub/routes.ini"], &[]);
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    assert_eq!([server.get("/greet").text(), server.get("/shop").text()], ["hi", "open"]);
    assert!(!cweb(dir.path(), &["deploy"], &[]).status.success(), "there is no routes.ini here");
}

#[test]
fn a_server_that_is_not_there_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("greet.c"), GREETING).unwrap();
    // Bound, so that no other test gets the port, and nobody listens there.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let addr = socket.local_addr().unwrap().as_socket().unwrap();
    let output = cweb(dir.path(), &["deploy", "greet.c", "--server", &format!("http://{addr}")], &[]);
    assert!(!output.status.success());
    assert!(text(&output.stdout).contains("cweb serve"), "{}", text(&output.stdout));
}

#[test]
fn a_new_module_deploys_as_it_is_and_overwrites_nothing() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    assert!(cweb(dir.path(), &["new", "first"], &[]).status.success());
    let again = cweb(dir.path(), &["new", "first"], &[]);
    assert!(!again.status.success() && text(&again.stderr).contains("first.c exists already"), "{again:?}");
    let set_of =
        |name: &str| cweb(dir.path(), &["config", "list", name, "--server", &format!("http://{}", server.addr)], &[]);
    let unknown = set_of("first");
    assert!(
        !unknown.status.success() && text(&unknown.stderr).contains("there is no module named first"),
        "{unknown:?}"
    );
    assert!(!cweb(dir.path(), &["new", "../evil"], &[]).status.success());
    let output = cweb(dir.path(), &["deploy", "first.c", "--server", &format!("http://{}", server.addr)], &[]);
    assert!(output.status.success(), "{}", text(&output.stdout));
    assert_eq!(server.get("/first?who=you").text(), "Hello, you!\n");
    let known = set_of("first");
    assert!(
        known.status.success() && text(&known.stderr) == "module first has no settings and no secrets\n",
        "{known:?}"
    );
}

#[test]
fn the_shell_client_does_the_same() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("greet.c"), GREETING).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/cweb");
    let run = |args: &[&str]| {
        let url = format!("http://{}", server.addr);
        let mut command = Command::new("sh");
        command.arg(&script).args(args).current_dir(dir.path()).env("CWEB_SERVER", url).env_remove("CWEB_ADMIN_KEY");
        command.output().unwrap()
    };
    let deployed = run(&["deploy", "greet.c"]);
    assert!(deployed.status.success(), "{}", text(&deployed.stderr));
    let said = text(&deployed.stdout);
    assert!(said.starts_with("deployed greet ") && said.contains(&format!("GET http://{}/", server.addr)), "{said}");
    assert!(text(&run(&["modules"]).stdout).contains("\"greet\""));
    std::fs::write(dir.path().join("bad.c"), "int x = nonsense;\n").unwrap();
    let refused = text(&run(&["deploy", "bad.c"]).stderr);
    assert!(refused.contains("\nbad.c:1:9: error"), "{refused}");
    assert!(run(&["remove", "greet"]).status.success());
    assert!(!run(&["remove", "greet"]).status.success());
}

#[test]
fn every_script_is_valid_shell() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seen = 0;
    for dir in ["scripts", ".ci", "."] {
        for entry in std::fs::read_dir(root.join(dir)).unwrap() {
            let path = entry.unwrap().path();
            let Ok(source) = std::fs::read_to_string(&path) else { continue };
            let shell = match source.lines().next() {
                Some(line) if line.starts_with("#!") && line.ends_with("bash") => "bash",
                Some(line) if line.starts_with("#!") && line.ends_with("sh") => "sh",
                _ if path.extension().is_some_and(|extension| extension == "sh") => "sh",
                _ => continue,
            };
            let output = Command::new(shell).arg("-n").arg(&path).output().unwrap();
            assert!(output.status.success(), "{}: {}", path.display(), text(&output.stderr));
            seen += 1;
        }
    }
    assert!(seen >= 6, "only {seen} scripts found");
}

#[test]
fn a_command_whose_output_nobody_reads_ends_without_a_word() {
    let command =
        format!("{} check example/plaintext.c | true; echo \"${{PIPESTATUS[0]}}\"", env!("CARGO_BIN_EXE_cweb"));
    let output = std::process::Command::new("bash").args(["-c", &command]).output().unwrap();
    let (status, told) = (text(&output.stdout), text(&output.stderr));
    assert!(told.is_empty() && ["0", "141"].contains(&status.trim()), "{status} {told}");
}

#[test]
fn files_with_tests_and_no_module_are_skipped() {
    let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
    let run = |args: &[&str]| {
        let output = cweb(dir.path(), args, &[("CWEB_SERVER", server.addr.as_str())]);
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    let tests = "#include <cweb_test.h>\nCWEB_TEST(greets) { CWEB_ASSERT_EQ(1, 1); }\n";
    std::fs::write(dir.path().join("greet.c"), GREETING).unwrap();
    std::fs::write(dir.path().join("greet_test.c"), tests).unwrap();
    // A module may have this name, and a module may have its tests in its source.
    std::fs::write(dir.path().join("speed_test.c"), support::constant("speed", "/speed", "fast") + tests).unwrap();
    let files = ["greet.c", "greet_test.c", "speed_test.c"];
    let (code, said) = run(&[&["deploy"], &files[..]].concat());
    assert!(code == Some(0) && said.contains("2 of 2 deployed"), "{said}");
    assert!(said.contains("skipped greet_test.c: the file has tests and no module; cweb test runs them"), "{said}");
    assert_eq!([server.get("/greet").text(), server.get("/speed").text()], ["hi", "fast"]);
    let (code, said) = run(&[&["check"], &files[..]].concat());
    assert!(code == Some(0) && said.contains("skipped greet_test.c: ") && said.contains("ok speed_test.c"), "{said}");
    // A pipe can be read only once.
    let piped = "cat greet.c | \"$0\" check /dev/stdin";
    let output = Command::new("sh").args(["-c", piped, env!("CARGO_BIN_EXE_cweb")]).current_dir(dir.path()).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", text(&output.stdout) + &text(&output.stderr));
    let (code, said) = run(&["deploy", "greet_test.c"]);
    assert!(code == Some(1) && said.contains("greet_test.c: the file has tests and no module"), "{said}");
    // A client that sends the file gets the reason from the server.
    let answer = server.post("/mgnt", tests.as_bytes());
    assert!(answer.status == 422 && answer.text().contains("has tests (CWEB_TEST) and no module"), "{}", answer.text());
}

#[test]
fn a_module_has_its_own_name_in_all_messages() {
    let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
    let run = |args: &[&str]| {
        let output = cweb(dir.path(), args, &[("CWEB_SERVER", server.addr.as_str())]);
        text(&output.stdout) + &text(&output.stderr)
    };
    std::fs::write(dir.path().join("n.c"), support::constant("größe", "/n", "x")).unwrap();
    let said = run(&["deploy", "n.c"]);
    assert!(said.contains("n.c: module größe (") && said.contains("/mgnt/gr%C3%B6%C3%9Fe"), "{said}");
    assert!(run(&["versions", "größe"]).contains("live"), "{}", run(&["versions", "größe"]));
    for name in [".", ".."] {
        std::fs::write(dir.path().join("n.c"), support::constant(name, "/n", "x")).unwrap();
        let said = run(&["deploy", "n.c"]);
        assert!(said.contains("refused") && said.contains("give the module another name"), "{said}");
        std::fs::write(dir.path().join("n.c"), support::constant("n", "/n", "x")).unwrap();
        let said = run(&["deploy", "n.c", "--domain", name]);
        assert!(said.contains("a domain's name is 1 to 64"), "{said}");
    }
}
