//! Modules as ready shared objects: in C, Rust and Zig, built by their own tools; and all that is no module.

use crate::support::{Response, Server, cweb, eventually, isolation, root};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// Runs a tool that must succeed.
fn tool(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Compiles a source of `tests/modules/ready` with cc, into `dir`.
fn built(dir: &Path, source: &str, name: &str, flags: &[&str]) -> PathBuf {
    let file = dir.join(name);
    let source = root().join("tests/modules/ready").join(source);
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-w", "-O1", "-I", root().join("include").to_str().unwrap(), "-o"]);
    tool(cc.arg(&file).arg(source).args(flags).current_dir(dir));
    file
}

/// Posts a shared object as `curl -F code=@FILE` does.
fn post(server: &Server, bytes: &[u8]) -> Response {
    let head = b"--b\r\nContent-Disposition: form-data; name=\"code\"; filename=\"x.so\"\r\n\r\n";
    let body = [head, bytes, b"\r\n--b--\r\n"].concat();
    server.connect().request("POST", "/mgnt", &[("Content-Type", "multipart/form-data; boundary=b")], &body)
}

fn run(server: &Server, dir: &Path, args: &[&str], succeeds: bool) -> String {
    let (done, said) = cweb(&[args, &["--server", &server.addr]].concat(), dir, &[]);
    assert_eq!(done, succeeds, "{args:?}: {said}\n{}", server.log());
    said
}

/// Deployments, settings, rollbacks and restarts of a module that comes as a shared object.
#[test]
fn a_shared_object_has_versions_settings_and_restarts_like_any_module() {
    let (dir, work) = (Arc::new(tempfile::tempdir().unwrap()), tempfile::tempdir().unwrap());
    let at = work.path();
    let link = ["-g", "-Wl,--no-as-needed", "-ljansson", "-lz"];
    let one = built(at, "plain.c", "one.so", &link);
    built(at, "plain.c", "two.so", &[&link[..], &["-DTEXT=\"two\""]].concat());
    // Never by accident: without the flag, however the file is called.
    let server = Server::on(&dir, &[], &[]);
    let refused = post(&server, &fs::read(&one).unwrap());
    assert!(refused.status == 422 && refused.text().contains("cweb serve --allow-binary"), "{}", refused.text());
    server.stop();
    let server = Server::on(&dir, &["--allow-binary"], &[]);
    let first = post(&server, &fs::read(&one).unwrap());
    assert_eq!(first.status, 200, "{}", first.text());
    assert_eq!(server.get("/plain").text(), "one");
    assert!(server.get("/mgnt").text().contains("\"plain\""));
    assert!(run(&server, at, &["deploy", "two.so", "-m", "the second"], true).contains("module plain"));
    assert_eq!(server.get("/plain").text(), "two");
    // Settings reach it; a crash costs its request.
    run(&server, at, &["config", "set", "plain", "TEXT=set"], true);
    assert_eq!(server.get("/plain").text(), "set");
    run(&server, at, &["config", "remove", "plain", "TEXT"], true);
    assert_eq!(server.get("/plain/crash").status, 500);
    eventually("the module after the crash", || server.get("/plain").status == 200);
    let answer = server.get("/mgnt/plain").text();
    assert!(answer.contains("it uses _exit, which the server replaces in compiled modules only"), "{answer}");
    // exit(3) ends its request at once, and nothing else.
    assert_eq!(server.get("/plain/leave").status, 500);
    eventually("the fault", || server.get("/mgnt/plain/logs").text().contains("called exit(3)"));
    assert_eq!(server.get("/plain").text(), "two");
    if isolation() == "process" {
        assert_eq!(server.get("/plain/exit").status, 500);
        assert_eq!(server.get("/plain").text(), "two");
    }
    for (limits, words) in [
        ("{4ULL, 1ULL << 60, 5, 2000000}", &["handler_time_ms = 1152921504606846976", "job_concurrency = 2000000"][..]),
        ("{9ULL, 1, 1, 1}", &["it has 9 words"]),
    ] {
        let absurd = built(at, "plain.c", "absurd.so", &[&link[..], &[&format!("-DABSURD={limits}")]].concat());
        let said = run(&server, at, &["deploy", absurd.to_str().unwrap()], false);
        assert!(words.iter().all(|words| said.contains(words)) && said.contains("cweb_module_limits"), "{said}");
    }
    // Versions, with the object as their source.
    let shown = run(&server, at, &["show", "plain"], true);
    assert!(shown.contains("version 2, live") && shown.contains("a ready shared object"), "{shown}");
    assert!(shown.contains("library    z 1.") && shown.contains("the second") && !shown.contains("jansson"), "{shown}");
    assert!(run(&server, at, &["diff", "plain", "1", "2"], true).contains("the bytes differ"));
    assert!(run(&server, at, &["show", "plain", "--source"], true).contains(" bytes)"));
    run(&server, at, &["pull", "plain@1"], true);
    assert_eq!(fs::read(at.join("plain.so")).unwrap(), fs::read(&one).unwrap());
    assert!(run(&server, at, &["rollback", "plain"], true).contains("version 1"));
    assert_eq!(server.get("/plain").text(), "one");
    let sanitized = run(&server, at, &["deploy", "--sanitize", "address", "one.so"], false);
    assert!(sanitized.contains("a ready shared object comes without source"), "{sanitized}");
    let sanitized = run(&server, at, &["deploy", "--sanitize", "address", "plain"], false);
    assert!(sanitized.contains("a ready shared object comes without source"), "{sanitized}");
    let with_field = server.post("/mgnt?mount=/x", &fs::read(&one).unwrap());
    assert!(
        with_field.status == 200 && with_field.text().contains("field mount has no effect"),
        "{}",
        with_field.text()
    );
    let as_file = server.connect().request(
        "POST",
        "/mgnt",
        &[("Content-Type", "multipart/form-data; boundary=b")],
        &[
            b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x.so\"\r\n\r\n",
            &*fs::read(&one).unwrap(),
            b"\r\n--b--\r\n",
        ]
        .concat(),
    );
    assert!(as_file.status == 422 && as_file.text().contains("deploy it alone"), "{}", as_file.text());
    server.stop();
    // Without the flag a module that was deployed with it is not loaded; with the flag it is served again. Signatures cover it.
    let server = Server::on(&dir, &[], &[]);
    server.expect_log("cweb serve --allow-binary");
    assert_eq!(server.get("/plain").status, 404);
    server.stop();
    fs::write(
        at.join("signers"),
        cweb(&["keygen", "--signing", "ann"], at, &[]).1.lines().next().unwrap().to_owned() + "\n",
    )
    .unwrap();
    let signers = at.join("signers");
    let server = Server::on(&dir, &["--allow-binary", "--trusted-signers", signers.to_str().unwrap()], &[]);
    assert_eq!(server.get("/plain").text(), "one");
    assert!(run(&server, at, &["deploy", "two.so"], false).contains("not signed"));
    run(&server, at, &["deploy", "two.so", "--sign", "ann.key"], true);
    assert_eq!(server.get("/plain").text(), "two");
    assert!(run(&server, at, &["rollback", "plain", "1"], false).contains("not signed"));
    assert_eq!(server.connect().request("DELETE", "/mgnt/plain", &[], b"").status, 200);
    assert_eq!(server.get("/plain").status, 404);
}

/// A library whose file says that it is called `soname`.
fn library(dir: &Path, file: &str, soname: Option<&str>) -> String {
    let soname = soname.map(|soname| format!("-Wl,-soname,{soname}"));
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-x", "c", "/dev/null", "-o", file]).args(soname).current_dir(dir);
    tool(&mut cc);
    file.to_owned()
}

#[test]
fn what_can_be_no_module_is_refused_with_a_sentence() {
    let work = tempfile::tempdir().unwrap();
    let at = work.path();
    let server = Server::with(&["--allow-binary", "--project-bytes-max", "400000"]);
    let size = "-DCONFIG_BYTES=14904";
    let curl = library(at, "libcurl.so", Some("libcurl.so.4"));
    let gone = library(at, "libz.so", Some("libz.so.99"));
    let placed = library(at, "./placed.so", None);
    let cases: [(&[&str], &[&str]); 16] = [
        (
            &["-DNOTHING"],
            &[
                "no symbol cweb_module_abi",
                "no symbol cweb_module_api",
                "no function cweb_bind_host",
                "no symbol config",
            ],
        ),
        (
            &["-DABI=9", "-DAPI=2", "-DCONFIG_BYTES=100"],
            &[
                "cweb_module_abi is 9, and this server accepts 2 only",
                "cweb_module_api is 2, and this server accepts 3 only",
                "config has 100 bytes, and module_t of this server has 14904",
            ],
        ),
        (
            &[size, "-DMISSING"],
            &[
                "that the object names define ",
                "nobody_has_this",
                "cweb_respond",
                "-Wl,-z,defs",
                "must use the function table that cweb_bind_host gets",
            ],
        ),
        (&[size, "-Wl,--no-as-needed", &curl], &["needs the library libcurl.so.4", "cweb serve --allow-lib curl"]),
        (&[size, "-Wl,--no-as-needed", &gone], &["libz.so.99: cannot open shared object file"]),
        (&[size, "-Wl,--no-as-needed", &placed], &["\"./placed.so\" by a path"]),
        (&[size, "-Wl,-rpath,/opt/x"], &["DT_RUNPATH \"/opt/x\""]),
        (&[size, "-Wl,-rpath,$ORIGIN,--disable-new-dtags"], &["DT_RPATH \"$ORIGIN\""]),
        (&[size, "-Wl,--audit,/tmp/a.so"], &["DT_AUDIT \"/tmp/a.so\""]),
        (&[size, "-Wl,-f,libz.so.1"], &["DT_AUXILIARY \"libz.so.1\""]),
        (&[size, "-Wl,-z,execstack"], &["asks for an executable stack"]),
        (&[size, "-DTEXT_RELOCATION", "-Wl,-z,notext"], &["text relocations", "-fPIC"]),
        (&[size, "-Wl,-z,interpose"], &["DF_1_INTERPOSE"]),
        (&[size, "-nostdlib", "-Wl,-N"], &["both writable and executable"]),
        (&[size, "-DDIES"], &["a constructor of the module failed: SIGABRT"]),
        (&["-c", size], &["not linked yet (ET_REL)"]),
    ];
    for (flags, words) in cases {
        let file = built(at, "bare.c", "bare.so", flags);
        let answer = post(&server, &fs::read(&file).unwrap());
        let text = answer.text();
        let says_all = words.iter().all(|words| text.contains(words));
        assert!(answer.status == 422 && says_all, "{flags:?}: {} {text}", answer.status);
    }
    // Without any of that it is a module.
    let whole = fs::read(built(at, "bare.c", "bare.so", &[size])).unwrap();
    assert_eq!(post(&server, &whole).status, 200);
    // Cut off, damaged, of another machine, too large.
    let mut other = whole.clone();
    other[18] = 243;
    let mut segment = whole.clone();
    // The size in the file of the first segment.
    segment[64 + 32..64 + 40].copy_from_slice(&u64::MAX.to_le_bytes());
    let large = [&whole[..], &vec![0; 400_000]].concat();
    for (bytes, words) in [
        (&whole[..30], "the upload was cut off"),
        (&whole[..200], "go beyond its end at 200"),
        (&whole[..whole.len() / 8], "cut off"),
        (&other, "was built for riscv64, and this server runs on"),
        (&segment, "cut off, or the header is wrong"),
        (&large, "the limit of --project-bytes-max"),
    ] {
        let answer = post(&server, bytes);
        assert!(answer.status == 422 && answer.text().contains(words), "{words}: {}", answer.text());
    }
    // Debug information proves how many arguments the functions take; without it there is a warning.
    let wrong = built(at, "plain.c", "wrong.so", &["-g", "-DTWO_ARGUMENTS", "-ljansson"]);
    let answer = post(&server, &fs::read(&wrong).unwrap());
    let words = "config.routes[0].handler: the function takes 2 arguments, but would be called with 3";
    assert!(answer.status == 422 && answer.text().contains(words), "{}", answer.text());
    let plain = built(at, "plain.c", "plain.so", &["-s", "-ljansson"]);
    for _ in 0..2 {
        let said = run(&server, at, &["deploy", "plain.so"], true);
        assert!(
            said.contains(
                "can't find a wrong number: config.routes[0].handler, config.routes[1].handler, config.routes[2].handler"
            ),
            "{said}"
        );
    }
    assert_eq!(server.get("/plain").text(), "one");
    // The same checks by `cweb check`, without a server.
    let (done, said) = cweb(&["check", plain.to_str().unwrap()], at, &[]);
    assert!(done && said.contains("module plain") && said.contains("can't find a wrong number"), "{said}");
    let (done, said) = cweb(&["test", plain.to_str().unwrap()], at, &[]);
    assert!(!done && said.contains("compiled into a module from its source"), "{said}");
}

/// Deploys a module in another language, and swaps it.
fn serves(server: &Server, file: &Path, path: &str, cases: &[(&str, u16, &str)]) {
    let dir = file.parent().unwrap();
    let deployed = run(server, dir, &["deploy", file.to_str().unwrap()], true);
    assert!(deployed.contains(&format!("{path}/[0-9]+")), "{deployed}");
    for (number, status, text) in cases {
        let answer = server.get(&format!("{path}/{number}"));
        assert_eq!((answer.status, answer.text().as_str()), (*status, *text), "{path}/{number} {}", server.log());
    }
}

const LARGE: &str = "the number is too large\n";

#[test]
fn a_module_in_rust_keeps_its_panics() {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("rust-{}", isolation()));
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args([
        "build",
        "--quiet",
        "--release",
        "--locked",
        "--offline",
        "--manifest-path",
        "example/rust/Cargo.toml",
    ]);
    tool(cargo.env("CARGO_TARGET_DIR", &target).env_remove("RUSTFLAGS").current_dir(root()));
    let file = target.join("release/libsquare.so");
    let server = Server::with(&["--allow-binary"]);
    let panics =
        [("12", 200, "144\n"), ("4294967296", 422, LARGE), ("99999999999999999999", 422, LARGE), ("3", 200, "9\n")];
    serves(&server, &file, "/rust", &panics);
    assert!(!server.get("/mgnt").text().contains("SIG"), "no crash");
    // Another version of it takes its place: a line more at the end of the file is another file.
    fs::write(target.join("next.so"), [&fs::read(&file).unwrap()[..], b"\n"].concat()).unwrap();
    run(&server, &target, &["deploy", "next.so"], true);
    assert_eq!((server.get("/rust/5").text().as_str(), server.get("/mgnt/square").status), ("25\n", 200));
    assert!(server.get("/mgnt/square").text().contains("\"version\":2"), "{}", server.get("/mgnt/square").text());
}

