//! The examples do what the curl lines at their heads say.

use crate::support::{self, Client, Server, eventually};
use sha2::{Digest, Sha256};
use std::io::{Read, Write};
use tungstenite::{Bytes, Message};

/// Sends `body` as curl does with `-T`, also with `Expect: 100-continue`, and gives the answer's body.
fn upload(server: &Server, path: &str, body: &[u8]) -> Vec<u8> {
    let file = server.dir.path().join("upload");
    std::fs::write(&file, body).unwrap();
    let url = format!("http://{}{path}", server.addr);
    let expect = ["-H", "Expect: 100-continue", "--expect100-timeout", "20"];
    let curl = std::process::Command::new("curl")
        .args(["-sS", "--fail-with-body", "--max-time", "110"])
        .args(expect)
        .arg("-T")
        .arg(&file)
        .arg(url)
        .output()
        .unwrap();
    assert!(curl.status.success(), "{} {}", String::from_utf8_lossy(&curl.stderr), server.log());
    curl.stdout
}

/// Bytes that compress, but not to nothing.
fn sample(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 28) as u8
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn the_tree_hash_is_that_of_rfc_9162() {
    let server = Server::start();
    server.deploy_file("example/tree_hash.c");
    server.deploy_file("example/match.c");
    // The example gives each call a second, which a busy machine may need for something else.
    let matched = |pattern: &str, body: &[u8]| {
        let mut answer = None;
        eventually("a call has its second", || {
            let given = server.post(&format!("/match?pattern={pattern}"), body);
            answer = Some(given).filter(|answer| ![503, 504].contains(&answer.status));
            answer.is_some()
        });
        answer.unwrap()
    };
    assert_eq!(matched("^t", b"one\ntwo\nthree").text(), "two\nthree\n");
    assert_eq!(matched("(", b"one").status, 400);
    if support::isolation() == "process" {
        let line = format!("{}c", "a".repeat(51));
        assert_eq!(server.post("/match?pattern=(a*)*(a*)*%5C1%5C2b", line.as_bytes()).status, 504);
    }
    fn root(leaves: &[&[u8]]) -> Vec<u8> {
        match leaves {
            [leaf] => Sha256::new().chain_update([0]).chain_update(leaf).finalize().to_vec(),
            _ => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                Sha256::new().chain_update([1]).chain_update(root(left)).chain_update(root(right)).finalize().to_vec()
            }
        }
    }
    for bytes in [0, 1, 1 << 20, (1 << 20) + 1, 5 << 20, 7_000_000] {
        let body = sample(bytes);
        let leaves: Vec<&[u8]> = if bytes == 0 { vec![&[]] } else { body.chunks(1 << 20).collect() };
        let digest: String = root(&leaves).iter().map(|byte| format!("{byte:02x}")).collect();
        let text = String::from_utf8(upload(&server, "/tree-hash", &body)).unwrap();
        assert_eq!(text, format!("{digest}  {bytes} bytes\n"));
    }
}

#[test]
fn streams_are_compressed_while_they_arrive() {
    let server = Server::start();
    server.deploy_file("example/compress.c");
    let body = sample(3_000_000);
    let packed = upload(&server, "/gzip", &body);
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut unpacked).unwrap();
    assert!(unpacked == body && packed.len() < body.len() * 3 / 4, "{}", packed.len());
    let packed = upload(&server, "/zstd", &body);
    assert!(packed.len() < body.len() * 3 / 4 && zstd::decode_all(&packed[..]).unwrap() == body, "{}", packed.len());
    assert!(upload(&server, "/unzstd", &packed) == body);
    let none = server.connect().request("PUT", "/unzstd", &[], b"no frame of zstd at all");
    assert!(none.status == 400 && none.text().contains("frame"), "{} {}", none.status, none.text());
}

