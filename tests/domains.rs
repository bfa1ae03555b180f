//! Domains by name: modules in processes that can't harm each other.

use crate::support::{self, Response, Server, eventually, module};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tungstenite::Message;

/// A module that tells its process, and can end it. Its WebSocket answers with the process too.
fn member(name: &str) -> String {
    let code = r#"
#include <signal.h>
#include <unistd.h>
#define H(f) static int f(struct cweb_context *c, http_request_t *q, http_response_t *r)
H(pid) { (void)c; (void)q; snprintf(r->body, HTTP_RESPONSE_SIZE, "%d", (int)getpid()); return 0; }
H(die) { (void)c; (void)q; (void)r; kill(getpid(), SIGKILL); pause(); return 0; }
H(leave) { (void)c; (void)q; (void)r; _exit(3); }
H(stuck) { (void)c; (void)q; (void)r; sleep(60); return 0; }
static websocket_t *last;
static void on_open(struct cweb_context *c, websocket_t *ws) { (void)c; last = ws; }
static void on_message(struct cweb_context *c, websocket_t *ws, const char *text, size_t n) {
  (void)c; char reply[128]; snprintf(reply, sizeof reply, "%.*s %d", (int)n, text, (int)getpid()); ws->send(ws, reply, strlen(reply)); }
static int tick(struct cweb_context *c, const job_payload_t *p, job_ctx_t *j) { (void)c; (void)p;
  for (int n = 0; n < 2400 && access("static/enough", F_OK) != 0; n++) { char text[64]; snprintf(text, sizeof text, "tick %d", (int)getpid());
    if (last != NULL) last->send(last, text, strlen(text)); usleep(50 * 1000); }
  return j->set_result(j, "{}"); }
"#;
    let routes = format!(
        r#"{{"/{name}/pid","GET",pid,NONE}},{{"/{name}/die","GET",die,NONE}},{{"/{name}/leave","GET",leave,NONE}},
        {{"/{name}/stuck","GET",stuck,NONE}}"#
    );
    let fields = format!(
        r#".websockets = {{{{"/{name}/ws", on_open, on_message, NULL}}}}, .ws_size = 1,
        .jobs = {{{{"tick", tick, NULL}}}}, .job_size = 1,"#
    );
    module(name, code, &routes, 4, &fields)
}

fn start(more: &[&str]) -> Server {
    start_in(&Arc::new(tempfile::tempdir().unwrap()), more)
}

fn start_in(dir: &Arc<tempfile::TempDir>, more: &[&str]) -> Server {
    Server::on(dir, &[&["--shards", "2", "--isolation", "process"], more].concat(), &[])
}

fn try_deploy(server: &Server, source: &str, domain: &str) -> Response {
    let mut client = server.connect();
    // A deployment ends with a sync: seconds, on a disk that is kept busy.
    client.stream.set_read_timeout(Some(Duration::from_secs(180))).unwrap();
    client.request("POST", &format!("/mgnt?domain={domain}"), &[], source.as_bytes())
}

fn deploy(server: &Server, source: &str, domain: &str) -> Response {
    let response = try_deploy(server, source, domain);
    assert_eq!(response.status, 200, "{}\n{}", response.text(), server.log());
    response
}

fn listed(server: &Server) -> Value {
    serde_json::from_slice(&server.get("/mgnt").body).unwrap()
}

/// The domains by name.
fn domains(server: &Server) -> BTreeMap<String, Value> {
    let listed = listed(server);
    let all = listed["domains"].as_array().unwrap();
    all.iter().map(|domain| (domain["name"].as_str().unwrap().to_owned(), domain.clone())).collect()
}

fn pid_of(server: &Server, domain: &str) -> u32 {
    domains(server)[domain]["pid"].as_u64().unwrap().try_into().unwrap()
}

/// The domain that `GET /mgnt` says a module is in.
fn domain_of(server: &Server, module: &str) -> String {
    let listed = listed(server);
    let found = listed["modules"].as_array().unwrap().iter().find(|found| found["name"] == module).unwrap();
    found["domain"].as_str().unwrap().to_owned()
}

