//! Single-file apps for nope.c and WAFer, one in the style of each of their generations.

use crate::support::{self, Client, Response, Server, constant, cweb, isolation};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

fn source(name: &str) -> String {
    std::fs::read_to_string(support::root().join(format!("tests/modules/wafer/{name}.c"))).unwrap()
}

/// Deploys a source under a name, as the query gives it.
fn deploy_as(server: &Server, query: &str, source: &str) {
    let answer = server.post(&format!("/mgnt?{query}"), source.as_bytes());
    assert_eq!(answer.status, 200, "{}\n{}", answer.text(), server.log());
}

/// A server with these apps.
fn serving(names: &[&str]) -> Server {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    std::fs::create_dir(dir.path().join("static")).unwrap();
    std::fs::write(dir.path().join("static/hello.txt"), "hello file").unwrap();
    let server = Server::on(&dir, &["--shards", "2", "--compile-timeout-ms", "60000"], &[]);
    names.iter().for_each(|name| deploy_as(&server, &format!("name={name}"), &source(name)));
    server
}

fn ask(server: &Server, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    server.connect().request(method, target, headers, body)
}

#[test]
fn every_generation_answers_beside_the_others() {
    let server = serving(&["w0", "w1", "w2", "w3", "w4", "w5", "w6", "w7", "w8", "w10", "w9"]);
    let agent = [("X-Agent", "me ")];
    let text = |target: &str| ask(&server, "GET", target, &agent, b"").text();
    let posted = ask(&server, "POST", "/w0?x=1", &agent, b"tail");
    assert_eq!(
        (posted.text().as_str(), posted.header("content-type").unwrap().as_str()),
        ("POST /w0?x=1 agent=1 body=tail\n", "text/plain")
    );
    assert_eq!(text("/w1?name=a%2fb+c"), "<h1>w1</h1><p>a/b c</p>");
    assert!(text("/w1").ends_with("<p>VALUE_UNDEFINED</p>"));
    assert_eq!((server.get("/w1/file").status, server.get("/w1/none").status), (404, 404), "no crash");
    assert_eq!(text("/w2?q"), "<p>two</p><p>literal</p><p>GET 1 /w2 stream Host: localhost\n</p>");
    let three = text("/w3?q=7");
    assert!(
        three.contains("<div id=\"a\"  class=\"b\" ><b>GET</b><br/></div><form action = \"/w3\" >What?"),
        "{three}"
    );
    assert!(three.ends_with("[7]\r\n</body>\r\n</html>"), "{three}");
    let form = "<form action = \"/w4\" >Number: <input type=\"text\" name=\"q\" /><input type = \"submit\"  /></form>";
    assert_eq!(text("/w4?q=9"), format!("<h1 >four</h1>{form}<p class=\"x\" >GET 9</p>"));
    let bare = server.get("/w4/bare");
    assert_eq!((bare.status, bare.header("x-bare").as_deref(), bare.text().as_str()), (201, Some("yes"), "/w4/bare"));
    assert_eq!(text("/w4/again?q=x"), "(x)");
    assert_eq!(text("/w5"), "{Host: localhost}{X-Agent: me }<p>me  VALUE_UNDEFINED five</p>");
    assert_eq!(
        (text("/w6/count"), text("/w6/count"), text("/w6/factor")),
        ("1".into(), "2".into(), "<p >six</p>".into())
    );
    assert_eq!((text("/w6/long").len(), server.get("/w6/501").status), (100_000, 501));
    assert_eq!(
        (text("/w7"), text("/w7/form?q=1"), server.get("/w7/none").status),
        ("<p>hello</p>".into(), "[1]!".into(), 404)
    );
    assert!(text("/w7/form").ends_with("</form>[null]!"));
    assert!(text("/w8/factor?q=12").starts_with("<h1 >eight</h1><form action = \"/w8/factor\" >Number: "));
    assert!(text("/w8/factor?q=12").ends_with("</form>2 x 2 x 3"));
    assert_eq!((text("/w8/once?q=1"), text("/w8/agent")), ("[1]".into(), "me ".into()));
    assert_eq!(text("/w10/who?a=%2F"), "GET /w10/who?a=%2F HTTP/1.1 2");
    // The last of several apps answers what all others leave, as it likes.
    let none = server.get("/w6/factoX");
    assert_eq!((none.status, none.text().as_str()), (404, "no /w6/factoX here"), "the last byte counts");
}

