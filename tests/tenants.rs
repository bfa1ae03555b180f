//! The walls between domains: no module uses what is another domain's, and no other user of the machine what is the server's.

use crate::support::{self, Server, eventually, root};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The module `name` of `tests/modules/tenant.c`, whose paths begin with `/name`.
fn tenant(name: &str) -> String {
    let source = fs::read_to_string(root().join("tests/modules/tenant.c")).unwrap();
    format!("#define NAME \"{name}\"\n{source}")
}

fn deploy(server: &Server, name: &str, domain: &str) {
    let answer = server.post(&format!("/mgnt?domain={domain}"), tenant(name).as_bytes());
    assert_eq!(answer.status, 200, "{}\n{}", answer.text(), server.log());
}

fn two_domains(args: &[&str]) -> Server {
    let server = Server::with(&[&["--isolation", "process"], args].concat());
    deploy(&server, "one", "one");
    deploy(&server, "two", "two");
    deploy(&server, "beside", "one");
    server
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode() & 0o777
}

#[test]
fn a_token_is_of_its_domain_audience_and_time() {
    let keys = tempfile::tempdir().unwrap();
    let key = keys.path().join("token.pem");
    let server = two_domains(&["--token-key", key.to_str().unwrap()]);
    let text = |path: &str| server.get(path).text();
    let token = text("/one/sign?token=hello");
    let verify = |module: &str, rest: &str, token: &str| {
        let token = token.replace('+', "%2B").replace('=', "%3D");
        text(&format!("/{module}/verify?signed={token}&{rest}"))
    };
    assert_eq!(verify("one", "token=hello", &token), "valid");
    assert_eq!(verify("beside", "token=hello", &token), "valid", "modules of a domain trust each other");
    assert_eq!(verify("two", "token=hello", &token), "not valid", "another domain's is none");
    assert_eq!(verify("one", "token=other", &token), "not valid");
    let token = text("/one/sign?token=hello&audience=beside&valid_s=1000");
    assert_eq!(verify("beside", "token=hello&audience=beside", &token), "valid");
    assert_eq!(verify("beside", "token=hello", &token), "not valid");
    assert_eq!(verify("two", "token=hello&audience=beside", &token), "not valid");
    let late = format!("{}.1", token.split('.').next().unwrap());
    assert_eq!(verify("one", "token=hello&audience=beside", &late), "not valid");
    // The key was made where it was named, for its owner alone, and the public one beside it.
    let made = (mode(&key), fs::read_to_string(keys.path().join("token.pem.pub")).unwrap());
    assert!(made.0 == 0o600 && made.1.starts_with("-----BEGIN PUBLIC KEY-----"), "{made:?}");
}