fn pid(server: &Server, module: &str) -> u32 {
    server.get(&format!("/{module}/pid")).text().parse().unwrap()
}

fn is_alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Asks for `path` on some connections again and again; an answer other than 200 fails.
struct Load {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    clients: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    fn on(server: &Server, path: &'static str) -> Self {
        let (stop, count) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let client = |_| {
            let (mut client, stop, count) = (server.connect(), Arc::clone(&stop), Arc::clone(&count));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let response = client.get(path);
                    assert_eq!(response.status, 200, "{}", response.text());
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let clients = (0..4).map(client).collect();
        Self { stop, count, clients }
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    fn end(self) {
        eventually("there is load", || self.count() > 100);
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().expect("a request failed");
        }
    }
}

#[test]
fn each_domain_has_a_process() {
    let server = start(&[]);
    assert_eq!(deploy(&server, &member("a"), "one").header("x-cweb-domain").unwrap(), "one");
    deploy(&server, &member("b"), "two");
    deploy(&server, &member("c"), "one");
    assert_eq!(server.deploy(&member("d")).header("x-cweb-domain").unwrap(), "default");
    assert_eq!(pid(&server, "a"), pid(&server, "c"), "two modules of a domain share its process");
    for (module, domain) in [("a", "one"), ("b", "two"), ("c", "one"), ("d", "default")] {
        assert_eq!((pid(&server, module), domain_of(&server, module).as_str()), (pid_of(&server, domain), domain));
    }
    let found = domains(&server);
    assert_eq!(found.keys().collect::<Vec<_>>(), ["default", "one", "two"]);
    let counted = |domain: &str, field: &str| found[domain][field].as_u64().unwrap();
    assert_eq!((counted("one", "modules"), counted("two", "modules")), (2, 1));
    assert_eq!((counted("one", "requests"), counted("two", "requests"), counted("default", "requests")), (4, 1, 1));
    assert!(found["two"]["last_crash"].is_null());
    // The memory is measured from time to time.
    eventually("its memory", || domains(&server)["two"]["resident_bytes"].as_u64() > Some(1_000_000));
    let metrics = server.get("/metrics").text();
    for line in [
        "cweb_domain_up{domain=\"one\"} 1",
        "cweb_domain_modules{domain=\"one\"} 2",
        "cweb_domain_requests_total{domain=\"two\"} 1",
        "cweb_domain_restarts_total{domain=\"default\"} 0",
    ] {
        assert!(metrics.contains(&format!("{line}\n")), "{line} in {metrics}");
    }
    // A new version stays where the module is; the same source is the same.
    let other = member("a").replace("\"%d\"", "\"%d \"");
    assert_eq!(server.deploy(&other).header("x-cweb-domain").unwrap(), "one");
    assert_eq!(server.get("/a/pid").text().trim(), pid_of(&server, "one").to_string());
    assert_eq!(deploy(&server, &other, "one").header("x-cweb-result").unwrap(), "unchanged");
    let pids: Vec<u32> = ["default", "one", "two"].iter().map(|domain| pid_of(&server, domain)).collect();
    server.stop();
    eventually("the domains end with the server", || pids.iter().all(|pid| !is_alive(*pid)));
}

#[test]
fn a_death_harms_no_other_domain() {
    let server = start(&[]);
    deploy(&server, &member("good"), "good");
    deploy(&server, &member("bad"), "bad");
    let quiet = pid(&server, "good");
    let mut socket = server.websocket("/good/ws");
    let mut said = |text: &str| {
        socket.send(Message::text(text)).unwrap();
        assert_eq!(socket.read().unwrap(), Message::text(format!("{text} {quiet}")));
    };
    said("before");
    let load = Load::on(&server, "/good/pid");
    for round in 0..6 {
        let (before, seen) = (pid(&server, "bad"), load.count());
        match round % 3 {
            0 => support::signal(pid_of(&server, "bad"), "KILL"),
            1 => drop(server.get("/bad/die")),
            _ => drop(server.get("/bad/leave")),
        }
        said("meanwhile");
        eventually("the bad one is back, or lives on", || {
            let response = server.get("/bad/pid");
            response.status == 200 && (round % 3 == 2 || response.text() != before.to_string())
        });
        eventually("there is load", || load.count() > seen);
    }
    load.end();
    said("after");
    assert_eq!(pid(&server, "good"), quiet);
    let found = domains(&server);
    // A handler that kills its own process is stopped before the kernel does it: the process is replaced, not restarted.
    let count = |what: &str| found["bad"][what].as_u64().unwrap();
    assert!(count("restarts") >= 2 && count("restarts") + count("replacements") >= 4, "{found:?}");
    assert!(found["good"]["restarts"] == 0 && found["good"]["replacements"] == 0, "{found:?}");
    assert!(!found["bad"]["last_crash"].is_null() && found["good"]["last_crash"].is_null(), "{found:?}");
    server.expect_log("domain bad died");
}

#[test]
fn a_domain_that_answers_nothing_takes_no_call_from_the_others() {
    let server = Server::with(&["--shards", "1", "--isolation", "process"]);
    deploy(&server, &member("good"), "good");
    deploy(&server, &member("bad"), "bad");
    // All the calls that a domain may have, on one shard. A connection begins four of a route that is not known yet.
    let clients: Vec<_> = (0..1100)
        .map(|_| {
            let mut client = server.connect();
            client.send(&b"GET /bad/stuck HTTP/1.1\r\nHost: x\r\n\r\n".repeat(4));
            client
        })
        .collect();
    eventually("it has no room for more", || server.get("/bad/pid").status == 503);
    assert_eq!(server.get("/good/pid").status, 200);
    drop(clients);
}

#[test]
fn a_move_loses_no_request_and_no_socket() {
    let server = start(&[]);
    deploy(&server, &member("m"), "one");
    // They would end otherwise, and there would be nothing to move to but new processes.
    for domain in ["one", "two", "default"] {
        deploy(&server, &member(&format!("stays-{domain}")), domain);
    }
    let load = Load::on(&server, "/m/pid");
    let mut socket = server.websocket("/m/ws?id=s");
    for (round, domain) in ["two", "one", "default"].iter().cycle().enumerate().take(24) {
        let moved = deploy(&server, &member("m"), domain);
        assert_eq!(moved.header("x-cweb-result").unwrap(), "deployed");
        let there = pid_of(&server, domain);
        assert_eq!(pid(&server, "m"), there);
        socket.send(Message::text(round.to_string())).unwrap();
        assert_eq!(socket.read().unwrap(), Message::text(format!("{round} {there}")));
    }
    assert_eq!(deploy(&server, &member("m"), "default").header("x-cweb-result").unwrap(), "unchanged");
    load.end();
    drop(socket);
    eventually("old versions are gone", || {
        domains(&server).values().all(|domain| domain["modules"].as_u64() <= Some(2))
    });
    assert!(!server.log().contains(" died"), "{}", server.log());
}

#[test]
fn a_job_goes_on_where_it_began_and_still_reaches_its_socket() {
    let server = start(&[]);
    deploy(&server, &member("m"), "one");
    let old = pid(&server, "m");
    let mut socket = server.websocket("/m/ws");
    socket.send(Message::text("open")).unwrap();
    assert_eq!(socket.read().unwrap(), Message::text(format!("open {old}")));
    let accepted = server.post("/jobs", json!({"module": "m", "job": "tick"}).to_string().as_bytes());
    assert_eq!(accepted.status, 200, "{}", accepted.text());
    let tick = Message::text(format!("tick {old}"));
    assert_eq!(socket.read().unwrap(), tick);
    deploy(&server, &member("m"), "two");
    let new = pid(&server, "m");
    assert!(new != old && is_alive(old), "the job keeps its domain");
    socket.send(Message::text("moved")).unwrap();
    let (mut ticks, mut moved) = (0, false);
    while ticks < 3 || !moved {
        let message = socket.read().unwrap();
        if message == tick {
            ticks += i32::from(moved);
        } else {
            assert_eq!(message, Message::text(format!("moved {new}")));
            moved = true;
        }
    }
    let enough = server.dir.path().join("static/enough");
    std::fs::create_dir_all(enough.parent().unwrap()).unwrap();
    std::fs::write(enough, "").unwrap();
    let job: Value = serde_json::from_slice(&accepted.body).unwrap();
    let path = format!("/jobs/{}", job["job_uuid"].as_str().unwrap());
    eventually("the job is done", || server.get(&path).text().contains("\"state\":\"done\""));
    eventually("and the domain with it", || !is_alive(old));
    socket.send(Message::text("still")).unwrap();
    let last = std::iter::repeat_with(|| socket.read().unwrap()).find(|message| *message != tick).unwrap();
    assert_eq!(last, Message::text(format!("still {new}")));
}

#[test]
fn domains_outlive_the_server_and_lie_idle_without_isolation() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server = start_in(&dir, &[]);
    deploy(&server, &member("a"), "one");
    server.deploy(&member("b"));
    deploy(&server, &member("c"), "one");
    server.stop();
    let server = start_in(&dir, &[]);
    assert_eq!((domain_of(&server, "a"), domain_of(&server, "b")), ("one".to_owned(), "default".to_owned()));
    assert!(pid(&server, "a") == pid(&server, "c") && pid(&server, "a") != pid(&server, "b"));
    server.stop();

