//! Modules of several files: directories, forms, archives; assets; diagnostics; the cache of units; settings; commands.

use crate::support::{self, Response, Running, Server, constant, cweb, eventually, root};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

fn project() -> std::path::PathBuf {
    root().join("tests/modules/project")
}

/// A directory with a copy of the project.
fn copy() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let from = project().join(".");
    assert!(Command::new("cp").arg("-r").arg(from).arg(dir.path()).status().unwrap().success());
    dir
}

/// `tar` with these arguments, run in `dir`; its output.
fn tar(dir: &Path, args: &[&str]) -> Vec<u8> {
    let output = Command::new("tar").args(args).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A form of files; each has a name.
fn form(files: &[(&str, &str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (field, name, bytes) in files {
        let head = format!("--b\r\nContent-Disposition: form-data; name=\"{field}\"; filename=\"{name}\"\r\n\r\n");
        body.extend_from_slice(&[head.as_bytes(), bytes, b"\r\n"].concat());
    }
    body.extend_from_slice(b"--b--\r\n");
    body
}

fn post_form(server: &Server, files: &[(&str, &str, &[u8])]) -> Response {
    let kind = [("Content-Type", "multipart/form-data; boundary=b")];
    server.connect().request("POST", "/mgnt", &kind, &form(files))
}

fn expect_served(server: &Server) {
    assert_eq!(server.get("/project/numbers").text(), "21 2 891568578");
    assert_eq!(server.get("/project/asset?name=page.html").text(), "<p>A page</p>\n");
    assert_eq!(server.get("/project/asset?name=other").status, 404);
}

#[test]
fn a_directory_an_archive_or_a_form_is_one_project() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server = Server::on(&dir, &[], &[]);
    let work = copy();
    fs::create_dir(work.path().join(".git")).unwrap();
    fs::write(work.path().join(".git/config"), "secret").unwrap();
    let (done, said) = cweb(&["deploy", ".", "--server", &server.addr], work.path(), &[]);
    assert!(done && said.contains("module project"), "{said}");
    expect_served(&server);
    // The same files are the same version, however they come.
    let plain = tar(work.path(), &["c", "--exclude=.git", "."]);
    let gzip = tar(work.path(), &["cz", "--exclude=.git", "module.toml", "src", "include", "assets"]);
    let zstd = zstd::encode_all(plain.as_slice(), 3).unwrap();
    for body in [plain, gzip, zstd] {
        let again = server.post("/mgnt", &body);
        assert!(again.status == 200 && again.text().starts_with("unchanged"), "{}", again.text());
    }
    let file = |path: &str| fs::read(project().join(path)).unwrap();
    let paths = ["module.toml", "src/main.c", "src/scaled.c", "src/counted.cpp", "include/parts.h", "assets/page.html"];
    let files: Vec<(String, Vec<u8>)> = paths.iter().map(|path| ((*path).to_owned(), file(path))).collect();
    let parts: Vec<(&str, &str, &[u8])> = files.iter().map(|(path, bytes)| ("file", path.as_str(), &**bytes)).collect();
    assert!(post_form(&server, &parts).text().starts_with("unchanged"));
    server.stop();
    let server = Server::on(&dir, &[], &[]);
    expect_served(&server);
}

#[test]
fn hostile_projects_are_refused() {
    let server = Server::with(&["--project-files-max", "5", "--project-bytes-max", "100000"]);
    let work = tempfile::tempdir().unwrap();
    let main = constant("main", "/main", "x");
    fs::write(work.path().join("main.c"), &main).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", work.path().join("link.h")).unwrap();
    fs::hard_link(work.path().join("main.c"), work.path().join("twin.c")).unwrap();
    let refused = |body: &[u8], words: &str| {
        let answer = server.post("/mgnt", body);
        assert!(answer.status == 422 && answer.text().contains(words), "{words}: {} {}", answer.status, answer.text());
    };
    refused(&tar(work.path(), &["c", "main.c", "link.h"]), "links and devices");
    refused(&tar(work.path(), &["c", "main.c", "twin.c"]), "links and devices");
    refused(&tar(work.path(), &["cP", "--transform=s,main,../../main,", "main.c"]), "leads out of the project");
    refused(&tar(work.path(), &["cP", "--transform=s,main,/etc/main,", "main.c"]), "absolute");
    refused(&tar(work.path(), &["c", "--transform=s,main,src/@main,", "main.c"]), "read as a flag");
    refused(&tar(work.path(), &["c", "--transform=s,main.c,main.h,", "main.c"]), "no source");
    fs::write(work.path().join("large.h"), vec![b' '; 100_001]).unwrap();
    refused(&tar(work.path(), &["c", "main.c", "large.h"]), "--project-bytes-max");
    refused(&tar(work.path(), &["cz", "main.c", "large.h"]), "--project-bytes-max");
    for number in 0..6 {
        fs::write(work.path().join(format!("{number}.h")), "").unwrap();
    }
    refused(&tar(work.path(), &["c", "main.c", "0.h", "1.h", "2.h", "3.h", "4.h", "5.h"]), "--project-files-max");
    refused(&[0; 10240], "the archive has no files");
    refused(&tar(work.path(), &["cz", "--files-from=/dev/null"]), "the archive has no files");
    let mut cut = tar(work.path(), &["c", "main.c"]);
    cut.truncate(600);
    refused(&cut, "can't be read");
    for (toml, words) in [
        ("cflags = [\"-fplugin=/tmp/x.so\"]", "is not allowed"),
        ("cflags = [\"-wrapper\", \"sh\"]", "is not allowed"),
        ("cflags = [\"@/etc/passwd\"]", "is not allowed"),
        ("cflags = [\"-I/etc\"]", "beside the source"),
        ("cflags = [\"-specs=x\"]", "is not allowed"),
        ("include = [\"/etc\"]", "absolute"),
        ("include = [\"../..\"]", "leads out"),
        ("libs = [\"/usr/lib/libz.so\"]", "t name a library"),
        ("libs = [\"curl\"]", "--allow-lib curl"),
        ("name = \"other\"", "names the module \"other\""),
        ("nonsense = 1", "unknown field"),
        ("domain = \"../x\"", "domain"),
        ("assets = [\"pages\"]", "assets: the project has no file or directory \"pages\""),
        ("assets = [\"../x\"]", "leads out"),
        ("assets = [\"/etc/passwd\"]", "absolute"),
        ("std = \"c17 -fplugin=x\"", "not allowed"),
        ("sources = [\"/etc/*.c\"]", "no source matches"),
        ("name = 5", "module.toml"),
        ("= =", "module.toml"),
        ("[settings]\n\"a b\" = 1", "a setting's name"),
        ("[limits]\nbody_bytes = 0", "module.toml:2: limits: body_bytes = 0 must be a whole number from 1"),
        ("[limits]\nmemory_bytes = 1", "limits of a domain"),
    ] {
        let files = [("file", "main.c", main.as_bytes()), ("file", "module.toml", toml.as_bytes())];
        let answer = post_form(&server, &files);
        assert!(matches!(answer.status, 400 | 422) && answer.text().contains(words), "{toml}: {}", answer.text());
    }
    // Nothing of all that is served, and what is right still is.
    assert_eq!(server.get("/main").status, 404);
    assert_eq!(post_form(&server, &[("file", "main.c", main.as_bytes())]).status, 200);
    assert_eq!(server.get("/main").text(), "x");
}

#[test]
fn all_diagnostics_come_at_once_with_the_authors_names() {
    let server = Server::start();
    let work = copy();
    let path = |name: &str| work.path().join(name);
    let text = |name: &str| fs::read_to_string(path(name)).unwrap();
    let deploy = || cweb(&["deploy", ".", "--server", &server.addr], work.path(), &[]);
    fs::write(path("src/scaled.c"), text("src/scaled.c") + "int wrong = undeclared_here;\n").unwrap();
    fs::write(path("src/counted.cpp"), text("src/counted.cpp") + "int also = undeclared_there;\n").unwrap();
    let (done, said) = deploy();
    assert!(!done && said.contains("src/scaled.c:12:") && said.contains("undeclared_here"), "{said}");
    assert!(said.contains("src/counted.cpp:15:") && said.contains("undeclared_there"), "{said}");
    // What is declared and nowhere defined has the place of its call.
    for name in ["src/scaled.c", "src/counted.cpp"] {
        fs::write(path(name), fs::read(project().join(name)).unwrap()).unwrap();
    }
    fs::write(path("src/scaled.c"), text("src/scaled.c").replace("int scaled(", "int scalde(")).unwrap();
    let (done, said) = deploy();
    assert!(!done && said.contains("src/main.c:8: error: 'scaled' is declared, but defined nowhere"), "{said}");
    assert!(said.contains("did you mean 'scalde'?"), "{said}");
    // The same for machines, from the server and without one; a handler of a wrong type is an error too.
    fs::write(path("src/main.c"), text("src/main.c").replace("http_request_t *req, http_res", "int *req, http_res"))
        .unwrap();
    let env = [("XDG_CACHE_HOME", work.path().to_str().unwrap())];
    for args in [&["deploy", ".", "--json", "--server", &server.addr][..], &["check", ".", "--json"]] {
        let (done, said) = cweb(args, work.path(), &env);
        let json: serde_json::Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
        assert!(!done && json["version"] == "2.1.0" && json["runs"][0]["tool"]["driver"]["name"] == "cweb", "{said}");
        let results = json["runs"][0]["results"].as_array().unwrap();
        let is_it = |result: &&serde_json::Value| result["ruleId"] == "-Werror=incompatible-pointer-types";
        let error = results.iter().find(is_it).unwrap();
        let place = &error["locations"][0]["physicalLocation"];
        assert_eq!(place["artifactLocation"]["uri"], "src/main.c", "{said}");
        assert!(place["region"]["startLine"].as_u64().unwrap() > 8, "{said}");
        assert!(error["message"]["text"].as_str().unwrap().contains("incompatible pointer type"), "{said}");
    }
    fs::write(path("src/main.c"), fs::read(project().join("src/main.c")).unwrap()).unwrap();
    fs::write(path("src/scaled.c"), fs::read(project().join("src/scaled.c")).unwrap()).unwrap();
    let (done, said) = cweb(&["check", ".", "--json"], work.path(), &env);
    assert!(done && said.contains("\"executionSuccessful\": true"), "{said}");
}

#[test]
fn units_that_have_not_changed_are_not_compiled_again() {
    let server = Server::start();
    let work = copy();
    let path = |name: &str| work.path().join(name);
    let objects = || {
        let entries = fs::read_dir(server.dir.path().join("modules/.units")).unwrap().flatten();
        entries.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "o")).count()
    };
    let deploy = || {
        let (done, said) = cweb(&["deploy", ".", "--server", &server.addr], work.path(), &[]);
        assert!(done, "{said}");
        said
    };
    fs::write(path("src/counted.cpp"), fs::read_to_string(path("src/counted.cpp")).unwrap() + "static int unused;\n")
        .unwrap();
    assert!(deploy().contains("src/counted.cpp:15:"));
    // The assets are one object, too.
    assert_eq!(objects(), 4);
    let main = fs::read_to_string(path("src/main.c")).unwrap();
    fs::write(path("src/main.c"), main.replace("scaled(7)", "scaled(8)")).unwrap();
    // The warning of the unit that was not compiled again is still told.
    assert!(deploy().contains("src/counted.cpp:15:"));
    assert_eq!(objects(), 5);
    assert_eq!(server.get("/project/numbers").text(), "24 2 891568578");
    // An asset is no reason to compile a source, a header is one for all sources and not for assets.
    fs::write(path("assets/page.html"), "new").unwrap();
    deploy();
    assert_eq!((objects(), server.get("/project/asset?name=page.html").text()), (6, "new".to_owned()));
    let header = fs::read_to_string(path("include/parts.h")).unwrap();
    fs::write(path("include/parts.h"), header + "/* changed */\n").unwrap();
    deploy();
    assert_eq!(objects(), 9);
}