#[test]
fn heads_are_taken_apart_and_never_doubled() {
    let server = serving(&["w8", "w9", "w10"]);
    let typed = |target: &str| {
        let answer = server.get(target);
        (answer.status, answer.header("content-type").unwrap_or_default(), answer.text())
    };
    assert_eq!(typed("/w9/json"), (200, "application/json".into(), "{}".into()));
    assert_eq!(typed("/w9/late"), (200, "text/css".into(), "body{}".into()));
    assert_eq!(typed("/w9/flag"), (200, "text/xml".into(), "<x/>".into()));
    assert_eq!(server.get("/w9/flag").header("content-encoding").as_deref(), Some("identity"));
    assert_eq!(
        typed("/w9/param?a=%c3%A4+b"),
        (200, "text/html".into(), "/w9/param=\u{e4} b /w9/param?a=%c3%A4+b".into())
    );
    assert_eq!(typed("/w9/param?a").2, "/w9/param=null /w9/param?a");
    assert_eq!(typed("/w9/param?a=").2, "/w9/param= /w9/param?a=");
    assert_eq!(typed("/w10/plain"), (200, "text/html".into(), "<p>no head</p>".into()));
    assert_eq!(typed("/w10/dprintf"), (200, "text/x-d".into(), "42".into()));
    assert_eq!(server.get("/w10/304").status, 304);
    let moved = server.get("/w8/raw");
    assert_eq!((moved.status, moved.text().as_str()), (302, "moved"));
    let cookies = moved.head.to_ascii_lowercase().matches("set-cookie:").count();
    assert_eq!((cookies, moved.header("content-length").as_deref(), moved.header("connection")), (2, Some("5"), None));
    let head = ask(&server, "HEAD", "/w8/factor", &[], b"");
    assert_eq!((head.status, head.header("content-type").as_deref()), (200, Some("text/html")));
    let huge = server.get("/w10/huge");
    assert!(huge.status == 500 && huge.text().contains("32 MiB"), "{}", huge.text());
}

#[test]
fn files_have_dates_and_missing_ones_are_404() {
    let server = serving(&["w8", "w10"]);
    let file = server.get("/w10/file");
    assert_eq!(
        (file.status, file.text().as_str(), file.header("cache-control").as_deref()),
        (200, "hello file", Some("private"))
    );
    let date = file.header("last-modified").unwrap();
    let since = |date: &str| ask(&server, "GET", "/w10/file", &[("if-modified-since", date)], b"").status;
    assert_eq!((since(&date), since("Thu, 01 Jan 1970 00:00:00 GMT"), since("nonsense")), (304, 200, 200));
    assert_eq!(server.get("/w10/without").text(), "hello file");
    assert_eq!(
        (server.get("/w8/file").text().as_str(), server.get("/w8/file").header("last-modified")),
        ("hello file", None)
    );
    let download = server.get("/w8/download").header("content-disposition");
    assert_eq!(download.as_deref(), Some("attachment; filename=\"greeting.txt\""));
    assert_eq!(server.get("/w10/missing").status, 404);
    server.expect_log("--allow-read DIR");
}

#[test]
fn bodies_come_whole_in_whatever_packets() {
    let server = serving(&["w10"]);
    let body: Vec<u8> = (0..50_000_u32).map(|n| (n % 251) as u8).collect();
    let sum: u64 = body.iter().map(|byte| u64::from(*byte)).sum();
    let mut client = server.connect();
    client.send(b"POST /w10/echo HTTP/1.1\r\nHost: x\r\ncontent-length: 50000\r\n\r\n");
    body.chunks(997).for_each(|piece| client.send(piece));
    assert!(client.response().text().starts_with(&format!("50000 {sum}")));
    assert_eq!(server.get("/w10/echo").text(), "no body");
}