    let server = Server::on(&dir, &["--isolation", "none"], &[]);
    assert_eq!(pid(&server, "a"), server.pid());
    assert_eq!(
        (domain_of(&server, "a").as_str(), listed(&server)["domains"].as_array().unwrap().len()),
        ("default", 0)
    );
    let refused = try_deploy(&server, &member("d"), "one");
    assert!(refused.status == 400 && refused.text().contains("--isolation process"), "{}", refused.text());
    // A new version forgets nothing.
    server.deploy(&member("a").replace("\"%d\"", "\"%d \""));
    let log = server.stop();
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains("WARN") && line.contains("a (one)")).collect();
    assert!(warnings.len() == 1 && warnings[0].contains("c (one)") && !warnings[0].contains("b ("), "{log}");

    let server = start_in(&dir, &[]);
    assert_eq!(domain_of(&server, "a"), "one");
    // And one that is said anew is what it says.
    deploy(&server, &member("c"), "default");
    server.stop();
    assert_eq!(domain_of(&start_in(&dir, &[]), "c"), "default");
}

#[test]
fn an_empty_domain_ends_and_its_place_is_free() {
    let server = start(&["--domains-max", "3"]);
    for round in 0..4 {
        let names = [format!("x{round}"), format!("y{round}")];
        for (module, domain) in ["x", "y"].iter().zip(&names) {
            deploy(&server, &member(module), domain);
        }
        let pids = [pid(&server, "x"), pid(&server, "y")];
        let refused = try_deploy(&server, &member("z"), "more");
        assert!(refused.status == 507 && refused.text().contains("--domains-max"), "{}", refused.text());
        assert_eq!(server.get("/z/pid").status, 404);
        deploy(&server, &member("z"), &names[0]);
        assert_eq!(pid(&server, "z"), pids[0], "there is room in the domains that there are");
        for module in ["x", "y", "z"] {
            assert_eq!(server.connect().request("DELETE", &format!("/mgnt/{module}"), &[], b"").status, 200);
        }
        if round % 2 == 0 {
            eventually("both domains end", || domains(&server).len() == 1 && pids.iter().all(|pid| !is_alive(*pid)));
        } else {
            // One that is empty goes as soon as another is wanted.
            eventually("there is room", || try_deploy(&server, &member("w"), "wanted").status == 200);
            assert_eq!(pid(&server, "w"), pid_of(&server, "wanted"));
            assert_eq!(server.connect().request("DELETE", "/mgnt/w", &[], b"").status, 200);
            eventually("all domains end", || domains(&server).len() == 1);
        }
    }
    // The server, the default domain and its spare.
    eventually("nothing is left behind", || server.processes().len() == 3);
    let log = server.stop();
    assert!(log.contains("domain x0 is ended") && !log.contains(" died"), "{log}");
}

