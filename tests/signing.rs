//! Who may deploy what: modules of other keys, and signed sources.

use crate::support::{Running, Server, constant, cweb, eventually};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

fn key_of(name: &str) -> String {
    format!("the-key-of-{name}-here")
}

/// A file of keys that may deploy.
fn keys(dir: &Path, names: &[&str]) -> String {
    let entry = |name: &&str| {
        format!("[[key]]\nname = \"{name}\"\nkey = \"{}\"\nscopes = [\"deploy\", \"read\"]\n", key_of(name))
    };
    let file = dir.join("keys.toml");
    fs::write(&file, names.iter().map(entry).collect::<String>()).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn a_module_of_another_key_asks_for_take_over() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server = Server::on(&dir, &["--keys-file", &keys(dir.path(), &["ann", "bob"])], &[]);
    let deploy = |who: &str, text: &str, more: &[&str]| {
        fs::write(dir.path().join("m.c"), constant("m", "/m", text)).unwrap();
        let args = [&["deploy", "m.c", "--server", &server.addr], more].concat();
        cweb(&args, dir.path(), &[("CWEB_ADMIN_KEY", &key_of(who))])
    };
    assert!(deploy("ann", "one", &[]).0);
    assert!(deploy("ann", "two", &[]).0, "her own");
    let (done, said) = deploy("bob", "bob's", &[]);
    assert!(
        !done && said.contains("(409)") && said.contains("by the key ann") && said.contains("--take-over"),
        "{said}"
    );
    assert_eq!(server.get("/m").text(), "two");
    assert!(deploy("bob", "two", &[]).0, "the same source changes nothing");
    let (done, said) = deploy("bob", "bob's", &["--take-over"]);
    assert!(done, "{said}");
    assert_eq!(server.get("/m").text(), "bob's");
    assert!(!deploy("ann", "three", &[]).0, "it is bob's now");
    server.stop();
    // With one key there is nobody else to ask.
    let server = Server::on(&dir, &["--keys-file", &keys(dir.path(), &["ann"])], &[]);
    let key = [("X-API-Key", &*key_of("ann"))];
    let answer = server.connect().request("POST", "/mgnt", &key, constant("m", "/m", "four").as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// A project of two files that answers `text`.
fn project(dir: &Path, text: &str) {
    fs::create_dir_all(dir.join("shop/include")).unwrap();
    fs::write(dir.join("shop/module.toml"), "name = \"shop\"\n[settings]\nA = \"1\"\n").unwrap();
    fs::write(dir.join("shop/include/text.h"), format!("#define TEXT \"{text}\"\n")).unwrap();
    let main = constant("shop", "/shop", "TEXT").replace("\"TEXT\"", "TEXT");
    fs::write(dir.join("shop/main.c"), format!("#include \"text.h\"\n{main}")).unwrap();
}

#[test]
fn sources_are_signed_by_those_who_are_trusted() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let path = dir.path();
    for name in ["alice", "mallory"] {
        let (done, said) = cweb(&["keygen", "--signing", name], path, &[]);
        assert!(done && said.contains(" ed25519 "), "{said}");
        assert_eq!(fs::metadata(path.join(format!("{name}.key"))).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(path.join(name), said.lines().next().unwrap().to_owned() + "\n").unwrap();
        assert!(!cweb(&["keygen", "--signing", name], path, &[]).0, "a key is not overwritten");
    }
    let trusted = path.join("trusted");
    fs::copy(path.join("alice"), &trusted).unwrap();
    fs::write(path.join("open.c"), constant("open", "/open", "before")).unwrap();
    let server = Server::on(&dir, &[], &[]);
    let run = |server: &Server, args: &[&str]| cweb(&[args, &["--server", &server.addr]].concat(), path, &[]);
    assert!(run(&server, &["deploy", "open.c"]).0);
    server.stop();
    let server = Server::on(&dir, &["--trusted-signers", trusted.to_str().unwrap()], &[]);
    assert_eq!(server.get("/open").text(), "before", "what was there is served");
    project(path, "one");
    let refused = |args: &[&str], words: &str| {
        let (done, said) = run(&server, args);
        assert!(!done && said.contains(words), "{args:?}: {said}");
    };
    refused(&["deploy", "shop"], "not signed");
    refused(&["deploy", "shop", "--sign", "mallory.key"], "not in --trusted-signers");
    refused(&["deploy", "shop", "--sign", "trusted"], "not a key of cweb keygen --signing");
    let (done, said) = run(&server, &["deploy", "shop", "--sign", "alice.key"]);
    assert!(done, "{said}");
    assert_eq!(server.get("/shop").text(), "one");
    assert!(run(&server, &["show", "shop"]).1.contains("signed     by alice"));
    project(path, "two");
    assert!(run(&server, &["deploy", "shop", "--sign", "alice.key"]).0);
    // One file with its name, and a field that counts.
    fs::write(path.join("open.c"), constant("open", "/open", "after")).unwrap();
    assert!(run(&server, &["deploy", "open.c", "--sign", "alice.key"]).0);
    assert!(run(&server, &["versions", "open"]).1.contains("(signed by alice)"));
    refused(&["rollback", "open", "1"], "this version is not signed");
    // What was signed, with another file, header or module.toml.
    let signature = |name: &str| {
        let versions = server.get(&format!("/mgnt/{name}")).text();
        let json: serde_json::Value = serde_json::from_str(&versions).unwrap();
        format!("ed25519:{}:{}", json["signing_key"].as_str().unwrap(), json["signature"].as_str().unwrap())
    };
    for changed in ["shop/include/text.h", "shop/module.toml", "shop/main.c"] {
        project(path, "two");
        let file = path.join(changed);
        let comment = if changed.ends_with("toml") { "# x\n" } else { "// x\n" };
        fs::write(&file, fs::read_to_string(&file).unwrap() + comment).unwrap();
        let tar = std::process::Command::new("tar").args(["c", "-C", "shop", "."]).current_dir(path).output().unwrap();
        let answer = server.post(&format!("/mgnt?signature={}", signature("shop")), &tar.stdout);
        assert!(answer.status == 422 && answer.text().contains("does not fit"), "{changed}: {}", answer.text());
    }
    let source = constant("open", "/open", "after");
    let fields = format!("/mgnt?signature={}&filename=open.c&name=other", signature("open"));
    assert!(server.post(&fields, source.as_bytes()).text().contains("does not fit"));
    assert_eq!(server.post("/mgnt?signature=x", source.as_bytes()).status, 422);
    assert!(run(&server, &["rollback", "shop", "1"]).0, "signed by one who is trusted");
    assert_eq!(server.get("/shop").text(), "one");
    // One who is not trusted any more.
    fs::copy(path.join("mallory"), &trusted).unwrap();
    refused(&["rollback", "shop", "2"], "not in --trusted-signers");
    fs::write(&trusted, "nonsense\n").unwrap();
    refused(&["rollback", "shop", "2"], "line 1");
    assert_eq!(server.get("/shop").text(), "one");
    server.stop();
    let (done, said) = cweb(&["serve", "--port", "0", "--data-dir", ".", "--trusted-signers", "trusted"], path, &[]);
    assert!(!done && said.contains("line 1: write NAME ed25519 KEY"), "{said}");
}

#[test]
fn dev_signs_what_it_deploys() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let path = dir.path();
    let (done, said) = cweb(&["keygen", "--signing", "alice"], path, &[]);
    assert!(done, "{said}");
    fs::write(path.join("trusted"), said.lines().next().unwrap().to_owned() + "\n").unwrap();
    let server = Server::on(&dir, &["--trusted-signers", path.join("trusted").to_str().unwrap()], &[]);
    project(path, "one");
    let out = path.join("out");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_cweb"));
    command.args(["dev", "shop", "--sign", "alice.key", "--server", &server.addr]).current_dir(path);
    let _dev = Running(command.stdout(fs::File::create(&out).unwrap()).spawn().unwrap());
    eventually("the project is served", || server.get("/shop").text() == "one");
    project(path, "two");
    eventually("the change is served", || server.get("/shop").text() == "two");
    let (done, said) = cweb(&["dev", "shop", "--sign", "trusted", "--server", &server.addr], path, &[]);
    assert!(!done && said.contains("not a key of cweb keygen --signing"), "{said}");
}