#[test]
fn an_exit_or_a_fault_ends_its_call_alone() {
    let server = serving(&["w6", "w10"]);
    for _ in 0..20 {
        assert_eq!(server.get("/w10/exit").status, 500);
        assert_eq!(server.get("/w10/plain").text(), "<p>no head</p>");
    }
    assert_eq!(server.get("/w10/crash").status, 500);
    assert_eq!(server.get("/w10/plain").text(), "<p>no head</p>");
}

#[test]
fn one_call_at_a_time() {
    let server = serving(&["w6"]);
    let addr = server.addr.clone();
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let addr = addr.clone();
            std::thread::spawn(move || {
                let mut client = Client::connect(&addr);
                (0..25).map(|_| client.get("/w6/alone").text()).collect::<Vec<_>>()
            })
        })
        .collect();
    let mut seen: Vec<u32> = Vec::new();
    for answer in threads.into_iter().flat_map(|thread| thread.join().unwrap()) {
        let (others, count) = answer.split_once(' ').unwrap();
        assert_eq!(others, "0", "another call was running");
        seen.push(count.parse().unwrap());
    }
    seen.sort_unstable();
    assert_eq!(seen, (1..=200).collect::<Vec<u32>>(), "no count is lost");
}

#[test]
fn other_modules_come_first_and_a_swap_under_load_loses_nothing() {
    let server = Arc::new(serving(&["w8"]));
    server.deploy(&constant("plain", "/w8/factor", "plain"));
    assert_eq!(server.get("/w8/factor").text(), "plain");
    assert_eq!(server.get("/nobody").status, 404);
    let over = Arc::new(AtomicBool::new(false));
    let load = {
        let (server, over) = (Arc::clone(&server), Arc::clone(&over));
        std::thread::spawn(move || {
            let mut client = server.connect();
            let mut count = 0;
            while !over.load(Ordering::Relaxed) || count < 50 {
                assert_eq!(client.get("/w8/once?q=1").text(), "[1]");
                count += 1;
            }
        })
    };
    for version in 0..3 {
        deploy_as(&server, "name=w8", &format!("{}\n// {version}\n", source("w8")));
    }
    over.store(true, Ordering::Relaxed);
    load.join().unwrap();
}

#[test]
fn a_mounted_app_sees_paths_without_its_prefix_also_after_a_restart() {
    let server = serving(&[]);
    let file = server.dir.path().join("factor.c");
    std::fs::write(&file, source("w8")).unwrap();
    let url = format!("http://{}", server.addr);
    let (ok, text) =
        cweb(&["deploy", "--server", &url, "--mount", "/app", file.to_str().unwrap()], server.dir.path(), &[]);
    assert!(ok && text.contains("module factor"), "{text}");
    deploy_as(&server, "name=w9", &source("w9"));
    let check = |server: &Server| {
        assert!(server.get("/app/w8/factor?q=6").text().contains("<form action = \"/app/w8/factor\" >"));
        assert_eq!(server.get("/w8/factor").text(), "no /w8/factor here");
        assert_eq!(server.get("/app/none").text(), "no /app/none here", "what it declines goes on");
    };
    check(&server);
    let dir = Arc::clone(&server.dir);
    server.stop();
    check(&Server::on(&dir, &[], &[]));
}