#[test]
fn names_that_can_be_no_domain_are_refused() {
    let server = start(&[]);
    let long = "x".repeat(65);
    for name in ["", ".", "..", "a%2Fb", "a%20b", "%C3%A4", "%FF", "a%00", &long] {
        let refused = try_deploy(&server, &member("m"), name);
        assert!(refused.status == 400 && refused.text().contains("A-Z a-z 0-9"), "{name}: {}", refused.text());
    }
    assert_eq!(server.get("/m/pid").status, 404);
    deploy(&server, &member("m"), &"x".repeat(64));
    deploy(&server, &member("m"), "A-z_0.9");
}

#[test]
fn a_domain_comes_as_a_field_of_the_form_too() {
    let server = start(&[]);
    let form = |domain: &str| {
        let part = |name: &str, value: &str| {
            format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
        };
        format!("{}{}--b--\r\n", part("code", &member("m")), part("domain", domain))
    };
    let post = |target: &str, domain: &str| {
        let kind = ("Content-Type", "multipart/form-data; boundary=b");
        server.connect().request("POST", target, &[kind], form(domain).as_bytes())
    };
    assert_eq!(post("/mgnt", "one").header("x-cweb-domain").unwrap(), "one");
    assert_eq!(pid(&server, "m"), pid_of(&server, "one"));
    assert_eq!(post("/mgnt?domain=two", "three").header("x-cweb-domain").unwrap(), "three", "the field counts");
    assert_eq!(post("/mgnt", "no/name").status, 400);
}

