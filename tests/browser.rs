//! What a browser makes of the server: headless Chromium loads pages that run their checks and report to the server.
//!
//! `CWEB_TEST_NO_BROWSER=1` leaves these tests out where there can be no browser.

use crate::support::tls::Authority;
use crate::support::{self, Server, root};
use data_encoding::BASE64;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A browser on a busy machine takes its time.
const BROWSER_PATIENCE: Duration = Duration::from_secs(180);

const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// The browser's program; `None` when the tests are to do without.
fn program() -> Option<&'static str> {
    if std::env::var("CWEB_TEST_NO_BROWSER").is_ok_and(|value| value == "1") {
        println!("left out: CWEB_TEST_NO_BROWSER=1");
        return None;
    }
    let starts = |name: &&str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
    };
    let found = NAMES.into_iter().find(starts);
    Some(found.expect("no Chromium: apt-get install chromium, or set CWEB_TEST_NO_BROWSER=1 to do without"))
}

/// A browser with one page, ended when dropped with all its processes.
struct Browser {
    child: Child,
    profile: tempfile::TempDir,
}

impl Browser {
    fn open(program: &str, url: &str, args: &[String]) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let child = Command::new(program)
            // As root it has no sandbox; what it loads is ours.
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage"])
            .args(["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"])
            // Without it a headless browser ends when it has loaded the page.
            .arg("--remote-debugging-port=0")
            .arg(format!("--user-data-dir={}", profile.path().join("empty").display()))
            .args(args)
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(profile.path().join("log")).unwrap())
            .process_group(0)
            .spawn()
            .unwrap();
        Self { child, profile }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.profile.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
        let _ = self.child.wait();
    }
}

