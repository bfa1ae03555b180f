//! Versions of modules, going back to one, their sources; settings and secrets.

use crate::support::{Response, Server, constant, cweb, eventually, isolation, module, root, signal};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

fn json(response: &Response) -> serde_json::Value {
    assert_eq!(response.status, 200, "{}", response.text());
    serde_json::from_str(&response.text()).unwrap()
}

/// Runs a command on the server, which is to succeed.
fn run(server: &Server, dir: &Path, args: &[&str]) -> String {
    let (done, said) = cweb(&[args, &["--server", &server.addr]].concat(), dir, &[]);
    assert!(done, "{args:?}: {said}");
    said
}

fn refused(server: &Server, dir: &Path, args: &[&str]) -> String {
    let (done, said) = cweb(&[args, &["--server", &server.addr]].concat(), dir, &[]);
    assert!(!done, "{args:?}: {said}");
    said
}

/// The number of the live version, and the numbers of the kept versions, the newest first.
fn versions(server: &Server, name: &str) -> (u64, Vec<u64>) {
    let list = json(&server.get(&format!("/mgnt/{name}/versions")));
    let numbers = list["versions"].as_array().unwrap().iter().map(|version| version["version"].as_u64().unwrap());
    (list["live"].as_u64().unwrap(), numbers.collect())
}

#[test]
fn every_deployment_is_a_version_that_can_be_gone_back_to() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server = Server::on(&dir, &["--versions-kept", "3"], &[]);
    let work = tempfile::tempdir().unwrap();
    let deploy = |text: &str, message: &str| {
        fs::write(work.path().join("m.c"), constant("m", "/m", text)).unwrap();
        run(&server, work.path(), &["deploy", "m.c", "-m", message])
    };
    deploy("one", "the first");
    deploy("two", "more");
    deploy("two", "the same again is no version");
    assert_eq!(versions(&server, "m"), (2, vec![2, 1]));
    let live = json(&server.get("/mgnt/m"));
    assert_eq!((&live["version"], &live["message"], &live["author"]), (&2.into(), &"more".into(), &"test".into()));
    assert_eq!(live["by"], "loopback");
    // Back, with no compiler: the bound is far above what it takes, and far below a compiler's start here.
    let begun = Instant::now();
    let back = server.post("/mgnt/m/rollback", b"");
    let took = begun.elapsed();
    assert_eq!((back.status, back.header("x-cweb-version").unwrap().as_str()), (200, "1"), "{}", back.text());
    assert_eq!(server.get("/m").text(), "one");
    println!("the rollback took {took:?}");
    assert_eq!(versions(&server, "m"), (1, vec![2, 1]));
    assert!(server.post("/mgnt/m/rollback", b"").text().contains("no version before 1"));
    assert!(server.post("/mgnt/m/rollback?version=7", b"").text().contains("the kept versions: 1, 2"));
    assert_eq!(server.post("/mgnt/m/rollback?version=x", b"").status, 400);
    // What is live stays live over a restart, and a new version gets a new number.
    server.stop();
    let server = Server::on(&dir, &["--versions-kept", "3"], &[]);
    assert_eq!((server.get("/m").text().as_str(), versions(&server, "m")), ("one", (1, vec![2, 1])));
    let deploy = |text: &str| drop(server.deploy(&constant("m", "/m", text)));
    deploy("three");
    deploy("four");
    // The one before the oldest goes; what is kept has its source.
    assert_eq!(versions(&server, "m"), (4, vec![4, 3, 2]));
    let rolled = run(&server, work.path(), &["rollback", "m", "2"]);
    assert!(rolled.contains("version 2"), "{rolled}");
    assert_eq!(server.get("/m").text(), "two");
    assert_eq!(server.get("/mgnt/m/versions/3/source").text(), constant("m", "/m", "three"));
    assert_eq!(server.get("/mgnt/m/versions/1/source").status, 404);
    // Without the module there are no versions.
    assert_eq!(server.connect().request("DELETE", "/mgnt/m", &[], b"").status, 200);
    for path in ["/mgnt/m", "/mgnt/m/versions", "/mgnt/m/source"] {
        assert!(server.get(path).text().contains("no module named m"), "{path}");
    }
    let gone = server.post("/mgnt/m/rollback?version=3", b"");
    assert!(gone.status == 404 && gone.text().contains("no module named m"), "{}", gone.text());
}

