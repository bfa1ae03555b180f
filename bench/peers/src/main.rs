//! Other servers on one thread, with the same answers as the handlers of `bench/run.d/bench.c`: `peers PORT NAME`.

mod actix;
mod axum;
mod compute;
mod hyper;
mod may;
mod ntex;

const TEXT: &str = "Hello, World!";
const JSON_TYPE: &str = "application/json";
/// Limit on a body, where the server has one.
const BODY_BYTES_MAX: usize = 64 << 20;

/// The answer to a path that ends with `/json`.
fn json() -> String {
    format!("{{\"message\":\"{TEXT}\",\"id\":{}}}", std::hint::black_box(42))
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, port, name] = &arguments[..] else { panic!("usage: peers PORT actix|axum|hyper|may|ntex") };
    let port = port.parse().expect("a port");
    match name.as_str() {
        "actix" => actix::run(port),
        "axum" => axum::run(port),
        "hyper" => hyper::run(port),
        "may" => may::run(port),
        "ntex" => ntex::run(port),
        other => panic!("there is no peer {other}"),
    }
}