#[test]
fn a_logs_sums_come_as_events() {
    let server = Server::start();
    server.deploy_file("example/log_stats.c");
    let mut log = Vec::new();
    for n in 0..250_000 {
        let status = [200, 304, 404, 500, 999][n % 5];
        writeln!(log, "192.0.2.1 - - [now] \"GET /{n} HTTP/1.1\" {status} 512").unwrap();
    }
    log.extend_from_slice(b"no line of a log");
    let text = String::from_utf8(upload(&server, "/log-stats", &log)).unwrap();
    assert!(text.starts_with("event: so-far\ndata: {\"lines\":"), "{text}");
    let end = format!(
        "event: end\ndata: {{\"lines\":250001,\"bytes\":{},\"2xx\":50000,\"3xx\":50000,\"4xx\":50000,\"5xx\":50000,\"other\":50001}}\n\n",
        log.len()
    );
    assert!(text.ends_with(&end), "{text}");
}

/// An image of 40 by 30 pixels with one white one, as a PNG file.
fn image() -> Vec<u8> {
    let mut rows = Vec::new();
    for y in 0..30 {
        rows.push(0);
        for x in 0..40 {
            let value = if (x, y) == (20, 15) { 255 } else { 0 };
            rows.extend_from_slice(&[value, value, value, 255]);
        }
    }
    let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(&rows).unwrap();
    let head = [0, 0, 0, 40, 0, 0, 0, 30, 8, 6, 0, 0, 0];
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, data) in [(b"IHDR", &head[..]), (b"IDAT", &packed.finish().unwrap()), (b"IEND", &[])] {
        file.extend_from_slice(&u32::try_from(data.len()).unwrap().to_be_bytes());
        let mut sum = flate2::Crc::new();
        sum.update(kind);
        sum.update(data);
        file.extend_from_slice(kind);
        file.extend_from_slice(data);
        file.extend_from_slice(&sum.sum().to_be_bytes());
    }
    file
}

#[test]
fn an_image_is_blurred() {
    let server = Server::start();
    server.deploy_file("example/blur.c");
    let blur = |radius: &str| {
        let answer = server.post(&format!("/blur?radius={radius}"), &image());
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(answer.head.to_ascii_lowercase().contains("content-type: image/png"), "{}", answer.head);
        // Width and height as they were.
        assert!(answer.body.starts_with(b"\x89PNG") && answer.body[16..24] == [0, 0, 0, 40, 0, 0, 0, 30]);
        answer.body
    };
    let (sharp, blurred) = (blur("0"), blur("3"));
    assert!(
        blurred.len() > sharp.len(),
        "one white pixel is many grey ones: {} and {} bytes",
        sharp.len(),
        blurred.len()
    );
    for (body, path) in [(&b"no image"[..], "/blur"), (&image()[..60], "/blur"), (&image(), "/blur?radius=1000")] {
        assert_eq!(server.post(path, body).status, 400, "{path}");
    }
    // The same as a job, by the line at the head of its source.
    server.deploy_file("example/blur_job.c");
    let (photo, out) = (server.dir.path().join("photo.png"), server.dir.path().join("out"));
    std::fs::write(&photo, image()).unwrap();
    let run = |file: &str, payload: &str| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_cweb"))
            .args(["jobs", "submit", "--file", file, "--output-dir"])
            .arg(&out)
            .args(["blur_image", payload, "--server", &format!("http://{}", server.addr)])
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (worked, said) = run(&format!("in={}", photo.display()), "{\"radius\":3,\"shrink\":2}");
    assert!(worked && said.contains("100"), "{said}");
    let made = std::fs::read(out.join("out.png")).unwrap();
    assert!(made.starts_with(b"\x89PNG") && made[16..24] == [0, 0, 0, 20, 0, 0, 0, 15]);
    let (worked, said) = run("in=Cargo.toml", "{}");
    assert!(!worked && said.contains("no PNG image"), "{said}");
    let (worked, said) = run(&format!("other={}", photo.display()), "{}");
    assert!(!worked && said.contains("the file \\\"in\\\"") | said.contains("the file \"in\""), "{said}");
}