/// What a server has ready from its second compilation on: two processes that become compiler and linker, one that inspects.
#[test]
fn what_the_next_compilation_needs_is_ready_confined_and_used_once() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server = Server::on(&dir, &[], &[("CWEB_ADMIN_KEY", "s3cret-key")]);
    let key = [("X-API-Key", "s3cret-key")];
    let deploy = |source: &str| server.connect().request("POST", "/mgnt", &key, source.as_bytes());
    // No other run has compiled these.
    let text = |number: u32| format!("{}-{number}", server.pid());
    let served = |number: u32| {
        let answer = deploy(&constant("ready", "/ready", &text(number)));
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(server.get("/ready").text(), text(number));
    };
    let status = |pid: u32| fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let are_ready = || {
        let all = server.spares();
        all.len() == 3 && all.iter().all(|pid| status(*pid).contains("Seccomp:\t2"))
    };
    let scratch = || fs::read_dir(dir.path().join("modules/.scratch")).unwrap().count();
    served(1);
    assert!(server.spares().is_empty(), "one compilation says nothing of a second");
    served(2);
    eventually("all is ready", are_ready);
    let first = server.spares();
    for pid in &first {
        let (of, environment) = (status(*pid), fs::read(format!("/proc/{pid}/environ")).unwrap_or_default());
        assert!(of.contains("NoNewPrivs:\t1") && of.contains("CapEff:\t0000000000000000"), "{of}");
        assert!(!String::from_utf8_lossy(&environment).contains("s3cret-key"));
    }
    // One that was ready is used, once, and its directory goes with it; a refused source is one use.
    assert!(deploy("int x").text().contains("module.c:1"));
    eventually("new ones are ready", || are_ready() && server.spares().iter().all(|pid| !first.contains(pid)));
    eventually("one directory is left", || scratch() == 1);
    served(3);
    // Those that somebody has ended are not waited for.
    eventually("all is ready again", are_ready);
    let ended = server.spares();
    ended.iter().for_each(|pid| support::signal(*pid, "KILL"));
    eventually("they have ended", || ended.iter().all(|pid| status(*pid).contains("State:\tZ")));
    served(4);
    eventually("all is ready after that", are_ready);
    // A source of another language, and one that needs other rights, are compiled as ever.
    let cpp = [("Content-Type", "multipart/form-data; boundary=b"), key[0]];
    let source = constant("plus", "/plus", "x").replace("return 0;", "static_cast<void>(c); return 0;");
    let answer = server.connect().request("POST", "/mgnt", &cpp, &form(&[("code", "plus.cpp", source.as_bytes())]));
    assert_eq!((answer.status, server.get("/plus").text()), (200, "x".to_owned()), "{}", answer.text());
    eventually("all is ready at the end", are_ready);
    let last = server.spares();
    server.stop();
    eventually("they end with the server", || last.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()));
}