#[test]
fn versions_are_shown_compared_and_pulled() {
    let server = Server::start();
    let work = tempfile::tempdir().unwrap();
    let source = fs::read_to_string(root().join("tests/modules/compress.c")).unwrap();
    fs::write(work.path().join("compress.c"), &source).unwrap();
    run(&server, work.path(), &["deploy", "compress.c", "-m", "first"]);
    fs::write(work.path().join("compress.c"), source.replace("two words", "three words now")).unwrap();
    run(&server, work.path(), &["deploy", "compress.c", "-m", "a\nsecond \u{1b}[31mline"]);
    let list = run(&server, work.path(), &["versions", "compress"]);
    assert!(list.contains("first") && list.contains("live") && !list.contains('\u{1b}'), "{list}");
    let shown = run(&server, work.path(), &["show", "compress"]);
    assert!(shown.contains("version 2") && shown.contains("z 1.") && shown.contains("png 1."), "{shown}");
    assert!(run(&server, work.path(), &["show", "compress@1", "--source"]).contains("two words"));
    let diff = run(&server, work.path(), &["diff", "compress", "1", "2"]);
    assert!(diff.contains("-#pragma cweb cflags(\"-O3\", \"-DGREETING=\\\"two words"), "{diff}");
    assert!(diff.contains("+#pragma cweb cflags(\"-O3\", \"-DGREETING=\\\"three words now"), "{diff}");
    assert!(!diff.contains("-export module_t"), "{diff}");
    fs::remove_file(work.path().join("compress.c")).unwrap();
    run(&server, work.path(), &["pull", "compress"]);
    assert!(fs::read_to_string(work.path().join("compress.c")).unwrap().contains("three words now"));
    assert!(refused(&server, work.path(), &["pull", "compress"]).contains("compress.c"));
    // A project comes back as the directory it was.
    let project = root().join("tests/modules/project");
    run(&server, work.path(), &["deploy", project.to_str().unwrap()]);
    run(&server, work.path(), &["pull", "project"]);
    for file in ["module.toml", "src/main.c", "include/parts.h", "assets/page.html"] {
        let pulled = fs::read(work.path().join("project").join(file)).unwrap();
        assert_eq!(pulled, fs::read(project.join(file)).unwrap(), "{file}");
    }
    assert!(run(&server, work.path(), &["show", "project", "--source"]).contains("src/counted.cpp"));
    for args in [["show", "none"], ["versions", "none"], ["rollback", "none"], ["pull", "none"]] {
        assert!(refused(&server, work.path(), &args).contains("no module named none"), "{args:?}");
    }
    assert!(refused(&server, work.path(), &["diff", "compress", "1", "9"]).contains("no version 9"));
    // With the live one, and with the one before it, where fewer are named.
    let with_live = run(&server, work.path(), &["diff", "compress", "1"]);
    assert_eq!(with_live, diff);
    assert_eq!(run(&server, work.path(), &["diff", "compress"]), diff);
    assert!(run(&server, work.path(), &["diff", "compress", "2", "2"]).contains("are the same"));
}

