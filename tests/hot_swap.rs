//! New versions under load: nothing is lost, nothing is mixed up, nothing is left behind.

use crate::support::{self, Server, module};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tungstenite::Message;
use tungstenite::protocol::frame::coding::CloseCode;

/// One at a time: each of these keeps both cores of a small machine busy, and the compiler needs its share.
static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());

fn turn() -> std::sync::MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Version `n`: says so on its route and on its WebSocket.
fn version(n: u64, fields: &str) -> String {
    let code = format!(
        "HANDLER(h, \"{n}\")\n\
         static _Atomic int begun;\n\
         static int slow(struct cweb_context *c, http_request_t *q, http_response_t *r) {{ begun++; struct timespec t = {{0, 300000000}}; nanosleep(&t, NULL); return h(c, q, r); }}\n\
         static int has_begun(struct cweb_context *c, http_request_t *q, http_response_t *r) {{ (void)c; (void)q; snprintf(r->body, HTTP_RESPONSE_SIZE, \"%d\", begun); return 0; }}\n\
         static void on_message(struct cweb_context *c, websocket_t *w, const char *m, size_t l) {{ (void)c; (void)m; (void)l; w->send(w, \"{n}\", strlen(\"{n}\")); }}\n"
    );
    let fields = if fields.is_empty() {
        r#".websockets = {{"/ws", NULL, on_message, NULL}}, .ws_size = 1,"#.to_owned()
    } else {
        fields.to_owned()
    };
    module(
        "swapped",
        &code,
        r#"{"/v","GET",h,NONE},{"/inline","GET",h,CWEB_INLINE},{"/slow","GET",slow,NONE},{"/begun","GET",has_begun,NONE}"#,
        4,
        &fields,
    )
}