#[test]
fn a_starter_project_is_checked_and_deployed_as_it_is() {
    let server = Server::start();
    let work = tempfile::tempdir().unwrap();
    let cache = work.path().join("cache");
    let env = [("XDG_CACHE_HOME", cache.to_str().unwrap())];
    let run = |args: &[&str]| {
        let (done, said) = cweb(args, work.path(), &env);
        assert!(done, "{args:?}: {said}");
        said
    };
    for template in ["http", "stream", "websocket", "job", "image", "page"] {
        let name = format!("my-{template}");
        run(&["new", &name, "--template", template]);
        let checked = run(&["check", &name]);
        assert!(checked.contains(&format!("module {name}")) && !checked.contains("warning"), "{checked}");
        run(&["deploy", &name, "--server", &server.addr]);
        // An editor finds the headers outside of this repository.
        let flags = fs::read_to_string(work.path().join(&name).join("compile_flags.txt")).unwrap();
        let mut gcc = Command::new("gcc");
        fs::create_dir(work.path().join(&name).join("include")).unwrap();
        fs::write(work.path().join(&name).join("include/own.h"), "").unwrap();
        gcc.args(["-include", "own.h"])
            .args(flags.lines())
            .args(["-Werror", "-fsyntax-only", "src/main.c"])
            .current_dir(work.path().join(&name));
        assert!(gcc.status().unwrap().success(), "{flags}");
    }
    assert_eq!(server.get("/my-http?who=you").text(), "Hello, you!\n");
    assert!(server.get("/my-page").text().contains("<h1>my-page</h1>"));
    assert_eq!(server.post("/my-job", b"").text().trim().len(), 36);
    let again = cweb(&["new", "my-http", "--template", "http"], work.path(), &env);
    assert!(!again.0 && again.1.contains("my-http exists already"), "it overwrites nothing: {}", again.1);
    // The flags for the editor are no part of the module.
    let source = server.get("/mgnt/my-http/source").body;
    assert!(!String::from_utf8_lossy(&source).contains("compile_flags"));
    let flags = run(&["sdk", "--cflags"]);
    assert!(flags.contains(&format!("-I{}", cache.display())), "{flags}");
    // What a server would refuse is refused without one.
    for (source, words) in [
        ("int x = nonsense;", "wrong.c:1:9: error"),
        ("#include <cweb.h>\nexport module_t config = {.name = \"m\", .size = 900};", "size"),
        ("#pragma cweb link(\"../x\")", "wrong.c:1: error"),
        (
            "#include <cweb.h>\n__attribute__((constructor)) static void c(void) { abort(); }\nexport module_t config = {.name = \"m\"};",
            "constructor",
        ),
    ] {
        fs::write(work.path().join("wrong.c"), source).unwrap();
        let (done, said) = cweb(&["check", "wrong.c"], work.path(), &env);
        assert!(!done && said.contains(words), "{source}: {said}");
    }
}