/// A source that comes alone keeps the name of its file: in reports, for who asks, and when it is fetched.
#[test]
fn a_file_keeps_its_name() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server = Server::on(&dir, &["--isolation", "process", "--shards", "1"], &[]);
    let work = tempfile::tempdir().unwrap();
    let code = "static int at = 0;\nstatic int run(struct cweb_context *c, http_request_t *q, http_response_t *r) {\n\
        if (http_kv_get(q->params, \"crash\")) { at = *(volatile int *)0; }\n\
        return cweb_respond(r, 200, \"text/plain\", __FILE__); }";
    let source = module("named", code, "{\"/named\", \"GET\", run, NONE}", 1, "");
    let post = |name: &str| {
        let head = format!("--b\r\nContent-Disposition: form-data; name=\"code\"; filename=\"{name}\"\r\n\r\n");
        let body = format!("{head}{source}\r\n--b--\r\n");
        let kind = [("Content-Type", "multipart/form-data; boundary=b")];
        let answer = server.connect().request("POST", "/mgnt", &kind, body.as_bytes());
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        server.get("/named").text()
    };
    // What can't be a name in a project is none.
    for name in ["-x.c", "@x.c", "..", "a:b.c", "a*.c", ".c", "thumb.so", &format!("{}.c", "x".repeat(120))] {
        assert_eq!(post(name), "module.c", "{name}");
    }
    fs::write(work.path().join("thumb.c"), &source).unwrap();
    run(&server, work.path(), &["deploy", "thumb.c"]);
    assert_eq!(server.get("/named").text(), "thumb.c");
    assert_eq!(server.get("/named?crash=1").status, 500);
    server.expect_log("#0 run (thumb.c:");
    let shown = || run(&server, work.path(), &["show", "named"]);
    assert!(shown().contains("file       thumb.c"), "{}", shown());
    eventually("its crash is shown", || shown().contains("#0 run (thumb.c:"));
    // The same source under another name is another version with the same hash; without a name it is unchanged.
    assert_eq!(post("sub/\u{fc}ber den dach.c"), "\u{fc}ber den dach.c");
    server.deploy(&source);
    assert_eq!(versions(&server, "named"), (3, vec![3, 2, 1]));
    let hashes = |number: u64| json(&server.get(&format!("/mgnt/named/versions/{number}")))["module_hash"].clone();
    assert_eq!(hashes(2), hashes(3));
    run(&server, work.path(), &["rollback", "named", "2"]);
    assert_eq!(server.get("/named").text(), "thumb.c");
    // It comes back under its name, also over a restart.
    fs::remove_file(work.path().join("thumb.c")).unwrap();
    assert!(run(&server, work.path(), &["pull", "named@2"]).contains("wrote thumb.c"));
    assert_eq!(fs::read_to_string(work.path().join("thumb.c")).unwrap(), source);
    let diff = run(&server, work.path(), &["diff", "named", "2", "3"]);
    assert!(diff.contains("--- thumb.c\n+++ \u{fc}ber den dach.c\n"), "{diff}");
    run(&server, work.path(), &["rollback", "named", "2"]);
    server.stop();
    let server = Server::on(&dir, &["--isolation", "process", "--shards", "1"], &[]);
    assert_eq!(server.get("/named").text(), "thumb.c");
    // A comparison needs two versions: which ones are there is said.
    let said = refused(&server, work.path(), &["diff", "named", "2"]);
    assert!(
        said.contains("version 2 of module named is the live one") && said.contains("other stored versions: 3, 1"),
        "{said}"
    );
    run(&server, work.path(), &["rollback", "named", "1"]);
    assert!(refused(&server, work.path(), &["diff", "named"]).contains("no version before 1"));
}

#[test]
fn modules_from_before_versions_are_their_first() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server = Server::on(&dir, &[], &[]);
    server.deploy(&constant("old", "/old", "old"));
    server.stop();
    // As it was written before there were versions.
    let record = dir.path().join("modules/old.json");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    json.as_object_mut().unwrap().remove("version").unwrap();
    fs::write(&record, json.to_string()).unwrap();
    fs::remove_dir_all(dir.path().join("modules/.versions")).unwrap();
    let server = Server::on(&dir, &[], &[]);
    assert_eq!((server.get("/old").text().as_str(), versions(&server, "old")), ("old", (1, vec![1])));
    server.deploy(&constant("old", "/old", "new"));
    assert_eq!(versions(&server, "old"), (2, vec![2, 1]));
    assert_eq!(server.post("/mgnt/old/rollback", b"").status, 200);
    assert_eq!(server.get("/old").text(), "old");
}

