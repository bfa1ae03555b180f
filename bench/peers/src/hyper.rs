//! hyper on one thread of tokio. What computes runs on tokio's blocking pool.

use crate::compute;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let computes = compute::by_path(request.uri().path());
    let is_json = request.uri().path().ends_with("/json");
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let text = match computes {
        Some(compute) => tokio::task::spawn_blocking(move || compute(&body)).await.expect("a result").into(),
        None if is_json => crate::json().into(),
        None => Bytes::from_static(crate::TEXT.as_bytes()),
    };
    let mut response = Response::new(Full::new(text));
    if is_json {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(crate::JSON_TYPE));
    }
    response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    Ok(response)
}

pub fn run(port: u16) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.on_thread_start(compute::use_all_cores).enable_io().build().expect("a runtime");
    runtime.block_on(async {
        // The listener of tokio's own `bind` has a shorter accept queue than 10,000 connections need.
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("SO_REUSEADDR");
        socket.bind(([127, 0, 0, 1], port).into()).expect("bind");
        let listener = socket.listen(4096).expect("listen");
        eprintln!("listening");
        loop {
            let (stream, _) = listener.accept().await.expect("accept");
            let _ = stream.set_nodelay(true);
            let mut server = hyper::server::conn::http1::Builder::new();
            server.pipeline_flush(true);
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service_fn(answer)));
        }
    });
}