#[test]
fn an_upload_that_is_too_large_is_answered_with_the_limit() {
    let server = Server::with(&["--mgnt-body-bytes-max", "2097152"]);
    let work = copy();
    fs::create_dir_all(work.path().join("assets")).unwrap();
    // Nothing that becomes smaller when it is packed.
    let mut state = 1_u64;
    let mut noise = |bytes: usize| -> Vec<u8> {
        let next = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..bytes).map(next).collect()
    };
    fs::write(work.path().join("assets/large.bin"), noise(3 << 20)).unwrap();
    let (done, said) = cweb(&["deploy", ".", "--server", &server.addr], work.path(), &[]);
    assert!(!done && said.contains("larger than 2097152 bytes") && said.contains("--mgnt-body-bytes-max"), "{said}");
    // A body of more than 1 MiB, which waits for `100 Continue`, is accepted.
    fs::write(work.path().join("assets/large.bin"), noise(1536 * 1024)).unwrap();
    let (done, said) = cweb(&["deploy", ".", "--server", &server.addr], work.path(), &[]);
    assert!(done, "{said}");
}

#[test]
fn a_change_in_a_project_is_deployed_while_dev_watches() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server = Server::on(&dir, &["--isolation", "process", "--shards", "1"], &[]);
    let work = copy();
    let out = fs::File::create(work.path().join(".out")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_cweb"));
    command.args(["dev", ".", "--server", &server.addr]).current_dir(work.path()).stdout(out);
    let _dev = Running(command.spawn().unwrap());
    eventually("the project is served", || server.get("/project/numbers").text() == "21 2 891568578");
    let main = work.path().join("src/main.c");
    let text = fs::read_to_string(&main).unwrap();
    fs::write(&main, text.replace("scaled(7)", "wrong(7)")).unwrap();
    let said = || fs::read_to_string(work.path().join(".out")).unwrap();
    eventually("the error is shown", || said().contains("src/main.c:8:"));
    // As an editor does: another file in its place.
    let aside = work.path().join("src/.main.c.swp");
    fs::write(&aside, text.replace("scaled(7)", "scaled(9)")).unwrap();
    fs::rename(&aside, &main).unwrap();
    eventually("the change is served", || server.get("/project/numbers").text() == "27 2 891568578");
    // What the module prints, requests and crashes come as they happen.
    eventually("the request", || said().contains("| > GET /project/numbers 200 "));
    assert!(!said().contains("is deployed ("), "its own deployments are told once: {}", said());
    let crashing = text.replace("scaled(7)", "(printf(\"about to fail\\n\"), fflush(stdout), *(volatile int *)0)");
    fs::write(&main, "#include <stdio.h>\n".to_owned() + &crashing).unwrap();
    eventually("the crash", || server.get("/project/numbers").status == 500);
    eventually("what it printed", || said().contains("| about to fail"));
    eventually("its line", || said().contains("| ! module project:   #0 ") && said().contains("(src/main.c:"));
    eventually("its request", || said().contains("| > GET /project/numbers 500 "));
    // A server that goes and comes back, without any module: it gets the project again.
    let addr = server.addr.clone();
    server.stop();
    eventually("that is said", || said().contains("waiting for the server"));
    fs::write(&main, &text).unwrap();
    let empty = Arc::new(tempfile::tempdir().unwrap());
    let server = Server::on(&empty, &["--listen", &addr], &[]);
    eventually("the project on the next server", || server.get("/project/numbers").text() == "21 2 891568578");
    assert!(said().contains("the server answers again"), "{}", said());
}