/// Waits for the report of the page that `browser` has open; `get` asks the server for it.
fn report(browser: &mut Browser, mut get: impl FnMut() -> Vec<u8>) -> Value {
    let deadline = Instant::now() + BROWSER_PATIENCE;
    loop {
        if let Ok(report) = serde_json::from_slice(&get()) {
            return report;
        }
        let ended = browser.child.try_wait().unwrap();
        assert!(ended.is_none(), "the browser ended, {ended:?}: {}", browser.log());
        assert!(Instant::now() < deadline, "no report: {}", browser.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// Puts the pages where the module of static files finds them.
fn put_pages(server: &Server) {
    let dir = server.dir.path().join("static");
    std::fs::create_dir_all(&dir).unwrap();
    for page in ["checks.js", "pages.html", "secure.html", "stranger.html"] {
        std::fs::copy(root().join("tests/browser").join(page), dir.join(page)).unwrap();
    }
}

const MODULES: [&str; 3] = ["tests/browser/stage.c", "example/static_files.c", "example/sum_job.c"];

#[test]
fn a_page_uses_everything_over_https() {
    let Some(program) = program() else { return };
    let authority = Authority::new();
    authority.self_sign("own", " -addext basicConstraints=critical,CA:FALSE");
    let pem = authority.text("own.pem");
    let deploy = |server: &Server, source: &str| {
        let path = authority.text("source.c");
        std::fs::write(&path, source).unwrap();
        let data = format!("@{path}");
        let output = authority.curl(server, "/mgnt", &["--cacert", &pem, "--fail-with-body", "--data-binary", &data]);
        assert!(output.status.success(), "{output:?}");
    };
    let server = authority.server("own", &[]);
    put_pages(&server);
    MODULES.iter().for_each(|module| deploy(&server, &read(module)));
    let open = authority.server("own", &[]);
    let closed = authority.server("own", &["--cors-allow-origin", ""]);
    [&open, &closed].into_iter().for_each(|server| deploy(server, &read(MODULES[0])));

    // Of all certificates, this key alone is excused.
    authority.openssl("x509 -in own.pem -noout -pubkey -out own.pub");
    authority.openssl("pkey -pubin -in own.pub -outform der -out own.spki");
    let hash = BASE64.encode(&Sha256::digest(std::fs::read(authority.path("own.spki")).unwrap()));
    let args = [format!("--ignore-certificate-errors-spki-list={hash}")];
    let given = format!("open=https://{}&closed=https://{}", open.addr, closed.addr);
    let url = format!("https://{}/static/secure.html#{given}", server.addr);
    let mut browser = Browser::open(program, &url, &args);
    let found = report(&mut browser, || authority.curl(&server, "/report", &["--cacert", &pem]).stdout);
    let expected = json!({
        "secure": "https:",
        "version": "http/1.1",
        "fetch": true,
        "parallel": true,
        "wss": "1000 true",
        "submit": 200,
        "sse": "done",
        "jobs_wss": "1000 done",
        "preflight": "200 {\"a\":1}",
        "closed": "TypeError: Failed to fetch",
    });
    assert_eq!(found, expected, "{}", browser.log());
}

#[test]
fn a_page_of_another_site_cannot_touch_a_server_on_this_machine() {
    let Some(program) = program() else { return };
    let server = Server::start();
    put_pages(&server);
    for module in MODULES {
        server.deploy_file(module);
    }
    let job: Value = serde_json::from_slice(
        &server.post("/jobs", br#"{"module":"sum","job":"sum","payload":{"numbers":[1]}}"#).body,
    )
    .unwrap();
    let modules = || {
        let list: Value = serde_json::from_slice(&server.get("/mgnt").body).unwrap();
        let names =
            list["modules"].as_array().unwrap().iter().map(|module| module["name"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    let (before, port) = (modules(), server.addr.rsplit(':').next().unwrap());
    let args = ["--host-resolver-rules=MAP stranger.test 127.0.0.1".to_owned()];
    let uuid = job["job_uuid"].as_str().unwrap();
    let given = |name: &str| format!("target=http://127.0.0.1:{port}&name={name}&job={uuid}");
    let page = format!("http://stranger.test:{port}/static/stranger.html#{}", given("intruder"));
    let mut browser = Browser::open(program, &page, &args);
    let found = report(&mut browser, || server.get("/report").body);
    let expected = json!({
        "origin": format!("http://stranger.test:{port}"),
        "form": 403,
        "text": 403,
        "blind": "opaque",
        "remove": 403,
        "list": 403,
        "job": 403,
        "socket": 1006,
        "rebound": 403,
        "rebound_text": 403,
    });
    assert_eq!(found, expected, "{}", browser.log());
    assert_eq!(modules(), before);
    drop(browser);

    // The same page from the server's own address, as a module serves pages, may read and follow jobs, and change nothing.
    server.post("/report", b"none yet");
    let page = format!("http://127.0.0.1:{port}/static/stranger.html#{}", given("guest"));
    let mut browser = Browser::open(program, &page, &args);
    let found = report(&mut browser, || server.get("/report").body);
    let statuses = ["form", "text", "remove", "list", "job", "rebound"].map(|name| found[name].as_i64().unwrap_or(0));
    assert_eq!(statuses, [403, 403, 403, 200, 200, 403], "{found}");
    assert_eq!(found["socket"], "open", "{found}");
    assert_eq!(modules(), before);
}

/// A page that includes the script of a server in development loads again when its module is saved.
#[test]
fn a_page_loads_again_after_a_save() {
    let Some(program) = program() else { return };
    let server = Server::with(&["--dev"]);
    server.deploy_file(MODULES[0]);
    let work = tempfile::tempdir().unwrap();
    let page = |text: &str| {
        let html = format!(
            "<script src='/cweb-dev/reload.js'></script><script>fetch('/report', {{method: 'POST', body: '[\\\"{text}\\\"]'}})</script>"
        );
        let code = format!(
            "static int show(struct cweb_context *c, http_request_t *q, http_response_t *r) {{\n\
             return cweb_respond(r, 200, \"text/html\", \"%s\", \"{html}\"); }}"
        );
        let source = support::module("page", &code, "{\"/page\", \"GET\", show, NONE}", 1, "");
        std::fs::write(work.path().join("page.c"), source).unwrap();
    };
    page("first");
    let mut dev = Command::new(env!("CARGO_BIN_EXE_cweb"));
    dev.args(["dev", "page.c", "--server", &server.addr]).current_dir(work.path());
    let mut dev = dev.stdout(Stdio::null()).spawn().unwrap();
    support::eventually("the page", || server.get("/page").status == 200);
    let mut browser = Browser::open(program, &format!("http://{}/page", server.addr), &[]);
    let first = report(&mut browser, || server.get("/report").body);
    page("second");
    let second = report(&mut browser, || {
        Some(server.get("/report").body).filter(|body| body != b"[\"first\"]").unwrap_or_default()
    });
    let _ = dev.kill();
    let _ = dev.wait();
    assert_eq!((first, second), (json!(["first"]), json!(["second"])), "{}", browser.log());
    // A server that is not in development has none of this, and its answers are as its modules make them.
    let other = Server::start();
    assert_eq!(other.get("/cweb-dev/reload.js").status, 404);
}

/// The pages of the examples show what they promise, and messages are compressed with a browser's own permessage-deflate.
#[test]
fn the_pages_of_the_examples_work() {
    let Some(program) = program() else { return };
    let server = Server::start();
    put_pages(&server);
    for module in ["chat", "spectrum", "mandelbrot", "static_files"] {
        server.deploy_file(&format!("example/{module}.c"));
    }
    server.deploy_file(MODULES[0]);
    let mut browser = Browser::open(program, &format!("http://{}/static/pages.html", server.addr), &[]);
    let found = report(&mut browser, || server.get("/report").body);
    let expected = json!({
        "compressed": ["permessage-deflate", true],
        "chat": ["gr\u{fc}ezi", "gr\u{fc}ezi", "coffee"],
        "spectrum": true,
        "mandelbrot": ["0,0,0,255", true],
    });
    assert_eq!(found, expected, "{}", browser.log());
}