/// A module that answers with the settings that the query names.
#[test]
fn a_module_whose_list_of_versions_is_damaged_is_served_but_not_deployed() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server = Server::on(&dir, &[], &[]);
    server.deploy(&constant("shop", "/shop", "one"));
    server.stop();
    let list = dir.path().join("modules/.versions/shop.json");
    let text = std::fs::read(&list).unwrap();
    std::fs::write(&list, &text[..text.len() / 2]).unwrap();
    let server = Server::on(&dir, &[], &[]);
    assert_eq!(server.get("/shop").text(), "one", "{}", server.log());
    server.expect_log("module shop is served, but can't be deployed");
    let refused = server.try_deploy(&constant("shop", "/shop", "two"));
    assert!(refused.status >= 400 && refused.text().contains("shop.json"), "{}", refused.text());
    assert_eq!(server.get("/shop").text(), "one");
    std::fs::write(&list, &text).unwrap();
    server.deploy(&constant("shop", "/shop", "two"));
    assert_eq!((server.get("/shop").text(), versions(&server, "shop")), ("two".to_owned(), (2, vec![2, 1])));
}

fn reader(name: &str) -> String {
    let code = "static char at_load[64] = \"none\";\n\
        static void load(struct cweb_context *c) { const char *v = cweb_setting(c, \"TOKEN\"); if (v) snprintf(at_load, sizeof at_load, \"%s\", v); }\n\
        static int h(struct cweb_context *c, http_request_t *q, http_response_t *r) {\n\
        const char *v = cweb_setting(c, http_kv_get(q->params, \"key\"));\n\
        return cweb_respond(r, 200, \"text/plain\", \"%s %s\", v ? v : \"(none)\", at_load); }";
    module(name, code, &format!("{{\"/{name}\", \"GET\", h, NONE}}"), 1, ".onload = load")
}

