//! Answers with files: conditions, ranges, encoded siblings, mounts, and what must not be sent.

use crate::support::tls::Authority;
use crate::support::{self, tls};
use crate::support::{Client, PATIENCE, Response, Server, eventually, isolation, module};
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

const TEXT: &[u8] = b"0123456789abcdefghij";

/// Beyond what is kept open, and what a socket takes in one go.
const LARGE_BYTES: usize = 12 * 1024 * 1024 + 7;

fn large() -> Vec<u8> {
    (0..LARGE_BYTES).map(|at| ((at * 31) >> 7) as u8).collect()
}

struct Site {
    server: Server,
}

impl Site {
    fn path(&self, name: &str) -> PathBuf {
        self.server.dir.path().join("static").join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    /// Names the time of the last change: a minute ago, and `seconds` more.
    fn age(&self, name: &str, seconds: u64) {
        let time = SystemTime::now() - Duration::from_secs(60 + seconds);
        File::options().write(true).open(self.path(name)).unwrap().set_modified(time).unwrap();
    }

    fn get(&self, target: &str, headers: &[(&str, &str)]) -> Response {
        self.server.connect().request("GET", target, headers, b"")
    }
}

fn site(args: &[&str]) -> Site {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    fs::create_dir_all(dir.path().join("static/www/deep")).unwrap();
    fs::write(dir.path().join("secret.txt"), "secret").unwrap();
    let site = Site { server: Server::on(&dir, args, &[]) };
    site.write("text.txt", TEXT);
    site.write("page.html", b"<p>page</p>");
    site.write("empty.txt", b"");
    site.write("large.bin", &large());
    ["text.txt", "page.html", "empty.txt", "large.bin"].iter().for_each(|name| site.age(name, 0));
    site.server.deploy_file("tests/modules/files.c");
    site
}

#[test]
fn files_with_their_conditions_and_ranges() {
    let site = site(&["--shards", "1"]);
    whole_files(&site);
    conditions(&site);
    ranges(&site);
    siblings(&site);
    order_and_pipelining(&site);
    handlers_have_the_last_word(&site);
}

fn whole_files(site: &Site) {
    for target in ["/below?name=text.txt", "/as-it-is?path=static/text.txt", "/inline?name=text.txt"] {
        let response = site.get(target, &[]);
        assert_eq!((response.status, response.body.as_slice()), (200, TEXT), "{target}");
        assert_eq!(response.header("content-type").unwrap(), "text/plain; charset=utf-8");
        assert_eq!(response.header("accept-ranges").unwrap(), "bytes");
        assert!(response.header("last-modified").unwrap().ends_with(" GMT"));
        let etag = response.header("etag").unwrap();
        assert!(etag.starts_with('"') && etag.ends_with('"'), "{etag}");
        assert_eq!(response.header("vary"), None);
        // HEAD says the same and sends nothing.
        let mut client = site.server.connect();
        let head = client.request("HEAD", target, &[], b"");
        for name in ["content-length", "content-type", "etag", "last-modified", "accept-ranges"] {
            assert_eq!(head.header(name), response.header(name), "{name}");
        }
        assert_eq!(client.get("/wrong").text(), "-1 -1 Invalid argument");
    }
    let empty = site.get("/below?name=empty.txt", &[]);
    assert_eq!((empty.status, empty.header("content-length").unwrap().as_str()), (200, "0"));
    // RFC 9110 §14.1.2: the last bytes of a file without bytes are all of it.
    for (range, status) in [("bytes=-5", 200), ("bytes=0-", 416), ("bytes=-0", 416)] {
        assert_eq!(site.get("/below?name=empty.txt", &[("Range", range)]).status, status, "{range}");
    }
    for target in ["/below?name=large.bin", "/inline?name=large.bin"] {
        assert!(site.get(target, &[]).body == large(), "{target}");
    }
}

fn conditions(site: &Site) {
    let first = site.get("/below?name=text.txt", &[]);
    let (etag, date) = (first.header("etag").unwrap(), first.header("last-modified").unwrap());
    let status = |method: &str, name: &str, value: &str| {
        let headers = [(name, value)];
        let response = site.server.connect().request(method, "/below?name=text.txt", &headers, b"");
        (response.status, response.header("etag"))
    };
    for (method, name, value, expected) in [
        ("GET", "If-None-Match", etag.as_str(), 304),
        ("HEAD", "If-None-Match", &etag, 304),
        ("PUT", "If-None-Match", &etag, 412),
        ("GET", "If-None-Match", "\"x\"", 200),
        ("GET", "If-Match", &etag, 200),
        ("GET", "If-Match", "\"x\"", 412),
        ("GET", "If-Modified-Since", &date, 304),
        ("GET", "If-Modified-Since", "Thu, 01 Jan 1970 00:00:00 GMT", 200),
        ("GET", "If-Unmodified-Since", &date, 200),
        ("GET", "If-Unmodified-Since", "Thu, 01 Jan 1970 00:00:00 GMT", 412),
    ] {
        assert_eq!(status(method, name, value), (expected, Some(etag.clone())), "{method} {name}: {value}");
    }
    // Another content is another entity, also if it is changed in place.
    site.write("changing.txt", b"first");
    let before = site.get("/below?name=changing.txt", &[]);
    OpenOptions::new().write(true).open(site.path("changing.txt")).unwrap().write_at(b"FIRST", 0).unwrap();
    site.age("changing.txt", 5);
    let after = site.get("/below?name=changing.txt", &[]);
    assert_eq!((before.text(), after.text()), ("first".to_owned(), "FIRST".to_owned()));
    assert_ne!(before.header("etag"), after.header("etag"));
    // Another file of the same name is sent at once.
    for text in ["second", "third"] {
        site.write("new.txt", text.as_bytes());
        fs::rename(site.path("new.txt"), site.path("changing.txt")).unwrap();
        assert_eq!(site.get("/below?name=changing.txt", &[]).text(), text);
    }
    fs::remove_file(site.path("changing.txt")).unwrap();
    assert_eq!(site.get("/below?name=changing.txt", &[]).status, 404);
}

fn ranges(site: &Site) {
    let whole = site.get("/below?name=text.txt", &[]);
    for target in ["/below?name=text.txt", "/inline?name=text.txt"] {
        for (range, from, to) in
            [("bytes=0-0", 0, 0), ("bytes=5-", 5, 19), ("bytes=-4", 16, 19), ("bytes=18-99", 18, 19)]
        {
            let part = site.get(target, &[("Range", range)]);
            assert_eq!((part.status, part.body.as_slice()), (206, &TEXT[from..=to]), "{range}");
            assert_eq!(part.header("content-range").unwrap(), format!("bytes {from}-{to}/20"));
            assert_eq!(part.header("etag"), whole.header("etag"));
        }
        let outside = site.get(target, &[("Range", "bytes=20-")]);
        assert_eq!((outside.status, outside.header("content-range").unwrap().as_str()), (416, "bytes */20"));
        let several = site.get(target, &[("Range", "bytes=0-1, 4-4,-2")]);
        let kind = several.header("content-type").unwrap();
        let boundary = kind.strip_prefix("multipart/byteranges; boundary=").unwrap();
        let part = |range: &str, text: &str| {
            format!(
                "\r\n--{boundary}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Range: bytes {range}/20\r\n\r\n{text}"
            )
        };
        let parts = [part("0-1", "01"), part("4-4", "4"), part("18-19", "ij"), format!("\r\n--{boundary}--\r\n")];
        assert_eq!((several.status, several.text()), (206, parts.concat()));
        assert_eq!(several.header("content-range"), None);
    }
    let etag = whole.header("etag").unwrap();
    let date = whole.header("last-modified").unwrap();
    for (condition, status) in [(etag.as_str(), 206), (&date, 206), ("\"x\"", 200), ("W/\"x\"", 200)] {
        let headers = [("Range", "bytes=0-1"), ("If-Range", condition)];
        assert_eq!(site.get("/below?name=text.txt", &headers).status, status, "{condition}");
    }
    let mut client = site.server.connect();
    let head = client.request("HEAD", "/below?name=text.txt", &[("Range", "bytes=0-1")], b"");
    assert_eq!((head.status, head.header("content-length").unwrap().as_str()), (200, "20"));
    // Far inside a large file, and all of it in parts.
    let content = large();
    let part = site.get("/below?name=large.bin", &[("Range", "bytes=5000000-8999999")]);
    assert!(part.body == content[5_000_000..9_000_000]);
    let curl = |args: &[&str]| {
        let url = format!("http://{}/below?name=large.bin", site.server.addr);
        Command::new("curl").args(["-sS", "--max-time", "60", &url]).args(args).output().unwrap().stdout
    };
    assert!([curl(&["-r", "0-6999999"]), curl(&["-r", "7000000-"])].concat() == content);
}

fn siblings(site: &Site) {
    let names = [
        ("style.css", "plain"),
        ("style.css.br", "brotli"),
        ("style.css.gz", "gzipped"),
        ("style.css.zst", "zstandard"),
    ];
    for (name, text) in names {
        site.write(name, text.as_bytes());
    }
    site.age("style.css", 30);
    site.age("style.css.zst", 90);
    for (accepted, expected, coding) in [
        ("gzip, br", "brotli", Some("br")),
        ("gzip", "gzipped", Some("gzip")),
        ("gzip;q=1, br;q=0.5", "gzipped", Some("gzip")),
        ("zstd", "plain", None), // It is older than the file.
        ("br;q=0, gzip;q=0", "plain", None),
        ("identity", "plain", None),
        ("", "plain", None),
    ] {
        let response = site.get("/below?name=style.css", &[("Accept-Encoding", accepted)]);
        assert_eq!(
            (response.text().as_str(), response.header("content-encoding").as_deref()),
            (expected, coding),
            "{accepted}"
        );
        assert_eq!(response.header("vary").unwrap(), "Accept-Encoding", "{accepted}");
        assert_eq!(response.header("content-type").unwrap(), "text/css; charset=utf-8");
        // A range is one of the encoded bytes, and each encoding has a tag of its own.
        let headers = [("Accept-Encoding", accepted), ("Range", "bytes=0-2")];
        assert_eq!(site.get("/below?name=style.css", &headers).text(), expected[..3]);
        let etag = response.header("etag").unwrap();
        let headers = [("Accept-Encoding", accepted), ("If-None-Match", etag.as_str())];
        let same = site.get("/below?name=style.css", &headers);
        assert_eq!((same.status, same.header("vary").as_deref()), (304, Some("Accept-Encoding")));
        assert_eq!(site.get("/below?name=style.css", &[("If-None-Match", &etag)]).status == 200, coding.is_some());
    }
}

fn order_and_pipelining(site: &Site) {
    let content = large();
    let mut client = site.server.connect();
    let ask = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n");
    let targets = [
        "/below?name=text.txt",
        "/inline?name=large.bin",
        "/instead",
        "/below?name=large.bin",
        "/inline?name=text.txt",
    ];
    client.send(targets.map(ask).concat().as_bytes());
    for target in targets {
        let body = client.response().body;
        let expected = if target.contains("large") {
            &content
        } else if target == "/instead" {
            &b"not the file"[..]
        } else {
            TEXT
        };
        assert!(body == expected, "{target}");
    }
    // HTTP/1.0, and the last answer of a connection.
    client.send(b"GET /below?name=large.bin HTTP/1.0\r\n\r\n");
    assert!(client.response().body == content);
    assert!(client.is_closed());
}

fn handlers_have_the_last_word(site: &Site) {
    assert_eq!(site.get("/instead", &[("If-None-Match", "*")]).text(), "not the file");
    let page = site.get("/error", &[("Range", "bytes=0-1"), ("If-None-Match", "*")]);
    assert_eq!((page.status, page.text().as_str()), (404, "<p>page</p>"));
    let own = site.get("/own", &[]);
    let field = |name: &str| own.header(name).unwrap();
    assert_eq!(
        (field("etag"), field("content-type"), field("cache-control")),
        ("\"mine\"".into(), "text/x-mine".into(), "max-age=60".into())
    );
    assert_eq!(field("vary"), "Cookie");
    assert_eq!(own.head.to_lowercase().matches("etag").count(), 1);
    assert_eq!(site.get("/own", &[("If-None-Match", "\"mine\"")]).status, 304);
    let upload = |max: usize| site.server.post(&format!("/upload?max={max}"), b"some bytes").text();
    assert_eq!(
        [upload(0), upload(10), upload(9)],
        ["10 ok [some bytes]", "10 ok [some bytes]", "-1 Message too long []"]
    );
    let body = &large()[..3_000_000];
    let sum = body.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    assert_eq!(site.server.post("/upload-stream?max=0", body).text(), format!("3000000 ok {sum}"));
    let refused = site.server.post("/upload-stream?max=1000", &body[..5000]).text();
    assert_eq!(refused, "-1 Message too long 0");
    assert_eq!(site.get("/faults", &[]).status, 500);
    assert_eq!(site.get("/below?name=text.txt", &[]).body, TEXT);
}

#[test]
fn only_regular_files_below_the_root_are_sent() {
    let site = site(&["--shards", "1"]);
    symlink(site.server.dir.path().join("secret.txt"), site.path("out.txt")).unwrap();
    symlink("text.txt", site.path("in.txt")).unwrap();
    symlink("www/../../secret.txt", site.path("up.txt")).unwrap();
    assert!(Command::new("mkfifo").arg(site.path("fifo")).status().unwrap().success());
    let secret = site.server.dir.path().join("secret.txt");
    let missing = [
        "",
        ".",
        "..",
        "www",
        "nothing",
        "text.txt/",
        "fifo",
        "out.txt",
        "up.txt",
        "../secret.txt",
        "www/../../secret.txt",
    ];
    for name in missing.into_iter().chain([secret.to_str().unwrap(), "/proc/self/root/etc/passwd"]) {
        for route in ["/below", "/inline"] {
            let response = site.get(&format!("{route}?name={name}"), &[]);
            assert_eq!((response.status, response.text().as_str()), (404, "Not found\n"), "{route} {name}");
        }
    }
    assert_eq!(site.get("/below?name=in.txt", &[]).body, TEXT);
    for path in ["static", "static/fifo", "/dev/null", "/dev/zero", "no", ""] {
        assert_eq!(site.get(&format!("/as-it-is?path={path}"), &[]).status, 404, "{path}");
    }
    mounts(&site);
}

fn mounts(site: &Site) {
    assert_eq!(site.get("/assets/", &[]).status, 404);
    site.write("www/index.html", b"<h1>index</h1>");
    site.write("www/deep/a b.js", b"1");
    site.write("www/.env", b"secret");
    fs::create_dir_all(site.path("www/odd/index.html")).unwrap();
    symlink(site.server.dir.path().join("secret.txt"), site.path("www/out.txt")).unwrap();
    let index = site.get("/assets/", &[]);
    assert_eq!((index.status, index.text().as_str()), (200, "<h1>index</h1>"));
    assert_eq!(index.header("content-type").unwrap(), "text/html; charset=utf-8");
    let script = site.get("/assets/deep/a%20b.js", &[]);
    assert_eq!(
        (script.text().as_str(), script.header("content-type").unwrap().as_str()),
        ("1", "text/javascript; charset=utf-8")
    );
    for (target, location) in [("/assets", "/assets/"), ("/assets/deep?x=1", "/assets/deep/?x=1")] {
        let moved = site.get(target, &[]);
        assert_eq!((moved.status, moved.header("location").unwrap().as_str()), (301, location));
    }
    for name in [
        ".env",
        "out.txt",
        "..%2fsecret.txt",
        "../secret.txt",
        "nothing",
        "deep/",
        "deep//a%20b.js",
        "index.html%00",
        "odd/",
    ] {
        assert_eq!(site.get(&format!("/assets/{name}"), &[]).status, 404, "{name}");
    }
    let mut client = site.server.connect();
    let head = client.request("HEAD", "/assets/", &[], b"");
    assert_eq!((head.status, head.header("content-length").unwrap().as_str()), (200, "14"));
    assert_eq!(client.request("GET", "/assets/", &[("Range", "bytes=1-2")], b"").text(), "h1");
    assert_eq!(client.request("POST", "/assets/", &[], b"x").status, 405);
    let mount = |dir: &str| module("m", "", "", 0, &format!(".mounts = {{{{\"/m\", \"{dir}\"}}}}, .mount_size = 1"));
    for dir in ["/etc", "..", "static/../module-data"] {
        let refused = site.server.try_deploy(&mount(dir));
        assert!(refused.status >= 400 && refused.text().contains("mounts[0]"), "{dir}: {}", refused.text());
    }
    for prefix in ["/mgnt", "/jobs/x", "/a b", "m"] {
        let fields = format!(".mounts = {{{{\"{prefix}\", \"static\"}}}}, .mount_size = 1");
        let refused = site.server.try_deploy(&module("m", "", "", 0, &fields));
        assert!(refused.status >= 400 && refused.text().contains("s[0]: "), "{prefix}: {}", refused.text());
    }
    site.server.deploy(&mount("static"));
    assert_eq!(site.get("/m/text.txt", &[]).body, TEXT);
    assert!(site.server.get("/mgnt").text().contains("/m(/.*)?"));
    mount_on_all_paths(site);
}

/// A mount on `/` keeps no path from modules that come later; a narrower one does, and its refusal says so.
fn mount_on_all_paths(site: &Site) {
    let mounted = |name: &str| module(name, "", "", 0, ".mounts = {{\"/\", \"static\"}}, .mount_size = 1");
    site.server.deploy(&mounted("root"));
    assert_eq!(site.get("/text.txt", &[]).body, TEXT);
    let pages = r#"{"/text.txt","GET",h,NONE},{"/page/.*","GET",h,NONE},{"/only/[a-z]","POST",h,NONE}"#;
    site.server.deploy(&module("pages", "HANDLER(h, \"page\")", pages, 3, ""));
    for path in ["/text.txt", "/page/1"] {
        assert_eq!(site.get(path, &[]).text(), "page", "{path}");
    }
    assert_eq!((site.get("/other.txt", &[]).status, site.get("/only/a", &[]).status), (404, 404), "no such file");
    let mut client = site.server.connect();
    assert_eq!(client.request("HEAD", "/deep/", &[], b"").status, 404);
    let refused = client.request("PUT", "/only/a", &[], b"");
    assert_eq!((refused.status, refused.header("allow").unwrap().as_str()), (405, "GET, HEAD, POST, OPTIONS"));
    let conflict = |source: &str, words: &str| {
        let refused = site.server.try_deploy(source);
        assert!(refused.status == 409 && refused.text().contains(words), "{words}: {}", refused.text());
    };
    conflict(&mounted("second"), "module root has a mount on / already");
    let below = module("below", "HANDLER(h, \"\")", r#"{"/m/x","GET",h,NONE}"#, 1, "");
    conflict(
        &below,
        "is already served by module m (by its mount on /m); choose another path, narrow that mount, or remove module m",
    );
}

/// A file that gets shorter while it is sent can't be sent whole: the client sees that, and nobody else anything.
#[test]
fn a_file_that_is_cut_while_it_is_sent_ends_its_connection() {
    let site = site(&["--shards", "1"]);
    for route in ["/below", "/inline"] {
        site.write("large.bin", &large());
        let mut client = site.server.connect();
        client.send(format!("GET {route}?name=large.bin HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes());
        let mut head = vec![0; 4096];
        let mut count = client.stream.read(&mut head).unwrap();
        assert!(String::from_utf8_lossy(&head).contains(&format!("Content-Length: {LARGE_BYTES}\r\n")));
        OpenOptions::new().write(true).open(site.path("large.bin")).unwrap().set_len(1_000_000).unwrap();
        // By a reset, or by an end before all has come.
        while let Ok(more @ 1..) = client.stream.read(&mut head) {
            count += more;
        }
        assert!(count < LARGE_BYTES, "{count}");
        assert_eq!(site.get("/below?name=text.txt", &[]).body, TEXT);
    }
}

/// What the kernel has not in memory is read by another thread; the answer is the same.
#[test]
fn cold_files_are_sent_whole() {
    // Not below /dev/shm, where nothing is ever cold.
    let dir = Arc::new(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap());
    fs::create_dir_all(dir.path().join("static")).unwrap();
    let site = Site { server: Server::on(&dir, &["--shards", "1"], &[]) };
    site.server.deploy_file("tests/modules/files.c");
    let content = large();
    site.write("large.bin", &content);
    let mut clients: Vec<Client> = (0..3).map(|_| site.server.connect()).collect();
    for _ in 0..2 {
        let file = File::open(site.path("large.bin")).unwrap();
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let ask = b"GET /below?name=large.bin HTTP/1.1\r\nHost: h\r\n\r\nGET /below?name=large.bin HTTP/1.1\r\nHost: h\r\nRange: bytes=-9\r\n\r\n";
        clients.iter_mut().for_each(|client| client.send(ask));
        for client in &mut clients {
            assert!(client.response().body == content);
            assert_eq!(client.response().body, content[content.len() - 9..]);
        }
    }
    // Clients that leave while their file is read leave nothing behind.
    let before = site.server.descriptors();
    for _ in 0..20 {
        let mut client = site.server.connect();
        client.send(b"GET /below?name=large.bin HTTP/1.1\r\nHost: h\r\n\r\n");
    }
    eventually("the descriptors are closed", || site.server.descriptors() <= before);
}

#[test]
fn open_files_are_bounded() {
    let site = site(&["--shards", "1"]);
    for number in 0..200 {
        site.write(&format!("{number}.txt"), number.to_string().as_bytes());
    }
    let mut client = site.server.connect();
    let descriptors = || {
        let count = |pid: u32| fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        site.server.processes().into_iter().map(count).sum::<usize>()
    };
    client.get("/below?name=text.txt");
    site.server.wait_complete();
    let before = descriptors();
    for round in 0..2 {
        for number in (0..200).chain((0..200).rev()) {
            let text = client.get(&format!("/below?name={number}.txt")).text();
            assert_eq!(text, number.to_string(), "{round}");
        }
    }
    // 64 in the process of the module, 32 in the shard.
    assert!(descriptors() <= before + 100, "{before} and then {}", descriptors());
    for number in 0..5 {
        client.get(&format!("/below?name=large.bin&{number}"));
    }
    assert!(descriptors() <= before + 100, "{before} and then {}", descriptors());
}

#[test]
fn files_over_tls() {
    let authority = Authority::new();
    authority.issue("server", tls::P256, "10");
    let server = authority.server("server", &["--shards", "1"]);
    fs::create_dir_all(server.dir.path().join("static")).unwrap();
    let content = large();
    fs::write(server.dir.path().join("static/large.bin"), &content).unwrap();
    authority.deploy(&server);
    let source = fs::read_to_string(support::root().join("tests/modules/files.c")).unwrap();
    let path = authority.path("files.c");
    fs::write(&path, source).unwrap();
    let deployed = authority.curl(&server, "/mgnt", &["--data-binary", &format!("@{}", path.display())]);
    assert!(String::from_utf8_lossy(&deployed.stdout).is_empty() || deployed.status.success());
    for route in ["/below", "/inline"] {
        let target = format!("{route}?name=large.bin");
        assert!(authority.curl(&server, &target, &[]).stdout == content, "{route}");
        assert!(authority.curl(&server, &target, &["-r", "100-2000000"]).stdout == content[100..=2_000_000]);
    }
    // A body in pieces: with its length, in chunks, and with the expectation that curl has of large bodies.
    let sum = content.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    let file = format!("@{}", server.dir.path().join("static/large.bin").display());
    for framing in ["X-A: b", "Transfer-Encoding: chunked", "Expect: 100-continue"] {
        let sent = authority.curl(&server, "/upload-stream?max=0", &["--data-binary", &file, "-H", framing]);
        assert_eq!(String::from_utf8_lossy(&sent.stdout), format!("{LARGE_BYTES} ok {sum}"), "{framing}");
    }
}

/// A process of modules that passes something else than files is ended; requests of others go on.
#[test]
fn lies_about_files_cost_the_liar_its_process() {
    if isolation() != "process" {
        return;
    }
    let site = site(&["--shards", "1"]);
    // The socket of the one shard, and the one by which jobs get their files.
    assert_eq!(site.get("/breaks", &[]).text(), "2", "{PATIENCE:?}");
    let lied = site.get("/below?name=page.html", &[]);
    assert_eq!(lied.status, 502, "{}", lied.text());
    eventually("a new process answers", || site.get("/below?name=text.txt", &[]).status == 200);
}