/// A project lowers its limits, whatever its functions say, and raises none.
#[test]
fn limits_of_module_toml_are_the_projects_own() {
    let apart = support::isolation() == "process";
    let args = ["--body-bytes-max", "2000", "--handler-timeout-ms", "30000", "--job-workers", "4"];
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server = Server::on(&dir, &args, &[]);
    let source = fs::read_to_string(root().join("tests/modules/limited.c")).unwrap();
    let deploy = |server: &Server, toml: &str| {
        let answer =
            post_form(server, &[("file", "limited.c", source.as_bytes()), ("file", "module.toml", toml.as_bytes())]);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.text()
    };
    let post = |server: &Server, path: &str, bytes: usize| server.post(path, &vec![b'x'; bytes]).status;
    let running = |server: &Server| {
        for _ in 0..3 {
            assert_eq!(server.post("/jobs", br#"{"module":"limited","job":"together"}"#).status, 200);
        }
        // The second of three that run at once sees the first; one that runs alone gives up waiting after some time.
        let all = || server.get("/jobs?state=done").text().matches("\"done\"").count();
        eventually("the jobs", || all() == 3);
        server.get("/most").text()
    };
    deploy(&server, "");
    assert_eq!((post(&server, "/size", 2000), post(&server, "/size", 2001)), (200, 413));
    assert_eq!((post(&server, "/large", 2001), post(&server, "/pieces", 5000)), (200, 200));
    let said = deploy(&server, "[limits]\nbody_bytes = 100\nhandler_time_ms = 20000\njob_concurrency = 1\n");
    assert_eq!(said.contains("handler_time_ms has no effect without --isolation process"), !apart, "{said}");
    for path in ["/size", "/large", "/pieces"] {
        assert_eq!((post(&server, path, 100), post(&server, path, 101)), (200, 413), "{path}");
        let refused = server.post(path, &[b'x'; 101]).text();
        assert!(
            refused.contains("100 bytes, the limit of its project: body_bytes in [limits] of module.toml"),
            "{refused}"
        );
    }
    assert_eq!(running(&server), "1");
    let shown = cweb(&["show", "limited", "--server", &server.addr], dir.path(), &[]).1;
    assert!(shown.contains("body_bytes 100") && shown.contains("job_concurrency 1"), "{shown}");
    // Handlers that are to answer had more time.
    deploy(&server, "[limits]\nbody_bytes = 100\nhandler_time_ms = 300\n");
    server.stop();
    let server = Server::on(&dir, &args, &[]);
    assert_eq!(post(&server, "/large", 101), 413, "after a restart");
    if apart {
        // A route with a limit of its own, and a route without.
        for path in ["/slow", "/slower"] {
            let late = server.get(path);
            assert!(
                late.status == 504 && late.text().contains("within 300 ms"),
                "{path}: {} {}",
                late.status,
                late.text()
            );
            eventually("the process after that", || server.get("/most").status == 200);
        }
    }
    let cpp = "#include <cweb.h>\nexport module_t config = {.name = \"plus\", .author = \"\", .size = 0};\n";
    let toml = "[limits]\nbody_bytes = 5\n";
    let answer = post_form(&server, &[("file", "plus.cpp", cpp.as_bytes()), ("file", "module.toml", toml.as_bytes())]);
    assert_eq!((answer.status, answer.text().contains("warning")), (200, false), "{}", answer.text());
    assert!(server.get("/mgnt/plus").text().contains("\"body_bytes\":5"));
    // Above the server's own they change nothing, and that is said.
    let said = deploy(&server, "[limits]\nbody_bytes = 3000\nhandler_time_ms = 60000\n");
    assert!(said.contains("body_bytes = 3000 is above the 2000 bytes of --body-bytes-max"), "{said}");
    assert_eq!(said.contains("handler_time_ms = 60000 is above the 30000 ms"), apart, "{said}");
    assert_eq!(
        (post(&server, "/size", 2001), post(&server, "/large", 3000), post(&server, "/large", 3001)),
        (413, 200, 413)
    );
}

#[test]
fn projects_of_every_shape_are_deployed_from_their_directory() {
    let (server, work) = (Server::start(), tempfile::tempdir().unwrap());
    let dir = work.path().join("shop");
    for part in ["src", "include", "assets"] {
        fs::create_dir_all(dir.join(part)).unwrap();
    }
    fs::write(dir.join("src/main.c"), constant("shop", "/shop", "open")).unwrap();
    // Headers with the names of the server's own, which the author may include or not.
    for (name, text) in [
        ("map.h", "#ifndef MAP_H\n#define MAP_H\nstruct point { int x; };\n#endif\n"),
        ("http.h", "#error not for the server's headers\n"),
        ("uuid.h", "#error not for the server's headers\n"),
    ] {
        fs::write(dir.join("include").join(name), text).unwrap();
    }
    let user = "#include <cweb.h>\n#include <map.h>\nint x_of(struct point p) { return p.x; }\n";
    fs::write(dir.join("src/user.c"), user).unwrap();
    // More than the server takes for a body, and little of it when it is packed.
    fs::write(dir.join("assets/words.txt"), "yes\n".repeat(1_500_000)).unwrap();
    let deploy = || cweb(&["deploy", "shop", "--server", &server.addr], work.path(), &[]);
    let (done, said) = deploy();
    assert!(done, "{said}");
    assert_eq!(server.get("/shop").text(), "open");
    // A link would be missing without a word.
    std::os::unix::fs::symlink("map.h", dir.join("include/linked.h")).unwrap();
    for args in [vec!["deploy", "shop", "--server", &server.addr], vec!["check", "shop"]] {
        let (done, said) = cweb(&args, work.path(), &[]);
        assert!(!done && said.contains("include/linked.h: it is neither a file nor a directory"), "{said}");
    }
    fs::remove_file(dir.join("include/linked.h")).unwrap();
    std::os::unix::fs::symlink("nowhere", dir.join(".#main.c")).unwrap(); // An editor's lock.
    let (done, said) = deploy();
    assert!(done && said.contains("unchanged"), "{said}");
}

/// `cweb check` knows all reasons of a deployment that are in the files, in the same words.
#[test]
fn what_a_deployment_refuses_the_check_refuses_with_the_same_words() {
    let (server, work) = (Server::start(), tempfile::tempdir().unwrap());
    fs::create_dir(work.path().join("shop")).unwrap();
    let job = "static int run(struct cweb_context *c, const job_payload_t *p, job_ctx_t *j) { (void)c, (void)p, (void)j; return 0; }";
    let fields = ".jobs = {{.name = \"sum\", .run = run}}, .job_size = 1";
    let source = |routes: &str, size, more: &str| {
        support::module("shop", &format!("{job}\nHANDLER(h, \"x\")"), routes, size, &format!("{fields}, {more}"))
    };
    let plain = source("{\"/shop\", \"GET\", h, NONE}", 1, "");
    let large = format!("[settings]\nA = \"{}\"\n", "x".repeat(64 * 1024 + 1));
    let hidden = source("{\"/shop/.*\", \"GET\", h, NONE}, {\"/shop/1\", \"GET\", h, NONE}", 2, "");
    let costly = source("{\"/(x{1,200}.*y{1,200}){1,20}\", \"GET\", h, NONE}", 1, "");
    let mounted = source("{\"/shop\", \"GET\", h, NONE}", 1, ".mounts = {{\"/x\", \"../etc\"}}, .mount_size = 1");
    let wrong = "[[schedules]]\njob = \"sum\"\ncron = \"nonsense\"\n[[schedules]]\njob = \"none\"\ncron = \"@daily\"\n";
    for (source, settings, words) in [
        (&plain, wrong, &["module.toml:3: schedules: cron: ", "module.toml:5: schedules: job: the module has no"][..]),
        (&plain, "domain = \".\"", &["(and not . or ..), not \".\""]),
        (&plain, "domain = \"a b\"", &["a domain's name is 1 to 64 of"]),
        (&plain, "domain = \"sanitized-x\"", &["are reserved for modules with a sanitizer"]),
        (&plain, large.as_str(), &["module.toml: settings: the value of A has more than 65536 bytes"]),
        (&costly, "", &["of states"]),
        (&mounted, "", &["mounts[0]: the directory \"../etc\" is empty or has \"..\" in it"]),
        (&plain.replace("\"shop\"", "\"..\""), "", &["config.name is \"..\""]),
    ] {
        fs::write(work.path().join("shop/main.c"), source).unwrap();
        fs::write(work.path().join("shop/module.toml"), settings).unwrap();
        for args in [vec!["check", "shop"], vec!["deploy", "shop", "--server", &server.addr]] {
            let (done, said) = cweb(&args, work.path(), &[]);
            assert!(!done && words.iter().all(|words| said.contains(words)), "{args:?} {words:?}: {said}");
        }
    }
    // The warnings, too.
    fs::write(work.path().join("shop/main.c"), hidden).unwrap();
    for args in [vec!["check", "shop"], vec!["deploy", "shop", "--server", &server.addr]] {
        let (done, said) = cweb(&args, work.path(), &[]);
        assert!(done && said.contains("GET /shop/1 is never called"), "{args:?}: {said}");
    }
    // `cweb config set` has the same limit and the same words.
    let value = "x".repeat(64 * 1024 + 1);
    let (done, said) =
        cweb(&["config", "set", "shop", &format!("A={value}"), "--server", &server.addr], work.path(), &[]);
    assert!(!done && said.contains("the value of A has more than 65536 bytes"), "{said}");
}

#[test]
fn the_linker_names_the_authors_files() {
    let (server, work) = (Server::start(), tempfile::tempdir().unwrap());
    for dir in ["shop/src", "shop/inc"] {
        fs::create_dir_all(work.path().join(dir)).unwrap();
    }
    let write = |name: &str, text: &str| fs::write(work.path().join("shop").join(name), text).unwrap();
    write("src/main.c", &constant("shop", "/shop", "open"));
    write("inc/shared.h", "int shared = 1;\n");
    let source =
        |own: &str| format!("#include \"../inc/shared.h\"\nint twice(int x);\nint twice(int x) {{ return {own}; }}\n");
    write("src/a.c", &source("x"));
    write(
        "src/b.c",
        &(source("x + helper()").replace("int twice(int x);", "int twice(int x); int helper(void); void *at(void);")
            + "void *at(void) { static void *all[] = {(void *)helper}; return all; }\n"),
    );
    for args in [vec!["check", "shop"], vec!["deploy", "shop", "--server", &server.addr]] {
        let (done, said) = cweb(&args, work.path(), &[]);
        for words in [
            "\nsrc/b.c:3: error: multiple definition of 'twice'; make one of them static, or rename it\nsrc/a.c:3: note: first defined here\n",
            "\ninc/shared.h:1: error: multiple definition of 'shared', by src/a.c and src/b.c; declare it there with extern",
            "\nsrc/b.c:3: error: 'helper' is declared, but defined nowhere",
        ] {
            assert!(!done && said.contains(words), "{args:?} {words}: {said}");
        }
        assert!(!said.contains("scratch") && !said.contains(".cweb/"), "{said}");
    }
}

#[test]
fn letters_beyond_ascii_in_a_route_match_what_clients_send() {
    let server = Server::start();
    let routes = "{\"/größe\", \"GET\", a, NONE}, {\"/größe/:id\", \"GET\", b, NONE}";
    let code = "HANDLER(a, \"plain\")\nHANDLER(b, \"named\")";
    server.deploy(&support::module("g", code, routes, 2, ""));
    for path in ["/gr%C3%B6%C3%9Fe", "/gr%c3%b6%c3%9fe", "/größe"] {
        assert_eq!(server.get(path).text(), "plain", "{path}");
        assert_eq!(server.get(&format!("{path}/7?x=1")).text(), "named", "{path}");
    }
    assert_eq!(server.get("/gr%C3%B6sse").status, 404);
    let other = server.try_deploy(&constant("other", "/gr%C3%B6%C3%9Fe", "x"));
    assert!(other.status == 409 && other.text().contains("already served by module g"), "{}", other.text());
}