#[test]
fn settings_and_secrets_reach_the_running_module() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server = Server::on(&dir, &[], &[]);
    let work = tempfile::tempdir().unwrap();
    let get = |key: &str| server.get(&format!("/reader?key={key}")).text();
    let secret = |value: &str| {
        let set = server.connect().request("PUT", "/mgnt/reader/secrets/TOKEN", &[], value.as_bytes());
        assert_eq!(set.status, 200, "{}", set.text());
        assert!(!set.text().contains(value));
    };
    // Before it is deployed: onload finds it.
    secret("s3cret-one");
    server.deploy(&reader("reader"));
    server.deploy(&reader("stranger"));
    assert_eq!(get("TOKEN"), "s3cret-one s3cret-one");
    run(&server, work.path(), &["config", "set", "reader", "LEVEL=a=b", "OTHER=2"]);
    assert_eq!(get("LEVEL"), "a=b s3cret-one");
    secret("s3cret-two");
    assert_eq!(get("TOKEN"), "s3cret-two s3cret-one");
    run(&server, work.path(), &["config", "remove", "reader", "LEVEL"]);
    assert_eq!(get("LEVEL"), "(none) s3cret-one");
    assert_eq!(server.get("/stranger?key=TOKEN").text(), "(none) none");
    if isolation() == "process" {
        // The process that follows a crash finds the same.
        let pid = |json: serde_json::Value| json["domains"][0]["pid"].as_u64().unwrap_or_default();
        let before = pid(json(&server.get("/mgnt")));
        signal(u32::try_from(before).unwrap(), "KILL");
        eventually("another process", || {
            let now = pid(json(&server.get("/mgnt")));
            now != before && now != 0
        });
        assert_eq!(get("TOKEN"), "s3cret-two s3cret-two");
        // Nor has a module in another domain the secret.
        assert_eq!(server.post("/mgnt?domain=elsewhere", reader("foreign").as_bytes()).status, 200);
        assert_eq!(server.get("/foreign?key=TOKEN").text(), "(none) none");
    }
    // It is shown nowhere.
    let listed = run(&server, work.path(), &["config", "list", "reader"]);
    assert!(listed.contains("OTHER=2") && listed.contains("TOKEN") && !listed.contains("s3cret"), "{listed}");
    let told = [server.get("/mgnt/reader/settings"), server.get("/mgnt/reader"), server.get("/mgnt")];
    assert!(told.iter().all(|answer| answer.status == 200 && !answer.text().contains("s3cret")));
    let kept = dir.path().join("modules/.settings/reader.json");
    assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(kept.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    for pid in server.processes() {
        for file in ["cmdline", "environ"] {
            let text = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            assert!(!String::from_utf8_lossy(&text).contains("s3cret"), "{file} of {pid}");
        }
    }
    for (path, value) in [("settings/a%20b", "x"), ("settings/TOKEN", "x"), ("secrets/N", "a\0b")] {
        let answer = server.connect().request("PUT", &format!("/mgnt/reader/{path}"), &[], value.as_bytes());
        assert_eq!(answer.status, 400, "{path}: {}", answer.text());
    }
    let large = server.connect().request("PUT", "/mgnt/reader/secrets/L", &[], &[b'x'; 65 * 1024]);
    assert_eq!(large.status, 400, "{}", large.text());
    let log = server.stop();
    assert!(log.contains("set secret") && !log.contains("s3cret"), "{log}");
    let server = Server::on(&dir, &[], &[]);
    assert_eq!(server.get("/reader?key=TOKEN").text(), "s3cret-two s3cret-two");
    // Another module of the name finds nothing of it.
    assert_eq!(server.connect().request("DELETE", "/mgnt/reader", &[], b"").status, 200);
    for gone in [server.get("/mgnt/reader/versions/1"), server.post("/mgnt/reader/rollback?version=1", b"")] {
        assert!(gone.status == 404 && gone.text().contains("there is no module named reader"), "{}", gone.text());
    }
    server.deploy(&reader("reader"));
    assert_eq!(server.get("/reader?key=TOKEN").text(), "(none) none");
}