#[test]
fn a_database_is_of_its_domain_and_a_damaged_one_is_moved_aside() {
    let server = two_domains(&[]);
    let text = |path: &str| server.get(path).text();
    for name in ["one", "two"] {
        assert_eq!(text(&format!("/{name}/count")), "1", "{}", server.log());
        assert_eq!(text(&format!("/{name}/count")), "2");
    }
    assert_eq!(text("/beside/count"), "3", "the modules of a domain share one");
    let file = |name: &str| file_of(&server.dir, name);
    assert_eq!(mode(&file("one")), 0o600);
    // Neither the file of another domain nor its modules can be opened.
    let objects = server.dir.path().join("modules/.run/two");
    let object = fs::read_dir(&objects).unwrap().next().unwrap().unwrap().path();
    assert_eq!(mode(&object), 0o600);
    for path in [&file("two"), &object, &server.dir.path().join("module-data")] {
        assert_eq!(text(&format!("/one/open?path={}", path.display())), "refused", "{}", path.display());
    }
    // A lock that is held, and a file that is cut to nothing, are the domain's own trouble.
    assert_eq!(text("/one/lock"), "locked");
    assert_eq!(text("/two/count"), "3");
    // A damaged one is seen at the next start of its process, and another's is not touched.
    let dir = Arc::clone(&server.dir);
    let mut server = server;
    server.terminate();
    for end in ["-wal", "-shm"] {
        let _ = fs::remove_file(file_of(&dir, "one").with_extension(format!("sqlite3{end}")));
    }
    fs::write(file_of(&dir, "one"), "no database any more, but some text instead").unwrap();
    let server = Server::on(&dir, &["--isolation", "process"], &[]);
    server.expect_log("is damaged");
    let text = |path: &str| server.get(path).text();
    eventually("an empty one is there", || text("/one/count") == "1");
    let aside = fs::read_dir(file_of(&dir, "one").parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(aside.into_iter().any(|name| name.to_string_lossy().contains(".damaged-")));
    assert_eq!(text("/two/count"), "4");
}

fn file_of(dir: &tempfile::TempDir, name: &str) -> std::path::PathBuf {
    dir.path().join(format!("domain-data/{name}/{name}.sqlite3"))
}

#[test]
fn all_that_the_server_makes_is_its_users_whatever_the_umask() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    fs::write(dir.path().join("cweb.toml"), "admin_key = \"0123456789abcdef\"\n").unwrap();
    fs::set_permissions(dir.path().join("cweb.toml"), PermissionsExt::from_mode(0o644)).unwrap();
    // What an earlier server has left open.
    fs::create_dir_all(dir.path().join("modules/.objects")).unwrap();
    fs::write(dir.path().join("modules/.objects/old.c"), "secret").unwrap();
    for path in ["modules", "modules/.objects", "modules/.objects/old.c"] {
        fs::set_permissions(dir.path().join(path), PermissionsExt::from_mode(0o777)).unwrap();
    }
    let server = Server::with_umask("000", &dir, &[]);
    server.expect_log("chmod 600");
    let key = [("X-API-Key", "0123456789abcdef")];
    let answer = server.connect().request("POST", "/mgnt", &key, tenant("one").as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(server.get("/one/count").text(), "1");
    let mut seen = 0;
    let mut dirs = vec![dir.path().to_path_buf()];
    while let Some(at) = dirs.pop() {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(dir.path()).unwrap().to_string_lossy().into_owned();
            if name == "static" || name == "cweb.toml" || path.is_symlink() {
                continue;
            }
            seen += 1;
            if path.is_dir() {
                // Others may pass where they are modules, and list nothing.
                assert_eq!(mode(&path) & 0o066, 0, "{name}");
                if mode(&path) & 0o011 != 0 {
                    dirs.push(path);
                }
            } else {
                assert_eq!(mode(&path) & 0o077, 0, "{name}");
            }
        }
    }
    assert!(seen > 8, "{seen}");
    assert_eq!(mode(&dir.path().join("modules/.objects")), 0o700);
    drop(server);
    let refused = |args: &[&str], env: &[(&str, &str)]| {
        let data = dir.path().to_str().unwrap();
        let args = [&["serve", "--production", "--port", "0", "--data-dir", data], args].concat();
        let (ok, said) = support::cweb(&args, dir.path(), env);
        assert!(!ok, "{said}");
        said
    };
    assert!(refused(&[], &[]).contains("chmod 600"));
    for weak in ["short", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"] {
        assert!(refused(&[], &[("CWEB_ADMIN_KEY", weak)]).contains("weak key"), "{weak}");
    }
}

#[test]
fn a_strict_umask_does_not_have_modules_run_as_root() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let data = dir.path().join("data");
    let mut shell = std::process::Command::new("sh");
    shell
        .args(["-c", "umask 077; exec \"$0\" serve --port 0 --data-dir \"$1\"", env!("CARGO_BIN_EXE_cweb")])
        .arg(&data);
    let mut child = shell.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
    let log: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.starts_with("listening")).collect();
    let _ = child.kill();
    child.wait().unwrap();
    // Root's modules are another user's, who has to get in; what is in there is closed.
    let is_root = is_roots(dir.path());
    assert_eq!(mode(&data), if is_root { 0o711 } else { 0o700 });
    assert!(!log.iter().any(|line| line.contains("as root")), "{log:?}");
}