#[test]
fn a_tone_is_found_in_its_spectrum() {
    let server = Server::start();
    let deployed = server.try_deploy(&std::fs::read_to_string("example/spectrum.c").unwrap());
    assert_eq!(deployed.status, 200, "{}", deployed.text());
    let mut socket = server.websocket("/spectrum/ws");
    let samples: Vec<u8> =
        (0..1024).flat_map(|n| (std::f32::consts::TAU * 50.0 * n as f32 / 1024.0).sin().to_le_bytes()).collect();
    socket.send(Message::Binary(Bytes::from(samples))).unwrap();
    let Message::Binary(answer) = socket.read().unwrap() else { panic!("a binary message") };
    let magnitudes: Vec<f32> =
        answer.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
    assert_eq!(magnitudes.len(), 513);
    for (bin, magnitude) in magnitudes.iter().enumerate() {
        let expected = if bin == 50 { 0.5 } else { 0.0 };
        assert!((magnitude - expected).abs() < 1e-3, "{bin}: {magnitude}");
    }
    socket.send(Message::Binary(Bytes::from_static(b"abc"))).unwrap();
    assert!(matches!(socket.read().unwrap(), Message::Text(text) if text.contains("floats")));
}

/// Sends the head of an upload and `first`, and gives what is answered until it contains `wanted`; then sends `rest` and gives all.
fn while_uploading(server: &Server, path: &str, first: &str, wanted: &str, rest: &str) -> String {
    let mut client = server.connect();
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let head = format!("PUT {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send((head + &chunk(first)).as_bytes());
    let mut came = Vec::new();
    while !String::from_utf8_lossy(&came).contains(wanted) {
        came.extend(client.bytes(1));
    }
    client.send((chunk(rest) + "0\r\n\r\n").as_bytes());
    String::from_utf8(came).unwrap() + &client.rest()
}

#[test]
fn a_logs_sums_come_while_it_is_uploaded() {
    let server = Server::start();
    server.deploy_file("example/log_stats.c");
    let line = "192.0.2.1 - - [now] \"GET / HTTP/1.1\" 200 512\n";
    // Whatever it counts: a second may begin at any line.
    let so_far = "event: so-far\ndata: {\"lines\":";
    let all = while_uploading(&server, "/log-stats", &line.repeat(110_000), so_far, &line.repeat(10));
    assert!(all.contains("event: end\ndata: {\"lines\":110010,"), "{all}");
}

#[test]
fn csv_becomes_lines_of_json_while_it_is_uploaded() {
    let server = Server::start();
    server.deploy_file("example/csv_json.c");
    let first = "name,town\r\n\"Doe, \"\"J\"\".\",Bern\r\n";
    let line = r#"{"name":"Doe, \"J\".","town":"Bern"}"#;
    let all = while_uploading(&server, "/csv-json", first, line, "\"two\nlines\",\n\u{e9},\\");
    assert!(
        all.contains(r#"{"name":"two\u000alines","town":""}"#)
            && all.contains("{\"name\":\"\u{e9}\",\"town\":\"\\\\\"}"),
        "{all}"
    );
    let rows: String = (0..50_000).map(|n| format!("{n},\"{}\"\n", n * 7)).collect();
    let text = String::from_utf8(upload(&server, "/csv-json", format!("a,b\n{rows}").as_bytes())).unwrap();
    for (n, line) in text.lines().enumerate() {
        assert_eq!(line, format!("{{\"a\":\"{n}\",\"b\":\"{}\"}}", n * 7));
    }
    assert_eq!(text.lines().count(), 50_000);
    assert_eq!(upload(&server, "/csv-json", b""), b"");
    for wrong in ["a,b\n1\n", "a\n\"open", &format!("a\n{}\n", "x".repeat(70_000)), &",".repeat(300)] {
        let mut client = server.connect();
        let head = format!("PUT /csv-json HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{wrong}", wrong.len());
        client.send(head.as_bytes());
        let all = client.rest();
        assert!(all.contains("{\"error\":\"a ") && !all.ends_with("0\r\n\r\n"), "{all}");
    }
}

#[test]
fn a_chat_has_rooms() {
    let server = Server::start();
    server.deploy_file("example/chat.c");
    assert!(server.get("/chat").text().contains("<form id=form>"));
    let mut people = ["lobby", "lobby", "kitchen"].map(|room| server.websocket(&format!("/chat/{room}/ws")));
    // One's own words come back: from here on each of them is in its room.
    for (at, person) in people.iter_mut().enumerate() {
        person.send(Message::text(format!("hello from {at}"))).unwrap();
        while person.read().unwrap() != Message::text(format!("hello from {at}")) {}
    }
    assert_eq!(server.post("/chat/lobby", b"to the lobby").text(), "said\n");
    assert_eq!(server.post("/chat/kitchen", b"to the kitchen").text(), "said\n");
    for (person, words) in people.iter_mut().zip(["to the lobby", "to the lobby", "to the kitchen"]) {
        let mut next = person.read().unwrap();
        while matches!(&next, Message::Text(text) if text.starts_with("hello from ")) {
            next = person.read().unwrap();
        }
        assert_eq!(next, Message::text(words));
    }
    assert_eq!(server.post(&format!("/chat/{}", "x".repeat(300)), b"").status, 400);
    news_reach_all_listeners(&server);
}

fn news_reach_all_listeners(server: &Server) {
    server.deploy_file("example/news.c");
    assert_eq!(server.post("/news", b"early").text(), "told 0 of 0\n");
    let mut listeners = [(); 2].map(|()| server.connect());
    let read = |client: &mut Client, words: &str| {
        let mut came = String::new();
        while !came.contains(words) {
            came.push(char::from(client.bytes(1)[0]));
        }
        came
    };
    for listener in &mut listeners {
        listener.send(b"GET /news HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        assert!(read(listener, "data: welcome\n\n").to_ascii_lowercase().contains("text/event-stream"));
    }
    assert_eq!(server.post("/news", b"two\nlines").text(), "told 2 of 2\n");
    for listener in &mut listeners {
        read(listener, "data: two\ndata: lines\n\n");
    }
    let [mut stays, leaves] = listeners;
    drop(leaves);
    eventually("one has left", || server.post("/news", b"x").text() == "told 1 of 1\n");
    assert_eq!(server.connect().request("DELETE", "/mgnt/news", &[], b"").status, 200);
    assert!(stays.rest().ends_with("0\r\n\r\n"), "the answer ends properly with its module");
}

#[test]
fn tiles_of_the_mandelbrot_set_make_the_whole_picture() {
    let server = Server::start();
    server.deploy_file("example/mandelbrot.c");
    let mut socket = server.websocket("/mandelbrot/ws");
    socket.send(Message::text("7 -2.25 -1.5 3 128")).unwrap();
    let mut picture = vec![0; 128 * 128];
    for _ in 0..4 {
        let Message::Binary(tile) = socket.read().unwrap() else { panic!("a tile is binary") };
        let number = |at: usize| u32::from_ne_bytes(tile[at * 4..at * 4 + 4].try_into().unwrap()) as usize;
        assert_eq!((number(0), number(3), tile.len()), (7, 64, 16 + 64 * 64));
        for (row, steps) in tile[16..].chunks(64).enumerate() {
            let at = (number(2) + row) * 128 + number(1);
            picture[at..at + 64].copy_from_slice(steps);
        }
    }
    // 0 is inside, -2.25 - 1.5i far out; what is above the real line mirrors what is below.
    assert!(picture[64 * 128 + 96] == 0 && picture[0] > 0);
    assert!((1..128).all(|row| picture[row * 128..(row + 1) * 128] == picture[(128 - row) * 128..][..128]));
    for wrong in ["", "1 2 3", "1 0 0 1 63", "1 0 0 1 65", "1 0 0 1 4096"] {
        socket.send(Message::text(wrong)).unwrap();
        assert!(matches!(socket.read().unwrap(), Message::Text(text) if text.starts_with("a view is")), "{wrong}");
    }
}