/// How Zig is started here, if it is installed: as a program, or as the Python package ziglang.
fn zig() -> Option<Vec<String>> {
    let named = std::env::var("CWEB_TEST_ZIG").ok().map(|path| vec![path]);
    let ways = [vec!["zig".to_owned()], ["python3", "-m", "ziglang"].map(str::to_owned).to_vec()];
    let works = |way: &Vec<String>| {
        Command::new(&way[0]).args(&way[1..]).arg("version").output().is_ok_and(|output| output.status.success())
    };
    named.into_iter().chain(ways).find(works)
}

#[test]
fn a_module_in_zig_is_served() {
    let Some(zig) = zig() else {
        println!("ignored: zig is not installed (CWEB_TEST_ZIG, zig, or python3 -m ziglang)");
        return;
    };
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("zig-{}", isolation()));
    fs::create_dir_all(&dir).unwrap();
    let mut build = Command::new(&zig[0]);
    build.args(&zig[1..]).args(["build-lib", "-dynamic", "-O", "ReleaseSafe", "--cache-dir", "cache"]);
    tool(build.arg(root().join("example/zig/cube.zig")).current_dir(&dir));
    let server = Server::with(&["--allow-binary"]);
    let cases = [("12", 200, "1728\n"), ("4294967296", 422, LARGE), ("3", 200, "27\n")];
    serves(&server, &dir.join("libcube.so"), "/zig", &cases);
}