#[test]
fn symbols_and_cache_are_shared_within_a_domain_only() {
    let server = start(&[]);
    let library = |name: &str, domain: &str| {
        let code = "#include <container.h>\n__attribute__((visibility(\"default\"))) int answer(void) { return 42; }\n\
                    static void load(struct cweb_context *c) { container_set(c->cache, \"key\", strdup(\"value\")); }";
        deploy(&server, &module(name, code, "", 0, ".onload = load,"), domain);
    };
    let user = |name: &str, domain: &str| {
        let code = r#"#include <container.h>
static int f(struct cweb_context *c, http_request_t *q, http_response_t *r) {
  int (*answer)(void); void *found = c->symbols->resolv(c->symbols->user_data, http_kv_get(q->params, "of"), "answer");
  memcpy(&answer, &found, sizeof answer); const char *value = container_get(c->cache, "key");
  snprintf(r->body, HTTP_RESPONSE_SIZE, "%d %s", answer ? answer() : -1, value ? value : "nothing"); return 0; }"#;
        deploy(&server, &module(name, code, &format!("{{\"/{name}\",\"GET\",f,NONE}}"), 1, ""), domain);
    };
    library("lib", "one");
    user("near", "one");
    user("far", "two");
    assert_eq!(server.get("/near?of=lib").text(), "42 value");
    assert_eq!(server.get("/far?of=lib").text(), "-1 nothing");
    library("lib", "two");
    assert_eq!(server.get("/far?of=lib").text(), "42 value", "it has moved");
    assert_eq!(server.get("/near?of=lib").text(), "-1 value", "the cache is the domain's");
}

