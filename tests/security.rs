//! What a source can't do: to the files of the server by being compiled, to the server by being inspected.

use crate::support::{self, Response, Server, constant, module};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

const HINT: &str = "the compiler may only read /usr, /lib and the SDK";
const LIMITS: &str = "the compiler is limited to";
const SECRET: &str = "tops3cret";
const ADMIN_KEY: &str = "0123456789abcdef0123456789abcdef";

/// A server with one module and secrets in a data directory that is closed to others.
fn server() -> Server {
    server_with(&[])
}

/// The same with `limits`, in which the module need not be compiled.
fn server_with(limits: &[&str]) -> Server {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o700)).unwrap();
    let env = [("CWEB_ADMIN_KEY", ADMIN_KEY), ("OTHER_SECRET", SECRET)];
    let server = Server::on(&dir, &[], &env);
    for (name, mode) in [("closed.key", 0o600), ("open.key", 0o644)] {
        fs::write(dir.path().join(name), SECRET).unwrap();
        fs::set_permissions(dir.path().join(name), PermissionsExt::from_mode(mode)).unwrap();
    }
    let kept = deploy(&server, &constant("keep", "/keep", "kept"));
    assert_eq!(kept.status, 200, "{}\n{}", kept.text(), server.log());
    if limits.is_empty() {
        return server;
    }
    server.stop();
    Server::on(&dir, limits, &env)
}

fn deploy(server: &Server, source: &str) -> Response {
    let authorization = format!("Bearer {ADMIN_KEY}");
    let headers = [("Authorization", authorization.as_str())];
    server.connect().request("POST", "/mgnt", &headers, source.as_bytes())
}

/// Deploys `source` and expects a refusal that says one of `texts`, tells no secret and leaves nothing behind.
fn refused(server: &Server, source: &str, texts: &[&str]) {
    let response = deploy(server, source);
    let text = response.text();
    assert_eq!(response.status, 422, "{text}\n{source}");
    assert!(texts.iter().any(|wanted| text.contains(wanted)), "none of {texts:?} is in: {text}");
    for secret in [SECRET, ADMIN_KEY, "root:", "daemon:"] {
        assert!(!text.contains(secret), "{text}");
    }
    assert_eq!(server.get("/keep").text(), "kept");
    let scratch = server.dir.path().join("modules/.scratch");
    support::eventually(&format!("no file is left of {source}"), || server.compilations_left() == 0);
    support::eventually("the end of every process in the scratch directory", || {
        let spares = server.spares();
        processes_in(&scratch)
            .iter()
            .all(|process| spares.iter().any(|pid| process.starts_with(format!("/proc/{pid}"))))
    });
    assert!(!server.dir.path().join("marker").exists(), "{source}");
}

/// Processes whose working directory is `dir` or below, and is not the server's.
fn processes_in(dir: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path().join("cwd")));
    all.filter(|cwd| fs::read_link(cwd).is_ok_and(|place| place.starts_with(dir))).collect()
}

/// The path of a file in the data directory, as C writes it.
fn at(server: &Server, name: &str) -> String {
    format!("\"{}\"", server.dir.path().join(name).display())
}

#[test]
fn a_source_includes_none_of_the_servers_files() {
    let server = server();
    let denied = &["Permission denied", "No such file"][..];
    for file in ["/etc/shadow", "/etc/passwd", "/proc/self/environ", "/proc/1/environ", "/dev/zero"] {
        refused(&server, &format!("#include \"{file}\"\n"), denied);
        refused(&server, &format!("__asm__(\".incbin \\\"{file}\\\"\");\n"), &[HINT]);
    }
    refused(&server, "#include \"/etc/passwd\"\n", &["/etc/passwd: Permission denied"]);
    refused(&server, "#include \"/etc/passwd\"\n", &[HINT]);
    let store = server.dir.path().join("modules/.objects");
    let mut objects = fs::read_dir(store).unwrap().map(|entry| entry.unwrap().path());
    let source = objects.find(|path| path.extension().is_some_and(|extension| extension == "c")).unwrap();
    let source = source.strip_prefix(server.dir.path()).unwrap().to_str().unwrap().to_owned();
    for name in ["closed.key", "open.key", "jobs.sqlite3", source.as_str()] {
        let path = at(&server, name);
        refused(&server, &format!("#include {path}\n"), &[HINT]);
        refused(&server, &format!("__asm__(\".incbin {}\");\n", path.replace('"', "\\\"")), &[HINT]);
    }
    refused(&server, "#include \"../../../open.key\"\n", &[HINT]);
    // Nor does it write.
    let marker = at(&server, "marker").replace('"', "");
    refused(&server, &format!("#pragma GCC pch_preprocess \"{marker}\"\n#include <cweb.h>\n"), &["module.c", "config"]);
}

#[test]
fn bombs_of_the_compiler_end_within_its_limits() {
    let server = server_with(&["--compile-timeout-ms", "8000"]);
    let started = Instant::now();
    let many =
        (0..40).fold("#define A0 1,\n".to_owned(), |text, n| format!("{text}#define A{} A{n} A{n} A{n} A{n}\n", n + 1));
    let ended = &[LIMITS, "did not finish within 8000 ms", "nested"][..];
    refused(&server, &format!("{many}int a[] = {{ A40 }};\n"), ended);
    refused(&server, "#include __FILE__\n#include __FILE__\n", ended);
    refused(&server, "static char x[] = {[0 ... 2000000000] = 1};\nchar *f(void) { return x; }\n", ended);
    refused(&server, "__asm__(\".fill 4000000000, 1, 1\");\n", ended);
    refused(&server, "__asm__(\".rept 1000000000\\n.quad 1\\n.endr\");\n", ended);
    assert!(started.elapsed() < Duration::from_secs(120));
}