#[test]
fn a_project_has_default_settings_and_a_secret_comes_from_standard_input() {
    let server = Server::start();
    let work = tempfile::tempdir().unwrap();
    fs::write(work.path().join("main.c"), reader("reader")).unwrap();
    fs::write(work.path().join("module.toml"), "[settings]\nA = \"default\"\nN = 7\nYES = true\n").unwrap();
    run(&server, work.path(), &["deploy", "."]);
    let get = |key: &str| server.get(&format!("/reader?key={key}")).text();
    assert_eq!((get("A").as_str(), get("N").as_str(), get("YES").as_str()), ("default none", "7 none", "true none"));
    run(&server, work.path(), &["config", "set", "reader", "A=mine"]);
    assert_eq!(get("A"), "mine none");
    run(&server, work.path(), &["config", "remove", "reader", "A"]);
    assert_eq!(get("A"), "default none");
    let shell = format!(
        "printf 'from stdin\\n' | {} secret set reader KEY --server {}",
        env!("CARGO_BIN_EXE_cweb"),
        server.addr
    );
    let output = std::process::Command::new("sh").args(["-c", &shell]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // One line break at the end is the terminal's.
    assert_eq!(get("KEY"), "from stdin none");
    run(&server, work.path(), &["secret", "remove", "reader", "KEY"]);
    assert_eq!(get("KEY"), "(none) none");
    assert!(refused(&server, work.path(), &["secret", "remove", "reader", "KEY"]).contains("no secret KEY"));
    assert!(refused(&server, work.path(), &["config", "set", "reader", "A"]).contains("KEY=VALUE"));
    assert!(!run(&server, work.path(), &["config", "set", "reader", "A=b"]).contains("note:"));
    assert!(
        run(&server, work.path(), &["config", "set", "raeder", "A=b"]).contains("no module named raeder is deployed")
    );
}

#[test]
fn an_on_setting_that_never_returns_holds_up_no_deployment() {
    let server = Server::with(&["--hook-timeout-ms", "600000"]);
    let stuck = |text: &str| {
        let code = format!(
            "#include <unistd.h>\n\
             static _Atomic int calls;\n\
             static void changed(struct cweb_context *c, const char *key) {{ calls++; for (;;) pause(); }}\n\
             static int h(struct cweb_context *c, http_request_t *q, http_response_t *r) {{\n\
             return cweb_respond(r, 200, \"text/plain\", \"{text} %s %d\", cweb_setting(c, \"A\"), calls); }}"
        );
        module("stuck", &code, "{\"/stuck\", \"GET\", h, NONE}", 1, ".on_setting = changed")
    };
    let set = |value: usize| {
        let mut client = server.connect();
        let (value, head) =
            (value.to_string(), "PUT /mgnt/stuck/settings/A HTTP/1.1\r\nHost: localhost\r\nContent-Length:");
        client.send(format!("{head} {}\r\n\r\n{value}", value.len()).as_bytes());
        client
    };
    server.deploy(&stuck("one"));
    let first = set(1);
    eventually("the callback is called", || server.get("/stuck").text() == "one 1 1");
    // More of them than there are threads for deployments.
    let mut waiting = vec![first];
    for value in 2..=65 {
        waiting.push(set(value));
        eventually("the change is made", || server.get("/stuck").text() == format!("one {value} 1"));
    }
    server.deploy(&constant("other", "/other", "served"));
    assert_eq!(server.get("/other").text(), "served");
    let refused = set(66).response();
    assert!(refused.status == 503 && refused.text().contains("its on_setting function"), "{}", refused.text());
    server.deploy(&stuck("two"));
    assert_eq!(server.get("/stuck").text(), "two 65 0");
}

#[test]
fn a_key_for_reading_sees_no_source_and_changes_nothing() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let entry = |name: &str, scopes: &str| {
        format!("[[key]]\nname = \"{name}\"\nkey = \"the-key-of-{name}-here\"\nscopes = [{scopes}]\n")
    };
    let file = dir.path().join("keys.toml");
    fs::write(&file, entry("reader", "\"read\"") + &entry("author", "\"deploy\", \"read\"")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let server = Server::on(&dir, &["--keys-file", file.to_str().unwrap()], &[]);
    let ask = |key: &str, method: &str, path: &str, body: &[u8]| {
        let key = format!("the-key-of-{key}-here");
        server.connect().request(method, path, &[("X-API-Key", &key)], body)
    };
    for text in ["one", "two"] {
        assert_eq!(ask("author", "POST", "/mgnt", constant("m", "/m", text).as_bytes()).status, 200);
    }
    assert_eq!(json(&ask("reader", "GET", "/mgnt/m", b""))["by"], "author");
    assert_eq!(ask("reader", "GET", "/mgnt/m/versions", b"").status, 200);
    for (method, path) in [
        ("GET", "/mgnt/m/source"),
        ("GET", "/mgnt/m/versions/1/source"),
        ("POST", "/mgnt/m/rollback"),
        ("PUT", "/mgnt/m/settings/A"),
        ("PUT", "/mgnt/m/secrets/A"),
        ("DELETE", "/mgnt/m/secrets/A"),
    ] {
        assert_eq!(ask("reader", method, path, b"x").status, 403, "{method} {path}");
    }
    assert_eq!(server.get("/m").text(), "two");
    assert_eq!(ask("author", "GET", "/mgnt/m/source", b"").status, 200);
    assert_eq!(ask("author", "POST", "/mgnt/m/rollback", b"").status, 200);
    assert_eq!(server.get("/m").text(), "one");
}