#[test]
fn jobs_run_in_the_domain_of_their_module() {
    let server = start(&["--module-jobs", "all"]);
    let worker = r#"
#include <unistd.h>
static int work(struct cweb_context *c, const job_payload_t *p, job_ctx_t *j) { (void)c; (void)p;
  char text[64]; snprintf(text, sizeof text, "{\"pid\": %d}", (int)getpid()); return j->set_result(j, text); }
"#;
    deploy(&server, &module("worker", worker, "", 0, r#".jobs = {{"work", work, NULL}}, .job_size = 1,"#), "work");
    let asker = r#"
static int ask(struct cweb_context *c, http_request_t *q, http_response_t *r) { (void)c; (void)q;
  cweb_uuid_t uuid; strcpy(r->body, jobs_create("work", "{}", &uuid) == 0 ? uuid.str : "refused"); return 0; }
"#;
    deploy(&server, &module("asker", asker, r#"{"/ask","GET",ask,NONE}"#, 1, ""), "ask");
    let submitted: Value = serde_json::from_slice(&server.post("/jobs", br#"{"job":"work"}"#).body).unwrap();
    for uuid in [submitted["job_uuid"].as_str().unwrap(), &server.get("/ask").text()] {
        let status = || -> Value { serde_json::from_slice(&server.get(&format!("/jobs/{uuid}")).body).unwrap() };
        eventually("it is done", || status()["state"] == "done");
        assert_eq!(status()["result"]["pid"].as_u64().unwrap(), u64::from(pid_of(&server, "work")));
    }
}

#[test]
fn the_command_line_deploys_into_domains_and_shows_them() {
    let server = start(&[]);
    let (dir, url) = (tempfile::tempdir().unwrap(), format!("http://{}", server.addr));
    let run = |args: &[&str]| support::cweb(args, dir.path(), &[("CWEB_SERVER", &url)]);
    for name in ["a", "b", "c"] {
        std::fs::write(dir.path().join(format!("{name}.c")), member(name)).unwrap();
    }
    std::fs::write(dir.path().join("routes.ini"), "[modules]\na.c\ndomain = image\nb.c\nc.c\n").unwrap();
    let (done, text) = run(&["deploy"]);
    assert!(done && text.contains("3 of 3") && text.contains("in domain image"), "{text}");
    for (module, domain) in [("a", "default"), ("b", "image"), ("c", "image")] {
        assert_eq!(domain_of(&server, module), domain);
    }
    let (done, text) = run(&["deploy", "--domain", "sound", "c.c"]);
    assert!(done && text.contains("deployed c.c: module c") && text.contains("in domain sound"), "{text}");
    assert!(run(&["deploy"]).0, "all again");
    assert_eq!(domain_of(&server, "c"), "image");
    assert!(run(&["deploy", "--domain", "sound"]).0, "the flag beats the file");
    assert!(["a", "b", "c"].iter().all(|module| domain_of(&server, module) == "sound"));
    let (refused, text) = run(&["deploy", "--domain", "no/name", "c.c"]);
    assert!(!refused && text.contains("A-Z a-z 0-9"), "{text}");

    let (_, text) = run(&["modules"]);
    assert!(text.contains("in domain sound"), "{text}");
    let (_, text) = run(&["modules", "--domains"]);
    assert!(text.contains(&format!("sound  process {}  3 module(s)", pid_of(&server, "sound"))), "{text}");
    assert!(text.contains("  0 restart(s)  ") && text.contains(" replacement(s)\n"), "{text}");
    let (restarted, text) = run(&["modules", "restart", "nobody"]);
    assert!(!restarted && text.contains("404"), "{text}");
}

#[test]
fn a_module_in_the_server_is_not_restarted() {
    let server = Server::with(&["--isolation", "none"]);
    server.deploy(&member("m"));
    let refused = server.post("/mgnt/m/restart", b"");
    assert!(refused.status == 409 && refused.text().contains("deploy it again"), "{}", refused.text());
    assert_eq!(server.post("/mgnt/nobody/restart", b"").status, 404);
    assert_eq!(server.post("/mgnt/m", b"").status, 405);
    assert_eq!(server.get("/m/pid").status, 200);
}