#[test]
fn names_come_from_the_file_and_what_is_no_app_is_refused() {
    let server = serving(&[]);
    let name = |answer: &Response| answer.header("x-cweb-module").unwrap();
    assert_eq!(name(&server.post("/mgnt?filename=longs.c", source("w8").as_bytes())), "longs");
    assert_eq!(name(&server.post("/mgnt", source("w9").as_bytes())), "server");
    let refused = |query: &str, source: &str| {
        let answer = server.post(&format!("/mgnt?{query}"), source.as_bytes());
        assert!((400..500).contains(&answer.status), "{}", answer.status);
        answer.text()
    };
    assert!(refused("", "#include <wafer.h>\nint x;\n").contains("void server(Request *, Response *)"));
    assert!(refused("", "#include <wafer.h>\n#include \"own.h\"\n").contains("one C file"));
    assert!(refused("", "#include <wafer.h>\n#include <iostream>\n").contains("C++"));
    assert!(refused("mount=/a.b", &source("w8")).contains("mount"));
    assert!(refused("mount=/jobs", &source("w8")).contains("server's own"));
    let module = "#include <cweb.h>\nexport module_t config = {.name = \"m\", .author = \"a\"};\n";
    for result in ["deployed", "unchanged"] {
        let said = server.post("/mgnt?mount=/app", module.as_bytes()).text();
        assert!(said.starts_with(result) && said.contains("the field mount has no effect"), "{said}");
    }
}

#[test]
fn a_call_that_does_not_end_keeps_nobody_for_ever() {
    if isolation() != "process" {
        return; // There is no time-out in the server's own process.
    }
    let server = Server::with(&["--handler-timeout-ms", "500", "--compile-timeout-ms", "60000"]);
    let app = "#include <wafer.h>\n#include <waferapi.h>\nvoid server(Request *q, Response *r) {\n\
               if (routeRequest(q, r, \"/loop\", NULL)) { for (;;) pause(); }\nresPuts(r, \"here\"); }\n";
    server.deploy(app);
    assert_eq!(server.get("/loop").status, 504);
    support::eventually("the next request is served", || server.get("/x").text() == "here");
}

/// A wait for the calls before is not the handler's time: neither is it answered 504, nor is the process replaced for it.
#[test]
fn many_calls_of_a_slow_app_are_no_handler_that_never_ends() {
    // Far above the time of a call, also on a busy machine, and below that of all calls.
    const LIMIT_MS: &str = "12000";
    let server = Server::with(&["--handler-timeout-ms", LIMIT_MS, "--compile-timeout-ms", "60000"]);
    server.deploy(
        "#include <waferapi.h>\n#include <unistd.h>\n\
         void server(Request *q, Response *r) { sleep(3); resPuts(r, \"slow\"); }\n",
    );
    let answers: Vec<Response> = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..8).map(|_| scope.spawn(|| server.get("/slow"))).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    assert!(statuses.contains(&200) && statuses.iter().all(|status| [200, 503].contains(status)), "{statuses:?}");
    if isolation() == "process" {
        let late = answers.iter().find(|answer| answer.status == 503).unwrap();
        assert!(late.text().contains("one call at a time"), "{}", late.text());
        assert_eq!(late.header("retry-after").as_deref(), Some("1"));
        assert!(!server.log().contains("is replaced"), "{}", server.log());
    }
}

#[test]
fn markup_is_row_by_row_what_it_was() {
    let server = serving(&[]);
    server.deploy(&source("entl"));
    let wanted = [
        "<t ",
        "<t a=1 ",
        ">",
        "<t >",
        "<t a=1 >",
        "</t>",
        "<t  />",
        "<t a=1  />",
        "k=v",
        "x",
        " ",
        "\r\n",
        "<t >in</t>",
        "<t a=1 >in</t>",
        "<a href=\"/u\" >in</a>",
        "<a href=\"/u\" a=1 >in</a>",
        "<img src=\"/u\"  />",
        "<img src=\"/u\" attributes  />",
        "<br  />",
        "<t a=1 name=\"q\" />",
        "<t a=1 name=\"q\" >in</t>",
    ];
    assert_eq!(server.get("/").text(), wanted.join("|"));
}

#[test]
fn the_port_is_that_of_the_environment() {
    let help = cweb(&["serve", "--help"], &support::root(), &[]).1;
    assert!(help.contains("[env: PORT]"), "{help}");
}