fn is_roots(own: &Path) -> bool {
    std::os::unix::fs::MetadataExt::uid(&fs::metadata(own).unwrap()) == 0
}

#[test]
fn jobs_are_of_their_domain_unless_the_operator_says_otherwise() {
    for (args, other, sees) in [(&[][..], "refused", "2 1"), (&["--module-jobs", "all"], "created", "4 1")] {
        let server = two_domains(args);
        let text = |path: &str| server.get(path).text();
        assert_eq!(text("/one/job?job=one-job"), "created");
        assert_eq!(text("/beside/job?job=one-job"), "created", "of another module of the domain");
        assert_eq!(text("/two/job?job=one-job"), other);
        assert_eq!(text("/two/job?job=two-job"), "created");
        eventually("what may be seen is seen", || text("/one/jobs") == sees);
    }
}

#[test]
fn no_domain_holds_all_workers_of_jobs() {
    let server = two_domains(&["--job-workers", "2", "--job-timeout", "1s", "--job-events-bytes-max", "3000"]);
    let json = |answer: support::Response| -> serde_json::Value { serde_json::from_slice(&answer.body).unwrap() };
    let submit = |body: &str| json(server.post("/jobs", body.as_bytes()))["job_uuid"].as_str().unwrap().to_owned();
    let state = |uuid: &str| json(server.get(&format!("/jobs/{uuid}")))["state"].as_str().unwrap().to_owned();
    let flood: Vec<String> = (0..6).map(|_| submit(r#"{"job":"one-hang","priority":1000,"timeout_ms":0}"#)).collect();
    let running = || flood.iter().filter(|uuid| state(uuid) == "running").count();
    eventually("the flood has all workers but the reserve", || running() == 2);
    // Another domain's jobs run at once, one after the other, and do not give their place to the flood.
    for _ in 0..3 {
        let other = submit(r#"{"job":"two-job","priority":-1000,"timeout_ms":0}"#);
        eventually("a job of the other domain is done", || state(&other) == "done");
    }
    // The bytes of its events are bounded, and what is refused for its size floods no log.
    let chat = submit(r#"{"job":"two-chat","timeout_ms":0}"#);
    eventually("it has chatted", || state(&chat) == "done");
    assert_eq!(json(server.get(&format!("/jobs/{chat}")))["result"], 28);
    server.expect_log("3000 bytes of them: emit_event returns -1");
    server.expect_log("99 more events, results or errors");
    assert!(server.log().lines().filter(|line| line.contains(&chat)).count() < 8, "{}", server.log());
    // Its own long job ends by the time-out of the server, as neither the job nor the module has one.
    let long = submit(r#"{"job":"two-hang"}"#);
    eventually("it has failed", || state(&long) == "failed");
    assert!(json(server.get(&format!("/jobs/{long}")))["error"].as_str().unwrap().contains("1000 ms"));
    assert_eq!(running(), 2);
}

#[test]
fn nothing_that_a_module_prints_looks_like_a_line_of_the_server() {
    let server = two_domains(&[]);
    assert_eq!(server.get("/two/forge").text(), "written");
    eventually("both lines are there", || server.log().matches("forged").count() == 2);
    for line in server.log().lines().filter(|line| line.contains("forged")) {
        // The time and the target are the server's.
        let (time, text) = line.split_once(' ').unwrap();
        assert!(time.ends_with('Z') && !time.starts_with("2026-01-01"), "{line}");
        assert_eq!(text.trim_start(), "INFO module: domain two | \\u{1b}[2J2026-01-01T00:00:00Z ERROR forged\\rmore");
    }
}

#[test]
fn a_failure_is_told_in_the_log_and_not_to_strangers() {
    let why = |server: &Server| server.get("/one/crash").text();
    let open = two_domains(&[]);
    assert!(why(&open).contains("SIGSEGV"), "in development, without a key, for whoever is developing: {}", why(&open));
    let dir = Arc::new(tempfile::tempdir().unwrap());
    for isolation in ["process", "none"] {
        let server = Server::on(&dir, &["--isolation", isolation], &[("CWEB_ADMIN_KEY", "0123456789abcdef")]);
        let key = [("X-API-Key", "0123456789abcdef")];
        assert_eq!(server.connect().request("POST", "/mgnt", &key, tenant("one").as_bytes()).status, 200);
        let answer = server.get("/one/crash");
        assert_eq!(answer.status, 500);
        let text = answer.text();
        let id = text.strip_prefix("the request failed; the server's log has the reason under ").unwrap().trim();
        server.expect_log(&format!("request {id} failed: module one failed: SIGSEGV at address 0x8"));
    }
}

#[test]
fn a_page_of_a_module_changes_no_modules() {
    let server = Server::start();
    server.deploy(&tenant("one"));
    let own = format!("http://{}", server.addr);
    let host = server.addr.as_str();
    let source = tenant("two");
    let ask = |method: &str, target: &str, fields: &[(&str, &str)]| {
        let mut request = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n", source.len());
        for (name, value) in fields {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        let mut client = server.connect();
        client.send(format!("{request}\r\n{source}").as_bytes());
        client.response()
    };
    for fields in [&[("Origin", own.as_str())][..], &[("Sec-Fetch-Site", "same-origin")]] {
        for (method, target) in [("POST", "/mgnt"), ("DELETE", "/mgnt/one"), ("POST", "/mgnt/one/restart")] {
            let refused = ask(method, target, fields);
            assert!(refused.status == 403 && refused.text().contains("may not change modules"), "{}", refused.text());
        }
    }
    assert_eq!((server.get("/two/jobs").status, server.get("/one/count").status), (404, 200));
    // As curl sends it, and as a person opens it in the browser.
    assert_eq!(ask("POST", "/mgnt", &[]).status, 200);
    assert_eq!(server.connect().request("GET", "/mgnt", &[("Sec-Fetch-Site", "same-origin")], b"").status, 200);
}

#[test]
fn space_is_a_domains_own() {
    let limits = ["--module-disk-bytes-max", "20000000", "--crash-limit", "0"];
    let server = two_domains(&limits);
    let text = |path: &str| server.get(path).text();
    assert_eq!((text("/two/count"), text("/one/count")), ("1".to_owned(), "1".to_owned()));
    // Writes are refused from the moment that the space is seen to be used up, until there is some again.
    eventually("the disk is full for it", || text("/one/fill") == "full");
    assert_eq!(
        (text("/one/count"), text("/two/fill"), text("/two/count")),
        ("none".into(), "written".into(), "2".into())
    );
    server.expect_log("domain one uses");
    assert_eq!(text("/one/fill?do=lift"), "full", "modules can't lift the limit");
    assert_eq!(text("/one/fill?do=free"), "free");
    eventually("it writes again", || text("/one/fill") == "written");
    let score = |domain: &str| {
        let listed: serde_json::Value = serde_json::from_slice(&server.get("/mgnt").body).unwrap();
        let all = listed["domains"].as_array().unwrap();
        let pid = all.iter().find(|found| found["name"] == domain).unwrap()["pid"].as_u64()?;
        fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).ok()
    };
    assert_eq!(score("two").unwrap().trim(), "500");
    // Each domain with a name is a session, and so has one share of the processors, however many threads it has; a smaller one
    // while it computes.
    let pid = text("/two/pid");
    let session = |pid: &str| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(')').unwrap().1.split_whitespace().nth(3).unwrap().to_owned()
    };
    assert_eq!(session(&pid), pid);
    assert_ne!(session(&text("/one/pid")), pid);
    let share = |pid: &str| fs::read_to_string(format!("/proc/{pid}/autogroup")).unwrap_or_default();
    if !share(&pid).is_empty() {
        let ends_with = |pid: &str, nice: &str| share(pid).trim_end().ends_with(nice);
        assert_ne!(share(&text("/one/pid")), share(&pid));
        eventually("its share is lowered while it computes", || {
            text("/two/compute") == "computed" && ends_with(&pid, " nice 5")
        });
        eventually("others keep theirs", || ends_with(&text("/one/pid"), " nice 0"));
        eventually("it has its share again when it rests", || ends_with(&pid, " nice 0"));
    }
    // The threads that modules start stand back behind the server's.
    assert_eq!(text("/two/threads?n=20"), "20 all");
    let nice = |stat: String| stat.rsplit_once(')').unwrap().1.split_whitespace().nth(16).unwrap().to_owned();
    let tasks = || fs::read_dir(format!("/proc/{}/task", text("/two/pid"))).unwrap().flatten();
    let behind = |task: &fs::DirEntry| fs::read_to_string(task.path().join("stat")).is_ok_and(|stat| nice(stat) == "5");
    eventually("all of them do", || tasks().filter(behind).count() >= 20);
}

#[test]
fn each_domain_is_a_user_of_its_own() {
    const FIRST: u32 = 70_000;
    let args = ["--isolation", "process", "--domains-max", "16", "--module-uids", "70000-70015"];
    let dir = Arc::new(tempfile::tempdir().unwrap());
    fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    if !is_roots(dir.path()) {
        let (ok, said) = support::cweb(&[&["serve", "--port", "0"], &args[..]].concat(), dir.path(), &[]);
        return assert!(!ok && said.contains("--module-uids: the server can't run domains as these users"), "{said}");
    }
    let server = Server::on(&dir, &args, &[]);
    for name in ["one", "two"] {
        deploy(&server, name, name);
    }
    let user = |server: &Server, name: &str| {
        let status =
            fs::read_to_string(format!("/proc/{}/status", server.get(&format!("/{name}/pid")).text())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("Uid:\t")).unwrap().to_owned();
        line.split('\t').next().unwrap().parse::<u32>().unwrap()
    };
    let users = [user(&server, "one"), user(&server, "two")];
    assert!(users[0] != users[1] && users.iter().all(|uid| (FIRST..FIRST + 16).contains(uid)), "{users:?}");
    let text = |server: &Server, path: &str| server.get(path).text();
    // What the kernel keeps for a user, one domain can use up for itself alone.
    assert_eq!(text(&server, "/one/timers"), "used up");
    assert_eq!((text(&server, "/one/timers?n=1"), text(&server, "/two/timers?n=1")), ("used up".into(), "made".into()));
    for (name, uid) in ["one", "two"].iter().zip(users) {
        assert_eq!(
            (text(&server, &format!("/{name}/count")), text(&server, &format!("/{name}/fill"))),
            ("1".into(), "written".into())
        );
        let own = |below: &str| std::os::unix::fs::MetadataExt::uid(&fs::metadata(dir.path().join(below)).unwrap());
        assert_eq!([own(&format!("domain-data/{name}")), own(&format!("scratch/{name}"))], [uid; 2]);
    }
    for above in ["domain-data", "scratch"] {
        assert_eq!(mode(&dir.path().join(above)), 0o711);
    }
    drop(server);
    // The same users again, then no users of their own: their files are theirs each time.
    let server = Server::on(&dir, &args, &[]);
    assert_eq!([user(&server, "one"), user(&server, "two")], users);
    assert_eq!(text(&server, "/one/count"), "2");
    drop(server);
    let server = Server::on(&dir, &args[..2], &[]);
    assert_eq!((user(&server, "one"), text(&server, "/one/count")), (65534, "3".into()));
}

#[test]
fn a_database_that_is_deleted_is_followed_by_a_new_one() {
    let server = two_domains(&[]);
    let text = |path: &str| server.get(path).text();
    assert_eq!((text("/one/count"), text("/one/count"), text("/two/count")), ("1".into(), "2".into(), "1".into()));
    assert_eq!(text("/one/drop"), "deleted");
    server.expect_log("its modules have deleted it");
    eventually("the next process has an empty one", || text("/one/count") == "1");
    assert_eq!((text("/one/count"), text("/beside/count")), ("2".into(), "3".into()), "{}", server.log());
    assert!(file_of(&server.dir, "one").exists());
    assert_eq!(text("/two/count"), "2", "the other domain has its own");
    assert!(!server.log().contains("modules have no database"), "{}", server.log());
}

#[test]
fn threads_beyond_the_limit_are_refused_to_the_domain_that_wants_them() {
    let server = two_domains(&["--module-threads-max", "1000", "--executors-max", "4", "--shards", "1"]);
    let text = |path: &str| server.get(path).text();
    let pids = [text("/one/pid"), text("/two/pid")];
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mut other = server.connect();
        let stop = &stop;
        let others = scope.spawn(move || {
            let mut answered = 0;
            while answered == 0 || !stop.load(Ordering::Relaxed) {
                assert_eq!(other.get("/two/threads?n=1").text(), "1 all");
                assert_eq!(other.get("/two/threads?n=0").text(), "0 all");
                answered += 1;
            }
        });
        let made = text("/one/threads?n=2000");
        assert_eq!(text("/beside/threads?n=1"), "0 EAGAIN", "the modules of a domain share the limit");
        assert_eq!(text("/beside/threads?n=1&how=c11"), "0 of C11");
        stop.store(true, Ordering::Relaxed);
        others.join().unwrap();
        assert_eq!(made, "1000 EAGAIN");
    });
    server.expect_log("(--module-threads-max): pthread_create() fails");
    // Threads that have ended are not counted: then as many can be started again.
    assert_eq!(text("/one/threads?n=0"), "0 all");
    eventually("there is room for threads", || text("/one/threads?n=1") == "1 all");
    // Threads of `thrd_create` are counted too. Some of the first may still be ending, or stay.
    eventually("threads of C11 take all the room", || {
        text("/one/threads?n=1000&how=c11");
        text("/one/threads?n=1") == "0 EAGAIN"
    });
    assert_eq!(text("/one/threads?n=1&how=c11"), "0 of C11");
    assert_eq!(text("/one/count"), "1");
    assert_eq!([text("/one/pid"), text("/two/pid")], pids, "no process was ended: {}", server.log());
}

/// The processes of modules, spares included.
fn kill_all(server: &Server) {
    use rustix::process::{Pid, Signal, kill_process};
    for pid in server.processes().into_iter().skip(1) {
        // One may be gone already.
        let _ = kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL);
    }
}

#[test]
fn what_the_machine_does_not_give_is_no_modules_crash() {
    use rustix::process::{Pid, Resource, Rlimit, geteuid, getrlimit, prlimit};
    if !geteuid().is_root() {
        return eprintln!("skipped: the limit would keep the server from starting threads too");
    }
    let server = two_domains(&["--crash-limit", "2", "--shards", "1"]);
    let text = |path: &str| server.get(path).text();
    assert_eq!((text("/one/count"), text("/two/count")), ("1".to_owned(), "1".to_owned()));
    // The user of modules may have no process and no thread any more; root, which starts them, may.
    let pid = Pid::from_raw(i32::try_from(server.pid()).unwrap());
    // The server has inherited this process's.
    let own = getrlimit(Resource::Nproc);
    let set = |current| prlimit(pid, Resource::Nproc, Rlimit { current, ..own }).unwrap();
    set(Some(0));
    kill_all(&server);
    let failures = || server.log().matches("could not start (exit status: 1)").count();
    eventually("starts have failed more often than a module may crash", || failures() >= 6);
    set(own.current);
    for domain in ["one", "two"] {
        eventually("it is up again", || text(&format!("/{domain}/count")) == "2");
    }
    let log = server.log();
    assert!(!log.contains("quarantine") && !log.contains("module one ended"), "{log}");
}

#[test]
fn a_domain_that_takes_too_much_memory_or_too_many_threads_is_ended_alone() {
    let memory = ["--modules-memory-bytes-max", "250000000"];
    let threads = ["--module-threads-max", "1000", "--executors-max", "4", "--shards", "1", "--crash-limit", "0"];
    let server = two_domains(&[&memory[..], &threads].concat());
    let text = |path: &str| server.get(path).text();
    let other = text("/two/pid");
    for (how, count) in [("malloc", 1), ("memfd", 2)] {
        let first = text("/one/pid");
        let _ = server.connect().attempt("GET", &format!("/one/hoard?how={how}"), b"");
        eventually("it is ended", || server.log().matches("all domains together used").count() >= count);
        eventually("another one is there", || text("/one/pid").parse::<u32>().is_ok() && text("/one/pid") != first);
    }
    server.expect_log("(--modules-memory-bytes-max); this domain grew the most, from ");
    // Threads that libc has not counted: the kernel has.
    let _ = server.connect().attempt("GET", "/one/threads?n=2500&how=raw", b"");
    server.expect_log("threads and may have 1");
    assert_eq!(text("/two/pid"), other, "{}", server.log());
}

/// Processes of single calls that are alive in the group of the domain's process `pid`.
fn workers_of(pid: &str) -> usize {
    let stats =
        fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    // proc_pid_stat(5): pid, name, state, parent, group.
    let is_one = |stat: &String| {
        let Some((name, rest)) = stat.rsplit_once(") ") else { return false };
        name.ends_with("(cweb-worker") && !rest.starts_with('Z') && rest.split(' ').nth(2) == Some(pid)
    };
    stats.filter(is_one).count()
}

#[test]
fn memory_of_calls_in_processes_of_their_own_counts_once_and_costs_their_domain_alone() {
    let limits = ["--modules-memory-bytes-max", "300000000", "--shards", "1", "--crash-limit", "0"];
    let apart = ["--isolation", "process", "--handler-timeout-ms", "600000"];
    let server = Server::with(&[&apart[..], &limits].concat());
    for (name, table_mib) in [("one", 40), ("two", 1)] {
        let source = format!("#define APART {table_mib}\n{}", tenant(name));
        let answer = server.post(&format!("/mgnt?domain={name}"), source.as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let pid = |name: &str| server.get(&format!("/{name}/pid")).text();
    let call = |name: &str, mib: usize| {
        let mut client = server.connect();
        client.send(format!("GET /{name}/apart?n={mib} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
        client
    };
    let pids = [pid("one"), pid("two")];
    // A call waits two seconds at most for what is copied. These are ended by their time.
    for name in ["one", "two"] {
        let brief = [("X-Request-Timeout-Ms", "200")];
        let ask = || server.connect().request("GET", &format!("/{name}/apart?n=0"), &brief, b"");
        eventually("its process can be copied", || ask().status == 504);
    }
    // A table that is there once, however many processes have it: as many would be too much.
    let shared: Vec<_> = (0..6).map(|_| call("one", 0)).collect();
    eventually("all of them run", || workers_of(&pids[0]) == 6);
    // Memory of a domain that its own process does not have.
    let hoard: Vec<_> = (0..2).map(|_| call("two", 150)).collect();
    eventually("the domain is ended", || server.log().contains("this domain grew the most"));
    server.expect_log(" processes");
    eventually("another one is there", || pid("two").parse::<u32>().is_ok() && pid("two") != pids[1]);
    eventually("its calls are ended, too", || workers_of(&pids[1]) == 0);
    assert_eq!((pid("one"), workers_of(&pids[0])), (pids[0].clone(), 6), "{}", server.log());
    drop((shared, hoard));
}