#[test]
fn two_hundred_swaps_under_load_fail_no_request_and_drop_no_socket() {
    let _turn = turn();
    let server = Arc::new(Server::with(&["--shards", "2"]));
    // Eight versions in turn: each is compiled once, and the other swaps are as fast as they can be.
    server.deploy(&version(0, ""));
    // `begun` is raised before a deployment, `done` after: a request sent at `done == a` and answered at `begun == b` may
    // be answered by any version from a to b.
    let (begun, done, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
    let clients: Vec<_> = (0..6)
        .map(|number| {
            let (server, begun, done, stop) =
                (Arc::clone(&server), Arc::clone(&begun), Arc::clone(&done), Arc::clone(&stop));
            std::thread::spawn(move || {
                let mut client = server.connect();
                let path = if number % 2 == 0 { "/v" } else { "/inline" };
                let mut count = 0_u64;
                while !stop.load(Ordering::SeqCst) {
                    let oldest = done.load(Ordering::SeqCst);
                    let response = client.get(path);
                    let newest = begun.load(Ordering::SeqCst);
                    assert_eq!(response.status, 200, "{}", response.text());
                    let version: u64 = response.text().parse().unwrap();
                    let current = (oldest..=newest).any(|n| n % 8 == version);
                    assert!(current, "{version} is not from {oldest} to {newest}");
                    count += 1;
                    // The server shares two cores with these clients. A swap takes many times this long.
                    std::thread::sleep(Duration::from_millis(2));
                }
                count
            })
        })
        .collect();
    let mut socket = server.websocket("/ws");
    for n in 1..=200 {
        begun.store(n, Ordering::SeqCst);
        server.deploy(&version(n % 8, ""));
        done.store(n, Ordering::SeqCst);
        socket.send(Message::text("?")).unwrap();
        assert_eq!(socket.read().unwrap(), Message::text((n % 8).to_string()), "the same socket, the new handlers");
    }
    stop.store(true, Ordering::SeqCst);
    let total: u64 = clients.into_iter().map(|client| client.join().unwrap()).sum();
    assert!(total > 1000, "only {total} requests");
    support::eventually("old versions are unmapped", || server.mapped_modules().len() == 1);
}

#[test]
fn three_hundred_swaps_leave_no_memory_and_no_mapping() {
    let _turn = turn();
    let server = Server::with(&["--shards", "2"]);
    let versions = [version(1, ""), version(2, "")];
    let swap = |n: usize| {
        server.deploy(&versions[n % 2]);
        assert_eq!(server.get("/v").text(), (n % 2 + 1).to_string());
    };
    (0..60).for_each(swap);
    let before = server.memory_kib_own();
    (0..300).for_each(swap);
    support::eventually("old versions are unmapped", || server.mapped_modules().len() == 1);
    let after = server.memory_kib_own();
    println!("from {before} to {after} KiB");
    assert!(after < before + 3072, "grew from {before} to {after} KiB");
    let files = || std::fs::read_dir(server.dir.path().join("modules/.run/default")).unwrap().count();
    support::eventually("their files are gone", || files() == 1);
}

/// Hooks that tell the log, and a handler that notices if it runs outside of them.
fn hooked(n: u64) -> String {
    let code = format!(
        "static volatile int loaded;\n\
         static void onload(struct cweb_context *c) {{ (void)c; printf(\"onload {n}\\n\"); loaded = 1; }}\n\
         static void unload(struct cweb_context *c) {{ (void)c; loaded = 0; printf(\"unload {n}\\n\"); }}\n\
         static int h(struct cweb_context *c, http_request_t *q, http_response_t *r) {{ (void)c; (void)q; \
           struct timespec t = {{0, 2000000}}; int before = loaded; nanosleep(&t, NULL); \
           snprintf(r->body, HTTP_RESPONSE_SIZE, \"%s {n}\", before && loaded ? \"ok\" : \"outside\"); return 0; }}\n"
    );
    module("hooked", &code, r#"{"/h","GET",h,NONE}"#, 1, ".onload = onload, .unload = unload,")
}

#[test]
fn requests_wait_while_hooks_run_in_their_order_and_none_fails() {
    let _turn = turn();
    let server = Arc::new(Server::with(&["--shards", "2", "--shutdown-timeout-ms", "60000"]));
    server.deploy(&hooked(0));
    let stop = Arc::<AtomicBool>::default();
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (server, stop) = (Arc::clone(&server), Arc::clone(&stop));
            std::thread::spawn(move || {
                let mut client = server.connect();
                while !stop.load(Ordering::SeqCst) {
                    let response = client.get("/h");
                    assert!(response.status == 200 && response.text().starts_with("ok "), "{}", response.text());
                }
            })
        })
        .collect();
    for n in 1..=20 {
        server.deploy(&hooked(n));
    }
    stop.store(true, Ordering::SeqCst);
    clients.into_iter().for_each(|client| client.join().unwrap());
    // A line that a module prints comes to the log a moment later.
    server.expect_log("[hooked] onload 20");
    let log = server.log();
    let hooks: Vec<&str> = log.lines().filter_map(|line| line.split("[hooked] ").nth(1)).collect();
    let mut expected = vec!["onload 0".to_owned()];
    for n in 1..=20 {
        expected.extend([format!("unload {}", n - 1), format!("onload {n}")]);
    }
    assert_eq!(hooks, expected);
    let Ok(server) = Arc::try_unwrap(server) else { panic!() };
    assert!(server.stop().contains("[hooked] unload 20"), "the stop unloads too");
}

#[test]
fn a_refused_new_version_brings_the_old_one_back() {
    let _turn = turn();
    let server = Server::start();
    server.deploy(&hooked(1));
    let broken = hooked(2).replace("printf(\"onload 2\\n\");", "abort();");
    assert_eq!(server.try_deploy(&broken).status, 422);
    assert_eq!(server.get("/h").text(), "ok 1");
}