/// A module whose constructor does `code` and aborts if that was refused.
fn constructor(code: &str) -> String {
    let headers = "#include <signal.h>\n#include <fcntl.h>\n#include <sys/stat.h>\n#include <sys/socket.h>\n#include <unistd.h>\n";
    let code = format!("__attribute__((constructor)) static void first(void) {{ if ({code}) abort(); }}");
    headers.to_owned() + &module("evil", &code, "", 0, "")
}

#[test]
fn constructors_do_nothing_but_compute() {
    let server = server();
    let marker = at(&server, "marker");
    let key = at(&server, "open.key");
    let shell = format!("system(\"echo x > {}\") != 0", marker.replace('"', ""));
    for code in [
        shell.as_str(),
        "execl(\"/bin/sh\", \"sh\", \"-c\", \"exit 0\", (char *)0) < 0",
        "fork() < 0",
        "({ while (fork() >= 0) { } 1; })",
        "socket(AF_INET, SOCK_STREAM, 0) < 0",
        "socket(AF_UNIX, SOCK_STREAM, 0) < 0",
        "kill(getppid(), 0) < 0",
        "!getenv(\"CWEB_ADMIN_KEY\")",
        "!fopen(\"/etc/passwd\", \"r\")",
        "!fopen(\"/proc/self/environ\", \"r\")",
        &format!("!fopen({marker}, \"w\")"),
        &format!("!fopen({key}, \"r\")"),
        &format!("unlink({key}) < 0"),
        &format!("chmod({key}, 0777) < 0"),
        &format!("truncate({key}, 0) < 0"),
    ] {
        refused(&server, &constructor(code), &["abort", "SIGABRT"]);
    }
    // One that does not give up is stopped by the time it may take.
    let hasty = server_with(&["--hook-timeout-ms", "5000"]);
    refused(&hasty, &constructor("({ for (;;) fork(); 1; })"), &["did not return within"]);
    assert_eq!(fs::read_to_string(server.dir.path().join("open.key")).unwrap(), SECRET);
    assert_eq!(fs::metadata(server.dir.path().join("open.key")).unwrap().permissions().mode() & 0o777, 0o644);
}

#[test]
fn ordinary_modules_are_none_the_worse() {
    let server = server();
    let code = r#"
#include <cweb.h>
#include <jansson.h>
#include <math.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <sqlite3.h>
static void *run(void *at) { *(double *)at = cos(0); return NULL; }
static double one;
__attribute__((constructor)) static void first(void) { pthread_t t; if (pthread_create(&t, NULL, run, &one) || pthread_join(t, NULL)) abort(); }
static int all(struct cweb_context *c, http_request_t *q, http_response_t *r) {
    (void)c; (void)q;
    unsigned char digest[EVP_MAX_MD_SIZE]; unsigned int size = 0;
    EVP_Digest("abc", 3, digest, &size, EVP_sha256(), NULL);
    sqlite3 *db; sqlite3_open(":memory:", &db); sqlite3_close(db);
    json_t *json = json_pack("{s:i,s:f}", "digest", (int)digest[0], "one", one);
    char *text = json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS);
    snprintf(r->body, HTTP_RESPONSE_SIZE, "%s", text);
    free(text); json_decref(json);
    return 0;
}
export module_t config = { .name = "all", .author = "test", .routes = {{"/all", "GET", all, NONE}}, .size = 1 };
"#;
    let response = deploy(&server, code);
    assert_eq!(response.status, 200, "{}", server.log());
    assert!(
        response.text().starts_with("deployed all ") && !response.text().contains("warning"),
        "{}",
        response.text()
    );
    assert_eq!(server.get("/all").text(), r#"{"digest":186,"one":1.0}"#);
    // What the compiler made belongs to the server, and only it may write it.
    let objects = server.dir.path().join("modules/.objects");
    for entry in fs::read_dir(&objects).unwrap() {
        use std::os::unix::fs::MetadataExt;
        let found = entry.unwrap().metadata().unwrap();
        assert_eq!((found.uid(), found.mode() & 0o022), (fs::metadata(&objects).unwrap().uid(), 0));
    }
}

#[test]
fn a_compiler_elsewhere_can_be_used_and_a_missing_one_is_named() {
    let tools = tempfile::tempdir().unwrap();
    fs::set_permissions(tools.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let cc = tools.path().join("cc");
    fs::write(&cc, "#!/bin/sh\nexec /usr/bin/cc \"$@\"\n").unwrap();
    fs::set_permissions(&cc, PermissionsExt::from_mode(0o755)).unwrap();
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server = Server::on(&dir, &[], &[("CC", cc.to_str().unwrap())]);
    server.deploy(&constant("m", "/m", "made elsewhere"));
    assert_eq!(server.get("/m").text(), "made elsewhere");
    fs::remove_file(&cc).unwrap();
    let response = server.try_deploy(&constant("n", "/n", "n"));
    assert_eq!(response.status, 500, "{}", response.text());
    assert!(response.text().contains("the C compiler") && response.text().contains("No such file"));
}

/// All of the above with a server that was not started as root.
#[test]
fn everything_holds_without_root() {
    const USER: u32 = 12_345;
    let dir = tempfile::tempdir().unwrap();
    if chown(dir.path(), Some(USER), Some(USER)).is_err() {
        return; // Not root: the other tests are this one.
    }
    let this = std::env::current_exe().unwrap();
    let mut command = Command::new(&this);
    command.uid(USER).gid(USER).env("TMPDIR", dir.path()).args([
        "security::",
        "--skip",
        "everything_holds_without_root",
    ]);
    match command.output() {
        Err(error) => eprintln!("skipped: another user can't start {}: {error}", this.display()),
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout)),
    }
}