#[test]
fn a_running_request_ends_on_the_version_it_began_with() {
    let _turn = turn();
    let server = Server::start();
    server.deploy(&version(1, ""));
    let mut slow = server.connect();
    slow.send(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n");
    support::eventually("it has begun", || server.get("/begun").text() == "1");
    server.deploy(&version(2, ""));
    assert_eq!(server.get("/v").text(), "2", "nothing waits without hooks");
    assert_eq!(slow.response().text(), "1");
    support::eventually("version 1 is unmapped", || server.mapped_modules().len() == 1);
}

#[test]
fn a_swap_that_drops_a_path_says_goodbye_to_its_sockets() {
    let _turn = turn();
    let server = Server::start();
    let closing = r#".websockets = {{"/ws", NULL, on_message, on_close}}, .ws_size = 1,"#;
    let source = version(1, closing).replace(
        "static void on_message",
        "static void on_close(struct cweb_context *c, websocket_t *w) { (void)c; w->send(w, \"bye\", 3); }\nstatic void on_message",
    );
    server.deploy(&source);
    let mut socket = server.websocket("/ws");
    socket.send(Message::text("?")).unwrap();
    assert_eq!(socket.read().unwrap(), Message::text("1"));
    server.deploy(
        &version(2, ".ws_size = 0,")
            .replace("static void on_message", "__attribute__((unused)) static void on_message"),
    );
    assert_eq!(socket.read().unwrap(), Message::text("bye"));
    let Ok(Message::Close(Some(frame))) = socket.read() else { panic!("no close frame") };
    assert_eq!(frame.code, CloseCode::Away);
    drop(socket);
    support::eventually("version 1 is unmapped", || server.mapped_modules().len() == 1);
}

#[test]
fn sockets_on_a_path_that_a_swap_with_hooks_removes_are_closed_before_unload() {
    let _turn = turn();
    let server = Server::with(&["--shards", "2"]);
    let hooks = ".onload = load, .unload = unload,";
    let code = "static int n; static char order[64];\n\
        static void say(struct cweb_context *c, const char *what) { char *all = container_get(c->cache, \"order\"); strcat(all, what); }\n\
        static void load(struct cweb_context *c) { if (container_get(c->cache, \"order\") == NULL) container_set(c->cache, \"order\", calloc(1, 4096)); say(c, \"load \"); }\n\
        static void unload(struct cweb_context *c) { say(c, \"unload \"); }\n\
        static void on_close(struct cweb_context *c, websocket_t *w) { (void)w; n++; say(c, \"close \"); }\n\
        static int h(struct cweb_context *c, http_request_t *q, http_response_t *r) { (void)q; (void)n; (void)order; strcpy(r->body, container_get(c->cache, \"order\")); return 0; }\n";
    let version = |paths: &str, size: usize, hooks: &str| {
        let fields = format!(".websockets = {{{paths}}}, .ws_size = {size}, {hooks}");
        let used = "static void *used[] = { (void *)load, (void *)unload, (void *)on_close, used };\n";
        module("room", &format!("{code}{used}"), "{\"/order\", \"GET\", h, NONE}", 1, &fields)
    };
    server.deploy(&version("{\"/stays\", NULL, NULL, on_close}, {\"/goes\", NULL, NULL, on_close}", 2, hooks));
    let mut stays = server.websocket("/stays");
    let mut gone: Vec<_> = (0..3).map(|_| server.websocket("/goes")).collect();
    server.deploy(&version("{\"/stays\", NULL, NULL, on_close}", 1, hooks));
    for socket in &mut gone {
        assert!(matches!(socket.read().unwrap(), Message::Close(Some(frame)) if frame.code == CloseCode::Away));
    }
    assert_eq!(server.get("/order").text(), "load close close close unload load ");
    // The other one goes on.
    stays.send(Message::Ping(tungstenite::Bytes::from_static(b"p"))).unwrap();
    assert!(matches!(stays.read().unwrap(), Message::Pong(_)));
}
